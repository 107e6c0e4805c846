package admin

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// A step is one Step with what carries it out.
type step struct {
	Step
	do func(ctx context.Context) error
}

// A plan is the steps that make one document of another. Order: what is added for others to name comes first, what goes away makes room
// before what comes, and nobody is left with an account that is gone, or with a portal that leads to nothing.
type plan struct {
	m     *Manager
	o     ApplyOptions
	steps []step
}

func (p *plan) add(verb, what, detail string, do func(ctx context.Context) error) {
	p.steps = append(p.steps, step{Step{Verb: verb, What: what, Detail: detail}, do})
}

// Apply is Service's.
func (m *Manager) Apply(ctx context.Context, want spec.Document, o ApplyOptions) ([]Step, error) {
	want = want.Clone()
	have := m.Document()
	if o.Keep {
		want.Accounts = keepAccounts(have.Accounts, want.Accounts)
	}
	if err := want.Check(); err != nil {
		return nil, invalid(err)
	}
	p := &plan{m: m, o: o}
	if err := p.work(&have, &want); err != nil {
		return nil, err
	}
	out := make([]Step, len(p.steps))
	for i := range p.steps {
		out[i] = p.steps[i].Step
	}
	if o.DryRun {
		return out, nil
	}
	ctx = ifAway(ctx, o.Away)
	if CallerOf(ctx).Face == FaceStart { // nobody else can be at the volumes yet
		var done func()
		ctx, done = m.openAhead(ctx, added(&have, &want))
		defer done()
	}
	for i := range p.steps {
		if err := p.steps[i].do(ctx); err != nil {
			e := &Error{Code: CodeOf(err), Text: fmt.Sprintf("%s %s (step %d of %d)", out[i].Verb, out[i].What, i+1, len(out)), Err: err}
			return out, e
		}
		out[i].Done = true
	}
	return out, nil
}

// added are the targets of want with those of their LUNs that have does not have.
func added(have, want *spec.Document) (out []spec.Target) {
	there := map[string]bool{}
	for i := range have.Targets {
		for _, l := range have.Targets[i].LUNs {
			there[fmt.Sprintf("%s/%d %s", normalized(have.Targets[i].Name), l.Number, l.Volume)] = true
		}
	}
	for i := range want.Targets {
		t := want.Targets[i].Clone()
		t.LUNs = slices.DeleteFunc(t.LUNs, func(l spec.LUN) bool { return there[fmt.Sprintf("%s/%d %s", normalized(t.Name), l.Number, l.Volume)] })
		out = append(out, t)
	}
	return out
}

// keepAccounts adds to want what only have has.
func keepAccounts(have, want []spec.Account) []spec.Account {
	for _, a := range have {
		if !slices.ContainsFunc(want, func(o spec.Account) bool { return o.Name == a.Name }) {
			want = append(want, a)
		}
	}
	return want
}

func (p *plan) work(have, want *spec.Document) error {
	p.system(have, want)
	p.addAccounts(have, want)
	if !p.o.Keep || !reflect.DeepEqual(want.Discovery, spec.Auth{}) {
		if c := spec.Changes(have.Discovery, want.Discovery); c != "" {
			to := want.Discovery
			p.add("change", "discovery", c, func(ctx context.Context) error {
				return p.m.EditDiscovery(ctx, func(a *spec.Auth) error { *a = to; return nil })
			})
		}
	}
	byName := map[string]*spec.Target{}
	for i := range have.Targets {
		byName[normalized(have.Targets[i].Name)] = &have.Targets[i]
	}
	var late []func() // what is to come behind the removals of all targets
	wanted := map[string]bool{}
	for i := range want.Targets {
		t := &want.Targets[i]
		if t.NopInterval == 0 && t.NopCount == 0 {
			t.NopInterval, t.NopCount = want.System.NopInterval, want.System.NopCount
		}
		slices.SortFunc(t.LUNs, func(a, b spec.LUN) int { return int(a.Number) - int(b.Number) })
		wanted[normalized(t.Name)] = true
		was := byName[normalized(t.Name)]
		if was == nil {
			late = append(late, func() {
				p.add("add", "target "+t.Name, fmt.Sprintf("%d LUNs", len(t.LUNs)), func(ctx context.Context) error { _, err := p.m.AddTarget(ctx, *t); return err })
			})
			continue
		}
		if t.TID != 0 && t.TID != was.TID {
			return &Error{Code: Invalid, Text: fmt.Sprintf("target %s has TID %d, not %d, and keeps it", was.Name, was.TID, t.TID), Hint: "leave the TID out, or remove the target first"}
		}
		late = append(late, p.target(was, t)...)
	}
	for i := range have.Targets {
		t := &have.Targets[i]
		if !p.o.Keep && !wanted[normalized(t.Name)] {
			p.add("remove", "target "+t.Name, fmt.Sprintf("%d LUNs", len(t.LUNs)), func(ctx context.Context) error { return p.m.RemoveTarget(ctx, Ref{TID: t.TID}, p.o.Force) })
		}
	}
	for _, f := range late {
		f()
	}
	p.portals(have, want)
	for _, a := range have.Accounts {
		if !slices.ContainsFunc(want.Accounts, func(o spec.Account) bool { return o.Name == a.Name }) {
			p.add("remove", fmt.Sprintf("account %q", a.Name), "", func(ctx context.Context) error { return p.m.RemoveAccount(ctx, a.Name) })
		}
	}
	return nil
}

func normalized(name string) string {
	n, _, _ := spec.NormalizeName(name)
	return n
}

