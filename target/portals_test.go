package target

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// TestPortalsComeAndGo: portals are listed in the order of their making, and one that is closed is gone for new connections, for
// discovery and for the address, while its sessions go on.
func TestPortalsComeAndGo(t *testing.T) {
	r := newRig(t, Config{}, "")
	second := r.listen("127.0.0.2:0,group=2")
	third := r.listen("127.0.0.3:0,group=3,advertise=san.example.com:3260")
	var bound []netip.AddrPort
	list := r.s.Portals()
	for _, p := range list {
		bound = append(bound, p.Bound)
	}
	if len(bound) != 3 || bound[0] != r.addr || bound[1] != second || bound[2] != third || list[1].Addr != netip.MustParseAddrPort("127.0.0.2:0") || list[1].Group != 2 || list[2].Advertise != "san.example.com:3260" {
		t.Fatalf("%+v", list)
	}
	o := r.options(1)
	o.Portal = second.String()
	s, err := initiator.Login(r.ctx(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r.ready(s)
	ports := func() (n int) {
		r.tg.l.ev.Lock()
		defer r.tg.l.ev.Unlock()
		return len(r.tg.unitAt(1).lu.Ports(testTarget))
	}
	if n := ports(); n != 3 {
		t.Fatalf("%d ports, want 3", n)
	}
	for _, p := range []netip.AddrPort{second, third} {
		if err := r.s.ClosePortal(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.s.ClosePortal(second); !errors.Is(err, ErrNoPortal) {
		t.Errorf("closed twice: %v", err)
	}
	if nc, err := initiator.Dial(r.ctx(), second.String()); err == nil {
		nc.Close()
		t.Error("a closed portal takes connections")
	}
	if got := r.discover(r.addr); got != "test "+r.addr.String()+",1\n" {
		t.Errorf("discovery tells %q", got)
	}
	if n := ports(); n != 2 { // its own, and that of the session
		t.Errorf("%d ports, want 2", n)
	}
	r.write(s, 0, block('a', 8))
	s.Close()
	r.until("the port has gone with its session", func() bool { return ports() == 1 })
	if n := len(r.s.Portals()); n != 1 {
		t.Errorf("%d portals, want 1", n)
	}
	again, err := r.s.ListenPortal(Portal{Addr: second, Group: 2})
	if err != nil || again != second {
		t.Fatalf("bound anew: %v, %v", again, err)
	}
	if n := ports(); n != 2 {
		t.Errorf("%d ports, want 2", n)
	}
	// The portal groups that lead to a target change while it runs.
	r.edit(func(c *TargetConfig) { c.PortalGroups = []uint16{2} })
	if n := ports(); n != 1 {
		t.Errorf("%d ports, want 1", n)
	}
	wantStatus(t, r, r.options(1), pdu.TargetNotFound)
	if got := r.status(o); got != pdu.LoginSuccess {
		t.Errorf("by its own portal: status %04Xh", uint16(got))
	}
}

// TestNotAccepting: new connections are closed at once, sessions go on, and both are as before when it is over.
func TestNotAccepting(t *testing.T) {
	r := newRig(t, Config{}, "")
	s := r.login(1)
	r.s.SetAccepting(false)
	for range 3 {
		c, err := initiator.Dial(r.ctx(), r.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		c.Timeout = testWait
		wantClosed(t, c, "a new connection")
		c.Close()
	}
	if got := r.s.Stats().TurnedAway; got != 3 {
		t.Errorf("%d turned away, want 3", got)
	}
	r.write(s, 0, block('a', 8))
	r.s.SetAccepting(true)
	r.login(2)
}
