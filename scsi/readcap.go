package scsi

import "encoding/binary"

// TEST UNIT READY, READ CAPACITY (10) and (16) (SPC-4; SBC-3 §5.15, §5.16).

func executeTestUnitReady(lu *LU, c *Command) Outcome {
	lu.notReady(c)
	return Done
}

func prepareReadCapacity10(lu *LU, c *Command) bool {
	if c.CDB[8]&0x01 == 0 && binary.BigEndian.Uint32(c.CDB[2:]) != 0 {
		return c.badField(2, -1) // SBC-2: an LBA means something with PMI only
	}
	return !lu.notReady(c)
}

func executeReadCapacity10(lu *LU, c *Command) Outcome {
	b := c.buffer(8)
	last := lu.blocks - 1
	// FFFFFFFFh: there are more, ask READ CAPACITY(16).
	binary.BigEndian.PutUint32(b, uint32(min(last, 0xffffffff)))
	binary.BigEndian.PutUint32(b[4:], lu.blockSize)
	return c.reply(b, 8)
}

func executeReadCapacity16(lu *LU, c *Command) Outcome {
	if lu.notReady(c) {
		return Done
	}
	b := c.buffer(32)
	lu.putCapacity(b)
	return c.reply(b, uint64(binary.BigEndian.Uint32(c.CDB[10:])))
}

// putCapacity fills in the parameter data of READ CAPACITY(16), 32 bytes of zeroes.
func (lu *LU) putCapacity(b []byte) {
	binary.BigEndian.PutUint64(b, lu.blocks-1)
	binary.BigEndian.PutUint32(b[8:], lu.blockSize)
	b[13] = lu.physShift // LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT
	b[14] = lu.provisioning() | byte(lu.lowestAligned>>8)
	b[15] = byte(lu.lowestAligned)
}
