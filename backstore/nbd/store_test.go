package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A done collects completions; each must come once.
type done chan *backstore.Request

func (d done) Complete(r *backstore.Request) { d <- r }

// limit is how long a test waits for what must happen.
const limit = 20 * time.Second

type harness struct {
	t  testing.TB
	st *Store
	// With a loop, calls are made with its lock held, as the loop does.
	loop  *testLoop
	mu    sync.Mutex
	warns []string
}

func openURI(t testing.TB, uri string, loop *testLoop) *harness {
	t.Helper()
	h, err := tryOpen(t, uri, loop)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func tryOpen(t testing.TB, uri string, loop *testLoop) (*harness, error) {
	t.Helper()
	u, err := backstore.ParseURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{t: t, loop: loop}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	st, err := backstore.NewRegistry(Drivers()...).Open(ctx, u, backstore.Options{Warn: func(w string) {
		h.mu.Lock()
		h.warns = append(h.warns, w)
		h.mu.Unlock()
	}})
	if err != nil {
		return nil, err
	}
	h.st = st.(*Store)
	h.st.cfg.minPause, h.st.cfg.maxPause = time.Millisecond, 20*time.Millisecond
	if loop != nil {
		loop.mu.Lock()
		defer loop.mu.Unlock()
		if err := h.st.Attach(loop); err != nil {
			t.Fatal(err)
		}
	}
	return h, nil
}

// wantRemark waits until the store has made a remark with part in it; it comes after completions.
func (h *harness) wantRemark(part string) {
	h.t.Helper()
	for end := time.Now().Add(limit); ; runtime.Gosched() {
		h.mu.Lock()
		all := strings.Join(h.warns, "\n")
		h.mu.Unlock()
		if strings.Contains(all, part) {
			return
		}
		if time.Now().After(end) {
			h.t.Fatalf("no remark %q in %q", part, all)
		}
	}
}

func (h *harness) locked(f func()) {
	if h.loop != nil {
		h.loop.mu.Lock()
		defer h.loop.mu.Unlock()
	}
	f()
}

// submit begins requests as one batch and returns the channel on which they end.
func (h *harness) submit(rs ...*backstore.Request) done {
	h.t.Helper()
	d := make(done, len(rs))
	h.locked(func() {
		for _, r := range rs {
			r.C = d
			if out := h.st.Submit(r); out == backstore.Done {
				d <- r
			} else if out != backstore.Pending {
				h.t.Errorf("%v: outcome %d", r.Op, out)
			}
		}
		h.st.Kick()
	})
	return d
}

func (h *harness) wait(d done) *backstore.Request {
	h.t.Helper()
	select {
	case r := <-d:
		return r
	case <-time.After(limit):
		buf := make([]byte, 1<<16)
		h.t.Fatalf("no completion\n%s", buf[:runtime.Stack(buf, true)])
		return nil
	}
}

func (h *harness) do(r *backstore.Request) error {
	h.t.Helper()
	return h.wait(h.submit(r)).Err
}

func (h *harness) must(r *backstore.Request) {
	h.t.Helper()
	if err := h.do(r); err != nil {
		h.t.Fatal(err)
	}
}

// close closes the store, which must go well.
func (h *harness) close() {
	h.t.Helper()
	if err := h.closeErr(); err != nil {
		h.t.Error(err)
	}
}

func (h *harness) closeErr() error {
	h.t.Helper()
	h.locked(h.st.Detach)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return h.st.Close(ctx)
}

func read(off, n int64) *backstore.Request {
	return &backstore.Request{Op: backstore.Read, Off: off, Len: n, Buf: make([]byte, n)}
}

func write(off int64, b []byte) *backstore.Request {
	return &backstore.Request{Op: backstore.Write, Off: off, Len: int64(len(b)), Buf: b}
}

func flush() *backstore.Request { return &backstore.Request{Op: backstore.Flush} }

func fill(n int, b byte) []byte { return bytes.Repeat([]byte{b}, n) }

func classIs(t *testing.T, err error, want backstore.Class) {
	t.Helper()
	var be *backstore.Error
	if !errors.As(err, &be) || be.Class != want {
		t.Fatalf("error %v, want class %v", err, want)
	}
}

// modes are the ways to talk that a server may have.
var modes = [...]string{"simple", "structured", "extended", "tls"}

// speak makes the server one of a mode.
func (s *server) speak(t testing.TB, mode string) {
	s.simple, s.ext = mode == "simple", mode == "extended"
	if mode == "tls" {
		s.secure(t)
	}
}

// everyWay runs f with each kind of server and each way to wait.
func everyWay(t *testing.T, f func(t *testing.T, s *server, loop *testLoop)) {
	for _, network := range []string{"unix", "tcp"} {
		for _, mode := range modes {
			for _, looped := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/loop=%v", network, mode, looped), func(t *testing.T) {
					s := newServer(t, network)
					s.speak(t, mode)
					s.flags |= tfMultiConn
					var loop *testLoop
					if looped {
						loop = newTestLoop(t)
					}
					f(t, s, loop)
				})
			}
		}
	}
}

