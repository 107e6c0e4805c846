package scsi

import (
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// write returns a WRITE(10) of one value.
func (r *rig) write(nx *NexusLU, lba uint64, blocks uint32, value byte) *Command {
	data := make([]byte, blocks*r.lu.blockSize)
	for i := range data {
		data[i] = value
	}
	c := r.cmd(transfer(cdb.Write10, lba, blocks, 0), data)
	c.Nexus = nx
	return c
}

func (r *rig) read(nx *NexusLU, lba uint64, blocks uint32) *Command {
	c := r.cmd(transfer(cdb.Read10, lba, blocks, 0), nil)
	c.Nexus = nx
	return c
}

// started runs c and checks how far it came: at the store, or waiting.
func (r *rig) started(c *Command, want cmdState) *Command {
	r.Helper()
	if out := r.start(c); out != Pending || c.state != want {
		r.Fatalf("%s: outcome %d, state %d, want pending in state %d", cdb.Describe(c.CDB), out, c.state, want)
	}
	return c
}

// TestLateWrite: after Abort of a write that the store has, whatever overlaps it waits until the store ends
// it, of whichever nexus; all else goes on.
func TestLateWrite(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{})
	b := r.attach("iqn.2024-01.example:b")
	r.st.hold = true
	late := r.started(r.write(r.nx, 100, 8, 'L'), atStore)
	if r.lu.Abort(late) {
		t.Fatal("a write that the store has has ended")
	}
	if r.lu.InDoubt() != 1 {
		t.Fatal("in doubt:", r.lu.InDoubt())
	}
	for range r.lu.Pending() {
		t.Fatal("an aborted command is listed as pending")
	}

	ownRead := r.started(r.read(r.nx, 107, 1), waiting)
	otherRead := r.started(r.read(b, 96, 5), waiting)
	otherWrite := r.started(r.write(b, 107, 8, 'W'), waiting)
	noWait := r.read(b, 100, 1)
	noWait.NoWait = true
	r.st.hold = false // even if the store would answer at once
	if out := r.start(noWait); out != WouldBlock {
		t.Fatal("a read that would not wait:", out)
	}
	r.want(r.do(transfer(cdb.Read10, 115, 7, 0), nil), "good")
	r.want(r.do(transfer(cdb.Write10, 95, 1, 0), make([]byte, 512)), "good")
	if got := r.host.turn(); len(got) != 0 {
		t.Fatalf("%d commands ended with the late write still out", len(got))
	}
	r.st.end(0)
	ended := r.host.turn()
	want := []*Command{late, ownRead, otherRead, otherWrite}
	if len(ended) != len(want) {
		t.Fatalf("%d commands ended, want %d", len(ended), len(want))
	}
	for i := range want {
		if ended[i] != want[i] {
			t.Fatalf("command %d to end: %s", i, cdb.Describe(ended[i].CDB))
		}
	}
	if ownRead.Data[0] != 'L' || otherRead.Data[4*512] != 'L' || otherRead.Data[3*512] != 0 {
		t.Fatal("the reads behind the late write do not see it")
	}
	if r.lu.InDoubt() != 0 || r.lu.index.n != 0 || len(r.lu.pending) != 0 || r.nx.pending != 0 || b.pending != 0 {
		t.Fatal("something is left over")
	}
	if got := r.do(transfer(cdb.Read10, 107, 1, 0), nil); got.Data[0] != 'W' {
		t.Fatal("the write behind the late one is not on top of it")
	}
}

// TestLateRead: nobody looks at what an aborted read brings, so writes need not wait for it.
func TestLateRead(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{})
	r.st.hold = true
	late := r.started(r.read(r.nx, 100, 8), atStore)
	behind := r.started(r.write(r.nx, 100, 1, 'W'), waiting)
	if r.lu.Abort(late) {
		t.Fatal("a read that the store has has ended")
	}
	if len(r.host.ended) != 0 {
		t.Fatal("Done was called from within Abort")
	}
	r.st.dead[&late.req] = true
	r.host.turn()
	if behind.state != atStore {
		t.Fatal("the write waits for a read that was aborted")
	}
	r.st.end(1)
	if got := r.host.turn(); len(got) != 1 || got[0] != behind {
		t.Fatal("the write did not end")
	}
	r.st.end(0)
	if got := r.host.turn(); len(got) != 1 || got[0] != late || r.lu.InDoubt() != 0 {
		t.Fatal("the read did not end")
	}
}

