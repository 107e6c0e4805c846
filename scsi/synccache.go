package scsi

import (
	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// SYNCHRONIZE CACHE (10) and (16) (SBC-3). The store's flush covers the whole volume, so the range is only
// checked. It covers each write that had ended before, and waits for those in its range that were
// aborted but may still be applied: for their initiator they are over.

const immed = 0x02 // byte 1

func prepareSynchronizeCache(lu *LU, c *Command) bool {
	lba, blocks := cdb.Range(c.CDB)
	if lu.notReady(c) {
		return false
	}
	if lba > lu.blocks || uint64(blocks) > lu.blocks-lba {
		c.fail(sense.Data{Key: sense.IllegalRequest, Code: sense.LBAOutOfRange, HasInfo: true, Info: max(lba, lu.blocks)})
		return false
	}
	c.span = span{first: lba, last: lba + uint64(blocks) - 1, kind: flushSpan}
	if blocks == 0 {
		c.span.last = max(lu.blocks, 1) - 1 // to the end of the medium
	}
	c.lba, c.blocks = lba, 0
	c.plan = flushAfter
	return true
}

func executeSynchronizeCache(lu *LU, c *Command) Outcome { return lu.flush(c, c.CDB[1]&immed != 0) }

// flush makes the volatile cache durable; immediate: it goes on after c was answered.
func (lu *LU) flush(c *Command, immediate bool) Outcome {
	c.Status = sam.Good
	if lu.notReady(c) || !lu.caches() {
		return Done // all that ended is durable
	}
	c.Buf = nil
	if immediate && (lu.index.doubts == 0 || lu.index.blockers(&c.span) == 0) {
		// A flush that fails makes the store failed: every later write and flush says so, which
		// tells more than a deferred error.
		lu.flushSoon()
		return Done
	}
	return lu.begin(c)
}

// caches reports whether something that has been written may not be durable yet.
func (lu *LU) caches() bool { return !lu.readOnly && lu.info.Has(backstore.CapFlush) }

// flushSoon has what has ended made durable, and nobody told of it.
func (lu *LU) flushSoon() {
	lu.behind.wanted = true
	if !lu.behind.busy && lu.flight < lu.maxFlight {
		lu.flushBehind()
	}
}

// A background is the flush that goes on after SYNCHRONIZE CACHE with IMMED was answered: one at a time; what
// is asked for meanwhile is one more.
type background struct {
	lu     *LU
	wanted bool
	busy   bool
	req    backstore.Request
}

func (lu *LU) flushBehind() {
	b := &lu.behind
	b.wanted, b.busy = false, true
	b.req = backstore.Request{Op: backstore.Flush, C: lu.completer, Owner: b}
	if lu.store.Submit(&b.req) == backstore.Pending {
		lu.flight++
		lu.unkick = lu.kicker != nil
		return
	}
	b.busy = false
	lu.noteFailure(&b.req)
}

func (lu *LU) flushedBehind() {
	lu.noteFailure(&lu.behind.req)
	lu.behind.busy = false
	lu.flight--
	lu.drain()
}
