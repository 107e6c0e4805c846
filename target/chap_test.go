package target

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// accounts are those of the tests: names that begin as numbers do are names.
func accounts() login.Auth {
	return login.Auth{
		Incoming: []login.Account{{Name: "joe", Secret: []byte("secret-of-joe")}, {Name: "0xjim", Secret: []byte("secret-of-jim")},
			{Name: "0bann", Secret: []byte("secret-of-ann")}},
		Outgoing: &login.Account{Name: "0xlunar", Secret: []byte("secret-of-lunar")},
	}
}

// A recorder keeps every line that the server logs or traces.
type recorder struct {
	mu    sync.Mutex
	lines []string
}

func (r *recorder) add(parts ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, fmt.Sprintln(parts...))
}

func (r *recorder) Debug(msg string, kv ...any) { r.add(append([]any{msg}, kv...)...) }
func (r *recorder) Info(msg string, kv ...any)  { r.add(append([]any{msg}, kv...)...) }
func (r *recorder) Warn(msg string, kv ...any)  { r.add(append([]any{msg}, kv...)...) }

func (r *recorder) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "")
}

// RECOMMENDED 7143 §12.1.3: every algorithm, one-way and mutual, responses and challenges in hex and in base64, in normal and
// discovery sessions
//
// MUST 7143 §9.2.1: no secret, response or challenge is in the log or in a trace
func TestCHAP(t *testing.T) {
	var rec recorder
	r := newRig(t, Config{Auth: accounts(), LoginFailDelay: -1, Logger: &rec, Trace: Trace{PDU: func(conn, dir, line string) { rec.add(conn, dir, line) }}}, "")
	type variant struct {
		alg               login.CHAPAlgorithm
		base64, mutual    bool
		user              int
		secret, outSecret string
	}
	try := func(v variant, discovery bool) error {
		in := accounts().Incoming[v.user]
		o := r.options(1)
		o.CHAP = &initiator.CHAP{Name: in.Name, Secret: in.Secret, Algorithms: []login.CHAPAlgorithm{99, v.alg}, Base64: v.base64}
		if v.secret != "" {
			o.CHAP.Secret = []byte(v.secret)
		}
		if v.mutual {
			o.CHAP.TargetName, o.CHAP.TargetSecret = "0xlunar", []byte("secret-of-lunar")
			if v.outSecret != "" {
				o.CHAP.TargetSecret = []byte(v.outSecret)
			}
		}
		if discovery {
			list, err := initiator.Discover(r.ctx(), o)
			if err == nil && len(list) != 1 {
				t.Errorf("%+v: %d targets", v, len(list))
			}
			return err
		}
		s, err := initiator.Login(r.ctx(), o)
		if err == nil {
			r.ready(s)
			err = s.Logout(r.ctx())
		}
		return err
	}
	for _, alg := range initiator.DefaultAlgorithms() {
		for i := range 2 * 2 * 2 * 3 {
			v := variant{alg: alg, base64: i&1 != 0, mutual: i&2 != 0, user: i / 8}
			if err := try(v, i&4 != 0); err != nil {
				t.Errorf("%+v: %v", v, err)
			}
			v.secret = "not-the-secret"
			var le *initiator.LoginError
			if err := try(v, i&4 != 0); !errors.As(err, &le) || le.Status != pdu.AuthenticationFailed {
				t.Errorf("%+v: %v", v, err)
			}
			if v.mutual {
				v.secret, v.outSecret = "", "not-lunar"
				if err := try(v, i&4 != 0); !errors.Is(err, initiator.ErrTargetAuth) {
					t.Errorf("%+v: %v", v, err)
				}
			}
		}
	}
	text := rec.text()
	for _, want := range []string{"CHAP_N=0xjim CHAP_R=(", "CHAP_C=(", "CHAP_N=0xlunar CHAP_R=("} {
		if !strings.Contains(text, want) {
			t.Errorf("the trace has no %s", want)
		}
	}
	for _, never := range []string{"secret-of-", "not-the-secret", hex.EncodeToString([]byte("secret-of-")), "CHAP_R=0", "CHAP_C=0", base64.StdEncoding.EncodeToString([]byte("secret-of-"))} {
		if at := strings.Index(text, never); at >= 0 {
			t.Errorf("in log or trace: %.120s", text[max(at-40, 0):])
		}
	}
}

