package target

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

func TestParsePortal(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1:3260":                                   "{192.0.2.1:3260 1 }",
		"[2001:db8::1]:3260,group=7":                       "{[2001:db8::1]:3260 7 }",
		"[fe80::1%eth0]:3260":                              "{[fe80::1%eth0]:3260 1 }",
		"[::ffff:192.0.2.1]:3260":                          "{192.0.2.1:3260 1 }",
		"0.0.0.0:0,advertise=198.51.100.7:860,group=65535": "{0.0.0.0:0 65535 198.51.100.7:860}",
		"[::]:3260,advertise=[2001:db8::2]:3260":           "{[::]:3260 1 [2001:db8::2]:3260}",
		"[::]:3260,advertise=san-1.example.com:3260":       "{[::]:3260 1 san-1.example.com:3260}",
		"192.0.2.1":                             "an IP address and a port",
		"san.example.com:3260":                  "an IP address and a port",
		"2001:db8::1:3260":                      "an IP address and a port",
		":3260":                                 "an IP address and a port",
		"":                                      "an IP address and a port",
		"192.0.2.1:3260,group=0":                "want 1 to 65535",
		"192.0.2.1:3260,group=65536":            "want 1 to 65535",
		"192.0.2.1:3260,group":                  "want 1 to 65535",
		"192.0.2.1:3260,tag=1":                  `"tag=1" is neither`,
		"192.0.2.1:3260,":                       `"" is neither`,
		"192.0.2.1:3260,advertise=":             "wants HOST:PORT",
		"192.0.2.1:3260,advertise=198.51.100.7": "want HOST:PORT",
		"192.0.2.1:3260,advertise=2001:db8::2:3260":    "want HOST:PORT",
		"192.0.2.1:3260,advertise=198.51.100.7:0":      "a port of 1",
		"192.0.2.1:3260,advertise=[::]:3260":           "no other host",
		"192.0.2.1:3260,advertise=[fe80::1%eth0]:3260": "no other host",
		"192.0.2.1:3260,advertise=a_b:3260":            "neither an IP address nor a host name",
		"192.0.2.1:3260,advertise=-a.example:3260":     "neither an IP address nor a host name",
		"192.0.2.1:3260,advertise=a..example:3260":     "neither an IP address nor a host name",
	} {
		p, err := ParsePortal(in)
		switch {
		case err == nil && fmt.Sprint(p) != want:
			t.Errorf("%q: %v, want %s", in, p, want)
		case err != nil && !strings.Contains(err.Error(), want):
			t.Errorf("%q: %v, want %s", in, err, want)
		}
	}
}

// What discovery tells of a portal depends on how the initiator came in.
func TestTold(t *testing.T) {
	for _, c := range []struct{ portal, local, want string }{
		{"192.0.2.1:3260", "192.0.2.1:3260", "192.0.2.1:3260"},
		{"192.0.2.1:3260", "[2001:db8::1]:3260", "192.0.2.1:3260"},
		{"0.0.0.0:3261", "192.0.2.1:3260", "192.0.2.1:3261"},
		{"[::]:3261", "[2001:db8::1]:3260", "[2001:db8::1]:3261"},
		{"[::]:3260", "192.0.2.1:3260", ""},
		{"0.0.0.0:3260", "[2001:db8::1]:3260", ""},
		{"0.0.0.0:3260,advertise=198.51.100.7:9999", "192.0.2.1:3260", "198.51.100.7:9999"},
		{"[::]:3260,advertise=san.example.com:3260", "192.0.2.1:3260", "san.example.com:3260"},
		{"127.0.0.1:3260", "192.0.2.1:3260", ""},
		{"127.0.0.1:3260", "127.0.0.9:3260", "127.0.0.1:3260"},
		{"[::1]:3260", "127.0.0.1:3260", "[::1]:3260"},
		{"127.0.0.1:3260,advertise=127.0.0.1:13260", "192.0.2.1:3260", "127.0.0.1:13260"},
		{"[fe80::1%eth0]:3260", "[fe80::1%eth0]:3260", "[fe80::1]:3260"},
		{"[fe80::1%eth0]:3260", "[fe80::1%eth1]:3260", ""},
		{"[fe80::1%eth0]:3260", "[2001:db8::1]:3260", ""},
		{"[::]:3260", "[fe80::1%eth0]:3260", "[fe80::1]:3260"},
		{"169.254.1.1:3260", "192.0.2.1:3260", "169.254.1.1:3260"},
	} {
		cfg, err := ParsePortal(c.portal)
		if err != nil {
			t.Fatal(err)
		}
		p := &portal{addr: cfg.Addr, group: cfg.Group, advertise: cfg.Advertise}
		got, ok := p.told(way{portal: p, local: netip.MustParseAddrPort(c.local)})
		if got != c.want || ok != (c.want != "") {
			t.Errorf("%s to who came by %s: %q, want %q", c.portal, c.local, got, c.want)
		}
	}
}

