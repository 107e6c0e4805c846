package backstoretest

import (
	"math/rand/v2"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
)

const (
	randomSteps = 1500
	maxParallel = 24
	maxLen      = 96 << 10
)

// A model is what the volume must hold, byte by byte; after a discard that promises nothing, a
// unit is unknown until it is written again.
type model struct {
	bytes   []byte
	unknown []bool // by unit
	busy    []bool // by unit: a request is in flight there
	unit    int64
}

func (m *model) claim(off, n int64) bool {
	for u := off / m.unit; u < (off+n)/m.unit; u++ {
		if m.busy[u] {
			return false
		}
	}
	m.mark(m.busy, off, n, true)
	return true
}

func (m *model) mark(set []bool, off, n int64, v bool) {
	for u := off / m.unit; u < (off+n)/m.unit; u++ {
		set[u] = v
	}
}

// random submits operations in batches, many in flight on ranges that do not overlap, and holds what
// they return against the model.
func (s *suite) random(t *testing.T, h *Harness) {
	rnd := rand.New(rand.NewPCG(s.Seed, 0))
	u := unit(h)
	m := &model{bytes: make([]byte, Size), unknown: make([]bool, Size/u), busy: make([]bool, Size/u), unit: u}
	ops := []backstore.Op{backstore.Read, backstore.Read, backstore.Read, backstore.Write, backstore.Write, backstore.Write, backstore.Flush}
	for _, c := range []struct {
		op  backstore.Op
		cap backstore.Caps
	}{{backstore.Discard, backstore.CapDiscard}, {backstore.WriteZeroes, backstore.CapWriteZeroes},
		{backstore.CompareAndWrite, backstore.CapCompareAndWrite}, {backstore.Allocation, backstore.CapAllocation}} {
		if h.Info.Has(c.cap) {
			ops = append(ops, c.op)
		}
	}
	parallel := min(h.Info.MaxInFlight, maxParallel)
	for step := 0; step < randomSteps; {
		for batch := 1 + rnd.IntN(8); batch > 0 && len(h.pending)+len(h.ended) < parallel; batch-- {
			step++
			n := u * (1 + rnd.Int64N(8))
			if rnd.IntN(16) == 0 {
				n = u * (1 + rnd.Int64N(min(maxLen, h.Info.MaxTransfer)/u))
			}
			off := u * rnd.Int64N((Size-n)/u+1)
			r := &backstore.Request{Op: ops[rnd.IntN(len(ops))], Off: off, Len: n}
			if rnd.IntN(4) == 0 && h.Info.Has(backstore.CapFUA) && r.Op != backstore.Allocation && r.Op != backstore.Flush {
				r.Flags |= backstore.FUA
			}
			if r.Op == backstore.CompareAndWrite && n > h.Info.MaxCompareAndWrite {
				continue
			}
			if r.Op == backstore.Flush {
				r.Off, r.Len = 0, 0
			} else if !m.claim(off, n) {
				continue
			}
			s.prepare(h, m, r, rnd)
			if h.Start(r) != backstore.Pending {
				s.check(t, h, m, r)
			}
		}
		h.Kick()
		if r := h.Wait(); r != nil {
			s.check(t, h, m, r)
		}
		for len(h.ended) > 0 {
			s.check(t, h, m, h.Wait())
		}
	}
	for r := h.Wait(); r != nil; r = h.Wait() {
		s.check(t, h, m, r)
	}
	for off := int64(0); off < Size; off += 1 << 16 {
		r := &backstore.Request{Op: backstore.Read, Off: off, Len: 1 << 16, Buf: h.Buf(1 << 16)}
		if err := h.Do(r); err != nil {
			t.Fatalf("read [%d,+%d): %v", off, r.Len, err)
		}
		s.compare(t, m, r)
	}
	h.Close()
}

