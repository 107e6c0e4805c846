package scsi

import (
	"errors"
	"unsafe"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// How a command gets to the store: behind older ones that touch its blocks, within the store's limits, in one or more
// requests, one at a time.

// A cmdState says where a command is.
type cmdState uint8

const (
	idle       cmdState = iota // not pending
	awaiting                   // Execute is to come: see LU.Await
	held                       // ready to be executed, but behind one of its own nexus that is not
	dormant                    // in the task set, not enabled (SAM-5 §8.5)
	waiting                    // behind older commands in the range index
	queued                     // in lu.ready, until the store has room
	atStore                    // its request is at the store
	inDoubt                    // aborted, and its request is still at the store
	persisting                 // a PERSISTENT RESERVE OUT whose change is being saved, or behind one
)

// A plan is the set of steps that a command has still to do, in the order of the bits.
type plan uint8

// A step is one bit of a plan.
type step = plan

const (
	flushFirst step = 1 << iota // what a READ with FUA will see is made durable
	readHead                    // the store's block around an unaligned start
	readTail                    // the same around the end
	moveData                    // the data itself, in pieces of at most lu.maxBytes
	flushMoved                  // the data is made durable before it is verified
	jobStep                     // what the command's job does, step by step
	flushAfter                  // a WRITE with FUA, or SYNCHRONIZE CACHE
	needFUA                     // only within Prepare
)

// A queue is a list of commands in order of arrival.
type queue struct{ head, tail *Command }

func (q *queue) push(c *Command) {
	c.next = nil
	if q.tail == nil {
		q.head = c
	} else {
		q.tail.next = c
	}
	q.tail = c
}

func (q *queue) pushFront(c *Command) {
	if c.next = q.head; q.tail == nil {
		q.tail = c
	}
	q.head = c
}

func (q *queue) pop() *Command {
	c := q.head
	if c != nil {
		if q.head = c.next; q.head == nil {
			q.tail = nil
		}
		c.next = nil
	}
	return c
}

func (q *queue) remove(c *Command) {
	var prev *Command
	for at := q.head; at != nil; prev, at = at, at.next {
		if at != c {
			continue
		}
		if prev == nil {
			q.head = c.next
		} else {
			prev.next = c.next
		}
		if q.tail == c {
			q.tail = prev
		}
		c.next = nil
		return
	}
}

// begin starts c, or lets it wait for its blocks or for room at the store.
func (lu *LU) begin(c *Command) Outcome {
	blockers := int32(0)
	if lu.index.n != 0 && (c.span.kind != flushSpan || lu.index.doubts != 0) {
		blockers = lu.index.blockers(&c.span)
	}
	if blockers == 0 && lu.flight < lu.maxFlight && lu.ready.head == nil {
		out := lu.advance(c)
		if out == Pending {
			lu.track(c, 0)
		}
		return out
	}
	if len(lu.pending) >= lu.maxQueue {
		return lu.full(c)
	}
	lu.track(c, blockers)
	if blockers != 0 {
		c.state = waiting
	} else {
		c.state = queued
		if c.Attr == sam.HeadOfQueue {
			lu.ready.pushFront(c)
		} else {
			lu.ready.push(c)
		}
	}
	return Pending
}

// advance does step after step of c until one goes pending or none is left.
func (lu *LU) advance(c *Command) Outcome {
	spent := int64(0)
	for lu.nextRequest(c) {
		if c.epoch != lu.epoch && !lu.within(c) {
			c.bounce, c.job = nil, nil
			return Done
		}
		switch lu.store.Submit(&c.req) {
		case backstore.Done:
			if c.step == jobStep && c.req.Err == nil {
				if spent += cost(&c.req); spent >= turnCost {
					lu.yield(c)
					return Pending
				}
			}
			if !lu.stepEnded(c) {
				return Done
			}
		case backstore.Pending:
			lu.submitted(c)
			return Pending
		default:
			c.req.Err = errNoOutcome
			lu.failStore(c)
			return Done
		}
	}
	if c.Status = sam.Good; c.In != 0 {
		if c.bounce != nil {
			start := int64(c.lba) << lu.blockShift & lu.storeMask
			copy(c.Buf, c.bounce[start:])
		}
		c.Data = c.Buf
	}
	c.bounce, c.job = nil, nil
	return Done
}

var errNoOutcome = &backstore.Error{Class: backstore.ClassInternal, Op: "submit", Cause: errors.New("the store would block though it was not told to answer at once")}

func (lu *LU) submitted(c *Command) {
	lu.flight++
	lu.unkick = lu.kicker != nil
	c.state, c.since, c.late = atStore, 0, false
}

// nextRequest makes c's request that of its next step; false: no step is left.
func (lu *LU) nextRequest(c *Command) bool {
	r := &c.req
	r.C, r.Owner, r.Err, r.Flags = lu.completer, c, nil, 0
	off := int64(c.lba) << lu.blockShift
	end := off + int64(len(c.Buf))
	if c.plan&moveData != 0 && c.bounce == nil && c.off == 0 && lu.needsBounce(c) {
		lu.cover(c, off, end)
	}
	if c.step = c.plan & -c.plan; c.step == jobStep {
		if c.job.next(lu, c) {
			return true
		}
		c.plan &^= jobStep
		c.step = c.plan & -c.plan
	}
	switch c.step {
	case flushFirst, flushMoved, flushAfter:
		r.Op, r.Off, r.Len, r.Buf = backstore.Flush, 0, 0, nil
	case readHead:
		r.Op, r.Off, r.Len = backstore.Read, off&^lu.storeMask, lu.storeMask+1
		r.Buf = c.bounce[:r.Len]
	case readTail:
		r.Op, r.Off, r.Len = backstore.Read, end&^lu.storeMask, lu.storeMask+1
		r.Buf = c.bounce[int64(len(c.bounce))-r.Len:]
	case moveData:
		buf := c.Buf
		if c.bounce != nil {
			buf = c.bounce
			if c.off == 0 && c.span.kind == writeSpan {
				copy(buf[off&lu.storeMask:], c.Buf)
			}
		}
		r.Op, r.Flags = backstore.Read, c.flags
		if c.span.kind == writeSpan {
			r.Op = backstore.Write
		}
		r.Len = min(int64(len(buf))-c.off, lu.maxBytes)
		r.Off = off&^lu.storeMask + c.off
		r.Buf = buf[c.off : c.off+r.Len]
	default:
		return false
	}
	return true
}

// cover gives c memory for the whole of the store's blocks that [off, end) touches, and plans to read the
// ones that a write covers in part. The memory is bounded by what the store may have in flight at once.
func (lu *LU) cover(c *Command, off, end int64) {
	m := lu.storeMask
	first, last := off&^m, (end+m)&^m
	c.bounce = lu.memory(last - first)
	if c.span.kind != writeSpan {
		return
	}
	if off&m != 0 {
		c.plan |= readHead
	}
	if end&m != 0 && (off&m == 0 || end&^m != first) {
		c.plan |= readTail
	}
}

// memory returns n zero bytes, aligned as the store wants them.
func (lu *LU) memory(n int64) []byte {
	b := make([]byte, int(n)+int(lu.memMask))
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & lu.memMask)
	return b[skip : skip+int(n) : skip+int(n)]
}

