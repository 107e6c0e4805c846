package conv

import (
	"math"
	"strings"

	"github.com/lunar-iscsi/lunar/admin"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/admin/spec"
)

// text is s as a message can hold it.
func text(s string) string { return strings.ToValidUTF8(s, "�") }

func texts(list []string) []string {
	var out []string
	for _, s := range list {
		out = append(out, text(s))
	}
	return out
}

// number is n as a message can hold it. What the words allow fits; what does not came past their check.
func number(n int) int32 { return int32(min(max(n, math.MinInt32), math.MaxInt32)) }

// FromDocument leaves the secrets out.
func FromDocument(d *spec.Document) *api.Document {
	m := &api.Document{System: FromSystem(d.System), Discovery: fromAuth(d.Discovery)}
	for _, p := range d.Portals {
		m.Portals = append(m.Portals, FromPortal(p))
	}
	for _, a := range d.Accounts {
		m.Accounts = append(m.Accounts, &api.Account{Name: text(a.Name)})
	}
	for i := range d.Targets {
		m.Targets = append(m.Targets, FromTarget(&d.Targets[i]))
	}
	return m
}

// FromAccountWithSecret is for what is sent to a daemon.
func FromAccountWithSecret(a spec.Account) *api.Account {
	return &api.Account{Name: text(a.Name), Secret: text(a.Secret)}
}

// FromSystem makes a message.
func FromSystem(s spec.System) *api.System {
	m := &api.System{Offline: s.Offline, Debug: s.Debug, NopInterval: number(s.NopInterval), NopCount: number(s.NopCount)}
	if s.ISNS != (spec.ISNS{}) {
		m.Isns = &api.Isns{Server: text(s.ISNS.Server), Port: number(s.ISNS.Port), AccessControl: s.ISNS.AccessControl}
	}
	return m
}

// FromPortal makes a message.
func FromPortal(p spec.Portal) *api.Portal {
	return &api.Portal{Address: text(p.Address), Group: uint32(p.Group), Advertise: text(p.Advertise)}
}

// FromPortalState makes a message.
func FromPortalState(p admin.PortalState) *api.PortalState {
	m := &api.PortalState{Spec: FromPortal(p.Spec)}
	if p.Bound.IsValid() {
		m.Bound = p.Bound.String()
	}
	return m
}

func fromAuth(a spec.Auth) *api.Auth {
	if len(a.Incoming) == 0 && a.Outgoing == "" {
		return nil
	}
	return &api.Auth{Incoming: texts(a.Incoming), Outgoing: text(a.Outgoing)}
}

// FromTarget makes a message.
func FromTarget(t *spec.Target) *api.Target {
	m := &api.Target{
		Tid: number(t.TID), Name: text(t.Name), Alias: text(t.Alias), Offline: t.Offline, ExactNames: t.ExactNames, TgtNaming: t.TgtNaming,
		Access: FromRules(t.Access), Auth: fromAuth(t.Auth), LunMaps: FromLUNMaps(t.LUNMaps),
		NopInterval: number(t.NopInterval), NopCount: number(t.NopCount), NoController: t.NoController,
	}
	for k, v := range t.Params {
		if m.Params == nil {
			m.Params = make(map[string]string, len(t.Params))
		}
		m.Params[text(k)] = text(v)
	}
	if r := t.Redirect; r != (spec.Redirect{}) {
		m.Redirect = &api.Redirect{Address: text(r.Address), Port: number(r.Port), Permanent: r.Permanent, Temporary: r.Temporary, Callback: text(r.Callback)}
	}
	for _, g := range t.PortalGroups {
		m.PortalGroups = append(m.PortalGroups, uint32(g))
	}
	for i := range t.LUNs {
		m.Luns = append(m.Luns, FromLUN(&t.LUNs[i]))
	}
	return m
}

// FromRules makes messages.
func FromRules(rules []spec.Rule) []*api.Rule {
	var out []*api.Rule
	for _, r := range rules {
		out = append(out, &api.Rule{Initiator: text(r.Initiator), Address: text(r.Address), NoReset: r.NoReset, ReadOnly: r.ReadOnly})
	}
	return out
}

// FromLUNMaps makes messages.
func FromLUNMaps(maps []spec.LUNMap) []*api.LunMap {
	var out []*api.LunMap
	for _, l := range maps {
		m := &api.LunMap{Initiator: text(l.Initiator)}
		for _, x := range l.LUNs {
			m.Luns = append(m.Luns, &api.MappedLun{As: uint32(x.As), Lun: uint32(x.LUN)})
		}
		out = append(out, m)
	}
	return out
}

// FromLUN makes a message.
func FromLUN(l *spec.LUN) *api.Lun {
	m := &api.Lun{
		Number: uint32(l.Number), Volume: text(l.Volume), Identity: text(l.Identity), Offline: l.Offline,
		Vendor: text(l.Vendor), Product: text(l.Product), Revision: text(l.Revision), Serial: text(l.Serial), ScsiId: text(l.SCSIID),
		TgtNaming: l.TgtNaming, BlockSize: number(l.BlockSize), PhysicalBlock: number(l.PhysicalBlock), ReadOnly: l.ReadOnly, Removable: l.Removable,
		Thin: copied(l.Thin), WriteCache: copied(l.WriteCache), DescriptorSense: l.DescriptorSense, RotationRate: number(l.RotationRate),
		LowestAligned: number(l.LowestAligned), OptimalGranularity: number(l.OptimalGranularity), OptimalLength: number(l.OptimalLength),
		NoUnmap: l.NoUnmap, NoWriteSame: l.NoWriteSame, NoCompareAndWrite: l.NoCompareAndWrite, ModePages: texts(l.ModePages),
		Timeout: number(l.Timeout), OnTimeout: text(l.OnTimeout), Away: text(l.Away),
	}
	if t := l.Tgt; t != nil {
		m.Tgt = &api.TgtStore{Type: text(t.Type), Path: text(t.Path), Options: text(t.Options), Flags: text(t.Flags)}
	}
	return m
}

func copied(p *bool) *bool {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}
