//go:build rbd && cgo

package rbd

import (
	"bytes"
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

const takeOverGoal = 3 * time.Second

// A second opener is refused by name while the first is there, and then not.
func TestSecondOpenerIsRefused(t *testing.T) {
	c := start(t)
	backstoretest.CheckLeaks(t)
	name := c.create(t, 8<<20)
	a := mustOpen(t, c.uri(name, ""), backstore.Options{})
	begun := time.Now()
	_, err := tryOpen(t, c.uri(name, ""), backstore.Options{})
	if backstore.ClassOf(err) != backstore.ClassBusy || !strings.Contains(err.Error(), "client.") || !strings.Contains(err.Error(), "127.0.0.1:") {
		t.Errorf("the second opener: %v, want busy, with the owner's name and address", err)
	}
	t.Logf("refused after %v", time.Since(begun))
	r := mustOpen(t, c.uri(name, "readonly"), backstore.Options{}) // readers are nobody's rivals
	closeAll(t, r, a)
	closeAll(t, mustOpen(t, c.uri(name, ""), backstore.Options{}))
}

// With lock=wait, the second opener has the image as soon as the first has closed it.
func TestSecondOpenerWaits(t *testing.T) {
	c := start(t)
	name := c.create(t, 8<<20)
	a := mustOpen(t, c.uri(name, ""), backstore.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	u, err := backstore.ParseURI(c.uri(name, "lock=wait"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = open(ctx, u, backstore.Options{})
	cancel()
	if class := backstore.ClassOf(err); class != backstore.ClassBusy && class != backstore.ClassOffline {
		t.Fatalf("waiting for two seconds: %v", err)
	}
	got := make(chan *Store, 1)
	go func() {
		s, err := tryOpen(t, c.uri(name, "lock=wait"), backstore.Options{})
		if err != nil {
			t.Error(err)
		}
		got <- s
	}()
	backstoretest.NewHarness(t, a, false).Write(0, bytes.Repeat([]byte{7}, 4096), 0)
	closeAll(t, a)
	b := <-got
	backstoretest.NewHarness(t, b, false).Want(0, bytes.Repeat([]byte{7}, 4096), "what the first has written")
	closeAll(t, b)
}

// Two that share an image see each other's writes.
func TestShared(t *testing.T) {
	c := start(t)
	name := c.create(t, 8<<20)
	a, b := mustOpen(t, c.uri(name, "shared"), backstore.Options{}), mustOpen(t, c.uri(name, "lock=none"), backstore.Options{})
	if !a.Info().Shared || !a.Info().Coherent {
		t.Errorf("Info: shared %v, coherent %v", a.Info().Shared, a.Info().Coherent)
	}
	ha, hb := backstoretest.NewHarness(t, a, false), backstoretest.NewHarness(t, b, false)
	for n := range byte(8) {
		ha.Write(0, bytes.Repeat([]byte{n}, 4096), 0)
		hb.Want(0, bytes.Repeat([]byte{n}, 4096), "what the other has written")
		hb.Write(4096, bytes.Repeat([]byte{n ^ 255}, 4096), 0)
		ha.Want(4096, bytes.Repeat([]byte{n ^ 255}, 4096), "what the other has written")
	}
	closeAll(t, a, b)
}

// A writer that is frozen with writes in flight is taken over within the goal, and nothing that it submitted lands when it wakes up.
func TestTakeOverOfTheFrozen(t *testing.T) {
	c := start(t)
	name := c.create(t, childDepth*childBlocks*childBlock)
	w := startWriter(t, c.uri(name, ""))
	w.busy(20)
	w.signal(syscall.SIGSTOP)
	begun := time.Now()
	s := mustOpen(t, c.uri(name, ""), backstore.Options{TakeOver: true})
	h := backstoretest.NewHarness(t, s, false)
	h.Write(0, make([]byte, 4096), 0)
	if took := time.Since(begun); took > takeOverGoal {
		t.Errorf("taking over took %v, want below %v", took, takeOverGoal)
	} else {
		t.Logf("taken over and written after %v", took)
	}
	zero := make([]byte, 1<<20)
	for off := int64(0); off < s.Info().Size; off += int64(len(zero)) {
		h.Write(off, zero, 0)
	}
	w.signal(syscall.SIGCONT)
	if line := w.until("failed"); !strings.HasPrefix(line, "failed fenced") {
		t.Errorf("the one that was shut out: %s, want fenced", line)
	}
	for range w.lines { // until it has ended: its last writes have been answered
	}
	for off := int64(0); off < s.Info().Size; off += int64(len(zero)) {
		h.Want(off, zero, "after the frozen one woke up")
	}
	closeAll(t, s)
}

// A writer that was killed is taken over within the goal, and every write that it was told had ended is there.
func TestTakeOverOfTheDead(t *testing.T) {
	c := start(t)
	name := c.create(t, childDepth*childBlocks*childBlock)
	w := startWriter(t, c.uri(name, ""))
	w.busy(20)
	w.kill()
	begun := time.Now()
	s := mustOpen(t, c.uri(name, ""), backstore.Options{TakeOver: true})
	if took := time.Since(begun); took > takeOverGoal {
		t.Errorf("taking over took %v, want below %v", took, takeOverGoal)
	} else {
		t.Logf("taken over after %v", took)
	}
	wantAcked(t, s, w)
	closeAll(t, s)
}

// wantAcked checks that each write that w was told had ended is there, or one of the same block that was sent after it.
func wantAcked(t *testing.T, s *Store, w *writer) {
	t.Helper()
	h := backstoretest.NewHarness(t, s, false)
	for slot, last := range w.acked {
		for n := max(1, last-childBlocks+1); n <= last; n++ {
			want := make([]byte, childBlock)
			stamp(want, n)
			got := h.Read(childOff(slot, n), childBlock)
			if bytes.Equal(got, want) {
				continue
			}
			stamp(want, n+childBlocks) // sent behind it, and not answered
			if n != last-childBlocks+1 || !bytes.Equal(got, want) {
				t.Fatalf("slot %d: write %d of %d was acknowledged, and is not there", slot, n, last)
			}
		}
	}
}

// Whoever is shut out by an administrator says so, at once where it is at work and soon where it is not, and goes on saying so.
func TestBlocklisted(t *testing.T) {
	c := start(t)
	name := c.create(t, 8<<20)
	s := mustOpen(t, c.uri(name, ""), backstore.Options{})
	addr, err := s.cl.conn.GetAddrs()
	if err != nil {
		t.Fatal(err)
	}
	admin := c.client(t)
	if err := admin.block(addr); err != nil {
		t.Fatal(err)
	}
	admin.close()
	h := backstoretest.NewHarness(t, s, false)
	for n := 0; h.Do(&backstore.Request{Op: backstore.Write, Len: 512, Buf: h.Buf(512)}) == nil; n++ { // until the OSD has heard of it
		if n == 10000 {
			t.Fatal("writes of one on the blocklist go on")
		}
	}
	for _, op := range []backstore.Op{backstore.Write, backstore.Read, backstore.Write} {
		h.WantClass(h.Do(&backstore.Request{Op: op, Len: 512, Buf: h.Buf(512)}), backstore.ClassFenced, op.String())
	}
	h.CloseFails(backstore.ClassFenced)
	closeAll(t, mustOpen(t, c.uri(name, ""), backstore.Options{}))
}

// One that is idle is told, too.
func TestIdleIsToldThatItWasShutOut(t *testing.T) {
	c := start(t)
	name := c.create(t, 8<<20)
	said := make(chan string, 16)
	s := mustOpen(t, c.uri(name, ""), backstore.Options{Warn: func(m string) { said <- m }})
	addr, err := s.cl.conn.GetAddrs()
	if err != nil {
		t.Fatal(err)
	}
	admin := c.client(t)
	if err := admin.block(addr); err != nil {
		t.Fatal(err)
	}
	admin.close()
	begun := time.Now()
	select {
	case m := <-said:
		if !strings.Contains(m, "shut out") {
			t.Errorf("it says %q", m)
		}
		t.Logf("told after %v", time.Since(begun))
	case <-time.After(2 * mindEvery):
		t.Error("it was never told")
	}
	h := backstoretest.NewHarness(t, s, false)
	h.WantClass(h.Do(&backstore.Request{Op: backstore.Read, Len: 512, Buf: h.Buf(512)}), backstore.ClassFenced, "a read")
	h.CloseFails(backstore.ClassFenced)
}

// Fence shuts out those who share the image, and not the one who asks.
func TestFence(t *testing.T) {
	c := start(t)
	name := c.create(t, 8<<20)
	a, b := mustOpen(t, c.uri(name, "shared"), backstore.Options{}), mustOpen(t, c.uri(name, "shared"), backstore.Options{})
	ha, hb := backstoretest.NewHarness(t, a, false), backstoretest.NewHarness(t, b, false)
	hb.Write(0, bytes.Repeat([]byte{1}, 512), 0)
	if err := a.Fence(t.Context()); err != nil {
		t.Fatal(err)
	}
	ha.Write(0, bytes.Repeat([]byte{2}, 512), 0)
	hb.WantClass(hb.Do(&backstore.Request{Op: backstore.Write, Len: 512, Buf: hb.Buf(512)}), backstore.ClassFenced, "a write of the one that was shut out")
	ha.Want(0, bytes.Repeat([]byte{2}, 512), "what the other has written")
	hb.CloseFails(backstore.ClassFenced)
	closeAll(t, a)
}

func closeAll(t testing.TB, stores ...*Store) {
	t.Helper()
	for _, s := range stores {
		if s == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		if err := s.Close(ctx); err != nil {
			t.Errorf("closing %s: %v", s.cfg.spec, err)
		}
		cancel()
	}
}
