package scsi

import (
	"context"
	"testing"
	"unsafe"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// idleStore does nothing, at once or, with pend, when the test says so.
type idleStore struct {
	info backstore.Info
	pend bool
	n    int
}

func newIdleStore(pend bool) *idleStore {
	return &idleStore{pend: pend, info: backstore.Info{Identity: "idle", Size: 1 << 40, BlockSize: 1, MaxInFlight: 256,
		Caps: backstore.CapNoWaitRead | backstore.CapNoWaitWrite | backstore.CapFlush | backstore.CapFUA}}
}

func (s *idleStore) Info() backstore.Info        { return s.info }
func (s *idleStore) Close(context.Context) error { return nil }
func (s *idleStore) Submit(*backstore.Request) backstore.Outcome {
	s.n++
	if s.pend {
		return backstore.Pending
	}
	return backstore.Done
}

// idleHost counts.
type idleHost struct{ done int }

func (h *idleHost) Complete(*backstore.Request) {}
func (h *idleHost) Done(*Command)               { h.done++ }

// TimedOut is never called: nobody looks.
func (h *idleHost) TimedOut(*Command) bool { return false }

// AbortNexus has nothing to abort.
func (h *idleHost) AbortNexus(*NexusLU, *Command, bool) int { return 0 }

type hotCase struct {
	name   string
	op     byte
	out    uint32
	noWait bool
	pend   bool
	depth  int  // others in flight
	await  bool // its data comes later
}

var hotCases = []hotCase{
	{"read10/inline", cdb.Read10, 0, true, false, 0, false},
	{"read16/inline", cdb.Read16, 0, true, false, 0, false},
	{"write10/inline", cdb.Write10, 4096, true, false, 0, false},
	{"write16/inline", cdb.Write16, 4096, true, false, 0, false},
	{"read16/wait", cdb.Read16, 0, false, false, 0, false},
	{"read16/pending/depth1", cdb.Read16, 0, false, true, 0, false},
	{"read16/pending/depth32", cdb.Read16, 0, false, true, 31, false},
	{"write16/pending/depth128", cdb.Write16, 4096, false, true, 127, false},
	{"write16/awaited/depth32", cdb.Write16, 4096, false, true, 31, true},
}

// hotPath returns a function that runs one command beside those that it keeps in flight, and their LU.
func hotPath(t testing.TB, h hotCase) (func(), *LU) {
	st, host := newIdleStore(h.pend), &idleHost{}
	lu, err := NewDisk(st, host, DiskConfig{})
	if err != nil {
		t.Fatal(err)
	}
	nx := lu.Attach(sam.Nexus{})
	nx.attentions = 0
	buf := make([]byte, 4096)
	ring := make([]Command, h.depth+1)
	cdbs := make([][]byte, 256) // more than are in flight: none overlaps
	for i := range cdbs {
		cdbs[i] = transfer(h.op, uint64(i*1024), 8, 0)
	}
	start := func(c *Command, i int) {
		c.Nexus, c.CDB, c.OutLen, c.NoWait = nx, cdbs[i%len(cdbs)], h.out, h.noWait
		if !lu.Prepare(c) {
			t.Fatal(result(c))
		}
		if h.await {
			lu.Await(c)
		}
		c.Buf = buf[:c.In+c.Out]
		if out := lu.Execute(c); out == WouldBlock || (out == Pending) != h.pend {
			t.Fatal("outcome", out)
		}
	}
	i := 0
	for ; i < h.depth; i++ {
		start(&ring[i], i)
	}
	return func() {
		c := &ring[i%len(ring)]
		start(c, i)
		i++
		if h.pend {
			Completed(&ring[i%len(ring)].req) // the oldest
		}
	}, lu
}

// TestHotPathAllocations: a READ or WRITE takes no memory, whether it ends at once or later, nor does it touch the task set while all
// are SIMPLE.
func TestHotPathAllocations(t *testing.T) {
	for _, h := range hotCases {
		run, lu := hotPath(t, h)
		for range 100 {
			run()
		}
		now := int64(0)
		if n := testing.AllocsPerRun(1000, func() { run(); now++; lu.Overdue(now) }); n != 0 {
			t.Errorf("%s: %v allocations", h.name, n)
		}
		if lu.set != (taskSet{}) {
			t.Errorf("%s: %+v", h.name, lu.set)
		}
	}
}

// TestCommandSize: commands are pooled by the thousand.
func TestCommandSize(t *testing.T) {
	if n := unsafe.Sizeof(Command{}); n > 512 {
		t.Errorf("a Command takes %d bytes", n)
	}
}

func BenchmarkHotPath(b *testing.B) {
	for _, h := range hotCases {
		b.Run(h.name, func(b *testing.B) {
			run, _ := hotPath(b, h)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				run()
			}
		})
	}
}
