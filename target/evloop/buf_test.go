package evloop

import (
	"math/rand/v2"
	"testing"
	"unsafe"
)

func TestBufClasses(t *testing.T) {
	p := NewPool(nil, NewBudget(64<<20), 0)
	for _, c := range []struct{ n, size int }{
		{0, 4 << 10}, {1, 4 << 10}, {4096, 4 << 10}, {4097, 8 << 10}, {8192, 8 << 10}, {8193, 16 << 10},
		{262144, 256 << 10}, {262145, 512 << 10}, {1 << 20, 1 << 20}, {1<<20 + 1, 1<<20 + 4096}, {3 << 20, 3 << 20},
	} {
		b := p.Get(c.n)
		if len(b.B) != c.n || cap(b.B) != c.size {
			t.Errorf("Get(%d): length %d, capacity %d, want %d", c.n, len(b.B), cap(b.B), c.size)
		}
		if uintptr(unsafe.Pointer(unsafe.SliceData(b.B)))%pageSize != 0 {
			t.Errorf("Get(%d) does not begin on a page's boundary", c.n)
		}
		if p.Lent() != c.size {
			t.Errorf("Get(%d): %d bytes lent", c.n, p.Lent())
		}
		p.Put(b)
	}
}

// TestPoolAccounts gets and puts at random and holds the pool's and the budget's counts against the
// buffers that are out.
func TestPoolAccounts(t *testing.T) {
	const limit = 4 << 20
	rnd := rand.New(rand.NewPCG(5, 6))
	budget := NewBudget(limit)
	pools := []*Pool{NewPool(nil, budget, 1<<20), NewPool(nil, budget, 0)}
	var out []*Buf
	refused := 0
	for range 2000 {
		if len(out) > 0 && rnd.IntN(2) == 0 {
			i := rnd.IntN(len(out))
			out[i].pool.Put(out[i])
			out[i] = out[len(out)-1]
			out = out[:len(out)-1]
		} else if b := pools[rnd.IntN(2)].Get(rnd.IntN(3 << 20)); b != nil {
			out = append(out, b)
		} else {
			refused++
		}
		lent := 0
		for _, b := range out {
			lent += cap(b.B)
		}
		if got := pools[0].Lent() + pools[1].Lent(); got != lent {
			t.Fatalf("%d bytes lent, the pools say %d", lent, got)
		}
		kept := pools[0].Kept() + pools[1].Kept()
		if used := budget.Used(); used != int64(lent+kept) || used > limit {
			t.Fatalf("budget of %d: %d used, of which %d lent and %d kept", limit, used, lent, kept)
		}
		if pools[0].Kept() > 1<<20 {
			t.Fatalf("%d bytes kept of at most %d", pools[0].Kept(), 1<<20)
		}
	}
	if refused == 0 {
		t.Error("nothing was refused: the budget was never met")
	}
	for _, b := range out {
		b.pool.Put(b)
	}
	for _, p := range pools {
		p.Trim()
	}
	if budget.Used() != 0 {
		t.Errorf("%d bytes used of nothing", budget.Used())
	}
}

func TestBudget(t *testing.T) {
	b := NewBudget(100)
	if !b.Take(60) || b.Take(41) || !b.Take(40) || b.Take(1) || b.Used() != 100 {
		t.Errorf("%d taken of %d", b.Used(), b.Limit())
	}
	b.Give(100)
	if b.Used() != 0 {
		t.Errorf("%d left", b.Used())
	}
}

// TestPoolOverBudget gives back what is kept before it refuses.
func TestPoolOverBudget(t *testing.T) {
	p := NewPool(nil, NewBudget(64<<10), 0)
	small := []*Buf{p.Get(16 << 10), p.Get(16 << 10)}
	for _, b := range small {
		p.Put(b)
	}
	b := p.Get(64 << 10)
	if b == nil {
		t.Fatal("refused although the rest was only kept")
	}
	if p.Get(1) != nil {
		t.Error("lent more than the budget")
	}
	p.Put(b)
	if p.Get(1) == nil {
		t.Error("refused after everything was put back")
	}
}

func TestPutTwice(t *testing.T) {
	budget := NewBudget(1 << 20)
	p, q := NewPool(nil, budget, 0), NewPool(nil, budget, 0)
	b := p.Get(100)
	for name, put := range map[string]func(){
		"into another pool": func() { q.Put(b) },
		"twice":             func() { p.Put(b); p.Put(b) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Put %s went unnoticed", name)
				}
			}()
			put()
		}()
		b = p.Get(100)
	}
}

