package hostile

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
	"github.com/lunar-iscsi/lunar/target"
)

// Whatever comes first on a connection, if it is no login it ends it.
func TestNoLogin(t *testing.T) {
	f := newField(t, target.Config{})
	n := uint64(0)
	for op := range 64 {
		if pdu.Opcode(op) == pdu.OpLoginReq {
			continue
		}
		c := f.dial()
		c.Send(c.Request(pdu.Opcode(op), true), []byte("InitiatorName=iqn.2026-11.io.lunar:x\x00"))
		f.closed(c)
		n++
	}
	for _, junk := range []string{"GET / HTTP/1.1\r\nHost: disk.example\r\nUser-Agent: something\r\n\r\n", strings.Repeat("\xff", 300), strings.Repeat("\x00", 300)} {
		c := f.dial()
		if err := c.SendBytes([]byte(junk)); err != nil {
			t.Fatal(err)
		}
		f.closed(c)
		n++
	}
	f.refused("protocol", n)
}

// A login that is longer than it may be is refused before it is read; one that is shorter than it says is waited for, no longer than
// any login.
func TestLoginLengths(t *testing.T) {
	f := newField(t, target.Config{LoginTimeout: time.Second / 4})
	for i, n := range []int{8193, 16 << 10, 1 << 20, 1<<24 - 1} {
		c := f.dial()
		h := c.LoginHeader(c.NextITT(), true, false, pdu.SecurityNegotiation, pdu.OperationalStage)
		h.SetDataLen(n)
		if err := c.SendBytes(h[:]); err != nil {
			t.Fatal(err)
		}
		p, err := c.Expect(pdu.OpLoginResp)
		if err != nil || (*pdu.LoginResp)(&p.Header).Status() == pdu.LoginSuccess {
			t.Fatalf("%d bytes announced: %v, %v", n, p, err)
		}
		f.closed(c)
		f.moved("refusals", func(st target.Stats) uint64 {
			return st.LoginsLost["initiator_error"] + st.LoginsLost["out_of_resources"] + st.LoginsLost["missing_parameter"]
		}, uint64(i+1))
	}
	short := []byte("InitiatorName=iqn.2026-11.io.lunar:x\x00")
	for n := range 3 {
		c := f.dial()
		h := c.LoginHeader(c.NextITT(), true, false, pdu.SecurityNegotiation, pdu.OperationalStage)
		h[4] = byte(n) * 127 // words of AHS that do not come either
		h.SetDataLen(4096)
		if err := c.SendBytes(append(h[:], short...)); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			c.Close()
			f.refused("gone", 1)
			continue
		}
		f.closed(c)
	}
	f.refused("timeout", 2)
}

// One byte a time: it is given no more time than anybody.
func TestSlowLogin(t *testing.T) {
	f := newField(t, target.Config{LoginTimeout: time.Second})
	var peers []*initiator.Conn
	var h *pdu.Header
	for range 20 {
		c := f.dial()
		h = c.LoginHeader(c.NextITT(), true, false, pdu.SecurityNegotiation, pdu.OperationalStage)
		peers = append(peers, c)
	}
	for i := range 40 {
		for _, c := range peers {
			_ = c.SendBytes(h[i : i+1]) // it may be closed already
		}
		f.goOn()
	}
	for _, c := range peers {
		f.closed(c)
	}
	f.refused("timeout", 20)
}

// Logins that go on and on: keys without end, stages that are never left, PDUs without data.
func TestEndlessLogin(t *testing.T) {
	f := newField(t, target.Config{})
	for name, step := range map[string]func(c *initiator.Conn, itt uint32, i int) (*pdu.Header, string){
		"nothing": func(c *initiator.Conn, itt uint32, _ int) (*pdu.Header, string) {
			return c.LoginHeader(itt, false, false, pdu.SecurityNegotiation, 0), ""
		},
		"continued": func(c *initiator.Conn, itt uint32, _ int) (*pdu.Header, string) {
			return c.LoginHeader(itt, false, true, pdu.SecurityNegotiation, 0), ""
		},
		"one value": func(c *initiator.Conn, itt uint32, _ int) (*pdu.Header, string) {
			return c.LoginHeader(itt, false, true, pdu.SecurityNegotiation, 0), strings.Repeat("x", 1000)
		},
		"keys": func(c *initiator.Conn, itt uint32, i int) (*pdu.Header, string) {
			var b strings.Builder
			for k := range 100 {
				fmt.Fprintf(&b, "X-%d-%d=1\x00", i, k)
			}
			return c.LoginHeader(itt, false, false, pdu.OperationalStage, 0), b.String()
		},
	} {
		c := f.dial()
		itt := c.NextITT()
		over := false
		first := initiator.SecurityKeys("iqn.2026-11.io.lunar:endless", targetName).Encode()
		for i := range 1000 {
			h, data := step(c, itt, i)
			if i == 0 && data == "" {
				data = string(first)
			}
			if !send(c, h, []byte(data)) {
				over = true
				break
			}
			p, err := c.Recv()
			if err != nil || (*pdu.LoginResp)(&p.Header).Status() != pdu.LoginSuccess {
				over = true
				break
			}
		}
		if !over {
			t.Errorf("%s: 1000 requests are answered", name)
		}
		f.closed(c)
	}
	f.until("refusals", func(st target.Stats) bool {
		n := uint64(0)
		for _, v := range st.LoginsLost {
			n += v
		}
		return n >= 4
	})
}

