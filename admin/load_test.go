package admin

import (
	"errors"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// Targets that have a volume in common share a loop, whichever of their LUNs it is and in whichever order they are named.
func TestLoopsOf(t *testing.T) {
	r := newRig(t, nil)
	for name, c := range map[string]struct {
		volumes [][]string // of each target
		want    map[int]int
	}{
		"none":                       {[][]string{{"file:///1", "mem:?size=1M"}, {"file:///2", "mem:?size=1M"}}, map[int]int{}},
		"the second's first LUN":     {[][]string{{"file:///1"}, {"file:///1?direct=on"}}, map[int]int{2: 1}},
		"the second's second LUN":    {[][]string{{"file:///1"}, {"file:///2", "file:///1"}}, map[int]int{2: 1}},
		"the first's LUN comes last": {[][]string{{"file:///1", "file:///2"}, {"file:///2"}}, map[int]int{2: 1}},
		"by a third":                 {[][]string{{"file:///1"}, {"file:///2"}, {"file:///2", "file:///1"}}, map[int]int{2: 1, 3: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			var list []spec.Target
			for i, volumes := range c.volumes {
				tg := spec.Target{TID: i + 1, Name: iqn + string(rune('a'+i))}
				for k, v := range volumes {
					tg.LUNs = append(tg.LUNs, spec.LUN{Number: uint16(k + 1), Volume: v})
				}
				list = append(list, tg)
			}
			if got := loopsOf(list, r.volumeKey); !maps.Equal(got, c.want) {
				t.Fatalf("%v, want %v", got, c.want)
			}
		})
	}
}

// One volume behind targets that begin with it is one disk, also after a restart; a target that has a loop of its own cannot have it.
func TestShared(t *testing.T) {
	st := &testState{}
	r := newRig(t, st)
	file := volume(t, "disk")
	for _, n := range []string{"a", "b"} {
		_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + n, LUNs: []spec.LUN{{Number: 1, Volume: file}}})
		r.ok(err)
	}
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "c", LUNs: []spec.LUN{{Number: 9, Volume: "mem:?size=1M"}}})
	r.ok(err)
	r.refused(Unsupported, func() error {
		_, err := r.AddLUN(r.ctx(), Ref{TID: 3}, spec.LUN{Number: 1, Volume: file}, false)
		return err
	})
	same := func(r *rig) {
		t.Helper()
		list := r.Targets(true)
		if a, b := list[0].Live.LUNs[1], list[1].Live.LUNs[1]; a.Identity == "" || a.NAA != b.NAA {
			t.Errorf("two disks: %q and %q", a.Identity, b.Identity)
		}
	}
	same(r)
	r.ok(r.Close())
	r = newRig(t, st)
	same(r)
	r.ok(r.RemoveTarget(r.ctx(), Ref{TID: 1}, false)) // the other still has it
	_, err = r.AddLUN(r.ctx(), Ref{TID: 2}, spec.LUN{Number: 2, Volume: "mem:?size=1M"}, false)
	r.ok(err)
	r.refused(Unsupported, func() error {
		_, err := r.AddLUN(r.ctx(), Ref{TID: 3}, spec.LUN{Number: 1, Volume: file}, false)
		return err
	})
	r.ok(r.RemoveLUN(r.ctx(), Ref{TID: 2}, 1, false)) // now nobody has it, and it is closed
	_, err = r.AddLUN(r.ctx(), Ref{TID: 3}, spec.LUN{Number: 1, Volume: file}, false)
	r.ok(err)
}

// A volume that cannot be opened does not stop the start: its LUN is there, not ready, says why, and comes back with the volume, as
// the disk that it was.
func TestFaultyVolume(t *testing.T) {
	st := &testState{}
	r := newRig(t, st)
	file := volume(t, "disk")
	l, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", LUNs: []spec.LUN{{Number: 1, Volume: file}, {Number: 2, Volume: "mem:?size=1M"}}})
	r.ok(err)
	want := r.Document()
	r.ok(r.Close())
	path := strings.TrimPrefix(file, "file://")
	r.ok(os.Rename(path, path+".away"))

	r = newRig(t, st)
	if c := spec.Changes(want, r.Document()); c != "" {
		t.Error("what is set has changed:", c)
	}
	state := r.Targets(true)[0]
	if f := state.Faults[1]; !strings.Contains(f, "does not exist") || len(state.Faults) != 1 {
		t.Errorf("faults: %v", state.Faults)
	}
	if lu := state.Live.LUNs[1]; lu.LUN != 1 || lu.Online || !state.Live.LUNs[2].Online {
		t.Errorf("live: %+v", state.Live.LUNs)
	}
	r.retryAll()
	if len(r.Targets(false)[0].Faults) != 1 {
		t.Error("it came back without its volume")
	}
	r.ok(os.Rename(path+".away", path))
	events := r.Watch(r.ctx())
	r.retryAll()
	if e := <-events; e.Kind != LUNChanged || e.LUN != 1 {
		t.Errorf("event %+v", e)
	}
	state = r.Targets(true)[0]
	if lu := state.Live.LUNs[1]; !lu.Online || lu.Identity != l.LUNs[0].Identity || len(state.Faults) != 0 {
		t.Errorf("%+v, faults %v; was %q", lu, state.Faults, l.LUNs[0].Identity)
	}
	if c := spec.Changes(want, r.Document()); c != "" {
		t.Error("what is set has changed:", c)
	}
	r.ok(r.Close())
	// An administrator can bring it back, too.
	r.ok(os.Rename(path, path+".away"))
	r = newRig(t, st)
	r.refused(OpenFailed, func() error {
		return r.EditLUN(r.ctx(), Ref{TID: 1}, 1, func(l *spec.LUN) error { l.Vendor = "V"; return nil })
	})
	r.ok(os.Rename(path+".away", path))
	r.ok(r.EditLUN(r.ctx(), Ref{TID: 1}, 1, func(l *spec.LUN) error { l.Vendor = "V"; return nil }))
	if lu := r.Targets(true)[0].Live.LUNs[1]; !lu.Online {
		t.Errorf("%+v", lu)
	}
}

