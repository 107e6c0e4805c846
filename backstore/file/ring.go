package file

import (
	"io"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

const (
	// ringBatch is how many submissions one system call can carry.
	ringBatch = 256
	// ringSlots is how many requests of all stores of a loop may be in the ring; what is more goes to the
	// stores' workers. The completion ring has as many places, so it cannot overflow.
	ringSlots = 1024
)

// engineKey is the key of a loop's engine in backstore.Loop.Shared.
type engineKey struct{}

// A slot is one request in the ring.
type slot struct {
	s    *Store
	r    *backstore.Request // keeps the buffer alive while only the kernel knows it
	done int                // bytes moved so far
	gen  uint64             // of a flush: the writes that it covers
	next uint16             // free list
}

// An engine is a loop's ring with what is in flight in it. All of it belongs to the loop, until
// close gives it to a goroutine that waits for the rest.
type engine struct {
	ring  *uring // nil: err says why there is none
	err   error
	said  bool // err has been logged
	stop  func()
	slots []slot
	free  uint16
	busy  int
}

// noSlot ends the free list.
const noSlot = ringSlots

// newEngine makes the engine of a loop. That there is no io_uring is not an error here: the stores
// use workers then.
func newEngine(l backstore.Loop) (io.Closer, error) {
	e := &engine{}
	u, err := newUring(ringBatch, ringSlots)
	if err != nil {
		e.err = err
		return e, nil
	}
	if e.stop, err = l.Watch(u.event, e.ready); err != nil {
		_ = u.close()
		e.err = err
		return e, nil
	}
	e.ring = u
	e.slots = make([]slot, ringSlots)
	for i := range e.slots {
		e.slots[i].next = uint16(i) + 1
	}
	return e, nil
}

// start puts r into the ring; false when it is full or r is nothing for it. The batch goes to the kernel
// with kick.
func (e *engine) start(s *Store, r *backstore.Request, done int) bool {
	if e.free == noSlot {
		return false
	}
	i := e.free
	sl := &e.slots[i]
	e.free = sl.next
	e.busy++
	sl.s, sl.r, sl.done = s, r, done
	if !e.push(i) {
		e.release(i)
		return false
	}
	return true
}

// push writes the submission of slot i.
func (e *engine) push(i uint16) bool {
	q := e.ring.next()
	if q == nil {
		e.kick()
		if q = e.ring.next(); q == nil {
			return false
		}
	}
	sl := &e.slots[i]
	s, r := sl.s, sl.r
	q.fd, q.userData = int32(s.fd), uint64(i)
	switch r.Op {
	case backstore.Read, backstore.Write:
		q.opcode = opRead
		if r.Op == backstore.Write {
			q.opcode = opWrite
			if r.Flags&backstore.FUA != 0 {
				q.opFlags = unix.RWF_DSYNC
			}
		}
		b := r.Buf[sl.done:]
		q.addr, q.len, q.off = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))), uint32(len(b)), uint64(r.Off)+uint64(sl.done)
	case backstore.Flush:
		q.opcode, q.opFlags = opFsync, fsyncDatasync
		sl.gen = s.written.Load()
	case backstore.Discard, backstore.WriteZeroes:
		q.opcode, q.off, q.addr, q.len = opFallocate, uint64(r.Off), uint64(r.Len), s.fallocMode(r)
	default:
		return false
	}
	e.ring.push()
	return true
}

// kick hands the batch to the kernel. What the kernel does not take (no memory, a limit) goes to the workers.
func (e *engine) kick() {
	if e.ring.enter() == 0 {
		return
	}
	for {
		i, ok := e.ring.takeBack()
		if !ok {
			return
		}
		s, r := e.slots[i].s, e.slots[i].r
		e.release(uint16(i))
		s.workers.put(r)
	}
}

// release frees slot i.
func (e *engine) release(i uint16) {
	sl := &e.slots[i]
	sl.s, sl.r = nil, nil
	sl.next, e.free = e.free, i
	e.busy--
}

// ready runs on the loop when the eventfd is readable.
func (e *engine) ready() {
	var b [8]byte
	_, _ = unix.Read(e.ring.event, b[:]) // only resets the count
	for {
		i, res, ok := e.ring.reap()
		if !ok {
			break
		}
		e.ended(uint16(i), res)
	}
	e.kick() // what was only half done
}

// ended takes one completion: the request is done, goes on with its rest, or goes to the workers.
func (e *engine) ended(i uint16, res int32) {
	sl := &e.slots[i]
	s, r := sl.s, sl.r
	if res < 0 {
		errno := unix.Errno(-res)
		if errno == unix.EINTR && e.push(i) {
			return
		}
		e.release(i)
		switch errno {
		case unix.EINTR, unix.EAGAIN, unix.ECANCELED, unix.EOPNOTSUPP, unix.EINVAL:
			s.workers.put(r) // they know the other ways to do it
		default:
			s.finish(r, s.failure(r, errno))
		}
		return
	}
	switch r.Op {
	case backstore.Read, backstore.Write:
		sl.done += int(res)
		switch {
		case sl.done == len(r.Buf):
			s.wrote(r)
			e.release(i)
			s.finish(r, nil)
		case res == 0 && r.Op == backstore.Read:
			done := sl.done
			e.release(i)
			s.finish(r, failShort(r, done))
		case res == 0 || !e.push(i):
			e.release(i)
			s.workers.put(r)
		}
	case backstore.Flush:
		var err error
		if s.failed.Load() { // as in sync
			err = failSticky(r)
		} else {
			s.flushed(sl.gen)
		}
		e.release(i)
		s.finish(r, err)
	default:
		s.wrote(r)
		e.release(i)
		s.finish(r, nil)
	}
}

// Close frees the ring. Requests of orphaned stores may still be in it: then a goroutine waits for them,
// since the kernel writes to their buffers.
func (e *engine) Close() error {
	if e.ring == nil {
		return nil
	}
	e.stop()
	if e.busy == 0 {
		return e.ring.close()
	}
	go func() {
		for e.busy > 0 {
			p := []unix.PollFd{{Fd: int32(e.ring.event), Events: unix.POLLIN}}
			_, _ = unix.Poll(p, -1) // an error is EINTR: looking again does no harm
			e.ready()
		}
		_ = e.ring.close()
	}()
	return nil
}