// TestPoolBeat gives back what was not needed between two beats, and no more.
func TestPoolBeat(t *testing.T) {
	g := newGroup(t)
	l := newLoop(t, g, Config{}, nil)
	defer l.Close()
	budget := NewBudget(1 << 20)
	p := NewPool(l, budget, 0)
	l.Lock()
	defer l.Unlock()
	var bufs []*Buf
	for range 10 {
		bufs = append(bufs, p.Get(4096))
	}
	for _, b := range bufs {
		p.Put(b)
	}
	beat := func() {
		if !p.beat.Set() {
			t.Fatal("the pool keeps memory without a beat")
		}
		l.StopTimer(&p.beat)
		p.beat.F(g.Clock())
	}
	beat() // they were all needed since the pool was made
	if p.Kept() != 10*4096 {
		t.Fatalf("%d bytes kept after the first beat", p.Kept())
	}
	bufs = bufs[:0]
	for range 3 {
		bufs = append(bufs, p.Get(4096))
	}
	for _, b := range bufs {
		p.Put(b)
	}
	beat()
	if p.Kept() != 3*4096 {
		t.Errorf("%d bytes kept after three of ten buffers were needed", p.Kept())
	}
	beat()
	if p.Kept() != 0 || budget.Used() != 0 || p.beat.Set() {
		t.Errorf("%d bytes kept after an idle beat, beat set: %v", p.Kept(), p.beat.Set())
	}
}

func TestPoolAllocs(t *testing.T) {
	p := NewPool(nil, NewBudget(1<<20), 0)
	if n := testing.AllocsPerRun(1000, func() { p.Put(p.Get(64 << 10)) }); n != 0 {
		t.Errorf("%v allocations for a Get and a Put", n)
	}
}

func BenchmarkPool(b *testing.B) {
	p := NewPool(nil, NewBudget(1<<20), 0)
	b.ReportAllocs()
	for b.Loop() {
		p.Put(p.Get(64 << 10))
	}
}

// What a pool keeps goes back to the budget with it, and what comes back later too.
func TestShut(t *testing.T) {
	budget := NewBudget(1 << 20)
	p := NewPool(nil, budget, 0)
	late := p.Get(4096)
	p.Put(p.Get(64 << 10))
	p.Shut()
	if budget.Used() != 4096 {
		t.Errorf("%d bytes are used", budget.Used())
	}
	p.Put(late)
	if budget.Used() != 0 {
		t.Errorf("%d bytes are left", budget.Used())
	}
}

// A share bounds one borrower by what is free: one has less than a third, and many that take what they can get leave room for the next.
func TestShares(t *testing.T) {
	const limit, size = 16 << 20, 64 << 10
	p := NewPool(nil, NewBudget(limit), 0)
	var out []*Buf
	take := func(s *Share) (n int) {
		for {
			may := p.May(s, size/2+1) // of the same class
			b := p.Get(size)
			if b == nil {
				return n
			}
			ok := b.Charge(s)
			if ok != may {
				t.Fatalf("with %d of %d bytes lent: before a buffer is lent it may be had: %v, and then: %v", p.Lent(), limit, may, ok)
			}
			if !ok {
				p.Put(b)
				return n
			}
			out = append(out, b)
			n += size
		}
	}
	shares := make([]Share, 12)
	if n := take(&shares[0]); n < limit/4 || n > limit*3/10 || n != shares[0].Used() {
		t.Errorf("one has taken %d of %d, and %d says its share", n, limit, shares[0].Used())
	}
	for i := range shares {
		take(&shares[i])
	}
	if free := limit - p.Lent(); free < limit/ShareReserve-len(shares)*size {
		t.Errorf("%d bytes are left", free)
	}
	var next, also Share
	b := p.Get(size)
	if !b.Charge(&next) || !b.Charge(&also) {
		t.Error("whoever has nothing gets nothing")
	}
	b.Discharge(&also)
	if next.Used() != size || also.Used() != 0 {
		t.Errorf("%d and %d are used", next.Used(), also.Used())
	}
	for _, b := range append(out, b) {
		p.Put(b)
	}
	for i := range shares {
		if shares[i].Used() != 0 {
			t.Fatalf("%d bytes of share %d are left", shares[i].Used(), i)
		}
	}
	large := p.Get(limit) // all is there again
	if large == nil || !large.Charge(&next) {
		t.Error("whoever has nothing gets one of any size")
	}
}
