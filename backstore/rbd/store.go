//go:build rbd && cgo

package rbd

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/rbd/internal/librbd"
)

// maxBatch is how many requests wait for a Kick at most: a caller that never ends its batch must not stand still.
const maxBatch = 64

// A stage is what a slot's request waits for.
type stage uint8

const (
	stageMain  stage = iota // the request itself
	stageFirst              // the flush in front of a FUA read
	stageAfter              // the flush behind a FUA write
)

// A slot is a request that the store has.
type slot struct {
	req   *backstore.Request
	pins  runtime.Pinner // of its buffers
	stage stage
}

// A Store is one open image. See the package's comment for who runs what.
type Store struct {
	cfg      *config
	cl       *cluster
	img      *librbd.Image
	warn     func(string)
	volatile bool // librbd's cache is on
	locked   bool // the exclusive lock is kept
	watch    uint64
	watching bool

	control sync.WaitGroup // calls of Resize and the like, and the goroutines below

	mu      sync.Mutex // guards everything below, and the ring but for Wake
	info    backstore.Info
	ring    *librbd.Ring
	slots   []slot
	free    []uint16
	failed  error // sticky: a flush has failed
	fenced  error // sticky: somebody has shut this opener out
	changed func(int64)
	told    int64 // the size that changed was last told, or Info's at first

	asks   backstore.Queue // allocation queries that wait
	asking bool            // a goroutine answers them

	closing  bool
	released bool
	idle     chan struct{} // closed when closing and no request is left
	detached chan struct{} // closed when closing and the loop has let go
	poke     chan struct{} // the image's header has changed; closed with release

	poller
	done backstore.Queue // ended, to be completed when the lock is let go
	says []string
}

// Info returns the snapshot.
func (s *Store) Info() backstore.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.info
}

// Submit queues r; Kick hands it to librbd.
func (s *Store) Submit(r *backstore.Request) backstore.Outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Err = s.refuse(r); r.Err != nil {
		return backstore.Done
	}
	if r.Flags&backstore.NoWait != 0 && (r.Op == backstore.Read || r.Op == backstore.Write) {
		return backstore.WouldBlock
	}
	if r.Op == backstore.Flush && !s.volatile || r.Op != backstore.Flush && r.Len == 0 {
		return backstore.Done
	}
	if len(s.free) == 0 {
		r.Err = &backstore.Error{Class: backstore.ClassBusy, Op: r.Op.String(), Off: r.Off, Cause: errInFlight}
		return backstore.Done
	}
	s.start()
	s.begin(r)
	return backstore.Pending
}

var (
	errInFlight = errors.New("more requests in flight than the store takes")
	errFenced   = errors.New("another client has taken the image over, or an administrator has shut this one out (ceph osd blocklist)")
	errLost     = errors.New("the image's exclusive lock is no longer ours")
)

func (s *Store) refuse(r *backstore.Request) error {
	if s.closing {
		return &backstore.Error{Class: backstore.ClassOffline, Op: r.Op.String(), Off: r.Off, Cause: backstore.ErrClosed}
	}
	if err := s.info.Check(r); err != nil {
		return err
	}
	if s.fenced != nil {
		return &backstore.Error{Class: backstore.ClassFenced, Op: r.Op.String(), Off: r.Off, Cause: s.fenced}
	}
	if s.failed != nil && r.Op != backstore.Read && r.Op != backstore.Allocation {
		return &backstore.Error{Class: backstore.ClassMedium, Op: r.Op.String(), Off: r.Off, Cause: s.failed}
	}
	return nil
}

// begin gives r a slot and queues it.
func (s *Store) begin(r *backstore.Request) {
	i := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	sl := &s.slots[i]
	sl.req, sl.stage = r, stageMain
	r.Slot = uint64(i)
	if r.Op == backstore.Allocation {
		s.ask(r)
		return
	}
	if len(r.Buf) != 0 && r.Op != backstore.WriteZeroes && r.Op != backstore.Discard {
		sl.pins.Pin(unsafe.SliceData(r.Buf))
	}
	if r.Op == backstore.CompareAndWrite {
		sl.pins.Pin(unsafe.SliceData(r.Compare))
	}
	if r.Op == backstore.Read && r.Flags&backstore.FUA != 0 && s.volatile {
		sl.stage = stageFirst
	}
	s.send(int(i))
	if s.ring.Queued() >= maxBatch {
		s.ring.Submit(s.img)
	}
}

// send queues what a slot's request is waiting for.
func (s *Store) send(i int) {
	sl := &s.slots[i]
	r := sl.req
	m := librbd.Command{Slot: i, Off: r.Off, Len: r.Len, DontNeed: r.Flags&backstore.DPO != 0}
	switch {
	case sl.stage != stageMain || r.Op == backstore.Flush:
		m = librbd.Command{Slot: i, Op: librbd.Flush}
	case r.Op == backstore.Read:
		m.Op, m.Buf = librbd.Read, unsafe.Pointer(unsafe.SliceData(r.Buf))
	case r.Op == backstore.Write:
		m.Op, m.Buf = librbd.Write, unsafe.Pointer(unsafe.SliceData(r.Buf))
	case r.Op == backstore.Discard:
		m.Op = librbd.Discard
	case r.Op == backstore.WriteZeroes:
		m.Op, m.Thick = librbd.WriteZeroes, r.Flags&backstore.KeepAllocated != 0
	case r.Op == backstore.CompareAndWrite:
		m.Op, m.Buf, m.Compare = librbd.CompareAndWrite, unsafe.Pointer(unsafe.SliceData(r.Buf)), unsafe.Pointer(unsafe.SliceData(r.Compare))
	}
	s.ring.Queue(&m)
}