// Two ways to one volume that could not be opened: both come back, and it is one disk again. One target may have it twice.
func TestFaultySharedVolume(t *testing.T) {
	st := &testState{}
	r := newRig(t, st)
	file := volume(t, "disk")
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", LUNs: []spec.LUN{{Number: 1, Volume: file}, {Number: 2, Volume: file}}})
	r.ok(err)
	_, err = r.AddTarget(r.ctx(), spec.Target{Name: iqn + "b", LUNs: []spec.LUN{{Number: 1, Volume: file}, {Number: 4, Volume: "mem:?size=1M", Offline: true}}})
	r.ok(err)
	check := func() {
		t.Helper()
		list := r.Targets(true)
		for _, l := range []struct{ target, lun int }{{0, 1}, {0, 2}, {1, 1}} {
			if lu := list[l.target].Live.LUNs[l.lun]; !lu.Online || lu.NAA != list[0].Live.LUNs[1].NAA || len(list[l.target].Faults) != 0 {
				t.Errorf("%+v, faults %v", lu, list[l.target].Faults)
			}
		}
		if lu := list[1].Live.LUNs[2]; lu.LUN != 4 || lu.Online {
			t.Errorf("what is offline is %+v", lu)
		}
	}
	check()
	r.ok(r.Close())
	path := strings.TrimPrefix(file, "file://")
	r.ok(os.Rename(path, path+".away"))
	r = newRig(t, st)
	if list := r.Targets(false); len(list[0].Faults) != 2 || len(list[1].Faults) != 1 {
		t.Errorf("faults %v and %v", list[0].Faults, list[1].Faults)
	}
	r.ok(os.Rename(path+".away", path))
	r.retryAll()
	check()
}

// What the command line names is there for this run, is not saved, and may not have the name of what is.
func TestPassing(t *testing.T) {
	st := &testState{}
	r := newRig(t, st)
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "saved"})
	r.ok(err)
	r.ok(r.Close())
	file := volume(t, "disk")
	line := []spec.Target{{TID: 1, Name: iqn + "line", Access: everybody(), LUNs: []spec.LUN{{Number: 1, Volume: file}}}, {TID: 2, Name: iqn + "too", LUNs: []spec.LUN{{Number: 3, Volume: file}}}}
	r = newRig(t, st)
	r.ok(r.Passing(WithCaller(r.ctx(), Caller{Face: FaceStart, UID: -1}), spec.Document{Targets: line}))
	if got := r.Targets(true); len(got) != 3 || got[1].Spec.TID != 2 || got[1].Live.LUNs[1].Identity != iqn+"line/1" || got[2].Live.LUNs[1].NAA != got[1].Live.LUNs[1].NAA {
		t.Errorf("%+v", got)
	}
	if _, err := r.PassingPortals(r.ctx(), []spec.Portal{{Address: "127.0.0.1:0"}}, false); err != nil {
		t.Error(err)
	}
	r.ok(r.EditTarget(r.ctx(), Ref{Name: iqn + "line"}, func(t *spec.Target) error { t.Alias = "x"; return nil }))
	_, err = r.AddLUN(r.ctx(), Ref{Name: iqn + "line"}, spec.LUN{Number: 2, Volume: "mem:?size=1M"}, false)
	r.ok(err)
	r.ok(r.AddAccount(r.ctx(), spec.Account{Name: "a", Secret: "a secret of its own"}))
	r.ok(r.EditTarget(r.ctx(), Ref{Name: iqn + "line"}, func(t *spec.Target) error { t.Auth.Incoming = []string{"a"}; return nil }))
	if n := len(r.audit.all()); n != 5 { // the portal among them: it was not made at the start
		t.Errorf("%d audit lines: %v", n, r.audit.all())
	}
	r.ok(r.Close())
	r = newRig(t, st)
	if d := r.Document(); len(d.Targets) != 1 || len(d.Portals) != 0 || len(d.Accounts) != 1 {
		t.Errorf("saved: %+v", d)
	}
	err = r.Passing(WithCaller(r.ctx(), Caller{Face: FaceStart, UID: -1}), spec.Document{Targets: []spec.Target{{TID: 1, Name: iqn + "saved"}}})
	if CodeOf(err) != TargetExists || !strings.Contains(err.Error(), "command line") {
		t.Error(err)
	}
}

// What was saved and makes no sense is not served in part.
func TestLoadRefuses(t *testing.T) {
	for name, objects := range map[string]map[string][]byte{
		"an object of a newer version": {"quota": []byte(`{}`)},
		"a word of a newer version":    {"target/1": []byte(`{"tid":1,"name":"iqn.2026-11.io.lunar:a","colour":"red"}`)},
		"another TID":                  {"target/1": []byte(`{"tid":2,"name":"iqn.2026-11.io.lunar:a"}`)},
		"no name":                      {"target/1": []byte(`{"tid":1}`)},
		"an account that is not there": {"target/1": []byte(`{"tid":1,"name":"iqn.2026-11.io.lunar:a"}`), "accounts": []byte(`{"bound":{"1":{"incoming":["a"]}}}`)},
	} {
		m, err := New(Config{Registry: testRegistry(), State: &testState{objects: objects}})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Load(t.Context()); err == nil {
			t.Errorf("%s was taken", name)
		}
		if err := m.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	}
}
