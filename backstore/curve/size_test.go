package curve

import (
	"context"
	"errors"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

// A volume that has grown behind the store is asked for under another name, and used to its new end on the old descriptor.
func TestGrown(t *testing.T) {
	everyWay(t, nil, func(t *testing.T, b *bench, attach bool) {
		c := b.volume(1 << 20)
		s := b.open(c)
		h := backstoretest.NewHarness(t, s, attach)
		if err := b.pool.Extend(c.path, 3<<20); err != nil {
			t.Fatal(err)
		}
		now, err := s.PresentSize(t.Context())
		if err != nil || now != 3<<20 || s.Info().Size != 1<<20 {
			t.Fatalf("the present size is %d (%v), Info's %d", now, err, s.Info().Size)
		}
		h.WantClass(h.Do(read(1<<20, 4096)), backstore.ClassRange, "beyond the size of before")
		h.WantClass(s.AdoptSize(t.Context(), 4<<20), backstore.ClassRange, "more than there is")
		if err := s.AdoptSize(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		h.Write(now-4096, data(4096, 1), 0)
		h.Want(now-4096, data(4096, 1), "the new end")
		if opens := b.srv.Opens(); len(opens) != 1 {
			t.Errorf("left open: %+v", opens)
		}
		h.Close()
	})
}

// What a process left open when it died tells of an old size; so does the name under which the size is asked for.
func TestStaleRecords(t *testing.T) {
	b := newBench(t, nil)
	c := b.volume(1 << 20)
	s := b.open(c)
	for _, name := range []string{c.nebd, c.alias(sizeAlias)} {
		if _, err := s.v.h.call(t.Context(), 0, "OpenFile", openMessage(name)); err != nil {
			t.Fatal(err)
		}
	}
	s.v.fd.Store(0) // as if it had died: nothing is closed
	s.v.lock.release()
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.pool.Extend(c.path, 2<<20); err != nil {
		t.Fatal(err)
	}
	s = b.open(c)
	if got := s.Info().Size; got != 2<<20 {
		t.Errorf("opened with a size of %d", got)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestResize(t *testing.T) {
	b := newBench(t, nil)
	c := b.volume(1 << 20)
	s := b.open(c)
	for _, tc := range []struct {
		size  int64
		class backstore.Class
	}{{2<<20 + 4096, backstore.ClassUnsupported}, {1<<20 - 4096, backstore.ClassUnsupported}, {0, backstore.ClassRange}, {-4096, backstore.ClassRange}, {1<<20 + 512, backstore.ClassRange}} {
		if err := s.Resize(t.Context(), tc.size); err == nil || backstore.ClassOf(err) != tc.class {
			t.Errorf("resizing to %d: %v, want %v", tc.size, err, tc.class)
		}
	}
	if err := s.Resize(t.Context(), 1<<20-1<<19); !errors.Is(err, errShrink) {
		t.Errorf("shrinking: %v", err)
	}
	if err := b.pool.Extend(c.path, 2<<20); err != nil { // behind it
		t.Fatal(err)
	}
	for _, size := range []int64{2 << 20, 4 << 20} {
		if err := s.Resize(t.Context(), size); err != nil || s.Info().Size != size {
			t.Errorf("growing to %d: %v, and Info says %d", size, err, s.Info().Size)
		}
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Resize(t.Context(), 8<<20); backstore.ClassOf(err) != backstore.ClassOffline {
		t.Errorf("after Close: %v", err)
	}
}
