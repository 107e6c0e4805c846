package scsi

import (
	"encoding/binary"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// WRITE SAME (10) and (16), UNMAP (SBC-3).

// The bits of byte 1 of WRITE SAME.
const (
	sameNDOB   = 0x01 // (16) only: no Data-Out, the blocks become zeroes
	sameUnmap  = 0x08
	sameAnchor = 0x10
)

func prepareWriteSame(lu *LU, c *Command) bool {
	lba, n := cdb.Range(c.CDB)
	b1, sixteen := c.CDB[1], c.CDB[0] == cdb.WriteSame16
	switch {
	case b1>>5 != 0:
		return c.badField(1, 7)
	case b1&sameAnchor != 0:
		return c.badField(1, 4) // ANC_SUP is 0: a store does not say what it keeps for an anchored block
	case b1&sameUnmap != 0 && !lu.unmapSame && !lu.protects(c): // where it is protected, that says more
		return c.badField(1, 3)
	case b1&0x06 != 0:
		return c.badField(1, 2) // LBDATA, PBDATA: gone since SBC-3
	case b1&sameNDOB != 0 && !sixteen:
		return c.badField(1, 0)
	}
	blocks := uint64(n)
	if n == 0 && lba <= lu.blocks {
		blocks = lu.blocks - lba // WSNZ is 0: to the end of the medium
	}
	if !lu.prepareBlocks(c, lba, blocks, lu.maxSame, lengthField(c.CDB[0])) {
		return false
	}
	if lu.protects(c) {
		return lu.writeProtected(c)
	}
	if b1&sameNDOB == 0 {
		if c.Length = lu.blockSize; c.OutLen != c.Length {
			return c.illegal(sense.InvalidFieldInCommandIU)
		}
	}
	c.Out = c.Length
	c.span.kind = writeSpan
	c.plan = jobStep
	lu.durable(c)
	return true
}

func executeWriteSame(lu *LU, c *Command) Outcome {
	if c.NoWait && c.Out != 0 {
		return WouldBlock
	}
	// To the end of the range that was prepared: the disk may have grown since, and the rest of it is not kept for c.
	j := &fillJob{byteRange: byteRange{int64(c.lba) << lu.blockShift, int64(c.span.last+1) << lu.blockShift}, op: backstore.Write}
	if c.Out != 0 && firstDifference(c.Buf, lu.zeroBlock) >= 0 {
		j.block = c.Buf
	}
	switch {
	case j.block != nil:
		// UNMAP with other data than a deallocated block has: it is written (SBC-3, WRITE SAME(10)).
	case c.CDB[1]&sameUnmap != 0:
		j.op = backstore.Discard
	case lu.zeroes:
		j.op, j.flags = backstore.WriteZeroes, backstore.KeepAllocated
	}
	c.job = j
	return lu.executeJob(c, j.off == j.end)
}

// executeJob carries out a command whose job is set.
func (lu *LU) executeJob(c *Command, empty bool) Outcome {
	if c.Status = sam.Good; empty || lu.notReady(c) {
		c.job = nil
		return Done
	}
	return lu.begin(c)
}

// The parameter list of UNMAP: a header, and descriptors of LBA, number of blocks and four reserved bytes.
const (
	unmapHeader     = 8
	unmapDescriptor = 16
	// mostUnmapDescriptors is MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT.
	mostUnmapDescriptors = 256
	// mostUnmapBlocks is MAXIMUM UNMAP LBA COUNT, of all descriptors together.
	mostUnmapBlocks = 1 << 20
	mostUnmapList   = unmapHeader + mostUnmapDescriptors*unmapDescriptor
)

func prepareUnmap(lu *LU, c *Command) bool {
	length := binary.BigEndian.Uint16(c.CDB[7:])
	switch {
	case c.CDB[1]&0x01 != 0:
		return c.badField(1, 0) // ANCHOR: ANC_SUP is 0
	case lu.notReady(c):
		return false
	case lu.protects(c):
		return lu.writeProtected(c)
	}
	if !lu.prepareList(c, uint32(length), mostUnmapList, 7) {
		return false
	}
	if length != 0 && length < unmapHeader {
		return c.illegal(sense.ParameterListLengthError)
	}
	c.wholeMedium(lu, writeSpan) // until its list is read it could mean any block
	return true
}

// prepareList asks for a parameter list of n bytes, at most most.
func (lu *LU) prepareList(c *Command, n, most uint32, lengthAt uint16) bool {
	c.Length = n
	switch {
	case n > most:
		return c.badField(lengthAt, -1)
	case c.OutLen < n:
		return c.illegal(sense.InvalidFieldInCommandIU)
	case len(lu.pending) >= lu.maxQueue:
		lu.full(c)
		return false
	}
	c.Out = n
	return true
}

func executeUnmap(lu *LU, c *Command) Outcome {
	if c.NoWait && c.Out != 0 {
		return WouldBlock
	}
	j := &fillJob{op: backstore.Discard, whole: !lu.info.DiscardZeroes}
	if c.Out != 0 && !lu.parseUnmap(c, j) {
		return Done
	}
	c.Buf = nil
	c.job = j
	c.span.kind = writeSpan
	c.plan = jobStep
	lu.durable(c)
	return lu.executeJob(c, len(j.more) == 0)
}

// parseUnmap reads UNMAP's list into j and sets the command's range: all blocks from the first to the last that it names, so
// that what comes in between waits for the whole.
func (lu *LU) parseUnmap(c *Command, j *fillJob) bool {
	list := c.Buf
	n := int(binary.BigEndian.Uint16(list[2:]))
	if n > len(list)-unmapHeader {
		return c.illegal(sense.ParameterListLengthError)
	}
	list = list[unmapHeader:][:n/unmapDescriptor*unmapDescriptor] // an incomplete descriptor at the end is ignored
	total, first, last := uint64(0), lu.blocks, uint64(0)
	for at := 0; at < len(list); at += unmapDescriptor {
		lba, blocks := binary.BigEndian.Uint64(list[at:]), uint64(binary.BigEndian.Uint32(list[at+8:]))
		if lba > lu.blocks || blocks > lu.blocks-lba {
			c.fail(sense.Data{Key: sense.IllegalRequest, Code: sense.LBAOutOfRange, HasInfo: true, Info: max(lba, lu.blocks)})
			return false
		}
		if total += blocks; total > mostUnmapBlocks {
			return c.badList(uint16(unmapHeader+at+8), -1)
		}
		if blocks != 0 {
			j.more = append(j.more, byteRange{int64(lba) << lu.blockShift, int64(lba+blocks) << lu.blockShift})
			first, last = min(first, lba), max(last, lba+blocks)
		}
	}
	c.lba = first
	lu.setBlocks(c, first, last)
	return true
}
