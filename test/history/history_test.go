package history

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

const (
	testSeed  = 7
	testBlock = 512
)

// A disk is a model of one that does what the test says, right or wrong.
type disk struct {
	t testing.TB
	h *History
	b [][]byte
}

func newDisk(t testing.TB, cfg Config) *disk {
	cfg.Seed, cfg.BlockSize = testSeed, testBlock
	if cfg.Blocks == 0 {
		cfg.Blocks = 16
	}
	d := &disk{t: t, h: New(cfg), b: make([][]byte, cfg.Blocks)}
	for i := range d.b {
		d.b[i] = make([]byte, testBlock)
	}
	return d
}

// content is what o writes.
func content(o *Op) []byte {
	b := make([]byte, o.n*testBlock)
	o.Fill(b)
	return b
}

// apply carries out a write.
func (d *disk) apply(o *Op) {
	data := content(o)
	for i := range o.n {
		at := i * testBlock
		if o.kind == opSame {
			at = 0
		}
		copy(d.b[o.lba+i], data[at:at+testBlock])
	}
}

func (d *disk) at(lba, n uint64) []byte { return slices.Concat(d.b[lba : lba+n]...) }

func (d *disk) write(lba, n uint64) *Op {
	d.t.Helper()
	o := d.h.Write(1, lba, n, false, "WRITE")
	d.apply(o)
	d.ok(o.Done(nil))
	return o
}

func (d *disk) read(lba, n uint64) error { return d.h.Read(2, lba, n, "READ").Done(d.at(lba, n)) }

func (d *disk) ok(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *disk) want(err error, k Kind, part string) {
	d.t.Helper()
	var v *Violation
	if !errors.As(err, &v) || v.Kind != k || !strings.Contains(err.Error(), part) {
		d.t.Fatalf("%v, want %v with %q", err, k, part)
	}
	if len(v.History) == 0 || len(v.History) > DefaultKeep+2 {
		d.t.Fatalf("a history of %d lines", len(v.History))
	}
}

