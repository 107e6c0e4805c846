package curve

import (
	"bytes"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
	"github.com/lunar-iscsi/lunar/test/nebd"
)

// A server that is stopped, or killed, with requests in flight, is waited for: they are sent again, and none ends with an error.
func TestRestart(t *testing.T) {
	for name, end := range map[string]func(*nebd.Server){"stopped": (*nebd.Server).Stop, "killed": (*nebd.Server).Kill} {
		t.Run(name, func(t *testing.T) {
			everyWay(t, nil, func(t *testing.T, b *bench, attach bool) {
				const n, size = 128, 64 << 10
				s := b.open(b.volume(n * size))
				h := backstoretest.NewHarness(t, s, attach)
				for round := range 3 {
					ended := make(chan struct{})
					var calls atomic.Int32
					b.srv.SetFaults(func(string, string, int64, int64) nebd.Fault {
						if calls.Add(1) == 20 {
							go func() { end(b.srv); close(ended) }()
						}
						return nebd.None
					})
					for i := range n {
						h.Start(write(int64(i)*size, data(size, byte(i+round))))
					}
					h.Kick()
					for going := true; going; {
						h.Turn(time.Millisecond) // what is queued is sent from here
						select {
						case <-ended:
							going = false
						default:
						}
					}
					b.start()
					for range n {
						if r := h.Wait(); r.Err != nil {
							t.Fatalf("round %d: write at %d: %v", round, r.Off, r.Err)
						}
					}
					for i := range n {
						h.Want(int64(i)*size, data(size, byte(i+round)), "after the restart")
					}
				}
				h.Close()
			})
		})
	}
}

// A server whose records are lost may have given the descriptor to another volume: that one is not touched.
func TestLostRecords(t *testing.T) {
	everyWay(t, nil, func(t *testing.T, b *bench, attach bool) {
		c, other := b.volume(1<<20), b.volume(1<<20)
		s := b.open(c)
		h := backstoretest.NewHarness(t, s, attach)
		h.Write(0, data(4096, 1), 0)
		fd := s.v.fd.Load()
		b.srv.Kill()
		w := write(4096, data(4096, 2))
		h.Start(w) // while nobody is there
		h.Kick()
		// The records that its successor has are those of another server, where the other volume was opened first.
		stranger := newBench(t, func(cfg *nebd.Config) { cfg.Pool = b.pool })
		o := stranger.open(stranger.config(other.nebd))
		if o.v.fd.Load() != fd {
			t.Fatalf("the other volume has descriptor %d, this one %d", o.v.fd.Load(), fd)
		}
		stranger.srv.Kill()
		b.cfg.Meta = stranger.cfg.Meta
		b.start()
		if r := h.Wait(); r != w || r.Err != nil {
			t.Fatalf("a write over the restart: %v", r.Err)
		}
		h.Want(0, data(4096, 1), "what was there before")
		h.Want(4096, data(4096, 2), "what was written")
		if err := o.Close(t.Context()); err != nil {
			t.Error(err)
		}
		ho := backstoretest.NewHarness(t, b.open(other), false)
		ho.Want(0, make([]byte, 8192), "the other volume")
		ho.Close()
		h.Close()
	})
}

// A descriptor that somebody else has closed is noticed by the next heartbeat, and replaced.
func TestClosedByAnother(t *testing.T) {
	everyWay(t, nil, func(t *testing.T, b *bench, attach bool) {
		s := b.open(b.volume(1 << 20))
		h := backstoretest.NewHarness(t, s, attach)
		h.Write(0, data(4096, 1), 0)
		fd := s.v.fd.Load()
		if _, err := s.v.h.call(t.Context(), 0, "CloseFile", fdMessage(fd)); err != nil {
			t.Fatal(err)
		}
		b.waitFor("another descriptor", func() bool { return s.v.fd.Load() != fd })
		b.waitFor("a read that does", func() bool { return h.Do(read(0, 4096)) == nil })
		h.Want(0, data(4096, 1), "after that")
		h.Close()
	})
}

