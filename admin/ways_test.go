package admin

import (
	"os"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
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

// A volume that several LUNs have, of one target and of two, and whose URIs say its size, is resized through the last of them: all say the
// new size, and can open it after a restart.
func TestResizeOfSeveralWays(t *testing.T) {
	st := &testState{}
	r := newRig(t, st)
	v := volume(t, "disk")
	if err := os.Truncate(strings.TrimPrefix(v, "file://"), 4<<20); err != nil {
		t.Fatal(err)
	}
	v += "?size=4M"
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", LUNs: []spec.LUN{{Number: 1, Volume: v}, {Number: 2, Volume: v}}})
	r.ok(err)
	_, err = r.AddTarget(r.ctx(), spec.Target{Name: iqn + "b", LUNs: []spec.LUN{{Number: 7, Volume: v}}})
	r.ok(err)
	for _, k := range []struct {
		tid  int
		lun  uint16
		size int64
	}{{2, 7, 2 << 20}, {1, 2, 1 << 20}, {2, 7, 3 << 20}, {1, 1, 2 << 20}} {
		if now, err := r.ResizeLUN(r.ctx(), Ref{TID: k.tid}, k.lun, k.size, true); err != nil || now != k.size {
			t.Fatal(now, err)
		}
		d := r.Document()
		for _, tg := range d.Targets {
			for _, l := range tg.LUNs {
				if u := l.Volume; sizeOption(t, u) != k.size {
					t.Errorf("%d bytes, and target %s LUN %d has %s", k.size, tg.Name, l.Number, u)
				}
			}
		}
		r.ok(r.Manager.Close())
		r = newRig(t, st)
		if c := spec.Changes(d, r.Document()); c != "" {
			t.Error("after a restart: ", c)
		}
		for _, s := range r.Targets(true) {
			for _, l := range s.Live.LUNs[1:] {
				if l.Size != k.size || len(s.Faults) != 0 {
					t.Errorf("%s LUN %d has %d bytes after a restart, want %d: %v", s.Spec.Name, l.LUN, l.Size, k.size, s.Faults)
				}
			}
		}
	}
}

func sizeOption(t *testing.T, volume string) int64 {
	t.Helper()
	u, err := backstore.ParseURI(volume)
	if err != nil {
		t.Fatal(err)
	}
	n, err := u.Size("size", 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
