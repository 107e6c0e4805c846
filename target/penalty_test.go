package target

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// Waits double up to the longest, each address has its own, and a network of IPv6 is one address.
func TestPenalty(t *testing.T) {
	const second = int64(time.Second)
	var p penalty
	p.init(1600 * time.Millisecond)
	now := int64(0)
	want := func(ip string, ms ...int64) {
		t.Helper()
		for _, w := range ms {
			if got := p.failed(netip.MustParseAddr(ip), now); got.Milliseconds() != w {
				t.Errorf("%s at %d s waits %v, want %d ms", ip, now/second, got, w)
			}
		}
	}
	want("192.0.2.1", 100, 200, 400, 800, 1600, 1600, 1600)
	want("192.0.2.2", 100)
	want("2001:db8:0:1::1", 100)
	want("2001:db8:0:1:ffff::9", 200)
	want("2001:db8:0:2::1", 100)
	want("fe80::1%eth0", 100)
	now = 299 * second
	want("192.0.2.1", 1600)
	now = 600 * second
	want("192.0.2.1", 100, 200)
	var off penalty
	off.init(-1)
	if got := off.failed(netip.MustParseAddr("192.0.2.1"), 0); got != 0 || len(off.by) != 0 {
		t.Error("turned off, it waits", got)
	}
}

// The table of addresses has a bound; those beyond it wait longest, and what is old makes room.
func TestPenaltyTable(t *testing.T) {
	var p penalty
	p.init(16 * time.Second)
	ip := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	now := int64(penaltySweep)
	for i := range penaltyAddresses + 100 {
		want := time.Second
		if i >= penaltyAddresses {
			want = 16 * time.Second
		}
		if got := p.failed(ip(i), now); got != want {
			t.Fatalf("address %d waits %v, want %v", i, got, want)
		}
	}
	if len(p.by) != penaltyAddresses {
		t.Fatalf("%d addresses are remembered", len(p.by))
	}
	now += penaltyMemory + 1
	if got := p.failed(ip(penaltyAddresses), now); got != time.Second || len(p.by) != 1 {
		t.Errorf("later a new address waits %v, and %d are remembered", got, len(p.by))
	}
}

// A wrong secret is answered late, in time for the initiator to hear it; a right one from the same address at once, by the same
// initiator's name, too.
func TestFailedLoginsWait(t *testing.T) {
	// The longest wait is hours: what waits has not ended by itself.
	r := newRig(t, Config{Auth: accounts(), LoginFailDelay: 16 * time.Hour, LoginTimeout: time.Minute}, "")
	wrong := r.options(1)
	wrong.CHAP = &initiator.CHAP{Name: "joe", Secret: []byte("wrong")}
	wrong.Wait = testWait * 10
	right := r.options(2)
	right.CHAP = &initiator.CHAP{Name: "joe", Secret: []byte("secret-of-joe")}
	ended := make(chan error, 8)
	for i := range cap(ended) {
		go func() {
			_, err := initiator.Login(t.Context(), wrong)
			ended <- err
		}()
		r.until("the failure is noted", func() bool { return r.s.Stats().Slowed == uint64(i+1) })
		s, err := initiator.Login(r.ctx(), right)
		if err != nil {
			t.Fatal("with the right secret:", err)
		}
		s.Close()
		if list, err := initiator.Discover(r.ctx(), right); err != nil || len(list) != 1 {
			t.Fatal("discovery with the right secret:", err)
		}
	}
	if len(ended) != 0 {
		t.Fatal("a wrong secret was answered at once:", <-ended)
	}
	// The server does not wait for them to end.
	if err := r.s.Close(); err != nil {
		t.Fatal(err)
	}
	for range cap(ended) {
		if err := <-ended; err == nil {
			t.Error("let in")
		}
	}
}

// The answer comes when the wait is over.
func TestFailedLoginsAreAnswered(t *testing.T) {
	const wait = 320 * time.Millisecond
	r := newRig(t, Config{Auth: accounts(), LoginFailDelay: wait}, "")
	o := r.options(1)
	o.CHAP = &initiator.CHAP{Name: "joe", Secret: []byte("wrong")}
	for i := range penaltyDoublings + 1 {
		start := time.Now()
		wantStatus(t, r, o, pdu.AuthenticationFailed)
		if took := time.Since(start); took < wait>>(penaltyDoublings-i) {
			t.Errorf("failure %d was answered after %v", i+1, took)
		}
	}
}

