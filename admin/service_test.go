package admin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/session/login"
)

// A target that goes takes its bindings along: another one that gets its TID is not bound by them, also after a restart.
func TestBindingsGoWithTarget(t *testing.T) {
	st := &testState{}
	r := newRig(t, st)
	r.ok(r.AddAccount(r.ctx(), spec.Account{Name: "a", Secret: "a secret of its own"}))
	_, err := r.AddTarget(r.ctx(), spec.Target{TID: 5, Name: iqn + "a", Auth: spec.Auth{Incoming: []string{"a"}}})
	r.ok(err)
	r.ok(r.RemoveTarget(r.ctx(), Ref{TID: 5}, false))
	_, err = r.AddTarget(r.ctx(), spec.Target{TID: 5, Name: iqn + "b"})
	r.ok(err)
	r.ok(r.Close())
	r = newRig(t, st)
	if a := r.Document().Targets[0].Auth; len(a.Incoming) != 0 {
		t.Errorf("bound to %v", a.Incoming)
	}
}

// Removing an account unbinds it everywhere; a new secret reaches every target that has it, and what the server was made with is for whatever
// names no account.
func TestAccounts(t *testing.T) {
	r := newRig(t, &testState{}, func(c *Config) {
		c.Target.Auth = login.Auth{Incoming: []login.Account{{Name: "std", Secret: []byte("the secret of all")}}}
	})
	for _, n := range []string{"a", "b"} {
		r.ok(r.AddAccount(r.ctx(), spec.Account{Name: n, Secret: "the first secret of " + n}))
	}
	for _, n := range []string{"x", "y"} {
		_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + n, Auth: spec.Auth{Incoming: []string{"a"}, Outgoing: "b"}})
		r.ok(err)
	}
	incoming := func(n string) string {
		t.Helper()
		a := r.Server().Target(iqn + n).Config().Auth
		var out []string
		for _, in := range a.Incoming {
			out = append(out, in.Name+"="+string(in.Secret))
		}
		return strings.Join(out, " ")
	}
	r.ok(r.SetSecret(r.ctx(), "a", "the other secret of a"))
	for _, n := range []string{"x", "y"} {
		if got := incoming(n); got != "a=the other secret of a" {
			t.Errorf("%s: %s", n, got)
		}
	}
	r.ok(r.EditDiscovery(r.ctx(), func(a *spec.Auth) error { a.Incoming = []string{"b", "a"}; return nil }))
	r.ok(r.RemoveAccount(r.ctx(), "a"))
	d := r.Document()
	if len(d.Targets[0].Auth.Incoming) != 0 || d.Targets[1].Auth.Outgoing != "b" || fmt.Sprint(d.Discovery.Incoming) != "[b]" {
		t.Errorf("%+v", d)
	}
	if got := incoming("x"); got != "std=the secret of all" {
		t.Errorf("without an account of its own it takes %q", got)
	}
}

// A volume whose URI says its size has the new one there, so that the next start finds it, or makes it, with that.
func TestResize(t *testing.T) {
	st := &testState{}
	r := newRig(t, st)
	path := filepath.Join(t.TempDir(), "disk")
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", LUNs: []spec.LUN{{Number: 1, Volume: "file://" + path + "?size=1M&thin=on"}, {Number: 2, Volume: volume(t, "plain")}}})
	r.ok(err)
	resize := func(lun uint16, size int64, force bool) error {
		_, err := r.ResizeLUN(r.ctx(), Ref{TID: 1}, lun, size, force)
		return err
	}
	check := func(lun int, size int64, volume string) {
		t.Helper()
		s := r.Targets(true)[0]
		if got := s.Live.LUNs[lun].Size; got != size || !strings.HasSuffix(s.Spec.LUNs[lun-1].Volume, volume) {
			t.Errorf("LUN %d has %d bytes and volume %s, want %d and %s", lun, got, s.Spec.LUNs[lun-1].Volume, size, volume)
		}
	}
	r.ok(resize(1, 4<<20, false))
	check(1, 4<<20, "?size=4194304&thin=on")
	r.refused(WouldShrink, func() error { return resize(1, 2<<20, false) })
	check(1, 4<<20, "?size=4194304&thin=on")
	r.ok(resize(1, 2<<20, true))
	check(1, 2<<20, "?size=2097152&thin=on")
	r.ok(os.Truncate(path, 8<<20)) // behind our back
	r.ok(resize(1, 0, false))
	check(1, 8<<20, "?size=8388608&thin=on")
	r.ok(resize(2, 3<<20, false))
	check(2, 3<<20, "/plain")
	st.failing(errors.New("no space"))
	r.refused(SaveFailed, func() error { return resize(1, 16<<20, false) })
	check(1, 8<<20, "?size=8388608&thin=on")
	r.refused(SaveFailed, func() error { return resize(1, 1<<20, true) })
	check(1, 8<<20, "?size=8388608&thin=on")
	st.failing(nil)
	r.ok(r.Close())
	r = newRig(t, st)
	check(1, 8<<20, "?size=8388608&thin=on")
}

