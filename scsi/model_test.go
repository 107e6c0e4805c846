package scsi

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// crashStore is a testStore with a volatile cache: it knows of each block which write would be there after a loss
// of power. Each block carries the stamp of its write, which grows with the order of the commands.
type crashStore struct {
	*testStore
	block   int64
	durable []uint64
	flushes map[*backstore.Request][]uint64 // what each flush in flight covers
}

func newCrashStore(t testing.TB, size, block int64) *crashStore {
	return &crashStore{newTestStore(t, size), block, make([]uint64, size/block), map[*backstore.Request][]uint64{}}
}

// stamps returns what the volume holds now.
func (s *crashStore) stamps() []uint64 {
	list := make([]uint64, len(s.durable))
	for i := range list {
		if at := int64(i) * s.block; s.pages[at/pageSize] != nil {
			list[i] = binary.BigEndian.Uint64(s.pages[at/pageSize][at%pageSize:])
		}
	}
	return list
}

func (s *crashStore) Submit(r *backstore.Request) backstore.Outcome {
	if r.Op == backstore.Flush {
		s.flushes[r] = s.stamps() // not what is written from now on
	}
	out := s.testStore.Submit(r)
	if out == backstore.Done {
		s.settle(r)
	}
	return out
}

// settle makes durable what r, which has been performed, promises.
func (s *crashStore) settle(r *backstore.Request) {
	switch {
	case r.Op == backstore.Flush:
		for i, stamp := range s.flushes[r] {
			s.durable[i] = max(s.durable[i], stamp)
		}
		delete(s.flushes, r)
	case r.Flags&backstore.FUA != 0:
		now := s.stamps()
		for i := r.Off / s.block; i < (r.Off+r.Len)/s.block; i++ {
			s.durable[i] = max(s.durable[i], now[i])
		}
	}
}

func (s *crashStore) end(i int) {
	r := s.held[i]
	s.testStore.end(i)
	s.settle(r)
}

// A mark is one WRITE to a block, in the order in which overlapping commands take effect: that of Execute.
type mark struct {
	stamp uint64
	c     *Command
	over  bool // acknowledged, or aborted and so over for its initiator
}

type modelRun struct {
	*rig
	st     *crashStore
	rnd    *rand.Rand
	nexus  []*NexusLU
	marks  [][]mark // by block
	stamp  uint64
	issued map[*Command]*issue
	counts map[string]int
}

// An issue is what the model knows of a pending command.
type issue struct {
	kind    string
	stamp   uint64
	fua     bool
	compare []byte
	aborted bool
	need    [][]uint64 // for flushes: by block, the writes that were over before
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
}

