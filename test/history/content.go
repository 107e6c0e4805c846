package history

import (
	"encoding/binary"
	"fmt"
)

// The layout of a block, in words of eight bytes, big-endian: magic, seed, value, first block and number of blocks in which this content
// may stand (one block of a WRITE SAME stands in many), then words that follow from these five and their place. So every word vouches for
// every other, and a block that is not wholly of one write shows where it changes.
const (
	word        = 8
	headerWords = 5
	headerLen   = headerWords * word
	magic       = 0x6c756e6172686973 // "lunarhis"
)

// A Value names one write: Writer in the upper 24 bits, the number of the writer's operation below. 0 is what nobody wrote: zeroes.
type Value uint64

const numberBits = 40

func valueOf(writer uint32, number uint64) Value { return Value(uint64(writer)<<numberBits | number) }

// Writer returns whose write it is.
func (v Value) Writer() uint32 { return uint32(v >> numberBits) }

// Number returns the how many-th operation of its writer it is, from 1 on.
func (v Value) Number() uint64 { return uint64(v) & (1<<numberBits - 1) }

func (v Value) String() string {
	if v == 0 {
		return "initial zeroes"
	}
	return fmt.Sprintf("w%d#%d", v.Writer(), v.Number())
}

// A header is what a block says of itself.
type header struct {
	seed  uint64
	value Value
	first uint64 // blocks in which this content may stand
	count uint64
}

func (h *header) put(b []byte) {
	for i, w := range [headerWords]uint64{magic, h.seed, uint64(h.value), h.first, h.count} {
		binary.BigEndian.PutUint64(b[i*word:], w)
	}
	x := h.key()
	for i := headerLen; i < len(b); i += word {
		x += step
		binary.BigEndian.PutUint64(b[i:], mix(x))
	}
}

// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
const step = 0x9e3779b97f4a7c15

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (h *header) key() uint64 {
	return mix(h.seed^mix(uint64(h.value)+step)) ^ mix(h.first*3+step) ^ mix(h.count*5+step)
}

// fault is what is wrong with a block's content by itself.
type fault struct {
	kind Kind
	text string
}

// parse reads what block lba holds. zero: it holds zeroes only.
func parse(b []byte, seed, lba uint64) (v Value, zero bool, wrong *fault) {
	if allZero(b) {
		return 0, true, nil
	}
	if binary.BigEndian.Uint64(b) != magic {
		return 0, false, &fault{Foreign, fmt.Sprintf("it starts with %x, which no write of this history did", b[:word])}
	}
	h := header{seed: binary.BigEndian.Uint64(b[word:]), value: Value(binary.BigEndian.Uint64(b[2*word:])),
		first: binary.BigEndian.Uint64(b[3*word:]), count: binary.BigEndian.Uint64(b[4*word:])}
	x := h.key()
	for i := headerLen; i < len(b); i += word {
		x += step
		if got := binary.BigEndian.Uint64(b[i:]); got != mix(x) {
			return h.value, false, &fault{Torn, fmt.Sprintf("it starts as %v, but at byte %d holds %x: not of one write", h.value, i, b[i:i+word])}
		}
	}
	switch {
	case h.seed != seed:
		return h.value, false, &fault{Foreign, fmt.Sprintf("it is of another run: seed %d", h.seed)}
	case lba-h.first >= h.count: // also below first
		return h.value, false, &fault{Misplaced, fmt.Sprintf("it is %v, written to block %d and %d behind it", h.value, h.first, h.count-1)}
	}
	return h.value, false, nil
}

func allZero(b []byte) bool {
	for ; len(b) >= word; b = b[word:] {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
	}
	return true
}
