package null

import (
	"context"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

func newStore(t *testing.T, size int64, ro bool) backstore.Store {
	t.Helper()
	st, err := New(size, ro)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestStore(t *testing.T) {
	backstoretest.Run(t, func(t *testing.T, size int64) backstore.Store { return newStore(t, size, false) },
		backstoretest.Options{Forgets: true, OpenReadOnly: func(t *testing.T, size int64) backstore.Store { return newStore(t, size, true) }})
}

func TestLargest(t *testing.T) {
	u, err := backstore.ParseURI("null:?size=9223372036854775296")
	if err != nil {
		t.Fatal(err)
	}
	st, err := Driver().Open(context.Background(), u, backstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h := backstoretest.NewHarness(t, st, false)
	defer h.Close()
	if h.Info.Size != MaxSize {
		t.Fatalf("size %d, want %d", h.Info.Size, int64(MaxSize))
	}
	h.Want(MaxSize-512, make([]byte, 512), "the last block")
	h.Write(MaxSize-512, make([]byte, 512), 0)
	h.WantClass(h.Do(&backstore.Request{Op: backstore.Read, Off: MaxSize - 512, Len: 1024, Buf: make([]byte, 1024)}), backstore.ClassRange, "beyond the last block")
	h.WantClass(h.Do(&backstore.Request{Op: backstore.Read, Off: MaxSize, Len: 512, Buf: make([]byte, 512)}), backstore.ClassRange, "behind the last block")
	if err := h.Do(&backstore.Request{Op: backstore.Discard, Len: MaxSize}); err != nil {
		t.Errorf("discard of everything: %v", err)
	}
}

func TestSizes(t *testing.T) {
	for _, uri := range []string{"null:?size=0", "null:?size=1", "null:?size=511", "null:?size=8E&", "null:?size=513", "null:?size=-512"} {
		u, err := backstore.ParseURI(uri)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Driver().Open(context.Background(), u, backstore.Options{}); backstore.ClassOf(err) != backstore.ClassRange || err == nil {
			t.Errorf("%s: %v, want out of range", uri, err)
		}
	}
}