// prepare fills in the buffers of r.
func (s *suite) prepare(h *Harness, m *model, r *backstore.Request, rnd *rand.Rand) {
	switch r.Op {
	case backstore.Read:
		r.Buf = h.Buf(r.Len)
		for i := range r.Buf {
			r.Buf[i] = canary
		}
	case backstore.Write, backstore.CompareAndWrite:
		r.Buf = h.Buf(r.Len)
		copy(r.Buf, data(r.Len, rnd.Uint64()))
		if r.Op == backstore.CompareAndWrite {
			r.Compare = h.Buf(r.Len)
			copy(r.Compare, m.bytes[r.Off:])
			if rnd.IntN(2) == 0 {
				r.Compare[rnd.Int64N(r.Len)] ^= 0x55
			}
		}
	case backstore.WriteZeroes:
		if rnd.IntN(2) == 0 {
			r.Flags |= backstore.KeepAllocated
		}
	case backstore.Allocation:
		r.Extents = make([]backstore.Extent, 0, 1+rnd.IntN(8))
	}
}

// check takes an ended request into the model.
func (s *suite) check(t *testing.T, h *Harness, m *model, r *backstore.Request) {
	t.Helper()
	if r.Op != backstore.Flush {
		m.mark(m.busy, r.Off, r.Len, false)
	}
	if r.Op == backstore.CompareAndWrite {
		known := true
		for u := r.Off / m.unit; u < (r.Off+r.Len)/m.unit; u++ {
			known = known && !m.unknown[u]
		}
		at := mismatch(r.Compare, m.bytes[r.Off:r.Off+r.Len])
		switch {
		case known && at >= 0:
			h.WantClass(r.Err, backstore.ClassMiscompare, "compare and write of other data")
			if e := r.Err.(*backstore.Error); e.Off != int64(at) {
				t.Fatalf("miscompare at %d, want %d", e.Off, at)
			}
			return
		case backstore.ClassOf(r.Err) == backstore.ClassMiscompare && !known:
			return
		}
	}
	if r.Err != nil {
		t.Fatalf("%v [%d,+%d) flags %b: %v", r.Op, r.Off, r.Len, r.Flags, r.Err)
	}
	switch r.Op {
	case backstore.Read:
		s.compare(t, m, r)
		h.Poison(r.Buf)
	case backstore.Write, backstore.CompareAndWrite:
		copy(m.bytes[r.Off:], s.want(r.Buf))
		m.mark(m.unknown, r.Off, r.Len, false)
		h.Poison(r.Buf)
	case backstore.WriteZeroes:
		clear(m.bytes[r.Off : r.Off+r.Len])
		m.mark(m.unknown, r.Off, r.Len, false)
	case backstore.Discard:
		clear(m.bytes[r.Off : r.Off+r.Len])
		m.mark(m.unknown, r.Off, r.Len, !h.Info.DiscardZeroes)
	case backstore.Allocation:
		s.checkExtents(t, h, m, r)
	}
	if len(h.dead) > 256 {
		h.checkDead()
		h.dead = h.dead[:0]
	}
}

func (s *suite) compare(t *testing.T, m *model, r *backstore.Request) {
	t.Helper()
	for u := r.Off; u < r.Off+r.Len; u += m.unit {
		if m.unknown[u/m.unit] {
			continue
		}
		got, want := r.Buf[u-r.Off:u-r.Off+m.unit], m.bytes[u:u+m.unit]
		if i := mismatch(got, want); i >= 0 {
			t.Fatalf("byte %d of the volume is %#02x, want %#02x (read [%d,+%d))", u+int64(i), got[i], want[i], r.Off, r.Len)
		}
	}
}

// checkExtents checks the form of an allocation answer, and that nothing that holds data is called
// a hole.
func (s *suite) checkExtents(t *testing.T, h *Harness, m *model, r *backstore.Request) {
	t.Helper()
	next := r.Off
	for i, e := range r.Extents {
		if e.Off != next || e.Len <= 0 {
			t.Fatalf("extent %d of [%d,+%d) is [%d,+%d), want it to start at %d", i, r.Off, r.Len, e.Off, e.Len, next)
		}
		next += e.Len
		for u := e.Off / m.unit; e.State != backstore.Mapped && u < (min(next, r.Off+r.Len))/m.unit; u++ {
			if m.unknown[u] || !h.Info.DiscardZeroes && e.State == backstore.Deallocated {
				continue
			}
			for _, b := range m.bytes[u*m.unit : (u+1)*m.unit] {
				if b != 0 {
					t.Fatalf("extent [%d,+%d) is not mapped, and holds data at %d", e.Off, e.Len, u*m.unit)
				}
			}
		}
	}
	if next > r.Off+r.Len {
		t.Fatalf("the answer for [%d,+%d) goes to %d", r.Off, r.Len, next)
	}
	if r.Len > 0 && len(r.Extents) == 0 {
		t.Fatalf("no extent for [%d,+%d)", r.Off, r.Len)
	}
}

