package longhorn

import (
	"bytes"
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

// once returns an answer that deals with the first request for which f says so.
func once(f func(c *engineConn, h header, data []byte) bool) func(*engineConn, header, []byte) bool {
	var used atomic.Bool
	return func(c *engineConn, h header, data []byte) bool {
		return !used.Load() && f(c, h, data) && used.CompareAndSwap(false, true)
	}
}

// A connection that ends in the midst of anything costs time, not errors.
func TestDeath(t *testing.T) {
	bothWays(t, func(t *testing.T, attach bool) {
		e := newEngine(t, 1<<20)
		h, w := openURI(t, e.uri(""), attach)
		page := fill(sector, 9)
		h.Write(0, page, 0)
		for name, death := range map[string]func(c *engineConn, h header, _ []byte) bool{
			"before the answer": func(c *engineConn, h header, _ []byte) bool { _ = c.Close(); return true },
			"in a header": func(c *engineConn, h header, _ []byte) bool {
				c.raw(message(header{seq: h.seq, typ: typeResponse}, nil)[:9])
				_ = c.Close()
				return true
			},
			"in the data": func(c *engineConn, h header, _ []byte) bool {
				c.raw(message(header{seq: h.seq, typ: typeError, size: sector}, fill(sector, 1))[:2000])
				_ = c.Close()
				return true
			},
			"by nonsense": func(c *engineConn, h header, _ []byte) bool { c.raw(fill(64, 0xaa)); return true },
			"with an end": func(c *engineConn, h header, _ []byte) bool {
				c.raw(cat(make([]byte, 6), []byte{typeClose}, make([]byte, 19)))
				_ = c.Close()
				return true
			},
		} {
			for _, r := range []*backstore.Request{read(0, sector), write(sector, page), discard(2*sector, sector)} {
				e.answers(once(death))
				if err := h.Do(r); err != nil {
					t.Fatalf("%v, death %s: %v", r.Op, name, err)
				}
				if r.Op == backstore.Read && !bytes.Equal(r.Buf, page) {
					t.Fatalf("wrong data after a death %s", name)
				}
			}
		}
		w.want(h, "connection lost")
		w.want(h, "back after")
		h.Close()
	})
}

// Many requests in flight survive an engine that is killed and started again.
func TestRestartUnderLoad(t *testing.T) {
	bothWays(t, func(t *testing.T, attach bool) {
		e := newEngine(t, 4<<20)
		h, _ := openURI(t, e.uri(""), attach)
		var n atomic.Int32
		stopped := make(chan struct{})
		e.answers(func(c *engineConn, _ header, _ []byte) bool {
			if n.Add(1) == 40 {
				go func() {
					e.stop()
					close(stopped)
				}()
				return true // and the request is lost
			}
			return false
		})
		var rs []*backstore.Request
		for i := range 128 {
			rs = append(rs, write(int64(i)*8192, fill(8192, byte(i+1))))
		}
		start(h, rs...)
		for open := true; open; {
			select {
			case <-stopped:
				open = false
			default:
				h.Turn(time.Millisecond)
			}
		}
		e.start()
		ended(h, len(rs))
		for i := range 128 {
			h.Want(int64(i)*8192, fill(8192, byte(i+1)), "a write")
		}
		h.Close()
	})
}

// While the engine is away requests wait; with offline_after= they end when that has passed, as does every new one, until it is back.
func TestOfflineAfter(t *testing.T) {
	bothWays(t, func(t *testing.T, attach bool) {
		e := newEngine(t, 1<<20)
		h, w := openURI(t, e.uri("&offline_after=30ms"), attach)
		e.stop()
		start(h, read(0, sector), write(0, fill(sector, 1)))
		for range 2 {
			h.WantClass(h.Wait().Err, backstore.ClassOffline, "while it is away")
		}
		h.WantClass(h.Do(read(0, sector)), backstore.ClassOffline, "a new one")
		w.want(h, "away for 30ms: 2 requests ended, 0 writes wait")
		e.start()
		w.want(h, "back after")
		h.Write(0, fill(sector, 2), 0)
		h.Want(0, fill(sector, 2), "afterwards")
		h.Close()
	})
}

// A write of which a copy may still run is not ended, however long the engine is away: nobody could promise that it is not applied.
func TestDoubtIsNotEnded(t *testing.T) {
	for name, doubt := range map[string]func(c *engineConn, h header){
		// An engine that breaks the protocol is left by us: it may go on with what it has.
		"a broken protocol": func(c *engineConn, h header) { c.raw(fill(64, 0xaa)) },
		"an announced end": func(c *engineConn, h header) {
			c.raw(cat(make([]byte, 6), []byte{typeClose}, make([]byte, 19)))
			_ = c.Close()
		},
		// A replica that did not answer in time may still write.
		"a replica's silence": func(c *engineConn, h header) {
			c.e.set(func() { c.e.bare = true })
			c.fail(h.seq, "tcp://127.0.0.1:9502: r/w timeout")
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			bothWays(t, func(t *testing.T, attach bool) {
				e := newEngine(t, 1<<20)
				h, w := openURI(t, e.uri("&offline_after=30ms"), attach)
				lost := make(chan struct{})
				e.answers(once(func(c *engineConn, h header, _ []byte) bool {
					if h.typ != typeWrite {
						return false
					}
					doubt(c, h)
					close(lost)
					return true
				}))
				wr, rd := write(0, fill(sector, 7)), read(sector, sector)
				start(h, wr)
				<-lost
				e.stop()
				start(h, rd)
				if r := h.Wait(); r != rd || backstore.ClassOf(r.Err) != backstore.ClassOffline {
					t.Fatalf("%+v", r)
				}
				w.want(h, "1 requests ended, 1 writes wait that may still be carried out")
				e.set(func() { e.bare = false })
				e.start()
				ended(h, 1)
				h.Want(0, fill(sector, 7), "the write")
				h.Close()
			})
		})
	}
}

