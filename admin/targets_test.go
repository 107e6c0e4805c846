package admin

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// What is set is there, as it was set, and again after a restart from what was saved.
func TestRoundTrip(t *testing.T) {
	st := &testState{}
	r := newRig(t, st)
	file := volume(t, "disk")
	r.ok(r.AddAccount(r.ctx(), spec.Account{Name: "in", Secret: "a secret of the first"}))
	r.ok(r.AddAccount(r.ctx(), spec.Account{Name: "out", Secret: "a secret of the other"}))
	r.ok(r.EditDiscovery(r.ctx(), func(a *spec.Auth) error { a.Incoming = []string{"in"}; return nil }))
	a, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", Access: everybody(), Auth: spec.Auth{Incoming: []string{"in"}, Outgoing: "out"},
		LUNs: []spec.LUN{{Number: 2, Volume: "mem:?size=1M"}, {Number: 1, Volume: file, Vendor: "V"}}, Params: map[string]string{"MaxBurstLength": "262144"}})
	r.ok(err)
	if a.TID != 1 || a.LUNs[0].Number != 1 || a.LUNs[0].Identity == "" {
		t.Errorf("made as %+v", a)
	}
	b, err := r.AddTarget(r.ctx(), spec.Target{Name: "tgt-name"})
	r.ok(err)
	if b.TID != 2 {
		t.Errorf("TID %d", b.TID)
	}
	_, err = r.AddLUN(r.ctx(), Ref{Name: "TGT-NAME"}, spec.LUN{Number: 1, Volume: "null:?size=1G", TgtNaming: true}, false)
	r.ok(err)
	_, err = r.AddLUN(r.ctx(), Ref{TID: 2}, spec.LUN{Number: 3, Removable: true}, false)
	r.ok(err)
	r.ok(r.EditTarget(r.ctx(), Ref{TID: 2}, func(t *spec.Target) error { t.Alias, t.Offline = "second", true; return nil }))
	r.ok(r.EditSystem(r.ctx(), func(s *spec.System) error { s.NopInterval = 5; return nil }))
	p, err := r.AddPortal(r.ctx(), spec.Portal{Address: "127.0.0.1:0", Group: 2})
	r.ok(err)
	if p.Bound.Port() == 0 {
		t.Errorf("bound to %v", p.Bound)
	}
	want := r.Document()
	r.ok(r.Manager.Close())

	again := newRig(t, st)
	r.ok(again.LoadPortals())
	if c := spec.Changes(want, again.Document()); c != "" {
		t.Error("after a restart:", c)
	}
	live, err := again.Target(Ref{TID: 1}, true)
	r.ok(err)
	if n := len(live.Live.LUNs); n != 3 { // the controller among them
		t.Errorf("%d LUNs are live", n)
	}
	if live.Live.LUNs[1].Identity != a.LUNs[0].Identity {
		t.Errorf("another disk: %q, was %q", live.Live.LUNs[1].Identity, a.LUNs[0].Identity)
	}
	r.ok(again.RemovePortal(again.ctx(), netip.MustParseAddrPort("127.0.0.1:0")))
	r.ok(again.RemoveTarget(again.ctx(), Ref{TID: 1}, false))
	if d := again.Document(); len(d.Portals) != 0 || len(d.Targets) != 1 {
		t.Errorf("left: %+v", d)
	}
}

