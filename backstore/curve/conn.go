package curve

import (
	"errors"
	"fmt"
	"io"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/curve/brpc"
)

// Tuning.
const (
	maxBatch = 64 // requests in one system call
	maxIov   = 2 * maxBatch
	maxHead  = 128       // bytes of a request without its data: 96 at most
	maxSend  = 512 << 10 // bytes after which a batch is sent without waiting for its end

	windowSize  = 64 << 10 // bytes read beyond the data whose place is known
	smallWindow = 512      // the same when the answers awaited are large, so that little of the next is copied
	largeReply  = 32 << 10
	maxReads    = 16       // system calls a wake-up
	longCall    = 64 << 10 // bytes from which the runtime is told of a system call
)

// A conn is a connection to nebd-server for the I/O of one store. It is guarded by its store's lock.
type conn struct {
	s    *Store
	fd   int   // the socket; -1 once lost
	file int32 // the descriptor in the server
	stop func()

	inSet bool // in the epoll set

	sendq     backstore.Queue
	sendBytes int  // data queued
	headSent  int  // bytes of the first queued request that the socket has
	blocked   bool // the socket is full
	noSend    bool // the socket takes nothing any more; what was sent may still be answered
	told      bool // that it says "later"

	reads     int // reads that it has, and the bytes they ask for
	readBytes int64

	parser
	heads [maxBatch * maxHead]byte
	sizes [maxBatch]int // of the heads
	iov   [maxIov]unix.Iovec
	niov  int
	msg   unix.Msghdr
	riov  [2]unix.Iovec
	text  [40]byte
}

func newConn(s *Store, fd int) *conn {
	c := &conn{s: s, fd: fd, file: s.v.fd.Load()}
	c.need = brpc.HeaderSize
	return c
}

// take queues a request.
func (c *conn) take(r *backstore.Request) {
	switch r.Op {
	case backstore.Read:
		c.reads++
		c.readBytes += r.Len
	case backstore.Write:
		c.sendBytes += len(r.Buf)
	}
	c.sendq.Push(r)
}

// send gives the socket what is queued until it is full.
func (c *conn) send() {
	for c.sendq.Head() != nil && !c.noSend {
		total := c.gather()
		c.msg.Iov = &c.iov[0]
		c.msg.SetIovlen(c.niov)
		n, errno := c.call(unix.SYS_SENDMSG, unsafe.Pointer(&c.msg), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, total)
		clear(c.iov[:c.niov])
		switch errno {
		case 0:
			c.advance(n)
		case unix.EINTR:
		case unix.EAGAIN:
			c.blocked = true
			c.s.arm(c)
			return
		default:
			c.hangUp() // the end is dealt with where it is read, after the answers that are still there
			return
		}
	}
}

func (c *conn) hangUp() {
	c.noSend = true
	_ = unix.Shutdown(c.fd, unix.SHUT_RDWR) // fails only where the socket is dead already
}

// gather lays out the first requests of the queue and returns their bytes.
func (c *conn) gather() (total int) {
	c.niov = 0
	skip, n := c.headSent, 0
	heads := c.heads[:0]
	for r := c.sendq.Head(); r != nil && n < maxBatch && total < maxSend; r = r.Next {
		start := len(heads)
		heads = c.appendHead(heads, r)
		h := heads[start:]
		c.sizes[n] = len(h)
		n++
		if skip < len(h) {
			total += c.lay(h[skip:])
			skip = len(h)
		}
		if r.Op == backstore.Write {
			total += c.lay(r.Buf[skip-len(h):])
		}
		skip = 0
	}
	return total
}

// appendHead appends a request without its data. It is the same whenever the request is laid out on this connection, since part of it may have been sent.
func (c *conn) appendHead(b []byte, r *backstore.Request) []byte {
	method, attachment := "Read", 0
	switch r.Op {
	case backstore.Write:
		method, attachment = "Write", len(r.Buf)
	case backstore.Discard:
		method = "Discard"
	}
	message := appendRange(c.text[:0], c.file, r.Off, r.Len)
	return brpc.AppendRequest(b, fileService, method, 0, int64(c.s.slots[r.Slot].cookie), message, attachment)
}

// lay adds b to the vector; heads in a row are one piece.
func (c *conn) lay(b []byte) int {
	p := unsafe.SliceData(b)
	if c.niov > 0 {
		if v := &c.iov[c.niov-1]; uintptr(unsafe.Pointer(v.Base))+uintptr(v.Len) == uintptr(unsafe.Pointer(p)) {
			v.SetLen(int(v.Len) + len(b))
			return len(b)
		}
	}
	c.iov[c.niov].Base = p
	c.iov[c.niov].SetLen(len(b))
	c.niov++
	return len(b)
}

// advance takes n sent bytes off the queue.
func (c *conn) advance(n int) {
	n += c.headSent
	for i := 0; c.sendq.Head() != nil; i++ {
		r := c.sendq.Head()
		data := 0
		if r.Op == backstore.Write {
			data = len(r.Buf)
		}
		if i >= maxBatch || n < c.sizes[i]+data {
			break
		}
		n -= c.sizes[i] + data
		c.sendBytes -= data
		c.s.slots[r.Slot].sent = true
		c.sendq.Pop()
	}
	c.headSent = n
}

// receive reads what is there and deals with it.
func (c *conn) receive() {
	for range maxReads {
		dst := c.dst
		k := 0
		if len(dst) > 0 {
			c.riov[0].Base = unsafe.SliceData(dst)
			c.riov[0].SetLen(len(dst))
			k = 1
		}
		win := c.s.win
		if c.reads > 0 && c.readBytes/int64(c.reads) >= largeReply {
			win = win[:smallWindow]
		}
		c.riov[k].Base = unsafe.SliceData(win)
		c.riov[k].SetLen(len(win))
		asked := len(dst) + len(win)
		n, errno := c.call(unix.SYS_READV, unsafe.Pointer(&c.riov[0]), uintptr(k+1), asked)
		c.riov[0].Base = nil // keep no buffer alive
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			return
		case errno != 0:
			c.s.lost(c, errno)
			return
		case n == 0:
			c.s.lost(c, io.EOF)
			return
		}
		direct := min(n, len(dst))
		err := error(nil)
		if direct > 0 {
			err = c.placed(direct)
		}
		if err == nil {
			err = c.feed(win[:n-direct])
		}
		if err != nil {
			c.s.lost(c, fmt.Errorf("%w: %w", errProtocol, err))
			return
		}
		if n < asked {
			return
		}
	}
}

var errProtocol = errors.New("nebd-server broke the protocol")

// call makes a system call on the socket that does not sleep. One that may copy for long tells the runtime.
func (c *conn) call(nr uintptr, p unsafe.Pointer, arg uintptr, size int) (int, unix.Errno) {
	var n uintptr
	var errno unix.Errno
	if size > longCall+smallWindow {
		n, _, errno = unix.Syscall(nr, uintptr(c.fd), uintptr(p), arg)
	} else {
		n, _, errno = unix.RawSyscall(nr, uintptr(c.fd), uintptr(p), arg)
	}
	return int(n), errno
}

func closeFd(fd int) {
	_ = unix.Close(fd) // on Linux the descriptor is gone whatever it answers
}
