package curve

import (
	"context"
	"errors"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
	"github.com/lunar-iscsi/lunar/test/nebd"
)

// loseWrites has writes carried out and never answered.
func loseWrites(method, _ string, _, _ int64) nebd.Fault {
	if method == "Write" {
		return nebd.Lose
	}
	return nebd.None
}

// A request that is never answered holds up nothing else: no other request, no other volume, not the end of the store. Its descriptor is not closed under it. The
// server's successor answers it, and all is released.
func TestUnanswered(t *testing.T) {
	everyWay(t, nil, func(t *testing.T, b *bench, attach bool) {
		c, beside := b.volume(1<<20), b.volume(1<<20)
		s := b.open(c)
		h, other := backstoretest.NewHarness(t, s, attach), backstoretest.NewHarness(t, b.open(beside), attach)
		b.srv.SetFaults(loseWrites)
		w := write(0, data(4096, 1))
		h.Start(w)
		h.Kick()
		for range 20 {
			if err := other.Do(read(0, 4096)); err != nil {
				t.Fatal(err)
			}
		}
		r := read(8192, 4096)
		h.Start(r)
		h.Kick()
		if ended := h.Wait(); ended != r || r.Err != nil {
			t.Fatalf("a read beside it: %v", r.Err)
		}
		b.waitFor("the lost write", func() bool { return b.lost(s.v.nebd) == 1 })
		b.closeBusy(s)
		if !b.isOpen(c.nebd) {
			t.Fatal("the descriptor was closed under a request")
		}
		// While it is in doubt nobody gets the volume, under whatever name.
		alias := *c
		alias.name, _ = parseName(c.alias("alias")[len("cbd:"):])
		for _, again := range []*config{c, &alias} {
			_, err := b.tryOpen(b.p, again)
			h.WantClass(err, backstore.ClassBusy, "opening a volume with a write in doubt")
		}
		_, err := b.tryOpen(&process{}, c)
		h.WantClass(err, backstore.ClassBusy, "opening it in another process")
		b.srv.Kill()
		b.start()
		if ended := h.Wait(); ended != w || w.Err != nil {
			t.Fatalf("the write: %v", w.Err)
		}
		if attach {
			s.Detach()
		}
		b.waitFor("the end of the orphan", func() bool { return !b.isOpen(c.nebd) })
		b.waitFor("the end of its host's volume", func() bool {
			s.v.h.mu.Lock()
			defer s.v.h.mu.Unlock()
			return s.v.h.volumes[c.nebd] == nil
		})
		h2 := backstoretest.NewHarness(t, b.open(c), false)
		h2.Want(0, data(4096, 1), "the write")
		h2.Close()
		other.Close()
	})
}

// A read that is never answered changes nothing, so the volume can be had again at once, on the same descriptor.
func TestUnansweredRead(t *testing.T) {
	b := newBench(t, nil)
	c := b.volume(1 << 20)
	s := b.open(c)
	h := backstoretest.NewHarness(t, s, false)
	b.srv.SetFaults(func(string, string, int64, int64) nebd.Fault { return nebd.Wait })
	h.Start(read(0, 4096))
	h.Kick()
	b.waitFor("the lost read", func() bool { return b.lost(c.nebd) == 1 })
	b.srv.SetFaults(nil)
	b.closeBusy(s)
	again := b.open(c)
	if again.v != s.v {
		t.Error("another descriptor")
	}
	h2 := backstoretest.NewHarness(t, again, false)
	h2.Write(0, data(4096, 1), 0)
	h2.Close()
	if !b.isOpen(c.nebd) {
		t.Error("the descriptor was closed under the read")
	}
	b.srv.Kill()
	b.start()
	if r := h.Wait(); r.Err != nil {
		t.Error(r.Err)
	}
	b.waitFor("the end of the orphan", func() bool { return !b.isOpen(c.nebd) })
}

