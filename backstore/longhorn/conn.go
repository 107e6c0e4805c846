package longhorn

import (
	"fmt"
	"io"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

// Tuning.
const (
	maxBatch = 64 // requests in one system call
	maxIov   = 2*maxBatch + 1
	maxSend  = 512 << 10 // bytes after which a batch is sent without waiting for its end

	windowSize  = 64 << 10 // bytes read beyond the payload whose place is known
	smallWindow = 512      // the same when the answers awaited are large, so that little of the next is copied
	largeReply  = 32 << 10
	maxReads    = 16       // system calls a wake-up
	longCall    = 64 << 10 // bytes from which the runtime is told of a system call
)

// A conn is one connection to the engine. It is guarded by its store's lock.
type conn struct {
	s     *Store
	fd    int // -1 once lost
	born  time.Time
	size  int64  // of the volume, as the engine told it when the connection was made
	stop  func() // ends the loop's watch; nil without one
	inSet bool   // in the epoll set

	sendq     backstore.Queue
	sendBytes int  // payload queued
	headSent  int  // bytes of the first queued request that the socket has
	ctl       ctl  // what is sent besides requests
	inflight  int  // requests it has, sent or not
	blocked   bool // the socket is full
	noSend    bool // the socket takes nothing any more; what was sent may still be answered
	unproven  bool // its end will not tell that the engine is gone
	retire    bool // the engine has ended it: what was sent may still be answered

	reads     int // reads sent or queued, and the bytes they ask for
	readBytes int64

	parser
	heads [maxBatch][headerSize]byte
	iov   [maxIov]unix.Iovec
	niov  int
	msg   unix.Msghdr
	riov  [2]unix.Iovec
}

// A ctl is one message without payload: a question whether the engine lives, or an answer to its own. There is one at a time.
type ctl struct {
	b    [headerSize]byte
	left int // bytes of it to send
}

func newConn(s *Store, fd int, size int64) *conn {
	return &conn{s: s, fd: fd, size: size, born: time.Now()}
}

func (c *conn) usable() bool { return !c.noSend && !c.retire }

func (c *conn) hasWork() bool { return (c.sendq.Head() != nil || c.ctl.left > 0) && !c.noSend }

// take queues a slot's request.
func (c *conn) take(sl *slot) {
	c.inflight++
	switch sl.typ {
	case typeRead:
		c.reads++
		c.readBytes += sl.req.Len
	case typeWrite:
		c.sendBytes += len(sl.req.Buf)
	}
	c.sendq.Push(sl.req)
}

// say queues a message without payload, unless one is under way.
func (c *conn) say(h header) {
	if c.ctl.left == 0 && c.usable() {
		h.put(&c.ctl.b)
		c.ctl.left = headerSize
	}
}

// send gives the socket what is queued until it is full.
func (c *conn) send() {
	for c.hasWork() {
		total := c.gather()
		c.msg.Iov = &c.iov[0]
		c.msg.SetIovlen(c.niov)
		n, errno := c.call(unix.SYS_SENDMSG, unsafe.Pointer(&c.msg), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, total)
		clear(c.iov[:c.niov]) // keep no buffer alive
		switch errno {
		case 0:
			c.advance(n)
		case unix.EINTR:
		case unix.EAGAIN:
			c.blocked = true
			c.s.arm(c)
			return
		default:
			// The end is dealt with where it is read, after the answers that are still there.
			c.noSend = true
			c.unproven = c.unproven || errno != unix.EPIPE && errno != unix.ECONNRESET
			_ = unix.Shutdown(c.fd, unix.SHUT_RDWR) // fails only where the socket is dead already
			return
		}
	}
}

// gather lays out the first of what is queued and returns its bytes. Between two requests, the message without payload goes first.
func (c *conn) gather() (total int) {
	c.niov = 0
	skip, n := c.headSent, 0
	if skip == 0 && c.ctl.left > 0 {
		total += c.lay(c.ctl.b[headerSize-c.ctl.left:])
	}
	for r := c.sendq.Head(); r != nil && n < maxBatch && total < maxSend; r = r.Next {
		sl := &c.s.slots[r.Slot]
		b := &c.heads[n]
		n++
		h := header{magic: magic, seq: sl.seq, typ: sl.typ, off: r.Off, size: uint32(r.Len)}
		if sl.typ == typeWrite {
			h.length = uint32(r.Len)
		}
		h.put(b)
		if skip < headerSize {
			total += c.lay(b[skip:])
			skip = headerSize
		}
		if sl.typ == typeWrite {
			total += c.lay(r.Buf[skip-headerSize:])
		}
		skip = 0
	}
	return total
}

// lay adds b to the vector; headers in a row are one piece.
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
	if c.headSent == 0 {
		k := min(n, c.ctl.left)
		c.ctl.left -= k
		n -= k
	}
	n += c.headSent
	for c.sendq.Head() != nil {
		sl := &c.s.slots[c.sendq.Head().Slot]
		payload := 0
		if sl.typ == typeWrite {
			payload = len(sl.req.Buf)
		}
		if n < headerSize+payload {
			break
		}
		n -= headerSize + payload
		c.sendBytes -= payload
		sl.sent = true
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
			c.s.lost(c, errno == unix.ECONNRESET && !c.unproven, errno)
			return
		case n == 0:
			c.s.lost(c, !c.unproven, io.EOF)
			return
		}
		c.s.heard = time.Now()
		direct := min(n, len(dst))
		if direct > 0 {
			c.placed(direct)
		}
		if err := c.feed(win[:n-direct]); err != nil {
			// Nothing that such an engine sends can be believed, its closing included.
			c.s.lost(c, false, fmt.Errorf("the engine broke the protocol: %w", err))
			return
		}
		if c.fd < 0 {
			return
		}
		if c.retire && c.inflight == 0 {
			c.s.lost(c, true, errShutdown)
			return
		}
		if n < asked {
			return
		}
	}
}

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

// changes tells whether a message of that type changes the volume.
func changes(typ uint32) bool { return typ == typeWrite || typ == typeUnmap }

var _ backstore.Completer = signal(nil)

// A signal tells a goroutine that a request has ended.
type signal chan struct{}

func (c signal) Complete(*backstore.Request) { c <- struct{}{} }
