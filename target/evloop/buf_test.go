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

// A share bounds one borrower, whatever the budget has left, and is whole again when everything was put back.
func TestShares(t *testing.T) {
	p := NewPool(nil, NewBudget(64<<20), 0)
	one, two := Share{Limit: 1 << 20}, Share{Limit: 2 << 20}
	var out []*Buf
	for i := range 8 {
		b := p.Get(256 << 10)
		if got := b.Charge(&two); got != true {
			t.Fatalf("buffer %d: no room for it", i)
		}
		if got := b.Charge(&one); got != (i < 4) {
			t.Fatalf("buffer %d: charged %v", i, got)
		}
		out = append(out, b)
	}
	if one.Used() != 1<<20 || two.Used() != 2<<20 {
		t.Fatalf("%d and %d are used", one.Used(), two.Used())
	}
	out[0].Discharge(&two)
	out[7].Discharge(&one)
	if one.Used() != 1<<20 || two.Used() != 7<<18 {
		t.Fatalf("%d and %d are used after one was discharged", one.Used(), two.Used())
	}
	for _, b := range out {
		p.Put(b)
	}
	if one.Used() != 0 || two.Used() != 0 {
		t.Fatalf("%d and %d are left", one.Used(), two.Used())
	}
	large := p.Get(16 << 20)
	if !large.Charge(&one) || p.Get(4096).Charge(&one) {
		t.Error("whoever has nothing gets one of any size, and only one")
	}
	p.Put(large)
}
