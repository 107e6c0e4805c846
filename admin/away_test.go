package admin

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/target"
)

func engineRig(t *testing.T, g *engine, state *testState, traits ...string) *rig {
	t.Helper()
	return newRig(t, state, func(c *Config) { c.Registry = g.registry(traits...) })
}

// liveLUN is the LUN of target a as it is now.
func (r *rig) liveLUN(lun uint16) target.LUNInfo {
	r.t.Helper()
	s, err := r.Target(Ref{Name: iqn + "a"}, true)
	r.ok(err)
	i := slices.IndexFunc(s.Live.LUNs, func(l target.LUNInfo) bool { return l.LUN == lun })
	if i < 0 {
		r.t.Fatalf("there is no LUN %d", lun)
	}
	return s.Live.LUNs[i]
}

func (r *rig) faultOf(lun uint16) string {
	r.t.Helper()
	s, err := r.Target(Ref{Name: iqn + "a"}, false)
	r.ok(err)
	return s.Faults[lun]
}

// A LUN whose volume cannot be opened is refused, or there without it, as it says; and heals as the disk that it was.
func TestAwayWhenAdded(t *testing.T) {
	g, state := &engine{down: backstore.ClassOffline}, &testState{}
	r := engineRig(t, g, state)
	a := Ref{Name: iqn + "a"}
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", Access: everybody()})
	r.ok(err)
	for _, away := range []string{"", spec.AwayFail} {
		r.refused(OpenFailed, func() error {
			_, err := r.AddLUN(r.ctx(), a, spec.LUN{Number: 1, Volume: "engine:one", Away: away}, false)
			return err
		})
	}
	g.set(func(g *engine) { g.down = backstore.ClassUnsupported })
	r.refused(OpenFailed, func() error {
		_, err := r.AddLUN(r.ctx(), a, spec.LUN{Number: 1, Volume: "engine:one", Away: spec.AwayOffline}, false)
		return err
	})
	g.set(func(g *engine) { g.down = backstore.ClassTransport })
	l, err := r.AddLUN(r.ctx(), a, spec.LUN{Number: 1, Volume: "engine:one", Away: spec.AwayOffline, Serial: "S1"}, false)
	r.ok(err)
	if l.Identity == "" || r.liveLUN(1).Online || r.liveLUN(1).Identity != l.Identity || !strings.Contains(r.faultOf(1), "the engine is away") {
		t.Fatalf("%+v, live %+v, fault %q", l, r.liveLUN(1), r.faultOf(1))
	}
	// What of it can be done without the volume is done, and the rest refused.
	r.ok(r.EditLUN(r.ctx(), a, 1, func(l *spec.LUN) error { l.Offline = true; return nil }))
	r.refused(OpenFailed, func() error {
		return r.EditLUN(r.ctx(), a, 1, func(l *spec.LUN) error { l.Offline = false; return nil })
	})
	if _, err := r.ResizeLUN(r.ctx(), a, 1, 2<<20, false); err == nil || !strings.Contains(err.Error(), "has no volume") {
		t.Error("resize:", err)
	}
	r.retryAll()
	if r.faultOf(1) == "" {
		t.Fatal("it has healed without its engine")
	}
	g.set(func(g *engine) { g.down = 0 })
	r.retryAll()
	if r.faultOf(1) != "" || r.liveLUN(1).Online {
		t.Fatalf("fault %q, and it is offline: %+v", r.faultOf(1), r.liveLUN(1))
	}
	r.ok(r.EditLUN(r.ctx(), a, 1, func(l *spec.LUN) error { l.Offline = false; return nil }))
	if d := r.liveLUN(1); !d.Online || d.Size != 1<<20 || d.Identity != l.Identity || d.Serial != "S1" {
		t.Fatalf("%+v", d)
	}
	r.ok(r.RemoveLUN(r.ctx(), a, 1, false))
	if open, _ := g.counts(); open != 0 {
		t.Errorf("%d stores are open", open)
	}
}

// What was saved comes up without its volume, unless it says that the start is to fail.
func TestAwayAtStart(t *testing.T) {
	for away, starts := range map[string]bool{"": true, spec.AwayOffline: true, spec.AwayFail: false} {
		g, state := &engine{}, &testState{}
		r := engineRig(t, g, state)
		_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", Access: everybody(), LUNs: []spec.LUN{{Number: 1, Volume: "engine:one", Away: away}}})
		r.ok(err)
		r.ok(r.Close())
		g.set(func(g *engine) { g.down = backstore.ClassOffline })
		m, err := New(Config{Registry: g.registry(), State: state, RetryVolumes: -1})
		r.ok(err)
		if err := m.Load(r.ctx()); (err == nil) != starts {
			t.Errorf("away %q: %v", away, err)
		}
		r.ok(m.Close())
	}
}

