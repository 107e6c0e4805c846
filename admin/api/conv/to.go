package conv

import (
	"fmt"
	"math"

	"github.com/lunar-iscsi/lunar/admin"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// A reader makes words of messages, and keeps the first thing that does not fit.
type reader struct{ err *admin.Error }

func (r *reader) bad(field, format string, args ...any) {
	if r.err == nil {
		r.err = admin.Errorf(admin.Invalid, "%s: %w", field, fmt.Errorf(format, args...))
	}
}

// result is the error as an error: nil where there is none.
func (r *reader) result() error {
	if r.err == nil {
		return nil
	}
	return r.err
}

func (r *reader) upTo(field string, v uint32, limit uint32) uint16 {
	if v > limit {
		r.bad(field, "%d is not within 0-%d", v, limit)
		return 0
	}
	return uint16(v)
}

func (r *reader) lun(field string, v uint32) uint16 { return r.upTo(field, v, sam.MaxFlatLUN) }
func (r *reader) u16(field string, v uint32) uint16 { return r.upTo(field, v, math.MaxUint16) }

// natural is a number that is not negative.
func (r *reader) natural(field string, v int32) int {
	if v < 0 {
		r.bad(field, "%d is negative", v)
	}
	return int(v)
}

// line is text without control characters: it ends in log lines and on terminals.
func (r *reader) line(field, s string) string {
	for _, c := range s {
		if c < ' ' || c == 0x7f {
			r.bad(field, "%q has a control character", s)
			break
		}
	}
	return s
}

func (r *reader) lines(field string, list []string) []string {
	var out []string
	for i, s := range list {
		out = append(out, r.line(fmt.Sprintf("%s[%d]", field, i), s))
	}
	return out
}

// ToRef makes a word. An absent message, or one that names nothing, is Invalid.
func ToRef(m *api.TargetRef) (admin.Ref, error) {
	switch t := m.GetTarget().(type) {
	case *api.TargetRef_Name:
		if t.Name == "" {
			return admin.Ref{}, admin.Errorf(admin.Invalid, "target: the name is empty")
		}
		return admin.Ref{Name: t.Name}, nil
	case *api.TargetRef_Tid:
		if t.Tid < 1 {
			return admin.Ref{}, admin.Errorf(admin.Invalid, "target: tid %d is below 1", t.Tid)
		}
		return admin.Ref{TID: int(t.Tid)}, nil
	}
	return admin.Ref{}, &admin.Error{Code: admin.Invalid, Text: "target: not given", Hint: "name the target by its name or its tid"}
}

// ToLUNNumber makes a word.
func ToLUNNumber(field string, v uint32) (uint16, error) {
	var r reader
	n := r.lun(field, v)
	return n, r.result()
}

// ToDocument makes words, with the secrets that are given.
func ToDocument(m *api.Document) (spec.Document, error) {
	var r reader
	var d spec.Document
	d.System = r.system("system", m.GetSystem())
	for i, p := range m.GetPortals() {
		d.Portals = append(d.Portals, r.portal(fmt.Sprintf("portals[%d]", i), p))
	}
	for i, a := range m.GetAccounts() {
		d.Accounts = append(d.Accounts, r.account(fmt.Sprintf("accounts[%d]", i), a))
	}
	d.Discovery = r.auth("discovery", m.GetDiscovery())
	for i, t := range m.GetTargets() {
		d.Targets = append(d.Targets, r.target(fmt.Sprintf("targets[%d]", i), t))
	}
	return d, r.result()
}

// ToSystem makes words.
func ToSystem(m *api.System) (spec.System, error) {
	var r reader
	s := r.system("system", m)
	return s, r.result()
}

func (r *reader) system(field string, m *api.System) spec.System {
	return spec.System{Offline: m.GetOffline(), Debug: m.GetDebug(),
		NopInterval: r.natural(field+".nop_interval", m.GetNopInterval()), NopCount: r.natural(field+".nop_count", m.GetNopCount()),
		ISNS: spec.ISNS{Server: r.line(field+".isns.server", m.GetIsns().GetServer()), Port: r.port(field+".isns.port", m.GetIsns().GetPort()), AccessControl: m.GetIsns().GetAccessControl()}}
}

func (r *reader) port(field string, v int32) int {
	if v < 0 || v > math.MaxUint16 {
		r.bad(field, "%d is not within 0-65535", v)
	}
	return int(v)
}

// ToPortal makes words. An absent message is Invalid.
func ToPortal(m *api.Portal) (spec.Portal, error) {
	var r reader
	if m == nil {
		r.bad("portal", "not given")
	}
	p := r.portal("portal", m)
	return p, r.result()
}

func (r *reader) portal(field string, m *api.Portal) spec.Portal {
	return spec.Portal{Address: r.line(field+".address", m.GetAddress()), Group: r.u16(field+".group", m.GetGroup()), Advertise: r.line(field+".advertise", m.GetAdvertise())}
}

// ToAccount makes words. An absent message is Invalid.
func ToAccount(m *api.Account) (spec.Account, error) {
	var r reader
	if m == nil {
		r.bad("account", "not given")
	}
	a := r.account("account", m)
	return a, r.result()
}

func (r *reader) account(field string, m *api.Account) spec.Account {
	if m.GetName() == "" {
		r.bad(field+".name", "it is empty")
	}
	return spec.Account{Name: r.line(field+".name", m.GetName()), Secret: m.GetSecret()}
}

func (r *reader) auth(field string, m *api.Auth) spec.Auth {
	return spec.Auth{Incoming: r.lines(field+".incoming", m.GetIncoming()), Outgoing: r.line(field+".outgoing", m.GetOutgoing())}
}

// ToTarget makes words. An absent message is Invalid.
func ToTarget(m *api.Target) (spec.Target, error) {
	var r reader
	if m == nil {
		r.bad("target", "not given")
	}
	t := r.target("target", m)
	return t, r.result()
}

func (r *reader) target(field string, m *api.Target) spec.Target {
	t := spec.Target{
		TID: r.natural(field+".tid", m.GetTid()), Name: r.line(field+".name", m.GetName()), Alias: r.line(field+".alias", m.GetAlias()),
		Offline: m.GetOffline(), ExactNames: m.GetExactNames(), TgtNaming: m.GetTgtNaming(), Auth: r.auth(field+".auth", m.GetAuth()),
		NopInterval: r.natural(field+".nop_interval", m.GetNopInterval()), NopCount: r.natural(field+".nop_count", m.GetNopCount()),
		NoController: m.GetNoController(),
	}
	for i, rule := range m.GetAccess() {
		t.Access = append(t.Access, r.rule(fmt.Sprintf("%s.access[%d]", field, i), rule))
	}
	for i, l := range m.GetLunMaps() {
		t.LUNMaps = append(t.LUNMaps, r.lunMap(fmt.Sprintf("%s.lun_maps[%d]", field, i), l))
	}
	for k, v := range m.GetParams() {
		if t.Params == nil {
			t.Params = make(map[string]string, len(m.GetParams()))
		}
		t.Params[r.line(field+".params", k)] = r.line(field+".params["+k+"]", v)
	}
	if d := m.GetRedirect(); d != nil {
		t.Redirect = spec.Redirect{Address: r.line(field+".redirect.address", d.GetAddress()), Port: r.port(field+".redirect.port", d.GetPort()),
			Permanent: d.GetPermanent(), Temporary: d.GetTemporary(), Callback: r.line(field+".redirect.callback", d.GetCallback())}
	}
	for i, g := range m.GetPortalGroups() {
		t.PortalGroups = append(t.PortalGroups, r.u16(fmt.Sprintf("%s.portal_groups[%d]", field, i), g))
	}
	for i, l := range m.GetLuns() {
		t.LUNs = append(t.LUNs, r.disk(fmt.Sprintf("%s.luns[%d]", field, i), l))
	}
	return t
}

// ToRule makes words. An absent message, or one that names nothing, is Invalid.
func ToRule(m *api.Rule) (spec.Rule, error) {
	var r reader
	if m.GetInitiator() == "" && m.GetAddress() == "" {
		r.bad("rule", "it names neither an initiator nor an address")
	}
	rule := r.rule("rule", m)
	return rule, r.result()
}

func (r *reader) rule(field string, m *api.Rule) spec.Rule {
	return spec.Rule{Initiator: r.line(field+".initiator", m.GetInitiator()), Address: r.line(field+".address", m.GetAddress()), NoReset: m.GetNoReset(), ReadOnly: m.GetReadOnly()}
}

// ToMappedLUNs makes words.
func ToMappedLUNs(field string, list []*api.MappedLun) ([]spec.MappedLUN, error) {
	var r reader
	out := r.mapped(field, list)
	return out, r.result()
}

func (r *reader) mapped(field string, list []*api.MappedLun) []spec.MappedLUN {
	var out []spec.MappedLUN
	for i, m := range list {
		f := fmt.Sprintf("%s[%d]", field, i)
		out = append(out, spec.MappedLUN{As: r.lun(f+".as", m.GetAs()), LUN: r.lun(f+".lun", m.GetLun())})
	}
	return out
}

func (r *reader) lunMap(field string, m *api.LunMap) spec.LUNMap {
	return spec.LUNMap{Initiator: r.line(field+".initiator", m.GetInitiator()), LUNs: r.mapped(field+".luns", m.GetLuns())}
}

// ToLUN makes words. An absent message is Invalid.
func ToLUN(m *api.Lun) (spec.LUN, error) {
	var r reader
	if m == nil {
		r.bad("lun", "not given")
	}
	l := r.disk("lun", m)
	return l, r.result()
}

func (r *reader) disk(field string, m *api.Lun) spec.LUN {
	l := spec.LUN{
		Number: r.lun(field+".number", m.GetNumber()), Volume: r.line(field+".volume", m.GetVolume()), Identity: r.line(field+".identity", m.GetIdentity()),
		Offline: m.GetOffline(), Vendor: r.line(field+".vendor", m.GetVendor()), Product: r.line(field+".product", m.GetProduct()),
		Revision: r.line(field+".revision", m.GetRevision()), Serial: r.line(field+".serial", m.GetSerial()), SCSIID: r.line(field+".scsi_id", m.GetScsiId()),
		TgtNaming: m.GetTgtNaming(), BlockSize: r.natural(field+".block_size", m.GetBlockSize()), PhysicalBlock: r.natural(field+".physical_block", m.GetPhysicalBlock()),
		ReadOnly: m.GetReadOnly(), Removable: m.GetRemovable(), DescriptorSense: m.GetDescriptorSense(), RotationRate: r.natural(field+".rotation_rate", m.GetRotationRate()),
		LowestAligned: r.natural(field+".lowest_aligned", m.GetLowestAligned()), OptimalGranularity: r.natural(field+".optimal_granularity", m.GetOptimalGranularity()),
		OptimalLength: r.natural(field+".optimal_length", m.GetOptimalLength()),
		NoUnmap:       m.GetNoUnmap(), NoWriteSame: m.GetNoWriteSame(), NoCompareAndWrite: m.GetNoCompareAndWrite(), ModePages: r.lines(field+".mode_pages", m.GetModePages()),
		Timeout: r.natural(field+".timeout", m.GetTimeout()), OnTimeout: r.line(field+".on_timeout", m.GetOnTimeout()), Away: r.line(field+".away", m.GetAway()),
	}
	if m != nil {
		l.Thin, l.WriteCache = copied(m.Thin), copied(m.WriteCache)
	}
	if t := m.GetTgt(); t != nil {
		l.Tgt = &spec.TgtStore{Type: r.line(field+".tgt.type", t.GetType()), Path: r.line(field+".tgt.path", t.GetPath()),
			Options: r.line(field+".tgt.options", t.GetOptions()), Flags: r.line(field+".tgt.flags", t.GetFlags())}
	}
	return l
}
