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

// Volumes of memory and of nothing are each their own, in targets and at LUNs, also where reservations are kept in a folder.
func TestTgtDisksOnNothing(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, &testState{}, func(c *Config) { c.Target.StateDir = dir })
	for _, name := range []string{"a", "b"} {
		disks := []spec.LUN{{Number: 1, Volume: "null:", TgtNaming: true}, {Number: 2, Volume: "null:", TgtNaming: true}, {Number: 3, Volume: "mem:?size=1M", TgtNaming: true}}
		_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + name, Access: everybody(), LUNs: disks})
		r.ok(err)
	}
}

// A size that is no multiple of a block is a mistake of the caller's, not something that the store cannot.
func TestResizeToNoSize(t *testing.T) {
	r := newRig(t, &testState{})
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", LUNs: []spec.LUN{{Number: 1, Volume: volume(t, "disk")}}})
	r.ok(err)
	_ = r.refused(Invalid, func() error { _, err := r.ResizeLUN(r.ctx(), Ref{TID: 1}, 1, 1000, false); return err })
}

// A disk that was read-only when its volume was opened becomes writable where tgt's tools made it, as with tgtd; of another one it is said
// that it cannot.
func TestReadOnlyDiskBecomesWritable(t *testing.T) {
	st := &testState{}
	r := newRig(t, st)
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", LUNs: []spec.LUN{
		{Number: 1, Volume: volume(t, "tgt"), TgtNaming: true, Tgt: &spec.TgtStore{Type: "rdwr"}, ReadOnly: true},
		{Number: 2, Volume: volume(t, "own"), ReadOnly: true}}})
	r.ok(err)
	r.ok(r.Manager.Close())
	r = newRig(t, st)
	writable := func(l *spec.LUN) error { l.ReadOnly = false; return nil }
	r.ok(r.EditLUN(r.ctx(), Ref{TID: 1}, 1, writable))
	_ = r.refused(Unsupported, func() error { return r.EditLUN(r.ctx(), Ref{TID: 1}, 2, writable) })
	got, err := r.Target(Ref{TID: 1}, true)
	r.ok(err)
	if got.Live.LUNs[1].ReadOnly || !got.Live.LUNs[2].ReadOnly || !got.Spec.LUNs[1].ReadOnly {
		t.Errorf("%+v; live %v, %v", got.Spec.LUNs, got.Live.LUNs[1].ReadOnly, got.Live.LUNs[2].ReadOnly)
	}
}
