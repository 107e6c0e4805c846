package initiator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// Tuning of a Queue.
const (
	// DefaultSlab is what one read system call takes at most: some 60 answers of 4 KiB. It stays in the second-level cache.
	DefaultSlab = 256 << 10
	// MinSlab has room for every PDU that is not taken as it comes: all but Data-In.
	MinSlab = 16 << 10
	// receiveSlice is how long a blocking receive lasts at most, so that Wait can look at the clock.
	receiveSlice = 50 * time.Millisecond
)

// Forever is a timeout that does not end.
const Forever time.Duration = math.MaxInt64

// A Queue is a session for one goroutine that keeps many commands in flight. It owns a raw socket: what was submitted goes out with one
// writev, what has come is taken with one large read, and nothing is allocated on the way.
//
//	q.Submit(io)                     // as often as there is something to do
//	ended, err := q.Wait(Forever)    // sends, then waits until something ended
type Queue struct {
	e    *engine
	fd   int
	slab []byte
	n    int // received bytes at the start of slab that are no whole PDU yet

	given  []*IO // what the last Wait returned; its memory is the next one's
	err    error
	fds    [1]unix.PollFd
	poller *Poller
	index  int    // in poller's queues
	wants  uint32 // epoll events that poller waits for
}

// OpenQueue logs in and returns the session as a Queue. At most o.Depth commands are in flight; more may be submitted and wait.
func OpenQueue(ctx context.Context, o Options) (*Queue, error) {
	c, p, err := o.connect(ctx)
	if err != nil {
		return nil, err
	}
	sc, ok := c.NC.(syscall.Conn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("a Queue needs a socket, not a %T", c.NC)
	}
	fd, err := takeSocket(sc)
	c.Close() // fd is a duplicate: the connection stays
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.Portal, err)
	}
	return &Queue{e: newEngine(c, &o, p, o.depth()), fd: fd, slab: make([]byte, o.slab())}, nil
}

// takeSocket returns a descriptor of c of our own, in blocking mode with a receive time-out: calls that must not wait say so
// by MSG_DONTWAIT, and one that waits needs no poll before it.
func takeSocket(c syscall.Conn) (int, error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var dupErr error
	if err := rc.Control(func(s uintptr) { fd, dupErr = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return -1, err
	}
	if dupErr != nil {
		return -1, os.NewSyscallError("fcntl", dupErr)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("fcntl", err)
	}
	tv := unix.NsecToTimeval(int64(receiveSlice))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("setsockopt", err)
	}
	return fd, nil
}

// Params returns what was negotiated.
func (q *Queue) Params() Params { return q.e.p }

// InFlight returns how many commands are sent and not ended.
func (q *Queue) InFlight() int { return q.e.active }

// Submit takes io, which with its buffers belongs to the Queue until Poll or Wait returns it. Nothing is sent before
// these or Flush are called. On a Queue that has failed io ends with that error.
func (q *Queue) Submit(io *IO) {
	if q.err != nil {
		io.Err = q.err
		q.e.done = append(q.e.done, io)
		return
	}
	q.e.submit(io)
}

// Do runs one command to its end, on a Queue that has nothing else in flight. How it ended is in io; the error is the session's end or os.ErrDeadlineExceeded.
func (q *Queue) Do(io *IO, timeout time.Duration) error {
	end := time.Now().Add(timeout)
	for q.Submit(io); ; {
		ended, err := q.Wait(time.Until(end))
		if err != nil {
			return err
		}
		if len(ended) > 0 {
			return nil
		}
		if !time.Now().Before(end) {
			return fmt.Errorf("a command of opcode %02Xh: %w", io.CDB[0], os.ErrDeadlineExceeded)
		}
	}
}

// Flush sends what the socket takes now.
func (q *Queue) Flush() error {
	if q.err != nil {
		return q.err
	}
	if err := q.flush(); err != nil {
		return q.broken(err)
	}
	return nil
}

