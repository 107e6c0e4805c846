package evloop

import (
	"math/bits"
	"sync/atomic"
	"time"
	"unsafe"
)

// Tuning of buffers.
const (
	// MinBuf and MaxBuf are the smallest and the largest size class; the classes are the powers of two
	// between. A larger buffer is made to measure and not kept.
	MinBuf = 4 << 10
	MaxBuf = 1 << 20
	// DefaultPoolKeep bounds what a pool keeps for reuse, in bytes.
	DefaultPoolKeep = 8 << 20
	// PoolIdle is the beat at which a pool in a loop gives back what it did not need since the last.
	PoolIdle = time.Second

	// ShareReserve is the part of a budget, one in so many, that nobody gets who has something of it already.
	ShareReserve = 8

	classes  = 9 // 4K, 8K, … 1M
	minShift = 12
	pageSize = 4096
)

// Budget bounds the bytes that all pools of a process hold together, lent out or kept for reuse. It may
// be used from any goroutine.
type Budget struct {
	limit int64
	used  atomic.Int64
}

// NewBudget makes a budget of so many bytes.
func NewBudget(limit int64) *Budget { return &Budget{limit: limit} }

// Take takes n bytes and says whether they were to be had; if not, nothing was taken.
func (b *Budget) Take(n int) bool {
	if b.used.Add(int64(n)) <= b.limit {
		return true
	}
	b.used.Add(-int64(n))
	return false
}

// Give returns n bytes that were taken.
func (b *Budget) Give(n int) { b.used.Add(-int64(n)) }

// Used is how many bytes are taken now, Limit how many there are.
func (b *Budget) Used() int64  { return b.used.Load() }
func (b *Budget) Limit() int64 { return b.limit }

// Buf is a buffer of a Pool. Who got it owns it until Put. B's memory begins on a page's boundary, holds
// no pointers, and is not cleared: it may show what its last owner wrote.
type Buf struct {
	B []byte // as long as was asked for; its capacity is the size class

	mem   []byte
	pool  *Pool
	class int // -1: made to measure
	lent  bool
	on    [2]*Share // what it is charged to besides the budget
}

// Share bounds what one borrower among many has of a budget, so that none can use it up, nor many together that take what
// they can get: nobody gets more than half of what is then still free, and what is free does not count ShareReserve, which is there for
// those who have nothing: they get one buffer of any size. One alone comes to 29 % of the budget. It belongs to one loop.
type Share struct{ used int }

// Used is how many bytes are lent on s.
func (s *Share) Used() int { return s.used }

// May reports whether s may have a buffer of n bytes that p has not lent yet. Ask before Get: a buffer that is made for one who may not have
// it costs its memory until the collector comes, outside the budget, and an initiator can ask for another with each command.
func (p *Pool) May(s *Share, n int) bool { return p.may(s, sizeOf(n), sizeOf(n)) }

// may is May for size bytes of memory, of which fresh are not taken from what is free yet.
func (p *Pool) may(s *Share, size, fresh int) bool {
	if s.used == 0 {
		return true
	}
	free := p.budget.limit - p.budget.used.Load() + int64(p.kept-fresh)
	return 2*int64(s.used+size) <= free-p.budget.limit/ShareReserve
}

// Charge charges b, which its pool has just lent, to s as well, and says whether s may have that much; if not, nothing was charged. Put
// gives it back.
func (b *Buf) Charge(s *Share) bool {
	if !b.pool.may(s, len(b.mem), 0) {
		return false
	}
	for i := range b.on {
		if b.on[i] == nil {
			b.on[i] = s
			s.used += len(b.mem)
			return true
		}
	}
	panic("evloop: a buffer is charged to more than two shares")
}

// Discharge undoes Charge before b is put back; it is fine if b was not charged to s.
func (b *Buf) Discharge(s *Share) {
	for i := range b.on {
		if b.on[i] == s {
			b.on[i] = nil
			s.used -= len(b.mem)
		}
	}
}

// Pool keeps buffers for reuse. It belongs to one loop: its methods are for the loop's goroutine or for
// whoever holds the loop's lock.
type Pool struct {
	budget *Budget
	keep   int // bytes
	kept   int
	lent   int
	free   [classes][]*Buf
	low    [classes]int // the fewest that were free since the last beat: so many were not needed
	loop   *Loop
	beat   Timer
}