// Nothing is changed by a call that is refused, whatever it is refused for.
func TestRefused(t *testing.T) {
	r := newRig(t, &testState{}, func(c *Config) { c.MaxTargets, c.MaxLUNs, c.MaxAccounts = 3, 2, 2 })
	file := volume(t, "disk")
	add := func(t spec.Target) func() error {
		return func() error { _, err := r.AddTarget(r.ctx(), t); return err }
	}
	lun := func(tid int, l spec.LUN) func() error {
		return func() error { _, err := r.AddLUN(r.ctx(), Ref{TID: tid}, l, false); return err }
	}
	r.ok(r.AddAccount(r.ctx(), spec.Account{Name: "a", Secret: "a secret of its own"}))
	r.ok(add(spec.Target{Name: iqn + "a", Auth: spec.Auth{Incoming: []string{"a"}}, LUNs: []spec.LUN{{Number: 1, Volume: file}}})())
	r.ok(add(spec.Target{Name: iqn + "b", LUNs: []spec.LUN{{Number: 5, Volume: "mem:?size=1M"}}})())
	r.refused(TargetExists, add(spec.Target{Name: strings.ToUpper(iqn) + "A"}))
	r.refused(TargetExists, add(spec.Target{Name: iqn + "c", TID: 2}))
	r.refused(Invalid, add(spec.Target{Name: "no_name"}))
	r.refused(NoAccount, add(spec.Target{Name: iqn + "c", Auth: spec.Auth{Incoming: []string{"nobody"}}}))
	r.refused(OpenFailed, add(spec.Target{Name: iqn + "c", LUNs: []spec.LUN{{Number: 1, Volume: "mem:?size=1M"}, {Number: 2, Volume: "file:///nowhere/at/all"}}}))
	r.refused(Invalid, add(spec.Target{Name: iqn + "c", Redirect: spec.Redirect{Address: "0.0.0.0"}}))
	r.ok(add(spec.Target{Name: iqn + "c"})()) // what failed has left nothing behind
	r.refused(TooMany, add(spec.Target{Name: iqn + "d"}))
	r.refused(NoTarget, lun(9, spec.LUN{Number: 1}))
	r.refused(LUNExists, lun(1, spec.LUN{Number: 1, Volume: "mem:?size=1M"}))
	r.refused(LUNExists, lun(1, spec.LUN{Number: 0, Volume: "mem:?size=1M"}))
	r.refused(Invalid, lun(1, spec.LUN{Number: 2, Volume: "mem"}))
	r.refused(OpenFailed, lun(1, spec.LUN{Number: 2, Volume: "mem:?size=1M&nosuch=1"}))
	r.refused(Invalid, lun(1, spec.LUN{Number: 2, Volume: "mem:?size=1M", Vendor: "123456789"}))
	r.refused(Unsupported, lun(2, spec.LUN{Number: 2, Volume: file})) // on another loop
	r.ok(lun(1, spec.LUN{Number: 2, Volume: "mem:?size=1M"})())
	r.refused(TooMany, lun(1, spec.LUN{Number: 3, Volume: "mem:?size=1M"}))
	r.refused(NoLUN, func() error { return r.RemoveLUN(r.ctx(), Ref{TID: 1}, 7, false) })
	r.refused(Invalid, func() error { return r.RemoveLUN(r.ctx(), Ref{TID: 1}, 0, false) })
	edit := func(f func(*spec.Target)) func() error {
		return func() error {
			return r.EditTarget(r.ctx(), Ref{TID: 1}, func(t *spec.Target) error { f(t); return nil })
		}
	}
	r.refused(Invalid, edit(func(t *spec.Target) { t.TID = 4 }))
	r.refused(Invalid, edit(func(t *spec.Target) { t.Name = iqn + "x" }))
	r.refused(Invalid, edit(func(t *spec.Target) { t.LUNs = nil }))
	r.refused(Invalid, edit(func(t *spec.Target) { t.Params = map[string]string{"NoSuch": "1"} }))
	r.refused(NoAccount, edit(func(t *spec.Target) { t.Auth.Outgoing = "nobody" }))
	r.refused(NotBound, func() error {
		return r.EditTarget(r.ctx(), Ref{TID: 1}, func(*spec.Target) error { return Errorf(NotBound, "an edit's own error") })
	})
	r.refused(Invalid, func() error {
		return r.EditLUN(r.ctx(), Ref{TID: 1}, 1, func(l *spec.LUN) error { l.Volume = "mem:?size=1M"; return nil })
	})
	r.refused(Invalid, func() error {
		return r.EditLUN(r.ctx(), Ref{TID: 1}, 1, func(l *spec.LUN) error { l.BlockSize = 4096; return nil })
	})
	r.refused(AccountExists, func() error { return r.AddAccount(r.ctx(), spec.Account{Name: "a", Secret: "x"}) })
	r.refused(NoAccount, func() error { return r.SetSecret(r.ctx(), "nobody", "x") })
	r.refused(NoPortal, func() error { return r.RemovePortal(r.ctx(), netip.MustParseAddrPort("127.0.0.1:1")) })
	r.refused(Invalid, func() error { _, err := r.AddPortal(r.ctx(), spec.Portal{Address: "localhost"}); return err })
	r.refused(Unsupported, func() error { return r.Shutdown(r.ctx(), true) })
	for _, line := range r.audit.all() {
		if strings.Contains(line, "a secret of its own") {
			t.Error("a secret is in the audit line", line)
		}
	}
}

