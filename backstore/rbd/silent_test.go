//go:build rbd && cgo

package rbd

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
	"github.com/lunar-iscsi/lunar/test/ceph"
)

// While the cluster is silent nothing ends, for longer than any time limit that opening had; Close gives up and leaves the store to end by itself; an
// opening fails in time. When the cluster is back all is done, once.
func TestSilence(t *testing.T) {
	cl := ceph.Start(t, ceph.Config{OSDs: 1, PGs: 1, Grace: 10 * time.Minute})
	c := &testCluster{conf: cl.Conf()}
	one, two, three := c.create(t, 16<<20), c.create(t, 16<<20), c.create(t, 16<<20)
	backstoretest.CheckLeaks(t)
	const limit = "open_timeout=2s"
	s := mustOpen(t, c.uri(one, limit), backstore.Options{})
	h := backstoretest.NewHarness(t, s, true)
	orphan := mustOpen(t, c.uri(two, limit), backstore.Options{})
	ho := backstoretest.NewHarness(t, orphan, false)
	old, fresh := bytes.Repeat([]byte{1}, 4096), bytes.Repeat([]byte{2}, 4096)
	for _, off := range []int64{0, 4 << 20, 8 << 20} { // of what was never written librbd knows without asking that it is zeroes
		h.Write(off, old, 0)
	}
	ho.Write(0, old, 0)
	if err := cl.FreezeOSD(0); err != nil {
		t.Fatal(err)
	}
	thawed := false
	thaw := func() {
		if !thawed {
			thawed = true
			if err := cl.ThawOSD(0); err != nil {
				t.Error(err)
			}
		}
	}
	defer thaw()
	var all []*backstore.Request
	for _, r := range []*backstore.Request{
		{Op: backstore.Write, Len: 4096, Buf: bytes.Clone(fresh)},
		{Op: backstore.Read, Off: 8192, Len: 4096, Buf: make([]byte, 4096)},
		{Op: backstore.Discard, Off: 8 << 20, Len: 4 << 20},
		{Op: backstore.WriteZeroes, Off: 4 << 20, Len: 512},
		{Op: backstore.CompareAndWrite, Off: 4096, Len: 512, Buf: bytes.Clone(fresh[:512]), Compare: make([]byte, 512)},
		{Op: backstore.Allocation, Off: 0, Len: 16 << 20, Extents: make([]backstore.Extent, 0, 8)},
	} {
		if h.Start(r) != backstore.Pending {
			t.Fatalf("%v: %v, want it pending", r.Op, r.Err)
		}
		all = append(all, r)
	}
	h.Kick()
	w := &backstore.Request{Op: backstore.Write, Len: 4096, Buf: bytes.Clone(fresh)}
	if ho.Start(w) != backstore.Pending {
		t.Fatal(w.Err)
	}
	ho.Kick()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	ho.WantClass(orphan.Close(ctx), backstore.ClassBusy, "Close while the cluster is silent")
	cancel()
	// This takes as long as the time limit of an opening, which is what the requests must outlive.
	for range 3 {
		begun := time.Now()
		_, err := tryOpen(t, c.uri(three, limit), backstore.Options{})
		if class := backstore.ClassOf(err); err == nil || class != backstore.ClassOffline {
			t.Errorf("opening while the cluster is silent: %v, want offline", err)
		}
		if took := time.Since(begun); took > 8*time.Second {
			t.Errorf("opening failed after %v", took)
		}
		for _, r := range append(h.Loop.Turn(0), ho.Loop.Turn(0)...) {
			t.Errorf("%v ended while the cluster was silent: %v", r.Op, r.Err)
		}
	}
	thaw()
	for range all {
		if r := h.Wait(); r.Err != nil {
			t.Errorf("%v: %v", r.Op, r.Err)
		}
	}
	if ho.Wait() != w || w.Err != nil {
		t.Errorf("the orphan's write: %v", w.Err)
	}
	h.Want(0, fresh, "what was written in the silence")
	h.Want(4096, fresh[:512], "what was compared and written in the silence")
	h.Close()
	again := mustOpen(t, c.uri(two, "lock=wait"), backstore.Options{}) // when the orphan has let go
	backstoretest.NewHarness(t, again, false).Want(0, fresh, "what the orphan wrote in the silence")
	closeAll(t, again)
	closeAll(t, mustOpen(t, c.uri(three, "lock=wait"), backstore.Options{}))
}