func (q *Queue) flush() error {
	e := q.e
	for e.out.left > 0 {
		v := e.out.unsent()
		m := unix.Msghdr{Iov: &v[0]}
		m.SetIovlen(len(v))
		n, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(q.fd), uintptr(unsafe.Pointer(&m)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch errno {
		case 0:
			e.given(int(n))
		case unix.EINTR:
		case unix.EAGAIN:
			return q.want(unix.EPOLLIN | unix.EPOLLOUT)
		default:
			return os.NewSyscallError("sendmsg", errno)
		}
	}
	return q.want(unix.EPOLLIN)
}

// broken makes err the end of the Queue: every IO ends with it.
func (q *Queue) broken(err error) error {
	if q.err == nil {
		q.err = err
	}
	q.e.fail(q.err)
	return q.err
}

// Poll sends and receives what can be at once and returns the IOs that ended. The slice is valid until the next
// Poll or Wait; Submit may be called while going through it.
// The error, if any, is the end of the session: every IO has ended with it then.
func (q *Queue) Poll() ([]*IO, error) { return q.Wait(0) }

// Wait is Poll that waits up to timeout until at least one IO ended.
func (q *Queue) Wait(timeout time.Duration) ([]*IO, error) {
	err := q.wait(timeout)
	if err != nil {
		err = q.broken(err)
	}
	clear(q.given)
	q.given, q.e.done = q.e.done, q.given[:0]
	return q.given, err
}

func (q *Queue) wait(timeout time.Duration) error {
	if q.err != nil {
		return q.err
	}
	var end time.Time
	if timeout > 0 && timeout != Forever {
		end = time.Now().Add(timeout)
	}
	for replies := q.e.replies; ; {
		if err := q.flush(); err != nil {
			return err
		}
		if len(q.e.done) > 0 {
			timeout = 0
		}
		n, err := q.receive(timeout)
		if err != nil {
			return err
		}
		if n > 0 {
			if err := q.take(n); err != nil {
				return err
			}
			if len(q.e.done) > 0 || q.e.replies != replies {
				return nil
			}
		}
		if timeout == 0 {
			return nil
		}
		if !end.IsZero() {
			if timeout = time.Until(end); timeout <= 0 {
				return nil
			}
		}
	}
}

// take feeds n more bytes of the slab to the engine.
func (q *Queue) take(n int) error {
	q.n += n
	used, err := q.e.feed(q.slab[:q.n])
	if err != nil {
		return err
	}
	q.n = copy(q.slab, q.slab[used:q.n])
	if q.e.leaving {
		if q.e.logout != nil && q.e.logout.reply != nil {
			return ErrLogoutRequested
		}
		if err := q.e.depart(); err != nil {
			return err
		}
		return q.flush()
	}
	return nil
}

// receive reads once, waiting as long as told, but not longer than receiveSlice. 0 bytes: nothing came.
func (q *Queue) receive(timeout time.Duration) (int, error) {
	flags := unix.MSG_DONTWAIT
	switch {
	case timeout == 0:
	case timeout >= receiveSlice && q.e.out.left == 0:
		flags = 0
	default:
		q.fds[0] = unix.PollFd{Fd: int32(q.fd), Events: unix.POLLIN}
		if q.e.out.left > 0 {
			q.fds[0].Events |= unix.POLLOUT
		}
		ts := unix.NsecToTimespec(int64(min(timeout, receiveSlice)))
		if _, err := unix.Ppoll(q.fds[:], &ts, nil); err != nil && err != unix.EINTR {
			return 0, os.NewSyscallError("ppoll", err)
		}
		if q.fds[0].Revents&^unix.POLLOUT == 0 {
			return 0, nil
		}
	}
	room := q.slab[q.n:]
	var n uintptr
	var errno unix.Errno
	if flags == 0 {
		n, _, errno = unix.Syscall6(unix.SYS_RECVFROM, uintptr(q.fd), uintptr(unsafe.Pointer(&room[0])), uintptr(len(room)), 0, 0, 0)
	} else {
		n, _, errno = unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(q.fd), uintptr(unsafe.Pointer(&room[0])), uintptr(len(room)), uintptr(flags), 0, 0)
	}
	switch errno {
	case 0:
		if n == 0 {
			return 0, fmt.Errorf("the target closed the connection: %w", io.ErrUnexpectedEOF)
		}
		return int(n), nil
	case unix.EAGAIN, unix.EINTR:
		return 0, nil
	}
	return 0, os.NewSyscallError("recvfrom", errno)
}

// Logout ends the session in good order: it waits for what is in flight, logs out and closes. The IOs that end meanwhile are dropped.
func (q *Queue) Logout(timeout time.Duration) error {
	end := time.Now().Add(timeout)
	for q.e.active > 0 || q.e.first != nil {
		if _, err := q.Wait(time.Until(end)); err != nil {
			return errors.Join(err, q.Close())
		}
		if !time.Now().Before(end) {
			return errors.Join(fmt.Errorf("%d commands have not ended: %w", q.e.active, os.ErrDeadlineExceeded), q.Close())
		}
	}
	lo := newLogout(pdu.LogoutCloseSession)
	if err := q.e.control(lo); err != nil {
		return errors.Join(err, q.Close())
	}
	for lo.active {
		if _, err := q.Wait(time.Until(end)); err != nil {
			return errors.Join(err, q.Close())
		}
		if lo.active && !time.Now().Before(end) {
			return errors.Join(fmt.Errorf("no Logout Response: %w", os.ErrDeadlineExceeded), q.Close())
		}
	}
	return errors.Join(logoutError(lo), q.Close())
}

func logoutError(lo *IO) error {
	if code := (*pdu.LogoutResp)(&lo.reply.Header).Response(); code != pdu.LogoutSuccess {
		return fmt.Errorf("Logout Response %d", code)
	}
	return nil
}

// Close closes the connection without a word; what is in flight is forgotten, and its buffers are the caller's again.
func (q *Queue) Close() error {
	if q.fd < 0 {
		return nil
	}
	if q.poller != nil {
		q.poller.remove(q)
	}
	err := unix.Close(q.fd)
	q.fd = -1
	if q.err == nil {
		q.err = ErrClosed
	}
	return os.NewSyscallError("close", err)
}