// zeroes checks Discard and WriteZeroes against what Info claims.
func (s *suite) zeroes(t *testing.T, h *Harness) {
	u := unit(h)
	g := max(h.Info.DiscardGranularity, u)
	for n, c := range []struct {
		op    backstore.Op
		cap   backstore.Caps
		flags backstore.Flags
		zero  bool
	}{
		{backstore.WriteZeroes, backstore.CapWriteZeroes, 0, true},
		{backstore.WriteZeroes, backstore.CapWriteZeroes, backstore.KeepAllocated, true},
		{backstore.Discard, backstore.CapDiscard, 0, h.Info.DiscardZeroes},
	} {
		if !h.Info.Has(c.cap) {
			continue
		}
		for _, r := range []struct{ off, len int64 }{{u, u}, {0, 4 * g}, {g + u, 3 * g}, {Size - g, g}, {0, 0}, {Size, 0}} {
			b := data(8*g, uint64(n)+81)
			at := min(r.off/g*g, Size-8*g)
			h.Write(at, b, 0)
			if err := h.Do(&backstore.Request{Op: c.op, Flags: c.flags, Off: r.off, Len: r.len}); err != nil {
				t.Fatalf("%v [%d,+%d): %v", c.op, r.off, r.len, err)
			}
			if !c.zero {
				h.Want(at, s.want(b)[:r.off-at], "in front of what was discarded")
				h.Want(r.off+r.len, s.want(b)[r.off+r.len-at:], "behind what was discarded")
				continue
			}
			if r.len > 0 {
				clear(b[r.off-at : r.off-at+r.len])
			}
			h.Want(at, s.want(b), "after "+c.op.String())
		}
	}
	h.Close()
}

// allocation checks answers about ranges written, discarded and zeroed.
func (s *suite) allocation(t *testing.T, h *Harness) {
	defer h.Close()
	if !h.Info.Has(backstore.CapAllocation) || s.Forgets {
		return
	}
	g := max(h.Info.DiscardGranularity, unit(h), 64<<10)
	m := &model{bytes: make([]byte, Size), unknown: make([]bool, Size/unit(h)), unit: unit(h)}
	for _, k := range []int64{1, 3, 5, 6} {
		b := data(g, uint64(k))
		h.Write(k*g, b, 0)
		copy(m.bytes[k*g:], b)
	}
	ask := func(off, n int64, room int) []backstore.Extent {
		t.Helper()
		r := &backstore.Request{Op: backstore.Allocation, Off: off, Len: n, Extents: make([]backstore.Extent, 0, room)}
		if err := h.Do(r); err != nil {
			t.Fatalf("allocation of [%d,+%d): %v", off, n, err)
		}
		s.checkExtents(t, h, m, r)
		return r.Extents
	}
	ask(0, Size, 32)
	if got := ask(0, Size, 2); len(got) > 2 {
		t.Errorf("%d extents in a slice with room for 2", len(got))
	}
	ask(g+unit(h), unit(h), 4)
	ask(Size-unit(h), unit(h), 4)
	if h.Info.Has(backstore.CapDiscard) && h.Info.DiscardZeroes {
		if err := h.Do(&backstore.Request{Op: backstore.Discard, Off: 3 * g, Len: g}); err != nil {
			t.Fatal(err)
		}
		clear(m.bytes[3*g : 4*g])
		if e := ask(3*g, g, 4); e[0].State != backstore.Deallocated {
			t.Errorf("a discarded range is %v, want Deallocated", e)
		}
	}
	if h.Info.Has(backstore.CapWriteZeroes) {
		if err := h.Do(&backstore.Request{Op: backstore.WriteZeroes, Flags: backstore.KeepAllocated, Off: 5 * g, Len: g}); err != nil {
			t.Fatal(err)
		}
		clear(m.bytes[5*g : 6*g])
		ask(5*g, g, 4)
	}
}
