package initiator

import (
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Poller waits for many Queues at once, in one goroutine.
type Poller struct {
	fd     int
	queues []*Queue // the index is the epoll data
	events [64]unix.EpollEvent
	ready  []*Queue
}

// NewPoller returns a Poller without Queues.
func NewPoller() (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	return &Poller{fd: fd}, nil
}

// Add puts q under p until q is closed.
func (p *Poller) Add(q *Queue) error {
	q.wants = unix.EPOLLIN
	ev := unix.EpollEvent{Events: q.wants, Fd: int32(len(p.queues))}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, q.fd, &ev); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	q.poller, q.index = p, len(p.queues)
	p.queues = append(p.queues, q)
	return nil
}

func (p *Poller) remove(q *Queue) {
	p.queues[q.index] = nil
	_ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, q.fd, &unix.EpollEvent{})
	q.poller = nil
}

// want tells q's poller which events q waits for.
func (q *Queue) want(events uint32) error {
	if q.poller == nil || q.wants == events {
		return nil
	}
	q.wants = events
	ev := unix.EpollEvent{Events: events, Fd: int32(q.index)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(q.poller.fd, unix.EPOLL_CTL_MOD, q.fd, &ev))
}

// longest bounds a wait, so that its end is a time.
const longest = 10000 * time.Hour

// Wait returns the Queues on which Poll would get on, waiting up to timeout for the first. The slice is valid until the next call.
func (p *Poller) Wait(timeout time.Duration) ([]*Queue, error) {
	p.ready = p.ready[:0]
	timeout = min(timeout, longest)
	n, errno := p.wait(timeout)
	for end := time.Now().Add(timeout); errno == unix.EINTR; {
		n, errno = p.wait(max(time.Until(end), 0))
	}
	if errno != 0 {
		return nil, os.NewSyscallError("epoll_pwait2", errno)
	}
	for _, ev := range p.events[:n] {
		if q := p.queues[ev.Fd]; q != nil {
			p.ready = append(p.ready, q)
		}
	}
	return p.ready, nil
}

// wait is the system call. One that does not wait is kept from the scheduler.
func (p *Poller) wait(timeout time.Duration) (n uintptr, errno unix.Errno) {
	ts := unix.NsecToTimespec(int64(timeout))
	if timeout == 0 {
		n, _, errno = unix.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), uintptr(unsafe.Pointer(&ts)), 0, 0)
	} else {
		n, _, errno = unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), uintptr(unsafe.Pointer(&ts)), 0, 0)
	}
	return n, errno
}

// Close closes p; the Queues stay open.
func (p *Poller) Close() error {
	for _, q := range p.queues {
		if q != nil {
			q.poller = nil
		}
	}
	return os.NewSyscallError("close", unix.Close(p.fd))
}
