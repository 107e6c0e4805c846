package scsi

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
	"github.com/lunar-iscsi/lunar/test/history"
)

// crashStore is a testStore with a volatile cache: it knows of each block what would be there after a loss of power. Each block carries
// the number of its write, which grows with the order of the commands.
type crashStore struct {
	*testStore
	block   int64
	durable [][]byte
	flushes map[*backstore.Request][][]byte // what each flush in flight covers
}

func newCrashStore(t testing.TB, size, block int64) *crashStore {
	s := &crashStore{newTestStore(t, size), block, make([][]byte, size/block), map[*backstore.Request][][]byte{}}
	for i := range s.durable {
		s.durable[i] = make([]byte, block)
	}
	return s
}

// holds returns what a block of the volume holds now.
func (s *crashStore) holds(i uint64) []byte {
	b := make([]byte, s.block)
	if at := int64(i) * s.block; s.pages[at/pageSize] != nil {
		copy(b, s.pages[at/pageSize][at%pageSize:])
	}
	return b
}

// number is that of the write which a block's content comes from.
func number(b []byte) uint64 { return binary.BigEndian.Uint64(b[16:]) }

func (s *crashStore) Submit(r *backstore.Request) backstore.Outcome {
	if r.Op == backstore.Flush {
		for i := range s.durable { // not what is written from now on
			s.flushes[r] = append(s.flushes[r], s.holds(uint64(i)))
		}
	}
	out := s.testStore.Submit(r)
	if out == backstore.Done {
		s.settle(r)
	}
	return out
}

// settle makes durable what r, which has been performed, promises.
func (s *crashStore) settle(r *backstore.Request) {
	keep := func(i int64, b []byte) {
		if number(b) > number(s.durable[i]) {
			s.durable[i] = b
		}
	}
	switch {
	case r.Op == backstore.Flush:
		for i, b := range s.flushes[r] {
			keep(int64(i), b)
		}
		delete(s.flushes, r)
	case r.Flags&backstore.FUA != 0:
		for i := r.Off / s.block; i < (r.Off+r.Len)/s.block; i++ {
			keep(i, s.holds(uint64(i)))
		}
	}
}

func (s *crashStore) end(i int) {
	r := s.held[i]
	s.testStore.end(i)
	s.settle(r)
}

type modelRun struct {
	*rig
	st     *crashStore
	rnd    *rand.Rand
	nexus  []*NexusLU
	h      *history.History
	issued map[*Command]*issue
	counts map[string]int
	full   uint64 // blocks, if the disk is resized on and off; 0: it is not
}

// An issue is what the model knows of a pending command.
type issue struct {
	kind    string
	op      *history.Op // nil: it changes and returns nothing
	fua     bool
	compare []byte
	aborted bool
	lowest  uint64 // blocks that the disk had at least, since
}

func (m *modelRun) run(steps int) {
	m.host.onDone = m.ended
	for range steps {
		switch k := m.rnd.IntN(20); {
		case k < 11:
			m.issue()
		case k < 17:
			if n := len(m.st.held); n > 0 {
				m.st.end(m.rnd.IntN(n))
			}
		case k < 18:
			m.abort()
		case k < 19 && m.full != 0:
			m.resize()
		default:
			m.host.turn()
		}
		m.st.hold = m.rnd.IntN(4) > 0
		m.st.busy = m.rnd.IntN(4) == 0
	}
	for m.host.turn(); len(m.st.held) > 0; m.host.turn() {
		m.st.end(m.rnd.IntN(len(m.st.held)))
	}
	if len(m.issued) != 0 || len(m.lu.pending) != 0 || m.lu.index.n != 0 || m.lu.flight != 0 || m.lu.doubts != 0 {
		m.Fatalf("at the end: %d issued, %d pending, %d in the index, %d in flight, %d in doubt", len(m.issued), len(m.lu.pending), m.lu.index.n, m.lu.flight, m.lu.doubts)
	}
	for i := range uint64(len(m.st.durable)) {
		m.ok(m.h.Read(modelWriter, i, 1, "what is left").Done(m.st.holds(i)))
	}
}

// modelWriter is everybody: the order of the commands is that of Execute, of whichever nexus.
const modelWriter = 1