// stepEnded takes the result of c's step; false: c has failed.
func (lu *LU) stepEnded(c *Command) bool {
	if c.req.Err != nil {
		c.bounce, c.job = nil, nil
		lu.failStore(c)
		return false
	}
	if c.step == jobStep {
		return c.job.ended(lu, c) // the job itself says when it has no more to do
	}
	if c.step == moveData {
		c.off += c.req.Len
		total := len(c.Buf)
		if c.bounce != nil {
			total = len(c.bounce)
		}
		if c.off < int64(total) {
			return true
		}
	}
	c.plan &^= c.step
	return true
}

// track makes c one of the pending commands; its span goes into the range index.
func (lu *LU) track(c *Command, blockers int32) {
	c.pos = int32(len(lu.pending))
	lu.pending = append(lu.pending, c)
	if c.Nexus != nil {
		c.Nexus.pending++
	}
	if c.Attr > sam.Simple {
		lu.set.join(c)
	}
	if c.span.kind != flushSpan || blockers != 0 {
		lu.index.insert(c, blockers)
	}
}

// untrack forgets a pending command that has ended. Those that waited for its blocks go to lu.ready.
func (lu *LU) untrack(c *Command) {
	last := len(lu.pending) - 1
	lu.pending[c.pos] = lu.pending[last]
	lu.pending[c.pos].pos = c.pos
	lu.pending[last] = nil
	lu.pending = lu.pending[:last]
	if c.state != inDoubt {
		if c.Nexus != nil {
			c.Nexus.pending--
		}
		lu.set.leave(c)
	}
	c.state, c.bounce, c.job = idle, nil, nil
	lu.release(c)
}

