package target

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// hangs starts a write that the store does not end and waits until the store has n.
func (r *rig) hangs(s *initiator.Session, lba uint32, n int) *initiator.Task {
	r.t.Helper()
	task, err := s.Start(lun1, write10(lba, 8), block('h', 8), 0)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.store.Wait(r.ctx(), n); err != nil {
		r.t.Fatal(err)
	}
	return task
}

// function sends a task management function and wants a response.
func (r *rig) function(s *initiator.Session, f sam.TMF, task *initiator.Task, want pdu.TMFResponse) {
	r.t.Helper()
	if resp, err := s.TaskManagement(r.ctx(), f, lun1, task); err != nil || resp != want {
		r.t.Fatalf("%v: %v, %v, want %v", f, resp, err, want)
	}
}

// next sends TEST UNIT READY and returns the condition that it was told: the additional sense code with its qualifier, 0 for none.
func (r *rig) next(s *initiator.Session, lun sam.LUN) int {
	r.t.Helper()
	res, err := s.Command(r.ctx(), lun, initiator.TestUnitReady(), nil, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	if res.Status == sam.Good {
		return 0
	}
	key, asc, ascq, _ := initiator.SenseFields(res.Sense)
	if key != 6 {
		r.t.Fatalf("%v", res.Err())
	}
	return int(asc)<<8 | int(ascq)
}

func (r *rig) conditions(s *initiator.Session, want ...int) {
	r.t.Helper()
	for _, w := range append(want, 0) {
		if got := r.next(s, lun1); got != w {
			r.t.Fatalf("condition %04x, want %04x", got, w)
		}
	}
}

// setTAS sets or clears TAS in the control mode page.
func (r *rig) setTAS(s *initiator.Session, on bool) {
	r.t.Helper()
	list := make([]byte, 4+12)
	list[4], list[5] = 0x0a, 0x0a
	binary.BigEndian.PutUint16(list[4+8:], 600)
	if on {
		list[4+5] = 0x40
	}
	res, err := s.Command(r.ctx(), lun1, []byte{cdb.ModeSelect6, 0x10, 0, 0, byte(len(list)), 0}, list, 0)
	if err != nil || res.Err() != nil {
		r.t.Fatal(err, res.Err())
	}
}

func aborted(r *rig, task *initiator.Task) {
	r.t.Helper()
	if _, err := task.Wait(r.ctx()); !errors.Is(err, initiator.ErrAborted) {
		r.t.Fatal("a task that the function ended:", err)
	}
}

// TestClearTaskSet: CLEAR TASK SET takes away the tasks of every nexus at the unit. With TAS, as by default, the others whose tasks these were hear
// of it by the tasks' status, without by a unit attention; who had none hears nothing.
func TestClearTaskSet(t *testing.T) {
	for _, tas := range []bool{false, true} {
		r := newRig(t, Config{}, "write hang count=2")
		mine, other, bystander := r.login(1), r.login(2), r.login(3)
		r.setTAS(mine, tas)
		r.ready(other)
		r.ready(bystander)
		own, theirs := r.hangs(mine, 0, 1), r.hangs(other, 8, 2)
		waiting, err := other.Start(lun1, write10(9, 1), block('w', 1), 0) // behind its own
		if err != nil {
			t.Fatal(err)
		}
		r.ready(other)

		r.function(mine, sam.ClearTaskSet, nil, pdu.FunctionComplete)
		aborted(r, own)
		if tas {
			for _, task := range []*initiator.Task{theirs, waiting} {
				if res, err := task.Wait(r.ctx()); err != nil || res.Status != sam.TaskAborted {
					t.Fatal("with TAS:", err, res.Status)
				}
			}
			r.conditions(other)
		} else {
			r.conditions(other, 0x2f00)
			if done(theirs) || done(waiting) {
				t.Fatal("a task that another nexus ended was answered")
			}
		}
		r.conditions(mine)
		r.conditions(bystander)

		// What was aborted never shows over what comes later.
		over, err := bystander.Start(lun1, write10(0, 24), block('n', 24), 0)
		if err != nil {
			t.Fatal(err)
		}
		r.store.Release()
		if res, err := over.Wait(r.ctx()); err != nil || res.Err() != nil {
			t.Fatal(err, res.Err())
		}
		if got := r.read(mine, 0, 24); !bytes.Equal(got, block('n', 24)) {
			t.Fatal("a cleared write undid a later one")
		}
	}
}

// TestTaskAbortedByPreempt: PREEMPT AND ABORT with TAS answers the preempted nexus's commands TASK ABORTED.
func TestTaskAbortedByPreempt(t *testing.T) {
	for _, tas := range []bool{false, true} {
		r := newRig(t, Config{}, "write hang count=1")
		mine, other := r.login(1), r.login(2)
		r.setTAS(mine, tas)
		r.ready(other)
		prout := func(s *initiator.Session, action, kind byte, key, victim uint64) {
			t.Helper()
			list := make([]byte, 24)
			binary.BigEndian.PutUint64(list, key)
			binary.BigEndian.PutUint64(list[8:], victim)
			res, err := s.Command(r.ctx(), lun1, []byte{cdb.PersistentOut, action, kind, 0, 0, 0, 0, 0, 24, 0}, list, 0)
			if err != nil || res.Err() != nil {
				t.Fatal(err, res.Err())
			}
		}
		prout(mine, 0, 0, 0, 1)
		prout(other, 0, 0, 0, 2)
		prout(other, 1, 5, 2, 0)
		task := r.hangs(other, 0, 1)
		prout(mine, 5, 5, 1, 2)
		if tas {
			if res, err := task.Wait(r.ctx()); err != nil || res.Status != sam.TaskAborted {
				t.Fatal("with TAS:", err, res.Status)
			}
			r.conditions(other, 0x2a05)
		} else {
			r.conditions(other, 0x2a05, 0x2f00)
			if done(task) {
				t.Fatal("a preempted command was answered")
			}
		}
		r.store.Release()
	}
}

// TestResets: what each reset tells every nexus.
func TestResets(t *testing.T) {
	for f, want := range map[sam.TMF]int{sam.LogicalUnitReset: 0x2903, sam.TargetWarmReset: 0x2902} {
		r := newRig(t, Config{}, "write hang count=2")
		mine, other := r.login(1), r.login(2)
		own, theirs := r.hangs(mine, 0, 1), r.hangs(other, 8, 2)
		r.function(mine, f, nil, pdu.FunctionComplete)
		aborted(r, own)
		r.conditions(other, want)
		r.conditions(mine, want)
		if res, err := theirs.Wait(r.ctx()); err != nil || res.Status != sam.TaskAborted {
			t.Fatalf("%v: another's task: %v, %v", f, res.Status, err)
		}
		r.store.Release()
	}
}

// MUST 7143 §11.5.1: a TARGET COLD RESET ends every session of the target, like a power cycle; the response goes ahead
func TestTargetColdReset(t *testing.T) {
	r := newRig(t, Config{}, "write hang count=2")
	mine, other := r.login(1), r.login(2)
	second, err := r.s.AddTarget(testTarget+".2", TargetConfig{LoopOf: r.tg})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.ShareDisk(1, r.tg, 1); err != nil {
		t.Fatal(err)
	}
	o := r.options(3)
	o.TargetName += ".2"
	elsewhere, err := initiator.Login(r.ctx(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close()
	r.ready(elsewhere)

	theirs := r.hangs(other, 8, 1)
	r.function(mine, sam.TargetColdReset, nil, pdu.FunctionComplete)
	if _, err := theirs.Wait(r.ctx()); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatal("another's session lives:", err)
	}
	for _, err := mine.Ping(r.ctx(), nil); err == nil; _, err = mine.Ping(r.ctx(), nil) {
	}
	r.conditions(elsewhere, 0x2901) // a session of another target hears of what befell its unit, and lives
	r.store.Release()
	again := r.login(1)
	if got := r.read(again, 8, 8); !bytes.Equal(got, block('h', 8)) {
		t.Fatal("the write in doubt, once it has ended, is not seen")
	}
}

// level2 logs initiator port n in with RFC 7144's functions and FastAbort.
func (r *rig) level2(n byte, onAsync func(*initiator.PDU)) *initiator.Session {
	r.t.Helper()
	o, offer := r.options(n), initiator.DefaultOffer()
	offer.ProtocolLevel, offer.TaskReporting = 2, login.ReportFastAbort
	o.Offer, o.OnAsync = &offer, onAsync
	s, err := initiator.Login(r.ctx(), o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { s.Close() })
	if p := s.Params(); p.ProtocolLevel != 2 || p.TaskReporting != login.ReportFastAbort {
		r.t.Fatalf("iSCSIProtocolLevel %d, TaskReporting %d", p.ProtocolLevel, p.TaskReporting)
	}
	r.ready(s)
	return s
}

// TestFunctionsOfRFC7144: the functions that iSCSIProtocolLevel 2 adds, and their absence below it.
func TestFunctionsOfRFC7144(t *testing.T) {
	r := newRig(t, Config{}, "write hang count=2")
	old, s := r.login(1), r.level2(2, nil)
	for f := sam.QueryTask; f <= sam.QueryAsyncEvent; f++ {
		r.function(old, f, nil, pdu.FunctionNotSupported)
	}
	for who, want := range map[*initiator.Session]uint16{old: 0xfa00, s: 0xfe07} { // REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS
		res, err := who.Command(r.ctx(), lun1, []byte{cdb.MaintenanceIn, cdb.ReportTMFs, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0}, nil, 4)
		if err != nil || res.Err() != nil || binary.BigEndian.Uint16(res.Data) != want {
			t.Fatalf("%v, %v, functions %x, want %04x", err, res.Err(), res.Data, want)
		}
	}
	r.function(s, sam.QueryTaskSet, nil, pdu.FunctionComplete)
	r.function(s, sam.QueryAsyncEvent, nil, pdu.FunctionComplete)
	task, theirs := r.hangs(s, 0, 1), r.hangs(old, 8, 2)
	r.function(s, sam.QueryTask, task, pdu.FunctionSucceeded)
	r.function(s, sam.QueryTaskSet, nil, pdu.FunctionSucceeded)
	r.function(s, sam.AbortTask, task, pdu.FunctionComplete)
	r.function(s, sam.QueryTaskSet, nil, pdu.FunctionComplete)

	// I_T NEXUS RESET: RESERVE ends, this nexus alone hears of it, and nobody else loses a task.
	if res, err := s.Command(r.ctx(), lun1, []byte{cdb.Reserve6, 0, 0, 0, 0, 0}, nil, 0); err != nil || res.Err() != nil {
		t.Fatal(err, res.Err())
	}
	r.function(s, sam.ITNexusReset, nil, pdu.FunctionComplete)
	r.function(s, sam.QueryAsyncEvent, nil, pdu.FunctionSucceeded)
	r.conditions(s, 0x2907)
	r.conditions(old)
	r.store.Release()
	if res, err := theirs.Wait(r.ctx()); err != nil || res.Err() != nil {
		t.Fatal("another's task:", err, res.Err())
	}
	r.function(s, sam.ClearACA, nil, pdu.FunctionComplete)
	r.function(s, sam.TaskReassign, nil, pdu.ReassignNotSupported)
}

// MUST 7143 §4.2.3.4: the initiator of another session with FastAbort is told which LU's tasks are being terminated, on each connection that has one
func TestFastAbort(t *testing.T) {
	r := newRig(t, Config{}, "write hang count=1")
	told := make(chan *initiator.PDU, 1)
	mine := r.login(1)
	other := r.level2(2, func(p *initiator.PDU) { told <- p })
	r.hangs(other, 0, 1)
	r.function(mine, sam.LogicalUnitReset, nil, pdu.FunctionComplete)
	select {
	case p := <-told:
		if a := (*pdu.Async)(&p.Header); a.Event() != pdu.AsyncTaskTermination || p.LUN() != lun1 {
			t.Fatalf("event %d for LUN %v", a.Event(), p.LUN())
		}
	case <-r.ctx().Done():
		t.Fatal("it is not told")
	}
	r.conditions(other, 0x2903)
	r.store.Release()
}

// TestLUNsChange: sessions are told by an asynchronous message and a unit attention at each unit that their LUNs are others; REPORT LUNS
// settles it for all units, and what needs no unit attention is not ended by it.
func TestLUNsChange(t *testing.T) {
	r := newRig(t, Config{}, "")
	o := r.options(1)
	told := make(chan *initiator.PDU, 4)
	o.OnAsync = func(p *initiator.PDU) { told <- p }
	s, err := initiator.Login(r.ctx(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	lun2 := sam.NewLUN(2)
	if err := r.tg.AddDisk(2, newStore(t, ""), scsi.DiskConfig{Identity: "second"}); err != nil {
		t.Fatal(err)
	}
	wait := func() {
		t.Helper()
		select {
		case p := <-told:
			key, asc, ascq, ok := initiator.SenseFields(p.Data[2:])
			if a := (*pdu.Async)(&p.Header); a.Event() != pdu.AsyncSCSIEvent || !ok || key != 6 || asc != 0x3f || ascq != 0x0e || p.LUN() != 0 || int(p.Data[1]) != len(p.Data)-2 {
				t.Fatalf("event %d, LUN %v, data %x", a.Event(), p.LUN(), p.Data)
			}
		case <-r.ctx().Done():
			t.Fatal("nobody is told")
		}
	}
	wait()
	r.ready(s)
	r.readyAt(s, lun2)
	if err := r.tg.AddDisk(3, newStore(t, ""), scsi.DiskConfig{Identity: "third"}); err != nil {
		t.Fatal(err)
	}
	wait()
	if res, err := s.Command(r.ctx(), lun1, initiator.Inquiry(36), nil, 36); err != nil || res.Err() != nil {
		t.Fatal("INQUIRY:", err, res.Err())
	}
	if got := r.next(s, lun1); got != 0x3f0e {
		t.Fatalf("%04x", got)
	}
	if res, err := s.Command(r.ctx(), lun1, initiator.ReportLUNs(64), nil, 64); err != nil || res.Err() != nil || binary.BigEndian.Uint32(res.Data) != 4*8 {
		t.Fatal("REPORT LUNS:", err, res.Err(), res.Data)
	}
	if got := r.next(s, lun2); got != 0 {
		t.Fatalf("after REPORT LUNS at another unit: %04x", got)
	}
	// A number that belongs to another unit than it did.
	if err := r.tg.RemoveLUN(r.ctx(), 2, false); err != nil {
		t.Fatal(err)
	}
	wait()
	if err := r.put(2, newStore(t, ""), scsi.DiskConfig{Identity: "another"}, PutOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	wait()
	for _, want := range []int{0x2900, 0x3f03, 0} {
		if got := r.next(s, lun2); got != want {
			t.Fatalf("%04x, want %04x", got, want)
		}
	}
}

// TestDescriptorSense: D_SENSE holds for the faults that the transport tells, too.
func TestDescriptorSense(t *testing.T) {
	for _, on := range []bool{false, true} {
		r := newRig(t, Config{}, "")
		admin, c := r.login(1), r.rawLogin(2)
		c.Timeout = testWait
		list := make([]byte, 4+12)
		list[4], list[5] = 0x0a, 0x0a
		binary.BigEndian.PutUint16(list[4+8:], 600)
		want := byte(0x70)
		if on {
			list[4+2], want = 0x04, 0x72
		}
		if res, err := admin.Command(r.ctx(), lun1, []byte{cdb.ModeSelect6, 0x10, 0, 0, byte(len(list)), 0}, list, 0); err != nil || res.Err() != nil {
			t.Fatal(err, res.Err())
		}
		for range 2 { // unit attentions
			if _, err := c.ReadCommand(lun1, initiator.TestUnitReady(), 0); err != nil {
				t.Fatal(err)
			}
		}
		both := c.CommandHeader(lun1, read10(0, 1), true, true, 512)
		if err := c.Send(both, nil); err != nil {
			t.Fatal(err)
		}
		res, err := c.Finish(both.ITT())
		if key, asc, _, _ := initiator.SenseFields(res.Sense); err != nil || res.Sense[0] != want || key != 5 || asc != 0x24 {
			t.Errorf("a bidirectional command: %v, %x", err, res.Sense)
		}
		short := c.CommandHeader(lun1, write10(0, 8), false, true, 4096)
		if err := c.Send(short, nil); err != nil {
			t.Fatal(err)
		}
		p, err := c.Expect(pdu.OpR2T)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.DataOut(lun1, short.ITT(), p.TTT(), 0, 0, block('s', 1), true); err != nil {
			t.Fatal(err)
		}
		res, err = c.Finish(short.ITT())
		if key, asc, ascq, _ := initiator.SenseFields(res.Sense); err != nil || res.Sense[0] != want || key != 0xb || asc != 0x0c || ascq != 0x0d {
			t.Errorf("less data than was asked for: %v, %x", err, res.Sense)
		}
	}
}
