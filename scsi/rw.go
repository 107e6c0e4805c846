package scsi

import (
	"unsafe"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// READ and WRITE (6), (10), (12) and (16) (SBC-3).

func prepareRead(lu *LU, c *Command) bool {
	if !lu.prepareTransfer(c) {
		return false
	}
	c.Length = c.blocks << lu.blockShift
	c.In = c.Length
	c.span.kind = readSpan
	if c.plan == needFUA {
		switch c.plan = 0; lu.fua {
		case nativeFUA:
			c.flags |= backstore.FUA
		case flushedFUA:
			if !lu.readOnly {
				c.plan = flushFirst
			}
		}
	}
	c.plan |= moveData
	return true
}

func prepareWrite(lu *LU, c *Command) bool {
	if !lu.prepareTransfer(c) {
		return false
	}
	if lu.protects(c) {
		return lu.writeProtected(c)
	}
	c.Length = c.blocks << lu.blockShift
	if c.OutLen < c.Length {
		// The initiator will send less than its CDB says. The blocks that it will send are written, and the host tells the
		// rest as residual overflow; a part of a block cannot be.
		if c.OutLen&(lu.blockSize-1) != 0 {
			return c.illegal(sense.InvalidFieldInCommandIU)
		}
		c.blocks = c.OutLen >> lu.blockShift
		lu.setSpan(c)
	}
	c.Out = c.blocks << lu.blockShift
	c.span.kind = writeSpan
	if c.plan == needFUA || lu.through {
		switch c.plan = 0; lu.fua {
		case nativeFUA:
			c.flags |= backstore.FUA
		case flushedFUA:
			c.plan = flushAfter
		}
	}
	c.plan |= moveData
	return true
}

// prepareTransfer checks what READ and WRITE have in common and sets the command's range and flags; a FUA bit
// is left in plan.
func (lu *LU) prepareTransfer(c *Command) bool {
	lba, blocks := cdb.Range(c.CDB)
	if c.CDB[0]>>5 != 0 {
		b1 := c.CDB[1]
		if b1>>5 != 0 {
			return c.badField(1, 7) // RDPROTECT, WRPROTECT: no protection information here
		}
		if b1&(cdb.FUA|cdb.DPO) != 0 {
			if lu.fua == noFUA {
				// DPOFUA is 0 in MODE SENSE: neither bit is supported.
				if b1&cdb.DPO != 0 {
					return c.badField(1, 4)
				}
				return c.badField(1, 3)
			}
			if b1&cdb.FUA != 0 {
				c.plan = needFUA
			}
			if b1&cdb.DPO != 0 && lu.info.Has(backstore.CapDPO) {
				c.flags |= backstore.DPO
			}
		}
	}
	if lu.unready {
		return !lu.notReady(c)
	}
	if lba > lu.blocks || uint64(blocks) > lu.blocks-lba {
		d := sense.Data{Key: sense.IllegalRequest, Code: sense.LBAOutOfRange, HasInfo: true, Info: max(lba, lu.blocks)}
		c.fail(d)
		return false
	}
	if blocks > lu.maxBlocks {
		return c.badField(lengthField(c.CDB[0]), -1) // above MAXIMUM TRANSFER LENGTH
	}
	if len(lu.pending) >= lu.maxQueue {
		lu.full(c)
		return false
	}
	c.lba, c.blocks = lba, blocks
	lu.setSpan(c)
	return true
}

// setSpan makes c's range that of its blocks, in whole blocks of the store.
func (lu *LU) setSpan(c *Command) {
	c.span.first, c.span.last = c.lba, c.lba+uint64(c.blocks)-1
	if lu.storeMask != 0 {
		// Two that touch one block of the store overlap: the later one begins with that block at the latest.
		c.span.first &^= uint64(lu.storeMask) >> lu.blockShift
	}
}

// lengthField returns where the TRANSFER LENGTH of a READ or WRITE starts.
func lengthField(opcode byte) uint16 {
	switch opcode >> 5 {
	case 0:
		return 4
	case 4:
		return 10
	case 5:
		return 6
	}
	return 7
}

// executeTransfer carries out a READ or WRITE.
func executeTransfer(lu *LU, c *Command) Outcome {
	if len(c.Buf) != int(c.In+c.Out) {
		panic("scsi: a buffer of the wrong length")
	}
	if c.blocks == 0 {
		c.Status = sam.Good
		return Done
	}
	if lu.unready {
		lu.notReady(c)
		return Done
	}
	if !c.NoWait {
		return lu.begin(c)
	}
	// Only what is one plain request can end at once.
	need := backstore.CapNoWaitRead
	if c.span.kind == writeSpan {
		need = backstore.CapNoWaitWrite
	}
	if lu.info.Caps&need == 0 || c.plan != moveData || int64(len(c.Buf)) > lu.maxBytes || lu.needsBounce(c) ||
		lu.index.n != 0 && lu.index.blockers(&c.span) != 0 {
		return WouldBlock
	}
	r := &c.req
	r.Op, r.Flags = backstore.Read, c.flags|backstore.NoWait
	if c.span.kind == writeSpan {
		r.Op = backstore.Write
	}
	r.Off, r.Len, r.Buf = int64(c.lba)<<lu.blockShift, int64(len(c.Buf)), c.Buf
	r.C, r.Owner, r.Err = lu.completer, c, nil
	c.step = moveData
	switch lu.store.Submit(r) {
	case backstore.Done:
		if r.Err != nil {
			lu.failStore(c)
		} else if c.Status = sam.Good; r.Op == backstore.Read {
			c.Data = c.Buf
		}
		return Done
	case backstore.Pending:
		// The store took its time all the same.
		lu.submitted(c)
		lu.track(c, 0)
		return Pending
	}
	return WouldBlock
}

// needsBounce reports whether the store cannot take the command's own range and memory as they are.
func (lu *LU) needsBounce(c *Command) bool {
	return lu.storeMask != 0 && (int64(c.lba)<<lu.blockShift|int64(len(c.Buf)))&lu.storeMask != 0 ||
		lu.memMask != 0 && uintptr(unsafe.Pointer(unsafe.SliceData(c.Buf)))&lu.memMask != 0
}
