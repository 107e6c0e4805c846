package longhorn

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

// limit is how long a test waits for what must happen.
const limit = 20 * time.Second

// An engine is a Longhorn engine in memory: it behaves unless told otherwise. While it behaves it allocates nothing for a request.
type engine struct {
	t    testing.TB
	path string

	mu sync.Mutex
	// answer, if set, may deal with a request in its own way; it says whether it did. It is called on the connection's goroutine.
	answer func(c *engineConn, h header, data []byte) bool

	data  []byte
	ends  int64 // where it says that the volume ends; 0: with data
	dumb  bool  // its error for what lies beyond the end does not tell the end
	bare  bool  // it has no replicas
	l     net.Listener
	conns map[*engineConn]bool
	made  int // connections so far
	wg    sync.WaitGroup
}

type engineConn struct {
	net.Conn
	e    *engine
	head [headerSize]byte
	in   []byte
	out  []byte
}

func newEngine(t testing.TB, size int64) *engine {
	t.Helper()
	dir, err := os.MkdirTemp("", "lh") // the path of a unix socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // nothing is left in it
	e := &engine{t: t, path: filepath.Join(dir, "longhorn-vol.sock"), data: make([]byte, size), conns: map[*engineConn]bool{}}
	return e.start()
}

func (e *engine) start() *engine {
	e.t.Helper()
	l, err := net.Listen("unix", e.path)
	if err != nil {
		e.t.Fatal(err)
	}
	e.mu.Lock()
	e.l = l
	e.mu.Unlock()
	e.t.Cleanup(e.stop)
	e.wg.Add(1)
	go func() {
		defer e.wg.Done()
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			c := &engineConn{Conn: nc, e: e}
			e.mu.Lock()
			e.conns[c] = true
			e.made++
			e.mu.Unlock()
			e.wg.Add(1)
			go func() {
				defer e.wg.Done()
				c.serve()
				_ = c.Close()
				e.mu.Lock()
				delete(e.conns, c)
				e.mu.Unlock()
			}()
		}
	}()
	return e
}

// stop closes the listener and every connection, as a killed process does.
func (e *engine) stop() {
	e.mu.Lock()
	l := e.l
	e.l = nil
	for c := range e.conns {
		_ = c.Close()
	}
	e.mu.Unlock()
	if l != nil {
		_ = l.Close()
	}
	e.wg.Wait()
}