// TestAbortWaiting: a command that never got to the store ends with Abort, and those behind it go on.
func TestAbortWaiting(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{})
	r.st.hold = true
	prepared := r.write(r.nx, 0, 8, 0)
	if !r.lu.Prepare(prepared) || !r.lu.Abort(prepared) {
		t.Fatal("a command that was only prepared did not end")
	}
	first := r.started(r.read(r.nx, 0, 8), atStore)
	second := r.started(r.write(r.nx, 0, 8, 2), waiting)
	third := r.started(r.read(r.nx, 4, 8), waiting)
	if !r.lu.Abort(second) {
		t.Fatal("a waiting write did not end")
	}
	if third.state != queued || len(r.host.ended) != 0 {
		t.Fatalf("the read behind it is in state %d, and %d commands ended within Abort", third.state, len(r.host.ended))
	}
	r.host.turn()
	if third.state != atStore {
		t.Fatal("the read behind it did not go on")
	}
	if !r.lu.Abort(r.started(r.write(r.nx, 9, 1, 3), waiting)) {
		t.Fatal("a waiting write did not end")
	}
	r.st.end(0)
	r.st.end(0)
	if got := r.host.turn(); len(got) != 2 || got[0] != first || got[1] != third {
		t.Fatalf("%d commands ended", len(got))
	}
	if len(r.st.pages) != 0 {
		t.Fatal("an aborted write was applied")
	}
}

// TestAbortQueued: the same for one that waits for room at the store.
func TestAbortQueued(t *testing.T) {
	st := newTestStore(t, 1<<20)
	st.info.MaxInFlight = 1
	r := newRig(t, st, DiskConfig{})
	st.hold = true
	a := r.started(r.write(r.nx, 0, 1, 'a'), atStore)
	b := r.started(r.write(r.nx, 1, 1, 'b'), queued)
	c := r.started(r.write(r.nx, 2, 1, 'c'), queued)
	d := r.started(r.write(r.nx, 3, 1, 'd'), queued)
	if !r.lu.Abort(b) || !r.lu.Abort(d) {
		t.Fatal("a queued write did not end")
	}
	e := r.started(r.write(r.nx, 4, 1, 'e'), queued)
	for _, want := range []*Command{a, c, e} {
		st.end(0)
		if got := r.host.turn(); len(got) != 1 || got[0] != want {
			t.Fatal("another command ended than was to come next")
		}
	}
	if len(st.held) != 0 || len(r.lu.pending) != 0 {
		t.Fatal("something is left over")
	}
}

// TestFlushBehindLateWrite: SYNCHRONIZE CACHE waits for the writes in its range that were aborted but may still be
// applied, and for no others.
func TestFlushBehindLateWrite(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{})
	r.st.hold = true
	sync := func(lba uint64, blocks uint32, b1 byte) *Command {
		return r.cmd(transfer(cdb.SynchronizeCache10, lba, blocks, b1), nil)
	}
	late := r.started(r.write(r.nx, 100, 8, 'L'), atStore)
	live := r.started(r.write(r.nx, 0, 8, 'l'), atStore)
	early := r.started(sync(0, 0, 0), atStore) // nothing is in doubt yet
	r.lu.Abort(late)
	whole := r.started(sync(0, 0, 0), waiting)
	over := r.started(sync(107, 1, immed), waiting) // IMMED or not
	rest := r.started(sync(50, 0, 0), waiting)      // to the end of the medium
	beside := r.started(sync(0, 100, 0), atStore)
	gone := r.started(sync(0, 0, 0), waiting)
	if !r.lu.Abort(gone) {
		t.Fatal("a waiting flush did not end")
	}

	flushes := 0
	for _, h := range r.st.held {
		if h.Op == backstore.Flush {
			flushes++
		}
	}
	if flushes != 2 {
		t.Fatalf("%d flushes at the store, want 2", flushes)
	}
	r.st.end(0) // the late write
	if got := r.host.turn(); len(got) != 1 || got[0] != late || whole.state != atStore || over.state != atStore {
		t.Fatal("the flushes did not go on behind the late write")
	}
	for len(r.st.held) > 0 {
		r.st.end(0)
	}
	if got := r.host.turn(); len(got) != 6 || r.lu.index.n != 0 {
		t.Fatalf("%d commands ended, %d entries left", len(got), r.lu.index.n)
	}
	for _, c := range []*Command{live, early, whole, over, rest, beside} {
		r.want(c, "good")
	}
}

