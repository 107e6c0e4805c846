package file

import (
	"context"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

const (
	maxTransfer = 16 << 20
	maxInFlight = 1024
	// maxDiscard bounds what one discard or zeroing asks of the file system at a time.
	maxDiscard = 1 << 30
	// maxWorkers is how many system calls of one store may wait at once where there is no ring.
	maxWorkers = 8
)

// A way is how a read or a write without FUA is tried first.
type way uint8

const (
	wayPlain  way = iota // inline: nothing can wait (a file system in memory)
	wayNoWait            // inline with RWF_NOWAIT, else the ring
	wayAsync             // the ring (O_DIRECT, or the file system cannot say "not now")
	wayWriter            // buffered writes that may wait without saying so: the writer (writer.go)
)

// A Store is one open file or device.
type Store struct {
	cfg  config
	path string
	fd   int
	dev  bool // a block device
	mem  bool // nothing is behind the page cache
	warn func(string)

	info atomic.Pointer[backstore.Info] // replaced by Resize and by what an attempt has taught

	// Of the goroutine that submits.
	loop    backstore.Loop // while attached and the ring has not been asked for
	engine  *engine        // of the loop, from the first request for it
	read    way
	write   way
	kickRun bool // the writer has something since the last Kick

	writer  *pool // one goroutine, buffered writes
	workers *pool // everything else that waits
	pace    pace

	// written counts writes that are not known to be durable; synced is its value that the last flush covered.
	written, synced atomic.Uint64
	failed          atomic.Bool  // sticky
	inFlight        atomic.Int64 // pending requests
	closing         atomic.Bool
	idle            chan struct{} // one token when inFlight has come to 0 while closing
	resizing        sync.Mutex

	gate     gate                                    // before every change of the volume: gate.go
	stopShot atomic.Pointer[context.CancelCauseFunc] // of the snapshot that is being taken

	counters counters
}

// Counters say how requests have been ended. A request is counted once, when that is decided.
type Counters struct {
	ReadsInline, ReadsMissed   uint64 // done within Submit; not in the cache, or could not be tried
	WritesInline, WritesHanded uint64 // done within Submit; given to the ring, the writer or a worker
	SlowWrites                 uint64 // inline buffered writes that took longer than slowWrite
	Blocking                   uint64 // NoWait writes that were half done and were finished by waiting
}

type counters struct {
	readsInline, readsMissed, writesInline, writesHanded, slowWrites, blocking atomic.Uint64
}

// bump adds one where only one goroutine writes: no locked instruction.
func bump(c *atomic.Uint64) { c.Store(c.Load() + 1) }

// Counters returns the counters; from any goroutine.
func (s *Store) Counters() Counters {
	c := &s.counters
	return Counters{c.readsInline.Load(), c.readsMissed.Load(), c.writesInline.Load(), c.writesHanded.Load(), c.slowWrites.Load(), c.blocking.Load()}
}

// Info returns the snapshot.
func (s *Store) Info() backstore.Info { return *s.info.Load() }

// Submit does at once what cannot wait, and hands on the rest.
func (s *Store) Submit(r *backstore.Request) backstore.Outcome {
	if r.Err = s.info.Load().Check(r); r.Err != nil {
		return backstore.Done
	}
	if s.closing.Load() {
		r.Err = &backstore.Error{Class: backstore.ClassOffline, Op: r.Op.String(), Off: r.Off, Cause: backstore.ErrClosed}
		return backstore.Done
	}
	switch r.Op {
	case backstore.Read:
		return s.submitRead(r)
	case backstore.Write:
		return s.submitWrite(r)
	case backstore.Allocation:
		if r.Len == 0 {
			return backstore.Done
		}
		return s.toWorkers(r)
	case backstore.Flush:
		if s.failed.Load() {
			r.Err = failSticky(r)
			return backstore.Done
		}
		if s.clean() {
			return backstore.Done
		}
	default: // Discard, WriteZeroes
		if s.failed.Load() {
			r.Err = failSticky(r)
			return backstore.Done
		}
		if r.Len == 0 {
			return backstore.Done
		}
		if sh := s.gate.enter(); sh != nil {
			return s.hold(sh, r)
		}
		if s.dev || s.cfg.writethrough || r.Flags&backstore.FUA != 0 {
			return s.toWorkers(r)
		}
	}
	return s.toRing(r, 0)
}

func (s *Store) submitRead(r *backstore.Request) backstore.Outcome {
	if len(r.Buf) == 0 {
		return backstore.Done
	}
	if r.Flags&backstore.FUA != 0 && !s.clean() {
		if r.Flags&backstore.NoWait != 0 {
			return backstore.WouldBlock
		}
		return s.toWorkers(r)
	}
	done := 0
	switch s.read {
	case wayPlain:
		for {
			n, e := rawPread(s.fd, r.Buf[done:], r.Off+int64(done))
			if e == unix.EINTR {
				continue
			}
			if e != 0 {
				r.Err = fail(r, e)
				return backstore.Done
			}
			if n == 0 {
				r.Err = failShort(r, done)
				return backstore.Done
			}
			if done += n; done == len(r.Buf) {
				bump(&s.counters.readsInline)
				return backstore.Done
			}
		}
	case wayNoWait:
		n, e := nowait(unix.SYS_PREADV2, s.fd, r.Buf, r.Off)
		switch {
		case e == 0 && n == len(r.Buf):
			bump(&s.counters.readsInline)
			return backstore.Done
		case e == 0:
			done = n // 0 is the end of the file; the ring or a worker finds out
		case e == unix.EOPNOTSUPP:
			s.read = wayAsync
			s.amend(func(i *backstore.Info) { i.Caps &^= backstore.CapNoWaitRead })
		case e != unix.EAGAIN && e != unix.EINTR:
			r.Err = fail(r, e)
			return backstore.Done
		}
	}
	if r.Flags&backstore.NoWait != 0 {
		return backstore.WouldBlock
	}
	bump(&s.counters.readsMissed)
	return s.toRing(r, done)
}

func (s *Store) submitWrite(r *backstore.Request) backstore.Outcome {
	if len(r.Buf) == 0 {
		return backstore.Done
	}
	if s.failed.Load() {
		r.Err = failSticky(r)
		return backstore.Done
	}
	if sh := s.gate.enter(); sh != nil {
		return s.hold(sh, r)
	}
	how := s.write
	if r.Flags&backstore.FUA != 0 && how != wayPlain {
		how = wayAsync
	}
	switch how {
	case wayPlain:
		done := 0
		for {
			n, e := rawPwrite(s.fd, r.Buf[done:], r.Off+int64(done))
			if e == unix.EINTR {
				continue
			}
			if e != 0 {
				r.Err = fail(r, e)
				s.gate.left.Add(1)
				return backstore.Done
			}
			if done += n; done == len(r.Buf) {
				bump(&s.counters.writesInline)
				return backstore.Done
			}
		}
	case wayNoWait:
		n, e := nowait(unix.SYS_PWRITEV2, s.fd, r.Buf, r.Off)
		switch {
		case e == 0 && n == len(r.Buf):
			s.written.Add(1)
			bump(&s.counters.writesInline)
			return backstore.Done
		case e == 0 && n > 0 && r.Flags&backstore.NoWait != 0:
			// Some of it is in the volume, so WouldBlock is no answer any more. Rare: pages of one
			// request of which the first can be written and a later one cannot.
			s.counters.blocking.Add(1)
			r.Err = s.writeAll(r, n, sysPwrite)
			s.gate.left.Add(1)
			return backstore.Done
		case e == unix.EOPNOTSUPP:
			s.write = wayWriter
			s.amend(func(i *backstore.Info) { i.Caps &^= backstore.CapNoWaitWrite })
			return s.writeBuffered(r)
		case e != 0 && e != unix.EAGAIN && e != unix.EINTR:
			r.Err = s.failure(r, e)
			s.gate.left.Add(1)
			return backstore.Done
		}
	case wayWriter:
		return s.writeBuffered(r)
	}
	if r.Flags&backstore.NoWait != 0 {
		s.gate.left.Add(1)
		return backstore.WouldBlock
	}
	bump(&s.counters.writesHanded)
	return s.toRing(r, 0)
}

// toRing puts r, of which done bytes have been moved, into the loop's ring, or gives it to the workers.
func (s *Store) toRing(r *backstore.Request, done int) backstore.Outcome {
	s.inFlight.Add(1)
	if s.loop != nil {
		s.findEngine()
	}
	if s.engine == nil || !s.engine.start(s, r, done) {
		s.workers.put(r)
	}
	return backstore.Pending
}

func (s *Store) toWorkers(r *backstore.Request) backstore.Outcome {
	s.inFlight.Add(1)
	s.workers.put(r)
	return backstore.Pending
}

// Kick hands what was submitted to the kernel and wakes the writer: once for a batch.
func (s *Store) Kick() {
	if s.engine != nil {
		s.engine.kick()
	}
	if s.kickRun {
		s.kickRun = false
		s.writer.kick()
	}
}

// Attach makes the store use the loop's io_uring, which the first request that wants it makes: a loop whose
// disks are idle or in memory has none.
func (s *Store) Attach(l backstore.Loop) error {
	s.loop = l
	return nil
}

// Detach ends the use of the loop's ring.
func (s *Store) Detach() { s.loop, s.engine = nil, nil }

// findEngine looks for the loop's ring, once. Without one the store goes on with workers.
func (s *Store) findEngine() {
	l := s.loop
	s.loop = nil
	if s.mem {
		return // what waits here (discards, allocation) is nothing for a ring
	}
	c, err := l.Shared(engineKey{}, newEngine)
	if err != nil {
		s.warn("files are served by worker threads: " + err.Error())
		return
	}
	e := c.(*engine)
	if e.ring != nil {
		s.engine = e
	} else if !e.said {
		e.said = true
		s.warn("files are served by worker threads: " + e.err.Error())
	}
}

// finish ends a pending request.
func (s *Store) finish(r *backstore.Request, err error) {
	if changes(r.Op) {
		s.gate.left.Add(1)
	}
	s.complete(r, err)
}

func (s *Store) complete(r *backstore.Request, err error) {
	r.Err = err
	r.C.Complete(r)
	if s.inFlight.Add(-1) == 0 && s.closing.Load() {
		select {
		case s.idle <- struct{}{}:
		default:
		}
	}
}

// clean reports whether everything written through this store is durable.
func (s *Store) clean() bool {
	return s.mem || s.cfg.writethrough || !s.cfg.shared && s.written.Load() == s.synced.Load()
}

// wrote notes that r, which has ended well, changed the volume.
func (s *Store) wrote(r *backstore.Request) {
	switch r.Op {
	case backstore.Read, backstore.Flush, backstore.Allocation:
	case backstore.Write:
		if r.Flags&backstore.FUA == 0 && !s.cfg.writethrough {
			s.written.Add(1)
		}
	default:
		s.written.Add(1)
	}
}

// flushed notes that the writes up to gen are durable.
func (s *Store) flushed(gen uint64) {
	for {
		old := s.synced.Load()
		if old >= gen || s.synced.CompareAndSwap(old, gen) {
			return
		}
	}
}

// failure makes the error of a request that the kernel failed, and makes the store failed where that
// was about durability.
func (s *Store) failure(r *backstore.Request, e unix.Errno) error {
	switch {
	case r.Op == backstore.Read || r.Op == backstore.Allocation:
		return fail(r, e)
	case r.Op == backstore.Flush, r.Flags&backstore.FUA != 0 && !s.cfg.writethrough:
		s.failed.Store(true)
	}
	s.written.Add(1) // some of it may have been written
	return fail(r, e)
}

// amend replaces the snapshot.
func (s *Store) amend(f func(*backstore.Info)) {
	for {
		old := s.info.Load()
		i := *old
		f(&i)
		if s.info.CompareAndSwap(old, &i) {
			return
		}
	}
}

var (
	_ backstore.Store    = (*Store)(nil)
	_ backstore.Kicker   = (*Store)(nil)
	_ backstore.Attacher = (*Store)(nil)
	_ backstore.Resizer  = (*Store)(nil)

	_ backstore.Snapshotter = (*Store)(nil)
)
