package history

import (
	"fmt"
	"slices"
)

// A block is one register.
type block struct {
	values    []*value // those that may still be read, or still say something about others
	events    []event  // a ring
	next      int      // the oldest of events once the ring is full
	forgotten uint64
}

// An event is one operation as one block saw it.
type event struct {
	op    *Op
	seen  seen
	value Value // what was seen
}

// seen is what an operation saw in a block.
type seen uint8

const (
	nothing seen = iota // it wrote
	aValue
	zeroes
	rubbish
	difference // from what it was compared with
)

func (b *block) note(keep int, e event) {
	if len(b.events) < keep {
		b.events = append(b.events, e)
		return
	}
	b.events[b.next] = e
	b.next = (b.next + 1) % keep
	b.forgotten++
}

// A value is what one operation put into one block, with what is known of when it was there. Its operation and the reads that returned it,
// each of which has a time, all see it: it was there from minEnd, the end of the first of them, to maxStart, the beginning of the last.
// If the first end lies behind the last beginning, all of them can have happened at any one moment between these two.
type value struct {
	id    Value
	op    *Op // nil: the initial zeroes
	zero  bool
	state state
	start uint64
	end   uint64 // of the operation; open while it may still take effect
	over  uint64 // when the operation had ended for its initiator, also with Config.Ordered; 0: it has not

	minEnd   uint64
	maxStart uint64
	reads    int
	durable  bool
	gone     bool // only within prune

	usedBy Value  // the CompareAndWrite that replaced it
	after  *value // what a CompareAndWrite replaced
}

// certain: it was there for sure.
func (x *value) certain() bool { return x.state == acked || x.reads > 0 }

// before: b is later than a in every order.
func before(a, b *value) bool { return a.minEnd < b.maxStart }

// conflict reports whether a and b, both certain, cannot both have been there as is known of them: their times overlap, or the time in which
// the one's moment lies is within the other's. With no conflict between any two there is an order of all.
func conflict(a, b *value) bool { return before(a, b) && before(b, a) }

func (b *block) find(id Value) *value {
	for i := len(b.values) - 1; i >= 0; i-- {
		if b.values[i].id == id {
			return b.values[i]
		}
	}
	return nil
}

func (b *block) drop(id Value) {
	b.values = slices.DeleteFunc(b.values, func(x *value) bool { return x.id == id })
}

// with returns what x is if o has read it.
func (x *value) with(o *Op) value {
	y := *x
	y.reads++
	y.minEnd, y.maxStart = min(y.minEnd, o.end), max(y.maxStart, o.start)
	return y
}

// obstacle returns a value that keeps o from having read x, or nil.
func (b *block) obstacle(x *value, o *Op) *value {
	y := x.with(o)
	for _, z := range b.values {
		if z != x && z.certain() && conflict(&y, z) {
			return z
		}
	}
	return nil
}

// saw takes a block that o has read, or found equal.
func (h *History) saw(o *Op, lba uint64, content []byte) error {
	b := &h.blocks[lba]
	id, zero, wrong := parse(content, h.cfg.Seed, lba)
	e := event{op: o, seen: aValue, value: id}
	switch {
	case wrong != nil:
		e.seen = rubbish
	case zero:
		e.seen = zeroes
	}
	b.note(h.cfg.Keep, e)
	if wrong != nil {
		return h.violation(wrong.kind, lba, "%s", wrong.text)
	}
	if zero {
		return h.sawZeroes(o, lba)
	}
	h.counts.Blocks++
	x := b.find(id)
	switch {
	case x == nil:
		return h.gone(o, lba, id)
	case o.end < x.start:
		return h.violation(Early, lba, "%s saw %v, which was begun afterwards", o.what, id)
	}
	*x = x.with(o)
	if o.fua && o.kind == opRead {
		x.durable = true
	}
	if err := h.check(lba, x); err != nil {
		return err
	}
	return h.prune(lba)
}