func (m *modelRun) ok(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func (m *modelRun) issue() {
	blocks := uint64(1 + m.rnd.IntN(12))
	n := uint32(blocks)
	lba := m.rnd.Uint64N(m.lu.blocks - blocks + 1)
	flags := byte(m.rnd.IntN(4)) * cdb.FUA // FUA and DPO
	is := &issue{fua: flags&cdb.FUA != 0}
	size := uint64(m.lu.blockSize)
	var b, data []byte
	written := func(blocks uint64) []byte {
		data := make([]byte, blocks*size)
		is.op.Fill(data)
		return data
	}
	wide := m.rnd.IntN(2)
	switch m.rnd.IntN(15) {
	case 10, 11:
		is.kind, is.fua = "write same", false
		b = transfer([]byte{cdb.WriteSame10, cdb.WriteSame16}[wide], lba, n, 0)
		is.op = m.h.Same(modelWriter, lba, blocks, cdb.Describe(b))
		data = written(1)
	case 12:
		is.kind, is.fua = "write and verify", true
		b = transfer([]byte{cdb.WriteVerify10, cdb.WriteVerify16}[wide], lba, n, flags&cdb.DPO|2*byte(m.rnd.IntN(2)))
		is.op = m.h.Write(modelWriter, lba, blocks, true, cdb.Describe(b))
		data = written(blocks)
	case 13:
		is.kind, is.fua = "verify", false
		b = transfer([]byte{cdb.Verify10, cdb.Prefetch16}[wide], lba, n, 0)
	case 14:
		is.kind = "compare"
		b = transfer(cdb.CompareAndWrite, lba, n, flags)
		is.compare = make([]byte, blocks*size)
		m.h.Guess(lba, is.compare)
		for i := range blocks {
			if m.rnd.IntN(16) == 0 {
				is.compare[i*size+m.rnd.Uint64N(size)] ^= 1 << m.rnd.IntN(8)
			}
		}
		is.op = m.h.CompareAndWrite(modelWriter, lba, blocks, is.compare, is.fua, cdb.Describe(b))
		data = append(slices.Clone(is.compare), written(blocks)...)
	case 0:
		is.kind, is.fua = "flush", true
		b = transfer([]byte{cdb.SynchronizeCache10, cdb.SynchronizeCache16}[wide], lba, n, 0)
		is.op = m.h.Flush(modelWriter, lba, blocks, cdb.Describe(b))
	case 1, 2, 3, 4:
		is.kind = "read"
		b = transfer([]byte{cdb.Read10, cdb.Read12, cdb.Read16}[m.rnd.IntN(3)], lba, n, flags)
		if is.fua {
			is.op = m.h.ReadFUA(modelWriter, lba, blocks, cdb.Describe(b))
		} else {
			is.op = m.h.Read(modelWriter, lba, blocks, cdb.Describe(b))
		}
	default:
		is.kind = "write"
		b = transfer([]byte{cdb.Write10, cdb.Write12, cdb.Write16}[m.rnd.IntN(3)], lba, n, flags)
		is.op = m.h.Write(modelWriter, lba, blocks, is.fua, cdb.Describe(b))
		data = written(blocks)
	}
	c := m.cmd(b, data)
	c.Nexus = m.nexus[m.rnd.IntN(len(m.nexus))]
	if !m.lu.Prepare(c) {
		m.Fatalf("%s: %s", cdb.Describe(b), result(c))
	}
	c.Buf = make([]byte, int(c.In)+1)[m.rnd.IntN(2):][:c.In]
	if c.Out > 0 {
		c.Buf = data[:c.Out]
	}
	c.NoWait = m.rnd.IntN(2) == 0
	out := m.lu.Execute(c)
	if out == WouldBlock {
		m.counts["would block"]++
		c.NoWait = false
		out = m.lu.Execute(c)
	}
	is.lowest = m.lu.blocks
	m.issued[c] = is
	m.counts["pending"] += int(out)
	if out == Done {
		m.ended(c)
	}
}

// blockRange returns the blocks of c.
func blockRange(c *Command) (first, last uint64) {
	lba, n := cdb.Range(c.CDB)
	return lba, lba + uint64(n)
}

func (m *modelRun) ended(c *Command) {
	is := m.issued[c]
	if is == nil {
		m.Fatalf("%s ended twice", cdb.Describe(c.CDB))
	}
	delete(m.issued, c)
	first, last := blockRange(c)
	if is.aborted {
		// What overlaps it is still waiting, so the volume tells which of its blocks it wrote.
		m.counts["late"]++
		for i := first; c.span.kind == writeSpan && i < last; i++ {
			m.ok(is.op.Applied(i, number(m.st.holds(i)) == uint64(is.op.Value())))
		}
		return
	}
	if last > is.lowest && result(c) == "05/21/00" {
		m.beyond(c, is)
		return
	}
	m.counts[is.kind]++
	if is.kind == "compare" && !m.compared(c, is) {
		return
	}
	m.want(c, "good")
	if is.op == nil {
		return
	}
	m.ok(is.op.Done(c.Data))
	for i := first; is.fua && i < last; i++ {
		m.ok(m.h.Survives(i, m.st.durable[i]))
	}
}

// resize gives the disk another size, and the store ahead of it or behind it. The store keeps what is beyond the end for when it comes
// back; that nobody gets there meanwhile it checks itself.
func (m *modelRun) resize() {
	if now := int64(m.lu.blocks) * int64(m.lu.blockSize); m.st.info.Size > now {
		if m.lu.Beyond(now) == 0 {
			m.st.info.Size = now
			m.counts["cut"]++
		}
	}
	unit := uint64(m.lu.Granularity()) / uint64(m.lu.blockSize)
	blocks := (m.full/4 + m.rnd.Uint64N(m.full*3/4+1)) / unit * unit
	size := int64(blocks) * int64(m.lu.blockSize)
	m.st.info.Size = max(m.st.info.Size, size)
	was := m.lu.blocks
	m.ok(m.lu.Resize(size))
	for _, nx := range m.nexus {
		if told := nx.attentions == 1<<attentionBit(sense.CapacityChanged); told != (was != blocks) || nx.attentions != 0 && !told {
			m.Fatalf("from %d to %d blocks: conditions %b", was, blocks, nx.attentions)
		}
		nx.attentions = 0
	}
	for _, is := range m.issued {
		is.lowest = min(is.lowest, blocks)
	}
	m.counts["resized"]++
}

// beyond takes the end of a command that reached beyond an end which the disk got while it waited. Some of it may have been carried out.
func (m *modelRun) beyond(c *Command, is *issue) {
	m.counts["beyond"]++
	if is.op == nil {
		return
	}
	if c.span.kind != writeSpan {
		m.ok(is.op.Refused())
		return
	}
	m.ok(is.op.Failed())
	for i, last := blockRange(c); i < last; i++ {
		m.ok(is.op.Applied(i, number(m.st.holds(i)) == uint64(is.op.Value())))
	}
}

// compared checks what COMPARE AND WRITE found, and reports whether that was what it was to be compared with.
func (m *modelRun) compared(c *Command, is *issue) bool {
	if c.Status == sam.Good {
		return true
	}
	m.want(c, "0E/1D/00")
	var there []byte // nothing that overlaps it has gone on yet
	for i, last := blockRange(c); i < last; i++ {
		there = append(there, m.st.holds(i)...)
	}
	at := firstDifference(there, is.compare)
	if d, _ := sense.Parse(c.Sense); !d.HasInfo || int64(d.Info) != int64(at) {
		m.Fatalf("miscompare at %d, want %d", d.Info, at)
	}
	m.counts["miscompare"]++
	m.ok(is.op.Miscompared(int64(at)))
	return false
}

func (m *modelRun) abort() {
	for c := range m.lu.Pending() {
		if m.rnd.IntN(3) > 0 {
			continue
		}
		is := m.issued[c]
		ended := m.lu.Abort(c)
		if is.op != nil {
			if ended {
				m.ok(is.op.Refused())
			} else {
				m.ok(is.op.Failed())
			}
		}
		if ended {
			m.counts["aborted"]++
			delete(m.issued, c)
			return
		}
		is.aborted = true
		if c.span.kind == readSpan {
			m.st.dead[&c.req] = true
		}
		return
	}
}

// TestModel runs random commands of several nexuses against a store that reorders, aborts included: a READ returns
// exactly what the overlapping WRITEs before it left, nothing torn, and what was flushed is durable. The history knows what that is; the order of
// overlapping commands is that of Execute. Every other disk is resized all the time: what lies beyond an end, whenever it came, does not get
// to the store, and the rest goes on.
func TestModel(t *testing.T) {
	counts := map[string]int{}
	for seed := range uint64(60) {
		variant := seed % 6
		t.Run(fmt.Sprintf("seed%d", seed), func(t *testing.T) {
			st := newCrashStore(t, 64*512, 512)
			cfg := DiskConfig{}
			switch variant {
			case 1:
				st.info.Caps &^= backstore.CapFUA
			case 2:
				st.info.BlockSize, st.info.MemAlign = 2048, 64
			case 3:
				st.info.MaxInFlight = 2
			case 4:
				st.info.BlockSize, st.info.MaxInFlight = 1024, 1
				st.info.Caps &^= backstore.CapFUA
			case 5:
				st = newCrashStore(t, 64*4096, 4096)
				cfg.LogicalBlock = 4096
			}
			if seed%2 == 1 {
				st.info.Caps |= backstore.CapCompareAndWrite
				st.info.MaxCompareAndWrite = 3000
			}
			host := &testHost{}
			lu, err := NewDisk(st, host, cfg)
			if err != nil {
				t.Fatal(err)
			}
			r := &rig{TB: t, st: st.testStore, host: host, lu: lu}
			m := &modelRun{rig: r, st: st, rnd: rand.New(rand.NewPCG(seed, 7)), issued: map[*Command]*issue{}, counts: counts,
				h: history.New(history.Config{Seed: seed, Blocks: lu.blocks, BlockSize: int(lu.blockSize), Ordered: true, Durable: true})}
			for _, name := range []string{"a", "b", "c"} {
				m.nexus = append(m.nexus, r.attach(name))
			}
			if seed/6%2 == 1 {
				m.full = lu.blocks
			}
			m.run(2000)
			for _, nx := range m.nexus {
				if nx.pending != 0 {
					t.Fatalf("nexus %s has %d commands", nx.Nexus.Initiator, nx.pending)
				}
			}
		})
	}
	for _, what := range []string{"read", "write", "flush", "write same", "write and verify", "verify", "compare", "miscompare", "aborted", "late", "pending", "would block"} {
		if counts[what] < 500 {
			t.Errorf("only %d of %q: the model does not reach it", counts[what], what)
		}
	}
	for _, what := range []string{"resized", "beyond", "cut"} {
		if counts[what] < 100 {
			t.Errorf("only %d of %q: the model does not reach it", counts[what], what)
		}
	}
}
