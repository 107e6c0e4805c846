package target

import (
	"bytes"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// TestOrderedOverTheWire: an ORDERED command waits for what came before, and what comes after waits for it, of every nexus; HEAD OF
// QUEUE does not.
func TestOrderedOverTheWire(t *testing.T) {
	r := newRig(t, Config{}, "write hang count=1")
	a, b := r.login(1), r.login(2)
	attr := func(s *initiator.Session, at sam.TaskAttribute, lba uint32) *initiator.Task {
		t.Helper()
		io := &initiator.IO{LUN: lun1, Attr: at, InLen: 512, In: make([]byte, 512)}
		copy(io.CDB[:], read10(lba, 1))
		task, err := s.StartIO(io)
		if err != nil {
			t.Fatal(err)
		}
		return task
	}
	hung := r.hangs(a, 0, 1)
	ordered := attr(b, sam.Ordered, 64)
	if _, err := b.Ping(r.ctx(), nil); err != nil {
		t.Fatal(err)
	}
	later := attr(a, sam.Simple, 72)
	for _, s := range []*initiator.Session{a, b} {
		if res, err := attr(s, sam.HeadOfQueue, 80).Wait(r.ctx()); err != nil || res.Err() != nil {
			t.Fatal("HEAD OF QUEUE:", err, res.Err())
		}
	}
	if done(ordered) || done(later) {
		t.Fatal("a command went ahead of what it has to wait for")
	}
	r.function(a, sam.AbortTask, hung, pdu.FunctionComplete)
	for _, task := range []*initiator.Task{ordered, later} {
		if res, err := task.Wait(r.ctx()); err != nil || res.Err() != nil {
			t.Fatal(err, res.Err())
		}
	}
	r.store.Release()
}

// TestOrderOfOverlappingWrites: two writes of one initiator to one block end as if one had followed the other, though the data of the
// first comes last; another initiator does not wait for that data.
func TestOrderOfOverlappingWrites(t *testing.T) {
	r := newRig(t, Config{}, "")
	other := r.login(2)
	c := r.rawLogin(1)
	c.Timeout = testWait
	if _, err := c.ReadCommand(lun1, initiator.TestUnitReady(), 0); err != nil {
		t.Fatal(err)
	}
	first := c.CommandHeader(lun1, write10(0, 8), false, true, 4096)
	if err := c.Send(first, nil); err != nil {
		t.Fatal(err)
	}
	p, err := c.Expect(pdu.OpR2T)
	if err != nil {
		t.Fatal(err)
	}
	second := c.CommandHeader(lun1, write10(0, 8), false, true, 4096)
	if err := c.Send(second, block('2', 8)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Ping(nil); err != nil {
		t.Fatal(err)
	}
	r.write(other, 4, block('o', 1))
	if err := c.DataOut(lun1, first.ITT(), p.TTT(), 0, 0, block('1', 8), true); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*pdu.Header{first, second} {
		if res, err := c.Finish(h.ITT()); err != nil || res.Err() != nil {
			t.Fatal(err, res.Err())
		}
	}
	if got := r.read(other, 0, 8); !bytes.Equal(got, block('2', 8)) {
		t.Fatalf("what was written last is not there: %q", got[:1])
	}
}

// TestOrderBehindBacklog: a READ that waits because its initiator does not read keeps its place ahead of a WRITE of that initiator to
// the same block.
func TestOrderBehindBacklog(t *testing.T) {
	const n, blocks = 16, 4096
	r := newRig(t, Config{MaxBacklog: 64 << 10}, "")
	r.write(r.login(2), 0, block('o', 8))
	c := r.rawLogin(1)
	c.Timeout = testWait
	if _, err := c.ReadCommand(lun1, initiator.TestUnitReady(), 0); err != nil {
		t.Fatal(err)
	}
	var reads []*pdu.Header
	for range n {
		h := c.CommandHeader(lun1, read10(0, blocks), true, false, blocks*512)
		if err := c.Send(h, nil); err != nil {
			t.Fatal(err)
		}
		reads = append(reads, h)
	}
	w := c.CommandHeader(lun1, write10(0, 1), false, true, 512)
	if err := c.Send(w, block('n', 1)); err != nil {
		t.Fatal(err)
	}
	r.ready(r.login(3)) // all of it has been looked at
	for i, h := range reads {
		res, err := c.Finish(h.ITT())
		if err != nil || res.Err() != nil {
			t.Fatal(err, res.Err())
		}
		if res.Data[0] != 'o' {
			t.Fatalf("READ %d of %d was overtaken by the WRITE behind it", i, n)
		}
	}
	if res, err := c.Finish(w.ITT()); err != nil || res.Err() != nil {
		t.Fatal(err, res.Err())
	}
}
