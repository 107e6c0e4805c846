package nbd

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
	maxIov   = 2 * maxBatch
	maxSend  = 512 << 10 // bytes after which a batch is sent without waiting for its end
	perConn  = 16        // requests of a batch that one connection takes: what nbdkit and qemu work on at once

	windowSize  = 64 << 10 // bytes read beyond the payload whose place is known
	smallWindow = 512      // the same when the replies awaited are large, so that little of the next is copied
	largeReply  = 32 << 10
	maxReads    = 16       // system calls a connection and wake-up
	longCall    = 64 << 10 // bytes from which the runtime is told of a system call
)

// A conn is one connection in the transmission phase. It is guarded by its store's lock.
type conn struct {
	s     *Store
	i     int // its place in Store.conns
	fd    int // -1 once lost
	era   uint32
	birth uint64 // Store.seq when it was taken over
	born  time.Time
	size  uint64 // of the export, as this connection was told
	stop  func() // ends the loop's watch; nil without one
	inSet bool   // in the epoll set
	unix  bool
	tun   *tunnel // carries its bytes over TLS; nil without

	extended bool // headers
	headSize int  // bytes of a request's
	fastZero bool
	context  uint32 // of base:allocation

	sendq     backstore.Queue
	sendBytes int  // payload queued
	headSent  int  // bytes of the first queued request that the socket has
	inflight  int  // requests it has, sent or not
	blocked   bool // the socket is full
	noSend    bool // the socket takes nothing any more; what was sent may still be answered
	unproven  bool // its end will not tell that the server's end is gone
	retire    bool // the server wants to shut down: ends with the last answer

	reads     int // reads sent or queued, and the bytes they ask for
	readBytes int64

	parser
	heads [maxBatch][requestSize]byte
	wide  *[maxBatch][extRequestSize]byte // in their place with extended headers
	iov   [maxIov]unix.Iovec
	niov  int
	msg   unix.Msghdr
	riov  [2]unix.Iovec
}

func newConn(s *Store, i, fd int, ex *export) *conn {
	c := &conn{s: s, i: i, fd: fd, era: s.era, birth: s.seq, born: time.Now(), size: ex.size, unix: s.cfg.network == "unix"}
	c.extended, c.headSize, c.fastZero = ex.extended, requestSize, ex.flags&tfFastZero != 0
	c.context = ex.context
	if ex.extended {
		c.headSize, c.wide = extRequestSize, new([maxBatch][extRequestSize]byte)
	}
	c.begin(ex)
	return c
}

// close gives the descriptor back; a tunnel ends by itself soon after.
func (c *conn) close() {
	closeFd(c.fd)
	c.fd = -1
	if c.tun != nil {
		c.tun.stop()
	}
}

// proven tells whether the connection's end, an orderly one or errno, shows that the server's end of it is gone.
func (c *conn) proven(errno unix.Errno) bool {
	switch {
	case c.unproven:
		return false
	case c.tun != nil:
		return c.tun.proven.Load() // that of the socket pair tells nothing of the server
	}
	return errno == 0 || c.unix && errno == unix.ECONNRESET
}

func (c *conn) usable() bool { return !c.noSend && !c.retire && c.size >= uint64(c.s.info.Size) }

// take queues a slot's request.
func (c *conn) take(sl *slot) {
	c.inflight++
	switch sl.cmd {
	case cmdRead:
		c.reads++
		c.readBytes += sl.req.Len
	case cmdWrite:
		c.sendBytes += len(sl.req.Buf)
	}
	c.sendq.Push(sl.req)
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
			// The end is dealt with where it is read, after the answers that are still there.
			c.noSend = true
			c.unproven = !c.unix && c.tun == nil || errno != unix.EPIPE && errno != unix.ECONNRESET
			_ = unix.Shutdown(c.fd, unix.SHUT_RDWR) // fails only where the socket is dead already
			return
		}
	}
}

// gather lays out the first requests of the queue and returns their bytes.
func (c *conn) gather() (total int) {
	c.niov = 0
	skip, n := c.headSent, 0
	for r := c.sendq.Head(); r != nil && n < maxBatch && total < maxSend; r = r.Next {
		sl := &c.s.slots[r.Slot]
		var flags uint16
		if sl.cmd == cmdWrite {
			if r.Flags&backstore.FUA != 0 {
				flags = cfFUA
			}
		} else if sl.cmd > cmdFlush {
			flags = c.flags(sl)
		}
		if c.wide == nil {
			h := &c.heads[n]
			putRequest(h, flags, sl.cmd, sl.cookie, sl.off, uint32(sl.n))
			if skip < requestSize {
				total += c.lay(h[skip:])
			}
		} else {
			h := &c.wide[n]
			putExtended(h, flags, sl.cmd, sl.cookie, sl.off, sl.n)
			if skip < extRequestSize {
				total += c.lay(h[skip:])
			}
		}
		n++
		skip = max(skip, c.headSize)
		if sl.cmd == cmdWrite {
			total += c.lay(r.Buf[skip-c.headSize:])
		}
		skip = 0
	}
	return total
}

// flags are those on the wire of a slot's trim, write zeroes or block status.
func (c *conn) flags(sl *slot) (flags uint16) {
	r := sl.req
	if sl.cmd == cmdBlockStatus {
		if cap(r.Extents)-len(r.Extents) == 1 {
			return cfReqOne
		}
		return 0
	}
	if r.Flags&backstore.FUA != 0 {
		flags |= cfFUA
	}
	if sl.cmd == cmdWriteZeroes {
		if r.Flags&backstore.KeepAllocated != 0 {
			flags |= cfNoHole
		}
		if c.tryFast(sl) {
			flags |= cfFastZero
		}
	}
	return flags
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
	n += c.headSent
	for c.sendq.Head() != nil {
		sl := &c.s.slots[c.sendq.Head().Slot]
		payload := 0
		if sl.cmd == cmdWrite {
			payload = len(sl.req.Buf)
		}
		if n < c.headSize+payload {
			break
		}
		n -= c.headSize + payload
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
			c.s.lost(c, c.proven(errno), c.cause(errno))
			return
		case n == 0:
			c.s.lost(c, c.proven(0), c.cause(io.EOF))
			return
		}
		direct := min(n, len(dst))
		if direct > 0 {
			c.placed(direct)
		}
		if err := c.feed(win[:n-direct]); err != nil {
			// Nothing that such a server sends can be believed, its closing included.
			c.s.lost(c, false, fmt.Errorf("the server broke the protocol: %w", err))
			return
		}
		if c.retire && c.inflight == 0 {
			c.disconnect()
			c.s.lost(c, true, errShutdown)
			return
		}
		if n < asked {
			return
		}
	}
}

// cause is why the connection has ended: what the tunnel knows of it, if there is one.
func (c *conn) cause(err error) error {
	if c.tun != nil {
		return c.tun.cause(err)
	}
	return err
}

// disconnect says good-bye (NBD_CMD_DISC), if the socket takes it at once.
func (c *conn) disconnect() {
	if c.headSent == 0 && !c.noSend {
		disconnect(c.fd, c.extended)
	}
}

func disconnect(fd int, extended bool) {
	_, _ = unix.SendmsgN(fd, goodbye(extended), nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT) // a courtesy
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