func TestModel(t *testing.T) {
	everyWay(t, func(t *testing.T, s *server, loop *testLoop) {
		h := openURI(t, s.start().uri(""), loop)
		model := make([]byte, len(s.data))
		rnd := rand.New(rand.NewPCG(1, 2))
		const areas, area = 16, 64 << 10 // requests in flight keep to areas of their own
		for range 60 {
			var rs []*backstore.Request
			for a := range int64(areas) {
				n := 1 + rnd.Int64N(area-1)
				off := a*area + rnd.Int64N(area-n)
				var r *backstore.Request
				switch rnd.IntN(6) {
				case 0, 1:
					r = write(off, fill(int(n), byte(rnd.Uint32())))
					copy(model[off:], r.Buf)
				case 2:
					r = &backstore.Request{Op: backstore.WriteZeroes, Off: off, Len: n, Flags: backstore.FUA | backstore.KeepAllocated}
					clear(model[off : off+n])
				case 3:
					r = &backstore.Request{Op: backstore.Discard, Off: off, Len: n}
					clear(model[off : off+n])
				case 4:
					r = flush()
				default:
					r = read(off, n)
					r.Flags = backstore.Flags(rnd.IntN(2)) // FUA or not
				}
				rs = append(rs, r)
			}
			d := h.submit(rs...)
			for range rs {
				r := h.wait(d)
				if r.Err != nil {
					t.Fatal(r.Err)
				}
				if r.Op == backstore.Read && !bytes.Equal(r.Buf, model[r.Off:r.Off+r.Len]) {
					t.Fatalf("read of %d at %d differs from the model", r.Len, r.Off)
				}
			}
		}
		h.close()
		s.ended()
		s.stop()
		if s.made != defaultConns || s.discs != defaultConns {
			t.Fatalf("%d connections and %d good-byes, want %d", s.made, s.discs, defaultConns)
		}
		if !bytes.Equal(s.data, model) {
			t.Fatal("the server's data differ from the model")
		}
	})
}

func TestInfo(t *testing.T) {
	s := newServer(t, "unix")
	s.min, s.noAlloc = 512, true
	s.flags |= tfRotational
	h := openURI(t, s.start().uri("&inflight=7&shared=on"), nil)
	defer h.close()
	got := h.st.Info()
	want := backstore.Info{Driver: "nbd+unix", Volume: s.addr + "/disk", Size: 1 << 20, BlockSize: 512, PhysicalBlock: 4096,
		MaxTransfer: 256 << 10, MaxInFlight: 7, MemAlign: 1, Rotational: true, Shared: true, MaxDiscard: maxZero,
		Caps: backstore.CapFlush | backstore.CapFUA | backstore.CapDiscard | backstore.CapWriteZeroes}
	if got != want {
		t.Fatalf("info\n%+v, want\n%+v", got, want)
	}
	if len(h.st.conns) != 1 {
		t.Fatalf("%d connections to a server without multi-conn", len(h.st.conns))
	}
	classIs(t, h.do(read(1, 512)), backstore.ClassRange)
	classIs(t, h.do(read(1<<20, 512)), backstore.ClassRange)
	classIs(t, h.do(&backstore.Request{Op: backstore.Allocation, Len: 512}), backstore.ClassUnsupported)
	r := read(0, 512)
	r.Flags = backstore.NoWait
	if out := h.st.Submit(r); out != backstore.WouldBlock {
		t.Fatalf("NoWait: outcome %d", out)
	}
	h.must(read(0, 0))
}

