package spec

import (
	"maps"
	"slices"
)

// Clone returns a copy that shares nothing with d.
func (d *Document) Clone() Document {
	n := *d
	n.Portals = slices.Clone(d.Portals)
	n.Accounts = slices.Clone(d.Accounts)
	n.Discovery = d.Discovery.clone()
	n.Targets = make([]Target, len(d.Targets))
	for i := range d.Targets {
		n.Targets[i] = d.Targets[i].Clone()
	}
	return n
}

func (a Auth) clone() Auth {
	a.Incoming = slices.Clone(a.Incoming)
	return a
}

// Clone returns a copy that shares nothing with t.
func (t *Target) Clone() Target {
	n := *t
	n.Access = slices.Clone(t.Access)
	n.Auth = t.Auth.clone()
	n.Params = maps.Clone(t.Params)
	n.PortalGroups = slices.Clone(t.PortalGroups)
	n.LUNMaps = slices.Clone(t.LUNMaps)
	for i := range n.LUNMaps {
		n.LUNMaps[i].LUNs = slices.Clone(n.LUNMaps[i].LUNs)
	}
	n.LUNs = make([]LUN, len(t.LUNs))
	for i := range t.LUNs {
		n.LUNs[i] = t.LUNs[i].Clone()
	}
	return n
}

// Clone returns a copy that shares nothing with l.
func (l *LUN) Clone() LUN {
	n := *l
	n.Thin, n.WriteCache, n.Tgt = copied(l.Thin), copied(l.WriteCache), copied(l.Tgt)
	n.ModePages = slices.Clone(l.ModePages)
	return n
}

func copied[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}
