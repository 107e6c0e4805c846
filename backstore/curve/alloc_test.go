//go:build !race

package curve

import (
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

// The race detector allocates, so this is not built with it.
func TestNoAllocations(t *testing.T) {
	for _, attach := range []bool{true, false} {
		h := backstoretest.NewHarness(t, echoStore(t), attach)
		for _, tc := range []struct {
			op   backstore.Op
			size int64
		}{{backstore.Read, 4096}, {backstore.Read, 256 << 10}, {backstore.Write, 4096}, {backstore.Write, 256 << 10}} {
			w := newRound(h, 16, tc.op, tc.size)
			w.run()
			if n := testing.AllocsPerRun(100, w.run); n >= 1 {
				t.Errorf("attached %v: %v of %d bytes: %v allocations in 16 requests", attach, tc.op, tc.size, n)
			}
		}
		h.Close()
	}
}