// Volumes are opened beside each other at the start, so that those that are away cost their time once; the LUNs are made in their order all the same.
func TestOpenedBesideEachOther(t *testing.T) {
	const luns = 12
	g, state := &engine{}, &testState{}
	r := engineRig(t, g, state)
	for _, name := range []string{"a", "b"} {
		want := spec.Target{Name: iqn + name, Access: everybody()}
		for i := range luns / 2 {
			want.LUNs = append(want.LUNs, spec.LUN{Number: uint16(i + 1), Volume: fmt.Sprintf("engine:%s%d", name, i)})
		}
		_, err := r.AddTarget(r.ctx(), want)
		r.ok(err)
	}
	r.ok(r.Close())
	opening, gate := make(chan string, 2*luns), make(chan struct{})
	g.set(func(g *engine) { g.opening, g.gate = opening, gate })
	m, err := New(Config{Registry: g.registry(), State: state, RetryVolumes: -1})
	r.ok(err)
	t.Cleanup(func() { _ = m.Close() })
	loaded := make(chan error, 1)
	go func() { loaded <- m.Load(r.ctx()) }()
	for i := range luns {
		select {
		case <-opening:
		case err := <-loaded:
			t.Fatal("loaded before its volumes were open:", err)
		case <-r.ctx().Done():
			t.Fatalf("%d of %d volumes are opened at once", i, luns)
		}
	}
	close(gate)
	r.ok(<-loaded)
	if open, _ := g.counts(); open != luns || len(opening) != 0 {
		t.Errorf("%d stores are open, %d were opened again", open, len(opening))
	}
	for _, s := range m.Targets(true) {
		for i, l := range s.Live.LUNs[1:] {
			if int(l.LUN) != i+1 || !l.Online {
				t.Errorf("target %s: %+v", s.Spec.Name, l)
			}
		}
	}
}

// A start that fails leaves no volume open, whatever was opened ahead.
func TestFailedStartClosesWhatWasOpened(t *testing.T) {
	g := &engine{}
	r := engineRig(t, g, nil)
	err := r.Passing(r.ctx(), spec.Document{Targets: []spec.Target{{TID: 1, Name: iqn + "a", LUNs: []spec.LUN{{Number: 1, Volume: "none:one"}, {Number: 2, Volume: "engine:two"}, {Number: 3, Volume: "engine:three"}}}}})
	if CodeOf(err) != OpenFailed {
		t.Error(err)
	}
	if open, _ := g.counts(); open != 0 {
		t.Errorf("%d stores are open", open)
	}
}

// A volume that is being tried again, and takes its time, keeps no administrator waiting: its LUN can be removed, and what is opened then is closed.
func TestRetryHoldsNobodyUp(t *testing.T) {
	g := &engine{down: backstore.ClassOffline}
	r := engineRig(t, g, nil)
	a := Ref{Name: iqn + "a"}
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", Access: everybody()})
	r.ok(err)
	_, err = r.AddLUN(r.ctx(), a, spec.LUN{Number: 1, Volume: "engine:one", Away: spec.AwayOffline}, false)
	r.ok(err)
	opening, gate, tried := make(chan string, 1), make(chan struct{}), make(chan struct{})
	g.set(func(g *engine) { g.down, g.opening, g.gate = 0, opening, gate })
	go func() { defer close(tried); r.retryAll() }()
	<-opening
	r.ok(r.EditTarget(r.ctx(), a, func(t *spec.Target) error { t.Alias = "x"; return nil }))
	if len(r.dueVolumes(time.Now().Add(time.Hour), 10)) != 0 {
		t.Error("it would be opened twice at a time")
	}
	r.ok(r.RemoveLUN(r.ctx(), a, 1, false))
	close(gate)
	<-tried
	if open, _ := g.counts(); open != 0 {
		t.Errorf("%d stores are open", open)
	}
	if r.faultOf(1) != "" {
		t.Error("a LUN that is no more has a fault")
	}
}

// Pauses grow, up to a bound, and whoever has waited for longest is first.
func TestRetryPauses(t *testing.T) {
	m := &Manager{cfg: Config{}.withDefaults()}
	var got []time.Duration
	for i := range 8 {
		got = append(got, m.pause(i)/time.Second)
	}
	if want := []time.Duration{2, 4, 8, 16, 32, 60, 60, 60}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if m.pause(1<<30) != DefaultRetryMost {
		t.Error(m.pause(1 << 30))
	}
}

