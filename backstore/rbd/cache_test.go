//go:build rbd && cgo

package rbd

import (
	"testing"

	"github.com/ceph/go-ceph/rbd"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

// An image whose own configuration switches the cache on has one, whatever the URI says: a write is durable when it was flushed, and there is no sharing.
func TestCacheOfTheImage(t *testing.T) {
	c := start(t)
	name := c.create(t, 8<<20)
	cl := c.client(t)
	img, err := rbd.OpenImage(cl.io, parsed(t, c.uri(name, "")).image, rbd.NoSnapshot)
	if err != nil {
		t.Fatal(err)
	}
	if err := img.SetMetadata("conf_rbd_cache", "true"); err != nil {
		t.Fatal(err)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	cl.close()
	s := mustOpen(t, c.uri(name, ""), backstore.Options{})
	h := backstoretest.NewHarness(t, s, false)
	if i := s.Info(); !i.Has(backstore.CapFlush) || i.Has(backstore.CapCompareAndWrite) || i.Coherent || i.AtomicUnit > blockSize {
		t.Errorf("%+v", i)
	}
	if r := (&backstore.Request{Op: backstore.Flush}); h.Start(r) != backstore.Pending {
		t.Errorf("a flush ended at once: %v", r.Err)
	} else {
		h.Kick()
		h.Wait()
	}
	h.Close()
	if s, err := tryOpen(t, c.uri(name, "shared"), backstore.Options{}); backstore.ClassOf(err) != backstore.ClassUnsupported {
		t.Errorf("shared: %v, want unsupported", err)
		closeAll(t, s)
	}
}