// Whoever watches hears of each change with its caller; who does not keep up hears how much was lost, in its place; and nobody waits for either.
func TestWatch(t *testing.T) {
	r := newRig(t, nil, func(c *Config) { c.MaxEvents, c.MaxWatchers = 4, 2 })
	ctx, cancel := context.WithCancel(r.ctx())
	events := r.Watch(ctx)
	slow := r.Watch(r.ctx())
	if _, ok := <-r.Watch(r.ctx()); ok {
		t.Error("a third one hears something")
	}
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a"})
	r.ok(err)
	if e := <-events; e.Kind != TargetAdded || e.Target != iqn+"a" || e.LUN != -1 || e.Caller != "test uid 7" || time.Since(e.Time) > time.Minute {
		t.Errorf("%+v", e)
	}
	const edits = 20
	for i := range edits {
		r.ok(r.EditTarget(r.ctx(), Ref{TID: 1}, func(t *spec.Target) error { t.Alias = fmt.Sprint(i); return nil }))
	}
	r.ok(r.EditTarget(r.ctx(), Ref{TID: 1}, func(t *spec.Target) error { return nil })) // nothing changes: no event
	told, lost := 0, 0
	for told+lost < edits+1 {
		switch e := <-slow; e.Kind {
		case EventsLost:
			var n int
			if _, err := fmt.Sscan(e.Detail, &n); err != nil || n == 0 {
				t.Fatalf("%+v", e)
			}
			lost += n
		default:
			told++
		}
	}
	if lost == 0 || told < 4 {
		t.Errorf("%d told, %d lost", told, lost)
	}
	cancel()
	for range events { // ends with its context
	}
	if !strings.Contains(strings.Join(r.audit.all(), ""), "result unchanged") {
		t.Error("an edit that changes nothing has no audit line")
	}
}

// Each target has its turn: who holds one keeps others of that target waiting, within their time and number, and nobody else.
func TestTurns(t *testing.T) {
	r := newRig(t, nil, func(c *Config) { c.MaxWaiting = 1 })
	for _, n := range []string{"a", "b"} {
		_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + n})
		r.ok(err)
	}
	inside, leave := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		if err := r.EditTarget(r.ctx(), Ref{TID: 1}, func(t *spec.Target) error {
			close(inside)
			<-leave
			t.Alias = "held"
			return nil
		}); err != nil {
			t.Error(err)
		}
	}()
	<-inside
	edit := func(ctx context.Context, tid int) error {
		return r.EditTarget(ctx, Ref{TID: tid}, func(t *spec.Target) error { t.Offline = true; return nil })
	}
	r.ok(edit(r.ctx(), 2))
	r.ok(r.AddAccount(r.ctx(), spec.Account{Name: "a", Secret: "a secret of its own"}))
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "c"})
	r.ok(err)
	gone, cancel := context.WithCancel(r.ctx())
	waits := make(chan error, 1)
	go func() { waits <- edit(gone, 1) }()
	e, err := r.find(Ref{TID: 1})
	r.ok(err)
	for e.turn.waiting.Load() == 0 {
		runtime.Gosched()
	}
	if err := edit(r.ctx(), 1); CodeOf(err) != TooMany {
		t.Error("a second that waits:", err)
	}
	cancel()
	if err := <-waits; CodeOf(err) != Timeout || !strings.Contains(err.Error(), "another change") {
		t.Error("one that gives up:", err)
	}
	close(leave)
	wg.Wait()
	if d := r.Document(); d.Targets[0].Alias != "held" || d.Targets[0].Offline || !d.Targets[1].Offline {
		t.Errorf("%+v", d.Targets)
	}
}