// A volume that somebody else has is taken over when an administrator says so, and then healed; one that is taken from us stays so.
func TestTakeOver(t *testing.T) {
	g := &engine{taken: true}
	r := engineRig(t, g, nil, "fua", TakesOver)
	a := Ref{Name: iqn + "a"}
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", Access: everybody()})
	r.ok(err)
	l, err := r.AddLUN(r.ctx(), a, spec.LUN{Number: 1, Volume: "engine:one", Away: spec.AwayOffline}, false)
	r.ok(err)
	r.retryAll()
	if r.liveLUN(1).Online {
		t.Fatal("it has a volume that is somebody else's")
	}
	r.ok(r.TakeOverLUN(r.ctx(), a, 1))
	if d := r.liveLUN(1); !d.Online || d.Identity != l.Identity || r.faultOf(1) != "" {
		t.Fatalf("%+v, fault %q", d, r.faultOf(1))
	}
	r.ok(r.TakeOverLUN(r.ctx(), a, 1)) // it has it: others are shut out
	if open, fences := g.counts(); open != 1 || fences != 2 {
		t.Fatalf("%d stores are open, others were shut out %d times", open, fences)
	}
	g.set(func(g *engine) { g.shutOut, g.taken = true, true })
	off := false
	if err := r.EditLUN(r.ctx(), a, 1, func(l *spec.LUN) error { l.WriteCache = &off; return nil }); err == nil {
		t.Fatal("a flush went to a store that is shut out")
	}
	r.retryAll()
	if d := r.liveLUN(1); !d.Fenced || !d.Failed || d.Online {
		t.Fatalf("%+v", d)
	}
	if open, fences := g.counts(); open != 1 || fences != 2 {
		t.Fatalf("%d stores are open, others were shut out %d times: it must not take back by itself what was taken", open, fences)
	}
	r.ok(r.TakeOverLUN(r.ctx(), a, 1))
	if d := r.liveLUN(1); d.Fenced || !d.Online {
		t.Fatalf("%+v", d)
	}
	if n := slices.IndexFunc(r.audit.all(), func(s string) bool { return strings.Contains(s, "lun takeover") }); n < 0 {
		t.Error("it is not in the audit log")
	}
}

// A take-over while the volume is being tried again ends that: the two would be in each other's way.
func TestTakeOverEndsRetry(t *testing.T) {
	g := &engine{down: backstore.ClassOffline}
	r := engineRig(t, g, nil, TakesOver)
	a := Ref{Name: iqn + "a"}
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", Access: everybody()})
	r.ok(err)
	_, err = r.AddLUN(r.ctx(), a, spec.LUN{Number: 1, Volume: "engine:one", Away: spec.AwayOffline}, false)
	r.ok(err)
	gate, opening := make(chan struct{}), make(chan string, 2)
	g.set(func(g *engine) { g.down, g.taken, g.gate, g.opening = 0, true, gate, opening })
	tried := make(chan struct{})
	go func() {
		defer close(tried)
		r.retryAll()
	}()
	<-opening
	g.set(func(g *engine) { g.gate, g.most = nil, 0 })
	r.ok(r.TakeOverLUN(r.ctx(), a, 1))
	close(gate) // too late for the retry
	<-tried
	g.set(func(g *engine) {
		if g.most != 1 || g.open != 1 || g.fences != 1 {
			t.Errorf("%d openings at once, %d stores open, %d taken over", g.most, g.open, g.fences)
		}
	})
	if r.faultOf(1) != "" || !r.liveLUN(1).Online {
		t.Errorf("fault %q, live %+v", r.faultOf(1), r.liveLUN(1))
	}
}

// What cannot be taken over is refused with the reason.
func TestTakeOverRefused(t *testing.T) {
	g := &engine{taken: true}
	r := engineRig(t, g, nil)
	a := Ref{Name: iqn + "a"}
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", Access: everybody()})
	r.ok(err)
	for _, l := range []spec.LUN{{Number: 1, Volume: "engine:one", Away: spec.AwayOffline}, {Number: 2, Volume: "mem:?size=1M"}, {Number: 3}} {
		_, err = r.AddLUN(r.ctx(), a, l, false)
		r.ok(err)
	}
	for lun, want := range map[uint16]struct {
		code Code
		says string
	}{1: {Unsupported, "engine driver cannot shut out"}, 2: {Unsupported, "mem driver cannot shut out"}, 3: {Invalid, "no volume"}, 4: {NoLUN, ""}} {
		if err := r.refused(want.code, func() error { return r.TakeOverLUN(r.ctx(), a, lun) }); !strings.Contains(err.Error(), want.says) {
			t.Errorf("LUN %d: %v", lun, err)
		}
	}
}

// A call that comes when the service has ended is refused, and told of like any other.
func TestCallAfterClose(t *testing.T) {
	g := &engine{}
	r := engineRig(t, g, nil)
	a := Ref{Name: iqn + "a"}
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", Access: everybody(), LUNs: []spec.LUN{{Number: 1, Volume: "engine:one"}}})
	r.ok(err)
	r.ok(r.Close())
	r.refused(ShuttingDown, func() error { return r.EditLUN(r.ctx(), a, 1, func(*spec.LUN) error { return nil }) })
	r.refused(ShuttingDown, func() error { return r.TakeOverLUN(r.ctx(), a, 1) })
}
