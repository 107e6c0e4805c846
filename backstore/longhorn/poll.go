package longhorn

import (
	"encoding/binary"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A poller is how a store learns that its socket has something: from the loop that it is attached to, or from a goroutine of its
// own. The epoll set holds the wake-up descriptor, a socket that is full and, without a loop, the socket in any case.
type poller struct {
	set     int
	wake    int // an eventfd: a new connection is there, or the pump must end
	loop    backstore.Loop
	unwatch func() // of the set
	pumping bool
	events  [4]unix.EpollEvent
}

const wakeID = -1 // in an event, where the socket has its descriptor

func (p *poller) openPoller() error {
	set, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = unix.SetNonblock(set, true) // else the runtime would not poll it for the pump
	}
	if err != nil {
		closeFd(set)
		return os.NewSyscallError("eventfd", err)
	}
	if err = unix.EpollCtl(set, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: wakeID}); err != nil {
		closeFd(set)
		closeFd(wake)
		return os.NewSyscallError("epoll_ctl", err)
	}
	p.set, p.wake = set, wake
	return nil
}

func (p *poller) closePoller() {
	if !p.pumping { // the pump has closed it
		closeFd(p.set)
	}
	closeFd(p.wake)
}

func (p *poller) wakeUp() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(p.wake, one[:]) // fails only when it is woken up already, 2^64 times
}

// Attach puts the socket into the loop's epoll. Called before the first Submit.
func (s *Store) Attach(l backstore.Loop) error {
	s.mu.Lock()
	defer s.unlock()
	stop, err := l.Watch(s.set, func() { s.turn() })
	if err != nil {
		return &backstore.Error{Class: backstore.ClassInternal, Op: "attach", Cause: err}
	}
	s.loop, s.unwatch = l, stop
	if s.c != nil {
		if err := s.watch(s.c); err != nil {
			s.detach()
			return &backstore.Error{Class: backstore.ClassInternal, Op: "attach", Cause: err}
		}
	}
	return nil
}

// Detach takes it out again.
func (s *Store) Detach() {
	s.mu.Lock()
	s.detach()
	s.mu.Unlock()
}

func (s *Store) detach() {
	if s.loop == nil {
		return
	}
	if s.c != nil {
		s.forget(s.c)
	}
	s.unwatch()
	s.loop, s.unwatch = nil, nil
	if s.detached != nil {
		close(s.detached)
		s.detached = nil
	}
}

// watch makes the socket's news heard, on the loop if there is one.
func (s *Store) watch(c *conn) (err error) {
	if s.loop != nil {
		c.stop, err = s.loop.Watch(c.fd, c.ready)
		return err
	}
	return s.ctl(c, unix.EPOLLIN)
}

// forget ends all that watch and arm began.
func (s *Store) forget(c *conn) {
	if c.stop != nil {
		c.stop()
		c.stop = nil
	}
	if c.inSet {
		_ = unix.EpollCtl(s.set, unix.EPOLL_CTL_DEL, c.fd, nil) // it is there: it was added, and the socket is open
		c.inSet = false
	}
}

// ctl sets what the set tells of c.
func (s *Store) ctl(c *conn, events uint32) error {
	op := unix.EPOLL_CTL_MOD
	if !c.inSet {
		op = unix.EPOLL_CTL_ADD
	}
	err := unix.EpollCtl(s.set, op, c.fd, &unix.EpollEvent{Events: events, Fd: int32(c.fd)})
	c.inSet = c.inSet || err == nil
	return os.NewSyscallError("epoll_ctl", err)
}

// arm asks to be told once when a full socket takes more.
func (s *Store) arm(c *conn) {
	events := uint32(unix.EPOLLOUT | unix.EPOLLONESHOT)
	if s.loop == nil {
		events = unix.EPOLLIN | unix.EPOLLOUT
	}
	if err := s.ctl(c, events); err != nil {
		c.noSend, c.unproven = true, true
		_ = unix.Shutdown(c.fd, unix.SHUT_RDWR) // its reader then finds the end
	}
}

// start makes sure that somebody waits for the socket. Called before a request is begun.
func (s *Store) start() {
	if s.loop != nil || s.pumping || s.released {
		return
	}
	s.pumping = true
	s.wg.Add(1)
	go s.pump(os.NewFile(uintptr(s.set), "longhorn"))
	if s.c != nil {
		if err := s.watch(s.c); err != nil {
			s.lost(s.c, true, err) // nothing was ever sent on it
		}
	}
}

// pump is the store's own goroutine, which takes the place of a loop. The epoll set is itself in the runtime's poller, so waiting
// costs no thread.
func (s *Store) pump(f *os.File) {
	defer s.wg.Done()
	defer func() { _ = f.Close() }() // an epoll set has nothing to lose
	rc, err := f.SyscallConn()
	if err == nil {
		err = rc.Read(func(uintptr) bool {
			for s.turn() {
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.released
		})
	}
	if err != nil {
		s.warn(s.info.Volume + ": the store's goroutine ended: " + err.Error())
	}
}

// turn deals with what the set tells, and says whether there was anything.
func (s *Store) turn() bool {
	s.mu.Lock()
	if s.released {
		s.mu.Unlock()
		return false
	}
	n, err := unix.EpollWait(s.set, s.events[:], 0)
	if err == syscall.EINTR {
		n = 1
	}
	for _, e := range s.events[:max(n, 0)] {
		if e.Fd == wakeID {
			var b [8]byte
			_, _ = unix.Read(s.wake, b[:]) // EAGAIN if another turn was quicker
			s.adopt()
			continue
		}
		// Looked up anew, since an event before this one may have replaced it.
		if c := s.c; c != nil && c.fd == int(e.Fd) {
			c.event(e.Events)
		}
	}
	s.sendAll()
	s.unlock()
	return n > 0
}

func (c *conn) event(events uint32) {
	if c.blocked && events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		c.blocked = false
		c.send()
		if !c.blocked && c.s.loop == nil {
			if err := c.s.ctl(c, unix.EPOLLIN); err != nil {
				c.noSend, c.unproven = true, true
			}
		}
	}
	if events&^unix.EPOLLOUT != 0 {
		c.receive()
	}
}

// ready is called by the loop.
func (c *conn) ready() {
	c.s.mu.Lock()
	if c.fd >= 0 {
		c.receive()
		c.s.sendAll()
	}
	c.s.unlock()
}
