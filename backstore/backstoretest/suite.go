package backstoretest

import (
	"bytes"
	"context"
	"errors"
	"math"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/faulty"
)

// Options say what a driver's test can do beyond opening a fresh volume, and what the suite may
// not expect.
type Options struct {
	// Reopen opens again, after Close, the volume that the last open made. Nil: the suite does not look at
	// durability.
	Reopen func(t *testing.T) backstore.Store
	// OpenReadOnly opens a zeroed volume of size bytes without the right to write.
	OpenReadOnly func(t *testing.T, size int64) backstore.Store
	// Forgets: writes are dropped and reads are zeroes (the null store).
	Forgets bool
	// Allocates: the steady path may allocate (a driver around somebody else's library).
	Allocates bool
	// Seed of the random operations; 0 takes a fixed one.
	Seed uint64
}

// Size is what most tests ask open for, in bytes.
const Size = 4 << 20

type suite struct {
	Options
	open func(t *testing.T, size int64) backstore.Store
}

// Run runs the whole suite over the stores that open makes. At most one Options is used.
func Run(t *testing.T, open func(t *testing.T, size int64) backstore.Store, opts ...Options) {
	s := &suite{open: open}
	if len(opts) > 0 {
		s.Options = opts[0]
	}
	if s.Seed == 0 {
		s.Seed = 1
	}
	probe := open(t, Size)
	_, attacher := probe.(backstore.Attacher)
	closeStore(t, probe)

	s.each(t, "Info", attacher, s.info)
	s.each(t, "Edges", attacher, s.edges)
	s.each(t, "Refusals", attacher, s.refusals)
	s.each(t, "Random", attacher, s.random)
	s.each(t, "NoWait", attacher, s.noWait)
	s.each(t, "Zeroes", attacher, s.zeroes)
	s.each(t, "Allocation", attacher, s.allocation)
	s.each(t, "CompareAndWrite", attacher, s.compareAndWrite)
	s.each(t, "Resize", attacher, s.resize)
	s.each(t, "SteadyPath", attacher, s.steadyPath)
	s.each(t, "Durability", attacher, s.durability)
	s.each(t, "CloseInFlight", false, s.closeInFlight)
	s.each(t, "NeverEnding", attacher, s.neverEnding)
	s.each(t, "Faults", attacher, s.faults)
	s.each(t, "HeldBack", attacher, s.heldBack)
	if s.OpenReadOnly != nil {
		t.Run("ReadOnly", s.readOnly)
	}
}

// each runs f over a fresh store, bare and attached. f closes the harness.
func (s *suite) each(t *testing.T, name string, attached bool, f func(t *testing.T, h *Harness)) {
	t.Run(name, func(t *testing.T) {
		CheckLeaks(t)
		f(t, NewHarness(t, s.open(t, Size), false))
	})
	if attached {
		t.Run(name+"Attached", func(t *testing.T) {
			CheckLeaks(t)
			f(t, NewHarness(t, s.open(t, Size), true))
		})
	}
}

func closeStore(t testing.TB, st backstore.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := st.Close(ctx); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// data returns n bytes that depend on seed.
func data(n int64, seed uint64) []byte {
	b := make([]byte, n)
	x := seed*0x9e3779b97f4a7c15 | 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x >> 32)
	}
	return b
}

// want is what a range written with b reads as.
func (s *suite) want(b []byte) []byte {
	if s.Forgets {
		return make([]byte, len(b))
	}
	return b
}

// unit is the least a test writes: a block, and no less than 512 bytes.
func unit(h *Harness) int64 { return int64(max(h.Info.BlockSize, 512)) }

func powerOfTwo(n int64) bool { return n > 0 && n&(n-1) == 0 }

