package spec

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/login"
)

func (t *Target) check(at place, known func(string) bool) error {
	if err := checkRange(at.field("tid"), t.TID, 0, MaxTID); err != nil {
		return err
	}
	if _, _, err := NormalizeName(t.Name); err != nil {
		return at.field("name").errorf("%v", err)
	}
	if err := checkText(at.field("alias"), t.Alias, MaxAlias); err != nil {
		return err
	}
	if err := checkCount(at.field("access"), len(t.Access), MaxRulesTarget); err != nil {
		return err
	}
	for i := range t.Access {
		r := at.at(fmt.Sprintf("access[%d]", i), fmt.Sprintf("access rule %d", i+1))
		if err := t.Access[i].check(r); err != nil {
			return err
		}
	}
	if err := t.Auth.check(at.field("auth"), known); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(t.Params)) {
		if err := CheckParam(name, t.Params[name]); err != nil {
			return at.field("params").field(name).errorf("%v", err)
		}
	}
	if err := checkRange(at.field("nop-interval"), t.NopInterval, 0, MaxNop); err != nil {
		return err
	}
	if err := checkRange(at.field("nop-count"), t.NopCount, 0, MaxNop); err != nil {
		return err
	}
	if err := t.Redirect.check(at.field("redirect")); err != nil {
		return err
	}
	if err := checkCount(at.field("portal-groups"), len(t.PortalGroups), MaxGroupsTarget); err != nil {
		return err
	}
	for i, g := range t.PortalGroups {
		if g == 0 {
			return at.at(fmt.Sprintf("portal-groups[%d]", i), "portal-groups").errorf("tags are 1 to 65535")
		}
		if slices.Contains(t.PortalGroups[:i], g) {
			return at.at(fmt.Sprintf("portal-groups[%d]", i), "portal-groups").errorf("%d is there twice", g)
		}
	}
	if err := t.checkLUNs(at); err != nil {
		return err
	}
	return t.checkMaps(at)
}

func (t *Target) checkLUNs(at place) error {
	for i := range t.LUNs {
		l := &t.LUNs[i]
		lu := at.at(fmt.Sprintf("luns[%d]", i), fmt.Sprintf("LUN %d", l.Number))
		if err := l.check(lu); err != nil {
			return err
		}
		if slices.ContainsFunc(t.LUNs[:i], func(o LUN) bool { return o.Number == l.Number }) {
			return lu.field("lun").errorf("the LUN is there twice")
		}
		if l.Number == 0 && !t.NoController {
			return lu.field("lun").errorf("LUN 0 is the controller; a disk there wants a target without one (no-controller)")
		}
	}
	return nil
}

func (t *Target) checkMaps(at place) error {
	if err := checkCount(at.field("lun-maps"), len(t.LUNMaps), MaxMapsTarget); err != nil {
		return err
	}
	for i := range t.LUNMaps {
		m := &t.LUNMaps[i]
		mp := at.at(fmt.Sprintf("lun-maps[%d]", i), fmt.Sprintf("LUN map %d", i+1))
		if m.Initiator == "" {
			return mp.field("initiator").errorf("empty: a map is of some initiators, * for all")
		}
		if err := checkPattern(mp.field("initiator"), m.Initiator); err != nil {
			return err
		}
		for k, l := range m.LUNs {
			one := mp.at(fmt.Sprintf("luns[%d]", k), fmt.Sprintf("LUN %d as %d", l.LUN, l.As))
			if l.As > sam.MaxFlatLUN || l.LUN > sam.MaxFlatLUN {
				return one.errorf("LUNs are 0 to %d", sam.MaxFlatLUN)
			}
			if slices.ContainsFunc(m.LUNs[:k], func(o MappedLUN) bool { return o.As == l.As }) {
				return one.field("as").errorf("another LUN is shown as %d", l.As)
			}
		}
	}
	return nil
}

func (r *Rule) check(at place) error {
	if r.Initiator == "" && r.Address == "" {
		return at.errorf("names neither an initiator nor an address; address: ALL admits everybody")
	}
	if err := checkPattern(at.field("initiator"), r.Initiator); err != nil {
		return err
	}
	return checkText(at.field("address"), r.Address, MaxAlias)
}

// checkPattern checks a pattern of initiator names: tgt takes any text as one.
func checkPattern(at place, s string) error { return checkText(at, s, login.MaxNameLen) }

// CheckAddress reports whether a rule's address says something, as target.ParseAddress has it: tgt's faces and files keep one that does
// not, which then matches nobody; a call of lunar's own is refused.
func CheckAddress(s string) error {
	if s == "ALL" {
		return nil
	}
	addr, bits, network := strings.Cut(s, "/")
	in, bracketed := strings.CutPrefix(addr, "[")
	if bracketed {
		var closed bool
		if addr, closed = strings.CutSuffix(in, "]"); !closed {
			return fmt.Errorf("%q: a bracket is not closed", s)
		}
	}
	a, err := netip.ParseAddr(addr)
	switch {
	case err != nil && strings.EqualFold(s, "ALL"):
		return fmt.Errorf("%q: want ALL, in capitals, for everybody", s)
	case err != nil || bracketed && a.Is4():
		return fmt.Errorf("%q: want ALL, an IP address, or a network as 192.0.2.0/24 or [2001:db8::]/32", s)
	case a.Zone() != "":
		return fmt.Errorf("%q: a zone is this host's own name for a link, leave it out", s)
	case !network:
		return nil
	}
	p, err := netip.ParsePrefix(addr + "/" + bits)
	switch {
	case err != nil:
		return fmt.Errorf("%q: want a length of 0 to %d behind the slash", s, a.BitLen())
	case a.Is4In6() && p.Bits() < 96:
		return fmt.Errorf("%q: a network of IPv4 addresses in their IPv6 form has a length of 96 or more", s)
	}
	return nil
}

func checkCount(at place, n, most int) error {
	if n > most {
		return at.errorf("%d of them, at most %d are allowed", n, most)
	}
	return nil
}
