package backstoretest

import (
	"bytes"
	"context"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/lunar-iscsi/lunar/backstore"
)

// patience is how long a request may take before the suite calls it lost.
const patience = 30 * time.Second

// leakPatience is how long what is left of a closed store may take to go.
const leakPatience = 5 * time.Second

// canary fills buffers after their request has ended: a driver that still reads one stores a
// wrong byte, one that still writes to it kills the canary.
const canary = 0xdb

// A Harness drives one store: it submits, collects completions and checks that each comes
// exactly once.
type Harness struct {
	T     testing.TB
	Store backstore.Store
	Loop  *Loop
	Info  backstore.Info // as it was when the harness was made

	attached bool
	pending  map[*backstore.Request]bool
	ended    []*backstore.Request // completed, not yet asked for
	dead     [][]byte             // poisoned buffers, checked at the end
}

// NewHarness attaches st to a loop of its own, if it can be attached and attach is set. It does not
// close the store: Close does.
func NewHarness(t testing.TB, st backstore.Store, attach bool) *Harness {
	t.Helper()
	h := &Harness{T: t, Store: st, Loop: NewLoop(t), Info: st.Info(), pending: make(map[*backstore.Request]bool)}
	if a, ok := st.(backstore.Attacher); ok && attach {
		if err := a.Attach(h.Loop); err != nil {
			t.Fatalf("Attach: %v", err)
		}
		h.attached = true
	}
	return h
}

// Buf returns n bytes of memory aligned as the store wants them.
func (h *Harness) Buf(n int64) []byte {
	a := int64(max(h.Info.MemAlign, 1))
	b := make([]byte, n+a)
	off := int64(0)
	if n > 0 {
		off = (a - int64(uintptr(unsafe.Pointer(unsafe.SliceData(b))))&(a-1)) & (a - 1)
	}
	return b[off : off+n : off+n]
}

// Start submits r and reports what Submit said. A pending request is awaited with Wait.
func (h *Harness) Start(r *backstore.Request) backstore.Outcome {
	h.T.Helper()
	r.C = h.Loop
	h.pending[r] = true // before Submit: the completion may be there first
	out := h.Store.Submit(r)
	if out != backstore.Pending {
		delete(h.pending, r)
	}
	if out == backstore.WouldBlock && r.Flags&backstore.NoWait == 0 {
		h.T.Fatalf("%v [%d,+%d) without NoWait answered WouldBlock", r.Op, r.Off, r.Len)
	}
	if out == backstore.Pending && r.Flags&backstore.NoWait != 0 && (r.Op == backstore.Read || r.Op == backstore.Write) {
		h.T.Fatalf("%v [%d,+%d) with NoWait went pending", r.Op, r.Off, r.Len)
	}
	return out
}

// Kick marks the end of a batch.
func (h *Harness) Kick() {
	if k, ok := h.Store.(backstore.Kicker); ok {
		k.Kick()
	}
}

// Turn turns the loop once and takes up completions.
func (h *Harness) Turn(d time.Duration) {
	h.T.Helper()
	for _, r := range h.Loop.Turn(d) {
		if !h.pending[r] {
			h.T.Fatalf("%v [%d,+%d) was completed, but was not pending", r.Op, r.Off, r.Len)
		}
		delete(h.pending, r)
		h.ended = append(h.ended, r)
	}
}

// Ended returns a request that has been completed and not yet asked for, without waiting; nil: there is none.
func (h *Harness) Ended() *backstore.Request {
	if len(h.ended) == 0 {
		return nil
	}
	r := h.ended[0]
	h.ended = append(h.ended[:0], h.ended[1:]...)
	return r
}

// Wait turns the loop until a pending request has ended and returns it; nil when none is pending.
func (h *Harness) Wait() *backstore.Request {
	h.T.Helper()
	for deadline := time.Now().Add(patience); len(h.ended) == 0; {
		if len(h.pending) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			for r := range h.pending {
				h.T.Errorf("never ended: %v [%d,+%d) flags %b", r.Op, r.Off, r.Len, r.Flags)
			}
			h.T.FailNow()
		}
		h.Turn(100 * time.Millisecond)
	}
	return h.Ended()
}