func (m *modelRun) issue() {
	n := m.lu.blocks
	blocks := uint32(1 + m.rnd.IntN(12))
	lba := m.rnd.Uint64N(n - uint64(blocks) + 1)
	flags := byte(m.rnd.IntN(4)) * cdb.FUA // FUA and DPO
	m.stamp++
	is := &issue{stamp: m.stamp, fua: flags&cdb.FUA != 0}
	var b, data []byte
	stamped := func(blocks uint32) []byte {
		data := make([]byte, blocks*m.lu.blockSize)
		for i := 0; i < len(data); i += 8 {
			binary.BigEndian.PutUint64(data[i:], m.stamp)
		}
		return data
	}
	wide := m.rnd.IntN(2)
	switch m.rnd.IntN(15) {
	case 10, 11:
		is.kind, is.fua = "write same", false
		b = transfer([]byte{cdb.WriteSame10, cdb.WriteSame16}[wide], lba, blocks, 0)
		data = stamped(1)
	case 12:
		is.kind, is.fua = "write and verify", true
		b = transfer([]byte{cdb.WriteVerify10, cdb.WriteVerify16}[wide], lba, blocks, flags&cdb.DPO|2*byte(m.rnd.IntN(2)))
		data = stamped(blocks)
	case 13:
		is.kind, is.fua = "verify", false
		b = transfer([]byte{cdb.Verify10, cdb.Prefetch16}[wide], lba, blocks, 0)
	case 14:
		is.kind = "compare"
		b = transfer(cdb.CompareAndWrite, lba, blocks, flags)
		for i := lba; i < lba+uint64(blocks); i++ {
			there := uint64(0)
			for _, w := range m.marks[i] {
				there = w.stamp
			}
			if m.rnd.IntN(16) == 0 {
				there ^= 1 << m.rnd.IntN(16)
			}
			for range m.lu.blockSize / 8 {
				is.compare = binary.BigEndian.AppendUint64(is.compare, there)
			}
		}
		data = append(slices.Clone(is.compare), stamped(blocks)...)
	case 0:
		is.kind = "flush"
		b = transfer([]byte{cdb.SynchronizeCache10, cdb.SynchronizeCache16}[m.rnd.IntN(2)], lba, blocks, 0)
		is.need = make([][]uint64, n)
		for i := lba; i < lba+uint64(blocks); i++ {
			for _, w := range m.marks[i] {
				if w.over {
					is.need[i] = append(is.need[i], w.stamp)
				}
			}
		}
	case 1, 2, 3, 4:
		is.kind = "read"
		b = transfer([]byte{cdb.Read10, cdb.Read12, cdb.Read16}[m.rnd.IntN(3)], lba, blocks, flags)
	default:
		b = transfer([]byte{cdb.Write10, cdb.Write12, cdb.Write16}[m.rnd.IntN(3)], lba, blocks, flags)
		is.kind = "write"
		data = stamped(blocks)
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
	m.issued[c] = is
	for i := uint64(0); data != nil && i < uint64(blocks); i++ {
		m.marks[lba+i] = append(m.marks[lba+i], mark{stamp: m.stamp, c: c})
	}
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
		now := m.st.stamps()
		for i := first; c.span.kind == writeSpan && i < last; i++ {
			if now[i] != is.stamp {
				m.drop(i, is.stamp)
			}
		}
		return
	}
	if is.kind == "compare" {
		m.compared(c, is)
	} else {
		m.want(c, "good")
	}
	m.counts[is.kind]++
	switch {
	case is.kind == "verify":
	case is.need != nil:
		for i := first; i < last; i++ {
			for _, w := range m.marks[i] {
				if slices.Contains(is.need[i], w.stamp) && m.st.durable[i] < w.stamp {
					m.Fatalf("flush: block %d holds %d after a loss of power, want %d", i, m.st.durable[i], w.stamp)
				}
			}
		}
	case c.Length > 0 && is.kind != "read":
		for i := first; i < last; i++ {
			for j := range m.marks[i] {
				if m.marks[i][j].c == c {
					m.marks[i][j].over = true
				}
			}
			if is.fua && m.st.durable[i] < is.stamp {
				m.Fatalf("write with FUA: block %d holds %d after a loss of power, want %d", i, m.st.durable[i], is.stamp)
			}
		}
	default:
		for i := first; i < last; i++ {
			want := uint64(0)
			for _, w := range m.marks[i] {
				if w.stamp < is.stamp {
					want = w.stamp
				}
			}
			for at := (i - first) * uint64(m.lu.blockSize); at < (i-first+1)*uint64(m.lu.blockSize); at += 8 {
				if got := binary.BigEndian.Uint64(c.Data[at:]); got != want {
					m.Fatalf("%s: block %d holds %d, want %d", cdb.Describe(c.CDB), i, got, want)
				}
			}
			if is.fua && m.st.durable[i] < want {
				m.Fatalf("read with FUA: block %d holds %d after a loss of power, and %d was read", i, m.st.durable[i], want)
			}
		}
	}
}

// compared checks what COMPARE AND WRITE found, and forgets its write if it was none.
func (m *modelRun) compared(c *Command, is *issue) {
	first, last := blockRange(c)
	var there []byte
	for i := first; i < last; i++ {
		stamp := uint64(0)
		for _, w := range m.marks[i] {
			if w.stamp < is.stamp {
				stamp = w.stamp
			}
		}
		for range m.lu.blockSize / 8 {
			there = binary.BigEndian.AppendUint64(there, stamp)
		}
	}
	at := firstDifference(there, is.compare)
	if at < 0 {
		m.want(c, "good")
		return
	}
	m.want(c, "0E/1D/00")
	if d, _ := sense.Parse(c.Sense); !d.HasInfo || d.Info != uint64(at) {
		m.Fatalf("miscompare at %d, want %d", d.Info, at)
	}
	m.counts["miscompare"]++
	for i := first; i < last; i++ {
		m.drop(i, is.stamp)
	}
	is.fua = false
}

// drop takes the write with the given stamp out of a block's history.
func (m *modelRun) drop(block, stamp uint64) {
	m.marks[block] = slices.DeleteFunc(m.marks[block], func(w mark) bool { return w.stamp == stamp })
}

func (m *modelRun) abort() {
	for c := range m.lu.Pending() {
		if m.rnd.IntN(3) > 0 {
			continue
		}
		is := m.issued[c]
		first, last := blockRange(c)
		ended := m.lu.Abort(c)
		for i := first; c.span.kind == writeSpan && i < last; i++ {
			if ended {
				m.drop(i, is.stamp)
			}
			for j := range m.marks[i] {
				if m.marks[i][j].c == c {
					m.marks[i][j].over = true
				}
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
// exactly what the overlapping WRITEs before it left, nothing torn, and what was flushed is durable.
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
			m := &modelRun{rig: r, st: st, rnd: rand.New(rand.NewPCG(seed, 7)), marks: make([][]mark, lu.blocks), issued: map[*Command]*issue{}, counts: counts}
			for _, name := range []string{"a", "b", "c"} {
				m.nexus = append(m.nexus, r.attach(name))
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
}
