package scsi

// The range index of an LU: which blocks the pending commands touch, and who waits for whom.
//
// Entries lie in chains of a hash table, by the stripe of blocks they touch: short ones in narrow
// stripes, longer ones in wide stripes, so that each is in at most two chains; what is longer still is in a
// chain of its own. A look-up walks the chains of the stripes that it covers.
//
// A waiting entry knows only how many older entries it must wait for. The relation is a pure function of
// two entries (blocks), so an entry that leaves finds those that waited for it by asking it again.

// Tuning.
const (
	narrowShift = 7  // stripes of 128 blocks: two of them hold a 64 KiB command of 512-byte blocks
	wideShift   = 12 // stripes of 4096 blocks
	chainCount  = 256
	// maxProbe is the number of stripes from which on a look-up walks all entries instead.
	maxProbe = 40
	// firstSlots is what an index has room for at first; it doubles when full.
	firstSlots = 32
)

const noSlot = -1

// A spanKind says how an entry gets on with others.
type spanKind uint8

const (
	noSpan    spanKind = iota // no blocks, or not known yet: never in the index
	readSpan                  // apart from writes
	writeSpan                 // apart from reads and writes
	flushSpan                 // behind writes that are in doubt; nobody waits for it
)

// A span is an inclusive range of logical blocks and what is done to them.
type span struct {
	first, last uint64
	kind        spanKind
}

type entry struct {
	span
	c        *Command // nil: free
	seq      uint64   // order of arrival
	doubtful uint64   // the seq from which on this write is in doubt; 0: it is not
	blockers int32    // older entries that this one waits for
	level    uint8
	link     [2]link // in the chains of its first and second stripe
}

// A node names one link of one entry: slot*2, plus 1 for the second; -1 for none.
type node = int32

type link struct{ next, prev node }

const noNode node = -1

type level struct {
	shift  uint
	count  int // entries at this level
	chains []node
}

type rangeIndex struct {
	n       int // entries
	waiting int // of these with blockers
	doubts  int // of these in doubt
	seq     uint64
	entries []entry
	free    []int32
	levels  [3]level
}

// blocks reports whether the older entry e keeps the younger s (which came at seq) waiting.
func (e *entry) blocks(s *span, seq uint64) bool {
	if e.first > s.last || s.first > e.last {
		return false
	}
	if s.kind == flushSpan {
		return e.doubtful != 0 && e.doubtful <= seq
	}
	return e.kind != flushSpan && (e.kind == writeSpan || s.kind == writeSpan)
}

func levelOf(s *span) uint8 {
	switch n := s.last - s.first; {
	case n < 1<<narrowShift:
		return 0
	case n < 1<<wideShift:
		return 1
	}
	return 2
}

// chain spreads stripes: neighbours and strides of powers of two alike.
func chain(stripe uint64) uint64 { return stripe * 0x9e3779b97f4a7c15 >> (64 - 8) }

// blockers counts the entries that s would have to wait for if it came now.
func (x *rangeIndex) blockers(s *span) int32 {
	n := int32(0)
	seq := x.seq + 1
	for l := range x.levels {
		lv := &x.levels[l]
		if lv.count == 0 {
			continue
		}
		first, last := s.first>>lv.shift, s.last>>lv.shift
		if last-first >= maxProbe {
			for i := range x.entries {
				if e := &x.entries[i]; e.c != nil && int(e.level) == l && e.blocks(s, seq) {
					n++
				}
			}
			continue
		}
		for stripe := first; stripe <= last; stripe++ {
			for at := lv.chains[chain(stripe)]; at != noNode; {
				e := &x.entries[at>>1]
				// An entry in two stripes is counted in the first that it shares with s.
				if e.blocks(s, seq) && stripe == max(first, e.first>>lv.shift) && stripe == e.first>>lv.shift+uint64(at&1) {
					n++
				}
				at = e.link[at&1].next
			}
		}
	}
	return n
}