// Who leaves without waiting for the answer keeps his place until then: guesses do not come faster for that.
func TestWaitingLoginsCount(t *testing.T) {
	r := newRig(t, Config{Auth: accounts(), LoginFailDelay: 16 * time.Hour, MaxLogins: 2}, "")
	for i := range 2 {
		r.walkAway()
		r.until("the failure is noted", func() bool { return r.s.Stats().Slowed == uint64(i+1) })
	}
	o := r.options(1)
	o.CHAP = &initiator.CHAP{Name: "joe", Secret: []byte("secret-of-joe")}
	wantStatus(t, r, o, pdu.ServiceUnavailable)
}

// walkAway fails to authenticate and closes the connection.
func (r *rig) walkAway() {
	r.t.Helper()
	c, err := initiator.Dial(r.ctx(), r.addr.String())
	if err != nil {
		r.t.Fatal(err)
	}
	h := c.LoginHeader(c.NextITT(), true, false, pdu.SecurityNegotiation, pdu.OperationalStage)
	if err := c.Send(h, without("AuthMethod")(initiator.SecurityKeys("iqn.2026-11.io.lunar:raw", testTarget)).Encode()); err != nil {
		r.t.Fatal(err)
	}
	c.Close()
}

// until waits for an event.
func (r *rig) until(what string, event func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(testWait); !event(); runtime.Gosched() {
		if time.Now().After(deadline) {
			r.t.Fatal("not within reason: ", what)
		}
	}
}

// inside is how many connections are in g.
func inside(g *loginGate) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.all)
}

// knock opens a connection that says nothing, and returns once the server has it in gate.
func (r *rig) knock(gate *loginGate) net.Conn {
	r.t.Helper()
	before := inside(gate)
	nc, err := net.Dial("tcp", r.addr.String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { nc.Close() })
	r.until("it is let in", func() bool { return inside(gate) > before })
	return nc
}

// quiet waits until nobody is in gate.
func (r *rig) quiet(gate *loginGate) {
	r.t.Helper()
	r.until("the connections have left", func() bool { return inside(gate) == 0 })
}

// A login that there is no room for now is told so with status 0301h, on which initiators try again. Those beyond what may be told so at once are closed; what says nothing holds up neither the others nor the end.
func TestTurnAway(t *testing.T) {
	r := newRig(t, Config{MaxLogins: 1, MaxTurnAways: 1}, "")
	idle := r.knock(&r.s.gate)
	wantStatus(t, r, r.options(1), pdu.ServiceUnavailable)
	r.quiet(&r.s.lobby)
	o := r.options(1)
	o.TargetName = ""
	if _, err := initiator.Discover(r.ctx(), o); err == nil || !strings.Contains(err.Error(), "0301h") {
		t.Fatal("discovery:", err)
	}
	// A first request with as much data as is allowed, and with more, is answered too.
	for _, n := range []int{maxFirstData, maxFirstData + 4} {
		r.quiet(&r.s.lobby)
		c, err := initiator.Dial(r.ctx(), r.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Send(c.LoginHeader(c.NextITT(), false, true, 0, 0), make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		p, err := c.Expect(pdu.OpLoginResp)
		if err != nil || (*pdu.LoginResp)(&p.Header).Status() != pdu.ServiceUnavailable {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if _, err := c.Recv(); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	r.quiet(&r.s.lobby)
	second := r.knock(&r.s.lobby)
	third, err := net.Dial("tcp", r.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	third.SetReadDeadline(time.Now().Add(testWait))
	if n, err := third.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("beyond all bounds: %d bytes, %v", n, err)
	}
	second.Close()
	idle.Close()
	r.quiet(&r.s.gate)
	r.login(1)
	r.quiet(&r.s.gate)
	r.knock(&r.s.gate)
	r.quiet(&r.s.lobby)
	r.knock(&r.s.lobby)
	if st := r.s.Stats(); st.TurnedAway != 7 || st.Accepted != 10 {
		t.Errorf("%d turned away, %d accepted, want 7 and 10", st.TurnedAway, st.Accepted)
	}
	if err := r.s.Close(); err != nil {
		t.Fatal(err)
	}
}
