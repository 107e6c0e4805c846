package nbd

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A server is an NBD server in memory, for tests: it behaves unless told otherwise.
type server struct {
	t       testing.TB
	network string
	addr    string
	flags   uint16
	blocks  bool // tell block sizes
	min     uint32
	simple  bool        // refuse structured replies
	ext     bool        // agree to extended headers
	noAlloc bool        // refuse base:allocation
	tls     *tls.Config // demand TLS
	certs   string      // for clients of it
	exports []byte      // the answer to the question for exports
	told    uint64      // the size that is told, where it is not that of data
	accept  int         // connections that get an answer; 0: all

	// answer, if set, may deal with a request in its own way; it says whether it did. It is called on the
	// connection's goroutine.
	answer func(c *srvConn, q srvRequest) bool

	mu    sync.Mutex
	data  []byte
	l     net.Listener
	conns map[*srvConn]bool
	gone  *sync.Cond // a connection has ended
	made  int        // connections that reached the transmission phase
	discs int        // good-byes heard
	wg    sync.WaitGroup
}

type srvConn struct {
	net.Conn
	raw        net.Conn // below TLS
	s          *server
	n          int // which connection it is, from 1
	structured bool
	ext        bool
	size       uint64 // of the export, as it was told: it holds for the connection
	wmu        sync.Mutex
}

type srvRequest struct {
	flags, cmd uint16
	cookie     uint64
	off        uint64
	n          uint64
	data       []byte
}

const allFlags = tfHasFlags | tfFlush | tfFUA | tfTrim | tfWriteZeroes

func newServer(t testing.TB, network string) *server {
	s := &server{t: t, network: network, flags: allFlags, blocks: true, min: 1, data: make([]byte, 1<<20), conns: map[*srvConn]bool{}}
	s.gone = sync.NewCond(&s.mu)
	if network == "unix" {
		s.addr = filepath.Join(t.TempDir(), "s")
	} else {
		s.addr = "127.0.0.1:0"
	}
	return s
}

func (s *server) start() *server {
	s.t.Helper()
	l, err := net.Listen(s.network, s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	s.l, s.addr = l, l.Addr().String()
	s.mu.Unlock()
	s.t.Cleanup(s.stop)
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		for n := 0; ; n++ {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			if s.accept != 0 && n >= s.accept {
				defer func() { _ = nc.Close() }()
				continue
			}
			c := &srvConn{Conn: nc, raw: nc, s: s}
			s.mu.Lock()
			s.conns[c] = true
			s.mu.Unlock()
			s.wg.Add(1)
			go func() {
				defer s.wg.Done()
				c.serve()
			}()
		}
	}()
	return s
}

// stop closes the listener and every connection, as a killed process does.
func (s *server) stop() {
	s.mu.Lock()
	l := s.l
	s.l = nil
	s.mu.Unlock()
	if l == nil {
		return
	}
	_ = l.Close()
	s.drop()
	s.wg.Wait()
}

// resize gives the export another size; connections that are there know nothing of it.
func (s *server) resize(size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data := make([]byte, size)
	copy(data, s.data)
	s.data = data
}

// ended waits until every connection has ended by itself.
func (s *server) ended() {
	s.t.Helper()
	late := time.AfterFunc(limit, func() { s.gone.Broadcast() })
	defer late.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for start := time.Now(); len(s.conns) > 0; s.gone.Wait() {
		if time.Since(start) >= limit {
			s.t.Fatal("connections stay open")
		}
	}
}

// drop closes every connection.
func (s *server) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.hangUp()
	}
}

func (s *server) uri(opts string) string {
	if s.tls != nil {
		opts += "&tls-certificates=" + s.certs
	}
	return s.bareURI(opts)
}

// bareURI is uri without certificates.
func (s *server) bareURI(opts string) string {
	scheme := "nbd"
	if s.tls != nil {
		scheme = "nbds"
	}
	if s.network == "unix" {
		return scheme + "+unix:///disk?socket=" + s.addr + opts
	}
	if opts != "" {
		opts = "?" + opts[1:]
	}
	return scheme + "://" + s.addr + "/disk" + opts
}