// gone is about a value that does not count any more.
func (h *History) gone(o *Op, lba uint64, id Value) error {
	kind, was := Stale, "it was superseded"
	for i := range h.blocks[lba].events {
		if w := h.blocks[lba].events[i].op; w.writes() && w.value == id {
			switch w.state {
			case refused:
				kind, was = Refused, "it was refused"
			case failed, lost:
				kind, was = Late, "it had ended without acknowledgement, and newer data was there since"
			}
		}
	}
	return h.violation(kind, lba, "%s saw %v: %s", o.what, id, was)
}

// sawZeroes takes zeroes, which any of several operations may have written: only where one alone explains them they say something of it.
func (h *History) sawZeroes(o *Op, lba uint64) error {
	b := &h.blocks[lba]
	h.counts.Blocks++
	var only, tried, against *value
	n := 0
	for _, x := range b.values {
		if !x.zero || x.start > o.end {
			continue
		}
		tried = x
		if z := b.obstacle(x, o); z != nil {
			against = z
			continue
		}
		only = x
		n++
	}
	switch {
	case n > 1:
		h.counts.Unproven++
		return nil
	case n == 1:
		*only = only.with(o)
		if o.fua && o.kind == opRead {
			only.durable = true
		}
		return h.prune(lba)
	case tried == nil:
		return h.violation(Stale, lba, "%s saw zeroes, which were superseded", o.what)
	}
	return h.violation(kindOf(tried), lba, "%s saw zeroes: %v cannot have been there beside %v", o.what, tried, against)
}

// wrote takes the acknowledgement of a write.
func (h *History) wrote(o *Op, lba uint64) error {
	x := h.blocks[lba].find(o.value)
	x.state, x.end, x.over = acked, o.end, h.clock
	x.minEnd = min(x.minEnd, o.end)
	x.durable = x.durable || o.fua
	if err := h.check(lba, x); err != nil {
		return err
	}
	return h.prune(lba)
}

// compared takes the success of a CompareAndWrite, whose reading has been checked.
func (h *History) compared(o *Op, lba uint64, content []byte) error {
	b := &h.blocks[lba]
	x := b.find(o.value)
	if id, zero, _ := parse(content, h.cfg.Seed, lba); !zero {
		if old := b.find(id); old != nil { // pruned: then its order was checked
			if old.usedBy != 0 {
				return h.violation(Compared, lba, "%v and %v both replaced %v", old.usedBy, o.value, id)
			}
			old.usedBy = o.value
			x.after = old
		}
	}
	return h.wrote(o, lba)
}

// differs takes that o found the block to be other than content.
func (h *History) differs(o *Op, lba uint64, content []byte) error {
	b := &h.blocks[lba]
	b.note(h.cfg.Keep, event{op: o, seen: difference})
	id, zero, wrong := parse(content, h.cfg.Seed, lba)
	if wrong != nil {
		return nil // compared with what is not there for sure
	}
	for _, x := range b.values {
		if (x.id == id && !x.zero && !zero) || (x.zero && zero) || x.start > o.end {
			continue
		}
		if b.obstacle(x, o) == nil {
			return nil
		}
	}
	return h.violation(Compared, lba, "%s found a difference, and the block can only have held what it was compared with", o.what)
}

// kindOf says what it means that x was seen where it could not be.
func kindOf(x *value) Kind {
	if x.state == failed {
		return Late
	}
	return Stale
}

// check holds x, of which something new is known, against the other values.
func (h *History) check(lba uint64, x *value) error {
	b := &h.blocks[lba]
	for _, z := range b.values {
		if z == x || !z.certain() {
			continue
		}
		if conflict(x, z) {
			return h.violation(kindOf(x), lba, "%v cannot have been there as it was seen, beside %v", x, z)
		}
	}
	for _, w := range b.values {
		if w.after == nil || !w.certain() {
			continue
		}
		for _, y := range b.values {
			if y != w && y != w.after && y.certain() && before(w.after, y) && before(y, w) {
				return h.violation(Compared, lba, "%v replaced %v, and %v was there in between", w.id, w.after.id, y)
			}
		}
	}
	return nil
}

// oldest is the earliest time that an operation or a copy still under way can have a say about. Called with mu held.
func (h *History) oldest() uint64 {
	t := h.clock
	for o := range h.running {
		// A write that is under way has an end behind now, unless ends are beginnings.
		if h.cfg.Ordered || !o.writes() || o.kind == opCompare {
			t = min(t, o.start)
		}
	}
	for c := range h.cuts {
		t = min(t, c.start)
	}
	return t
}

