//go:build !race

package longhorn

import (
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

// A round is a batch whose end is waited for without allocating.
type round struct {
	h  *backstoretest.Harness
	rs []*backstore.Request
}

func (w *round) run() {
	for _, r := range w.rs {
		if out := w.h.Start(r); out != backstore.Pending {
			w.h.T.Errorf("outcome %d: %v", out, r.Err)
		}
	}
	w.h.Kick()
	for range w.rs {
		if r := w.h.Wait(); r.Err != nil {
			w.h.T.Error(r.Err)
		}
	}
}

// The race detector allocates, so this is not built with it. The engine of the test allocates nothing either.
func TestNoAllocations(t *testing.T) {
	for _, attach := range []bool{false, true} {
		h, _ := openURI(t, newEngine(t, 16<<20).uri(""), attach)
		for _, tc := range []struct {
			op   backstore.Op
			size int64
		}{{backstore.Read, 4096}, {backstore.Read, 256 << 10}, {backstore.Write, 4096}, {backstore.Write, 256 << 10}, {backstore.Discard, 4096}} {
			w := &round{h: h}
			for i := range int64(16) {
				r := &backstore.Request{Op: tc.op, Off: i * tc.size, Len: tc.size}
				if tc.op != backstore.Discard {
					r.Buf = make([]byte, tc.size)
				}
				w.rs = append(w.rs, r)
			}
			w.run()
			if n := testing.AllocsPerRun(30, w.run); n >= 1 {
				t.Errorf("loop %v: %v of %d bytes: %v allocations in 16 requests", attach, tc.op, tc.size, n)
			}
		}
		h.Close()
	}
}