// What the cluster has failed ends with a medium error, and nothing else does.
func TestFailed(t *testing.T) {
	everyWay(t, func(c *nebd.Config) { c.ReturnErrors = true }, func(t *testing.T, b *bench, attach bool) {
		h := backstoretest.NewHarness(t, b.open(b.volume(1<<20)), attach)
		h.Write(0, data(4096, 1), 0)
		b.srv.SetFaults(func(_, _ string, off, _ int64) nebd.Fault {
			if off == 0 {
				return nebd.Fail
			}
			return nebd.None
		})
		h.WantClass(h.Do(read(0, 4096)), backstore.ClassMedium, "a read that the cluster fails")
		h.WantClass(h.Do(write(0, data(4096, 2))), backstore.ClassMedium, "a write that the cluster fails")
		h.Write(4096, data(4096, 3), backstore.FUA)
		b.srv.SetFaults(nil)
		h.Want(0, data(4096, 1), "after failed requests")
		h.Close()
	})
}

func (b *bench) find(nebdName string) (o nebd.Open, ok bool) {
	for _, o := range b.srv.Opens() {
		if o.Name == nebdName {
			return o, true
		}
	}
	return o, false
}

func (b *bench) lost(nebdName string) int {
	o, _ := b.find(nebdName)
	return o.Lost
}

func (b *bench) isOpen(nebdName string) bool {
	_, ok := b.find(nebdName)
	return ok
}

// Two stores of one process share a descriptor; the first to close does not take it from the other.
func TestSharedDescriptor(t *testing.T) {
	b := newBench(t, nil)
	c := b.volume(1 << 20)
	one, two := b.open(c), b.open(c)
	h1, h2 := backstoretest.NewHarness(t, one, true), backstoretest.NewHarness(t, two, true)
	if one.v != two.v {
		t.Error("two descriptors")
	}
	h1.Write(0, data(4096, 1), 0)
	h2.Want(0, data(4096, 1), "what the other has written")
	h1.Close()
	h2.Write(4096, data(4096, 2), 0)
	h2.Close()
	if b.isOpen(c.nebd) {
		t.Error("the descriptor is still open")
	}
	// Another process, as another Driver is one, is kept out while it is open, and let in after.
	held := b.open(c)
	if _, err := b.tryOpen(&process{}, c); backstore.ClassOf(err) != backstore.ClassBusy || !errors.Is(err, errLocked) {
		t.Errorf("another process: %v", err)
	}
	if err := held.Close(context.Background()); err != nil {
		t.Error(err)
	}
	s, err := b.tryOpen(&process{}, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// Every open says that others may write the volume too.
func TestFlags(t *testing.T) {
	b := newBench(t, nil)
	c := b.volume(1 << 20)
	s := b.open(c)
	if o, ok := b.find(c.nebd); !ok || o.Exclusive {
		t.Errorf("%+v", o)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// All volumes are in one heartbeat, so the server closes none, whether it does I/O or not. One that misses them is opened again by the next request.
func TestHeartbeats(t *testing.T) {
	b := newBench(t, nil)
	one, two := b.open(b.volume(1<<20)), b.open(b.volume(1<<20))
	if len(b.p.hosts) != 1 {
		t.Errorf("%d hosts", len(b.p.hosts))
	}
	before := b.srv.Heartbeats()
	b.waitFor("heartbeats", func() bool { return b.srv.Heartbeats() > before+3 })
	message := heartbeatMessage(1, []heartbeat{{one.v.fd.Load(), one.v.nebd}, {two.v.fd.Load(), two.v.nebd}})
	answer, err := one.v.h.ask(t.Context(), heartbeatService, "KeepAlive", message)
	if code, cerr := parseCode(answer); err != nil || cerr != nil || code != 0 {
		t.Errorf("%v, %v, %d", err, cerr, code)
	}
	for _, s := range []*Store{one, two} {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
	if len(b.p.hosts) != 0 {
		t.Error("a host is left")
	}
}