// Whatever cannot be saved has not been done: each kind of call, with saving out of order.
func TestSaveFails(t *testing.T) {
	st := &testState{}
	r := newRig(t, st)
	file, other := volume(t, "disk"), volume(t, "other")
	r.ok(r.AddAccount(r.ctx(), spec.Account{Name: "a", Secret: "a secret of its own"}))
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", Auth: spec.Auth{Incoming: []string{"a"}}, LUNs: []spec.LUN{{Number: 1, Volume: file}, {Number: 4, Volume: other, Offline: true}}})
	r.ok(err)
	p, err := r.AddPortal(r.ctx(), spec.Portal{Address: "127.0.0.1:0"})
	r.ok(err)
	third := volume(t, "third")
	calls := map[string]func() error{
		"add target": func() error {
			_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "b", LUNs: []spec.LUN{{Number: 1, Volume: third}}})
			return err
		},
		"edit target": func() error {
			return r.EditTarget(r.ctx(), Ref{TID: 1}, func(t *spec.Target) error { t.Alias = "x"; return nil })
		},
		"unbind": func() error {
			return r.EditTarget(r.ctx(), Ref{TID: 1}, func(t *spec.Target) error { t.Auth = spec.Auth{}; return nil })
		},
		"remove target": func() error { return r.RemoveTarget(r.ctx(), Ref{TID: 1}, false) },
		"add LUN": func() error {
			_, err := r.AddLUN(r.ctx(), Ref{TID: 1}, spec.LUN{Number: 2, Volume: third}, false)
			return err
		},
		"edit LUN": func() error {
			return r.EditLUN(r.ctx(), Ref{TID: 1}, 1, func(l *spec.LUN) error { l.Offline = true; return nil })
		},
		"swap": func() error {
			return r.EditLUN(r.ctx(), Ref{TID: 1}, 4, func(l *spec.LUN) error { l.Volume = third; return nil })
		},
		"remove LUN":     func() error { return r.RemoveLUN(r.ctx(), Ref{TID: 1}, 1, false) },
		"add account":    func() error { return r.AddAccount(r.ctx(), spec.Account{Name: "b", Secret: "x"}) },
		"secret":         func() error { return r.SetSecret(r.ctx(), "a", "another") },
		"remove account": func() error { return r.RemoveAccount(r.ctx(), "a") },
		"discovery": func() error {
			return r.EditDiscovery(r.ctx(), func(a *spec.Auth) error { a.Incoming = []string{"a"}; return nil })
		},
		"add portal": func() error {
			_, err := r.AddPortal(r.ctx(), spec.Portal{Address: "127.0.0.1:0", Group: 2})
			return err
		},
		"remove portal": func() error { return r.RemovePortal(r.ctx(), p.Bound) },
		"system": func() error {
			return r.EditSystem(r.ctx(), func(s *spec.System) error { s.Offline = true; return nil })
		},
	}
	for name, do := range calls {
		t.Run(name, func(t *testing.T) {
			live := r.Targets(true)[0].Live
			st.failing(errors.New("no space"))
			r.refused(SaveFailed, do)
			st.failing(nil)
			now := r.Targets(true)[0].Live
			if len(now.LUNs) != len(live.LUNs) || now.Ready != live.Ready {
				t.Fatalf("the live target is %+v, was %+v", now, live)
			}
			for i := range now.LUNs {
				if now.LUNs[i].Online != live.LUNs[i].Online || now.LUNs[i].Identity != live.LUNs[i].Identity {
					t.Errorf("LUN %+v, was %+v", now.LUNs[i], live.LUNs[i])
				}
			}
			if n := len(r.Server().Portals()); n != 1 {
				t.Errorf("%d portals are bound", n)
			}
		})
	}
	// All of it works when it can be saved: nothing is still held by what failed.
	for _, name := range []string{"swap", "unbind", "edit LUN", "secret", "discovery", "remove LUN", "remove target", "add target", "remove account", "remove portal", "add portal", "system"} {
		if err := calls[name](); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
