package target

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

const rawName = "iqn.2026-11.io.lunar:raw"

// address reads an address that is well formed.
func address(t testing.TB, s string) Address {
	t.Helper()
	a, err := ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// edit changes the target's configuration.
func (r *rig) edit(change func(*TargetConfig)) {
	r.t.Helper()
	cfg := r.tg.Config()
	change(&cfg)
	if err := r.tg.Configure(cfg); err != nil {
		r.t.Fatal(err)
	}
}

// admit lets in whom the rules admit.
func (r *rig) admit(rules ...Rule) {
	r.t.Helper()
	r.edit(func(c *TargetConfig) { c.Access = &Access{Rules: rules} })
}

// status is what a login with the names of o ends with.
func (r *rig) status(o initiator.Options) pdu.LoginStatus {
	r.t.Helper()
	s, err := initiator.Login(r.ctx(), o)
	var le *initiator.LoginError
	switch {
	case err == nil:
		s.Close()
		return pdu.LoginSuccess
	case !errors.As(err, &le):
		r.t.Fatal(err)
	}
	return le.Status
}

// refusal is the whole answer to a raw login: header and data.
func (r *rig) refusal(target string) []byte {
	r.t.Helper()
	c := r.dial(1)
	if err := c.Send(c.LoginHeader(1, false, false, pdu.SecurityNegotiation, 0), initiator.SecurityKeys(rawName, target).With("AuthMethod", "CHAP,None").Encode()); err != nil {
		r.t.Fatal(err)
	}
	p, err := c.Expect(pdu.OpLoginResp)
	if err != nil {
		r.t.Fatal(err)
	}
	if (*pdu.LoginResp)(&p.Header).Status() == pdu.LoginSuccess {
		r.t.Fatalf("let in to %s", target)
	}
	wantClosed(r.t.(*testing.T), c, "a refused login")
	return append(p.Header[:], p.Data...)
}

// TestAccessAtLogin: who is not admitted cannot tell the target from one that is not there, in the answer or in discovery, whatever its
// state; and is not asked for a secret.
func TestAccessAtLogin(t *testing.T) {
	var rec recorder
	r := newRig(t, Config{LoginFailDelay: -1, Logger: &rec}, "")
	six := r.listen("[::1]:0,group=6")
	none := r.refusal(testTarget + "-not-there")
	auth := accounts()
	for name, hide := range map[string]func(*TargetConfig){
		"nobody":          func(c *TargetConfig) { c.Access = &Access{} },
		"another name":    func(c *TargetConfig) { c.Access = &Access{Rules: []Rule{{Initiator: rawName + "2"}}} },
		"another address": func(c *TargetConfig) { c.Access = &Access{Rules: []Rule{{Address: address(t, "127.0.0.2")}}} },
		"only half the rule": func(c *TargetConfig) {
			c.Access = &Access{Rules: []Rule{{Initiator: rawName, Address: address(t, "::/0")}}}
		},
		"CHAP":                func(c *TargetConfig) { c.Access, c.Auth = &Access{}, &auth },
		"offline":             func(c *TargetConfig) { c.Access, c.Offline = &Access{}, true },
		"not by this portal":  func(c *TargetConfig) { c.PortalGroups = []uint16{6} },
		"… nor sent anywhere": func(c *TargetConfig) { c.PortalGroups, c.Redirect = []uint16{6}, Redirect{Address: "192.0.2.1"} },
	} {
		cfg := TargetConfig{}
		hide(&cfg)
		if err := r.tg.Configure(cfg); err != nil {
			t.Fatal(err)
		}
		if got := r.refusal(testTarget); !bytes.Equal(got, none) {
			t.Errorf("%s: % x, want % x", name, got, none)
		}
		if name != "not by this portal" && name != "… nor sent anywhere" {
			if got := sendTargets(r.rawDiscovery(8192), "SendTargets", "All"); got != "" {
				t.Errorf("%s: discovery tells %s", name, got)
			}
			if got := sendTargets(r.rawDiscovery(8192), "SendTargets", testTarget); got != "" {
				t.Errorf("%s: discovery tells %s", name, got)
			}
		}
	}
	if text := rec.text(); !strings.Contains(text, "initiator \""+rawName+"\" to target \""+testTarget+"\": status 0203h: target "+testTarget+": its access rules admit neither") ||
		!strings.Contains(text, "there is no target") || !strings.Contains(text, "portal group 1 does not lead") {
		t.Errorf("the log does not say why:\n%s", text)
	}
	// Who is admitted, comes in, and sees it.
	if err := r.tg.Configure(TargetConfig{}); err != nil {
		t.Fatal(err)
	}
	o := r.options(1)
	o.InitiatorName = rawName
	for _, rule := range []Rule{{Initiator: "iqn.2026-11.IO.lunar:*"}, {Address: AllAddresses()}, {Address: address(t, "127.0.0.1/32")}, {Initiator: rawName, Address: address(t, "127.0.0.9/8")}} {
		r.admit(Rule{Initiator: "iqn.nobody"}, rule)
		if got := r.status(o); got != pdu.LoginSuccess {
			t.Errorf("%+v: status %04Xh", rule, uint16(got))
		}
		if got := sendTargets(r.rawDiscovery(8192), "SendTargets", "All"); !strings.Contains(got, testTarget) {
			t.Errorf("%+v: discovery tells %q", rule, got)
		}
	}
	r.admit(Rule{Address: address(t, "[::1]/128")})
	o.Portal = six.String()
	if got := r.status(o); got != pdu.LoginSuccess {
		t.Errorf("by IPv6: status %04Xh", uint16(got))
	}
	r.edit(func(c *TargetConfig) { c.Offline = true })
	if got := r.status(o); got != pdu.TargetError {
		t.Errorf("offline, to who is admitted: status %04Xh", uint16(got))
	}
	if got := r.discover(six); !strings.Contains(got, "test ") {
		t.Errorf("offline: discovery tells %q", got)
	}
}

// TestNamesAsTheyCome: case counts with ExactNames, and only then.
func TestNamesAsTheyCome(t *testing.T) {
	r := newRig(t, Config{}, "")
	o := r.options(1)
	for _, c := range []struct {
		rule, name string
		exact      bool
		want       pdu.LoginStatus
	}{
		{"iqn.2026-11.example:Host", "iqn.2026-11.example:hOST", false, pdu.LoginSuccess},
		{"iqn.2026-11.example:Host", "iqn.2026-11.example:hOST", true, pdu.TargetNotFound},
		{"iqn.2026-11.example:Host", "iqn.2026-11.example:Host", true, pdu.LoginSuccess},
		{"iqn.2026-11.example:*", "iqn.2026-11.example:host", true, pdu.TargetNotFound},
	} {
		r.edit(func(cfg *TargetConfig) { cfg.Access = &Access{Rules: []Rule{{Initiator: c.rule}}, ExactNames: c.exact} })
		o.InitiatorName = c.name
		if got := r.status(o); got != c.want {
			t.Errorf("%+v: %04Xh", c, uint16(got))
		}
		list, err := initiator.Discover(r.ctx(), initiator.Options{Portal: r.addr.String(), InitiatorName: c.name})
		if err != nil || (len(list) == 1) != (c.want == pdu.LoginSuccess) {
			t.Errorf("%+v: discovery tells %v, %v", c, list, err)
		}
	}
}

// TestAccessOfSessions: a session goes on when its initiator is no longer admitted, but it does not come back: not by
// reinstatement, of the session or of its connection, nor with a further connection.
func TestAccessOfSessions(t *testing.T) {
	r := newRig(t, Config{}, "")
	s := r.login(1)
	old := r.rawLogin(2)
	r.admit(Rule{Initiator: "iqn.nobody"})
	if _, err := s.Command(r.ctx(), lun1, initiator.TestUnitReady(), nil, 0); err != nil {
		t.Fatal("the session did not go on:", err)
	}
	for what, change := range map[string]func(*initiator.Conn){
		"session reinstatement":    func(c *initiator.Conn) {},
		"connection reinstatement": func(c *initiator.Conn) { c.TSIH = old.TSIH },
		"a further connection":     func(c *initiator.Conn) { c.TSIH, c.CID = old.TSIH, 7 },
	} {
		c := r.dial(2)
		change(c)
		if resp := r.step(c, true, pdu.OperationalStage, pdu.FullFeaturePhase, initiator.Keys{{Name: "InitiatorName", Value: rawName}, {Name: "TargetName", Value: testTarget}}); resp.Status() != pdu.TargetNotFound {
			t.Errorf("%s: status %04Xh", what, uint16(resp.Status()))
		}
	}
	if _, err := old.Ping([]byte("there")); err != nil {
		t.Error("a refused login has ended the session:", err)
	}
	r.admit(Rule{Initiator: rawName})
	c := r.dial(2)
	c.TSIH = old.TSIH
	if resp := r.step(c, true, pdu.OperationalStage, pdu.FullFeaturePhase, initiator.Keys{{Name: "InitiatorName", Value: rawName}, {Name: "TargetName", Value: testTarget}}); resp.Status() != pdu.LoginSuccess {
		t.Errorf("connection reinstatement of who is admitted: status %04Xh", uint16(resp.Status()))
	}
}

// TestChangedDuringLogin: nobody comes in by a configuration that has been replaced while the login went on.
func TestChangedDuringLogin(t *testing.T) {
	r := newRig(t, Config{}, "")
	auth := accounts()
	for what, c := range map[string]struct {
		change func(*TargetConfig)
		want   pdu.LoginStatus
	}{
		"nothing":         {func(c *TargetConfig) { c.Alias = "another" }, pdu.LoginSuccess},
		"access":          {func(c *TargetConfig) { c.Access = &Access{} }, pdu.TargetNotFound},
		"portal groups":   {func(c *TargetConfig) { c.PortalGroups = []uint16{9} }, pdu.TargetNotFound},
		"offline":         {func(c *TargetConfig) { c.Offline = true }, pdu.TargetError},
		"accounts":        {func(c *TargetConfig) { c.Auth = &auth }, pdu.ServiceUnavailable},
		"sent elsewhere":  {func(c *TargetConfig) { c.Redirect.Address = "192.0.2.1" }, pdu.ServiceUnavailable},
		"the same anew":   {func(c *TargetConfig) { c.Auth = &login.Auth{} }, pdu.LoginSuccess},
		"what it may do":  {func(c *TargetConfig) { c.Access = &Access{Rules: []Rule{{Initiator: "*", ReadOnly: true}}} }, pdu.LoginSuccess},
		"other LUNs seen": {func(c *TargetConfig) { c.Masks = []Mask{{Initiator: "*"}} }, pdu.LoginSuccess},
	} {
		if err := r.tg.Configure(TargetConfig{}); err != nil {
			t.Fatal(err)
		}
		conn := r.dial(1)
		if resp := r.step(conn, true, pdu.SecurityNegotiation, pdu.OperationalStage, rawNames); resp.Status() != pdu.LoginSuccess {
			t.Fatalf("%s: status %04Xh", what, uint16(resp.Status()))
		}
		r.edit(c.change)
		if resp := r.step(conn, true, pdu.OperationalStage, pdu.FullFeaturePhase, nil); resp.Status() != c.want {
			t.Errorf("%s: status %04Xh, want %04Xh", what, uint16(resp.Status()), uint16(c.want))
		}
	}
}

// A configuration that is wrong anywhere changes nothing, and what Config returns is the caller's.
func TestConfigureAllOrNothing(t *testing.T) {
	r := newRig(t, Config{}, "")
	auth, params := accounts(), login.Defaults().Params
	good := TargetConfig{
		Alias: "a", PortalGroups: []uint16{1, 2}, Access: &Access{Rules: []Rule{{Initiator: "*"}}}, Auth: &auth, Params: &params,
		Masks: []Mask{{Initiator: "iqn.x", LUNs: []MaskLUN{{As: 1, LUN: 1}}}}, Redirect: Redirect{Address: "192.0.2.1"}, Offline: true,
	}
	if err := r.tg.Configure(good); err != nil {
		t.Fatal(err)
	}
	want := r.tg.conf.Load()
	for what, change := range map[string]func(*TargetConfig){
		"portal group tags are":        func(c *TargetConfig) { c.PortalGroups = []uint16{1, 0} },
		"names neither":                func(c *TargetConfig) { c.Access.Rules = append(c.Access.Rules, Rule{ReadOnly: true}) },
		"at most 446":                  func(c *TargetConfig) { c.Access.Rules[0].Initiator = strings.Repeat("x", 447) },
		"not UTF-8":                    func(c *TargetConfig) { c.Access.Rules[0].Initiator = "\xff" },
		"at most 16384":                func(c *TargetConfig) { c.Access.Rules = make([]Rule, MaxRules+1) },
		"have more than 262144":        func(c *TargetConfig) { c.Masks[0].LUNs = make([]MaskLUN, MaxMaskLUNs+1) },
		"16385 LUN masks":              func(c *TargetConfig) { c.Masks = make([]Mask, MaxRules+1) },
		"mask 1 names no":              func(c *TargetConfig) { c.Masks[0].Initiator = "" },
		"go up to 16383":               func(c *TargetConfig) { c.Masks[0].LUNs[0].LUN = 16384 },
		"two LUNs as 1":                func(c *TargetConfig) { c.Masks[0].LUNs = []MaskLUN{{As: 1, LUN: 1}, {As: 1, LUN: 2}} },
		"LUN 1 under two numbers":      func(c *TargetConfig) { c.Masks[0].LUNs = []MaskLUN{{As: 1, LUN: 1}, {As: 2, LUN: 1}} },
		"without a name":               func(c *TargetConfig) { c.Auth.Incoming[1].Name = "" },
		"an account without":           func(c *TargetConfig) { c.Auth.Outgoing.Name = "" },
		"MaxBurstLength=0":             func(c *TargetConfig) { c.Params.MaxBurstLength = 0 },
		"HeaderDigest=CRC32C is":       func(c *TargetConfig) { c.Params.HeaderDigest, c.RequireHeaderDigest = false, true },
		"DataDigest=CRC32C is":         func(c *TargetConfig) { c.Params.DataDigest, c.RequireDataDigest = false, true },
		"at most 65535":                func(c *TargetConfig) { c.Window = 65536 },
		"ping time-out":                func(c *TargetConfig) { c.NOPTimeout = -1 },
		"neither an IP":                func(c *TargetConfig) { c.Redirect.Address = "no host" },
		"neither an IP address nor a":  func(c *TargetConfig) { c.Redirect.Address = "192.0.2.1:3260" },
		"no other host":                func(c *TargetConfig) { c.Redirect.Address = "[::]" },
		"stay as they were made":       func(c *TargetConfig) { c.AnyName = true },
		"its loop and the kind of its": func(c *TargetConfig) { c.LoopOf = r.tg },
	} {
		cfg := r.tg.Config()
		change(&cfg)
		if err := r.tg.Configure(cfg); err == nil || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), testTarget) {
			t.Errorf("%v, want %q", err, what)
		}
		if _, err := r.s.AddTarget(testTarget+"-2", cfg); err == nil && !strings.Contains(what, "kind of its") && !strings.Contains(what, "were made") {
			t.Errorf("AddTarget takes it: %q", what)
		} else if err == nil {
			if err := r.s.Target(testTarget+"-2").Remove(r.ctx(), false); err != nil {
				t.Fatal(err)
			}
		}
		if r.tg.conf.Load() != want {
			t.Fatalf("%q: the configuration has changed", what)
		}
	}
	if got := r.tg.Config(); !reflect.DeepEqual(got, good) {
		t.Errorf("%+v, want %+v", got, good)
	}
	if !reflect.DeepEqual(good.Auth, func() *login.Auth { a := accounts(); return &a }()) {
		t.Error("the configuration shares memory with who gave it")
	}
	if err := r.tg.Remove(r.ctx(), false); err != nil {
		t.Fatal(err)
	}
	if err := r.tg.Configure(good); !errors.Is(err, ErrNoTarget) {
		t.Errorf("of a target that was removed: %v", err)
	}
}