func (p *plan) system(have, want *spec.Document) {
	if p.o.Keep && want.System == (spec.System{}) {
		return
	}
	if want.System.ISNS == (spec.ISNS{}) {
		want.System.ISNS = have.System.ISNS // files do not speak of it
	}
	if c := spec.Changes(have.System, want.System); c != "" {
		to := want.System
		p.add("change", "system", c, func(ctx context.Context) error {
			return p.m.EditSystem(ctx, func(s *spec.System) error { *s = to; return nil })
		})
	}
}

func (p *plan) addAccounts(have, want *spec.Document) {
	for _, a := range want.Accounts {
		what := fmt.Sprintf("account %q", a.Name)
		i := slices.IndexFunc(have.Accounts, func(o spec.Account) bool { return o.Name == a.Name })
		switch {
		case i < 0:
			p.add("add", what, "", func(ctx context.Context) error { return p.m.AddAccount(ctx, a) })
		case have.Accounts[i].Secret != a.Secret:
			p.add("change", what, "another secret", func(ctx context.Context) error { return p.m.SetSecret(ctx, a.Name, a.Secret) })
		}
	}
}

// portals adds before it removes, so that there is always a way in where there was one; one that differs goes first.
func (p *plan) portals(have, want *spec.Document) {
	same := func(a, b spec.Portal) bool { return portalAddr(a) == portalAddr(b) }
	remove := func(o spec.Portal) {
		p.add("remove", "portal "+o.Address, "", func(ctx context.Context) error { return p.m.RemovePortal(ctx, portalAddr(o)) })
	}
	for _, n := range want.Portals {
		i := slices.IndexFunc(have.Portals, func(o spec.Portal) bool { return same(o, n) })
		switch {
		case i >= 0 && groupOf(have.Portals[i]) == groupOf(n) && have.Portals[i].Advertise == n.Advertise:
			continue
		case i >= 0:
			remove(have.Portals[i])
		}
		p.add("add", "portal "+n.Address, "", func(ctx context.Context) error { _, err := p.m.AddPortal(ctx, n); return err })
	}
	for _, o := range have.Portals {
		if !p.o.Keep && !slices.ContainsFunc(want.Portals, func(n spec.Portal) bool { return same(o, n) }) {
			remove(o)
		}
	}
}

func groupOf(p spec.Portal) uint16 { return max(p.Group, 1) }

func portalAddr(p spec.Portal) netip.AddrPort {
	a, err := p.CheckPortal()
	if err != nil {
		return netip.AddrPort{}
	}
	return a
}

// target plans what makes t of was: LUNs that go are steps at once; what it returns plans the rest.
func (p *plan) target(was, t *spec.Target) (late []func()) {
	ref, what := Ref{TID: was.TID}, "target "+was.Name
	t.TID, t.Name = was.TID, was.Name
	if t.Redirect.Callback == "" {
		t.Redirect.Callback = was.Redirect.Callback
	}
	to := t.Clone()
	to.LUNs = was.LUNs
	if c := spec.Changes(*was, to); c != "" {
		late = append(late, func() {
			p.add("change", what, c, func(ctx context.Context) error {
				return p.m.EditTarget(ctx, ref, func(x *spec.Target) error { to.LUNs = x.LUNs; *x = to; return nil })
			})
		})
	}
	for i := range was.LUNs {
		if _, there := place(t, was.LUNs[i].Number); !there {
			l := was.LUNs[i]
			p.add("remove", lunName(was, l.Number), shown(l.Volume), func(ctx context.Context) error { return p.m.RemoveLUN(ctx, ref, l.Number, p.o.Force) })
		}
	}
	for i := range t.LUNs {
		n := t.LUNs[i].Clone()
		k, there := place(was, n.Number)
		if !there {
			late = append(late, func() {
				p.add("add", lunName(was, n.Number), shown(n.Volume), func(ctx context.Context) error { _, err := p.m.AddLUN(ctx, ref, n, p.o.Force); return err })
			})
			continue
		}
		late = append(late, p.lun(ref, was, &was.LUNs[k], n)...)
	}
	return late
}

func lunName(t *spec.Target, lun uint16) string { return fmt.Sprintf("target %s LUN %d", t.Name, lun) }

// lun plans what makes n of a LUN that was o. Another volume, or what cannot change while a disk is there, makes it another disk.
func (p *plan) lun(ref Ref, t *spec.Target, o *spec.LUN, n spec.LUN) []func() {
	other := n.Volume != o.Volume || max(n.BlockSize, 512) != max(o.BlockSize, 512) || n.TgtNaming != o.TgtNaming || n.Identity != "" && n.Identity != o.Identity
	if !other {
		n.Identity, n.BlockSize = o.Identity, o.BlockSize
		if n.Tgt == nil {
			n.Tgt = o.Tgt
		}
		if n.ModePages == nil {
			n.ModePages = o.ModePages
		}
	}
	c := spec.Changes(*o, n)
	if c == "" {
		return nil
	}
	if !other {
		return []func(){func() {
			p.add("change", lunName(t, n.Number), c, func(ctx context.Context) error {
				return p.m.EditLUN(ctx, ref, n.Number, func(x *spec.LUN) error { *x = n; return nil })
			})
		}}
	}
	was := o.Clone()
	p.add("remove", lunName(t, n.Number), shown(o.Volume), func(ctx context.Context) error { return p.m.RemoveLUN(ctx, ref, n.Number, p.o.Force) })
	return []func(){func() {
		p.add("add", lunName(t, n.Number), shown(n.Volume), func(ctx context.Context) error {
			_, err := p.m.AddLUN(ctx, ref, n, p.o.Force)
			if err != nil {
				if _, back := p.m.AddLUN(ctx, ref, was, true); back != nil {
					p.m.log.Warn("the LUN that was to be replaced could not be put back", "target", t.Name, "lun", n.Number, "error", back)
				}
			}
			return err
		})
	}}
}
