//go:build rbd && cgo

package rbd

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/ceph/go-ceph/rbd"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
	"github.com/lunar-iscsi/lunar/test/ceph"
)

// What changes the data of an image does not end while the cluster is silent: what was sent would be applied afterwards, over what others write by then. Resizing
// an open image gives up with its context, and the store learns what came of it; a snapshot that comes too late is deleted again.
func TestSilentChanges(t *testing.T) {
	cl := ceph.Start(t, ceph.Config{OSDs: 1, PGs: 1, Grace: 10 * time.Minute})
	c := &testCluster{conf: cl.Conf()}
	v := volumes()
	const limit = "open_timeout=2s"
	const size, object = 16 << 20, 12 // each of its many objects is rolled back by itself
	name := fmt.Sprintf("r%d", time.Now().UnixNano())
	client := c.client(t)
	opts := rbd.NewRbdImageOptions()
	defer opts.Destroy()
	if err := opts.SetUint64(rbd.ImageOptionOrder, object); err != nil {
		t.Fatal(err)
	}
	if err := rbd.CreateImage(client.io, name, size, opts); err != nil {
		t.Fatal(err)
	}
	client.close()
	u := parseURI(t, c.uri("rbd/"+name, limit))
	s := mustOpen(t, u.String(), backstore.Options{})
	h := backstoretest.NewHarness(t, s, false)
	mark, later := bytes.Repeat([]byte{1}, 1<<20), bytes.Repeat([]byte{2}, 1<<20)
	for off := int64(0); off < size; off += 1 << 20 {
		h.Write(off, mark, 0)
	}
	if err := s.Snapshot(t.Context(), "s", nil); err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < size; off += 1 << 20 {
		h.Write(off, later, 0)
	}
	closeAll(t, s)

	begun, ended := make(chan struct{}), make(chan error, 1)
	frozen := false
	go func() {
		ended <- v.Rollback(t.Context(), u, "s", func(done, total int64) {
			if !frozen && done > 0 {
				if done == total {
					t.Error("it is too quick to be caught half way")
				}
				frozen = true
				if err := cl.FreezeOSD(0); err != nil {
					t.Error(err)
				}
				close(begun)
			}
		})
	}()
	select {
	case <-begun:
	case err := <-ended:
		t.Fatalf("the rollback has ended before the cluster fell silent: %v", err)
	}
	// This is longer than each answer of the cluster is waited for otherwise.
	_, err := v.Stat(t.Context(), u)
	_, err2 := v.Stat(t.Context(), u)
	if err == nil || err2 == nil {
		t.Fatal("the cluster is not silent")
	}
	select {
	case err := <-ended:
		t.Errorf("the rollback has ended in the silence: %v", err)
		ended <- nil
	default:
	}
	if err := cl.ThawOSD(0); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}

	s = mustOpen(t, c.uri(u.Path, "lock=wait"), backstore.Options{})
	told := make(chan int64, 8)
	s.WatchSize(func(n int64) { told <- n })
	if err := cl.FreezeOSD(0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	resized := make(chan error, 1)
	go func() { resized <- s.Resize(ctx, 2*size) }()
	select {
	case err := <-resized:
		if err == nil {
			t.Error("resized in the silence")
		}
	case <-time.After(patienceTest):
		t.Error("resizing does not end with its context")
	}
	cancel()
	if err := cl.ThawOSD(0); err != nil {
		t.Fatal(err)
	}
	select {
	case n := <-told:
		if n != s.Info().Size || n != 2*size {
			t.Errorf("told of %d bytes; the store has %d", n, s.Info().Size)
		}
	case <-time.After(patienceTest):
		t.Error("nobody was told of what the resizing came to")
	}
	h = backstoretest.NewHarness(t, s, false)
	for off := int64(0); off < size; off += 1 << 20 {
		h.Want(off, mark, "after the rollback")
	}
	if err := cl.FreezeOSD(0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	err = s.Snapshot(ctx, "late", nil)
	cancel()
	h.WantClass(err, backstore.ClassOffline, "a snapshot in the silence")
	if err := cl.ThawOSD(0); err != nil {
		t.Fatal(err)
	}
	closeAll(t, s) // it waits for what became of the snapshot
	if list, err := v.Snapshots(t.Context(), u); err != nil || len(list) != 1 || list[0].Name != "s" {
		t.Errorf("%+v, %v: want none that nobody was told of", list, err)
	}
}
