package scsi

import (
	"slices"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// with returns c with a task attribute.
func with(a sam.TaskAttribute, c *Command) *Command {
	c.Attr = a
	return c
}

// TestTaskAttributes: who waits for whom (SAM-5 §8), step by step.
func TestTaskAttributes(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{})
	b := r.attach("iqn.2024-01.example:b")
	r.st.hold = true
	end := func(c *Command) {
		t.Helper()
		for i, q := range r.st.held {
			if q.Owner == c {
				r.st.end(i)
				r.host.turn()
				return
			}
		}
		t.Fatalf("%s is not at the store", cdb.Describe(c.CDB))
	}
	states := func(want cmdState, list ...*Command) {
		t.Helper()
		for i, c := range list {
			if c.state != want {
				t.Fatalf("command %d is in state %d, want %d", i, c.state, want)
			}
		}
	}
	s1 := r.started(r.write(r.nx, 0, 1, 'a'), atStore)
	s2 := r.started(r.write(b, 8, 1, 'b'), atStore)
	o := r.started(with(sam.Ordered, r.read(b, 16, 1)), dormant)
	s3 := r.started(r.read(r.nx, 24, 1), dormant)
	o2 := r.started(with(sam.Ordered, r.read(r.nx, 32, 1)), dormant)
	s4 := r.started(r.read(b, 40, 1), dormant)
	tur := r.started(&Command{Nexus: r.nx, CDB: []byte{cdb.TestUnitReady, 0, 0, 0, 0, 0}}, dormant)

	// HEAD OF QUEUE goes ahead of all of them, also of those that could go on once s1 and s2 are over.
	h := r.started(with(sam.HeadOfQueue, r.read(b, 48, 1)), atStore)
	noWait := r.read(r.nx, 56, 1)
	if noWait.NoWait = true; r.start(noWait) != WouldBlock || noWait.state != idle {
		t.Fatal("a READ that may not wait went ahead of an ORDERED command")
	}
	end(s1)
	end(s2)
	states(dormant, o, s3, o2, s4, tur)
	end(h)
	states(atStore, o)
	states(dormant, s3, o2, s4, tur)
	end(o)
	states(atStore, s3)
	states(dormant, o2, s4, tur)

	// One that is aborted keeps nobody waiting, dormant or enabled.
	if !r.lu.Abort(o2) {
		t.Fatal("a dormant command is aborted at once")
	}
	r.host.turn()
	states(atStore, s3, s4)
	if tur.state != idle || tur.Status != sam.Good || !slices.Contains(r.host.ended, tur) {
		t.Fatal("TEST UNIT READY did not end")
	}
	o3 := r.started(with(sam.Ordered, r.read(b, 64, 1)), dormant)
	end(s3)
	r.lu.Abort(s4)
	r.host.turn()
	states(atStore, o3)
	end(o3)
	end(s4)
	if r.lu.set.gate|r.lu.set.heads|r.lu.set.ordered|r.lu.set.parked|r.lu.set.held != 0 || len(r.lu.pending) != 0 {
		t.Fatalf("left over: %+v", r.lu.set)
	}
}

// TestOrderedBehindDoubt: ORDERED does not wait for an aborted write that the store still has, unless their blocks overlap.
func TestOrderedBehindDoubt(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{})
	r.st.hold = true
	late := r.started(r.write(r.nx, 0, 8, 'l'), atStore)
	apart := r.started(with(sam.Ordered, r.read(r.nx, 8, 8)), dormant)
	touching := r.started(with(sam.Ordered, r.read(r.nx, 7, 1)), dormant)
	r.lu.Abort(late)
	r.host.turn()
	if apart.state != atStore {
		t.Fatal("an ORDERED command waits for a write in doubt elsewhere")
	}
	r.st.end(1)
	if r.host.turn(); touching.state != waiting {
		t.Fatal("an ORDERED command went ahead of a write in doubt to the same block")
	}
	r.st.end(0)
	r.host.turn()
	if r.st.end(0); len(r.host.turn()) != 1 || touching.Buf[0] != 'l' {
		t.Fatal("it does not see the late write")
	}
}

// TestAttributeRefused: the ACA attribute and what is reserved.
func TestAttributeRefused(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{})
	for a := sam.ACA; a < 8; a++ {
		for _, c := range []*Command{r.read(r.nx, 0, 1), {Nexus: r.nx, CDB: []byte{cdb.Inquiry, 0, 0, 0, 36, 0}}} {
			r.start(with(a, c))
			r.want(c, "05/49/00")
		}
	}
	for a := sam.Untagged; a <= sam.HeadOfQueue; a++ {
		c := with(a, r.read(r.nx, 0, 1))
		r.start(c)
		r.want(c, "good")
	}
}

