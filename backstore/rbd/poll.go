//go:build rbd && cgo

package rbd

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A poller is how a store learns that requests have ended: from the loop that it is attached to, or from a goroutine of its own.
type poller struct {
	loop    backstore.Loop
	unwatch func()
	pumping bool
	stopped bool
}

// Attach puts the ring into the loop's epoll. Called before the first Submit.
func (s *Store) Attach(l backstore.Loop) error {
	s.mu.Lock()
	defer s.unlock()
	stop, err := l.Watch(s.ring.FD(), func() { s.turn() })
	if err != nil {
		return &backstore.Error{Class: backstore.ClassInternal, Op: "attach", Cause: err}
	}
	s.loop, s.unwatch = l, stop
	return nil
}

// Detach takes it out again.
func (s *Store) Detach() {
	s.mu.Lock()
	defer s.unlock()
	if s.loop == nil {
		return
	}
	s.unwatch()
	s.loop, s.unwatch = nil, nil
	if s.detached != nil {
		close(s.detached)
		s.detached = nil
	}
}

// start makes sure that somebody waits for the ring. Called before a request is begun.
func (s *Store) start() {
	if s.loop != nil || s.pumping || s.released {
		return
	}
	// A descriptor of its own, since os.File closes it, into the runtime's poller: waiting costs no thread.
	fd, err := unix.FcntlInt(uintptr(s.ring.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		s.remark("no descriptor to wait with: %v", err)
		return // the next request tries again
	}
	s.pumping = true
	s.control.Add(1)
	go s.pump(os.NewFile(uintptr(fd), "rbd"))
}

func (s *Store) pump(f *os.File) {
	defer s.control.Done()
	defer func() { _ = f.Close() }() // an eventfd has nothing to lose
	rc, err := f.SyscallConn()
	if err == nil {
		err = rc.Read(func(uintptr) bool {
			for s.turn() {
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.stopped
		})
	}
	if err != nil {
		s.warn(s.info.Volume + ": the store's goroutine ended: " + err.Error())
	}
}
