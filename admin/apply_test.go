package admin

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// steps writes down what Apply says.
func steps(list []Step) string {
	var out []string
	for _, s := range list {
		done := ""
		if s.Done {
			done = " done"
		}
		out = append(out, s.Verb+" "+s.What+done)
	}
	return strings.Join(out, "\n")
}

// A document is applied step by step, what differs and nothing else; a dry run says the same and changes nothing; applied again it has no
// steps.
func TestApply(t *testing.T) {
	r := newRig(t, &testState{})
	one, two, three := volume(t, "one"), volume(t, "two"), volume(t, "three")
	for _, n := range []string{"old", "a"} {
		r.ok(r.AddAccount(r.ctx(), spec.Account{Name: n, Secret: "the secret of " + n}))
	}
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", Access: everybody(), Auth: spec.Auth{Incoming: []string{"old"}},
		LUNs: []spec.LUN{{Number: 1, Volume: one}, {Number: 2, Volume: two}, {Number: 3, Volume: "mem:?size=1M", Tgt: &spec.TgtStore{Type: "null"}}}})
	r.ok(err)
	_, err = r.AddTarget(r.ctx(), spec.Target{Name: iqn + "b"})
	r.ok(err)
	_, err = r.AddTarget(r.ctx(), spec.Target{Name: iqn + "same", LUNs: []spec.LUN{{Number: 1, Volume: three}}})
	r.ok(err)
	untouched := r.Server().Target(iqn + "same")

	want := spec.Document{
		Portals:  []spec.Portal{{Address: "127.0.0.1:0"}},
		Accounts: []spec.Account{{Name: "a", Secret: "another secret"}, {Name: "new", Secret: "the secret of new"}},
		Targets: []spec.Target{
			{Name: iqn + "c", Access: everybody(), LUNs: []spec.LUN{{Number: 1, Volume: two}}},
			{Name: iqn + "same", LUNs: []spec.LUN{{Number: 1, Volume: three}}},
			{Name: iqn + "a", Access: everybody(), Auth: spec.Auth{Incoming: []string{"new"}},
				LUNs: []spec.LUN{{Number: 4, Volume: "mem:?size=1M"}, {Number: 1, Volume: one, Vendor: "V"}, {Number: 3, Volume: "null:?size=1M"}}},
		},
	}
	const plan = `change account "a"
add account "new"
remove target iqn.2026-11.io.lunar:a LUN 2
remove target iqn.2026-11.io.lunar:a LUN 3
remove target iqn.2026-11.io.lunar:b
add target iqn.2026-11.io.lunar:c
change target iqn.2026-11.io.lunar:a
change target iqn.2026-11.io.lunar:a LUN 1
add target iqn.2026-11.io.lunar:a LUN 3
add target iqn.2026-11.io.lunar:a LUN 4
add portal 127.0.0.1:0
remove account "old"`
	before := told(t, r.Document())
	list, err := r.Apply(r.ctx(), want, ApplyOptions{DryRun: true})
	r.ok(err)
	if got := steps(list); got != plan {
		t.Errorf("the plan is\n%s\nwant\n%s", got, plan)
	}
	if told(t, r.Document()) != before {
		t.Error("a dry run has changed something")
	}
	for _, s := range list {
		if strings.Contains(s.Detail, "secret of") {
			t.Errorf("a secret in %+v", s)
		}
	}
	list, err = r.Apply(r.ctx(), want, ApplyOptions{})
	r.ok(err)
	if got := steps(list); got != strings.ReplaceAll(plan, "\n", " done\n")+" done" {
		t.Errorf("done is\n%s", got)
	}
	if r.Server().Target(iqn+"same") != untouched {
		t.Error("a target that is the same was made anew")
	}
	if list, err = r.Apply(r.ctx(), want, ApplyOptions{}); err != nil || len(list) != 0 {
		t.Errorf("applied again: %v\n%s", err, steps(list))
	}
	// Keep leaves alone what is not named.
	small := spec.Document{Targets: []spec.Target{{Name: iqn + "d"}}}
	list, err = r.Apply(r.ctx(), small, ApplyOptions{Keep: true})
	r.ok(err)
	if steps(list) != "add target iqn.2026-11.io.lunar:d done" {
		t.Errorf("with keep:\n%s", steps(list))
	}
	// A step that fails ends it, and is named; what was done is done.
	bad := r.Document()
	bad.Targets[0].Alias = "x"
	bad.Targets = append(bad.Targets, spec.Target{Name: iqn + "e", LUNs: []spec.LUN{{Number: 1, Volume: "file:///nowhere"}}}, spec.Target{Name: iqn + "f"})
	list, err = r.Apply(r.ctx(), bad, ApplyOptions{})
	if CodeOf(err) != OpenFailed || !strings.Contains(err.Error(), "add target "+iqn+"e (step 2 of 3)") || !list[0].Done || list[1].Done || list[2].Done {
		t.Errorf("%v\n%s", err, steps(list))
	}
	tid := r.Document()
	tid.Targets[0].TID = 99
	r.refused(Invalid, func() error { _, err := r.Apply(r.ctx(), tid, ApplyOptions{}); return err })
}

// What any document is made of any other, it is then.
func TestApplyAnything(t *testing.T) {
	r := newRig(t, &testState{})
	other := newRig(t, nil)
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 5))
		for _, c := range randomCalls(seed, 20+rng.IntN(30)) {
			_ = c.do(other.ctx(), other.Manager) // what is refused does not matter
		}
		want := other.Document()
		for i := range want.Targets {
			if seed%2 == 0 { // as files say it
				want.Targets[i].TID = 0
			}
		}
		if _, err := r.Apply(r.ctx(), want, ApplyOptions{Force: true}); err != nil {
			var e *Error
			if errors.As(err, &e) && e.Code == Invalid && strings.Contains(err.Error(), "TID") {
				r.ok(removeAll(r))
				_, err = r.Apply(r.ctx(), want, ApplyOptions{Force: true})
			}
			r.ok(err)
		}
		if list, err := r.Apply(r.ctx(), want, ApplyOptions{DryRun: true}); err != nil || len(list) != 0 {
			t.Fatalf("seed %d: %v, still to do:\n%s", seed, err, steps(list))
		}
		got := r.Document()
		if len(got.Targets) != len(want.Targets) || len(got.Accounts) != len(want.Accounts) {
			t.Fatalf("seed %d: %d targets and %d accounts, want %d and %d", seed, len(got.Targets), len(got.Accounts), len(want.Targets), len(want.Accounts))
		}
		for _, w := range want.Targets {
			s, err := r.Target(Ref{Name: w.Name}, true)
			r.ok(err)
			if w.TID == 0 {
				w.TID = s.Spec.TID
			}
			if fmt.Sprintf("%+v", s.Spec.LUNs) != fmt.Sprintf("%+v", w.LUNs) || s.Spec.Alias != w.Alias || len(s.Live.LUNs) != len(w.LUNs)+1 {
				t.Fatalf("seed %d: %+v, want %+v", seed, s.Spec, w)
			}
		}
	}
}

func removeAll(r *rig) error {
	for _, t := range r.Document().Targets {
		if err := r.RemoveTarget(r.ctx(), Ref{TID: t.TID}, true); err != nil {
			return err
		}
	}
	return nil
}
