package target

import (
	"slices"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A table is an immutable snapshot of what logins and discovery need to know. A new one is published for every
// change.
type table struct {
	targets []*Target          // sorted by name
	byName  map[string]*Target // normalised name
	portals []*portal
}

func (t *table) with(add, remove *Target) *table {
	n := &table{byName: make(map[string]*Target, len(t.targets)+1), portals: t.portals}
	for _, o := range t.targets {
		if o != remove {
			n.targets = append(n.targets, o)
			n.byName[o.name] = o
		}
	}
	if add != nil {
		i, _ := slices.BinarySearchFunc(n.targets, add, func(a, b *Target) int { return strings.Compare(a.name, b.name) })
		n.targets = slices.Insert(n.targets, i, add)
		n.byName[add.name] = add
	}
	return n
}

// sendTargets returns the keys that answer SendTargets=what to who, that came in by w: in a discovery session (own is
// empty) about any target that it can reach and may use, in a normal one about own alone. ok is false for what is to be rejected (RFC
// 7143 appendix C).
func (t *table) sendTargets(what, own string, who login.Initiator, w way) (keys []byte, ok bool) {
	may := func(o *Target) bool {
		_, ok := o.conf.Load().acl.admits(who, w.from)
		return ok || own != ""
	}
	show := t.targets
	switch {
	case what == "All" && own == "":
	case what == "" && own == "":
		return nil, false
	default:
		// A normal session tells of its own target for All, too: a deviation.
		name := own
		if what != "" && what != "All" {
			var err error
			if name, err = login.NormalizeTargetName(what); err != nil || own != "" && name != own {
				return nil, false
			}
		}
		o := t.byName[name]
		if show = nil; o != nil && may(o) {
			show = []*Target{o}
		} else if _, err := login.NormalizeName(name); err != nil {
			return nil, false // no iSCSI name, and for this initiator nobody's
		}
	}
	for _, o := range show {
		if !may(o) {
			continue
		}
		list := t.addresses(o, w)
		if len(list) == 0 {
			continue // not to be reached from there: a name without addresses would mean this portal
		}
		keys = pdu.AppendKey(keys, "TargetName", o.name)
		for _, a := range list {
			keys = pdu.AppendKey(keys, "TargetAddress", a)
		}
	}
	return keys, true
}

// addresses lists the portals of o's as an initiator that came in by w can reach them, with their portal group tags.
func (t *table) addresses(o *Target, w way) (list []string) {
	c := o.conf.Load()
	for _, p := range t.portals {
		if !c.on(p.group) {
			continue
		}
		a, ok := p.told(w)
		if !ok {
			continue
		}
		a += "," + strconv.Itoa(int(p.group))
		switch {
		case slices.Contains(list, a):
		case p == w.portal:
			list = slices.Insert(list, 0, a) // the way the initiator came first: it is known to work
		default:
			list = append(list, a)
		}
	}
	return list
}

// groups lists the portal groups that lead to o, ascending.
func (t *table) groups(o *Target) (list []uint16) {
	c := o.conf.Load()
	for _, p := range t.portals {
		if c.on(p.group) {
			list = append(list, p.group)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}
