package history

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// A register that does everything right at a random moment of each operation is never accused; one that now and then does one thing wrong
// is, in most of the runs.
func TestRandom(t *testing.T) {
	for _, ordered := range []bool{false, true} {
		for seed := range uint64(200) {
			if err := simulate(t, seed, 600, "", ordered); err != nil {
				t.Fatalf("ordered %v, seed %d: %v", ordered, seed, err)
			}
		}
	}
	for _, wrong := range []string{"stale", "lost", "late", "refused", "torn"} {
		found := 0
		for seed := range uint64(40) {
			if err := simulate(t, seed, 8000, wrong, false); err != nil {
				found++
			}
		}
		if found < 30 {
			t.Errorf("%s: found in %d of 40 runs", wrong, found)
		}
	}
}

// A flying operation of simulate.
type flying struct {
	o       *Op
	applied bool
	data    []byte
	compare []byte
	miss    int64 // of a compare: -1, or where it differs
	dead    bool  // ended for its initiator, but not carried out
}

func simulate(t *testing.T, seed uint64, steps int, wrong string, ordered bool) error {
	rnd := rand.New(rand.NewPCG(seed, 3))
	d := newDisk(t, Config{Blocks: 6, Ordered: ordered})
	var fly []*flying
	bad := func() bool { return rnd.IntN(50) == 0 }
	old := d.at(0, 6)
	take := func(f *flying) { // its moment
		if f.applied {
			return
		}
		f.applied = true
		now := d.at(f.o.lba, f.o.n)
		switch f.o.kind {
		case opRead:
			f.data = now
			if wrong == "stale" && bad() {
				f.data = old[f.o.lba*testBlock:][:len(now)]
			}
			return
		case opCompare:
			f.miss = -1
			for i := range now {
				if now[i] != f.compare[i] {
					f.miss = int64(i)
					return
				}
			}
		}
		if wrong == "lost" && bad() {
			return
		}
		before := slices.Clone(d.b[f.o.lba][testBlock/2:])
		d.apply(f.o)
		if wrong == "torn" && bad() {
			copy(d.b[f.o.lba][testBlock/2:], before)
		}
	}
	for range steps {
		if rnd.IntN(20) == 0 {
			old = d.at(0, 6)
		}
		switch k := rnd.IntN(10); {
		case k < 4 && len(fly) < 6:
			n := 1 + rnd.Uint64N(3)
			lba, w := rnd.Uint64N(6-n+1), rnd.Uint32N(3)
			f := &flying{}
			switch rnd.IntN(9) {
			case 0, 1, 2, 8:
				f.o = d.h.Read(w, lba, n, "READ")
			case 3:
				f.o = d.h.Same(w, lba, n, "WRITE SAME")
			case 4:
				f.o = d.h.Zero(w, lba, n, "UNMAP")
			case 5:
				compare := make([]byte, n*testBlock)
				if rnd.IntN(2) == 0 {
					d.h.Guess(lba, compare)
				} else {
					d.h.Acknowledged(lba, compare)
				}
				f.o, f.compare = d.h.CompareAndWrite(w, lba, n, compare, false, "CAW"), compare
			default:
				f.o = d.h.Write(w, lba, n, false, "WRITE")
			}
			if ordered {
				take(f)
			}
			fly = append(fly, f)
		case len(fly) == 0:
		case k < 7:
			take(fly[rnd.IntN(len(fly))])
		default:
			i := rnd.IntN(len(fly))
			f := fly[i]
			fly = slices.Delete(fly, i, i+1)
			if err := f.end(rnd, wrong, take, &fly, d); err != nil {
				return err
			}
		}
	}
	for _, f := range fly {
		if f.dead {
			continue
		}
		take(f)
		if err := f.done(); err != nil {
			return err
		}
	}
	if err := d.h.SettleAll(); err != nil {
		return err
	}
	return d.read(0, 6)
}

func (f *flying) done() error {
	if f.o.kind == opCompare && f.miss >= 0 {
		return f.o.Miscompared(f.miss)
	}
	return f.o.Done(f.data)
}

// end ends f in one of all ways.
func (f *flying) end(rnd *rand.Rand, wrong string, take func(*flying), fly *[]*flying, d *disk) error {
	if f.dead {
		take(f)
		return nil
	}
	switch rnd.IntN(8) {
	case 0:
		if wrong == "late" && !f.applied && f.o.kind != opRead {
			f.dead = true
			*fly = append(*fly, f)
		}
		return f.o.Failed()
	case 1:
		if f.applied && f.o.kind != opRead && (f.o.kind != opCompare || f.miss < 0) {
			if wrong != "refused" || rnd.IntN(4) > 0 {
				break
			}
		}
		return f.o.Refused()
	case 2:
		f.o.Lost()
		if rnd.IntN(2) == 0 {
			if !f.applied && f.o.kind != opRead { // still on its way: nothing settles it before it is there
				take(f)
			}
			return nil
		}
		return d.h.Settle(f.o.writer)
	}
	take(f)
	return f.done()
}
