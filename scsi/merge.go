package scsi

import (
	"unsafe"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// ORWRITE(16) and COMPARE AND WRITE (SBC-3): what is there is read, and decides what is written. The range index keeps all
// else away from the blocks meanwhile.

// mostCompare is the largest MAXIMUM COMPARE AND WRITE LENGTH, a field of one byte, in blocks.
const mostCompare = 255

func prepareOrWrite(lu *LU, c *Command) bool {
	if !prepareWrite(lu, c) {
		return false
	}
	c.plan = c.plan&^moveData | jobStep
	return true
}

func executeOrWrite(lu *LU, c *Command) Outcome {
	if c.NoWait {
		return WouldBlock
	}
	c.job = &mergeJob{}
	return executeTransfer(lu, c)
}

func prepareCompareAndWrite(lu *LU, c *Command) bool {
	if !lu.prepareTransfer(c) {
		return false
	}
	if lu.protects(c) {
		return lu.writeProtected(c)
	}
	if c.blocks > lu.maxCompare {
		return c.badField(13, -1)
	}
	c.Length = 2 * c.blocks << lu.blockShift
	if c.blocks == 0 && c.OutLen != 0 {
		return c.badField(13, -1) // more blocks than the field holds
	}
	if c.OutLen != c.Length {
		return c.illegal(sense.InvalidFieldInCommandIU) // which half is which would be a guess
	}
	c.Out = c.Length
	c.span.kind = writeSpan
	fua := c.plan == needFUA || lu.through
	c.plan = jobStep
	if fua {
		switch lu.fua {
		case nativeFUA:
			c.flags |= backstore.FUA
		case flushedFUA:
			c.plan |= flushAfter
		}
	}
	return true
}

func executeCompareAndWrite(lu *LU, c *Command) Outcome {
	if c.NoWait {
		return WouldBlock
	}
	half := int64(len(c.Buf) / 2)
	if lu.storeCompares(c, half) {
		c.job = &compareJob{}
	} else {
		c.job = &mergeJob{compare: true}
	}
	return executeTransfer(lu, c)
}

// storeCompares reports whether the store's own operation can carry out c. Where others write the volume past this
// LU, maxCompare leaves nothing to which the answer is no.
func (lu *LU) storeCompares(c *Command, n int64) bool {
	return lu.info.Has(backstore.CapCompareAndWrite) && n <= lu.info.MaxCompareAndWrite && n <= lu.maxBytes &&
		(int64(c.lba)<<lu.blockShift|n)&lu.storeMask == 0
}

// A compareJob is one request: the store compares and writes.
type compareJob struct{ done bool }

func (j *compareJob) next(lu *LU, c *Command) bool {
	if j.done {
		return false
	}
	r, half := &c.req, len(c.Buf)/2
	r.Op, r.Flags = backstore.CompareAndWrite, c.flags
	r.Off, r.Len = int64(c.lba)<<lu.blockShift, int64(half)
	r.Compare, r.Buf = c.Buf[:half], lu.aligned(c.Buf[half:])
	return true
}

func (j *compareJob) ended(_ *LU, c *Command) bool {
	j.done = true
	c.req.Compare = nil
	return true
}

// aligned returns b, or a copy of it where the store wants memory aligned and b is not.
func (lu *LU) aligned(b []byte) []byte {
	if uintptr(unsafe.Pointer(unsafe.SliceData(b)))&lu.memMask == 0 {
		return b
	}
	a := lu.memory(int64(len(b)))
	copy(a, b)
	return a
}

// A mergeJob reads the store's blocks around the range, changes them and writes them back.
type mergeJob struct {
	compare bool // COMPARE AND WRITE; else ORWRITE
	writing bool
	at      int64 // bytes of buf read, or written
	buf     []byte
}

func (j *mergeJob) next(lu *LU, c *Command) bool {
	off := int64(c.lba) << lu.blockShift
	first := off &^ lu.storeMask
	if j.buf == nil {
		last := (off + int64(c.blocks)<<lu.blockShift + lu.storeMask) &^ lu.storeMask
		j.buf = lu.memory(last - first)
	}
	if j.at == int64(len(j.buf)) {
		return false
	}
	r := &c.req
	r.Op, r.Flags = backstore.Read, c.flags&^backstore.FUA
	if j.writing {
		r.Op, r.Flags = backstore.Write, c.flags
	}
	r.Off, r.Len = first+j.at, min(int64(len(j.buf))-j.at, lu.maxBytes)
	r.Buf = j.buf[j.at:][:r.Len]
	return true
}

func (j *mergeJob) ended(lu *LU, c *Command) bool {
	if j.at += c.req.Len; j.writing || j.at < int64(len(j.buf)) {
		return true
	}
	// All of it is read.
	there := j.buf[int64(c.lba)<<lu.blockShift&lu.storeMask:][:c.blocks<<lu.blockShift]
	if j.compare {
		if at := firstDifference(there, c.Buf[:len(there)]); at >= 0 {
			c.fail(sense.Data{Key: sense.Miscompare, Code: sense.MiscompareDuringVerify, HasInfo: true, Info: uint64(at)})
			return false
		}
		copy(there, c.Buf[len(there):])
	} else {
		for i, b := range c.Buf {
			there[i] |= b
		}
	}
	j.writing, j.at = true, 0
	return true
}

// maxCompareLength returns MAXIMUM COMPARE AND WRITE LENGTH, in blocks; 0: the command is not offered.
func (sh *shape) maxCompareLength() uint32 {
	n := min(mostCompare, sh.maxBlocks/2)
	if sh.info.Shared {
		// Only the store's own operation holds against other openers.
		if !sh.info.Has(backstore.CapCompareAndWrite) {
			return 0
		}
		n = min(n, uint32(min(sh.info.MaxCompareAndWrite, sh.maxBytes, mostCompare<<sh.blockShift)>>sh.blockShift))
	}
	return n
}