func (s *suite) info(t *testing.T, h *Harness) {
	defer h.Close()
	i := h.Info
	for _, c := range []struct {
		ok   bool
		what string
	}{
		{i.Driver != "", "Driver is empty"},
		{i.Volume != "", "Volume is empty"},
		{i.Identity == "" || i.Identity != i.Volume, "Identity is the path"},
		{i.Size == Size, "Size is not what was asked for"},
		{powerOfTwo(int64(i.BlockSize)), "BlockSize is no power of two"},
		{i.PhysicalBlock >= i.BlockSize && powerOfTwo(int64(i.PhysicalBlock)), "PhysicalBlock is no power of two of at least BlockSize"},
		{i.MaxTransfer >= 1<<16 && i.MaxTransfer%int64(i.BlockSize) == 0, "MaxTransfer is below 64 KiB or not in whole blocks"},
		{i.MaxInFlight >= 1, "MaxInFlight is not positive"},
		{powerOfTwo(int64(i.MemAlign)), "MemAlign is no power of two"},
		{!i.ReadOnly, "ReadOnly, and the volume was opened for writing"},
		{!i.Has(backstore.CapCompareAndWrite) || i.MaxCompareAndWrite >= int64(i.BlockSize), "CapCompareAndWrite without MaxCompareAndWrite"},
		{!i.DiscardZeroes || i.Has(backstore.CapDiscard), "DiscardZeroes without CapDiscard"},
		{i.MaxDiscard == 0 || i.MaxDiscard >= 1<<20, "MaxDiscard is below 1 MiB"},
		{i.AtomicUnit == 0 || i.AtomicUnit%int64(i.BlockSize) == 0, "AtomicUnit is not in whole blocks"},
	} {
		if !c.ok {
			t.Errorf("Info: %s: %+v", c.what, i)
		}
	}
	if _, ok := h.Store.(backstore.Canceler); ok != i.Has(backstore.CapCancel) {
		t.Errorf("CapCancel is %v, Canceler is %v", i.Has(backstore.CapCancel), ok)
	}
}

func (s *suite) edges(t *testing.T, h *Harness) {
	u := unit(h)
	top := min(h.Info.MaxTransfer, Size)
	for n, c := range []struct{ off, len int64 }{
		{0, u}, {Size - u, u}, {Size/2 - u, 2 * u}, {64<<10 - u, 2 * u}, {0, top}, {Size - top, top}, {u, 64<<10 - u}, {3 * u, 5 * u},
		{0, int64(h.Info.BlockSize)}, {Size - int64(h.Info.BlockSize), int64(h.Info.BlockSize)},
	} {
		b := data(c.len, uint64(n)+1)
		h.Write(c.off, b, 0)
		h.Want(c.off, s.want(b), "what was written")
	}
	for _, op := range []backstore.Op{backstore.Read, backstore.Write} {
		for _, off := range []int64{0, Size} {
			if err := h.Do(&backstore.Request{Op: op, Off: off, Buf: h.Buf(0)}); err != nil {
				t.Errorf("%v of 0 bytes at %d: %v", op, off, err)
			}
		}
	}
	h.Close()
}

func (s *suite) refusals(t *testing.T, h *Harness) {
	i := h.Info
	u := unit(h)
	mark := data(Size, 7)
	for off := int64(0); off < Size; off += 1 << 16 {
		h.Write(off, mark[off:off+1<<16], 0)
	}
	over := u
	if i.MaxTransfer < Size {
		over = i.MaxTransfer + int64(i.BlockSize)
	}
	type bad struct {
		what string
		r    backstore.Request
		want backstore.Class
	}
	var list []bad
	for _, op := range []backstore.Op{backstore.Read, backstore.Write} {
		add := func(what string, off, n int64, buf []byte) {
			list = append(list, bad{what, backstore.Request{Op: op, Off: off, Len: n, Buf: buf}, backstore.ClassRange})
		}
		add("beyond the end", Size, u, h.Buf(u))
		add("across the end", Size-u, 2*u, h.Buf(2*u))
		add("a negative offset", -u, u, h.Buf(u))
		add("a negative length", 0, -u, nil)
		add("an offset that wraps", math.MaxInt64-u+1, u, h.Buf(u))
		add("the last offset there is", math.MaxInt64&^(u-1), u, h.Buf(u))
		add("the least offset there is", math.MinInt64, u, h.Buf(u))
		add("a length that wraps", u, math.MaxInt64&^(u-1), h.Buf(u))
		add("a short buffer", 0, 2*u, h.Buf(u))
		add("a long buffer", 0, u, h.Buf(2*u))
		add("no buffer", 0, u, nil)
		if over > u {
			add("more than MaxTransfer", 0, over, h.Buf(over))
		}
		if i.BlockSize > 1 {
			add("half a block", 0, u/2, h.Buf(u / 2)[:u/2])
			add("half a block in", int64(i.BlockSize)/2, u, h.Buf(u))
		}
		if i.MemAlign > 1 {
			add("memory out of line", 0, u, h.Buf(2 * u)[1:u+1])
		}
	}
	for _, c := range []struct {
		op  backstore.Op
		cap backstore.Caps
	}{{backstore.Discard, backstore.CapDiscard}, {backstore.WriteZeroes, backstore.CapWriteZeroes},
		{backstore.CompareAndWrite, backstore.CapCompareAndWrite}, {backstore.Allocation, backstore.CapAllocation}} {
		r := backstore.Request{Op: c.op, Off: Size - u, Len: 2 * u, Buf: h.Buf(2 * u), Compare: h.Buf(2 * u), Extents: make([]backstore.Extent, 0, 4)}
		if !i.Has(c.cap) {
			r.Off, r.Len = 0, u
			r.Buf, r.Compare = r.Buf[:u], r.Compare[:u]
			list = append(list, bad{"a capability that is absent", r, backstore.ClassUnsupported})
			continue
		}
		list = append(list, bad{"across the end", r, backstore.ClassRange})
		r.Off = math.MaxInt64 - u + 1
		list = append(list, bad{"an offset that wraps", r, backstore.ClassRange})
	}
	if !i.Has(backstore.CapFUA) {
		list = append(list, bad{"FUA without CapFUA", backstore.Request{Op: backstore.Write, Flags: backstore.FUA, Len: u, Buf: h.Buf(u)}, backstore.ClassUnsupported})
	}
	list = append(list,
		bad{"operation 0", backstore.Request{Len: u, Buf: h.Buf(u)}, backstore.ClassUnsupported},
		bad{"operation 200", backstore.Request{Op: 200, Len: u, Buf: h.Buf(u)}, backstore.ClassUnsupported},
		bad{"a flush with a range", backstore.Request{Op: backstore.Flush, Off: u, Len: u}, backstore.ClassRange})
	for _, b := range list {
		what := b.r.Op.String() + " with " + b.what
		if out := h.Start(&b.r); out != backstore.Done {
			t.Fatalf("%s: outcome %d, want Done at once", what, out)
		}
		h.WantClass(b.r.Err, b.want, what)
	}
	h.Want(0, s.want(mark[:1<<16]), "after refused requests")
	h.Want(Size-1<<16, s.want(mark[Size-1<<16:]), "after refused requests")
	h.Close()
}

