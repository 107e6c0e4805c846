package history

// A Cut is a copy of the volume, a snapshot, that was taken while operations went on.
type Cut struct {
	h          *History
	what       string
	start, end uint64
	blocks     [][]value // what each block may have held when it was taken, as was known then
}

// Cut begins a copy; Taken ends it. what is for messages.
func (h *History) Cut(what string) *Cut {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	c := &Cut{h: h, what: what, start: h.clock}
	h.cuts[c] = struct{}{}
	return c
}

// Taken says that the copy is complete. Its content may be learned much later, and any number of times: see Holds.
func (c *Cut) Taken() {
	h := c.h
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.cuts, c)
	h.clock++
	c.end, c.blocks = h.clock, make([][]value, len(h.blocks))
	for i := range h.blocks {
		for _, x := range h.blocks[i].values {
			c.blocks[i] = append(c.blocks[i], *x)
		}
	}
}

// Holds says whether data, all blocks of the copy, may be what the volume held at one moment between the copy's beginning and end. The error is
// a *Violation: Cleft when each block may be of such a moment, but not all of the same.
func (c *Cut) Holds(data []byte) error {
	h, size := c.h, c.h.cfg.BlockSize
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(data) != len(c.blocks)*size {
		return &Violation{Kind: Foreign, Text: c.what + ": not of the volume's size"}
	}
	from, until := bound{at: c.start}, bound{at: c.end}
	for i := range c.blocks {
		lba := uint64(i)
		id, zero, wrong := parse(data[i*size:(i+1)*size], h.cfg.Seed, lba)
		if wrong != nil {
			return h.violation(wrong.kind, lba, "%s: %s", c.what, wrong.text)
		}
		f, u, found := c.moments(i, id, zero)
		switch {
		case !found:
			return h.violation(Foreign, lba, "%s, of %d to %d, holds %v, which was not there then", c.what, c.start, c.end, id)
		case u < c.start:
			return h.violation(Stale, lba, "%s, of %d to %d, holds %v, which had been replaced by %d", c.what, c.start, c.end, id, u)
		}
		from.raise(f, lba)
		until.lower(u, lba)
	}
	if from.at > until.at {
		return h.violation(Cleft, from.lba, "%s is of no one moment: this block was written at %d at the earliest, and what it holds of block %d had been replaced by %d",
			c.what, from.at, until.lba, until.at)
	}
	return nil
}

// A bound is the tightest of many, and the block that it is of.
type bound struct{ at, lba uint64 }

func (b *bound) raise(at, lba uint64) {
	if at > b.at {
		*b = bound{at, lba}
	}
}

func (b *bound) lower(at, lba uint64) {
	if at < b.at {
		*b = bound{at, lba}
	}
}

// moments is when a block may have held what was found in it: from the beginning of its write to the time by which something later was there for sure. Where
// several writes of zeroes explain it, from the first to the last.
func (c *Cut) moments(i int, id Value, zero bool) (from, until uint64, found bool) {
	from = open
	for k := range c.blocks[i] {
		x := &c.blocks[i][k]
		if x.zero != zero || !zero && x.id != id {
			continue
		}
		last := uint64(open)
		for j := range c.blocks[i] {
			if z := &c.blocks[i][j]; z != x && z.certain() && before(x, z) {
				last = min(last, z.minEnd)
			}
		}
		from, until, found = min(from, x.start), max(until, last), true
	}
	return from, until, found
}