// A step is one request of a login, made of what the target has answered so far.
type step func(got initiator.Keys) initiator.Keys

func say(pairs ...string) step {
	return func(initiator.Keys) initiator.Keys {
		var k initiator.Keys
		for _, p := range pairs {
			name, value, _ := strings.Cut(p, "=")
			k = append(k, initiator.Key{Name: name, Value: value})
		}
		return k
	}
}

// respond is CHAP_N and CHAP_R of an account, changed by each of edits.
func respond(a login.Account, edits ...func(k initiator.Keys) initiator.Keys) step {
	return func(got initiator.Keys) initiator.Keys {
		c := initiator.CHAP{Name: a.Name, Secret: a.Secret}
		k, _, err := c.Answer(got)
		if err != nil {
			return initiator.Keys{{Name: "CHAP_R", Value: err.Error()}}
		}
		for _, e := range edits {
			k = e(k)
		}
		return k
	}
}

func with(name string, value func(old string) string) func(initiator.Keys) initiator.Keys {
	return func(k initiator.Keys) initiator.Keys {
		old, _ := k.Get(name)
		return k.With(name, value(old))
	}
}

func set(name, value string) func(initiator.Keys) initiator.Keys {
	return with(name, func(string) string { return value })
}

func without(name string) func(initiator.Keys) initiator.Keys {
	return func(k initiator.Keys) initiator.Keys {
		return slices.DeleteFunc(k, func(x initiator.Key) bool { return x.Name == name })
	}
}

