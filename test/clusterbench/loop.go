package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A loop drives one store as a target's event loop does. It belongs to one goroutine; Complete may come from any.
type loop struct {
	epfd, wakefd int
	ready        map[int32]func()
	shared       map[any]io.Closer
	events       [16]unix.EpollEvent

	mu    sync.Mutex
	done  []*backstore.Request // guarded by mu
	awake bool                 // guarded by mu: the wake-up is on its way
	taken []*backstore.Request
}

func newLoop() (*loop, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	l := &loop{epfd: epfd, wakefd: -1, ready: map[int32]func(){}, shared: map[any]io.Closer{}}
	if l.wakefd, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return nil, errors.Join(fmt.Errorf("eventfd: %w", err), l.close())
	}
	_, err = l.Watch(l.wakefd, l.drain)
	return l, err
}

// Watch is backstore.Loop's.
func (l *loop) Watch(fd int, ready func()) (func(), error) {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return nil, fmt.Errorf("epoll_ctl: %w", err)
	}
	l.ready[int32(fd)] = ready
	return func() {
		delete(l.ready, int32(fd))
		_ = unix.EpollCtl(l.epfd, unix.EPOLL_CTL_DEL, fd, nil) // fails only when it is closed already
	}, nil
}

// Shared is backstore.Loop's.
func (l *loop) Shared(key any, mk func(backstore.Loop) (io.Closer, error)) (io.Closer, error) {
	if c, ok := l.shared[key]; ok {
		return c, nil
	}
	c, err := mk(l)
	if err == nil {
		l.shared[key] = c
	}
	return c, err
}

// Complete is backstore.Completer's.
func (l *loop) Complete(r *backstore.Request) {
	l.mu.Lock()
	l.done = append(l.done, r)
	wake := !l.awake
	l.awake = true
	l.mu.Unlock()
	if wake {
		one := [8]byte{1}
		_, _ = unix.Write(l.wakefd, one[:]) // full only when it has been written to already
	}
}

func (l *loop) drain() {
	var b [8]byte
	_, _ = unix.Read(l.wakefd, b[:]) // empty only when it has been read already
	l.mu.Lock()
	l.awake = false
	l.mu.Unlock()
}

// turn waits until something has happened and returns the requests that have ended, until the next turn.
func (l *loop) turn() ([]*backstore.Request, error) {
	l.mu.Lock()
	timeout := int(stall / time.Millisecond)
	if len(l.done) > 0 {
		timeout = 0
	}
	l.mu.Unlock()
	n, err := unix.EpollWait(l.epfd, l.events[:], timeout)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return nil, fmt.Errorf("epoll_wait: %w", err)
	}
	for i := range max(n, 0) {
		if f := l.ready[l.events[i].Fd]; f != nil {
			f()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n == 0 && timeout != 0 {
		return nil, fmt.Errorf("no request has ended for %v", stall)
	}
	l.taken, l.done = l.done, l.taken[:0]
	return l.taken, nil
}

func (l *loop) close() error {
	var err error
	for _, c := range l.shared {
		err = errors.Join(err, c.Close())
	}
	if l.wakefd >= 0 {
		err = errors.Join(err, unix.Close(l.wakefd))
	}
	return errors.Join(err, unix.Close(l.epfd))
}

// stall is how long a store may let every request wait.
const stall = 30 * time.Second

// drive keeps w.depth requests in flight in the first size bytes of st for a time. cpu is this process's.
func (l *loop) drive(st backstore.Store, w *work, size int64, d time.Duration) (s sample, err error) {
	kicker, _ := st.(backstore.Kicker)
	buf := make([]byte, w.depth*w.block)
	for i := range buf {
		buf[i] = byte(i * 7)
	}
	ready := make([]*backstore.Request, w.depth)
	for i := range ready {
		ready[i] = &backstore.Request{Op: backstore.Read, Len: int64(w.block), Buf: buf[i*w.block : (i+1)*w.block], C: l}
		if w.write {
			ready[i].Op = backstore.Write
		}
	}
	before, begun := processorTime(), time.Now()
	end := begun.Add(d)
	flying, ended := 0, 0
	for more := true; more || flying > 0; {
		for _, r := range ready {
			for more {
				r.Off = rand.Int64N(size/r.Len) * r.Len
				if st.Submit(r) == backstore.Pending {
					flying++
					break
				}
				if r.Err != nil {
					return s, r.Err
				}
				ended++
				more = time.Now().Before(end)
			}
		}
		if kicker != nil {
			kicker.Kick()
		}
		if flying == 0 {
			break
		}
		if ready, err = l.turn(); err != nil {
			return s, err
		}
		flying -= len(ready)
		ended += len(ready)
		for _, r := range ready {
			if r.Err != nil {
				return s, r.Err
			}
		}
		more = time.Now().Before(end)
	}
	took := time.Since(begun)
	return sample{iops: float64(ended) / took.Seconds(), cpu: float64((processorTime() - before).Microseconds()) / float64(ended)}, nil
}

func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // fails only for a bad argument
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