// listen binds a further portal of r's server.
func (r *rig) listen(text string) netip.AddrPort {
	r.t.Helper()
	a, err := r.s.Listen(text)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

// discover is what an initiator that comes by addr is told, "NAME ADDRESS…" a line.
func (r *rig) discover(addr netip.AddrPort) string {
	r.t.Helper()
	list, err := initiator.Discover(r.ctx(), initiator.Options{Portal: addr.String()})
	if err != nil {
		r.t.Fatal(err)
	}
	var b strings.Builder
	for _, o := range list {
		fmt.Fprintln(&b, strings.TrimPrefix(o.Name, "iqn.2026-11.io.lunar:"), strings.Join(o.Addresses, " "))
	}
	return b.String()
}

// MUST 7143 §C: in a discovery session every target that the initiator may use is told of, with the addresses
// and the portal group tags of its portals
//
// SHOULD 7143 §C: with an address of a portal group its other addresses are told
//
// MUST NOT 7143 §C: a target that cannot be reached is not named
func TestDiscoveryOfPortalGroups(t *testing.T) {
	r := newRig(t, Config{}, "")
	first := r.listen("127.0.0.2:0,group=2")
	second := r.listen("[::1]:0,group=3")
	third := r.listen("127.0.0.3:0,group=2")
	for name, groups := range map[string][]uint16{"a2": {2}, "a3": {3}, "a13": {1, 3}, "nowhere": {9}} {
		if _, err := r.s.AddTarget("iqn.2026-11.io.lunar:"+name, TargetConfig{LoopOf: r.tg, PortalGroups: groups}); err != nil {
			t.Fatal(err)
		}
	}
	one, two, three, four := r.addr.String()+",1", first.String()+",2", second.String()+",3", third.String()+",2"
	lines := func(l ...string) string { return strings.Join(l, "\n") + "\n" }
	for _, c := range []struct {
		addr netip.AddrPort
		want string
	}{
		{r.addr, lines("a13 "+one+" "+three, "a2 "+two+" "+four, "a3 "+three, "test "+strings.Join([]string{one, two, three, four}, " "))},
		{third, lines("a13 "+one+" "+three, "a2 "+four+" "+two, "a3 "+three, "test "+strings.Join([]string{four, one, two, three}, " "))},
		{second, lines("a13 "+three+" "+one, "a2 "+two+" "+four, "a3 "+three, "test "+strings.Join([]string{three, one, two, four}, " "))},
	} {
		if got := r.discover(c.addr); got != c.want {
			t.Errorf("by %v:\n%swant\n%s", c.addr, got, c.want)
		}
	}
	o := r.options(1)
	o.TargetName = "iqn.2026-11.io.lunar:a3"
	wantStatus(t, r, o, pdu.TargetNotFound) // not by this portal
	o.Portal = second.String()
	s, err := initiator.Login(r.ctx(), o)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

// Wildcards of both IP versions stand side by side on one port; each is told as the address that was used.
func TestWildcardPortals(t *testing.T) {
	r := newRig(t, Config{}, "")
	four := r.listen("0.0.0.0:0,group=4")
	six := r.listen(fmt.Sprintf("[::]:%d,group=6", four.Port()))
	elsewhere := r.listen("0.0.0.0:0,advertise=san.example.com:3260,group=8")
	at := func(addr string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(addr), six.Port()) }
	last := fmt.Sprintf("%v,1 san.example.com:3260,8\n", r.addr)
	for addr, want := range map[netip.AddrPort]string{
		at("127.0.0.1"): fmt.Sprintf("test 127.0.0.1:%d,4 ", six.Port()) + last,
		at("127.0.0.7"): fmt.Sprintf("test 127.0.0.7:%d,4 ", six.Port()) + last,
		at("::1"):       fmt.Sprintf("test [::1]:%d,6 ", six.Port()) + last,
		elsewhere:       "",
	} {
		if addr == elsewhere {
			addr = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), elsewhere.Port())
			want = fmt.Sprintf("test san.example.com:3260,8 %v,1 127.0.0.1:%d,4\n", r.addr, six.Port())
		}
		if got := r.discover(addr); got != want {
			t.Errorf("by %v: %s, want %s", addr, got, want)
		}
	}
}

