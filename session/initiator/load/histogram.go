package load

import (
	"math/bits"
	"time"
)

// subBits sets a histogram's precision: 2^subBits steps for each power of two, so less than 1 % of a value.
const subBits = 7

// topBits bounds what a histogram tells apart: 2^topBits ns, about 18 minutes; longer times count as that.
const topBits = 40

// A Histogram counts durations in steps of less than 1 % of their size. It allocates nothing after its making; the
// zero value is empty.
type Histogram struct {
	counts [(topBits - subBits + 1) << subBits]uint64
	n      uint64
	sum    time.Duration
	max    time.Duration
}

// step returns the index of the step that holds v.
func step(v uint64) int {
	if v < 1<<subBits {
		return int(v)
	}
	shift := bits.Len64(v) - 1 - subBits
	return (shift+1)<<subBits + int(v>>shift) - 1<<subBits
}

// upper returns the largest value in step i.
func upper(i int) uint64 {
	if i < 1<<subBits {
		return uint64(i)
	}
	shift := i>>subBits - 1
	return (uint64(i&(1<<subBits-1))+1<<subBits+1)<<shift - 1
}

// Add counts d; a negative d counts as 0.
func (h *Histogram) Add(d time.Duration) {
	d = max(d, 0)
	h.n++
	h.sum += d
	h.max = max(h.max, d)
	h.counts[step(min(uint64(d), 1<<topBits-1))]++
}

// Merge adds what o counted.
func (h *Histogram) Merge(o *Histogram) {
	for i, c := range o.counts {
		h.counts[i] += c
	}
	h.n += o.n
	h.sum += o.sum
	h.max = max(h.max, o.max)
}

// Reset empties h.
func (h *Histogram) Reset() { *h = Histogram{} }

// Count returns how many durations were counted.
func (h *Histogram) Count() uint64 { return h.n }

// Max returns the longest duration, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

// Mean returns the mean, 0 if h is empty.
func (h *Histogram) Mean() time.Duration {
	if h.n == 0 {
		return 0
	}
	return h.sum / time.Duration(h.n)
}

// Quantile returns the smallest step's upper end that at least the share q (0 to 1) of the durations do not
// exceed, never more than Max; 0 if h is empty.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	want := uint64(q * float64(h.n))
	if float64(want) < q*float64(h.n) || want == 0 {
		want++
	}
	var seen uint64
	for i, c := range h.counts {
		if seen += c; seen >= want {
			return min(time.Duration(upper(i)), h.max)
		}
	}
	return h.max
}
