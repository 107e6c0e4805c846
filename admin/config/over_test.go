package config

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// summary is what of a document the tests below look at, on one line.
func summary(d spec.Document) string {
	var b strings.Builder
	if d.System.Debug {
		b.WriteString("debug ")
	}
	for _, p := range d.Portals {
		fmt.Fprintf(&b, "%s ", p.Address)
	}
	for _, a := range d.Accounts {
		fmt.Fprintf(&b, "%s=%s ", a.Name, a.Secret)
	}
	fmt.Fprintf(&b, "discovery=%v/%s", d.Discovery.Incoming, d.Discovery.Outgoing)
	for _, t := range d.Targets {
		fmt.Fprintf(&b, " %d:%s", t.TID, strings.TrimPrefix(t.Name, "iqn.2026-11.io.lunar:"))
		if t.NopInterval != 0 {
			fmt.Fprintf(&b, "(nop %d)", t.NopInterval)
		}
		for _, l := range t.LUNs {
			fmt.Fprintf(&b, "[%d %s %s]", l.Number, l.Volume, l.Identity)
		}
	}
	return b.String()
}

func target(tid int, name string, luns ...spec.LUN) spec.Target {
	return spec.Target{TID: tid, Name: "iqn.2026-11.io.lunar:" + name, LUNs: luns}
}

func TestOver(t *testing.T) {
	have := spec.Document{
		System:    spec.System{Debug: true, NopInterval: 7},
		Portals:   []spec.Portal{{Address: "p1"}, {Address: "p2"}},
		Accounts:  []spec.Account{{Name: "a", Secret: "1"}, {Name: "b", Secret: "2"}},
		Discovery: spec.Auth{Incoming: []string{"a"}},
		Targets:   []spec.Target{target(3, "x", spec.LUN{Number: 1, Volume: "v1", Identity: "id1"}, spec.LUN{Number: 2, Volume: "v2", Identity: "id2"}), target(9, "y")},
	}
	for name, c := range map[string]struct {
		f    File
		line spec.Document
		want string
	}{
		"nothing": {File{}, spec.Document{}, "debug p1 p2 a=1 b=2 discovery=[a]/ 3:x[1 v1 id1][2 v2 id2] 9:y"},
		"everything": {
			File{Has: System | Portals | Accounts | Discovery | Targets}, spec.Document{}, "discovery=[]/"},
		"some sections": {
			File{Has: Portals | System, Document: spec.Document{Portals: []spec.Portal{{Address: "p3"}, {Address: "p2"}}}}, spec.Document{},
			"p2 p3 a=1 b=2 discovery=[a]/ 3:x[1 v1 id1][2 v2 id2] 9:y"},
		"keep": {
			File{Has: Accounts | Targets, Keep: Portals | Accounts | Targets, Document: spec.Document{Accounts: []spec.Account{{Name: "c", Secret: "3"}, {Name: "a", Secret: "4"}}, Targets: []spec.Target{target(0, "z")}}}, spec.Document{},
			"debug p1 p2 a=4 b=2 c=3 discovery=[a]/ 3:x[1 v1 id1][2 v2 id2] 9:y 0:z"},
		"TIDs and identities stay": {
			File{Has: Targets, Document: spec.Document{Targets: []spec.Target{
				target(0, "new"), target(0, "X", spec.LUN{Number: 1, Volume: "v1"}, spec.LUN{Number: 2, Volume: "other"}, spec.LUN{Number: 3, Volume: "v1"}), target(5, "fixed")}}}, spec.Document{},
			"debug p1 p2 a=1 b=2 discovery=[a]/ 3:X[1 v1 id1][2 other ][3 v1 ] 5:fixed 0:new"},
		"what the command line names": {
			File{Has: Portals | Accounts | Discovery | Targets, Document: spec.Document{Portals: []spec.Portal{{Address: "p2"}}, Discovery: spec.Auth{Incoming: []string{"a", "c"}, Outgoing: "c"}, Accounts: []spec.Account{{Name: "c", Secret: "3"}}, Targets: []spec.Target{target(0, "z")}}},
			spec.Document{Portals: []spec.Portal{{Address: "p1"}}, Accounts: []spec.Account{{Name: "a"}}, Discovery: spec.Auth{Incoming: []string{"a"}}, Targets: []spec.Target{target(1, "Y")}},
			"debug p1 p2 a=1 c=3 discovery=[a c]/c 9:y 0:z"},
		"targets.conf": {
			File{tgt: true, isns: true, Has: Targets | Accounts, Keep: Accounts, renumber: map[string]bool{"iqn.2026-11.io.lunar:a": true, "iqn.2026-11.io.lunar:b": true, "iqn.2026-11.io.lunar:d": true, "iqn.2026-11.io.lunar:x": true},
				Document: spec.Document{Targets: []spec.Target{target(1, "a"), target(2, "b"), target(11, "c"), target(12, "d"), target(13, "x")}}}, spec.Document{},
			// a follows the largest that is there, b what a has, d what c is given; x keeps its own, and its pings.
			"debug p1 p2 a=1 b=2 discovery=[a]/ 3:x 10:a(nop 7) 11:c(nop 7) 12:b(nop 7) 13:d(nop 7)"},
	} {
		t.Run(name, func(t *testing.T) {
			before := have.Clone()
			want, err := c.f.Beside(&have, &c.line)
			if err != nil {
				t.Fatal(err)
			}
			if got := summary(want); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if !reflect.DeepEqual(normal(have), normal(before)) {
				t.Error("the document that is there has been changed")
			}
		})
	}
	for name, f := range map[string]File{
		"target":  {Has: Targets, Document: spec.Document{Targets: []spec.Target{target(0, "Y")}}},
		"account": {Has: Accounts, Document: spec.Document{Accounts: []spec.Account{{Name: "a", Secret: "1"}}}},
	} {
		line := spec.Document{Accounts: []spec.Account{{Name: "a"}}, Targets: []spec.Target{target(1, "y")}}
		if _, err := f.Beside(&have, &line); err == nil || !strings.Contains(err.Error(), "on the command line") {
			t.Errorf("%s of the command line in the file: %v", name, err)
		}
	}
}

// A file that is applied twice changes nothing the second time, whatever was there before.
func TestOverAgain(t *testing.T) {
	f := load(t, "targets:\n  - name: iqn.2026-11.io.lunar:b\n    luns: [{lun: 1, volume: \"mem:?size=1M\"}]\nportals: [\"192.0.2.1:3260\"]\n")
	have := spec.Document{Targets: []spec.Target{target(3, "b", spec.LUN{Number: 1, Volume: "mem:?size=1M", Identity: "id"}), target(4, "c")}}
	once := f.Over(&have)
	if twice := f.Over(&once); !reflect.DeepEqual(once, twice) {
		t.Errorf("once\n%+v\ntwice\n%+v", once, twice)
	}
}