// Each class of violation is found, and named.
func TestViolations(t *testing.T) {
	for _, c := range []struct {
		name string
		kind Kind
		part string
		do   func(d *disk) error
	}{
		{"an old buffer is read", Stale, "WRITE", func(d *disk) error {
			d.write(3, 1)
			old := slices.Clone(d.b[3])
			d.write(3, 1)
			return d.h.Read(2, 3, 1, "READ").Done(old)
		}},
		{"an acknowledged write is not there", Stale, "zeroes", func(d *disk) error {
			d.ok(d.h.Write(1, 3, 1, false, "WRITE").Done(nil))
			return d.read(3, 1)
		}},
		{"it is lost again after it was read", Stale, "", func(d *disk) error {
			d.write(3, 1)
			old := slices.Clone(d.b[3])
			d.write(3, 1)
			d.ok(d.read(3, 1))
			d.b[3] = old
			return d.read(3, 1)
		}},
		{"old data after new data of one write under way", Stale, "", func(d *disk) error {
			d.write(3, 1)
			old := slices.Clone(d.b[3])
			w := d.h.Write(1, 3, 1, false, "WRITE")
			d.ok(d.read(3, 1)) // old
			d.apply(w)
			d.ok(d.read(3, 1)) // new
			d.b[3] = old
			return d.read(3, 1)
		}},
		{"a torn block", Torn, "byte 256", func(d *disk) error {
			d.write(3, 1)
			old := slices.Clone(d.b[3])
			d.write(3, 1)
			copy(d.b[3][256:], old[256:])
			return d.read(3, 1)
		}},
		{"a torn block beside zeroes", Torn, "byte 504", func(d *disk) error {
			d.write(3, 1)
			clear(d.b[3][504:])
			return d.read(3, 1)
		}},
		{"the neighbour's block", Misplaced, "block 4", func(d *disk) error {
			d.write(3, 2)
			d.b[3] = d.b[4]
			return d.read(3, 1)
		}},
		{"WRITE SAME beyond its range", Misplaced, "", func(d *disk) error {
			o := d.h.Same(1, 3, 4, "WRITE SAME")
			d.apply(o)
			d.ok(o.Done(nil))
			d.ok(d.read(3, 4))
			d.b[7] = d.b[6]
			return d.read(7, 1)
		}},
		{"rubbish", Foreign, "", func(d *disk) error {
			d.b[3][5] = 9
			return d.read(3, 1)
		}},
		{"another run's block", Foreign, "seed 8", func(d *disk) error {
			o := New(Config{Seed: 8, Blocks: 8, BlockSize: testBlock}).Write(1, 3, 1, false, "WRITE")
			o.Fill(d.b[3])
			return d.read(3, 1)
		}},
		{"an aborted write over newer data", Late, "", func(d *disk) error {
			w := d.h.Write(1, 3, 1, false, "WRITE")
			d.ok(w.Failed())
			d.write(3, 1)
			d.ok(d.read(3, 1))
			d.apply(w)
			return d.read(3, 1)
		}},
		{"an aborted write over newer data that nobody has read", Late, "", func(d *disk) error {
			w := d.h.Write(1, 3, 1, false, "WRITE")
			d.ok(w.Failed())
			d.write(3, 1)
			d.apply(w)
			return d.read(3, 1)
		}},
		{"an aborted write after older data was read", Late, "", func(d *disk) error {
			d.write(3, 1)
			w := d.h.Write(1, 3, 1, false, "WRITE")
			d.ok(w.Failed())
			d.ok(d.read(3, 1))
			d.apply(w)
			return d.read(3, 1)
		}},
		{"a lost write after its session was reinstated", Late, "", func(d *disk) error {
			w := d.h.Write(1, 3, 1, false, "WRITE")
			w.Lost()
			d.ok(d.h.Settle(1))
			d.write(3, 1)
			d.apply(w)
			return d.read(3, 1)
		}},
		{"a failed write that was seen goes away", Stale, "", func(d *disk) error {
			d.write(3, 1)
			old := slices.Clone(d.b[3])
			w := d.h.Write(1, 3, 1, false, "WRITE")
			d.apply(w)
			d.ok(w.Failed())
			d.ok(d.read(3, 1))
			d.b[3] = old
			return d.read(3, 1)
		}},
		{"a refused write", Refused, "", func(d *disk) error {
			w := d.h.Write(1, 3, 1, false, "WRITE")
			d.apply(w)
			d.ok(w.Refused())
			return d.read(3, 1)
		}},
		{"a write that was read is refused", Refused, "", func(d *disk) error {
			w := d.h.Write(1, 3, 1, false, "WRITE")
			d.apply(w)
			d.ok(d.read(3, 1))
			return w.Refused()
		}},
		{"a failed write that is known not to have happened", Late, "", func(d *disk) error {
			w := d.h.Write(1, 3, 1, false, "WRITE")
			d.apply(w)
			d.ok(w.Failed())
			d.ok(w.Applied(3, false))
			return d.read(3, 1)
		}},
		{"a failed write that is known to have happened", Stale, "", func(d *disk) error {
			d.write(3, 1)
			w := d.h.Write(1, 3, 1, false, "WRITE")
			d.ok(w.Failed())
			d.ok(w.Applied(3, true))
			return d.read(3, 1)
		}},
		{"zeroes that were not acknowledged away", Stale, "zeroes", func(d *disk) error {
			z := d.h.Zero(1, 3, 1, "UNMAP")
			d.ok(z.Done(nil))
			d.write(3, 1)
			clear(d.b[3])
			return d.read(3, 1)
		}},
		{"data that was zeroed", Stale, "", func(d *disk) error {
			d.write(3, 1)
			d.ok(d.h.Zero(1, 3, 1, "UNMAP").Done(nil))
			return d.read(3, 1)
		}},
		{"COMPARE AND WRITE of what is not there", Stale, "", func(d *disk) error {
			d.write(3, 1)
			old := slices.Clone(d.b[3])
			d.write(3, 1)
			return d.h.CompareAndWrite(2, 3, 1, old, false, "CAW").Done(nil)
		}},
		{"two COMPARE AND WRITE of one value", Compared, "both replaced", func(d *disk) error {
			d.write(3, 1)
			a := d.h.CompareAndWrite(2, 3, 1, slices.Clone(d.b[3]), false, "CAW")
			b := d.h.CompareAndWrite(3, 3, 1, slices.Clone(d.b[3]), false, "CAW")
			d.ok(a.Done(nil))
			return b.Done(nil)
		}},
		{"a write between the two halves of COMPARE AND WRITE", Compared, "in between", func(d *disk) error {
			d.write(3, 1)
			c := d.h.CompareAndWrite(2, 3, 1, slices.Clone(d.b[3]), false, "CAW")
			w := d.h.Write(1, 3, 1, false, "WRITE")
			d.apply(w)
			d.ok(d.read(3, 1))
			d.ok(w.Done(nil))
			d.apply(c)
			d.ok(d.read(3, 1))
			return c.Done(nil)
		}},
		{"COMPARE AND WRITE of equal data fails", Compared, "can only have held", func(d *disk) error {
			d.write(3, 2)
			return d.h.CompareAndWrite(2, 3, 2, slices.Clone(d.at(3, 2)), false, "CAW").Miscompared(testBlock + 20)
		}},
		{"COMPARE AND WRITE finds another block equal than is there", Stale, "", func(d *disk) error {
			d.write(3, 2)
			old := slices.Clone(d.at(3, 2))
			d.write(3, 2)
			return d.h.CompareAndWrite(2, 3, 2, old, false, "CAW").Miscompared(testBlock + 20)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDisk(t, Config{})
			d.want(c.do(d), c.kind, c.part)
		})
	}
}