func TestInfoOfOtherExports(t *testing.T) {
	c := &config{scheme: "nbd", inFlight: 1}
	ex := &export{size: 1<<20 + 100, flags: tfHasFlags | tfReadOnly | tfTrim | tfWriteZeroes | tfFUA}
	i := ex.info(c)
	if i.BlockSize != 1 || i.Size != 1<<20+100 || !i.ReadOnly || i.Caps != 0 || i.MaxTransfer != maxPayload {
		t.Fatalf("an odd read-only export without FLUSH and block sizes: %+v", i)
	}
	ex = &export{size: 1<<20 + 100, flags: tfHasFlags | tfMultiConn, blocks: true, min: 4096, preferred: 4 << 20, payload: 1<<32 - 1}
	i = ex.info(c)
	if i.BlockSize != 4096 || i.Size != 1<<20 || i.PhysicalBlock != 4096 || i.OptimalIO != 4<<20 || !i.Coherent || i.MaxTransfer != maxPayload {
		t.Fatalf("large preferred block: %+v", i)
	}
}

func TestReadOnly(t *testing.T) {
	s := newServer(t, "unix")
	s.flags |= tfReadOnly
	h := openURI(t, s.start().uri(""), nil)
	defer h.close()
	if !h.st.Info().ReadOnly {
		t.Fatal("not read-only")
	}
	classIs(t, h.do(write(0, fill(512, 1))), backstore.ClassReadOnly)
	h.must(read(0, 512))
	h.must(flush())
}