// cancelStore takes requests back when it is told to.
type cancelStore struct{ *testStore }

func (s cancelStore) Cancel(r *backstore.Request) bool {
	for i, h := range s.held {
		if h == r {
			s.held = append(s.held[:i], s.held[i+1:]...)
			r.Err = &backstore.Error{Class: backstore.ClassCancelled, Op: r.Op.String()}
			r.C.Complete(r)
			return true
		}
	}
	return false
}

// TestAbortCancels: a store that can take a request back is asked to, and the end comes the usual way.
func TestAbortCancels(t *testing.T) {
	st := newTestStore(t, 1<<20)
	st.info.Caps |= backstore.CapCancel
	host := &testHost{}
	lu, err := NewDisk(cancelStore{st}, host, DiskConfig{})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{TB: t, st: st, host: host, lu: lu}
	r.nx = r.attach("iqn.2024-01.example:a")
	st.hold = true
	c := r.started(r.write(r.nx, 0, 1, 'x'), atStore)
	if lu.Abort(c) || len(host.ended) != 0 {
		t.Fatal("the command ended within Abort")
	}
	if got := host.turn(); len(got) != 1 || got[0] != c || lu.InDoubt() != 0 {
		t.Fatal("the command did not end")
	}
}

// TestReset: the host's LOGICAL UNIT RESET: abort what is pending, then a unit attention for everyone.
func TestReset(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{})
	b := r.attach("iqn.2024-01.example:b")
	r.st.hold = true
	r.started(r.write(r.nx, 0, 8, 1), atStore)
	r.started(r.write(b, 4, 8, 2), waiting)
	r.started(r.read(b, 6, 1), waiting)
	r.started(r.read(b, 50, 1), atStore)
	seen := 0
	for c := range r.lu.Pending() {
		seen++
		r.lu.Abort(c)
	}
	r.lu.Reset(sense.DeviceReset)
	if seen != 4 || r.lu.InDoubt() != 2 {
		t.Fatalf("%d pending, %d in doubt; want 4 and 2", seen, r.lu.InDoubt())
	}
	for _, nx := range []*NexusLU{r.nx, b} {
		c := r.cmd(make([]byte, 6), nil)
		c.Nexus = nx
		r.start(c)
		r.want(c, "06/29/03")
		r.start(c)
		r.want(c, "good")
	}
}

// TestSharedVolume: where others write the volume past this LU, in doubt is not enough.
func TestSharedVolume(t *testing.T) {
	st := newTestStore(t, 1<<20)
	if newRig(t, st, DiskConfig{}).lu.AbortNeedsEnd() {
		t.Fatal("a volume of our own")
	}
	st.info.Shared = true
	if !newRig(t, st, DiskConfig{}).lu.AbortNeedsEnd() {
		t.Fatal("a shared volume")
	}
	st.info.BlockSize = 4096
	if _, err := NewDisk(st, &testHost{}, DiskConfig{}); err == nil {
		t.Fatal("read-modify-write on a shared volume")
	}
}