// An engine without replicas is as good as none: requests wait, and it is asked until it has some.
func TestNoReplicas(t *testing.T) {
	bothWays(t, func(t *testing.T, attach bool) {
		e := newEngine(t, 1<<20)
		h, w := openURI(t, e.uri(""), attach)
		var asked atomic.Int32
		e.set(func() { e.bare = true })
		e.answers(func(c *engineConn, h header, _ []byte) bool { asked.Add(1); return false })
		var rs []*backstore.Request
		for i := range int64(32) {
			rs = append(rs, write(i*sector, fill(sector, byte(i))))
		}
		start(h, rs...)
		w.want(h, "requests wait: "+textNoReplica)
		before := asked.Load()
		start(h, read(0, sector)) // one more, which is not even sent
		for asked.Load() < before+3 {
			h.Turn(time.Millisecond)
		}
		e.set(func() {
			if e.made != 1 {
				t.Errorf("%d connections", e.made)
			}
		})
		e.set(func() { e.bare = false })
		ended(h, 33)
		w.want(h, "back after")
		if w.count("requests wait:") != 1 {
			t.Errorf("remarks %q", w.list)
		}
		for i := range int64(32) {
			h.Want(i*sector, fill(sector, byte(i)), "a write")
		}
		h.Close()
	})
}

// The last replica is lost while it has a request: the request waits for the engine that is started anew.
func TestLastReplicaLost(t *testing.T) {
	bothWays(t, func(t *testing.T, attach bool) {
		e := newEngine(t, 1<<20)
		h, _ := openURI(t, e.uri(""), attach)
		for _, text := range []string{"EOF", "tcp://127.0.0.1:9502: EOF", "a: EOF; b: EOF", "a: failed to read message header: read tcp: connection reset by peer",
			"a: r/w timeout", "write: broken pipe"} {
			for _, r := range []*backstore.Request{read(0, sector), write(0, fill(sector, 3)), discard(sector, sector)} {
				e.answers(once(func(c *engineConn, h header, _ []byte) bool {
					c.e.set(func() { c.e.bare = true })
					c.fail(h.seq, text)
					return true
				}))
				start(h, r)
				for bare := false; !bare; h.Turn(time.Millisecond) {
					e.set(func() { bare = e.bare })
				}
				e.stop()
				e.set(func() { e.bare = false })
				e.start()
				ended(h, 1)
			}
		}
		h.Close()
	})
}

// A request with which the engine dies each time ends at last, and the others with it do not.
func TestDeadlyRequest(t *testing.T) {
	bothWays(t, func(t *testing.T, attach bool) {
		e := newEngine(t, 1<<20)
		h, _ := openURI(t, e.uri(""), attach)
		e.answers(func(c *engineConn, h header, _ []byte) bool {
			if h.off != 0 {
				return false
			}
			_ = c.Close()
			return true
		})
		h.WantClass(h.Do(read(0, sector)), backstore.ClassTransport, "a deadly read")
		e.answers(func(c *engineConn, h header, _ []byte) bool {
			if h.off != 0 {
				return false
			}
			c.fail(h.seq, "tcp://1: EOF")
			return true
		})
		start(h, write(0, fill(sector, 1)))
		// The probe reads there, too, so nothing goes on until it may.
		for sl := 0; sl < maxResends; h.Turn(time.Millisecond) {
			s := h.Store.(*Store)
			s.mu.Lock()
			if s.stalled {
				s.works() // as an engine that answers the probe well makes it
				s.sendAll()
				sl++
			}
			s.mu.Unlock()
		}
		h.WantClass(h.Wait().Err, backstore.ClassMedium, "a deadly write")
		e.answers(nil)
		h.Close()
	})
}

