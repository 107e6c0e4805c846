package backstoretest

import (
	"io"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A Loop is the smallest backstore.Loop: one epoll set, a wake-up descriptor and a queue of
// completions. The test's goroutine turns it.
type Loop struct {
	t       testing.TB
	epfd    int
	wakefd  int
	ready   map[int32]func()
	shared  map[any]io.Closer
	events  [16]unix.EpollEvent
	taken   []*backstore.Request
	closers []io.Closer // of shared, in the order they were made

	mu     sync.Mutex
	done   []*backstore.Request
	signal bool // the wake-up is on its way
}

// NewLoop returns a loop that is closed at the end of the test.
func NewLoop(t testing.TB) *Loop {
	t.Helper()
	l := &Loop{t: t, ready: make(map[int32]func()), shared: make(map[any]io.Closer)}
	var err error
	if l.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		t.Fatalf("epoll_create1: %v", err)
	}
	if l.wakefd, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		t.Fatalf("eventfd: %v", err)
	}
	l.add(l.wakefd)
	t.Cleanup(l.Close)
	return l
}

func (l *Loop) add(fd int) {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		l.t.Fatalf("epoll_ctl: %v", err)
	}
}

// Watch implements backstore.Loop.
func (l *Loop) Watch(fd int, ready func()) (func(), error) {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return nil, err
	}
	l.ready[int32(fd)] = ready
	return func() {
		delete(l.ready, int32(fd))
		if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_DEL, fd, nil); err != nil {
			l.t.Errorf("a watch was stopped after its descriptor was closed: %v", err)
		}
	}, nil
}

// Shared implements backstore.Loop.
func (l *Loop) Shared(key any, mk func(backstore.Loop) (io.Closer, error)) (io.Closer, error) {
	if c, ok := l.shared[key]; ok {
		return c, nil
	}
	c, err := mk(l)
	if err != nil {
		return nil, err
	}
	l.shared[key] = c
	l.closers = append(l.closers, c)
	return c, nil
}

// Complete implements backstore.Completer: it queues r for the next Turn. From any goroutine.
func (l *Loop) Complete(r *backstore.Request) {
	l.mu.Lock()
	l.done = append(l.done, r)
	wake := !l.signal
	l.signal = true
	l.mu.Unlock()
	if wake {
		one := [8]byte{1}
		_, _ = unix.Write(l.wakefd, one[:])
	}
}

// Turn waits up to d for something to happen, runs what is ready and returns the requests that were
// completed. The slice is valid until the next Turn.
func (l *Loop) Turn(d time.Duration) []*backstore.Request {
	l.mu.Lock()
	if len(l.done) > 0 {
		d = 0
	}
	l.mu.Unlock()
	n, err := unix.EpollWait(l.epfd, l.events[:], int(d/time.Millisecond))
	if err != nil && err != unix.EINTR {
		l.t.Fatalf("epoll_wait: %v", err)
	}
	for i := range max(n, 0) {
		fd := l.events[i].Fd
		if int(fd) == l.wakefd {
			var b [8]byte
			_, _ = unix.Read(l.wakefd, b[:])
			l.mu.Lock()
			l.signal = false
			l.mu.Unlock()
		} else if f := l.ready[fd]; f != nil {
			f()
		}
	}
	l.mu.Lock()
	l.taken, l.done = l.done, l.taken[:0]
	l.mu.Unlock()
	return l.taken
}

// Close closes what is shared and the descriptors. A watch that was not stopped is an error.
func (l *Loop) Close() {
	if l.epfd < 0 {
		return
	}
	for i := len(l.closers) - 1; i >= 0; i-- {
		if err := l.closers[i].Close(); err != nil {
			l.t.Errorf("closing what the loop shares: %v", err)
		}
	}
	if n := len(l.ready); n > 0 {
		l.t.Errorf("%d watches were never stopped", n)
	}
	unix.Close(l.epfd)
	unix.Close(l.wakefd)
	l.epfd = -1
}
