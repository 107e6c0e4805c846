package admin

import (
	"testing"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// A volume is put behind a second target, as tgt's users do for a second path: one that has no disk yet comes onto the loop of the
// first, and one that has stays where it is.
func TestSecondTargetOfAVolume(t *testing.T) {
	state := &testState{}
	r := newRig(t, state)
	v, own := volume(t, "disk"), volume(t, "own")
	for _, name := range []string{"a", "b", "c"} {
		_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + name, Access: everybody()})
		r.ok(err)
	}
	add := func(name string, lun uint16, volume string) error {
		_, err := r.AddLUN(r.ctx(), Ref{Name: iqn + name}, spec.LUN{Number: lun, Volume: volume}, false)
		return err
	}
	r.ok(add("a", 1, v))
	r.ok(add("b", 1, v))
	a, b := r.byName[iqn+"a"], r.byName[iqn+"b"]
	if !b.live.SharesLoop(a.live) {
		t.Error("one volume on two loops")
	}
	if got, want := len(r.Document().Targets), 3; got != want {
		t.Errorf("%d targets, want %d", got, want)
	}
	first, err := r.Target(Ref{Name: iqn + "a"}, false)
	r.ok(err)
	second, err := r.Target(Ref{Name: iqn + "b"}, false)
	r.ok(err)
	if first.Spec.LUNs[0].Identity != second.Spec.LUNs[0].Identity || second.Spec.Access[0].Address != "ALL" {
		t.Errorf("%+v\n%+v", first.Spec, second.Spec)
	}
	r.ok(add("c", 1, own))
	r.refused(Unsupported, func() error { return add("c", 2, v) })
	// What joined lives on alone.
	r.ok(r.RemoveTarget(r.ctx(), Ref{Name: iqn + "a"}, false))
	r.ok(r.RemoveLUN(r.ctx(), Ref{Name: iqn + "b"}, 1, false))
	r.ok(add("b", 2, v))
	r.ok(r.Close())
	again := newRig(t, state)
	if got, err := again.Target(Ref{Name: iqn + "b"}, true); err != nil || len(got.Spec.LUNs) != 1 || got.Spec.LUNs[0].Number != 2 {
		t.Errorf("after a restart: %+v, %v", got.Spec, err)
	}
}

// The target whose loop another one is to join can go at any moment. Then the other one is where it was, and as good as before.
func TestJoinNobody(t *testing.T) {
	r := newRig(t, &testState{})
	v := volume(t, "disk")
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", LUNs: []spec.LUN{{Number: 1, Volume: v}}})
	r.ok(err)
	_, err = r.AddTarget(r.ctx(), spec.Target{Name: iqn + "b", Access: everybody()})
	r.ok(err)
	r.ok(r.byName[iqn+"a"].live.Remove(r.ctx(), true)) // the service does not know of it yet
	r.refused(OpenFailed, func() error {
		_, err := r.AddLUN(r.ctx(), Ref{TID: 2}, spec.LUN{Number: 1, Volume: v}, false)
		return err
	})
	_, err = r.AddLUN(r.ctx(), Ref{TID: 2}, spec.LUN{Number: 1, Volume: "mem:?size=1M"}, false)
	r.ok(err)
	if s, err := r.Target(Ref{TID: 2}, true); err != nil || !s.Live.Ready || len(s.Live.LUNs) != 2 {
		t.Errorf("%+v, %v", s, err)
	}
}
