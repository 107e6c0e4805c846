package history

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

func (d *disk) all() []byte { return d.at(0, uint64(len(d.b))) }

func isKind(err error, k Kind) bool {
	var v *Violation
	return errors.As(err, &v) && v.Kind == k
}

// What is under way while a copy is made may be in it or not, what had ended is, and what began afterwards is not.
func TestCut(t *testing.T) {
	d := newDisk(t, Config{})
	d.write(0, 2)
	before := d.all()
	d.write(0, 1)
	slow := d.h.Write(2, 4, 2, false, "WRITE")
	c := d.h.Cut("snapshot")
	without := d.all()
	d.apply(slow)
	with := d.all()
	d.ok(slow.Done(nil))
	c.Taken()
	d.ok(c.Holds(without))
	d.ok(c.Holds(with))
	d.ok(c.Holds(slices.Concat(with[:5*testBlock], without[5*testBlock:]))) // a write is no one moment's
	if err := c.Holds(before); !isKind(err, Stale) {
		t.Errorf("without what had been acknowledged: %v", err)
	}
	d.write(0, 1)
	if err := c.Holds(d.all()); !isKind(err, Foreign) {
		t.Errorf("with what came afterwards: %v", err)
	}
	if err := c.Holds(with[:testBlock]); !isKind(err, Foreign) {
		t.Errorf("too short: %v", err)
	}
	torn := slices.Clone(with)
	torn[testBlock/2] ^= 1
	if err := c.Holds(torn); err == nil {
		t.Error("torn")
	}
}

// Two writes, one after the other: a copy without the first has not got the second.
func TestCutOfNoOneMoment(t *testing.T) {
	d := newDisk(t, Config{})
	c := d.h.Cut("snapshot")
	old := d.all()
	d.write(0, 1)
	between := d.all()
	d.write(8, 1)
	now := d.all()
	c.Taken()
	for _, b := range [][]byte{old, between, now} {
		d.ok(c.Holds(b))
	}
	cleft := slices.Concat(old[:testBlock], now[testBlock:])
	if err := c.Holds(cleft); !isKind(err, Cleft) {
		t.Errorf("the second of two without the first: %v", err)
	}
}

// Copies of one moment are never accused, whatever goes on; those of two moments are, more often than not.
func TestRandomCuts(t *testing.T) {
	const blocks = 8
	found, runs := 0, 300
	for seed := range uint64(runs) {
		rnd := rand.New(rand.NewPCG(seed, 5))
		d := newDisk(t, Config{Blocks: blocks})
		var fly []*Op
		step := func() {
			switch k := rnd.IntN(3); {
			case k > 0 && len(fly) < 5:
				n := 1 + rnd.Uint64N(3)
				kind := d.h.Write
				if rnd.IntN(8) == 0 {
					kind = func(w uint32, lba, n uint64, _ bool, what string) *Op { return d.h.Zero(w, lba, n, what) }
				}
				fly = append(fly, kind(rnd.Uint32N(3), rnd.Uint64N(blocks-n+1), n, false, "WRITE"))
			case len(fly) > 0:
				i := rnd.IntN(len(fly))
				o := fly[i]
				fly = slices.Delete(fly, i, i+1)
				switch rnd.IntN(8) {
				case 0:
					d.ok(o.Failed())
				case 1:
					d.apply(o)
					d.ok(o.Failed())
				default:
					d.apply(o)
					d.ok(o.Done(nil))
				}
			}
		}
		steps := func() {
			for range 1 + rnd.IntN(20) {
				step()
			}
		}
		steps()
		c := d.h.Cut("snapshot")
		steps()
		first := d.all()
		for range 12 {
			step()
		}
		second := d.all()
		steps()
		c.Taken()
		steps()
		d.ok(c.Holds(first))
		d.ok(c.Holds(second))
		if err := c.Holds(slices.Concat(first[:blocks/2*testBlock], second[blocks/2*testBlock:])); err != nil {
			found++
		}
	}
	t.Logf("%d of %d copies of two moments were found", found, runs)
	if found < runs/4 {
		t.Errorf("%d of %d copies of two moments were found", found, runs)
	}
}
