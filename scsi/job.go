package scsi

import (
	"bytes"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// Commands that are more than one transfer (VERIFY, WRITE SAME, UNMAP, ORWRITE, COMPARE AND WRITE, …) are jobs: records
// that say which store request comes next. A job has one request at the store at a time, so its share of the store
// is bounded; between two of them it can be aborted, and what the store already has is in doubt like any write.

// A job is plain data: what a command has still to do. The LU's loop alone touches it.
type job interface {
	// next fills in the operation, flags, range and memory of c.req; false: nothing is left to do.
	next(lu *LU, c *Command) bool
	// ended takes a request that ended without an error; false: the command has failed, and c says how.
	ended(lu *LU, c *Command) bool
}

// Tuning.
const (
	// jobChunk is the memory of one step of a job, in bytes. It is taken when the command gets to the store, so there
	// are no more of them than requests in flight.
	jobChunk = 128 << 10
	// zeroStep is what one step of zeroing or deallocating covers, in bytes: a file system punches it in well
	// under a millisecond.
	zeroStep = 16 << 20
	// turnCost is after how many bytes of requests that end at once a job lets the loop go on with others:
	// some 100 µs of copying.
	turnCost = 1 << 20
	// zeroCost is how many times cheaper a byte is that is zeroed or deallocated by the store than one that is copied.
	zeroCost = zeroStep / turnCost
)

// cost is what a request that ended at once took of the loop's turn.
func cost(r *backstore.Request) int64 {
	switch r.Op {
	case backstore.Discard, backstore.WriteZeroes:
		return r.Len / zeroCost
	case backstore.Allocation:
		return 0 // there is only one
	}
	return r.Len
}

// yield lets the loop go on with others before c's step, which has ended, is dealt with: as if the store had
// completed it later.
func (lu *LU) yield(c *Command) {
	lu.flight++
	c.state, c.yielded = atStore, true
	lu.completer.Complete(&c.req)
}

// chunk is the most that one step of a job reads or writes, in whole blocks of both kinds.
func (lu *LU) chunk() int64 { return min(max(jobChunk, lu.storeMask+1), lu.maxBytes) }

// prepareBlocks checks a range and whether the LU can take a command on it, and sets the range. limit is the most blocks
// that the command may have; the length field is at byte lengthAt.
func (lu *LU) prepareBlocks(c *Command, lba, blocks, limit uint64, lengthAt uint16) bool {
	if lu.notReady(c) {
		return false
	}
	if lba > lu.blocks || blocks > lu.blocks-lba {
		c.fail(sense.Data{Key: sense.IllegalRequest, Code: sense.LBAOutOfRange, HasInfo: true, Info: max(lba, lu.blocks)})
		return false
	}
	if blocks > limit {
		return c.badField(lengthAt, -1)
	}
	if len(lu.pending) >= lu.maxQueue {
		lu.full(c)
		return false
	}
	c.lba = lba
	lu.setBlocks(c, lba, lba+blocks)
	return true
}

// setBlocks makes c's range the blocks [from, to), in whole blocks of the store.
func (lu *LU) setBlocks(c *Command, from, to uint64) {
	c.span.first, c.span.last = from, max(to, 1)-1
	if lu.storeMask != 0 {
		c.span.first &^= uint64(lu.storeMask) >> lu.blockShift
	}
}

// prepareDPO checks the protection field and the DPO bit in byte 1 of a command that has no FUA bit.
func (lu *LU) prepareDPO(c *Command) bool {
	switch b1 := c.CDB[1]; {
	case cdb.Protect(c.CDB) != 0:
		return c.badField(1, 7)
	case b1&cdb.DPO != 0 && lu.fua == noFUA:
		return c.badField(1, 4)
	case b1&cdb.DPO != 0 && lu.info.Has(backstore.CapDPO):
		c.flags |= backstore.DPO
	}
	return true
}

// durable makes what c's job writes durable before c ends, if the volatile cache is off.
func (lu *LU) durable(c *Command) {
	if !lu.through {
		return
	}
	switch lu.fua {
	case nativeFUA:
		c.flags |= backstore.FUA
	case flushedFUA:
		c.plan |= flushAfter
	}
}

// firstDifference returns the first index at which a and b, equally long, differ; -1: nowhere.
func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	i := 0
	for a[i] == b[i] {
		i++
	}
	return i
}
