package backstoretest

import (
	"context"
	"math"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
)

func (s *suite) resize(t *testing.T, h *Harness) {
	defer h.Close()
	rs, ok := h.Store.(backstore.Resizer)
	if !ok {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		s.adopt(ctx, t, h)
		return
	}
	u := unit(h)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h.Write(Size-u, data(u, 61), 0)
	resized := make(chan error, 1)
	go func() { resized <- rs.Resize(ctx, 2*Size) }()
	for n, done := 0, false; !done; n++ { // I/O goes on beside it
		select {
		case err := <-resized:
			if backstore.ClassOf(err) == backstore.ClassUnsupported && err != nil {
				return
			}
			if err != nil {
				t.Fatalf("Resize: %v", err)
			}
			done = true
		default:
			h.Write(int64(n%64)*u, data(u, uint64(n)), 0)
		}
	}
	if got := h.Store.Info().Size; got != 2*Size {
		t.Fatalf("the size is %d after growing to %d", got, 2*Size)
	}
	h.Want(Size-u, s.want(data(u, 61)), "the old end")
	h.Want(Size, make([]byte, u), "what was added")
	h.Write(2*Size-u, data(u, 62), 0)
	h.Want(2*Size-u, s.want(data(u, 62)), "the new end")
	h.WantClass(h.Do(&backstore.Request{Op: backstore.Read, Off: 2 * Size, Len: u, Buf: h.Buf(u)}), backstore.ClassRange, "beyond the new end")
	for _, bad := range []int64{-1, 0, math.MinInt64, Size + int64(h.Info.BlockSize)/2} {
		if bad > 0 && h.Info.BlockSize == 1 {
			continue
		}
		h.WantClass(rs.Resize(ctx, bad), backstore.ClassRange, "a size that is none")
	}
	if got := h.Store.Info().Size; got != 2*Size {
		t.Fatalf("the size is %d after sizes that are none", got)
	}
	switch err := rs.Resize(ctx, Size); {
	case err == nil:
		h.WantClass(h.Do(&backstore.Request{Op: backstore.Read, Off: Size, Len: u, Buf: h.Buf(u)}), backstore.ClassRange, "beyond the end after shrinking")
		h.Want(Size-u, s.want(data(u, 61)), "the last block after shrinking")
		// What comes back is not what was cut off.
		if err := rs.Resize(ctx, 2*Size); err != nil {
			t.Fatalf("growing again: %v", err)
		}
		h.Want(2*Size-u, make([]byte, u), "what was cut off")
	case h.Store.Info().Size != 2*Size:
		t.Errorf("shrinking was refused (%v) and the size is %d", err, h.Store.Info().Size)
	}
	s.adopt(ctx, t, h)
}

// adopt: a store that can be asked for the present size says what Info says while nobody has changed it, adopts what it says, and less, and never
// more.
func (s *suite) adopt(ctx context.Context, t *testing.T, h *Harness) {
	z, ok := h.Store.(backstore.Sizer)
	if !ok {
		return
	}
	size := h.Store.Info().Size
	if now, err := z.PresentSize(ctx); err != nil || now != size {
		t.Fatalf("the present size is %d (%v), Info says %d", now, err, size)
	}
	if err := z.AdoptSize(ctx, size); err != nil || h.Store.Info().Size != size {
		t.Errorf("adopting the present size: %v, and Info says %d", err, h.Store.Info().Size)
	}
	if err := z.AdoptSize(ctx, 2*size); err == nil && h.Store.Info().Size != size {
		t.Errorf("a size was adopted that the volume does not have")
	}
}