// TestOrderBeforeData: commands of one nexus keep their order though the data of the first comes last; another nexus waits
// for nobody's data.
func TestOrderBeforeData(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{})
	b := r.attach("iqn.2024-01.example:b")
	await := func(c *Command) *Command {
		t.Helper()
		if !r.lu.Prepare(c) {
			t.Fatal(result(c))
		}
		r.lu.Await(c)
		return c
	}
	first := await(r.write(r.nx, 0, 8, '1'))
	second := r.started(r.write(r.nx, 7, 2, '2'), held)
	third := r.started(r.read(r.nx, 8, 1), held)
	apart, other := r.write(r.nx, 64, 1, '3'), r.write(b, 0, 9, 'b')
	for _, c := range []*Command{apart, other} {
		if r.start(c) != Done {
			t.Fatal("it waits for data that does not matter to it")
		}
	}
	ordered := r.started(with(sam.Ordered, r.read(r.nx, 200, 1)), held)
	if head := with(sam.HeadOfQueue, r.read(r.nx, 0, 1)); r.start(head) != Done || head.Data[0] != 'b' {
		t.Fatal("HEAD OF QUEUE waits for data")
	}
	first.Buf = first.Owner.([]byte)
	if r.lu.Execute(first) != Done {
		t.Fatal("the first does not go on when its data is there")
	}
	if got := r.host.turn(); !slices.Equal(got, []*Command{second, third, ordered}) || third.Data[0] != '2' {
		t.Fatalf("%d ended", len(got))
	}
	if c := r.read(r.nx, 0, 9); r.start(c) != Done || c.Data[6*512] != '1' || c.Data[7*512] != '2' {
		t.Fatal("what was written last is not there")
	}
	// A command that goes away before its data is there holds nobody up, nor does one that waits behind it.
	first = await(r.write(r.nx, 0, 8, '1'))
	second, third = r.started(r.write(r.nx, 0, 1, '2'), held), r.started(r.read(r.nx, 0, 1), held)
	if !r.lu.Abort(second) || !r.lu.Abort(first) {
		t.Fatal("not aborted at once")
	}
	if got := r.host.turn(); !slices.Equal(got, []*Command{third}) || third.Data[0] != '1' || len(r.nx.early) != 0 {
		t.Fatal("a command waits for one that is gone")
	}
}

// TestModesWhileWaiting: mode parameters that change while a WRITE waits, for its data or for others to end, hold for it.
func TestModesWhileWaiting(t *testing.T) {
	const wceOff, swp = "00000000 0812 00 0000000000000000000000000000000000", "00000000 0a0a 00 00 08 00 0000 0258 0000"
	for _, fua := range []bool{true, false} {
		for _, parked := range []bool{true, false} {
			for _, list := range []string{wceOff, swp} {
				st := newTestStore(t, 1<<20)
				if !fua {
					st.info.Caps &^= backstore.CapFUA
				}
				r := newRig(t, st, DiskConfig{})
				b := r.attach("iqn.2024-01.example:b")
				w := r.write(r.nx, 0, 8, 1)
				if !r.lu.Prepare(w) {
					t.Fatal(result(w))
				}
				w.Buf = w.Owner.([]byte)
				if parked {
					st.hold = true
					r.started(with(sam.Ordered, r.read(b, 64, 1)), atStore)
					if r.lu.Execute(w) != Pending || w.state != dormant {
						t.Fatal("state", w.state)
					}
					st.hold = false
				} else {
					r.lu.Await(w)
				}
				set := r.cmd(select6(len(unhex(t, list))), unhex(t, list))
				set.Nexus, set.Attr = b, sam.HeadOfQueue
				if r.start(set) != Done {
					t.Fatal("MODE SELECT went pending")
				}
				r.want(set, "good")
				st.ops = nil
				durable := false
				st.fail = func(q *backstore.Request) error {
					durable = durable || q.Op == backstore.Write && q.Flags&backstore.FUA != 0 || q.Op == backstore.Flush && len(st.ops) == 2
					return nil
				}
				if parked {
					st.end(0)
					r.host.turn()
				} else if r.lu.Execute(w) != Done {
					t.Fatal("the write went pending")
				}
				if list == swp {
					if r.want(w, "07/27/02"); len(st.ops) != 0 {
						t.Fatal("a write to a write-protected medium")
					}
				} else if r.want(w, "good"); !durable {
					t.Fatalf("a write that ended after the cache was turned off is not durable (FUA %v, dormant %v)", fua, parked)
				}
			}
		}
	}
}

// TestHeadOfQueueAtAFullStore: where the store has no room, HEAD OF QUEUE is the next that gets some.
func TestHeadOfQueueAtAFullStore(t *testing.T) {
	st := newTestStore(t, 1<<20)
	st.info.MaxInFlight, st.hold = 1, true
	r := newRig(t, st, DiskConfig{})
	r.started(r.read(r.nx, 0, 1), atStore)
	first := r.started(r.read(r.nx, 8, 1), queued)
	head := r.started(with(sam.HeadOfQueue, r.read(r.nx, 16, 1)), queued)
	newest := r.started(with(sam.HeadOfQueue, r.read(r.nx, 24, 1)), queued)
	for _, want := range []*Command{newest, head, first} {
		st.end(0)
		if r.host.turn(); want.state != atStore {
			t.Fatalf("%v is in state %d", want.Attr, want.state)
		}
	}
	st.end(0)
	r.host.turn()
}