// MUST 7143 §9.2.1: a challenge of ours that comes back ends the connection
//
// MUST 7143 §9.2: CHAP keys that are missing, doubled, malformed or of another step end the login with 0207h or 0200h, a proof that is none with 0201h
func TestCHAPRefusals(t *testing.T) {
	auth := accounts()
	joe, lunar := auth.Incoming[0], *auth.Outgoing
	auth.Incoming = append(auth.Incoming, login.Account{Name: "twin", Secret: lunar.Secret}, login.Account{Name: "nobody"})
	var rec recorder
	r := newRig(t, Config{Auth: auth, LoginFailDelay: -1, Logger: &rec}, "")
	method, algs := say("AuthMethod=CHAP"), say("CHAP_A=8,7,6,5")
	mirror := func(got initiator.Keys) func(initiator.Keys) initiator.Keys {
		return func(k initiator.Keys) initiator.Keys {
			c, _ := got.Get("CHAP_C")
			id, _ := got.Get("CHAP_I")
			return k.With("CHAP_I", id).With("CHAP_C", c)
		}
	}
	const refused, malformed, missing = pdu.AuthenticationFailed, pdu.InitiatorError, pdu.MissingParameter
	for _, c := range []struct {
		name   string
		steps  []step
		status pdu.LoginStatus // LoginSuccess: the login gets through
	}{
		{"as it should be", []step{method, algs, respond(joe)}, pdu.LoginSuccess},
		{"upper case hex", []step{method, algs, respond(joe, with("CHAP_R", func(v string) string { return "0X" + strings.ToUpper(v[2:]) }))}, pdu.LoginSuccess},
		{"base64 with 0B", []step{method, algs, respond(joe, with("CHAP_R", func(v string) string {
			b, _ := login.ParseBinary(v)
			return "0B" + base64.StdEncoding.EncodeToString(b)
		}))}, pdu.LoginSuccess},
		{"blanks among the algorithms", []step{method, say("CHAP_A=9,xyz,,5"), respond(joe)}, pdu.LoginSuccess},
		{"another case of the name", []step{method, algs, respond(joe, set("CHAP_N", "Joe"))}, refused},
		{"no method", []step{say("AuthMethod=None")}, refused},
		{"methods that are not there", []step{say("AuthMethod=KRB5,SRP")}, refused},
		{"an empty list of methods", []step{say("AuthMethod=")}, refused},
		{"a method twice", []step{say("AuthMethod=CHAP", "AuthMethod=CHAP")}, malformed},
		{"no algorithm", []step{method, say("CHAP_A=")}, refused},
		{"algorithms that are not there", []step{method, say("CHAP_A=1,9,56,4294967301")}, refused},
		{"algorithms that are no numbers", []step{method, say("CHAP_A=MD5,-5,05")}, refused},
		{"algorithms twice", []step{method, say("CHAP_A=5", "CHAP_A=5")}, malformed},
		{"algorithms again", []step{method, algs, algs}, malformed},
		{"algorithms with the response", []step{method, algs, respond(joe, set("CHAP_A", "5"))}, malformed},
		{"a response first", []step{method, say("CHAP_N=joe", "CHAP_R=0x00112233445566778899aabbccddeeff")}, missing},
		{"a challenge first", []step{method, say("CHAP_I=1", "CHAP_C=0x0011")}, missing},
		{"keys before the method", []step{algs}, malformed},
		{"no name", []step{method, algs, respond(joe, without("CHAP_N"))}, missing},
		{"no response", []step{method, algs, respond(joe, without("CHAP_R"))}, missing},
		{"an empty name", []step{method, algs, respond(joe, set("CHAP_N", ""))}, refused},
		{"an empty response", []step{method, algs, respond(joe, set("CHAP_R", ""))}, malformed},
		{"a response of nothing", []step{method, algs, respond(joe, set("CHAP_R", "0x"))}, malformed},
		{"a response in decimal", []step{method, algs, respond(joe, set("CHAP_R", "12345"))}, malformed},
		{"a response one byte short", []step{method, algs, respond(joe, with("CHAP_R", func(v string) string { return v[:len(v)-2] }))}, refused},
		{"a response one byte longer", []step{method, algs, respond(joe, with("CHAP_R", func(v string) string { return v + "00" }))}, refused},
		{"a response of 1024 bytes", []step{method, algs, respond(joe, set("CHAP_R", "0x"+strings.Repeat("ab", 1024)))}, refused},
		{"a response of 4095 bytes", []step{method, algs, respond(joe, set("CHAP_R", "0x"+strings.Repeat("ab", 4000)))}, malformed},
		{"a response that is no base64", []step{method, algs, respond(joe, set("CHAP_R", "0b!!!!"))}, malformed},
		{"a name too long", []step{method, algs, respond(joe, set("CHAP_N", strings.Repeat("j", 256)))}, malformed},
		{"a name too long that looks like a number", []step{method, algs, respond(joe, set("CHAP_N", "0x"+strings.Repeat("0", 7000)))}, refused},
		{"a name of control characters", []step{method, algs, respond(joe, set("CHAP_N", "\x1b[2J\r\n"))}, refused},
		{"an account without a secret", []step{method, algs, respond(login.Account{Name: "nobody"})}, refused},
		{"our own name and secret", []step{method, algs, respond(lunar)}, refused},
		{"the secret that we prove ourselves with", []step{method, algs, respond(login.Account{Name: "twin", Secret: lunar.Secret})}, refused},
		{"a challenge without an ID", []step{method, algs, respond(joe, set("CHAP_C", "0x0011"))}, missing},
		{"an ID without a challenge", []step{method, algs, respond(joe, set("CHAP_I", "1"))}, missing},
		{"an ID too large", []step{method, algs, respond(joe, set("CHAP_I", "256"), set("CHAP_C", "0x0011"))}, malformed},
		{"an empty challenge", []step{method, algs, respond(joe, set("CHAP_I", "1"), set("CHAP_C", ""))}, malformed},
		{"a challenge of 1025 bytes", []step{method, algs, respond(joe, set("CHAP_I", "1"), set("CHAP_C", "0x"+strings.Repeat("ab", 1025)))}, malformed},
		{"a challenge of 1024 bytes", []step{method, algs, respond(joe, set("CHAP_I", "1"), set("CHAP_C", "0x"+strings.Repeat("ab", 1024)))}, pdu.LoginSuccess},
		{"our challenge reflected", []step{method, algs, func(got initiator.Keys) initiator.Keys { return respond(joe, mirror(got))(got) }}, refused},
		{"our challenge reflected in base64", []step{method, algs, func(got initiator.Keys) initiator.Keys {
			c, _ := got.Get("CHAP_C")
			b, _ := login.ParseBinary(c)
			return respond(joe, set("CHAP_I", "1"), set("CHAP_C", "0b"+base64.StdEncoding.EncodeToString(b)))(got)
		}}, refused},
		{"leaving without a response", []step{method, algs, say()}, refused},
		{"an operational key", []step{method, say("MaxBurstLength=512")}, malformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, target := range []string{testTarget, ""} { // and a discovery session
				if got := r.steps(target, c.steps); got != c.status {
					t.Errorf("target %q: status %04Xh, want %04Xh", target, uint16(got), uint16(c.status))
				}
			}
		})
	}
	if n := r.s.Sessions(); n != 0 {
		t.Errorf("%d sessions", n)
	}
	for line := range strings.SplitSeq(rec.text(), "\n") {
		if len(line) > 1000 || strings.ContainsAny(line, "\x1b\r") {
			t.Errorf("in the log, %d bytes: %.100q", len(line), line)
		}
	}
}

