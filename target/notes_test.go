package target

import (
	"slices"
	"testing"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// Of a flood of lines of one kind some are written in each period, and the first of the next one says how many were not; other kinds
// are written meanwhile.
func TestNotes(t *testing.T) {
	log := &lines{}
	now := int64(1)
	n := notes{log: log, now: func() int64 { return now }}
	for range 3 * noteBurst {
		n.warn(noteLoginFailed, "failed")
	}
	n.warn(noteDropped, "dropped")
	if len(log.text) != noteBurst+1 || n.left() != 2*noteBurst {
		t.Fatalf("%d lines, %d left out", len(log.text), n.left())
	}
	now += int64(notePeriod)
	if ok, skipped := n.allow(noteLoginFailed); !ok || skipped != 2*noteBurst {
		t.Errorf("in the next period: %v, %d were left out", ok, skipped)
	}
	if ok, skipped := n.allow(noteLoginFailed); !ok || skipped != 0 {
		t.Errorf("then: %v, %d were left out", ok, skipped)
	}
}

// Each reason has a name of its own.
func TestReasonNames(t *testing.T) {
	for what, names := range map[string][]string{"drops": DropReasons(), "logins": LoginReasons()} {
		slices.Sort(names)
		if names[0] == "" || len(slices.Compact(slices.Clone(names))) != len(names) {
			t.Errorf("%s: %q", what, names)
		}
	}
	for _, s := range loginStatuses {
		if s.status == pdu.LoginSuccess || s.status.String() == "" || lossOf(s.status, nil) == int(lostOther) {
			t.Errorf("%v is not counted", s.status)
		}
	}
	for i, r := range sessionDrops {
		if (i == 0) != (r == dropNone) {
			t.Errorf("reason %d of a session has no counter", i)
		}
	}
}