func (s *suite) noWait(t *testing.T, h *Harness) {
	u := unit(h)
	b := data(16*u, 3)
	h.Write(0, b, 0)
	var inline [3]int
	const rounds = 64
	for n := range rounds {
		off := int64(n%16) * u
		r := &backstore.Request{Op: backstore.Read, Flags: backstore.NoWait, Off: off, Len: u, Buf: h.Buf(u)}
		switch h.Start(r) {
		case backstore.Done:
			inline[backstore.Read]++
			if r.Err != nil {
				t.Fatalf("a read with NoWait: %v", r.Err)
			}
			if i := mismatch(r.Buf, s.want(b)[off:off+u]); i >= 0 {
				t.Fatalf("a read with NoWait: byte %d is wrong", off+int64(i))
			}
		case backstore.WouldBlock:
			h.Poison(r.Buf) // nothing is kept: nobody may fill it later
			h.Want(off, s.want(b)[off:off+u], "a read after WouldBlock")
		}
		fresh := data(u, uint64(n)+100)
		w := &backstore.Request{Op: backstore.Write, Flags: backstore.NoWait, Off: off, Len: u, Buf: h.Buf(u)}
		copy(w.Buf, fresh)
		switch h.Start(w) {
		case backstore.Done:
			inline[backstore.Write]++
			if w.Err != nil {
				t.Fatalf("a write with NoWait: %v", w.Err)
			}
			copy(b[off:], fresh)
		}
		h.Poison(w.Buf)
		h.Want(off, s.want(b)[off:off+u], "after a write with NoWait")
	}
	for op, c := range map[backstore.Op]backstore.Caps{backstore.Read: backstore.CapNoWaitRead, backstore.Write: backstore.CapNoWaitWrite} {
		if h.Info.Has(c) && inline[op] == 0 {
			t.Errorf("%v with NoWait is claimed to end at once often; of %d none did", op, rounds)
		}
		if !h.Info.Has(c) && inline[op] != 0 {
			t.Errorf("%v with NoWait ended at once without the capability; want WouldBlock", op)
		}
	}
	h.Close()
}

func (s *suite) readOnly(t *testing.T) {
	CheckLeaks(t)
	h := NewHarness(t, s.OpenReadOnly(t, Size), true)
	u := unit(h)
	if !h.Info.ReadOnly {
		t.Errorf("Info.ReadOnly is false")
	}
	for _, op := range []backstore.Op{backstore.Write, backstore.Discard, backstore.WriteZeroes, backstore.CompareAndWrite} {
		r := &backstore.Request{Op: op, Len: u, Buf: h.Buf(u), Compare: h.Buf(u)}
		if out := h.Start(r); out != backstore.Done {
			t.Fatalf("%v on a read-only store: outcome %d, want Done at once", op, out)
		}
		if c := backstore.ClassOf(r.Err); r.Err == nil || c != backstore.ClassReadOnly && c != backstore.ClassUnsupported || op == backstore.Write && c != backstore.ClassReadOnly {
			t.Errorf("%v on a read-only store: %v", op, r.Err)
		}
	}
	h.Want(Size-u, make([]byte, u), "a read-only volume")
	if err := h.Do(&backstore.Request{Op: backstore.Flush}); err != nil {
		t.Errorf("flush of a read-only store: %v", err)
	}
	h.Close()
}