// insert adds an entry for c, which waits for the given number of older ones.
func (x *rangeIndex) insert(c *Command, blockers int32) {
	if len(x.free) == 0 {
		x.grow()
	}
	slot := x.free[len(x.free)-1]
	x.free = x.free[:len(x.free)-1]
	x.seq++
	x.n++
	if blockers > 0 {
		x.waiting++
	}
	e := &x.entries[slot]
	e.span, e.c, e.seq, e.doubtful, e.blockers, e.level = c.span, c, x.seq, 0, blockers, levelOf(&c.span)
	c.slot = slot
	lv := &x.levels[e.level]
	lv.count++
	first, last := e.first>>lv.shift, e.last>>lv.shift
	x.push(lv, first, slot<<1)
	if last != first {
		x.push(lv, last, slot<<1|1)
	}
}

func (x *rangeIndex) push(lv *level, stripe uint64, at node) {
	head := &lv.chains[chain(stripe)]
	x.entries[at>>1].link[at&1] = link{next: *head, prev: noNode}
	if *head != noNode {
		x.entries[*head>>1].link[*head&1].prev = at
	}
	*head = at
}

func (x *rangeIndex) unlink(lv *level, stripe uint64, at node) {
	l := x.entries[at>>1].link[at&1]
	if l.prev != noNode {
		x.entries[l.prev>>1].link[l.prev&1].next = l.next
	} else {
		lv.chains[chain(stripe)] = l.next
	}
	if l.next != noNode {
		x.entries[l.next>>1].link[l.next&1].prev = l.prev
	}
}

// remove takes c's entry out. Those that now wait for nobody are appended to freed, oldest first.
func (x *rangeIndex) remove(c *Command, freed []*Command) []*Command {
	slot := c.slot
	e := &x.entries[slot]
	lv := &x.levels[e.level]
	first, last := e.first>>lv.shift, e.last>>lv.shift
	x.unlink(lv, first, slot<<1)
	if last != first {
		x.unlink(lv, last, slot<<1|1)
	}
	lv.count--
	x.n--
	if e.blockers > 0 {
		x.waiting--
	}
	if e.doubtful != 0 {
		x.doubts--
	}
	if x.waiting > 0 {
		freed = x.wake(e, freed)
	}
	e.c = nil
	c.slot = noSlot
	x.free = append(x.free, slot)
	return freed
}

// wake tells the younger entries that waited for e, which is leaving. Only a conflict gets here, so it
// walks all entries rather than chains.
func (x *rangeIndex) wake(e *entry, freed []*Command) []*Command {
	start := len(freed)
	for i := range x.entries {
		w := &x.entries[i]
		if w.c == nil || w.blockers == 0 || w.seq <= e.seq || !e.blocks(&w.span, w.seq) {
			continue
		}
		if w.blockers--; w.blockers > 0 {
			continue
		}
		x.waiting--
		freed = append(freed, w.c)
		for j := len(freed) - 1; j > start && x.entries[freed[j-1].slot].seq > w.seq; j-- {
			freed[j-1], freed[j] = freed[j], freed[j-1]
		}
	}
	return freed
}

// doubt marks c's write as in doubt: flushes that come from now on wait for it too.
func (x *rangeIndex) doubt(c *Command) {
	e := &x.entries[c.slot]
	e.doubtful = x.seq + 1
	x.doubts++
}

// grow doubles the room.
func (x *rangeIndex) grow() {
	if x.entries == nil {
		for i, shift := range [...]uint{narrowShift, wideShift, 64} {
			chains := make([]node, chainCount)
			for j := range chains {
				chains[j] = noNode
			}
			x.levels[i] = level{shift: shift, chains: chains}
		}
	}
	old := len(x.entries)
	entries := make([]entry, max(firstSlots, 2*old))
	copy(entries, x.entries)
	x.entries = entries
	x.free = make([]int32, 0, len(entries))
	for i := len(entries) - 1; i >= old; i-- {
		x.free = append(x.free, int32(i))
	}
}
