package history

import (
	"fmt"
	"math"
	"sync"
)

// Bounds, each the default of the Config field of that name.
const (
	// DefaultKeep is how many operations a block remembers for messages.
	DefaultKeep = 48
	// DefaultMaxValues is how many values of one block may count at once: writes in flight, and what may still be read. More are an error, since
	// they say that writes are lost and never settled.
	DefaultMaxValues = 512
)

// open is the end of what has none yet.
const open = math.MaxUint64

// A Config says what is checked. Seed and value together must not come twice on one medium.
type Config struct {
	Seed      uint64
	Blocks    uint64
	BlockSize int // bytes, a multiple of 8, at least 64
	// Ordered: operations that overlap take effect in the order in which they began, which the test knows to be so. Otherwise in any order
	// that their beginnings and ends allow.
	Ordered bool
	// Durable: keep what a loss of power may bring back, for Survives and PowerLoss.
	Durable   bool
	Keep      int
	MaxValues int
}

// A History is what was done to one volume.
type History struct {
	cfg Config

	mu      sync.Mutex
	clock   uint64                  // guarded by mu
	blocks  []block                 // guarded by mu
	numbers map[uint32]uint64       // guarded by mu: the last operation of each writer
	running map[*Op]struct{}        // guarded by mu
	lost    map[uint32]map[*Op]bool // guarded by mu: writes without an answer, by writer
	cuts    map[*Cut]struct{}       // guarded by mu: copies being taken
	counts  Counts                  // guarded by mu
}

// Counts says how much was checked.
type Counts struct {
	Ops      uint64 // operations that ended
	Blocks   uint64 // blocks that were read and explained
	Unproven uint64 // of them, zeroes that several operations explain
	Lost     uint64 // writes without an answer
	Failed   uint64 // writes that failed or were aborted
	Refused  uint64
}

// New returns the history of a volume that holds zeroes.
func New(cfg Config) *History {
	if cfg.BlockSize < 64 || cfg.BlockSize%word != 0 {
		panic(fmt.Sprintf("history: blocks of %d bytes", cfg.BlockSize))
	}
	if cfg.Keep == 0 {
		cfg.Keep = DefaultKeep
	}
	if cfg.MaxValues == 0 {
		cfg.MaxValues = DefaultMaxValues
	}
	h := &History{cfg: cfg, blocks: make([]block, cfg.Blocks), numbers: map[uint32]uint64{}, running: map[*Op]struct{}{}, lost: map[uint32]map[*Op]bool{},
		cuts: map[*Cut]struct{}{}}
	for i := range h.blocks {
		h.blocks[i].values = []*value{{zero: true, state: acked, over: 1, durable: true}}
	}
	return h
}

// Counts returns how much was checked so far.
func (h *History) Counts() Counts {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.counts
}

type opKind uint8

const (
	opRead opKind = iota
	opWrite
	opSame
	opZero
	opCompare
	opFlush
)

// A state is how an operation ended.
type state uint8

const (
	pending state = iota
	acked
	failed
	lost
	refused
)

func (s state) String() string {
	return [...]string{pending: "pending", acked: "acknowledged", failed: "failed", lost: "no answer", refused: "refused"}[s]
}

// An Op is one operation. It is begun by a method of History and ended by one of Done, Failed, Refused, Miscompared and Lost, once.
type Op struct {
	h       *History
	kind    opKind
	value   Value
	writer  uint32
	lba, n  uint64
	what    string
	fua     bool
	compare []byte

	start uint64
	end   uint64 // guarded by h.mu, as is state
	state state
}

// Read begins a read of n blocks. what is for messages, here and below.
func (h *History) Read(writer uint32, lba, n uint64, what string) *Op {
	return h.begin(&Op{kind: opRead, writer: writer, lba: lba, n: n, what: what})
}

// ReadFUA begins a read that makes durable what it reads.
func (h *History) ReadFUA(writer uint32, lba, n uint64, what string) *Op {
	return h.begin(&Op{kind: opRead, writer: writer, lba: lba, n: n, what: what, fua: true})
}

// Write begins a write. fua: once acknowledged it is durable.
func (h *History) Write(writer uint32, lba, n uint64, fua bool, what string) *Op {
	return h.begin(&Op{kind: opWrite, writer: writer, lba: lba, n: n, fua: fua, what: what})
}