// Kick hands over what Submit queued.
func (s *Store) Kick() {
	s.mu.Lock()
	s.ring.Submit(s.img)
	s.mu.Unlock()
}

// turn takes what has ended, and says whether there was anything.
func (s *Store) turn() bool {
	s.mu.Lock()
	if s.released {
		s.mu.Unlock()
		return false
	}
	n, updated := s.ring.Reap()
	for i := range n {
		s.ended(s.ring.End(i))
	}
	s.ring.Submit(s.img) // second stages
	if updated {
		select {
		case s.poke <- struct{}{}:
		default: // it is on its way already
		}
	}
	s.unlock()
	return n > 0
}

// ended goes on with a request of which librbd has done what it was told.
func (s *Store) ended(e librbd.End) {
	sl := &s.slots[e.Slot]
	r := sl.req
	var err error
	if e.Ret < 0 {
		if err = s.errorOf(sl, e); err == nil {
			return // in doubt: it never ends
		}
	}
	switch {
	case err != nil:
	case sl.stage == stageFirst, sl.stage == stageMain && r.Op != backstore.Read && r.Op != backstore.Flush && r.Flags&backstore.FUA != 0 && s.volatile:
		if sl.stage == stageFirst {
			sl.stage = stageMain
		} else {
			sl.stage = stageAfter
		}
		s.send(e.Slot)
		return
	case r.Op == backstore.Read && e.Ret < r.Len:
		// Somebody has cut the image off behind our back.
		err = &backstore.Error{Class: backstore.ClassRange, Op: r.Op.String(), Off: r.Off, Cause: fmt.Errorf("the image ends %d bytes into the range", e.Ret)}
	}
	s.end(e.Slot, err)
}

// end frees a slot and completes its request when the lock is let go.
func (s *Store) end(i int, err error) {
	sl := &s.slots[i]
	r := sl.req
	sl.req = nil
	sl.pins.Unpin()
	s.free = append(s.free, uint16(i))
	r.Err = err
	s.done.Push(r)
	if s.idle != nil && len(s.free) == len(s.slots) {
		close(s.idle)
		s.idle = nil
	}
}

// errorOf makes an error of what librbd answered. Nil: nobody can say that the request will not be applied, so it must not end.
func (s *Store) errorOf(sl *slot, e librbd.End) error {
	r, n := sl.req, syscall.Errno(-e.Ret)
	err := &backstore.Error{Class: backstore.ClassMedium, Op: r.Op.String(), Off: r.Off, Cause: n}
	switch n {
	case syscall.EILSEQ:
		if r.Op == backstore.CompareAndWrite {
			// It tells the place within the object as if it had compared from the object's start on.
			err.Class, err.Off, err.Cause = backstore.ClassMiscompare, e.Mismatch%compareBytes, nil
			return err
		}
	case syscall.ENOSPC, syscall.EDQUOT:
		err.Class = backstore.ClassNoSpace
	case syscall.EINVAL:
		err.Class = backstore.ClassRange // it was within Info when it was submitted: the image has shrunk
	case syscall.ENOENT:
		err.Class = backstore.ClassNotFound
	case syscall.ENOMEM:
		err.Class = backstore.ClassNoSpaceTemp
	case syscall.EACCES, syscall.EPERM:
		err.Class = backstore.ClassReadOnly
		if r.Op == backstore.Read {
			err.Class = backstore.ClassOffline
		}
	case syscall.EROFS:
		err.Class = backstore.ClassReadOnly
		if s.locked {
			err.Class, err.Cause = backstore.ClassFenced, errLost
		}
	case syscall.ESHUTDOWN:
		err.Class, err.Cause = backstore.ClassFenced, errFenced
	case syscall.ETIMEDOUT:
		// Nothing of ours sets a time limit; whatever did has ended the waiting and not the request.
		if r.Op != backstore.Read && r.Op != backstore.Flush {
			s.fail(fmt.Errorf("librbd has given up a request that may still be applied: %w", n))
			return nil
		}
		err.Class = backstore.ClassTimeout
	}
	switch {
	case err.Class == backstore.ClassFenced:
		s.shutOut(err.Cause)
	case sl.stage != stageMain || r.Op == backstore.Flush:
		s.fail(fmt.Errorf("a flush failed: %w", n))
		err.Class = backstore.ClassMedium
	}
	return err
}

// fail makes the store failed, once.
func (s *Store) fail(why error) {
	if s.failed == nil {
		s.failed = why
		s.remark("failed until it is opened anew: %v", why)
	}
}

// shutOut makes the store fenced, once.
func (s *Store) shutOut(why error) {
	if s.fenced == nil {
		s.fenced = why
		s.remark("shut out: %v", why)
	}
}

func (s *Store) remark(format string, a ...any) {
	s.says = append(s.says, s.info.Volume+": "+fmt.Sprintf(format, a...))
}

// unlock lets go of the lock and delivers what came of holding it.
func (s *Store) unlock() {
	done, says := s.done, s.says
	s.done, s.says = backstore.Queue{}, nil
	s.mu.Unlock()
	for r := done.Pop(); r != nil; r = done.Pop() {
		r.C.Complete(r)
	}
	for _, w := range says {
		s.warn(w)
	}
}
