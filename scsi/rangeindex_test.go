package scsi

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// naive is the range index's model: who waits for whom, by the words of its rules.
type naive struct {
	c      *Command
	seq    int
	doubt  int // 0: not
	behind map[*Command]bool
}

func (n *naive) keeps(s span, seq int) bool {
	if n.c.span.first > s.last || s.first > n.c.span.last {
		return false
	}
	switch {
	case n.c.span.kind == flushSpan:
		return false
	case s.kind == flushSpan:
		return n.doubt != 0 && n.doubt <= seq
	}
	return n.c.span.kind == writeSpan || s.kind == writeSpan
}

// TestRangeIndexModel compares random arrivals, departures and doubts with the model.
func TestRangeIndexModel(t *testing.T) {
	for seed := uint64(0); seed < 40; seed++ {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var x rangeIndex
		var all []*naive
		seq := 0
		width := []uint64{300, 3000, 1 << 20, 1 << 62}[seed%4]
		for step := range 3000 {
			switch k := rnd.IntN(10); {
			case k < 5 && len(all) < 100:
				n := uint64(1) << rnd.IntN(16)
				first := rnd.Uint64N(width)
				s := span{first, first + n - 1, spanKind(rnd.IntN(3))}
				seq++
				want := map[*Command]bool{}
				for _, o := range all {
					if o.keeps(s, seq) {
						want[o.c] = true
					}
				}
				got := x.blockers(&s)
				if int(got) != len(want) {
					t.Fatalf("seed %d step %d: %+v waits for %d, want %d", seed, step, s, got, len(want))
				}
				c := &Command{span: s, slot: noSlot}
				x.insert(c, got)
				all = append(all, &naive{c, seq, 0, want})
			case k < 6 && len(all) > 0:
				o := all[rnd.IntN(len(all))]
				if o.c.span.kind == writeSpan && len(o.behind) == 0 && o.doubt == 0 {
					o.doubt = seq + 1
					x.doubt(o.c)
				}
			case len(all) > 0:
				i := rnd.IntN(len(all))
				o := all[i]
				all = append(all[:i], all[i+1:]...)
				var want []*Command
				for _, w := range all {
					if w.behind[o.c] {
						if delete(w.behind, o.c); len(w.behind) == 0 {
							want = append(want, w.c)
						}
					}
				}
				got := x.remove(o.c, nil)
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Fatalf("seed %d step %d: freed %d commands, want %d, oldest first", seed, step, len(got), len(want))
				}
			}
			if x.n != len(all) {
				t.Fatalf("seed %d: %d entries, want %d", seed, x.n, len(all))
			}
		}
		for _, o := range all {
			x.remove(o.c, nil)
		}
		if x.n != 0 || x.waiting != 0 || x.doubts != 0 {
			t.Fatalf("left over: %d entries, %d waiting, %d in doubt", x.n, x.waiting, x.doubts)
		}
	}
}

// BenchmarkRangeIndex is one command's look-up, insertion and removal beside others in flight that it does not
// overlap.
func BenchmarkRangeIndex(b *testing.B) {
	for _, depth := range []int{1, 32, 128} {
		for _, shape := range []string{"random4k", "sequential4k", "sequential256k"} {
			b.Run(fmt.Sprintf("%s/depth%d", shape, depth), func(b *testing.B) {
				rnd := rand.New(rand.NewPCG(1, 2))
				n := uint64(8)
				if shape == "sequential256k" {
					n = 512
				}
				var x rangeIndex
				ring := make([]Command, depth)
				place := make([]uint64, 1<<14)
				perm := rnd.Perm(len(place))
				for i := range place {
					place[i] = uint64(i) * n
					if shape == "random4k" {
						place[i] = uint64(perm[i]) * 2048 // over 16 GiB
					}
				}
				for i := range ring {
					ring[i].span = span{place[i], place[i] + n - 1, writeSpan}
					x.insert(&ring[i], 0)
				}
				b.ReportAllocs()
				b.ResetTimer()
				for i := range b.N {
					c := &ring[i%depth]
					x.remove(c, nil)
					first := place[(i+depth)&(len(place)-1)]
					c.span.first, c.span.last = first, first+n-1
					blockers := x.blockers(&c.span)
					if blockers != 0 {
						b.Fatal("overlap")
					}
					x.insert(c, 0)
				}
			})
		}
	}
}