// What may be is not reported.
func TestAllowed(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(d *disk)
	}{
		{"either of two writes at once, mixed by blocks", func(d *disk) {
			a, b := d.h.Write(1, 3, 2, false, "a"), d.h.Write(2, 3, 2, false, "b")
			d.apply(a)
			d.apply(b)
			copy(d.b[3], content(a))
			d.ok(b.Done(nil))
			d.ok(a.Done(nil))
			d.ok(d.read(3, 2))
			d.ok(d.read(3, 2))
		}},
		{"a failed write in one of its blocks", func(d *disk) {
			d.write(3, 2)
			w := d.h.Write(1, 3, 2, false, "WRITE")
			copy(d.b[4], content(w)[testBlock:])
			d.ok(w.Failed())
			d.ok(d.read(3, 2))
			d.ok(d.read(3, 2))
		}},
		{"a lost write over newer data, while its server may have it", func(d *disk) {
			w := d.h.Write(1, 3, 1, false, "WRITE")
			w.Lost()
			d.write(3, 1)
			d.ok(d.read(3, 1))
			d.apply(w)
			d.ok(d.read(3, 1))
			d.ok(d.h.Settle(1))
			d.ok(d.read(3, 1))
		}},
		{"old data by a read that began before", func(d *disk) {
			d.write(3, 1)
			old := slices.Clone(d.b[3])
			r := d.h.Read(2, 3, 1, "READ")
			for range 2 * fewValues {
				d.write(3, 1)
				d.ok(d.read(3, 1))
			}
			d.ok(r.Done(old))
		}},
		{"a miscompare", func(d *disk) {
			d.write(3, 2)
			old := slices.Clone(d.at(3, 2))
			d.write(4, 1)
			d.ok(d.h.CompareAndWrite(2, 3, 2, old, false, "CAW").Miscompared(testBlock + 20))
		}},
		{"a miscompare beside a write", func(d *disk) {
			d.write(3, 1)
			w := d.h.Write(1, 3, 1, false, "WRITE")
			d.ok(d.h.CompareAndWrite(2, 3, 1, slices.Clone(d.b[3]), false, "CAW").Miscompared(20))
			d.ok(w.Done(nil))
		}},
		{"zeroes and data by turns", func(d *disk) {
			for range 4 * fewValues {
				d.write(3, 1)
				d.ok(d.read(3, 1))
				z := d.h.Zero(1, 3, 1, "UNMAP")
				d.apply(z)
				d.ok(z.Done(nil))
				d.ok(d.read(3, 1))
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) { c.do(newDisk(t, Config{})) })
	}
}

// With Ordered, the order of the beginnings decides.
func TestOrdered(t *testing.T) {
	d := newDisk(t, Config{Ordered: true})
	a, b := d.h.Write(1, 3, 1, false, "a"), d.h.Write(1, 3, 1, false, "b")
	d.apply(b)
	d.apply(a) // the wrong way round
	d.ok(b.Done(nil))
	d.ok(a.Done(nil))
	d.want(d.read(3, 1), Stale, "")

	d = newDisk(t, Config{Ordered: true})
	r := d.h.Read(1, 3, 1, "r")
	b = d.h.Write(1, 3, 1, false, "b")
	d.apply(b)
	d.want(r.Done(d.at(3, 1)), Early, "")
}

