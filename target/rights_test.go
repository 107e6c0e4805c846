package target

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// named is a session of another initiator than the rig's.
func (r *rig) named(name string, n byte) *initiator.Session {
	r.t.Helper()
	o := r.options(n)
	o.InitiatorName = name
	s, err := initiator.Login(r.ctx(), o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { s.Close() })
	r.ready(s)
	return s
}

// MUST 7143 §11.5.1: a function for which the initiator has no authorization is answered so, and does nothing
//
// What ends the tasks of others is refused, also to a session that is there already; what ends its own is not.
func TestNoReset(t *testing.T) {
	r := newRig(t, Config{}, "write hang count=1")
	const meek = "iqn.2026-11.example:meek"
	other, s := r.login(1), r.named(meek, 2)
	r.admit(Rule{Initiator: meek, NoReset: true}, Rule{Initiator: "*"})
	task := r.hangs(other, 0, 1)
	for _, f := range []sam.TMF{sam.TargetWarmReset, sam.TargetColdReset, sam.LogicalUnitReset, sam.ClearTaskSet} {
		r.function(s, f, nil, pdu.AuthorizationFailed)
	}
	r.conditions(s)
	select {
	case <-task.Done():
		t.Fatal("the task of another initiator has ended")
	default:
	}
	r.function(s, sam.AbortTaskSet, nil, pdu.FunctionComplete)
	fresh := r.named(meek, 3)
	r.function(fresh, sam.TargetWarmReset, nil, pdu.AuthorizationFailed)
	r.store.Release()
	if res, err := task.Wait(r.ctx()); err != nil || res.Status != sam.Good {
		t.Fatal(res.Status, err)
	}
	r.conditions(other) // nothing was reset
	// The right comes back to the session, and goes with the rule that admits, not with the name.
	r.admit(Rule{Initiator: "*"}, Rule{Initiator: meek, NoReset: true})
	r.function(s, sam.LogicalUnitReset, nil, pdu.FunctionComplete)
	r.conditions(other, 0x2903)
}

// TestReadOnly: an initiator that may only read, beside one that may write, over the wire: writes of every way that data comes end WRITE
// PROTECTED, MODE SENSE says WP, and a change reaches the session that is there, with a unit attention.
func TestReadOnly(t *testing.T) {
	r := newRig(t, Config{}, "")
	const reader = "iqn.2026-11.example:reader"
	writer, s := r.login(1), r.named(reader, 2)
	r.write(s, 0, block('a', 8))
	wp := func(s *initiator.Session) bool {
		res, err := s.Command(r.ctx(), lun1, []byte{0x1a, 0, 0x3f, 0, 64, 0}, nil, 64)
		if err != nil || res.Status != sam.Good {
			t.Fatal(err, res.Err())
		}
		return res.Data[2]&0x80 != 0
	}
	refused := func(s *initiator.Session, cdb, data []byte) {
		t.Helper()
		res, err := s.Command(r.ctx(), lun1, cdb, data, 0)
		if err != nil {
			t.Fatal(err)
		}
		if key, asc, ascq, _ := initiator.SenseFields(res.Sense); res.Status != sam.CheckCondition || key != 7 || asc != 0x27 || ascq != 0 {
			t.Errorf("% x: %v %x", cdb, res.Status, res.Sense)
		}
	}
	r.admit(Rule{Initiator: reader, ReadOnly: true}, Rule{Initiator: "*"})
	if got := r.next(s, lun1); got != 0x2a01 {
		t.Errorf("condition %04x, want 2a01", got)
	}
	r.conditions(writer)
	for _, n := range []int{1, 8, 512, 4096} {
		refused(s, write10(0, uint16(n)), block('x', n))
	}
	refused(s, []byte{0x15, 0x10, 0, 0, 16, 0}, append([]byte{3: 0}, 0x0a, 0x0a, 0, 0, 0x08, 0, 0, 0, 0, 0, 0, 0)) // MODE SELECT, SWP
	pr := make([]byte, 24)
	binary.BigEndian.PutUint64(pr[8:], 1)
	refused(s, []byte{0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0}, pr)
	refused(s, []byte{0x16, 0, 0, 0, 0, 0}, nil)
	if !wp(s) || wp(writer) {
		t.Errorf("WP: the reader's %v, the writer's %v", wp(s), wp(writer))
	}
	if !bytes.Equal(r.read(s, 0, 8), block('a', 8)) {
		t.Error("a refused write has changed the medium")
	}
	r.write(writer, 0, block('b', 8))
	if !bytes.Equal(r.read(s, 0, 8), block('b', 8)) {
		t.Error("the reader does not see what was written")
	}
	fresh := r.named(reader, 3)
	refused(fresh, write10(0, 8), block('x', 8))
	if !wp(fresh) {
		t.Error("WP is not set for a session that came later")
	}
	// A rule that is gone leaves the session what it had; one that admits it again counts.
	r.admit(Rule{Initiator: "iqn.nobody"})
	refused(s, write10(0, 8), block('x', 8))
	r.admit(Rule{Initiator: "*"})
	r.next(s, lun1)
	r.write(s, 0, block('c', 8))
	if wp(s) {
		t.Error("WP is still set")
	}
}
