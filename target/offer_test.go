package target

import (
	"encoding/json"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// TestOwnAccounts: a target has accounts of its own in place of the server's, or none; discovery has others again.
func TestOwnAccounts(t *testing.T) {
	all := accounts()
	server, own, discovery := login.Auth{Incoming: all.Incoming[:1]}, login.Auth{Incoming: all.Incoming[1:2], Outgoing: all.Outgoing}, login.Auth{Incoming: all.Incoming[2:3]}
	r := newRig(t, Config{Auth: server, LoginFailDelay: -1}, "")
	r.s.SetDiscovery(discovery)
	as := func(n int) *initiator.CHAP {
		if n < 0 {
			return nil
		}
		return &initiator.CHAP{Name: all.Incoming[n].Name, Secret: all.Incoming[n].Secret}
	}
	want := func(what string, n int, in bool) {
		t.Helper()
		o := r.options(1)
		o.CHAP = as(n)
		status := r.status(o)
		if in != (status == pdu.LoginSuccess) || !in && status != pdu.AuthenticationFailed {
			t.Errorf("%s, account %d: status %04Xh", what, n, uint16(status))
		}
	}
	discovers := func(what string, n int, in bool) {
		t.Helper()
		_, err := initiator.Discover(r.ctx(), initiator.Options{Portal: r.addr.String(), CHAP: as(n)})
		if in != (err == nil) {
			t.Errorf("%s: discovery with account %d: %v", what, n, err)
		}
	}
	for n := -1; n < 3; n++ {
		want("the server's", n, n == 0)
		discovers("its own", n, n == 2)
	}
	r.edit(func(c *TargetConfig) { c.Auth = &own })
	for n := -1; n < 3; n++ {
		want("its own", n, n == 1)
	}
	mutual := r.options(1)
	mutual.CHAP = as(1)
	mutual.CHAP.TargetName, mutual.CHAP.TargetSecret = own.Outgoing.Name, own.Outgoing.Secret
	if got := r.status(mutual); got != pdu.LoginSuccess {
		t.Errorf("mutual: status %04Xh", uint16(got))
	}
	r.edit(func(c *TargetConfig) { c.Auth.Incoming[0].Secret = nil })
	want("an account without a secret", 1, false)
	r.edit(func(c *TargetConfig) { c.Auth = &login.Auth{} })
	want("none", -1, true)
	r.s.SetDiscovery(login.Auth{})
	discovers("none", -1, true)
	r.edit(func(c *TargetConfig) { c.Auth = nil })
	want("the server's again", -1, false)
}

// TestOwnOffers: a target negotiates by offers and limits of its own, within what the server does at all.
func TestOwnOffers(t *testing.T) {
	r := newRig(t, Config{}, "")
	params := func() login.Params {
		t.Helper()
		o := r.options(1)
		want := initiator.DefaultOffer()
		want.MaxConnections, want.ErrorRecoveryLevel, want.DefaultTime2Retain = 8, 2, 20
		want.HeaderDigest, want.DataDigest, want.DataPDUInOrder, want.DataSequenceInOrder = true, true, false, false
		want.InitialR2T, want.ImmediateData, want.MaxOutstandingR2T = false, true, 16
		want.MaxBurstLength, want.FirstBurstLength, want.MaxRecvDataSegmentLength = 1<<24-1, 1<<24-1, 1<<20
		o.Offer = &want
		s, err := initiator.Login(r.ctx(), o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		return s.Params()
	}
	own := login.Params{
		MaxConnections: 65535, ErrorRecoveryLevel: 2, InitialR2T: true, ImmediateData: false, MaxBurstLength: 8192, FirstBurstLength: 65536,
		MaxRecvDataSegmentLength: 4096, DefaultTime2Wait: 7, DefaultTime2Retain: 3600, MaxOutstandingR2T: 1, DataDigest: true,
		TaskReporting: login.ReportFastAbort, ProtocolLevel: 31,
	}
	r.edit(func(c *TargetConfig) { c.Params = &own })
	got := params()
	want := login.Params{
		MaxConnections: 1, InitialR2T: true, MaxBurstLength: 8192, FirstBurstLength: 8192, MaxRecvDataSegmentLength: 1 << 20, MaxXmitDataSegmentLength: 4096,
		DefaultTime2Wait: 7, MaxOutstandingR2T: 1, DataPDUInOrder: true, DataSequenceInOrder: true, DataDigest: true,
		TaskReporting: got.TaskReporting, ProtocolLevel: got.ProtocolLevel,
	}
	if got != want {
		g, _ := json.Marshal(got)
		w, _ := json.Marshal(want)
		t.Errorf("negotiated\n%s, want\n%s", g, w)
	}
	if got.ProtocolLevel > 2 {
		t.Errorf("protocol level %d", got.ProtocolLevel)
	}
	// It carries data, and Config tells what was set.
	s := r.login(2)
	r.write(s, 0, block('a', 64))
	if c := r.tg.Config(); *c.Params != own {
		t.Errorf("Config tells %+v", *c.Params)
	}
	// Digests may be asked for, by one target alone.
	r.edit(func(c *TargetConfig) { c.Params, c.RequireDataDigest = nil, true })
	plain := initiator.DefaultOffer()
	plain.DataDigest = false
	o := r.options(3)
	o.Offer = &plain
	if got := r.status(o); got != pdu.InitiatorError {
		t.Errorf("without a digest: status %04Xh", uint16(got))
	}
	plain.DataDigest = true
	if got := r.status(o); got != pdu.LoginSuccess {
		t.Errorf("with the digest: status %04Xh", uint16(got))
	}
	r.edit(func(c *TargetConfig) { c.RequireDataDigest, c.RequireHeaderDigest = false, true })
	plain.HeaderDigest = false
	if got := r.status(o); got != pdu.InitiatorError {
		t.Errorf("without a header digest: status %04Xh", uint16(got))
	}
}

// TestOwnLimits: the window is the target's own, and so is how long a silent initiator is waited for; both for sessions that come later.
func TestOwnLimits(t *testing.T) {
	r := newRig(t, Config{}, "")
	window := func(n byte) uint32 {
		c := r.rawLogin(n)
		p, err := c.Ping([]byte("there"))
		if err != nil {
			t.Fatal(err)
		}
		return uint32(p.Header.MaxCmdSN()-p.Header.ExpCmdSN()) + 1
	}
	old := r.rawLogin(1)
	r.edit(func(c *TargetConfig) { c.Window = 3 })
	if got := window(2); got != 3 {
		t.Errorf("a window of %d, want 3", got)
	}
	if p, err := old.Ping(nil); err != nil || p.Header.MaxCmdSN()-p.Header.ExpCmdSN()+1 != 128 {
		t.Errorf("of the session before: %v, %v", p, err)
	}
	r.edit(func(c *TargetConfig) { c.Window, c.NOPInterval, c.NOPTimeout = 0, 1e6, 1e6 })
	deaf := r.rawLogin(3)
	deaf.Timeout = testWait
	if p, err := deaf.Recv(); err != nil || p.Header.Opcode() != pdu.OpNOPIn {
		t.Fatalf("no ping: %v, %v", p, err)
	}
	r.until("it is dropped", func() bool { return r.s.Stats().Drops["ping_timeout"] == 1 })
	if got := window(4); got != 128 {
		t.Errorf("a window of %d, want 128", got)
	}
}

// MUST 7143 §13.8: the TargetAddress of a login that is sent elsewhere has no portal group tag
//
// MAY 7143 §11.13.5: a login is sent elsewhere for the time being (0101h) or for good (0102h)
//
// It is so for everybody and ahead of all else but the way that leads there, as with tgt, until the redirect is taken back.
func TestRedirect(t *testing.T) {
	r := newRig(t, Config{Auth: accounts()}, "")
	for _, c := range []struct {
		to     Redirect
		status pdu.LoginStatus
		want   string
	}{
		{Redirect{Address: "192.0.2.7"}, pdu.TargetMovedTemp, "192.0.2.7:3260"},
		{Redirect{Address: "192.0.2.7", Port: 13260, Permanent: true}, pdu.TargetMovedPerm, "192.0.2.7:13260"},
		{Redirect{Address: "2001:db8::7"}, pdu.TargetMovedTemp, "[2001:db8::7]:3260"},
		{Redirect{Address: "[2001:db8::7]", Port: 860}, pdu.TargetMovedTemp, "[2001:db8::7]:860"},
		{Redirect{Address: "san-2.example.com"}, pdu.TargetMovedTemp, "san-2.example.com:3260"},
	} {
		r.edit(func(cfg *TargetConfig) { cfg.Redirect, cfg.Offline, cfg.Access = c.to, true, &Access{} })
		conn := r.dial(1)
		if err := conn.Send(conn.LoginHeader(1, false, false, pdu.SecurityNegotiation, 0), initiator.SecurityKeys(rawName, testTarget).Encode()); err != nil {
			t.Fatal(err)
		}
		p, err := conn.Expect(pdu.OpLoginResp)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := initiator.ParseKeys(p.Data)
		if status := (*pdu.LoginResp)(&p.Header).Status(); err != nil || status != c.status || keys.String() != "TargetAddress="+c.want {
			t.Errorf("%+v: status %04Xh, %v", c.to, uint16(status), keys)
		}
		wantClosed(t, conn, "a login that is sent elsewhere")
	}
	lost := r.s.Stats().LoginsLost
	if lost["moved_temporarily"] != 4 || lost["moved_permanently"] != 1 {
		t.Errorf("counted: %v", lost)
	}
	r.edit(func(cfg *TargetConfig) { *cfg = TargetConfig{Auth: &login.Auth{}} })
	if got := r.status(r.options(1)); got != pdu.LoginSuccess {
		t.Errorf("without a redirect: status %04Xh", uint16(got))
	}
}

// TestAnyName: names that are none of iSCSI's, as tgt takes them, are found whatever their case at login and in discovery; without AnyName
// they are refused.
func TestAnyName(t *testing.T) {
	r := newRig(t, Config{}, "")
	const name = "Disk:1.Old-Box"
	if _, err := r.s.AddTarget(name, TargetConfig{LoopOf: r.tg}); err == nil {
		t.Fatal("made without AnyName")
	}
	for _, bad := range []string{"", "disk_1", "a b", "ü", "a/b", "iqn.2026-11.example:a,b"} {
		if _, err := r.s.AddTarget(bad, TargetConfig{LoopOf: r.tg, AnyName: true}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	tg, err := r.s.AddTarget(name, TargetConfig{LoopOf: r.tg, AnyName: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.s.AddTarget("DISK:1.old-box", TargetConfig{LoopOf: r.tg, AnyName: true}); err == nil {
		t.Error("one name, twice")
	}
	if r.s.Target("disk:1.OLD-box") != tg {
		t.Error("not found by its name")
	}
	if err := tg.AddDisk(1, newStore(t, ""), scsi.DiskConfig{Identity: "any"}); err != nil {
		t.Fatal(err)
	}
	for _, as := range []string{name, "disk:1.old-box", "DISK:1.OLD-BOX"} {
		o := r.options(1)
		o.TargetName = as
		s, err := initiator.Login(r.ctx(), o)
		if err != nil {
			t.Fatalf("%s: %v", as, err)
		}
		r.ready(s)
		r.write(s, 0, block('a', 8))
		s.Close()
		if got := sendTargets(r.rawDiscovery(8192), "SendTargets", as); got != "TargetName=disk:1.old-box TargetAddress="+r.addr.String()+",1" {
			t.Errorf("SendTargets=%s: %s", as, got)
		}
	}
	for _, other := range []string{"disk:1.old-box2", "disk", "d i s k"} {
		o := r.options(1)
		o.TargetName = other
		wantStatus(t, r, o, pdu.TargetNotFound)
	}
	if got := r.discover(r.addr); got != "disk:1.old-box "+r.addr.String()+",1\ntest "+r.addr.String()+",1\n" {
		t.Errorf("discovery tells %q", got)
	}
	// A hidden one is none: what is asked for by a name that is no iSCSI name is rejected, whether it is there or not.
	if err := tg.Configure(TargetConfig{LoopOf: r.tg, AnyName: true, Access: &Access{}}); err != nil {
		t.Fatal(err)
	}
	if got := sendTargets(r.rawDiscovery(8192), "SendTargets", name); got != "Reject" {
		t.Errorf("SendTargets of a hidden target: %s", got)
	}
}
