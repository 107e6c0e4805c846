package load

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestSteps: the steps cover the range without gap or overlap, each less than 1 % wide.
func TestSteps(t *testing.T) {
	var h Histogram
	for i := range h.counts {
		u := upper(i)
		if step(u) != i {
			t.Fatalf("step %d ends at %d, which is in step %d", i, u, step(u))
		}
		if i+1 < len(h.counts) && step(u+1) != i+1 {
			t.Fatalf("%d is in step %d, want %d", u+1, step(u+1), i+1)
		}
		if i > 1<<subBits {
			if width := float64(u-upper(i-1)) / float64(u); width > .01 {
				t.Fatalf("step %d is %.3f %% wide", i, width*100)
			}
		}
	}
	if last := upper(len(h.counts) - 1); last != 1<<topBits-1 {
		t.Errorf("the last step ends at %d, want %d", last, uint64(1<<topBits-1))
	}
}

func TestQuantiles(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var a, b Histogram
	var all []time.Duration
	var sum time.Duration
	for i := range 20000 {
		d := time.Duration(rng.ExpFloat64() * 1e5)
		all = append(all, d)
		sum += d
		if i%3 == 0 {
			a.Add(d)
		} else {
			b.Add(d)
		}
	}
	a.Merge(&b)
	slices.Sort(all)
	for _, q := range []float64{0, .001, .5, .9, .99, .999, 1} {
		want := all[max(int(q*20000+.5)-1, 0)]
		if got := a.Quantile(q); got < want || float64(got) > float64(want)*1.01+1 {
			t.Errorf("quantile %v: %v, exactly %v", q, got, want)
		}
	}
	if a.Count() != 20000 || a.Max() != all[len(all)-1] || a.Mean() != sum/20000 {
		t.Errorf("count %d, max %v, mean %v; want 20000, %v, %v", a.Count(), a.Max(), a.Mean(), all[len(all)-1], sum/20000)
	}
	a.Reset()
	if a.Count() != 0 || a.Max() != 0 || a.Mean() != 0 || a.Quantile(.5) != 0 {
		t.Errorf("after Reset: %d, %v, %v, %v", a.Count(), a.Max(), a.Mean(), a.Quantile(.5))
	}
}

func TestExtremes(t *testing.T) {
	var h Histogram
	h.Add(-5)
	h.Add(1 << 62)
	if h.Quantile(.5) != 0 || h.Quantile(1) != time.Duration(1<<topBits-1) || h.Max() != 1<<62 {
		t.Errorf("quantiles %v and %v, max %v", h.Quantile(.5), h.Quantile(1), h.Max())
	}
	if n := testing.AllocsPerRun(100, func() { h.Add(12345) }); n != 0 {
		t.Errorf("Add makes %v allocations", n)
	}
}
