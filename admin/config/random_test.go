package config

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// awkward are texts that YAML gives a meaning when they are not quoted.
var awkward = []string{
	"a", "yes", "No", "on", "null", "~", "true", "0x10", "010", "1e3", ".inf", "1_000", "- a", "? b", ": c", "a: b", "a #b", "#c", "*d", "&e", "!f", "|", ">", "%g", "@h", "`i`",
	"'quoted'", `"double"`, `back\slash`, " leading", "trailing ", "[1]", "{a: b}", "a,b", "ü", "日本", "😀", "a\u2028b", "a\u00a0b", "<hidden>x", "=", "<<", "2026-11-26", "12:30:45", "iqn.x:y:", "...", "---", "$x ${y}",
}

func randomDocument(r *rand.Rand) spec.Document {
	text := func(most int) string {
		s := awkward[r.IntN(len(awkward))]
		if len(s) > most {
			return "x"
		}
		return s
	}
	ascii := func(most int) string {
		for {
			if s := text(most); strings.IndexFunc(s, func(c rune) bool { return c > 0x7e }) < 0 {
				return s
			}
		}
	}
	maybe := func(f func()) {
		if r.IntN(3) == 0 {
			f()
		}
	}
	yes := func() bool { return r.IntN(3) == 0 }
	number := func(most int) int { return r.IntN(2) * r.IntN(most+1) }
	var d spec.Document
	maybe(func() {
		d.System = spec.System{Offline: yes(), Debug: yes(), NopInterval: number(100), NopCount: number(9), ISNS: spec.ISNS{Server: text(9), Port: number(9), AccessControl: yes()}}
	})
	for i := range r.IntN(3) {
		p := spec.Portal{Address: fmt.Sprintf([]string{"192.0.2.1:%d", "[2001:db8::1]:%d"}[r.IntN(2)], 3260+i)}
		maybe(func() { p.Group = uint16(r.IntN(9)) })
		maybe(func() { p.Advertise = "[2001:db8::2]:3260" })
		d.Portals = append(d.Portals, p)
	}
	var names []string
	for i := range r.IntN(4) {
		name := fmt.Sprintf("%s%d", text(20), i)
		names = append(names, name)
		d.Accounts = append(d.Accounts, spec.Account{Name: name, Secret: text(99) + fmt.Sprint(r.Uint64())})
	}
	auth := func() (a spec.Auth) {
		if len(names) > 0 && yes() {
			a.Incoming = append(a.Incoming, names[:1+r.IntN(len(names))]...)
		}
		if len(names) > 0 && yes() {
			a.Outgoing = names[0]
		}
		return a
	}
	d.Discovery = auth()
	for i := range r.IntN(4) {
		t := spec.Target{TID: i + 1, Name: fmt.Sprintf("iqn.2026-11.io.lunar:%d", i), Offline: yes(), ExactNames: yes(), TgtNaming: yes(), NopInterval: number(99), NopCount: number(9), NoController: yes(), Auth: auth()}
		maybe(func() { t.Alias = text(99) })
		for range r.IntN(4) {
			rule := spec.Rule{Address: []string{"ALL", "192.0.2.0/24", "[2001:db8::]/32", "", text(40)}[r.IntN(5)], NoReset: yes(), ReadOnly: yes()}
			if rule.Address == "" || yes() {
				rule.Initiator = []string{"iqn.*", "*", "eui.0123456789abcdef", text(40)}[r.IntN(4)]
			}
			t.Access = append(t.Access, rule)
		}
		maybe(func() {
			t.LUNMaps = []spec.LUNMap{{Initiator: text(40), LUNs: []spec.MappedLUN{{As: 0, LUN: 0}, {As: 5, LUN: 2}}}, {Initiator: "*"}}
		})
		maybe(func() {
			t.Params = map[string]string{"HeaderDigest": "None,CRC32C", "InitialR2T": "No", "MaxBurstLength": "65536"}
		})
		maybe(func() {
			t.Redirect = spec.Redirect{Address: "192.0.2.9", Port: number(9), Permanent: yes(), Temporary: yes(), Callback: text(99)}
		})
		maybe(func() { t.PortalGroups = []uint16{1, 7} })
		first := 1
		if t.NoController {
			first = 0
		}
		for n := range r.IntN(4) {
			l := spec.LUN{Number: uint16(first + n), Identity: text(99), Offline: yes(), Vendor: ascii(8), Product: ascii(16), Revision: ascii(4), Serial: ascii(36), SCSIID: ascii(36), TgtNaming: yes(),
				ReadOnly: yes(), Removable: yes(), DescriptorSense: yes(), RotationRate: number(9), LowestAligned: number(9), OptimalGranularity: number(9), OptimalLength: number(9),
				NoUnmap: yes(), NoWriteSame: yes(), NoCompareAndWrite: yes()}
			maybe(func() { l.Volume = "file:///srv/a%20b?size=1G&x=" + url.PathEscape(text(9)) })
			maybe(func() { l.Timeout, l.OnTimeout, l.Away = 1+number(9), "error", "offline" })
			maybe(func() { l.BlockSize, l.PhysicalBlock = 4096, 8192 })
			maybe(func() { v := yes(); l.Thin = &v })
			maybe(func() { v := yes(); l.WriteCache = &v })
			maybe(func() { l.ModePages = []string{"8:0:18:0x10:0", "10:0:10:2"} })
			maybe(func() {
				l.Tgt = &spec.TgtStore{Type: []string{"", "rdwr"}[r.IntN(2)], Path: text(99), Options: text(99), Flags: text(9)}
			})
			t.LUNs = append(t.LUNs, l)
		}
		d.Targets = append(d.Targets, t)
	}
	return d
}