// MUST 7143 §13.9: the TargetPortalGroupTag of a login is that of the portal that it came in by
//
// MUST 7143 §4.4.2: an initiator port, its ISID included, and a target port, which is a portal group, make one
// nexus: the same initiator port is another nexus through another portal group, and takes its own place through its own
func TestPortalGroupIsTargetPort(t *testing.T) {
	r := newRig(t, Config{}, "")
	other := r.listen("[::1]:0,group=258")
	same := r.listen("127.0.0.2:0")
	var sessions []*initiator.Session
	for _, p := range []netip.AddrPort{r.addr, other} {
		o := r.options(1)
		o.Portal = p.String()
		s, err := initiator.Login(r.ctx(), o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		r.ready(s)
		sessions = append(sessions, s)
	}
	for i, group := range []uint16{1, 258} {
		if got := r.vpd83(sessions[i]); got != fmt.Sprintf("relative port %d, port group 1, port %s,t,0x%04x", group, testTarget, group) {
			t.Errorf("by group %d: %s", group, got)
		}
	}
	c, err := initiator.Dial(r.ctx(), other.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	keys, err := c.Login(initiator.SecurityKeys("iqn.2026-11.io.lunar:raw", testTarget), nil)
	if tag, _ := keys.Get("TargetPortalGroupTag"); err != nil || tag != "258" {
		t.Errorf("TargetPortalGroupTag=%s, %v", tag, err)
	}
	o := r.options(1)
	o.Portal = same.String()
	again, err := initiator.Login(r.ctx(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := sessions[0].Ping(r.ctx(), nil); err == nil {
		t.Error("the session that was reinstated by another portal of its group lives")
	}
	if _, err := sessions[1].Ping(r.ctx(), nil); err != nil {
		t.Error("the session by the other group:", err)
	}
}

// vpd83 is what VPD page 83h says of ports, in the order of the page.
func (r *rig) vpd83(s *initiator.Session) string {
	r.t.Helper()
	res, err := s.Command(r.ctx(), lun1, initiator.InquiryVPD(0x83, 1024), nil, 1024)
	if err != nil || res.Status != sam.Good {
		r.t.Fatal(err, res.Err())
	}
	var words []string
	for b := res.Data[4:]; len(b) >= 4; b = b[4+int(b[3]):] {
		v := b[4 : 4+int(b[3])]
		switch b[1] & 0x3f {
		case 0x14:
			words = append(words, fmt.Sprint("relative port ", binary.BigEndian.Uint16(v[2:])))
		case 0x15:
			words = append(words, fmt.Sprint("port group ", binary.BigEndian.Uint16(v[2:])))
		case 0x18:
			words = append(words, "port "+string(bytes.TrimRight(v, "\x00")))
		}
	}
	return strings.Join(words, ", ")
}

// A registration for all target ports is one for each portal group that leads to the disk, those included that were
// bound after it was added, and none for a group that does not.
func TestReservationsKnowPortalGroups(t *testing.T) {
	r := newRig(t, Config{}, "")
	r.listen("127.0.0.2:0,group=7")
	if err := r.tg.AddDisk(2, newStore(t, ""), scsi.DiskConfig{Identity: "second"}); err != nil {
		t.Fatal(err)
	}
	r.listen("127.0.0.3:0,group=300")
	bound, err := r.s.AddTarget(testTarget+"-bound", TargetConfig{PortalGroups: []uint16{1, 300}})
	if err != nil {
		t.Fatal(err)
	}
	if err := bound.AddDisk(1, newStore(t, ""), scsi.DiskConfig{Identity: "bound"}); err != nil {
		t.Fatal(err)
	}
	r.listen("127.0.0.4:0,group=8")
	for _, c := range []struct {
		target string
		lun    uint16
		want   []uint16
	}{{testTarget, 1, []uint16{1, 7, 8, 300}}, {testTarget, 2, []uint16{1, 7, 8, 300}}, {testTarget + "-bound", 1, []uint16{1, 300}}} {
		o := r.options(1)
		o.TargetName = c.target
		s, err := initiator.Login(r.ctx(), o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		lun := sam.NewLUN(c.lun)
		if _, err := s.Command(r.ctx(), lun, initiator.TestUnitReady(), nil, 0); err != nil {
			t.Fatal(err)
		}
		// REGISTER with ALL_TG_PT, then READ FULL STATUS.
		list := make([]byte, 24)
		list[15], list[20] = 0x99, 0x04
		res, err := s.Command(r.ctx(), lun, []byte{0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0}, list, 0)
		if err != nil || res.Status != sam.Good {
			t.Fatal(err, res.Err())
		}
		res, err = s.Command(r.ctx(), lun, []byte{0x5e, 3, 0, 0, 0, 0, 0, 16, 0, 0}, nil, 4096)
		if err != nil || res.Status != sam.Good {
			t.Fatal(err, res.Err())
		}
		var got []uint16
		for b := res.Data[8:]; len(b) >= 24; b = b[24+binary.BigEndian.Uint32(b[20:]):] {
			got = append(got, binary.BigEndian.Uint16(b[18:]))
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s LUN %d: registered at the relative ports %v, want %v", c.target, c.lun, got, c.want)
		}
	}
}

// A portal that cannot be had is an error that names it, and leaves nothing.
func TestListenRefuses(t *testing.T) {
	r := newRig(t, Config{}, "")
	for text, want := range map[string]string{
		r.addr.String():       "in use",
		"192.0.2.1:3260":      "192.0.2.1:3260",
		"127.0.0.1:0,group=x": "group=x",
	} {
		if _, err := r.s.Listen(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	if _, err := r.s.AddTarget("iqn.2026-11.io.lunar:zero", TargetConfig{PortalGroups: []uint16{0}}); err == nil {
		t.Error("a target of portal group 0")
	}
	if got := r.discover(r.addr); got != fmt.Sprintf("test %v,1\n", r.addr) {
		t.Error(got)
	}
	if err := r.s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.s.Listen("127.0.0.1:0"); err != ErrClosed {
		t.Error("a closed server listens:", err)
	}
}
