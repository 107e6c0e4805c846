package mem

import (
	"context"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

func newStore(t testing.TB, c Config) *Store {
	t.Helper()
	st, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestStore(t *testing.T) {
	for _, block := range []int{1, 512, 4096} {
		backstoretest.Run(t, func(t *testing.T, size int64) backstore.Store {
			return newStore(t, Config{Size: size, BlockSize: block})
		}, backstoretest.Options{OpenReadOnly: func(t *testing.T, size int64) backstore.Store {
			return newStore(t, Config{Size: size, BlockSize: block, ReadOnly: true})
		}})
	}
}

// Memory is taken as it is written and given back by Discard.
func TestSparse(t *testing.T) {
	st := newStore(t, Config{Size: 1 << 60, BlockSize: 512})
	h := backstoretest.NewHarness(t, st, false)
	defer h.Close()
	b := []byte("at the far end of an exbibyte")
	b = append(b, make([]byte, 512-len(b))...)
	h.Write(1<<60-512, b, 0)
	h.Want(1<<60-512, b, "the last block")
	h.Want(1<<59, make([]byte, 512), "a hole")
	if n := len(st.pages); n != 1 {
		t.Errorf("%d pages are held after one block was written", n)
	}
	if err := h.Do(&backstore.Request{Op: backstore.Discard, Off: 1<<60 - pageSize, Len: pageSize}); err != nil {
		t.Fatal(err)
	}
	if n := len(st.pages); n != 0 {
		t.Errorf("%d pages are held after they were discarded", n)
	}
	r := &backstore.Request{Op: backstore.Allocation, Len: 1 << 60, Extents: make([]backstore.Extent, 0, 4)}
	if err := h.Do(r); err != nil || len(r.Extents) != 1 || r.Extents[0] != (backstore.Extent{Len: 1 << 60, State: backstore.Deallocated}) {
		t.Errorf("allocation of an empty volume: %v %v", r.Extents, err)
	}
}

// A range that must stay allocated is anchored, costs no page and reads as zeroes.
func TestAnchored(t *testing.T) {
	st := newStore(t, Config{Size: 4 * pageSize})
	h := backstoretest.NewHarness(t, st, false)
	defer h.Close()
	h.Write(0, make([]byte, pageSize), 0)
	if err := h.Do(&backstore.Request{Op: backstore.WriteZeroes, Flags: backstore.KeepAllocated, Off: 0, Len: 2*pageSize + 512}); err != nil {
		t.Fatal(err)
	}
	r := &backstore.Request{Op: backstore.Allocation, Len: 4 * pageSize, Extents: make([]backstore.Extent, 0, 4)}
	if err := h.Do(r); err != nil {
		t.Fatal(err)
	}
	want := []backstore.Extent{{Off: 0, Len: 3 * pageSize, State: backstore.Anchored}, {Off: 3 * pageSize, Len: pageSize, State: backstore.Deallocated}}
	if len(r.Extents) != 2 || r.Extents[0] != want[0] || r.Extents[1] != want[1] {
		t.Errorf("extents %v, want %v", r.Extents, want)
	}
	h.Write(512, []byte{1, 2, 3}, 0)
	h.Want(0, make([]byte, 512), "beside what was written")
	if anchored != (page{}) {
		t.Error("the page that stands for zeroes was written to")
	}
}

// What shrinking cuts off does not come back by growing.
func TestShrink(t *testing.T) {
	st := newStore(t, Config{Size: 4 * pageSize})
	h := backstoretest.NewHarness(t, st, false)
	defer h.Close()
	h.Write(pageSize, []byte{1, 2, 3, 4}, 0)
	h.Write(3*pageSize, []byte{5}, 0)
	for _, size := range []int64{pageSize + 2, 4 * pageSize} {
		if err := st.Resize(context.Background(), size); err != nil {
			t.Fatal(err)
		}
	}
	h.Want(pageSize, []byte{1, 2, 0, 0}, "around the cut")
	h.Want(3*pageSize, []byte{0}, "behind the cut")
}

func TestDriver(t *testing.T) {
	reg := backstore.NewRegistry(Driver())
	for uri, want := range map[string]backstore.Class{
		"mem:": backstore.ClassRange, "mem:?size=0": backstore.ClassRange, "mem:?size=x": backstore.ClassRange,
		"mem:?size=9E": backstore.ClassRange, "mem:?size=1M&readonly=maybe": backstore.ClassUnsupported,
	} {
		u, err := backstore.ParseURI(uri)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := reg.Open(context.Background(), u, backstore.Options{}); err == nil || backstore.ClassOf(err) != want {
			t.Errorf("%s: %v, want %v", uri, err, want)
		}
	}
	u, err := backstore.ParseURI("mem:?size=1M&readonly")
	if err != nil {
		t.Fatal(err)
	}
	st, err := reg.Open(context.Background(), u, backstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if i := st.Info(); i.Size != 1<<20 || !i.ReadOnly {
		t.Errorf("mem:?size=1M&readonly: %+v", i)
	}
	if _, err := New(Config{Size: 4096, BlockSize: 3}); backstore.ClassOf(err) != backstore.ClassRange {
		t.Errorf("a block of 3 bytes: %v", err)
	}
	if err := st.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	r := &backstore.Request{Op: backstore.Read, Len: 512, Buf: make([]byte, 512)}
	if st.Submit(r); backstore.ClassOf(r.Err) != backstore.ClassOffline {
		t.Errorf("a read after Close: %v", r.Err)
	}
}

func BenchmarkRead4K(b *testing.B) {
	st := newStore(b, Config{Size: 64 << 20})
	r := &backstore.Request{Op: backstore.Write, Len: 1 << 20, Buf: make([]byte, 1<<20)}
	for ; r.Off < 64<<20; r.Off += r.Len {
		st.Submit(r)
	}
	r = &backstore.Request{Op: backstore.Read, Flags: backstore.NoWait, Len: 4096, Buf: make([]byte, 4096)}
	b.SetBytes(r.Len)
	b.ReportAllocs()
	for b.Loop() {
		r.Off = (r.Off + 4096*4099) & (64<<20 - 1)
		st.Submit(r)
	}
	if r.Err != nil {
		b.Fatal(r.Err)
	}
}
