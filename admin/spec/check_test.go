package spec

import (
	"strings"
	"testing"
)

func good() Document {
	return Document{
		Portals:  []Portal{{Address: "127.0.0.1:3260"}, {Address: "[::1]:3260", Group: 2, Advertise: "a.example:3260"}},
		Accounts: []Account{{"in", "hush-hush-in"}, {"out", "hush-hush-out"}},
		Targets: []Target{{TID: 1, Name: "iqn.2026-11.io.lunar:a", Access: []Rule{{Address: "ALL"}}, Auth: Auth{Incoming: []string{"in"}, Outgoing: "out"},
			Params: map[string]string{"HeaderDigest": "CRC32C,None", "MaxBurstLength": "262144"}, LUNMaps: []LUNMap{{Initiator: "iqn.*", LUNs: []MappedLUN{{As: 0, LUN: 1}}}},
			LUNs: []LUN{{Number: 1, Volume: "mem:?size=1M", Vendor: "V"}}}, {TID: 2, Name: "tgt-name"}},
	}
}

// Check names the field, in the file's words and in people's.
func TestCheck(t *testing.T) {
	d := good()
	if err := d.Check(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		break_ func(*Document)
		path   string
		text   string
	}{
		"portal":            {func(d *Document) { d.Portals[1].Address = "3260" }, "portals[1].address", "want an IP address and a port"},
		"portal twice":      {func(d *Document) { d.Portals[1].Address = "127.0.0.1:3260" }, "portals[1].address", "twice"},
		"advertise":         {func(d *Document) { d.Portals[1].Advertise = "a.example" }, "portals[1].advertise", "HOST:PORT"},
		"timeout":           {func(d *Document) { d.Targets[0].LUNs[0].Timeout = MaxTimeout + 1 }, "targets[0].luns[0].timeout", "want 1 to 86400"},
		"negative timeout":  {func(d *Document) { d.Targets[0].LUNs[0].Timeout = -1 }, "targets[0].luns[0].timeout", "want 1 to 86400"},
		"on-timeout":        {func(d *Document) { d.Targets[0].LUNs[0].OnTimeout = "retry" }, "targets[0].luns[0].on-timeout", "want wait or error"},
		"away":              {func(d *Document) { d.Targets[0].LUNs[0].Away = "yes" }, "targets[0].luns[0].away", "want offline or fail"},
		"secret":            {func(d *Document) { d.Accounts[0].Secret = "" }, "accounts[0].secret", "empty"},
		"account twice":     {func(d *Document) { d.Accounts[1].Name = "in" }, "accounts[1].name", "twice"},
		"discovery":         {func(d *Document) { d.Discovery.Incoming = []string{"no"} }, "discovery.incoming[0]", `no account "no"`},
		"binding":           {func(d *Document) { d.Targets[0].Auth.Outgoing = "no" }, "targets[0].auth.outgoing", `no account "no"`},
		"TID twice":         {func(d *Document) { d.Targets[1].TID = 1 }, "targets[1].tid", "TID 1"},
		"name twice":        {func(d *Document) { d.Targets[1].Name = "IQN.2026-11.io.lunar:a" }, "targets[1].name", "twice"},
		"name":              {func(d *Document) { d.Targets[1].Name = "a_b" }, "targets[1].name", "a_b"},
		"empty rule":        {func(d *Document) { d.Targets[0].Access = []Rule{{}} }, "targets[0].access[0]", "neither"},
		"key":               {func(d *Document) { d.Targets[0].Params["MaxBurst"] = "1" }, "targets[0].params.MaxBurst", "no such key"},
		"value":             {func(d *Document) { d.Targets[0].Params["MaxBurstLength"] = "511" }, "targets[0].params.MaxBurstLength", "512 to 16777215"},
		"LUN 0":             {func(d *Document) { d.Targets[0].LUNs[0].Number = 0 }, "targets[0].luns[0].lun", "controller"},
		"LUN number":        {func(d *Document) { d.Targets[0].LUNs[0].Number = 16384 }, "targets[0].luns[0].lun", "0 to 16383"},
		"LUN twice":         {func(d *Document) { d.Targets[0].LUNs = append(d.Targets[0].LUNs, LUN{Number: 1}) }, "targets[0].luns[1].lun", "twice"},
		"vendor":            {func(d *Document) { d.Targets[0].LUNs[0].Vendor = "123456789" }, "targets[0].luns[0].vendor", "at most 8"},
		"vendor characters": {func(d *Document) { d.Targets[0].LUNs[0].Vendor = "ü" }, "targets[0].luns[0].vendor", "ASCII"},
		"block":             {func(d *Document) { d.Targets[0].LUNs[0].BlockSize = 513 }, "targets[0].luns[0].block-size", "power of two"},
		"mapped twice":      {func(d *Document) { d.Targets[0].LUNMaps[0].LUNs = []MappedLUN{{0, 1}, {0, 2}} }, "targets[0].lun-maps[0].luns[1].as", "shown as 0"},
		"group":             {func(d *Document) { d.Targets[0].PortalGroups = []uint16{0} }, "targets[0].portal-groups[0]", "1 to 65535"},
		"nop":               {func(d *Document) { d.System.NopCount = -1 }, "system.nop-count", "want 0"},
	} {
		t.Run(name, func(t *testing.T) {
			d := good()
			c.break_(&d)
			f, ok := IsField(d.Check())
			if !ok {
				t.Fatalf("%v is about no field", d.Check())
			}
			if f.Path != c.path || !strings.Contains(f.Text, c.text) {
				t.Errorf("%s: %s; want %s: … %s …", f.Path, f.Text, c.path, c.text)
			}
			if strings.Contains(f.Error(), "hush") {
				t.Errorf("%v has a secret in it", f)
			}
		})
	}
}

func TestCheckAddress(t *testing.T) {
	for _, s := range []string{"ALL", "192.0.2.1", "192.0.2.1/24", "[2001:db8::]/32", "2001:db8::1", "0.0.0.0/0"} {
		if err := CheckAddress(s); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{"", "all", "192.0.2", "192.0.2.1/33", "[2001:db8::", "x", "[192.0.2.1]", "fe80::1%eth0", "::ffff:192.0.2.1/24", "192.0.2.1/024", "192.0.2.1/", "192.0.2.1/+8"} {
		if CheckAddress(s) == nil {
			t.Errorf("%s was taken", s)
		}
	}
}