func (s *suite) steadyPath(t *testing.T, h *Harness) {
	if s.Allocates {
		h.Close()
		return
	}
	const n = 4096
	h.Write(0, data(1<<18, 5), 0)
	var reqs [8]backstore.Request
	for i := range reqs {
		reqs[i].Buf = h.Buf(n)
	}
	for _, op := range []backstore.Op{backstore.Read, backstore.Write} {
		for _, flags := range []backstore.Flags{0, backstore.NoWait} {
			batch := func() {
				for i := range reqs {
					r := &reqs[i]
					r.Op, r.Flags, r.Off, r.Len, r.Err = op, flags, int64(i)*n, n, nil
					h.Start(r)
				}
				h.Kick()
				for h.Wait() != nil {
				}
			}
			for range 8 {
				batch() // fills pools and starts workers
			}
			if a := testing.AllocsPerRun(100, batch); a > 0 && !raceDetector {
				t.Errorf("%v with flags %b: %v allocations in a batch of %d", op, flags, a, len(reqs))
			}
		}
	}
	h.Close()
}

func (s *suite) closeInFlight(t *testing.T, h *Harness) {
	u := unit(h)
	n := min(h.Info.MaxInFlight, 32)
	all := data(int64(n)*u, 21)
	for i := range int64(n) {
		b := h.Buf(u)
		copy(b, all[i*u:])
		h.Start(&backstore.Request{Op: backstore.Write, Off: i * u, Len: u, Buf: b})
	}
	h.Kick()
	closeStore(t, h.Store)
	h.Turn(0) // Close has waited: what was pending has been completed by now
	if left := len(h.pending); left > 0 {
		t.Fatalf("Close returned before %d requests had ended", left)
	}
	for _, r := range h.ended {
		if r.Err != nil {
			t.Errorf("a write in flight at Close: %v", r.Err)
		}
		h.Poison(r.Buf)
	}
	if s.Reopen != nil {
		h2 := NewHarness(t, s.Reopen(t), false)
		h2.Want(0, all, "what was in flight at Close")
		h2.Close()
	}
	h.checkDead()
}

// wrap puts faulty around the store of h, attached if it was.
func wrap(t *testing.T, h *Harness, rules string) (*faulty.Store, *Harness) {
	t.Helper()
	attached := h.attached
	h.detach()
	f, err := faulty.New(h.Store, rules)
	if err != nil {
		t.Fatal(err)
	}
	return f, NewHarness(t, f, attached)
}

func (s *suite) neverEnding(t *testing.T, h *Harness) {
	f, h := wrap(t, h, "write hang count=1")
	u := unit(h)
	late := data(u, 31)
	b := h.Buf(u)
	copy(b, late)
	w := &backstore.Request{Op: backstore.Write, Len: u, Buf: b}
	if h.Start(w) != backstore.Pending {
		t.Fatal("a write that hangs is not pending")
	}
	h.Kick()
	h.Want(0, make([]byte, u), "before the late write")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	h.WantClass(f.Close(ctx), backstore.ClassBusy, "Close with a request that never ends")
	if f.Release() != 1 {
		t.Fatal("nothing was held")
	}
	if r := h.Wait(); r != w || r.Err != nil {
		t.Fatalf("the late write: %v", w.Err)
	}
	h.Poison(b)
	h.detach()
	ctx, cancel = context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := f.Gone(ctx); err != nil {
		t.Fatalf("the orphan was never closed: %v", err)
	}
	if s.Reopen != nil {
		h2 := NewHarness(t, s.Reopen(t), false)
		h2.Want(0, late, "the late write")
		h2.Close()
	}
	h.checkDead()
}