// Do submits r, waits until it has ended and returns its error. Nothing else may be pending.
func (h *Harness) Do(r *backstore.Request) error {
	h.T.Helper()
	switch h.Start(r) {
	case backstore.Pending:
		h.Kick()
		if got := h.Wait(); got != r {
			h.T.Fatalf("waited for %v, another request ended", r.Op)
		}
	case backstore.WouldBlock:
		r.Flags &^= backstore.NoWait
		return h.Do(r)
	}
	return r.Err
}

// Read reads a range or fails the test.
func (h *Harness) Read(off, n int64) []byte {
	h.T.Helper()
	b := h.Buf(n)
	for i := range b {
		b[i] = canary
	}
	if err := h.Do(&backstore.Request{Op: backstore.Read, Off: off, Len: n, Buf: b}); err != nil {
		h.T.Fatalf("read [%d,+%d): %v", off, n, err)
	}
	return b
}

// Write writes a range or fails the test; data may have any alignment. The driver's copy is poisoned
// afterwards.
func (h *Harness) Write(off int64, data []byte, f backstore.Flags) {
	h.T.Helper()
	b := h.Buf(int64(len(data)))
	copy(b, data)
	if err := h.Do(&backstore.Request{Op: backstore.Write, Flags: f, Off: off, Len: int64(len(b)), Buf: b}); err != nil {
		h.T.Fatalf("write [%d,+%d): %v", off, len(b), err)
	}
	h.Poison(b)
}

// Poison gives b up: nobody may touch it from now on, and Close checks that nobody did.
func (h *Harness) Poison(b []byte) {
	for i := range b {
		b[i] = canary
	}
	h.dead = append(h.dead, b)
}

// Want fails the test unless the range holds want.
func (h *Harness) Want(off int64, want []byte, what string) {
	h.T.Helper()
	got := h.Read(off, int64(len(want)))
	if i := mismatch(got, want); i >= 0 {
		h.T.Fatalf("%s: byte %d of the volume is %#02x, want %#02x", what, off+int64(i), got[i], want[i])
	}
}

// WantClass fails the test unless err is of class c.
func (h *Harness) WantClass(err error, c backstore.Class, what string) {
	h.T.Helper()
	if err == nil {
		h.T.Fatalf("%s: no error, want %v", what, c)
	}
	if _, ok := err.(*backstore.Error); !ok || backstore.ClassOf(err) != c {
		h.T.Fatalf("%s: %T %v, want a *backstore.Error: %v", what, err, err, c)
	}
}

// Close waits for what is pending, detaches and closes the store and checks what must be true
// of buffers at the end.
func (h *Harness) Close() {
	h.T.Helper()
	if err := h.close(); err != nil {
		h.T.Errorf("Close: %v", err)
	}
	h.checkDead()
}

// CloseFails is Close of a store that cannot say that all is well: it is released, and the error is of class c.
func (h *Harness) CloseFails(c backstore.Class) {
	h.T.Helper()
	h.WantClass(h.close(), c, "Close")
	h.checkDead()
}

func (h *Harness) close() error {
	for h.Wait() != nil {
	}
	h.detach()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return h.Store.Close(ctx)
}

func (h *Harness) detach() {
	if h.attached {
		h.Store.(backstore.Attacher).Detach()
		h.attached = false
	}
}

func (h *Harness) checkDead() {
	h.T.Helper()
	h.Turn(0) // takes up a second completion, if a driver made one
	for _, b := range h.dead {
		if i := mismatch(b, bytes.Repeat([]byte{canary}, len(b))); i >= 0 {
			h.T.Errorf("a buffer was written to after its request had ended (byte %d is %#02x)", i, b[i])
		}
	}
}

func mismatch(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

// CheckLeaks remembers how many goroutines and descriptors there are and fails the test if there
// are more of them at its end. Call it before anything is opened.
func CheckLeaks(t testing.TB) {
	t.Helper()
	goroutines, fds := runtime.NumGoroutine(), descriptors(t)
	t.Cleanup(func() {
		for deadline := time.Now().Add(leakPatience); ; runtime.Gosched() {
			g, f := runtime.NumGoroutine(), descriptors(t)
			if g <= goroutines && f <= fds {
				return
			}
			if time.Now().After(deadline) {
				buf := make([]byte, 1<<16)
				t.Errorf("left behind: goroutines %d → %d, descriptors %d → %d\n%s", goroutines, g, fds, f, buf[:runtime.Stack(buf, true)])
				return
			}
		}
	})
}

func descriptors(t testing.TB) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}
