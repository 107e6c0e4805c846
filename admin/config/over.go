package config

import (
	"cmp"
	"slices"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// Over returns what a daemon that has the document have is to serve once the file is applied. The file is the whole truth about the
// sections that it has, but for what it keeps; the others stay as they are. Of a target and a LUN that are there already it takes over what
// the file leaves open and what must not change by that: TID and identity.
func (f *File) Over(have *spec.Document) spec.Document {
	want, old := f.Document.Clone(), have.Clone()
	if f.Has&System == 0 {
		isns := want.System.ISNS
		if want.System = old.System; f.isns {
			want.System.ISNS = isns
		}
	}
	if f.Has&Discovery == 0 {
		want.Discovery = old.Discovery
	}
	want.Portals = merge(old.Portals, want.Portals, f.Has&Portals != 0, f.Keep&Portals != 0, func(p spec.Portal) string { return p.Address })
	want.Accounts = merge(old.Accounts, want.Accounts, f.Has&Accounts != 0, f.Keep&Accounts != 0, func(a spec.Account) string { return a.Name })
	f.identify(want.Targets, &old)
	want.Targets = merge(old.Targets, want.Targets, f.Has&Targets != 0, f.Keep&Targets != 0, targetKey)
	slices.SortStableFunc(want.Targets, func(a, b spec.Target) int {
		if (a.TID == 0) != (b.TID == 0) {
			return cmp.Compare(b.TID, a.TID) // those that are yet to get one come last
		}
		return cmp.Compare(a.TID, b.TID)
	})
	return want
}

// merge puts what is wanted in the order of what is there, and after it what is new.
func merge[T any](old, want []T, has, keep bool, key func(T) string) []T {
	if !has {
		return old
	}
	wanted := make(map[string]int, len(want))
	for i := range want {
		wanted[key(want[i])] = i
	}
	var out []T
	done := make([]bool, len(want))
	for _, o := range old {
		if i, ok := wanted[key(o)]; ok {
			out = append(out, want[i])
			done[i] = true
		} else if keep {
			out = append(out, o)
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
