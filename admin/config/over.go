package config

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// Over returns what a daemon that has the document have is to serve once the file is applied. The file is the whole truth about the
// sections that it has, but for what it keeps; the others stay as they are. Of a target and a LUN that are there already it takes over what
// the file leaves open and what must not change by that: TID and identity.
func (f *File) Over(have *spec.Document) spec.Document {
	want, _ := f.Beside(have, &spec.Document{})
	return want
}

// Beside is Over for a daemon whose command line names some of what it has (line): these are none of the file's business, and are left as
// they are. It is an error if the file names one of these targets or accounts. A portal may be named by both.
func (f *File) Beside(have, line *spec.Document) (spec.Document, error) {
	portal := func(p spec.Portal) string { return p.Address }
	account := func(a spec.Account) string { return a.Name }
	ofLine := struct{ portals, accounts, targets map[string]bool }{set(line.Portals, portal), set(line.Accounts, account), set(line.Targets, targetKey)}
	for _, t := range f.Document.Targets {
		if ofLine.targets[targetKey(t)] {
			return spec.Document{}, fmt.Errorf("target %s is in the file and on the command line; take it from one of them", t.Name)
		}
	}
	for _, a := range f.Document.Accounts {
		if ofLine.accounts[a.Name] {
			return spec.Document{}, fmt.Errorf("account %q is in the file and on the command line; take it from one of them", a.Name)
		}
	}
	want, old := f.Document.Clone(), have.Clone()
	if f.Has&System == 0 {
		isns := want.System.ISNS
		if want.System = old.System; f.isns {
			want.System.ISNS = isns
		}
	}
	if f.Has&Discovery == 0 {
		want.Discovery = old.Discovery
	} else {
		want.Discovery = joined(line.Discovery, want.Discovery)
	}
	keep := func(s Section) bool { return f.Has&s == 0 || f.Keep&s != 0 }
	want.Portals = merge(old.Portals, want.Portals, keep(Portals), ofLine.portals, portal)
	want.Accounts = merge(old.Accounts, want.Accounts, keep(Accounts), ofLine.accounts, account)
	f.identify(want.Targets, &old)
	want.Targets = merge(old.Targets, want.Targets, keep(Targets), ofLine.targets, targetKey)
	slices.SortStableFunc(want.Targets, func(a, b spec.Target) int {
		if (a.TID == 0) != (b.TID == 0) {
			return cmp.Compare(b.TID, a.TID) // those that are yet to get one come last
		}
		return cmp.Compare(a.TID, b.TID)
	})
	return want, nil
}

// joined is what both ask for; the first says what lunar proves itself with where it says so.
func joined(a, b spec.Auth) spec.Auth {
	out := spec.Auth{Incoming: slices.Clone(a.Incoming), Outgoing: cmp.Or(a.Outgoing, b.Outgoing)}
	for _, name := range b.Incoming {
		if !slices.Contains(out.Incoming, name) {
			out.Incoming = append(out.Incoming, name)
		}
	}
	return out
}

func set[T any](list []T, key func(T) string) map[string]bool {
	m := make(map[string]bool, len(list))
	for i := range list {
		m[key(list[i])] = true
	}
	return m
}

// merge puts what is wanted in the order of what is there, and after it what is new. What is there and not wanted stays if keep or
// leave says so.
func merge[T any](old, want []T, keep bool, leave map[string]bool, key func(T) string) []T {
	wanted := make(map[string]int, len(want))
	for i := range want {
		wanted[key(want[i])] = i
	}
	var out []T
	done := make([]bool, len(want))
	for _, o := range old {
		k := key(o)
		if i, ok := wanted[k]; ok && !leave[k] {
			out = append(out, want[i])
			done[i] = true
		} else if keep || ok || leave[k] {
			out = append(out, o)
			if ok {
				done[i] = true
			}
		}
	}
	for i := range want {
		if !done[i] {
			out = append(out, want[i])
		}
	}
	return out
}

func targetKey(t spec.Target) string {
	norm, _, err := spec.NormalizeName(t.Name)
	if err != nil {
		return t.Name
	}
	return norm
}

// identify takes over from old what names targets and LUNs that are there already.
func (f *File) identify(want []spec.Target, old *spec.Document) {
	there := make(map[string]*spec.Target, len(old.Targets))
	taken := map[int]bool{}
	last := 0
	for i := range old.Targets {
		t := &old.Targets[i]
		there[targetKey(*t)] = t
		taken[t.TID] = true
		last = max(last, t.TID)
	}
	for i := range want {
		if !f.renumber[want[i].Name] {
			taken[want[i].TID] = true
		}
	}
	order := make([]*spec.Target, len(want))
	for i := range want {
		order[i] = &want[i]
	}
	if f.tgt {
		slices.SortFunc(order, func(a, b *spec.Target) int { return cmp.Compare(a.Name, b.Name) })
	}
	for _, t := range order {
		o := there[targetKey(*t)]
		switch {
		case o != nil && (t.TID == 0 || f.renumber[t.Name]):
			t.TID = o.TID
		case f.renumber[t.Name]:
			// tgt-admin's rule: the one after the last that it gave, beginning above the largest that is there.
			for last++; taken[last]; last++ {
			}
			t.TID = last
			taken[last] = true
		case f.tgt:
			last = t.TID
		}
		if f.tgt {
			// targets.conf has no words for these: tgtd gives its own to targets that are made, and nobody else may have changed them.
			t.NopInterval, t.NopCount = old.System.NopInterval, old.System.NopCount
		}
		if o == nil {
			continue
		}
		if f.tgt {
			t.NopInterval, t.NopCount = o.NopInterval, o.NopCount
		}
		for i := range t.LUNs {
			l := &t.LUNs[i]
			j := slices.IndexFunc(o.LUNs, func(x spec.LUN) bool { return x.Number == l.Number })
			if j >= 0 && l.Identity == "" && l.Volume == o.LUNs[j].Volume {
				l.Identity = o.LUNs[j].Identity
			}
		}
	}
}