// TestOffline: no login, and BUSY for every command of a session that there is, INQUIRY included; pings and functions are answered. No
// unit attention is lost by it.
func TestOffline(t *testing.T) {
	r := newRig(t, Config{}, "")
	s := r.login(1)
	o := r.options(2)
	fresh, err := initiator.Login(r.ctx(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	r.edit(func(c *TargetConfig) { c.Offline = true })
	for _, cdb := range [][]byte{initiator.TestUnitReady(), initiator.Inquiry(36), initiator.ReportLUNs(64), {3, 0, 0, 0, 18, 0}, read10(0, 8)} {
		for _, lun := range []sam.LUN{lun1, sam.NewLUN(0), sam.NewLUN(77)} {
			res, err := s.Command(r.ctx(), lun, cdb, nil, 4096)
			if err != nil || res.Status != sam.Busy {
				t.Fatalf("% x: %v, %v", cdb, res.Status, err)
			}
		}
	}
	for _, n := range []int{1, 512, 4096} { // immediate, unsolicited and solicited data
		if res, err := s.Command(r.ctx(), lun1, write10(0, uint16(n)), block('x', n), 0); err != nil || res.Status != sam.Busy {
			t.Fatalf("a write of %d blocks: %v, %v", n, res.Status, err)
		}
	}
	if _, err := s.Ping(r.ctx(), []byte("there")); err != nil {
		t.Fatal(err)
	}
	r.function(s, sam.AbortTaskSet, nil, pdu.FunctionComplete)
	if res, err := fresh.Command(r.ctx(), lun1, initiator.TestUnitReady(), nil, 0); err != nil || res.Status != sam.Busy {
		t.Fatalf("%v, %v", res.Status, err)
	}
	wantStatus(t, r, r.options(3), pdu.TargetError)
	r.edit(func(c *TargetConfig) { c.Offline = false })
	r.write(s, 0, block('y', 8))
	if !bytes.Equal(r.read(s, 0, 8), block('y', 8)) {
		t.Error("it reads other data")
	}
	r.conditions(fresh, 0x2900)
}