func (s *suite) faults(t *testing.T, h *Harness) {
	f, h := wrap(t, h, "read error=medium every=3; write error=nospace off=64K len=64K")
	u := unit(h)
	b := data(u, 41)
	h.Write(0, b, 0)
	for n := 1; n <= 9; n++ {
		r := &backstore.Request{Op: backstore.Read, Len: u, Buf: h.Buf(u)}
		if err := h.Do(r); (err != nil) != (n%3 == 0) {
			t.Fatalf("read %d: %v", n, err)
		} else if err != nil {
			h.WantClass(err, backstore.ClassMedium, "an injected fault")
		}
	}
	h.WantClass(h.Do(&backstore.Request{Op: backstore.Write, Off: 64 << 10, Len: u, Buf: h.Buf(u)}), backstore.ClassNoSpace, "a write to a bad range")
	if err := f.Set(""); err != nil {
		t.Fatal(err)
	}
	h.Want(64<<10, make([]byte, u), "after a write that failed")
	if err := f.Set("flush error=medium count=1"); err != nil {
		t.Fatal(err)
	}
	h.WantClass(h.Do(&backstore.Request{Op: backstore.Flush}), backstore.ClassMedium, "a flush")
	for _, op := range []backstore.Op{backstore.Flush, backstore.Write} {
		r := &backstore.Request{Op: op}
		if op == backstore.Write {
			r.Len, r.Buf = u, h.Buf(u)
		}
		h.WantClass(h.Do(r), backstore.ClassMedium, "after a failed flush")
	}
	h.Want(0, s.want(b), "after a failed flush")
	h.Close()
}

// heldBack is the random test again with every request let go from a timer, out of order.
func (s *suite) heldBack(t *testing.T, h *Harness) {
	f, h := wrap(t, h, "write delay=1ms every=3; read delay=2ms every=2; any pending every=2")
	s.random(t, h)
	if f.Hits() == 0 {
		t.Errorf("no request was held back")
	}
}

func (s *suite) compareAndWrite(t *testing.T, h *Harness) {
	defer h.Close()
	if !h.Info.Has(backstore.CapCompareAndWrite) {
		return
	}
	n := min(2*unit(h), h.Info.MaxCompareAndWrite)
	old, fresh := data(n, 51), data(n, 52)
	h.Write(n, old, 0)
	caw := func(compare, buf []byte) error {
		return h.Do(&backstore.Request{Op: backstore.CompareAndWrite, Off: n, Len: n, Compare: compare, Buf: buf})
	}
	for _, at := range []int64{0, 1, n / 2, n - 1} {
		wrong := bytes.Clone(old)
		wrong[at] ^= 1
		wrong[n-1] ^= 2 // a later difference does not count
		err := caw(wrong, fresh)
		h.WantClass(err, backstore.ClassMiscompare, "other data")
		var e *backstore.Error
		if errors.As(err, &e); e.Off != at {
			t.Errorf("miscompare at %d, want %d", e.Off, at)
		}
		h.Want(n, old, "after a miscompare")
	}
	if err := caw(old, fresh); err != nil {
		t.Fatalf("compare and write: %v", err)
	}
	h.Want(n, fresh, "after compare and write")
	zero := make([]byte, n)
	if err := h.Do(&backstore.Request{Op: backstore.CompareAndWrite, Off: Size - n, Len: n, Compare: zero, Buf: fresh}); err != nil {
		t.Errorf("compare and write of a range never written: %v", err)
	}
}

func (s *suite) durability(t *testing.T, h *Harness) {
	u := unit(h)
	fua := backstore.Flags(0)
	if h.Info.Has(backstore.CapFUA) {
		fua = backstore.FUA
	}
	a, b := data(4*u, 71), data(4*u, 72)
	h.Write(0, a, fua)
	h.Write(Size/2, b, 0)
	r := &backstore.Request{Op: backstore.Read, Flags: fua, Off: Size / 2, Len: 4 * u, Buf: h.Buf(4 * u)}
	if err := h.Do(r); err != nil || mismatch(r.Buf, s.want(b)) >= 0 {
		t.Errorf("a read with flags %b: %v, or other data", fua, err)
	}
	if err := h.Do(&backstore.Request{Op: backstore.Flush}); err != nil {
		t.Errorf("flush: %v", err)
	}
	for _, op := range []backstore.Op{backstore.Discard, backstore.WriteZeroes} {
		if (op == backstore.Discard && h.Info.Has(backstore.CapDiscard)) || (op == backstore.WriteZeroes && h.Info.Has(backstore.CapWriteZeroes)) {
			if err := h.Do(&backstore.Request{Op: op, Flags: fua, Off: Size - u, Len: u}); err != nil {
				t.Errorf("%v with flags %b: %v", op, fua, err)
			}
		}
	}
	h.Close()
	if s.Reopen == nil {
		return
	}
	h2 := NewHarness(t, s.Reopen(t), false)
	if got := h2.Info.Size; got != Size {
		t.Errorf("the size is %d after reopening", got)
	}
	h2.Want(0, a, "after reopening")
	h2.Want(Size/2, b, "after reopening")
	h2.Close()
}
