package admin

import (
	"testing"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// A disk with tgt's names is given another volume while it is offline, comes online with it, and can be changed from then on.
func TestTgtDiskGetsAnotherVolume(t *testing.T) {
	r := newRig(t, &testState{})
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", Access: everybody()})
	r.ok(err)
	first, second := volume(t, "first"), volume(t, "second")
	ref := Ref{TID: 1}
	_, err = r.AddLUN(r.ctx(), ref, spec.LUN{Number: 1, Volume: first, TgtNaming: true}, false)
	r.ok(err)
	edit := func(f func(*spec.LUN)) {
		t.Helper()
		r.ok(r.EditLUN(r.ctx(), ref, 1, func(l *spec.LUN) error { f(l); return nil }))
	}
	edit(func(l *spec.LUN) { l.Offline = true })
	edit(func(l *spec.LUN) { l.Volume = second })
	edit(func(l *spec.LUN) { l.Offline = false })
	edit(func(l *spec.LUN) { l.Vendor = "V" })
	st, err := r.Target(ref, true)
	r.ok(err)
	if l := st.Live.LUNs[1]; !l.Online || st.Spec.LUNs[0].Volume != second {
		t.Errorf("online %v with %s", l.Online, st.Spec.LUNs[0].Volume)
	}
}

// A size that is no multiple of a block is a mistake of the caller's, not something that the store cannot.
func TestResizeToNoSize(t *testing.T) {
	r := newRig(t, &testState{})
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", LUNs: []spec.LUN{{Number: 1, Volume: volume(t, "disk")}}})
	r.ok(err)
	_ = r.refused(Invalid, func() error { _, err := r.ResizeLUN(r.ctx(), Ref{TID: 1}, 1, 1000, false); return err })
}