// Error 2003 says "later": the request waits, and is not failed.
func TestStopping(t *testing.T) {
	b := newBench(t, nil)
	s := b.open(b.volume(1 << 20))
	h := backstoretest.NewHarness(t, s, true)
	hold := make(chan struct{})
	held := make(chan struct{}, 1)
	b.srv.SetFaults(func(string, string, int64, int64) nebd.Fault {
		held <- struct{}{}
		<-hold
		return nebd.None
	})
	first := write(0, data(4096, 1))
	h.Start(first)
	h.Kick()
	<-held
	stopped := make(chan struct{})
	go func() { b.srv.Stop(); close(stopped) }()
	b.waitFor("the stop", func() bool {
		_, err := s.v.h.ask(t.Context(), fileService, "Flush", fdMessage(1))
		return err != nil
	})
	second := write(4096, data(4096, 2))
	h.Start(second)
	h.Kick()
	b.remarkedOn(h, "requests wait")
	close(hold)
	if r := h.Wait(); r != first || r.Err != nil {
		t.Fatalf("a request from before the stop: %v", r.Err)
	}
	<-stopped
	b.start()
	if r := h.Wait(); r != second || r.Err != nil {
		t.Fatalf("a request that came during the stop: %v", r.Err)
	}
	h.Want(0, append(data(4096, 1), data(4096, 2)...), "after the stop")
	h.Close()
}

// After offline_after requests end that cannot have been carried out. A write that may have been stays, and its answer comes from the successor.
func TestOfflineAfter(t *testing.T) {
	everyWay(t, nil, func(t *testing.T, b *bench, attach bool) {
		c := b.volume(1 << 20)
		c.offline = 30 * time.Millisecond
		s := b.open(c)
		h := backstoretest.NewHarness(t, s, attach)
		got := make(chan struct{}, 2)
		b.srv.SetFaults(func(string, string, int64, int64) nebd.Fault { got <- struct{}{}; return nebd.Wait })
		w, r := write(0, data(4096, 1)), read(4096, 4096)
		h.Start(w)
		h.Start(r)
		h.Kick()
		<-got
		<-got
		b.srv.Kill()
		if ended := h.Wait(); ended != r {
			t.Fatalf("%v has ended (%v), want the read", ended.Op, ended.Err)
		}
		h.WantClass(r.Err, backstore.ClassOffline, "a read of a server that is away")
		h.WantClass(h.Do(write(8192, data(4096, 3))), backstore.ClassOffline, "a write that begins now")
		b.remarked("1 writes wait")
		b.start()
		if ended := h.Wait(); ended != w || w.Err != nil {
			t.Fatalf("the write that may have been carried out: %v", w.Err)
		}
		h.Want(0, data(4096, 1), "that write")
		h.Want(8192, make([]byte, 4096), "the write that was refused")
		h.Close()
	})
}

// A server that is never there again does not hold up Close.
func TestAwayAtClose(t *testing.T) {
	everyWay(t, nil, func(t *testing.T, b *bench, attach bool) {
		s := b.open(b.volume(1 << 20))
		h := backstoretest.NewHarness(t, s, attach)
		h.Write(0, data(4096, 1), 0)
		b.srv.Kill()
		h.Close()
	})
}

// With the file that it opens, it is not there at all: the reason is told.
func TestNotThere(t *testing.T) {
	b := newBench(t, nil)
	c := b.volume(1 << 20)
	for _, tc := range []struct {
		what  string
		edit  func(c *config)
		class backstore.Class
	}{
		{"no such volume", func(c *config) { c.name, _ = parseName("pool//dir/none_user_") }, backstore.ClassNotFound},
		{"another owner", func(c *config) { c.name, _ = parseName("pool//dir/vol1_other_") }, backstore.ClassNotFound},
		{"no folder of locks", func(c *config) { c.lockDir += "/none" }, backstore.ClassNotFound},
		{"no server", func(c *config) { c.socket += "none" }, backstore.ClassOffline},
	} {
		bad := *c
		tc.edit(&bad)
		s, err := b.tryOpen(b.p, &bad)
		if err == nil || backstore.ClassOf(err) != tc.class {
			t.Errorf("%s: %v, want %v", tc.what, err, tc.class)
		}
		if s != nil {
			t.Errorf("%s: a store", tc.what)
		}
	}
	if len(b.p.hosts) != 0 {
		t.Errorf("hosts are left: %v", b.p.hosts)
	}
	if left, err := os.ReadDir(b.dir); err != nil || bytes.Contains([]byte(left[0].Name()), []byte("cbd:")) {
		t.Errorf("locks are left: %v, %v", left, err)
	}
}