// Silence is no error; the log is told, and whether it is the engine's or its replicas'.
func TestSilence(t *testing.T) {
	bothWays(t, func(t *testing.T, attach bool) {
		e := newEngine(t, 1<<20)
		s, w, err := tryOpen(t, e.uri(""))
		if err != nil {
			t.Fatal(err)
		}
		s.cfg.silent = 20 * time.Millisecond
		h := backstoretest.NewHarness(t, s, attach)
		var held atomic.Pointer[header]
		var conn atomic.Pointer[engineConn]
		e.answers(func(c *engineConn, h header, _ []byte) bool {
			if h.typ == typePing {
				return false
			}
			held.Store(&h)
			conn.Store(c)
			return true
		})
		start(h, read(0, sector))
		w.want(h, "no answer for")
		w.want(h, "the engine itself answers")
		e.answers(nil)
		conn.Load().behave(*held.Load(), nil)
		ended(h, 1)
		h.Close()
	})
}

// A disk that has a new size before the engine counts it: requests there wait for it, others do not, and not for ever.
func TestBeyond(t *testing.T) {
	bothWays(t, func(t *testing.T, attach bool) {
		e := newEngine(t, 1<<20)
		h, w := openURI(t, e.uri(""), attach)
		s := h.Store.(*Store)
		s.setSize(2 << 20)
		start(h, write(1<<20, fill(sector, 5)))
		w.want(h, "the engine has 1048576 bytes, and the disk 2097152")
		s.mu.Lock()
		later := s.later.Len() + s.inFlight()
		s.mu.Unlock()
		if later == 0 {
			t.Error("it does not wait")
		}
		other := read(0, sector)
		start(h, other)
		if r := h.Wait(); r != other || r.Err != nil {
			t.Fatalf("%+v", r)
		}
		e.set(func() { e.data = append(e.data, make([]byte, 1<<20)...) })
		ended(h, 1)
		h.Want(1<<20, fill(sector, 5), "what was gained")
		s.mu.Lock()
		s.cfg.grow = 10 * time.Millisecond
		s.info.Size = 3 << 20
		s.mu.Unlock()
		h.WantClass(h.Do(read(2<<20, sector)), backstore.ClassRange, "what the engine never has")
		h.Close()
	})
}

// A store whose requests do not end is orphaned, and goes with the last.
func TestOrphan(t *testing.T) {
	e := newEngine(t, 1<<20)
	h, _ := openURI(t, e.uri(""), false)
	hold := make(chan struct{})
	e.answers(func(c *engineConn, h header, _ []byte) bool { <-hold; return false })
	start(h, read(0, sector))
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	h.WantClass(h.Store.Close(ctx), backstore.ClassBusy, "closing")
	h.WantClass(h.Store.Close(t.Context()), backstore.ClassOffline, "closing again")
	close(hold)
	ended(h, 1)
}

// A volume that was closed with a write under way is not opened anew, nor rolled back, before that has ended: it would be sent again behind the
// back of whoever has it then.
func TestOpenAfterOrphan(t *testing.T) {
	e := newEngine(t, 1<<20)
	u, err := backstore.ParseURI(e.uri(""))
	if err != nil {
		t.Fatal(err)
	}
	d := Driver()
	reg := backstore.NewRegistry(d)
	open := func() (*Store, error) {
		st, err := reg.Open(t.Context(), u, backstore.Options{})
		if err != nil {
			return nil, err
		}
		return st.(*Store), nil
	}
	st, err := open()
	if err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	e.answers(func(c *engineConn, h header, _ []byte) bool { <-hold; return false })
	w := write(0, fill(sector, 1))
	end := make(signal, 1)
	w.C = end
	if out := st.Submit(w); out != backstore.Pending {
		t.Fatalf("outcome %d", out)
	}
	st.Kick()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	wantClass(t, st.Close(over), backstore.ClassBusy, "close")
	_, err = open()
	wantClass(t, err, backstore.ClassBusy, "1 writes from before")
	wantClass(t, d.Volumes.Rollback(t.Context(), u, "s", nil), backstore.ClassBusy, "1 writes from before")
	e.answers(nil)
	close(hold)
	<-end
	<-st.ctx.Done()
	if st, err = open(); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// An engine that starts its frontend has the volume opened and answers nothing meanwhile: with the size given it is not waited for.
func TestOpenedBeforeItAnswers(t *testing.T) {
	bothWays(t, func(t *testing.T, attach bool) {
		e := newEngine(t, 1<<20)
		e.mu.Lock() // it answers nothing
		u, err := backstore.ParseURI(e.uri("&size=1M&request_timeout=540"))
		if err != nil {
			t.Fatal(err)
		}
		c, err := parse(u, backstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		c.ask = 10 * time.Millisecond
		opened := make(chan *Store, 1)
		go func() { // its connection is not even accepted
			var s *Store
			fd, size, err := dial(t.Context(), c)
			if err == nil {
				if s, err = newStore(c, size, nil); err == nil {
					s.c = newConn(s, fd, size)
				}
			}
			if err != nil {
				t.Error(err)
			}
			opened <- s
		}()
		s := <-opened
		if t.Failed() {
			e.mu.Unlock()
			return
		}
		h := backstoretest.NewHarness(t, s, attach)
		start(h, write(0, fill(sector, 4)))
		e.mu.Unlock()
		ended(h, 1)
		h.Want(0, fill(sector, 4), "what was written")
		h.Close()
	})
}