func (c *srvConn) serve() {
	defer func() {
		c.hangUp()
		c.s.mu.Lock()
		delete(c.s.conns, c)
		c.s.gone.Broadcast()
		c.s.mu.Unlock()
	}()
	r, err := c.handshake()
	if err != nil {
		return
	}
	c.s.mu.Lock()
	c.s.made++
	c.n = c.s.made
	c.s.mu.Unlock()
	for {
		var h [extRequestSize]byte
		size, magic := requestSize, uint32(magicRequest)
		if c.ext {
			size, magic = extRequestSize, magicExtRequest
		}
		if _, err := io.ReadFull(r, h[:size]); err != nil {
			return
		}
		if binary.BigEndian.Uint32(h[:]) != magic {
			c.s.t.Error("a request without its magic")
			return
		}
		q := srvRequest{flags: binary.BigEndian.Uint16(h[4:]), cmd: binary.BigEndian.Uint16(h[6:]), cookie: binary.BigEndian.Uint64(h[8:]),
			off: binary.BigEndian.Uint64(h[16:]), n: uint64(binary.BigEndian.Uint32(h[24:]))}
		if c.ext {
			q.n = binary.BigEndian.Uint64(h[24:])
		}
		if has := q.flags&cfPayload != 0; has != (c.ext && q.cmd == cmdWrite) {
			c.s.t.Errorf("command %d with payload flag %v", q.cmd, has)
		}
		if q.cmd == cmdDisc {
			c.s.mu.Lock()
			c.s.discs++
			c.s.mu.Unlock()
			return
		}
		if q.cmd == cmdWrite {
			q.data = make([]byte, q.n)
			if _, err := io.ReadFull(r, q.data); err != nil {
				return
			}
		}
		if q.off+q.n > c.size {
			c.s.t.Errorf("request %d reaches to %d on a connection that was told of %d bytes", q.cmd, q.off+q.n, c.size)
			return
		}
		if c.s.answer == nil || !c.s.answer(c, q) {
			c.obey(q)
		}
	}
}

// handshake ends with the reader of what follows.
func (c *srvConn) handshake() (r io.Reader, err error) {
	r = c.Conn // unbuffered: TLS may begin
	b := binary.BigEndian.AppendUint64(nil, magicInit)
	b = binary.BigEndian.AppendUint64(b, magicOption)
	b = binary.BigEndian.AppendUint16(b, flagFixedNewstyle|flagNoZeroes)
	c.send(b)
	var f [4]byte
	if _, err := io.ReadFull(r, f[:]); err != nil {
		return nil, err
	}
	secure := c.s.tls == nil
	if binary.BigEndian.Uint32(f[:]) != flagFixedNewstyle|flagNoZeroes {
		c.s.t.Error("wrong client flags")
	}
	for {
		var h [16]byte
		if _, err := io.ReadFull(r, h[:]); err != nil {
			return nil, err
		}
		opt := binary.BigEndian.Uint32(h[8:])
		body := make([]byte, binary.BigEndian.Uint32(h[12:]))
		if _, err := io.ReadFull(r, body); err != nil {
			return nil, err
		}
		switch {
		case opt == optStartTLS && !secure:
			c.send(optReply(opt, repAck, nil))
			tc := tls.Server(c.Conn, c.s.tls)
			if err := tc.Handshake(); err != nil {
				return nil, err
			}
			c.s.mu.Lock()
			c.Conn, secure = tc, true
			c.s.mu.Unlock()
			r = tc
		case !secure:
			c.send(optReply(opt, errTLS, nil))
		case opt == optExtended && c.s.ext:
			c.ext, c.structured = true, true
			c.send(optReply(opt, repAck, nil))
		case opt == optSetContext && c.structured && !c.s.noAlloc:
			c.send(append(optReply(opt, repMeta, append(binary.BigEndian.AppendUint32(nil, theContext), contextName...)), optReply(opt, repAck, nil)...))
		case opt == optList && c.s.exports != nil:
			c.send(c.s.exports)
		case opt == optList:
			for _, name := range [...]string{"disk", "", "a b/ü?"} {
				c.send(optReply(opt, repServer, append(binary.BigEndian.AppendUint32(nil, uint32(len(name))), name+"what it is"...)))
			}
			c.send(optReply(opt, repAck, nil))
		case opt == optStructured && !c.s.simple:
			c.structured = true
			c.send(optReply(opt, repAck, nil))
		case (opt == optGo || opt == optInfo) && string(body[4:len(body)-4]) == "disk":
			info := binary.BigEndian.AppendUint16(nil, infoExport)
			c.s.mu.Lock()
			if c.size = uint64(len(c.s.data)); c.s.told != 0 {
				c.size = c.s.told
			}
			c.s.mu.Unlock()
			info = binary.BigEndian.AppendUint64(info, c.size)
			info = binary.BigEndian.AppendUint16(info, c.s.flags)
			out := optReply(opt, repInfo, info)
			if c.s.blocks {
				bs := binary.BigEndian.AppendUint16(nil, infoBlockSize)
				bs = binary.BigEndian.AppendUint32(bs, c.s.min)
				bs = binary.BigEndian.AppendUint32(bs, 4096)
				bs = binary.BigEndian.AppendUint32(bs, 256<<10)
				out = append(out, optReply(opt, repInfo, bs)...)
			}
			c.send(append(out, optReply(opt, repAck, nil)...))
			if opt == optGo {
				return bufio.NewReader(r), nil
			}
		case opt == optGo || opt == optInfo:
			c.send(optReply(opt, errUnkn, []byte("no such thing")))
		case opt == optAbort:
			c.send(optReply(opt, repAck, nil))
			return nil, errors.New("aborted")
		default:
			c.send(optReply(opt, errUnsup, nil))
		}
	}
}

