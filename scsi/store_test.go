package scsi

import (
	"context"
	"fmt"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// testStore is a sparse volume in memory. With hold, requests stay pending until the test ends them, in
// whatever order; it checks that what it has at once keeps to Info and to the LU's promises.
type testStore struct {
	t     testing.TB
	info  backstore.Info
	pages map[int64][]byte // of pageSize bytes
	hold  bool             // answer Pending
	held  []*backstore.Request
	dead  map[*backstore.Request]bool // held READs that were aborted: what comes may write there
	busy  bool                        // WouldBlock to what may not wait
	ops   []backstore.Op
	kicks int
	fail  func(r *backstore.Request) error
}

const pageSize = 4096

func newTestStore(t testing.TB, size int64) *testStore {
	return &testStore{t: t, pages: map[int64][]byte{}, dead: map[*backstore.Request]bool{}, info: backstore.Info{Driver: "test", Identity: "test volume", Size: size, BlockSize: 1,
		MaxTransfer: 1 << 30, MaxInFlight: 64, MemAlign: 1, Caps: backstore.CapNoWaitRead | backstore.CapNoWaitWrite | backstore.CapFlush | backstore.CapFUA}}
}

func (s *testStore) Info() backstore.Info        { return s.info }
func (s *testStore) Close(context.Context) error { return nil }
func (s *testStore) Kick()                       { s.kicks++ }

func (s *testStore) Submit(r *backstore.Request) backstore.Outcome {
	s.check(r)
	if r.Flags&backstore.NoWait != 0 && (s.busy || s.hold) {
		return backstore.WouldBlock
	}
	s.ops = append(s.ops, r.Op)
	if s.hold {
		s.held = append(s.held, r)
		return backstore.Pending
	}
	s.perform(r)
	return backstore.Done
}

// check fails the test on a request that the contract does not allow.
func (s *testStore) check(r *backstore.Request) {
	s.t.Helper()
	if err := s.info.Check(r); err != nil {
		s.t.Fatalf("%v [%d,+%d) with a buffer of %d: %v", r.Op, r.Off, r.Len, len(r.Buf), err)
	}
	switch {
	case r.Len == 0 && r.Op != backstore.Flush:
		s.t.Fatalf("%v of nothing", r.Op)
	case len(s.held) >= s.info.MaxInFlight && r.Flags&backstore.NoWait == 0:
		s.t.Fatalf("%d requests in flight", len(s.held)+1)
	}
	for _, h := range s.held {
		if !s.dead[h] && (changes(h.Op) || changes(r.Op)) && h.Off < r.Off+r.Len && r.Off < h.Off+h.Len {
			s.t.Fatalf("%v [%d,+%d) beside %v [%d,+%d)", r.Op, r.Off, r.Len, h.Op, h.Off, h.Len)
		}
	}
}

func (s *testStore) perform(r *backstore.Request) {
	if s.fail != nil {
		if r.Err = s.fail(r); r.Err != nil {
			return
		}
	}
	if r.Op == backstore.Allocation {
		s.allocation(r)
		return
	}
	if r.Op == backstore.CompareAndWrite {
		now := backstore.Request{Op: backstore.Read, Off: r.Off, Len: r.Len, Buf: make([]byte, r.Len)}
		if s.perform(&now); firstDifference(now.Buf, r.Compare) >= 0 {
			r.Err = &backstore.Error{Class: backstore.ClassMiscompare, Op: "compare", Off: int64(firstDifference(now.Buf, r.Compare))}
			return
		}
	}
	for done := int64(0); done < r.Len; {
		at := r.Off + done
		n := min(pageSize-at%pageSize, r.Len-done)
		p := s.pages[at/pageSize]
		switch r.Op {
		case backstore.Discard, backstore.WriteZeroes:
			if n == pageSize && s.info.DiscardZeroes && r.Flags&backstore.KeepAllocated == 0 {
				delete(s.pages, at/pageSize)
				break
			}
			if p == nil {
				p = make([]byte, pageSize)
				s.pages[at/pageSize] = p
			}
			for i := range n {
				p[at%pageSize+i] = 0
				if r.Op == backstore.Discard && !s.info.DiscardZeroes {
					p[at%pageSize+i] = 0xee // whatever
				}
			}
		case backstore.Write, backstore.CompareAndWrite:
			if p == nil {
				p = make([]byte, pageSize)
				s.pages[at/pageSize] = p
			}
			copy(p[at%pageSize:], r.Buf[done:done+n])
		case backstore.Read:
			if p == nil {
				clear(r.Buf[done : done+n])
			} else {
				copy(r.Buf[done:done+n], p[at%pageSize:])
			}
		}
		done += n
	}
}

// changes reports whether an operation changes the medium.
func changes(op backstore.Op) bool {
	switch op {
	case backstore.Write, backstore.Discard, backstore.WriteZeroes, backstore.CompareAndWrite:
		return true
	}
	return false
}

// allocation answers by pages, neighbours joined.
func (s *testStore) allocation(r *backstore.Request) {
	for at := r.Off; at < r.Off+r.Len; {
		n := min(pageSize-at%pageSize, r.Off+r.Len-at)
		state := backstore.Deallocated
		if s.pages[at/pageSize] != nil {
			state = backstore.Mapped
		}
		if k := len(r.Extents); k > 0 && r.Extents[k-1].State == state {
			r.Extents[k-1].Len += n
		} else if k < cap(r.Extents) {
			r.Extents = append(r.Extents, backstore.Extent{Off: at, Len: n, State: state})
		} else {
			return
		}
		at += n
	}
}

// end performs the held request i and completes it.
func (s *testStore) end(i int) {
	r := s.held[i]
	delete(s.dead, r)
	s.held = append(s.held[:i], s.held[i+1:]...)
	s.perform(r)
	r.C.Complete(r)
}

// testHost is a loop of one LU: it queues completions until the test lets it turn.
type testHost struct {
	queue  []*backstore.Request
	ended  []*Command
	onDone func(*Command)
	lu     *LU

	timedOut []*Command // told of
	deaf     bool       // and cannot answer
}

// TimedOut notes it.
func (h *testHost) TimedOut(c *Command) bool {
	if !h.deaf {
		h.timedOut = append(h.timedOut, c)
	}
	return !h.deaf
}

// AbortNexus aborts what the LU has of a nexus.
func (h *testHost) AbortNexus(n *NexusLU, except *Command, _ bool) int {
	count := 0
	for c := range h.lu.Pending() {
		if c.Nexus == n && c != except {
			h.lu.Abort(c)
			count++
		}
	}
	return count
}

func (h *testHost) Complete(r *backstore.Request) { h.queue = append(h.queue, r) }
func (h *testHost) Done(c *Command) {
	h.ended = append(h.ended, c)
	if h.onDone != nil {
		h.onDone(c)
	}
}

// turn hands the queued completions to the LU and returns the commands that ended by that.
func (h *testHost) turn() []*Command {
	h.ended = nil
	for len(h.queue) > 0 {
		r := h.queue[0]
		h.queue = h.queue[1:]
		Completed(r)
	}
	return h.ended
}

// A rig is a disk, its store and its host, with one nexus whose power-on condition is gone.
type rig struct {
	testing.TB
	st   *testStore
	host *testHost
	lu   *LU
	nx   *NexusLU
}

func newRig(t testing.TB, st *testStore, cfg DiskConfig) *rig {
	t.Helper()
	host := &testHost{}
	lu, err := NewDisk(st, host, cfg)
	if err != nil {
		t.Fatal(err)
	}
	host.lu = lu
	r := &rig{TB: t, st: st, host: host, lu: lu}
	r.nx = r.attach("iqn.2024-01.example:a")
	return r
}

func (r *rig) attach(name string) *NexusLU {
	nx := r.lu.Attach(sam.Nexus{Initiator: name, Target: "iqn.2024-01.example:t", PortGroup: 1})
	nx.attentions = 0
	return nx
}

// cmd returns a command of the rig's nexus.
func (r *rig) cmd(b []byte, data []byte) *Command {
	return &Command{Nexus: r.nx, CDB: b, OutLen: uint32(len(data)), Owner: data}
}

// start prepares and executes c with a buffer of its own.
func (r *rig) start(c *Command) Outcome {
	r.Helper()
	if !r.lu.Prepare(c) {
		return Done
	}
	c.Buf = make([]byte, c.In)
	if c.Out > 0 {
		c.Buf = c.Owner.([]byte)[:c.Out]
	}
	return r.lu.Execute(c)
}

// do runs a command that has to end at once.
func (r *rig) do(b []byte, data []byte) *Command {
	r.Helper()
	c := r.cmd(b, data)
	if r.start(c) != Done {
		r.Fatalf("%s went pending", cdb.Describe(b))
	}
	return c
}

// transfer is cdb.Transfer as a slice.
func transfer(op byte, lba uint64, blocks uint32, flags byte) []byte {
	b := cdb.Transfer(op, lba, blocks, flags)
	return b[:]
}

// result returns how a command ended: "good", a status, or key/asc/ascq in hexadecimal.
func result(c *Command) string {
	switch c.Status {
	case sam.Good:
		if c.Sense != nil {
			return "good with sense"
		}
		return "good"
	case sam.CheckCondition:
		d, err := sense.Parse(c.Sense)
		if err != nil || c.Data != nil {
			return fmt.Sprintf("bad sense %x (%v) or data with it", c.Sense, err)
		}
		return fmt.Sprintf("%02X/%02X/%02X", uint8(d.Key), d.Code.ASC(), d.Code.ASCQ())
	}
	return c.Status.String()
}

func (r *rig) want(c *Command, want string) {
	r.Helper()
	if got := result(c); got != want {
		r.Fatalf("%s: %s, want %s", cdb.Describe(c.CDB), got, want)
	}
}
