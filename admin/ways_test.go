package admin

import (
	"testing"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// One volume behind several numbers of a target is one disk with several ways to it, whether the numbers come one by one, all at once,
// or with a restart.
func TestSeveralWays(t *testing.T) {
	st := &testState{}
	r := newRig(t, st)
	one, two := volume(t, "one"), volume(t, "two")
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", LUNs: []spec.LUN{{Number: 1, Volume: one}}})
	r.ok(err)
	_, err = r.AddLUN(r.ctx(), Ref{TID: 1}, spec.LUN{Number: 7, Volume: one}, false)
	r.ok(err)
	_, err = r.AddTarget(r.ctx(), spec.Target{Name: iqn + "b", LUNs: []spec.LUN{{Number: 1, Volume: two}, {Number: 2, Volume: "mem:?size=1M"}, {Number: 3, Volume: two}}})
	r.ok(err)
	r.refused(OpenFailed, func() error {
		_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "c", LUNs: []spec.LUN{{Number: 1, Volume: two}, {Number: 2, Volume: two}, {Number: 3, Volume: "file:///nowhere/at/all"}}})
		return err
	})
	same := func(r *rig, tid, a, b int) {
		t.Helper()
		s, err := r.Target(Ref{TID: tid}, true)
		r.ok(err)
		if x, y := s.Live.LUNs[a], s.Live.LUNs[b]; x.NAA != y.NAA || x.Identity != y.Identity || x.Identity == "" || s.Spec.LUNs[a-1].Identity != s.Spec.LUNs[b-1].Identity {
			t.Errorf("%+v and %+v are two disks", x, y)
		}
		if len(s.Faults) != 0 {
			t.Error(s.Faults)
		}
	}
	same(r, 1, 1, 2)
	same(r, 2, 1, 3)
	want := r.Document()
	r.ok(r.Manager.Close())
	again := newRig(t, st)
	if c := spec.Changes(want, again.Document()); c != "" {
		t.Error("after a restart:", c)
	}
	same(again, 1, 1, 2)
	same(again, 2, 1, 3)
	// Each is the last one once.
	r.ok(again.RemoveLUN(again.ctx(), Ref{TID: 1}, 1, false))
	r.ok(again.RemoveLUN(again.ctx(), Ref{TID: 1}, 7, false))
	r.ok(again.RemoveTarget(again.ctx(), Ref{TID: 2}, false))
	_, err = again.AddTarget(again.ctx(), spec.Target{Name: iqn + "d", LUNs: []spec.LUN{{Number: 1, Volume: one}, {Number: 2, Volume: two}}})
	r.ok(err)
}