func (e *engine) set(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

// answers has f answer from now on; nil: as an engine does.
func (e *engine) answers(f func(c *engineConn, h header, data []byte) bool) {
	e.set(func() { e.answer = f })
}

func (e *engine) uri(options string) string { return "longhorn:vol?socket=" + e.path + options }

func (c *engineConn) serve() {
	in := bufio.NewReaderSize(c, 64<<10)
	for {
		if _, err := io.ReadFull(in, c.head[:]); err != nil {
			return
		}
		var h header
		if err := h.get(&c.head); err != nil {
			c.e.t.Errorf("the engine was sent nonsense: %v", err)
			return
		}
		if cap(c.in) < int(h.length) {
			c.in = make([]byte, h.length)
		}
		data := c.in[:h.length]
		if _, err := io.ReadFull(in, data); err != nil {
			return
		}
		if h.typ == typeWrite && h.size != h.length || h.typ != typeWrite && h.length != 0 || h.off%sector != 0 || h.size%sector != 0 {
			c.e.t.Errorf("the engine was sent %+v", h)
		}
		c.e.mu.Lock()
		f := c.e.answer
		c.e.mu.Unlock()
		if f != nil && h.off != far && f(c, h, data) {
			continue
		}
		c.behave(h, data)
	}
}

// behave answers as an engine does.
func (c *engineConn) behave(h header, data []byte) {
	e := c.e
	e.mu.Lock()
	defer e.mu.Unlock()
	end := int64(len(e.data))
	if e.ends != 0 {
		end = e.ends
	}
	switch {
	case h.typ == typePing:
		c.say(h.seq, typeResponse, 0, nil)
	case h.off < 0 || h.off+int64(h.size) > end:
		if text := fmt.Sprintf("EOF: Read of %d bytes at offset %d is beyond volume size %d", h.size, h.off, end); e.dumb {
			c.say(h.seq, typeError, 0, []byte("out of range"))
		} else {
			c.say(h.seq, typeError, uint32(len(text)), []byte(text))
		}
	case e.bare:
		c.fail(h.seq, textNoReplica)
	case h.typ == typeRead:
		c.say(h.seq, typeResponse, h.size, e.data[h.off:h.off+int64(h.size)])
	case h.typ == typeWrite:
		copy(e.data[h.off:], data)
		c.say(h.seq, typeResponse, h.size, nil)
	case h.typ == typeUnmap:
		clear(e.data[h.off : h.off+int64(h.size)])
		c.say(h.seq, typeResponse, 0, nil)
	}
}

// say sends one message.
func (c *engineConn) say(seq, typ, size uint32, data []byte) {
	h := header{magic: magic, seq: seq, typ: typ, size: size, length: uint32(len(data))}
	h.put(&c.head)
	c.out = append(append(c.out[:0], c.head[:]...), data...)
	_, _ = c.Write(c.out) // the other side may be gone
}

func (c *engineConn) fail(seq uint32, text string) {
	c.say(seq, typeError, uint32(len(text)), []byte(text))
}

// raw sends what is no message.
func (c *engineConn) raw(b []byte) { _, _ = c.Write(b) } // the other side may be gone

// message is one as bytes.
func message(h header, data []byte) []byte {
	h.magic, h.length = magic, uint32(len(data))
	var b [headerSize]byte
	h.put(&b)
	return append(b[:], data...)
}

// warns collects a store's remarks.
type warns struct {
	mu   sync.Mutex
	list []string
	news chan struct{}
}

func (w *warns) warn(s string) {
	w.mu.Lock()
	w.list = append(w.list, s)
	w.mu.Unlock()
	select {
	case w.news <- struct{}{}:
	default:
	}
}

func (w *warns) count(part string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.list {
		if strings.Contains(s, part) {
			n++
		}
	}
	return n
}

// want turns the loop until the store has made a remark with part in it.
func (w *warns) want(h *backstoretest.Harness, part string) {
	h.T.Helper()
	for end := time.Now().Add(limit); w.count(part) == 0; {
		if time.Now().After(end) {
			h.T.Fatalf("no remark %q in %q", part, w.list)
		}
		h.Turn(5 * time.Millisecond)
	}
}

func tryOpen(t testing.TB, uri string) (*Store, *warns, error) {
	t.Helper()
	u, err := backstore.ParseURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	w := &warns{news: make(chan struct{}, 1)}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	st, err := backstore.NewRegistry(Driver()).Open(ctx, u, backstore.Options{Warn: w.warn})
	if err != nil {
		return nil, w, err
	}
	s := st.(*Store)
	s.cfg.minPause, s.cfg.maxPause = time.Millisecond, 20*time.Millisecond
	s.pause = s.cfg.minPause
	return s, w, nil
}

func openURI(t testing.TB, uri string, attach bool) (*backstoretest.Harness, *warns) {
	t.Helper()
	s, w, err := tryOpen(t, uri)
	if err != nil {
		t.Fatal(err)
	}
	return backstoretest.NewHarness(t, s, attach), w
}

// bothWays runs f with a store that has a goroutine of its own, and with one on a loop.
func bothWays(t *testing.T, f func(t *testing.T, attach bool)) {
	for _, attach := range []bool{false, true} {
		t.Run(fmt.Sprintf("loop=%v", attach), func(t *testing.T) {
			backstoretest.CheckLeaks(t)
			f(t, attach)
		})
	}
}

func fill(n int, b byte) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = b
	}
	return p
}

func read(off, n int64) *backstore.Request {
	return &backstore.Request{Op: backstore.Read, Off: off, Len: n, Buf: make([]byte, n)}
}

func write(off int64, b []byte) *backstore.Request {
	return &backstore.Request{Op: backstore.Write, Off: off, Len: int64(len(b)), Buf: b}
}

func discard(off, n int64) *backstore.Request {
	return &backstore.Request{Op: backstore.Discard, Off: off, Len: n}
}

// start begins requests as one batch; each must go pending.
func start(h *backstoretest.Harness, rs ...*backstore.Request) {
	h.T.Helper()
	for _, r := range rs {
		if out := h.Start(r); out != backstore.Pending {
			h.T.Fatalf("%v: outcome %d, %v", r.Op, out, r.Err)
		}
	}
	h.Kick()
}

// ended waits for n requests; each must end well.
func ended(h *backstoretest.Harness, n int) {
	h.T.Helper()
	for range n {
		if r := h.Wait(); r == nil || r.Err != nil {
			h.T.Fatalf("ended with %+v", r)
		}
	}
}