// release takes c out of the range index.
func (lu *LU) release(c *Command) {
	if c.slot == noSlot {
		return
	}
	lu.freed = lu.index.remove(c, lu.freed[:0])
	for i, f := range lu.freed {
		f.state = queued
		lu.ready.push(f)
		lu.freed[i] = nil
	}
}

// Completed takes a request that a store completed, on the loop of the LU that it belongs to.
func Completed(r *backstore.Request) {
	switch o := r.Owner.(type) {
	case *Command:
		o.lu.completed(o)
	case *background:
		o.lu.flushedBehind()
	case *saving:
		o.ended()
		o.lu.drain()
		o.lu.Kick()
	case *LU:
		o.woken = false
		o.drain()
		o.Kick()
	}
}

func (lu *LU) completed(c *Command) {
	lu.flight--
	c.yielded = false
	if c.state == inDoubt {
		lu.doubts--
	} else if lu.stepEnded(c) && !(c.step == jobStep && lu.notReady(c)) && lu.advance(c) == Pending {
		lu.Kick() // the host is not told of this: it would not kick
		return
	}
	lu.untrack(c)
	lu.host.Done(c)
	lu.drain()
}

// drain goes on with what may after something has ended.
func (lu *LU) drain() {
	lu.startReady()
	for lu.admit() {
		lu.startReady()
	}
}

// startReady starts what has its blocks to itself, as far as the store has room.
func (lu *LU) startReady() {
	for lu.flight < lu.maxFlight {
		if lu.behind.wanted && !lu.behind.busy {
			lu.flushBehind()
			continue
		}
		c := lu.ready.pop()
		if c == nil {
			break
		}
		if lu.notReady(c) || lu.advance(c) == Done {
			lu.untrack(c)
			lu.host.Done(c)
		}
	}
}

// Abort ends c, which was Pending. True: nothing of it is at the store and it has ended now; Done is not called.
// False: the store has it. Its result no longer matters, but its memory stays pinned until Host.Done says that
// the store ended it, which may be never; until then a write's range is in doubt, and every command that
// overlaps it, and every flush that covers it, waits behind it.
func (lu *LU) Abort(c *Command) (ended bool) {
	switch c.state {
	case idle:
		ended = true // prepared at most
	case awaiting:
		lu.unawait(c)
		ended = true
	case held, dormant:
		if c.state == held {
			lu.unawait(c)
		} else {
			lu.set.dormant.remove(c)
		}
		lu.untrack(c)
		ended = true
	case waiting, queued:
		if c.state == queued {
			lu.ready.remove(c)
		}
		lu.untrack(c)
		ended = true
	case persisting:
		lu.saving.forget(c)
		lu.untrack(c)
		ended = true
	case atStore:
		lu.doubt(c)
	}
	if lu.ready.head != nil || lu.set.parked != 0 {
		lu.wakeUp()
	}
	return ended
}

// doubt leaves c, whose nexus waits for it no more, to the store, which has it.
func (lu *LU) doubt(c *Command) {
	lu.set.leave(c)
	c.state = inDoubt
	lu.doubts++
	if c.Nexus != nil {
		c.Nexus.pending--
	}
	if c.span.kind == writeSpan {
		lu.index.doubt(c)
	} else {
		lu.release(c) // nobody will look at what is read: what comes may write there
	}
	if lu.canceler != nil && !c.yielded {
		// A hint: if it is taken, Complete follows and the end comes the usual way.
		lu.canceler.Cancel(&c.req)
	}
}