// NewPool makes a pool that draws on budget and keeps at most keep bytes for reuse (0: DefaultPoolKeep).
// l is the loop that it belongs to, which has it give back what it does not need; nil: only Trim does.
func NewPool(l *Loop, budget *Budget, keep int) *Pool {
	if keep <= 0 {
		keep = DefaultPoolKeep
	}
	p := &Pool{budget: budget, keep: keep, loop: l}
	p.beat.F = func(now int64) {
		p.trimUnused()
		if p.kept > 0 {
			p.loop.SetTimer(&p.beat, now+int64(PoolIdle))
		}
	}
	return p
}

// classOf is the size class of n bytes; -1 above the largest.
func classOf(n int) int {
	if n > MaxBuf {
		return -1
	}
	if n <= MinBuf {
		return 0
	}
	return bits.Len(uint(n-1)) - minShift
}

// sizeOf is how much memory a buffer of n bytes takes.
func sizeOf(n int) int {
	if c := classOf(n); c >= 0 {
		return MinBuf << c
	}
	return (n + pageSize - 1) &^ (pageSize - 1)
}

// Get lends a buffer of n bytes; nil if that would exceed the budget, after giving back what this pool
// keeps.
func (p *Pool) Get(n int) *Buf {
	c := classOf(n)
	var b *Buf
	if c >= 0 && len(p.free[c]) > 0 {
		last := len(p.free[c]) - 1
		b = p.free[c][last]
		p.free[c][last] = nil
		p.free[c] = p.free[c][:last]
		p.low[c] = min(p.low[c], last)
		p.kept -= len(b.mem)
	} else if b = p.fresh(n, c); b == nil {
		return nil
	}
	p.lent += len(b.mem)
	b.lent = true
	b.B = b.mem[:n]
	return b
}

// fresh makes a buffer, within the budget.
func (p *Pool) fresh(n, c int) *Buf {
	size := sizeOf(n)
	if !p.budget.Take(size) {
		p.Trim()
		if !p.budget.Take(size) {
			return nil
		}
	}
	return &Buf{mem: pageAligned(size), pool: p, class: c}
}

// Put takes a buffer back. It must have come from this pool and may not be used afterwards; putting it
// back twice panics.
func (p *Pool) Put(b *Buf) {
	if !b.lent || b.pool != p {
		panic("evloop: Put of a buffer that this pool has not lent")
	}
	b.lent, b.B = false, nil
	size := len(b.mem)
	for i, s := range b.on {
		if s != nil {
			s.used -= size
			b.on[i] = nil
		}
	}
	p.lent -= size
	if b.class < 0 || p.kept+size > p.keep {
		b.mem = nil
		p.budget.Give(size)
		return
	}
	p.kept += size
	p.free[b.class] = append(p.free[b.class], b)
	if p.loop != nil && !p.beat.Set() {
		p.loop.SetTimer(&p.beat, p.loop.Now()+int64(PoolIdle))
	}
}

// Kept and Lent are the bytes that are free for reuse, and those lent out.
func (p *Pool) Kept() int { return p.kept }
func (p *Pool) Lent() int { return p.lent }

// Trim gives back everything that is kept for reuse.
func (p *Pool) Trim() {
	for c := range p.free {
		p.drop(c, len(p.free[c]))
	}
}

// Shut gives back what is kept for reuse, and what is put back from now on at once: the pool's loop has ended.
func (p *Pool) Shut() {
	p.keep = -1
	p.Trim()
}

// trimUnused gives back what lay unused since it was last called.
func (p *Pool) trimUnused() {
	for c := range p.free {
		p.drop(c, p.low[c])
		p.low[c] = len(p.free[c])
	}
}

// drop gives back n buffers of a class, those that lay longest.
func (p *Pool) drop(c, n int) {
	if n == 0 {
		return
	}
	f := p.free[c]
	m := copy(f, f[n:])
	clear(f[m:])
	p.free[c] = f[:m]
	p.low[c] = min(p.low[c], m)
	size := n * (MinBuf << c)
	p.kept -= size
	p.budget.Give(size)
}

// pageAligned makes n bytes that begin on a page's boundary; n is a multiple of the page. Go's allocator
// places such sizes so by itself, which spares the padding, but does not promise it.
func pageAligned(n int) []byte {
	b := make([]byte, n)
	off := int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (pageSize - 1))
	if off == 0 {
		return b
	}
	b = make([]byte, n+pageSize)
	off = int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (pageSize - 1))
	return b[off : off+n : off+n]
}
