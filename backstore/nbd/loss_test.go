package nbd

import (
	"bytes"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// once returns an answer that deals with the first request for which f says so, and counts the others.
func once(f func(c *srvConn, q srvRequest) bool) func(*srvConn, srvRequest) bool {
	var used atomic.Bool
	return func(c *srvConn, q srvRequest) bool {
		return !used.Load() && f(c, q) && used.CompareAndSwap(false, true)
	}
}

// A connection that dies in the middle of anything costs time, not errors.
func TestDeath(t *testing.T) {
	everyWay(t, func(t *testing.T, s *server, loop *testLoop) {
		page := fill(4096, 9)
		deaths := map[string]func(c *srvConn, q srvRequest) bool{
			"before the answer": func(c *srvConn, q srvRequest) bool { c.hangUp(); return true },
			"in a header":       func(c *srvConn, q srvRequest) bool { c.send(simpleReply(q.cookie, 0)[:9]); c.hangUp(); return true },
			"in the data": func(c *srvConn, q srvRequest) bool {
				if c.structured {
					b := dataChunk(q.cookie, 1, q.off, fill(4096, 1))
					if c.ext {
						b = extChunk(q.cookie, q.off, 1, chunkData, cat(be64(q.off), fill(4096, 1)))
					}
					c.send(b[:2000])
				} else {
					c.send(cat(simpleReply(q.cookie, 0), fill(2000, 1)))
				}
				c.hangUp()
				return true
			},
			"by nonsense": func(c *srvConn, q srvRequest) bool { c.send(fill(64, 0xaa)); return true },
		}
		var active atomic.Pointer[func(*srvConn, srvRequest) bool]
		s.answer = func(c *srvConn, q srvRequest) bool {
			f := active.Load()
			return f != nil && (*f)(c, q)
		}
		h := openURI(t, s.start().uri("&restart=safe&connections=2"), loop)
		h.must(write(0, page))
		for name, death := range deaths {
			for _, r := range []*backstore.Request{read(0, 4096), write(4096, page), flush(), {Op: backstore.WriteZeroes, Off: 8192, Len: 4096}} {
				f := once(death)
				if r.Op != backstore.Read && name == "in the data" {
					continue
				}
				active.Store(&f)
				if err := h.do(r); err != nil {
					t.Fatalf("%v, death %s: %v", r.Op, name, err)
				}
				if r.Op == backstore.Read && !bytes.Equal(r.Buf, page) {
					t.Fatalf("wrong data after a death %s", name)
				}
			}
		}
		active.Store(nil)
		h.close()
	})
}

// Many requests in flight survive a server that is killed and started again.
func TestRestartUnderLoad(t *testing.T) {
	everyWay(t, func(t *testing.T, s *server, loop *testLoop) {
		var n atomic.Int32
		stopped := make(chan struct{})
		s.answer = func(c *srvConn, q srvRequest) bool {
			if n.Add(1) == 40 {
				go func() {
					s.stop()
					close(stopped)
				}()
				return true // and the request is lost
			}
			return false
		}
		h := openURI(t, s.start().uri("&restart=safe"), loop)
		var rs []*backstore.Request
		for i := range 128 {
			rs = append(rs, write(int64(i)*8192, fill(8192, byte(i+1))))
		}
		d := h.submit(rs...)
		<-stopped
		s.start()
		for range rs {
			if r := h.wait(d); r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		h.must(flush())
		for i := range 128 {
			r := read(int64(i)*8192, 8192)
			if h.must(r); !bytes.Equal(r.Buf, fill(8192, byte(i+1))) {
				t.Fatalf("write %d is not there", i)
			}
		}
		h.close()
	})
}

// Once the time limit has passed, what waits ends, and new requests end at once, until the server is back.
func TestTimeLimit(t *testing.T) {
	for _, tc := range [][2]string{{"unix", "structured"}, {"unix", "tls"}, {"tcp", "tls"}} {
		t.Run(tc[0]+"/"+tc[1], func(t *testing.T) { testTimeLimit(t, tc[0], tc[1]) })
	}
}

func testTimeLimit(t *testing.T, network, mode string) {
	s := newServer(t, network)
	s.speak(t, mode)
	var n atomic.Int32
	s.answer = func(c *srvConn, q srvRequest) bool {
		if q.off >= 4096 {
			// And nothing of it is done: the peer sees an end that is a proof. Over TCP that wants all that was sent to be read.
			if n.Add(1) == 2 {
				c.hangUp()
			}
			return true
		}
		return false
	}
	h := openURI(t, s.start().uri("&offline_after=50ms"), newTestLoop(t))
	h.must(read(0, 512))
	s.mu.Lock()
	_ = s.l.Close()
	s.mu.Unlock()
	d := h.submit(read(4096, 512), write(8192, fill(512, 1)))
	for range 2 {
		classIs(t, h.wait(d).Err, backstore.ClassOffline)
	}
	classIs(t, h.do(read(0, 512)), backstore.ClassOffline)
	h.wantRemark("away for")
	s.stop()
	s.start()
	h.untilBack()
	h.must(write(0, fill(512, 2)))
	h.close()
}

// With offline_after=0 nothing ends however long the server is away.
func TestNeverOffline(t *testing.T) {
	s := newServer(t, "unix")
	h := openURI(t, s.start().uri("&offline_after=0&restart=safe"), newTestLoop(t))
	h.must(read(0, 512))
	s.stop()
	d := h.submit(read(0, 512), write(0, fill(512, 1)))
	h.wantRemark("reconnecting")
	h.st.mu.Lock()
	if h.st.outage != nil {
		t.Error("there is a time limit")
	}
	h.st.mu.Unlock()
	s.start()
	for range 2 {
		if r := h.wait(d); r.Err != nil {
			t.Error(r.Err)
		}
	}
	h.close()
}

// untilBack repeats a read until the server is there again.
func (h *harness) untilBack() {
	h.t.Helper()
	for end := time.Now().Add(limit); ; {
		err := h.do(read(0, 512))
		if err == nil {
			return
		}
		if time.Now().After(end) {
			h.t.Fatal(err)
		}
	}
}

// A write whose first copy may still run does not end with the time limit; it is sent again and answered. A read
// in the same place ends.
func TestDoubtfulWrite(t *testing.T) {
	for _, mode := range []string{"structured", "tls"} {
		t.Run(mode, func(t *testing.T) { testDoubtfulWrite(t, mode) })
	}
}

func testDoubtfulWrite(t *testing.T, mode string) {
	s := newServer(t, "tcp")
	s.speak(t, mode)
	var n atomic.Int32
	s.answer = func(c *srvConn, q srvRequest) bool {
		switch n.Add(1) {
		case 1:
		case 2: // both are here, and neither is answered
			s.mu.Lock()
			_ = s.l.Close()
			s.mu.Unlock()
			c.reset()
		default:
			return false
		}
		return true
	}
	h := openURI(t, s.start().uri("&offline_after=50ms"), nil)
	w, r := write(0, fill(512, 3)), read(512, 512)
	d := h.submit(w, r)
	if got := h.wait(d); got != r {
		t.Fatalf("%v ended with %v, though its first copy may still run", got.Op, got.Err)
	}
	classIs(t, r.Err, backstore.ClassOffline)
	s.stop()
	s.start()
	if got := h.wait(d); got != w || got.Err != nil {
		t.Fatalf("%v: %v", got.Op, got.Err)
	}
	h.close()
	s.stop()
	if !bytes.Equal(s.data[:512], w.Buf) {
		t.Fatal("the write is not there")
	}
}

// A server that is gone with unflushed writes may have lost them.
func TestUnflushed(t *testing.T) {
	for _, tc := range []struct {
		name string
		opts string
		do   []*backstore.Request
		fail bool
	}{
		{"unflushed", "", []*backstore.Request{write(0, fill(8, 1))}, true},
		{"flushed before", "", []*backstore.Request{write(0, fill(8, 1)), flush(), write(8, fill(8, 1))}, true},
		{"flushed", "", []*backstore.Request{write(0, fill(8, 1)), flush()}, false},
		{"FUA", "", []*backstore.Request{{Op: backstore.WriteZeroes, Len: 8, Flags: backstore.FUA}}, false},
		{"nothing written", "", []*backstore.Request{read(0, 8)}, false},
		{"a safe server", "&restart=safe", []*backstore.Request{write(0, fill(8, 1))}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newServer(t, "unix")
			h := openURI(t, s.start().uri(tc.opts), newTestLoop(t))
			for _, r := range tc.do {
				h.must(r)
			}
			s.stop()
			s.start()
			h.untilBack()
			err := h.do(flush())
			werr := h.do(write(0, fill(8, 2)))
			if tc.fail {
				classIs(t, err, backstore.ClassMedium)
				classIs(t, werr, backstore.ClassMedium)
				classIs(t, h.closeErr(), backstore.ClassMedium)
				return
			}
			if err != nil || werr != nil {
				t.Fatal(err, werr)
			}
			h.close()
		})
	}
}

// A flush in flight when an unsafe server is lost does not vouch for what that server held.
func TestFlushInFlight(t *testing.T) {
	s := newServer(t, "unix")
	s.answer = once(func(c *srvConn, q srvRequest) bool {
		if q.cmd == cmdFlush {
			c.hangUp()
		}
		return q.cmd == cmdFlush
	})
	h := openURI(t, s.start().uri(""), nil)
	h.must(write(0, fill(8, 1)))
	classIs(t, h.do(flush()), backstore.ClassMedium)
	classIs(t, h.closeErr(), backstore.ClassMedium)
}

// With several connections the others vouch for the server of the one that was lost, as long as they live.
func TestVouching(t *testing.T) {
	s := newServer(t, "unix")
	s.flags |= tfMultiConn
	var flushedOn atomic.Int32
	s.answer = func(c *srvConn, q srvRequest) bool {
		if q.cmd == cmdFlush {
			flushedOn.Store(int32(c.n))
		}
		return false
	}
	h := openURI(t, s.start().uri("&connections=2"), newTestLoop(t))
	loseFirst := func(n int) {
		t.Helper()
		s.mu.Lock()
		made := s.made
		for c := range s.conns {
			if c.n == n {
				c.hangUp()
			}
		}
		s.mu.Unlock()
		for end := time.Now().Add(limit); ; {
			h.must(read(0, 8))
			s.mu.Lock()
			back := s.made > made
			s.mu.Unlock()
			ready := false
			h.locked(func() {
				h.st.mu.Lock()
				ready = h.st.live == 2
				h.st.mu.Unlock()
			})
			if back && ready {
				return
			}
			if time.Now().After(end) {
				t.Fatal("the connection did not come back")
			}
		}
	}
	h.must(write(0, fill(8, 1)))
	loseFirst(1)
	// Whatever connection is first in turn, the flush goes to the one that was there before.
	h.must(flush())
	if n := flushedOn.Load(); n != 2 {
		t.Fatalf("the flush after the loss of connection 1 went to %d", n)
	}
	// Its answer vouches for the new one too, so that this may vouch for it in turn.
	for range 8 {
		h.must(read(0, 8))
	}
	h.must(write(0, fill(8, 2)))
	loseFirst(2)
	h.must(flush())
	if n := flushedOn.Load(); n != 3 {
		t.Fatalf("the flush after the loss of connection 2 went to %d", n)
	}
	// All lost at once: nobody vouches.
	h.must(write(0, fill(8, 3)))
	s.stop()
	s.start()
	h.untilBack()
	classIs(t, h.do(flush()), backstore.ClassMedium)
	classIs(t, h.closeErr(), backstore.ClassMedium)
}

// ESHUTDOWN is a refusal: the request goes to the server's successor.
func TestServerShutsDown(t *testing.T) {
	everyWay(t, func(t *testing.T, s *server, loop *testLoop) {
		var first atomic.Bool
		s.answer = func(c *srvConn, q srvRequest) bool {
			if c.n == 1 && q.off >= 8192 || first.CompareAndSwap(false, true) {
				c.fail(q, nbdESHUTDOWN, "bye")
				return true
			}
			return false
		}
		h := openURI(t, s.start().uri("&connections=1&restart=safe"), loop)
		var rs []*backstore.Request
		for i := range 8 {
			rs = append(rs, write(int64(i)*4096, fill(4096, byte(i+1))))
		}
		d := h.submit(rs...)
		for range rs {
			if r := h.wait(d); r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		h.close()
		s.ended()
		s.stop()
		for i := range 8 {
			if s.data[i*4096] != byte(i+1) {
				t.Fatalf("write %d is not there", i)
			}
		}
		if s.made < 2 || s.discs < 2 {
			t.Fatalf("%d connections, %d good-byes", s.made, s.discs)
		}
	})
}

// A server that always answers ESHUTDOWN is offline.
func TestServerShutsDownForEver(t *testing.T) {
	s := newServer(t, "unix")
	s.answer = func(c *srvConn, q srvRequest) bool {
		c.send(errorChunk(q.cookie, chunkDone, nbdESHUTDOWN, ""))
		return true
	}
	h := openURI(t, s.start().uri(""), nil)
	classIs(t, h.do(read(0, 8)), backstore.ClassOffline)
	h.close()
}

// A request that kills the server every time is given up, if it can be.
func TestPoison(t *testing.T) {
	s := newServer(t, "unix")
	var seen atomic.Int32
	s.answer = func(c *srvConn, q srvRequest) bool {
		seen.Add(1)
		c.hangUp()
		return true
	}
	h := openURI(t, s.start().uri(""), nil)
	classIs(t, h.do(write(0, fill(8, 1))), backstore.ClassTransport)
	if n := seen.Load(); n != maxResends+1 {
		t.Fatalf("sent %d times", n)
	}
	h.close()
}

// A server that comes back with something else is not used.
func TestOtherExport(t *testing.T) {
	ex := export{size: 1 << 20, flags: allFlags, blocks: true, min: 512, preferred: 4096, payload: 1 << 20}
	for _, change := range []func(*export){
		func(e *export) { e.size -= 512 },
		func(e *export) { e.flags |= tfReadOnly },
		func(e *export) { e.flags &^= tfFUA },
		func(e *export) { e.blocks = false },
		func(e *export) { e.min = 4096 },
		func(e *export) { e.payload = 4096 },
	} {
		now := ex
		if err := ex.same(&now); err != nil {
			t.Fatal(err)
		}
		if change(&now); ex.same(&now) == nil {
			t.Errorf("%+v was taken for %+v", now, ex)
		}
	}
	s := newServer(t, "unix")
	h := openURI(t, s.start().uri("&offline_after=50ms"), nil)
	h.must(read(0, 8))
	s.stop()
	whole := s.data
	s.data = whole[:len(whole)/2]
	s.start()
	d := h.submit(read(0, 8))
	classIs(t, h.wait(d).Err, backstore.ClassOffline)
	h.wantRemark("the export now has 524288 bytes")
	classIs(t, h.do(read(0, 8)), backstore.ClassOffline)
	s.stop()
	s.data = whole
	s.start()
	h.untilBack()
	h.close()
}

// A flush that a successor has answered, after the loss of a connection that held unflushed writes, goes again to one
// that can vouch for them.
func TestFlushOnSuccessor(t *testing.T) {
	s, old := bare(t, true)
	next := newConn(s, 1, -1, &export{structured: true, size: uint64(s.info.Size)})
	next.era = 1
	s.conns = append(s.conns, next)
	s.acked = 1
	s.cur, s.burst = next, 0
	s.pace.mean = time.Hour // or it would be the first connection
	f := flush()
	s.begin(f)
	sendBare(next)
	s.suspect, s.askEra, s.lostMark = true, 0, 1
	if err := next.feed(chunk(s.slots[f.Slot].cookie, 1, chunkNone, nil)); err != nil {
		t.Fatal(err)
	}
	if s.done.Len() != 0 || s.slots[f.Slot].c != old || !s.suspect {
		t.Fatalf("%d ended, suspect %v", s.done.Len(), s.suspect)
	}
	sendBare(old)
	if err := old.feed(chunk(s.slots[f.Slot].cookie, 1, chunkNone, nil)); err != nil {
		t.Fatal(err)
	}
	if s.done.Len() != 1 || f.Err != nil || s.suspect {
		t.Fatalf("%d ended, %v, suspect %v", s.done.Len(), f.Err, s.suspect)
	}
}