func TestPowerLoss(t *testing.T) {
	start := func(t *testing.T) (d *disk, values [3][]byte) {
		d = newDisk(t, Config{Durable: true})
		for i := range values {
			d.write(3, 1)
			values[i] = slices.Clone(d.b[3])
			if i == 1 {
				d.ok(d.h.Flush(1, 0, 16, "SYNCHRONIZE CACHE").Done(nil))
			}
		}
		return d, values
	}
	for _, after := range []bool{false, true} {
		check := func(d *disk, b []byte) error {
			if !after {
				return d.h.Survives(3, b)
			}
			d.h.PowerLoss()
			return d.h.Read(1, 3, 1, "READ").Done(b)
		}
		d, v := start(t)
		d.ok(check(d, v[2]))
		d, v = start(t)
		d.ok(check(d, v[1]))
		if after { // and then it is that one
			kind := Stale
			if err := d.h.Read(1, 3, 1, "READ").Done(v[2]); err == nil {
				t.Fatalf("no %v", kind)
			}
		}
		for _, fua := range []bool{false, true} {
			d, v = start(t)
			if fua {
				o := d.h.Write(1, 3, 1, true, "WRITE FUA")
				d.ok(o.Done(nil))
				v[0] = v[2]
			}
			if err := check(d, v[0]); err == nil {
				t.Fatalf("after power loss %v, FUA %v: older than what was durable", after, fua)
			}
		}
	}
	d, v := start(t)
	d.ok(d.h.ReadFUA(1, 3, 1, "READ FUA").Done(v[2]))
	d.want(d.h.Survives(3, v[1]), Volatile, "")
	// A flush says nothing of what was not over when it began.
	w := d.h.Write(1, 3, 1, false, "WRITE")
	f := d.h.Flush(1, 0, 16, "SYNCHRONIZE CACHE")
	d.ok(w.Done(nil))
	d.ok(f.Done(nil))
	d.ok(d.h.Survives(3, v[2]))
}

// The memory of a block is bounded, and what is bounded out is said.
func TestBounds(t *testing.T) {
	d := newDisk(t, Config{MaxValues: 20, Keep: 10})
	for range 1000 {
		d.write(3, 1)
	}
	if b := &d.h.blocks[3]; len(b.values) > fewValues || len(b.events) != 10 {
		t.Fatalf("%d values, %d events", len(b.values), len(b.events))
	}
	d.b[3][500] ^= 1
	err := d.read(3, 1)
	d.want(err, Torn, "operations before")
	var full error
	for range 30 {
		w := d.h.Write(1, 4, 1, false, "WRITE")
		w.Lost()
		if full = d.read(4, 1); full != nil {
			break
		}
		if o := d.h.Write(2, 4, 1, false, "WRITE"); true {
			d.apply(o)
			if full = o.Done(nil); full != nil {
				break
			}
		}
	}
	d.want(full, Full, "")
}

// A block is written in full by Fill, whatever was there, and Guess knows it.
func TestContent(t *testing.T) {
	for _, size := range []int{64, 512, 4096} {
		h := New(Config{Seed: 3, Blocks: 8, BlockSize: size})
		var last []byte
		for _, begin := range []func() *Op{func() *Op { return h.Write(5, 2, 3, false, "") }, func() *Op { return h.Same(6, 2, 3, "") }} {
			o := begin()
			if last == nil {
				last = make([]byte, 3*size)
			}
			b := make([]byte, 3*size)
			o.Fill(b)
			if o.kind == opSame {
				b = slices.Repeat(b[:size], 3)
			}
			guess, known := make([]byte, len(b)), make([]byte, len(b))
			h.Guess(2, guess)
			if h.Acknowledged(2, known); !slices.Equal(known, last) {
				t.Errorf("size %d: something else is acknowledged", size)
			}
			for i := range 3 {
				block := b[i*size : (i+1)*size]
				v, zero, wrong := parse(block, 3, uint64(2+i))
				if v != o.Value() || zero || wrong != nil || !slices.Equal(block, guess[i*size:(i+1)*size]) {
					t.Fatalf("size %d: %v, %v, %v", size, v, zero, wrong)
				}
				for at := range block {
					block[at] ^= 0x10
					if _, _, wrong := parse(block, 3, uint64(2+i)); wrong == nil {
						t.Fatalf("size %d: a wrong byte %d is not seen", size, at)
					}
					block[at] ^= 0x10
				}
			}
			last = b
			if err := o.Done(nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, want := fmt.Sprint(valueOf(3, 9), Value(0)), "w3#9 initial zeroes"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func BenchmarkWriteRead(b *testing.B) {
	d := newDisk(b, Config{})
	buf := make([]byte, 8*testBlock)
	b.SetBytes(int64(2 * len(buf)))
	for b.Loop() {
		o := d.h.Write(1, 3, 8, false, "WRITE")
		o.Fill(buf)
		d.ok(o.Done(nil))
		d.ok(d.h.Read(1, 3, 8, "READ").Done(buf))
	}
}
