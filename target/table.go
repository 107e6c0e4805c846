package target

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A table is an immutable snapshot of what logins and discovery need to know. A new one is published for every
// change.
type table struct {
	targets []*Target          // sorted by name
	byName  map[string]*Target // normalised name
	portals []netip.AddrPort
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

// portalGroup is the one target portal group: every portal leads to every target.
const portalGroup = 1

// A policy answers what one login asks, from the snapshot of the moment.
type policy struct{ s *Server }

// Target is login.Policy's.
func (p policy) Target(initiator, name string) (login.TargetInfo, pdu.LoginStatus) {
	t := p.s.table.Load().byName[name]
	if t == nil {
		return login.TargetInfo{}, pdu.TargetNotFound
	}
	if !t.ready.Load() {
		return login.TargetInfo{}, pdu.ServiceUnavailable
	}
	return login.TargetInfo{Alias: t.cfg.Alias, Auth: p.s.cfg.Auth}, pdu.LoginSuccess
}

// Discovery is login.Policy's.
func (p policy) Discovery(string) (login.Auth, pdu.LoginStatus) {
	return p.s.cfg.Auth, pdu.LoginSuccess
}

// sendTargets returns the keys that answer SendTargets=what on a connection that came in on local. all is whether
// every target may be told of, else only own (RFC 7143 appendix C).
func (t *table) sendTargets(what, own string, local netip.AddrPort) (keys []byte, ok bool) {
	var show []*Target
	switch {
	case what == "All" && own == "":
		show = t.targets
	case what == "" && own != "", what == "All":
		what = own
		fallthrough
	default:
		name, err := login.NormalizeName(what)
		if err != nil || own != "" && name != own {
			return nil, false
		}
		if o := t.byName[name]; o != nil {
			show = []*Target{o}
		}
	}
	for _, o := range show {
		keys = pdu.AppendKey(keys, "TargetName", o.name)
		for _, a := range t.addresses(local) {
			keys = pdu.AppendKey(keys, "TargetAddress", a.String()+",1")
		}
	}
	return keys, true
}

// addresses lists the portals as an initiator can reach them: a wildcard portal is told as the address that the
// connection came in on.
func (t *table) addresses(local netip.AddrPort) []netip.AddrPort {
	var out []netip.AddrPort
	add := func(a netip.AddrPort) {
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	for _, p := range t.portals {
		if p.Addr().IsUnspecified() {
			p = netip.AddrPortFrom(local.Addr(), p.Port())
		}
		if p == local {
			out = slices.Insert(out, 0, p) // the way the initiator came first: it is known to work
			continue
		}
		add(p)
	}
	return slices.Compact(out)
}