// Same begins a write of one block's content to each of n blocks.
func (h *History) Same(writer uint32, lba, n uint64, what string) *Op {
	return h.begin(&Op{kind: opSame, writer: writer, lba: lba, n: n, what: what})
}

// Zero begins an operation after which the blocks read as zeroes.
func (h *History) Zero(writer uint32, lba, n uint64, what string) *Op {
	return h.begin(&Op{kind: opZero, writer: writer, lba: lba, n: n, what: what})
}

// CompareAndWrite begins a write that happens only where the blocks hold compare, n blocks, which is kept.
func (h *History) CompareAndWrite(writer uint32, lba, n uint64, compare []byte, fua bool, what string) *Op {
	return h.begin(&Op{kind: opCompare, writer: writer, lba: lba, n: n, compare: compare, fua: fua, what: what})
}

// Flush begins an operation that makes durable what was acknowledged before it.
func (h *History) Flush(writer uint32, lba, n uint64, what string) *Op {
	return h.begin(&Op{kind: opFlush, writer: writer, lba: lba, n: n, what: what})
}

func (o *Op) writes() bool { return o.kind != opRead && o.kind != opFlush }

func (h *History) begin(o *Op) *Op {
	if o.n > h.cfg.Blocks || o.lba > h.cfg.Blocks-o.n {
		panic(fmt.Sprintf("history: %s of %d+%d: %d blocks", o.what, o.lba, o.n, h.cfg.Blocks))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	o.h, o.start, o.end = h, h.clock, open
	h.running[o] = struct{}{}
	if !o.writes() {
		return o
	}
	h.numbers[o.writer]++
	o.value = valueOf(o.writer, h.numbers[o.writer])
	for i := o.lba; i < o.lba+o.n; i++ {
		b := &h.blocks[i]
		b.note(h.cfg.Keep, event{op: o})
		b.values = append(b.values, &value{id: o.value, op: o, zero: o.kind == opZero, start: o.start, end: open, minEnd: open, maxStart: o.start})
	}
	return o
}

// Value is what the operation writes.
func (o *Op) Value() Value { return o.value }

// Fill puts into b what is to be written: n blocks, one for Same. It may be called any number of times.
func (o *Op) Fill(b []byte) {
	size := o.h.cfg.BlockSize
	hd := header{seed: o.h.cfg.Seed, value: o.value, first: o.lba, count: 1}
	if o.kind == opSame {
		hd.count = o.n
		b = b[:size]
	}
	if o.kind == opZero {
		clear(b)
		return
	}
	for at := 0; at < len(b); at += size {
		hd.put(b[at : at+size])
		hd.first++
	}
}

// finish notes the end of o, and returns what it was to be compared with, which is not kept. Called with mu held.
func (o *Op) finish(s state) (compare []byte) {
	h := o.h
	if _, ok := h.running[o]; !ok {
		panic(fmt.Sprintf("history: %s ended twice", o.what))
	}
	delete(h.running, o)
	h.clock++
	h.counts.Ops++
	o.state, o.end = s, h.clock
	if h.cfg.Ordered {
		o.end = o.start
	}
	compare, o.compare = o.compare, nil
	return compare
}

// Done says that o was acknowledged; data is what a read returned, nil otherwise. The error is a *Violation.
func (o *Op) Done(data []byte) error {
	h := o.h
	h.mu.Lock()
	defer h.mu.Unlock()
	compare := o.finish(acked)
	size := uint64(h.cfg.BlockSize)
	if o.kind == opCompare {
		data = compare
	}
	if (o.kind == opRead || o.kind == opCompare) && uint64(len(data)) != o.n*size {
		return &Violation{Kind: Foreign, LBA: o.lba, Text: fmt.Sprintf("%s of %d blocks with %d bytes", o.what, o.n, len(data))}
	}
	for i := uint64(0); i < o.n; i++ {
		var err error
		switch o.kind {
		case opFlush:
			h.blocks[o.lba+i].flushed(o)
		case opRead:
			err = h.saw(o, o.lba+i, data[i*size:(i+1)*size])
		case opCompare:
			if err = h.saw(o, o.lba+i, data[i*size:(i+1)*size]); err == nil {
				err = h.compared(o, o.lba+i, data[i*size:(i+1)*size])
			}
		default:
			err = h.wrote(o, o.lba+i)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Failed says that o ended without being acknowledged: by an error, or because it was aborted. Of a write each block may be old or new, and stays so.
func (o *Op) Failed() error {
	o.h.mu.Lock()
	defer o.h.mu.Unlock()
	o.finish(failed)
	return o.h.ended(o)
}

// ended makes a write that was not acknowledged end now. Called with mu held.
func (h *History) ended(o *Op) error {
	if !o.writes() {
		return nil
	}
	h.counts.Failed++
	for i := o.lba; i < o.lba+o.n; i++ {
		b := &h.blocks[i]
		x := b.find(o.value)
		if x == nil {
			continue // retired: see prune
		}
		x.state, x.end, x.over = failed, o.end, h.clock
		x.minEnd = min(x.minEnd, o.end)
		if x.reads > 0 {
			if err := h.check(i, x); err != nil {
				return err
			}
		}
		if err := h.prune(i); err != nil {
			return err
		}
	}
	return nil
}

// Applied says of a write that has failed, where the test has means to know, whether it took effect in a block.
func (o *Op) Applied(lba uint64, yes bool) error {
	h := o.h
	h.mu.Lock()
	defer h.mu.Unlock()
	b := &h.blocks[lba]
	x := b.find(o.value)
	switch {
	case x == nil:
		return nil // it was superseded
	case yes:
		x.state = acked
		return h.check(lba, x)
	case x.reads > 0:
		return h.violation(Refused, lba, "%v did not take effect, and had been read", o.value)
	}
	b.drop(o.value)
	return nil
}

// Refused says that o ended with the promise that nothing of it was or will be done.
func (o *Op) Refused() error {
	h := o.h
	h.mu.Lock()
	defer h.mu.Unlock()
	o.finish(refused)
	return h.undone(o)
}

// undone takes o, which was not carried out, out of its blocks. Called with mu held.
func (h *History) undone(o *Op) error {
	if !o.writes() {
		return nil
	}
	h.counts.Refused++
	for i := o.lba; i < o.lba+o.n; i++ {
		b := &h.blocks[i]
		if x := b.find(o.value); x != nil && x.reads > 0 {
			return h.violation(Refused, i, "%v was refused, and had been read", o.value)
		}
		b.drop(o.value)
	}
	return nil
}

// Miscompared says that a CompareAndWrite wrote nothing because the blocks hold something else from byte at of compare on.
func (o *Op) Miscompared(at int64) error {
	h := o.h
	h.mu.Lock()
	defer h.mu.Unlock()
	compare := o.finish(refused)
	if err := h.undone(o); err != nil {
		return err
	}
	size := int64(h.cfg.BlockSize)
	if at < 0 || at >= int64(len(compare)) {
		return h.violation(Compared, o.lba, "%s differs at byte %d of %d", o.what, at, len(compare))
	}
	for i := int64(0); i <= at/size; i++ {
		lba := o.lba + uint64(i)
		want := compare[i*size : (i+1)*size]
		if i < at/size {
			if err := h.saw(o, lba, want); err != nil { // it was found equal
				return err
			}
			continue
		}
		if err := h.differs(o, lba, want); err != nil {
			return err
		}
	}
	return nil
}

// Lost says that no answer to o will come. Until Settle a write may still take effect.
func (o *Op) Lost() {
	h := o.h
	h.mu.Lock()
	defer h.mu.Unlock()
	o.finish(lost)
	o.end = open
	if !o.writes() {
		return
	}
	h.counts.Lost++
	if h.lost[o.writer] == nil {
		h.lost[o.writer] = map[*Op]bool{}
	}
	h.lost[o.writer][o] = true
}

// Settle says that nothing that a writer has lost will take effect from now on: its session was reinstated, or the server has ended.
func (h *History) Settle(writer uint32) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.settle(writer)
}

// SettleAll is Settle for everybody.
func (h *History) SettleAll() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.lost {
		if err := h.settle(w); err != nil {
			return err
		}
	}
	return nil
}

func (h *History) settle(writer uint32) error {
	h.clock++
	for o := range h.lost[writer] {
		o.end = h.clock
		if h.cfg.Ordered {
			o.end = o.start
		}
		if err := h.ended(o); err != nil {
			return err
		}
	}
	delete(h.lost, writer)
	return nil
}