// fewValues is how many values a block may have before it is worth looking for those that do not count any more.
const fewValues = 6

// prune forgets values that can neither be read again nor say anything about those that can: others were there after them before anything
// that is still under way began.
func (h *History) prune(lba uint64) error {
	b := &h.blocks[lba]
	if len(b.values) < fewValues {
		return nil
	}
	t := h.oldest()
	for _, x := range b.values {
		x.gone = x.end != open && x.maxStart < t && b.superseded(x, t, h.cfg.Durable)
	}
	b.values = slices.DeleteFunc(b.values, func(x *value) bool { return x.gone })
	if len(b.values) > h.cfg.MaxValues {
		return h.violation(Full, lba, "%d values may still be read", len(b.values))
	}
	return nil
}

// superseded reports whether another value, durable if so asked, was there after x and before t.
func (b *block) superseded(x *value, t uint64, durable bool) bool {
	for _, z := range b.values {
		if z != x && z.certain() && (z.durable || !durable) && z.minEnd <= t && z.maxStart > x.minEnd {
			return true
		}
	}
	return false
}

// flushed: what had ended before o began is durable, or something newer is; what had failed, if it took effect at all.
func (b *block) flushed(o *Op) {
	for _, x := range b.values {
		if x.over != 0 && x.over < o.start {
			x.durable = true
		}
	}
}

// Survives says whether content may be what a block holds after a loss of power at this moment.
func (h *History) Survives(lba uint64, content []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.cfg.Durable {
		panic("history: Survives without Config.Durable")
	}
	b := &h.blocks[lba]
	id, zero, wrong := parse(content, h.cfg.Seed, lba)
	if wrong != nil {
		return h.violation(wrong.kind, lba, "%s", wrong.text)
	}
	for _, x := range b.values {
		if (zero && x.zero || !zero && x.id == id && !x.zero) && !b.superseded(x, open, true) {
			return nil
		}
	}
	was := fmt.Sprint(id)
	if zero {
		was = "zeroes"
	}
	return h.violation(Volatile, lba, "after a loss of power it holds %s, and newer data was durable", was)
}

// PowerLoss says that power was lost and is back: of each block, which nothing is doing anything to, any value may be there that is not older than what was
// durable, and whichever is found has been there since.
func (h *History) PowerLoss() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.cfg.Durable || len(h.running) > 0 {
		panic("history: PowerLoss without Config.Durable, or with operations under way")
	}
	h.clock++
	for i := range h.blocks {
		b := &h.blocks[i]
		var left []*value
		for _, x := range b.values {
			if !b.superseded(x, open, true) {
				left = append(left, &value{id: x.id, op: x.op, zero: x.zero, state: failed, start: x.start, end: h.clock, over: h.clock, minEnd: h.clock, maxStart: x.start, durable: true})
			}
		}
		b.values = left
	}
	clear(h.lost)
}

// Guess puts into b, of whole blocks, what they may hold: the newest values that were not refused, whether or not they have taken effect.
func (h *History) Guess(lba uint64, b []byte) {
	h.contents(lba, b, func(*value) bool { return true })
}

// Acknowledged is Guess of the newest values that are there for sure: it says the same to all who ask while writes are under way.
func (h *History) Acknowledged(lba uint64, b []byte) { h.contents(lba, b, (*value).certain) }

// contents puts into b the newest values that fit.
func (h *History) contents(lba uint64, b []byte, fits func(*value) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	size := h.cfg.BlockSize
	for at := 0; at < len(b); at, lba = at+size, lba+1 {
		var x *value
		for _, y := range h.blocks[lba].values {
			if x == nil || fits(y) {
				x = y
			}
		}
		if x.zero {
			clear(b[at : at+size])
			continue
		}
		hd := header{seed: h.cfg.Seed, value: x.id, first: lba, count: 1}
		if x.op.kind == opSame {
			hd.first, hd.count = x.op.lba, x.op.n
		}
		hd.put(b[at : at+size])
	}
}