// steps walks a security stage, T set in its last request, and returns the status that it ends with. A login
// that is refused ends its connection.
func (r *rig) steps(target string, steps []step) pdu.LoginStatus {
	r.t.Helper()
	c, err := initiator.Dial(r.ctx(), r.addr.String())
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	c.Timeout = testWait
	itt := c.NextITT()
	var got initiator.Keys
	for i, s := range steps {
		keys := s(got)
		if i == 0 {
			keys = append(without("AuthMethod")(initiator.SecurityKeys("iqn.2026-11.io.lunar:raw", target)), keys...)
		}
		_, answer, err := c.LoginStep(itt, i >= 2, pdu.SecurityNegotiation, pdu.OperationalStage, keys)
		var le *initiator.LoginError
		switch {
		case errors.As(err, &le):
			if _, err := c.Recv(); !errors.Is(err, io.EOF) {
				r.t.Errorf("after status %04Xh: %v, want the end of the connection", uint16(le.Status), err)
			}
			return le.Status
		case err != nil:
			r.t.Fatal(err)
		}
		got = answer
	}
	return pdu.LoginSuccess
}

// MUST 7143 §6.3.2: an initiator that must authenticate and leaves the security stage out, or passes through it without, is refused with 0201h
func TestCHAPCannotBeLeftOut(t *testing.T) {
	r := newRig(t, Config{Auth: accounts(), LoginFailDelay: -1}, "")
	for _, target := range []string{testTarget, ""} {
		for _, stages := range [][2]pdu.Stage{{pdu.OperationalStage, pdu.FullFeaturePhase}, {pdu.SecurityNegotiation, pdu.FullFeaturePhase}, {pdu.SecurityNegotiation, pdu.OperationalStage}} {
			c, err := initiator.Dial(r.ctx(), r.addr.String())
			if err != nil {
				t.Fatal(err)
			}
			keys := without("AuthMethod")(initiator.SecurityKeys("iqn.2026-11.io.lunar:raw", target))
			_, _, err = c.LoginStep(c.NextITT(), true, stages[0], stages[1], keys)
			var le *initiator.LoginError
			if !errors.As(err, &le) || le.Status != pdu.AuthenticationFailed {
				t.Errorf("target %q, stages %v: %v", target, stages, err)
			}
			c.Close()
		}
	}
	// An initiator that offers nothing but None, by our own login.
	wantStatus(t, r, r.options(1), pdu.AuthenticationFailed)
}

// Challenges differ from each other, whatever was asked before.
func TestChallengesDiffer(t *testing.T) {
	r := newRig(t, Config{Auth: accounts(), LoginFailDelay: -1}, "")
	seen := map[string]bool{}
	for range 50 {
		c, err := initiator.Dial(r.ctx(), r.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		itt := c.NextITT()
		_, _, err = c.LoginStep(itt, false, 0, 1, initiator.SecurityKeys("iqn.2026-11.io.lunar:raw", testTarget).With("AuthMethod", "CHAP"))
		if err != nil {
			t.Fatal(err)
		}
		_, answer, err := c.LoginStep(itt, false, 0, 1, initiator.Keys{{Name: "CHAP_A", Value: "8"}})
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		challenge, _ := answer.Get("CHAP_C")
		if b, err := login.ParseBinary(challenge); err != nil || len(b) != 32 || seen[challenge] {
			t.Errorf("challenge of %d bytes, %v, seen before: %v", len(b), err, seen[challenge])
		}
		seen[challenge] = true
	}
}