func optReply(opt, typ uint32, body []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, magicOptReply)
	b = binary.BigEndian.AppendUint32(b, opt)
	b = binary.BigEndian.AppendUint32(b, typ)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	return append(b, body...)
}

// theContext is the number of base:allocation.
const theContext = 7

// obey does what the request says.
func (c *srvConn) obey(q srvRequest) {
	switch q.cmd {
	case cmdRead:
		c.s.mu.Lock()
		data := append([]byte(nil), c.s.data[q.off:q.off+q.n]...)
		c.s.mu.Unlock()
		if c.structured {
			c.chunk(q, chunkDone, chunkData, append(be64(q.off), data...))
		} else {
			c.send(append(simpleReply(q.cookie, 0), data...))
		}
	case cmdBlockStatus:
		c.status(q, c.s.extents(q.off, q.n)...)
	default:
		c.apply(q)
		c.ok(q)
	}
}

func (c *srvConn) apply(q srvRequest) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	switch q.cmd {
	case cmdWrite:
		copy(c.s.data[q.off:], q.data)
	case cmdTrim, cmdWriteZeroes:
		clear(c.s.data[q.off : q.off+q.n])
	}
}

func (c *srvConn) ok(q srvRequest) {
	if c.structured {
		c.chunk(q, chunkDone, chunkNone, nil)
	} else {
		c.send(simpleReply(q.cookie, 0))
	}
}

// chunk sends a chunk in the header that was agreed on.
func (c *srvConn) chunk(q srvRequest, flags, typ uint16, body []byte) {
	if c.ext {
		c.send(extChunk(q.cookie, q.off, flags, typ, body))
	} else {
		c.send(chunk(q.cookie, flags, typ, body))
	}
}

// fail answers an error, with a text where there is a place for one.
func (c *srvConn) fail(q srvRequest, errno uint32, text string) {
	if !c.structured {
		c.send(simpleReply(q.cookie, errno))
		return
	}
	c.chunk(q, chunkDone, chunkError, cat(be32(errno), be16(uint16(len(text))), []byte(text)))
}

// An extent is a descriptor of a block status.
type extent struct{ n, flags uint64 }

// status answers a block status request.
func (c *srvConn) status(q srvRequest, list ...extent) {
	if c.ext {
		c.chunk(q, chunkDone, chunkStatusExt, wideStatus(theContext, list...))
	} else {
		c.chunk(q, chunkDone, chunkStatus, narrowStatus(theContext, list...))
	}
}

func narrowStatus(context uint32, list ...extent) []byte {
	b := be32(context)
	for _, e := range list {
		b = cat(b, be32(uint32(e.n)), be32(uint32(e.flags)))
	}
	return b
}

func wideStatus(context uint32, list ...extent) []byte {
	b := cat(be32(context), be32(uint32(len(list))))
	for _, e := range list {
		b = cat(b, be64(e.n), be64(e.flags))
	}
	return b
}

