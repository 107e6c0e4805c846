package file

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

// attached opens a file on l whose durable writes and flushes go through the ring. It reports false where
// there is none: then the tests of the ring have nothing to show (TestNoRing has).
func attached(t *testing.T, l backstore.Loop, name string) (*Store, bool) {
	t.Helper()
	st := openURI(t, fmt.Sprintf("file://%s/%s?size=4M", diskDir(t), name))
	if err := st.Attach(l); err != nil {
		t.Fatal(err)
	}
	if st.engine != nil {
		t.Error("a ring was made before there was a request for it")
	}
	st.findEngine()
	if st.engine == nil {
		closeNow(t, st)
		return nil, false
	}
	return st, true
}

// More requests than the ring has places, of two stores on one loop, and a batch larger than one
// system call takes.
func TestRingFull(t *testing.T) {
	backstoretest.CheckLeaks(t)
	l := backstoretest.NewLoop(t)
	defer l.Close()
	var stores []*Store
	for i := range 2 {
		st, ok := attached(t, l, fmt.Sprint(i))
		if !ok {
			return
		}
		stores = append(stores, st)
	}
	if stores[0].engine != stores[1].engine {
		t.Error("two stores of a loop have two rings")
	}
	const each = 700
	want := map[*backstore.Request]bool{}
	for i := range each {
		for n, st := range stores {
			r := &backstore.Request{Op: backstore.Write, Flags: backstore.FUA, Off: int64(i) * 512, Len: 512, Buf: bytes.Repeat([]byte{byte(i), byte(n)}, 256), C: l}
			if out := st.Submit(r); out != backstore.Pending {
				t.Fatalf("outcome %d: %v", out, r.Err)
			}
			want[r] = true
		}
	}
	if e := stores[0].engine; e.free != noSlot || e.busy != ringSlots {
		t.Errorf("%d of %d places are in use after %d requests", e.busy, ringSlots, 2*each)
	}
	for _, st := range stores {
		st.Kick()
	}
	for len(want) > 0 {
		for _, r := range l.Turn(1e9) {
			if r.Err != nil || !want[r] {
				t.Fatalf("write at %d: %v, expected %v", r.Off, r.Err, want[r])
			}
			delete(want, r)
		}
	}
	if n := stores[0].engine.busy; n != 0 {
		t.Errorf("%d places are in use when all is done", n)
	}
	for n, st := range stores {
		st.Detach()
		h := backstoretest.NewHarness(t, st, false)
		for i := range each {
			h.Want(int64(i)*512, bytes.Repeat([]byte{byte(i), byte(n)}, 256), "what went through the ring")
		}
		h.Close()
	}
}

// What the kernel does not take goes to the workers.
func TestRingRefuses(t *testing.T) {
	backstoretest.CheckLeaks(t)
	h := backstoretest.NewHarness(t, openURI(t, "file://"+diskDir(t)+"/d.img?size=4M"), true)
	defer h.Loop.Close()
	st := h.Store.(*Store)
	h.Write(0, make([]byte, 512), backstore.FUA)
	if st.engine != nil {
		fd := st.engine.ring.fd
		st.engine.ring.fd = -1
		defer func(u *uring) { u.fd = fd; h.Close() }(st.engine.ring)
	} else {
		defer h.Close()
	}
	b := bytes.Repeat([]byte{5}, 512)
	for i := range int64(300) { // more than a batch
		w := &backstore.Request{Op: backstore.Write, Flags: backstore.FUA, Off: i * 512, Len: 512, Buf: b}
		if out := h.Start(w); out != backstore.Pending {
			t.Fatalf("outcome %d: %v", out, w.Err)
		}
	}
	h.Kick()
	for n := range 300 {
		if r := h.Wait(); r == nil || r.Err != nil {
			t.Fatalf("request %d: %v", n, r)
		}
	}
	h.Want(299*512, b, "what the kernel refused to take")
}

// A loop that ends with an orphan's request in the ring: it ends all the same, and then the ring goes.
func TestRingOutlivesLoop(t *testing.T) {
	backstoretest.CheckLeaks(t)
	l := backstoretest.NewLoop(t)
	st, ok := attached(t, l, "d.img")
	if !ok {
		return
	}
	done := make(completer, 1)
	r := &backstore.Request{Op: backstore.Write, Flags: backstore.FUA, Len: 4096, Buf: make([]byte, 4096), C: done}
	if st.Submit(r) != backstore.Pending {
		t.Fatal("not pending")
	}
	st.Kick()
	l.Close()
	if <-done; r.Err != nil {
		t.Error(r.Err)
	}
	closeNow(t, st)
}

type completer chan struct{}

func (c completer) Complete(*backstore.Request) { c <- struct{}{} }
