//go:build !race

package nbd

import (
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
)

// The race detector allocates, so this is not built with it.
func TestNoAllocations(t *testing.T) {
	for _, looped := range []bool{true, false} {
		var loop *testLoop
		if looped {
			loop = newTestLoop(t)
		}
		h := openURI(t, echoServer(t), loop)
		for _, tc := range []struct {
			op    backstore.Op
			size  int64
			flags backstore.Flags
		}{{backstore.Read, 4096, 0}, {backstore.Read, 4096, backstore.FUA}, {backstore.Read, 256 << 10, 0}, {backstore.Write, 4096, 0},
			{backstore.Write, 256 << 10, backstore.FUA}, {backstore.Flush, 0, 0}, {backstore.Discard, 4096, 0}, {backstore.WriteZeroes, 4096, 0}} {
			w := newRound(h, 16, tc.op, tc.size, tc.flags)
			w.run() // the first use of a slot makes its list of pieces
			if n := testing.AllocsPerRun(100, w.run); n >= 1 {
				t.Errorf("loop %v: %v of %d bytes: %v allocations in 16 requests", looped, tc.op, tc.size, n)
			}
		}
		h.close()
	}
}