// extents describes a range: a page of zeroes is a hole.
func (s *server) extents(off, n uint64) (list []extent) {
	const page, zero = 4096, 1 << 1
	s.mu.Lock()
	defer s.mu.Unlock()
	for end := off + n; off < end; {
		to := min(off/page*page+page, uint64(len(s.data)))
		e := extent{n: to - off, flags: stateHole | zero} // of the last page more than was asked for
		for _, b := range s.data[off/page*page : to] {
			if b != 0 {
				e.flags = 0
				break
			}
		}
		if k := len(list); k > 0 && list[k-1].flags == e.flags {
			list[k-1].n += e.n
		} else {
			list = append(list, e)
		}
		off = to
	}
	return list
}

func (c *srvConn) send(b []byte) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	_, _ = c.Write(b) // the peer may be gone
}

// hangUp closes the connection, if it is not closed yet, as the end of a process does: without a word of TLS.
func (c *srvConn) hangUp() { _ = c.raw.Close() }

// reset closes a TCP connection so that the peer gets a reset.
func (c *srvConn) reset() {
	_ = c.raw.(*net.TCPConn).SetLinger(0)
	c.hangUp()
}

func simpleReply(cookie uint64, errno uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, magicSimple)
	b = binary.BigEndian.AppendUint32(b, errno)
	return binary.BigEndian.AppendUint64(b, cookie)
}

func chunk(cookie uint64, flags, typ uint16, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, magicStructured)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, typ)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	return append(b, body...)
}

func extChunk(cookie, off uint64, flags, typ uint16, body []byte) []byte {
	return cat(be32(magicExtReply), be16(flags), be16(typ), be64(cookie), be64(off), be64(uint64(len(body))), body)
}

func dataChunk(cookie uint64, flags uint16, off uint64, data []byte) []byte {
	return chunk(cookie, flags, chunkData, append(binary.BigEndian.AppendUint64(nil, off), data...))
}

func holeChunk(cookie uint64, flags uint16, off uint64, n uint32) []byte {
	return chunk(cookie, flags, chunkHole, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, off), n))
}

func errorChunk(cookie uint64, flags uint16, errno uint32, text string) []byte {
	b := binary.BigEndian.AppendUint32(nil, errno)
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	return chunk(cookie, flags, chunkError, append(b, text...))
}

func errorAtChunk(cookie uint64, flags uint16, errno uint32, text string, off uint64) []byte {
	b := binary.BigEndian.AppendUint32(nil, errno)
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	return chunk(cookie, flags, chunkErrorAtOff, binary.BigEndian.AppendUint64(append(b, text...), off))
}

// A testLoop is a backstore.Loop: an epoll set and a goroutine that serves it.
type testLoop struct {
	t    testing.TB
	mu   sync.Mutex // the loop's lock
	set  int
	fds  map[int]func()
	quit int
	done chan struct{}
}

func newTestLoop(t testing.TB) *testLoop {
	set, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	quit, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	l := &testLoop{t: t, set: set, fds: map[int]func(){}, quit: quit, done: make(chan struct{})}
	if _, err := l.Watch(quit, func() {}); err != nil {
		t.Fatal(err)
	}
	go l.run()
	t.Cleanup(func() {
		if _, err := unix.Write(quit, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			t.Error(err)
		}
		<-l.done
		closeFd(set)
		closeFd(quit)
	})
	return l
}

func (l *testLoop) run() {
	defer close(l.done)
	events := make([]unix.EpollEvent, 16)
	for {
		n, err := unix.EpollWait(l.set, events, -1)
		if err != nil && err != unix.EINTR {
			l.t.Error(err)
			return
		}
		l.mu.Lock()
		for _, e := range events[:max(n, 0)] {
			if int(e.Fd) == l.quit {
				l.mu.Unlock()
				return
			}
			if f := l.fds[int(e.Fd)]; f != nil {
				f()
			}
		}
		l.mu.Unlock()
	}
}

// Watch is called with l.mu held, but for the first.
func (l *testLoop) Watch(fd int, ready func()) (func(), error) {
	l.fds[fd] = ready
	if err := unix.EpollCtl(l.set, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		return nil, err
	}
	return func() {
		delete(l.fds, fd)
		if err := unix.EpollCtl(l.set, unix.EPOLL_CTL_DEL, fd, nil); err != nil {
			l.t.Errorf("stop watching %d: %v", fd, err)
		}
	}, nil
}

func (l *testLoop) Shared(any, func(backstore.Loop) (io.Closer, error)) (io.Closer, error) {
	return nil, errors.New("nothing is shared here")
}
