package scsi

import (
	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// VERIFY and WRITE AND VERIFY (10), (12) and (16), PRE-FETCH (10) and (16) (SBC-3).

// BYTCHK, bits 2 and 1 of byte 1: what the medium is compared with.
const (
	checkMedium = 0 // nothing: it is only read
	checkAll    = 1 // the Data-Out
	checkEach   = 3 // one block of Data-Out, with every block
)

func byteCheck(c *Command) byte { return c.CDB[1] >> 1 & 3 }

func prepareVerify(lu *LU, c *Command) bool {
	lba, blocks := cdb.Range(c.CDB)
	if !lu.prepareDPO(c) {
		return false
	}
	limit := uint64(lu.maxBlocks)
	switch byteCheck(c) {
	case checkMedium:
		limit = lu.blocks // nothing is transferred
	case checkAll, checkEach:
	default:
		return c.badField(1, 2)
	}
	if c.CDB[1]&0x08 != 0 {
		return c.badField(1, 3)
	}
	if !lu.prepareBlocks(c, lba, uint64(blocks), limit, lengthField(c.CDB[0])) {
		return false
	}
	c.blocks = blocks
	switch check := byteCheck(c); {
	case blocks == 0 || check == checkMedium:
	case check == checkAll:
		c.Length = blocks << lu.blockShift
	default:
		c.Length = lu.blockSize
	}
	if c.OutLen < c.Length {
		return c.illegal(sense.InvalidFieldInCommandIU) // GOOD would be said of blocks that nothing was compared with
	}
	c.Out = c.Length
	c.span.kind = readSpan
	// SBC-3 §4.15: it is the medium that is verified, so what a volatile cache holds of the range goes there first.
	if !lu.readOnly {
		switch lu.fua {
		case nativeFUA:
			c.flags |= backstore.FUA
		case flushedFUA:
			c.plan |= flushFirst
		}
	}
	c.plan |= jobStep
	return true
}

func executeVerify(lu *LU, c *Command) Outcome {
	if c.NoWait {
		return WouldBlock
	}
	j := lu.verifyRange(c)
	if c.Out != 0 {
		j.want = c.Buf
	}
	c.job = j
	return executeTransfer(lu, c)
}

func prepareWriteVerify(lu *LU, c *Command) bool {
	switch {
	case byteCheck(c) > checkAll:
		return c.badField(1, 2)
	case c.CDB[1]&cdb.FUA != 0:
		return c.badField(1, 3) // reserved here: the data gets to the medium anyway
	case !prepareWrite(lu, c):
		return false
	}
	// What is verified is the medium, so the data is made durable before.
	c.plan = moveData | jobStep
	switch lu.fua {
	case nativeFUA:
		c.flags |= backstore.FUA
	case flushedFUA:
		c.plan |= flushMoved
	}
	return true
}

func executeWriteVerify(lu *LU, c *Command) Outcome {
	if c.NoWait {
		return WouldBlock
	}
	j := lu.verifyRange(c)
	if byteCheck(c) == checkAll {
		j.want = c.Buf
	}
	c.job = j
	return executeTransfer(lu, c)
}

// prefetchMost bounds what one PRE-FETCH reads, in bytes.
const prefetchMost = 4 << 20

func preparePrefetch(lu *LU, c *Command) bool {
	lba, n := cdb.Range(c.CDB)
	if !lu.prepareBlocks(c, lba, uint64(n), lu.blocks, lengthField(c.CDB[0])) {
		return false
	}
	blocks := uint64(n)
	if n == 0 {
		blocks = lu.blocks - lba // to the end of the medium
	}
	// SBC-3, PRE-FETCH: GOOD, not CONDITION MET, says that the cache may not hold all of it.
	c.blocks = uint32(min(blocks, prefetchMost>>lu.blockShift))
	lu.setSpan(c)
	c.span.kind = readSpan
	c.plan = jobStep
	return true
}

// executePrefetch reads the start of the range, which leaves it in whatever cache the store has. With IMMED, too: the
// amount is small.
func executePrefetch(lu *LU, c *Command) Outcome {
	c.Buf = nil
	if !lu.info.Has(backstore.CapNoWaitRead) {
		c.blocks = 0 // no cache that a READ could hit
	}
	c.job = lu.verifyRange(c)
	return executeTransfer(lu, c)
}

// A verifyJob reads a range piece by piece and compares it.
type verifyJob struct {
	byteRange        // what is still to be read
	start     int64  // where want begins
	want      []byte // nil: nothing to compare with; one block for all blocks, or all of them
	buf       []byte
}

func (lu *LU) verifyRange(c *Command) *verifyJob {
	start := int64(c.lba) << lu.blockShift
	return &verifyJob{byteRange: byteRange{start, start + int64(c.blocks)<<lu.blockShift}, start: start}
}

func (j *verifyJob) next(lu *LU, c *Command) bool {
	if j.off == j.end {
		return false
	}
	first, last := j.off&^lu.storeMask, (j.end+lu.storeMask)&^lu.storeMask
	if j.buf == nil {
		j.buf = lu.memory(min(last-first, lu.chunk()))
	}
	r := &c.req
	r.Op, r.Flags = backstore.Read, c.flags
	r.Off, r.Len = first, min(last-first, int64(len(j.buf)))
	r.Buf = j.buf[:r.Len]
	return true
}

func (j *verifyJob) ended(lu *LU, c *Command) bool {
	r := &c.req
	stop := min(r.Off+r.Len, j.end)
	got, block := r.Buf[j.off-r.Off:stop-r.Off], int64(lu.blockSize)
	for j.want != nil && len(got) != 0 {
		n := int64(len(got))
		want := j.want
		if int64(len(want)) == block {
			n = block
		} else {
			want = want[j.off-j.start:][:n]
		}
		if at := firstDifference(got[:n], want); at >= 0 {
			c.fail(sense.Data{Key: sense.Miscompare, Code: sense.MiscompareDuringVerify,
				HasInfo: true, Info: uint64(j.off+int64(at)) >> lu.blockShift})
			return false
		}
		j.off += n
		got = got[n:]
	}
	j.off = stop
	return true
}