// A batch is one packet, and nothing is sent before its end.
func TestKickSendsOnce(t *testing.T) {
	s := newServer(t, "unix")
	h := openURI(t, s.start().uri(""), newTestLoop(t))
	defer h.close()
	d := make(done, 32)
	h.locked(func() {
		for i := range 32 {
			r := read(int64(i)*4096, 4096)
			r.C = d
			if out := h.st.Submit(r); out != backstore.Pending {
				t.Fatalf("outcome %d: %v", out, r.Err)
			}
		}
		c := h.st.conns[0]
		if c.sendq.Len() != 32 || c.headSent != 0 {
			t.Fatalf("%d of 32 requests are queued before Kick", c.sendq.Len())
		}
		if total := c.gather(); total != 32*requestSize || c.niov != 1 {
			t.Fatalf("a batch of reads is %d bytes in %d pieces", total, c.niov)
		}
		h.st.Kick()
		if c.sendq.Len() != 0 {
			t.Fatalf("%d requests are queued after Kick", c.sendq.Len())
		}
	})
	for range 32 {
		if r := h.wait(d); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
}

// A server that does not read fills the socket; Submit and Kick go on at once, and everything is sent later.
func TestFullSocket(t *testing.T) {
	everyWay(t, func(t *testing.T, s *server, loop *testLoop) {
		hold := make(chan struct{})
		s.answer = func(*srvConn, srvRequest) bool {
			<-hold
			return false
		}
		s.data = make([]byte, 16<<20)
		h := openURI(t, s.start().uri("&connections=2"), loop)
		var rs []*backstore.Request
		for i := range 64 {
			rs = append(rs, write(int64(i)*(256<<10), fill(256<<10, byte(i+1))))
		}
		d := h.submit(rs...)
		h.locked(func() {
			h.st.mu.Lock()
			defer h.st.mu.Unlock()
			for _, c := range h.st.conns {
				if !c.blocked || c.sendq.Len() == 0 {
					t.Errorf("connection %d: %d requests queued, blocked %v: the socket took all", c.i, c.sendq.Len(), c.blocked)
				}
			}
		})
		r := write(0, fill(1, 1))
		close(hold)
		for range rs {
			if r := h.wait(d); r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		h.must(r)
		h.close()
		s.stop()
		for i := range 64 {
			if at := i*(256<<10) + 1; s.data[at] != byte(i+1) || s.data[at+(256<<10)-2] != byte(i+1) {
				t.Fatalf("write %d is not there", i)
			}
		}
	})
}

func TestBusy(t *testing.T) {
	s := newServer(t, "unix")
	hold := make(chan struct{})
	s.answer = func(*srvConn, srvRequest) bool {
		<-hold
		return false
	}
	h := openURI(t, s.start().uri("&inflight=2"), nil)
	d := h.submit(read(0, 1), read(1, 1))
	classIs(t, h.do(read(2, 1)), backstore.ClassBusy)
	close(hold)
	h.wait(d)
	h.wait(d)
	h.must(read(2, 1))
	h.close()
}

// Close ends with its context and leaves the store to its last request, and to the loop until that lets go.
func TestCloseOrphans(t *testing.T) {
	for _, looped := range []bool{false, true} {
		s := newServer(t, "unix")
		hold := make(chan struct{})
		flushed := make(chan struct{}, 1)
		s.answer = func(_ *srvConn, q srvRequest) bool {
			switch q.cmd {
			case cmdWrite:
				<-hold
			case cmdFlush:
				flushed <- struct{}{}
			}
			return false
		}
		var loop *testLoop
		if looped {
			loop = newTestLoop(t)
		}
		h := openURI(t, s.start().uri(""), loop)
		d := h.submit(write(0, fill(8, 7)))
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		classIs(t, h.st.Close(ctx), backstore.ClassBusy)
		classIs(t, h.do(read(0, 1)), backstore.ClassOffline)
		close(hold)
		if r := h.wait(d); r.Err != nil {
			t.Fatal(r.Err)
		}
		h.locked(func() {
			if looped && len(flushed) != 0 {
				t.Error("the orphan went on without the loop's letting go")
			}
			h.st.Detach()
		})
		select {
		case <-flushed: // the orphan still flushes
		case <-time.After(limit):
			t.Fatal("the orphan did not flush")
		}
		<-h.st.ctx.Done() // and is released
	}
}

func TestNothingLeaks(t *testing.T) {
	count := func() (goroutines, fds int) {
		ents, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return runtime.NumGoroutine(), len(ents)
	}
	s := newServer(t, "unix")
	s.flags |= tfMultiConn
	s.start()
	openURI(t, s.uri(""), nil).close() // the runtime's own descriptors
	s.ended()
	g, f := count()
	for i := range 8 {
		h := openURI(t, s.uri("&restart=safe"), nil)
		h.must(write(0, fill(512, 1)))
		if i%2 == 1 {
			s.drop()
			h.must(read(0, 512))
		}
		h.close()
	}
	s.ended()
	// Goroutines that have done their work take a moment to be gone.
	for deadline := time.Now().Add(limit); ; runtime.Gosched() {
		g2, f2 := count()
		if g2 <= g && f2 <= f {
			return
		}
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			t.Fatalf("%d goroutines and %d descriptors, before %d and %d\n%s", g2, f2, g, f, buf[:runtime.Stack(buf, true)])
		}
	}
}

// What is asked for is what is on the wire.
func TestWire(t *testing.T) {
	s := newServer(t, "unix")
	got := make(chan srvRequest, 8)
	s.answer = func(c *srvConn, q srvRequest) bool {
		got <- q
		return false
	}
	h := openURI(t, s.start().uri(""), nil)
	defer h.close()
	type wire struct {
		cmd, flags uint16
		off        uint64
		n          uint64
	}
	for _, tc := range []struct {
		r    backstore.Request
		want []wire
	}{
		{backstore.Request{Op: backstore.Read, Off: 8, Len: 8, Buf: make([]byte, 8)}, []wire{{cmdRead, 0, 8, 8}}},
		{backstore.Request{Op: backstore.Read, Off: 8, Len: 8, Buf: make([]byte, 8), Flags: backstore.FUA | backstore.DPO}, []wire{{cmdFlush, 0, 0, 0}, {cmdRead, 0, 8, 8}}},
		{backstore.Request{Op: backstore.Write, Off: 8, Len: 8, Buf: make([]byte, 8)}, []wire{{cmdWrite, 0, 8, 8}}},
		{backstore.Request{Op: backstore.Write, Off: 8, Len: 8, Buf: make([]byte, 8), Flags: backstore.FUA}, []wire{{cmdWrite, cfFUA, 8, 8}}},
		{backstore.Request{Op: backstore.Discard, Off: 8, Len: 8}, []wire{{cmdTrim, 0, 8, 8}}},
		{backstore.Request{Op: backstore.Discard, Off: 8, Len: 8, Flags: backstore.FUA}, []wire{{cmdTrim, cfFUA, 8, 8}}},
		{backstore.Request{Op: backstore.WriteZeroes, Off: 8, Len: 8}, []wire{{cmdWriteZeroes, 0, 8, 8}}},
		{backstore.Request{Op: backstore.WriteZeroes, Off: 8, Len: 8, Flags: backstore.FUA | backstore.KeepAllocated}, []wire{{cmdWriteZeroes, cfFUA | cfNoHole, 8, 8}}},
		{backstore.Request{Op: backstore.Flush}, []wire{{cmdFlush, 0, 0, 0}}},
	} {
		h.must(&tc.r)
		for _, w := range tc.want {
			if q := <-got; (wire{q.cmd, q.flags, q.off, q.n}) != w {
				t.Errorf("%v with flags %b: %+v on the wire, want %+v", tc.r.Op, tc.r.Flags, q, w)
			}
		}
		if len(got) != 0 {
			t.Errorf("%v: more on the wire than it is", tc.r.Op)
		}
	}
}

// A volume that was closed with a write under way is not opened anew before that has ended, however long its server is away: it would be sent again
// behind the back of who opens it then, and take the place of what is newer. Reads do not matter, nor other volumes.
func TestOpenAfterOrphan(t *testing.T) {
	s, other := newServer(t, "unix").start(), newServer(t, "unix").start()
	hold := make(chan struct{})
	s.answer = func(*srvConn, srvRequest) bool { <-hold; return false }
	reg := backstore.NewRegistry(Drivers()...)
	open := func(s *server) (*Store, error) {
		t.Helper()
		u, err := backstore.ParseURI(s.uri("&restart=safe"))
		if err != nil {
			t.Fatal(err)
		}
		st, err := reg.Open(t.Context(), u, backstore.Options{})
		if err != nil {
			return nil, err
		}
		return st.(*Store), nil
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	leave := func(r *backstore.Request) (*Store, done) {
		t.Helper()
		st, err := open(s)
		if err != nil {
			t.Fatal(err)
		}
		d := make(done, 1)
		r.C = d
		if out := st.Submit(r); out != backstore.Pending {
			t.Fatalf("outcome %d", out)
		}
		st.Kick()
		classIs(t, st.Close(over), backstore.ClassBusy)
		return st, d
	}
	reader, readEnd := leave(read(0, 8))
	writer, writeEnd := leave(write(0, fill(8, 1))) // opened in spite of the read
	_, err := open(s)
	classIs(t, err, backstore.ClassBusy)
	if st, err := open(other); err != nil {
		t.Error(err)
	} else if err := st.Close(t.Context()); err != nil {
		t.Error(err)
	}
	close(hold)
	for _, d := range []done{readEnd, writeEnd} {
		if r := <-d; r.Err != nil {
			t.Error(r.Err)
		}
	}
	<-reader.ctx.Done()
	<-writer.ctx.Done()
	st, err := open(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