// Nobody gets in without a secret where one is asked for, on either way, nor with what the target has said itself. Challenges do not come
// twice.
func TestCHAPIsNoFormality(t *testing.T) {
	auth := login.Auth{Incoming: []login.Account{{Name: "joe", Secret: []byte("secret-of-joe")}}}
	f := newField(t, target.Config{Auth: auth, LoginFailDelay: -1}) // without the penalty for guessing, for as many guesses
	seen := map[string]bool{}
	for i := range 64 {
		c := f.dial()
		name := targetName
		if i%2 == 1 {
			name = "" // discovery
		}
		keys := initiator.SecurityKeys("iqn.2026-11.io.lunar:guess", name).With("AuthMethod", "CHAP")
		itt := c.NextITT()
		if _, _, err := c.LoginStep(itt, false, pdu.SecurityNegotiation, 0, keys); err != nil {
			t.Fatal(err)
		}
		_, answer, err := c.LoginStep(itt, false, pdu.SecurityNegotiation, 0, initiator.Keys{{Name: "CHAP_A", Value: "7,5"}})
		if err != nil {
			t.Fatal(err)
		}
		challenge, _ := answer.Get("CHAP_C")
		if raw, err := login.ParseBinary(challenge); err != nil || len(raw) < 16 || seen[challenge] {
			t.Fatalf("challenge %q: %v, seen before: %v", challenge, err, seen[challenge])
		}
		seen[challenge] = true
		reply := initiator.Keys{{Name: "CHAP_N", Value: "joe"}}
		switch i / 2 % 4 {
		case 0:
			reply = reply.With("CHAP_R", "0x"+strings.Repeat("00", 32))
		case 1:
			reply = reply.With("CHAP_R", challenge)
		case 2: // its own challenge back, for it to answer
			id, _ := answer.Get("CHAP_I")
			reply = reply.With("CHAP_R", "0x"+strings.Repeat("11", 32)).With("CHAP_I", id).With("CHAP_C", challenge)
		case 3:
			reply = nil // as if that were over
		}
		p, _, err := c.LoginStep(itt, true, pdu.SecurityNegotiation, pdu.FullFeaturePhase, reply)
		if err == nil && (*pdu.LoginResp)(&p.Header).Transit() {
			t.Fatalf("let in by way %d", i/2%4)
		}
		c.Close()
	}
	for _, name := range []string{targetName, ""} {
		for _, stage := range []pdu.Stage{pdu.SecurityNegotiation, pdu.OperationalStage} {
			c := f.dial()
			p, _, err := c.LoginStep(c.NextITT(), true, stage, pdu.FullFeaturePhase, initiator.SecurityKeys("iqn.2026-11.io.lunar:none", name))
			if err == nil && (*pdu.LoginResp)(&p.Header).Transit() {
				t.Fatalf("let in to %q from stage %d without CHAP", name, stage)
			}
			c.Close()
		}
	}
	f.refused("authentication", 48)
}

// Logins, failed logins and logouts without a pause, and one initiator port that ends its own session again and again.
func TestStormOfLogins(t *testing.T) {
	f := newField(t, target.Config{})
	const n = 200
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		for range n {
			if c, err := initiator.Dial(t.Context(), f.addr.String()); err == nil {
				_, _ = c.Login(initiator.SecurityKeys("iqn.2026-11.io.lunar:nobody", "iqn.2026-11.io.lunar:nothing"), nil)
				c.Close()
			}
		}
	}()
	for i := range n {
		c := f.dial()
		f.login(c, "iqn.2026-11.io.lunar:storm")
		switch i % 4 {
		case 0:
			if _, err := c.Logout(pdu.LogoutCloseSession); err != nil {
				t.Fatal(err)
			}
		case 1:
			c.Close()
		default: // the next one ends it
			h := c.CommandHeader(bad, write10(0, 128), false, true, 65536)
			send(c, h, nil)
		}
	}
	<-stop
	f.refused("not_found", n)
	f.moved("reinstatements", func(st target.Stats) uint64 { return st.Reinstated }, n/4)
	if f.log.count() > 300 {
		t.Errorf("%d lines in the log for %d logins", f.log.count(), 2*n)
	}
	if f.s.Stats().NotLogged == 0 {
		t.Error("nothing was left out of the log, and nothing says so")
	}
}
