package initiator_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/session/initiator"
	negotiation "github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

const theirs = "secret-of-target"

// answerCHAP is a target whose security stage is what say says to the keys of each request; it ends the connection after a
// step that say has no answer for.
func answerCHAP(nc net.Conn, say func(keys initiator.Keys) initiator.Keys) {
	defer nc.Close()
	c := initiator.NewConn(nc)
	for {
		p, err := c.Recv()
		if err != nil {
			return
		}
		keys, err := initiator.ParseKeys(p.Data)
		if err != nil {
			return
		}
		answer := say(keys)
		if answer == nil {
			return
		}
		r := (*pdu.LoginReq)(&p.Header)
		var h pdu.Header
		data := answer.Encode()
		(*pdu.LoginResp)(&h).Init(p.ITT(), r.ISID(), 0, pdu.LoginSuccess, r.Transit(), false, r.CSG(), r.NSG(), len(data))
		if c.Send(&h, data) != nil {
			return
		}
	}
}

// MUST 7143 §12.1.3: an initiator that asks the target to authenticate goes on only when it has done so
//
// MUST 7143 §9.2.1: one secret for both directions is no proof of the other side
func TestCHAPChecksTheTarget(t *testing.T) {
	challenge := initiator.Keys{{Name: "CHAP_A", Value: "7"}, {Name: "CHAP_I", Value: "5"}, {Name: "CHAP_C", Value: "0x0102030405"}}
	prove := func(keys initiator.Keys, secret string) string {
		id, _ := keys.Get("CHAP_I")
		var n byte
		fmt.Sscan(id, &n)
		c, _ := keys.Get("CHAP_C")
		b, _ := negotiation.ParseBinary(c)
		return negotiation.FormatBinary(negotiation.CHAPResponse(negotiation.CHAPSHA256, n, []byte(secret), b))
	}
	good := initiator.CHAP{Name: "joe", Secret: []byte("secret-of-joe"), TargetSecret: []byte(theirs), TargetName: "disk"}
	oneWay := initiator.CHAP{Name: "joe", Secret: []byte("secret-of-joe")}
	same := good
	same.TargetSecret = same.Secret
	for _, c := range []struct {
		name      string
		chap      initiator.CHAP
		method    string
		challenge initiator.Keys
		proof     func(keys initiator.Keys) initiator.Keys
		says      string // "" for a login that gets past the security stage
		auth      bool
	}{
		{name: "as it should be", chap: good, proof: func(k initiator.Keys) initiator.Keys {
			return initiator.Keys{{Name: "CHAP_N", Value: "disk"}, {Name: "CHAP_R", Value: prove(k, theirs)}}
		}},
		{name: "a wrong secret", chap: good, auth: true, says: "wrong CHAP_R", proof: func(k initiator.Keys) initiator.Keys {
			return initiator.Keys{{Name: "CHAP_N", Value: "disk"}, {Name: "CHAP_R", Value: prove(k, "another")}}
		}},
		{name: "a wrong name", chap: good, auth: true, says: `it is "disc", not "disk"`, proof: func(k initiator.Keys) initiator.Keys {
			return initiator.Keys{{Name: "CHAP_N", Value: "disc"}, {Name: "CHAP_R", Value: prove(k, theirs)}}
		}},
		{name: "no proof", chap: good, auth: true, says: "wrong CHAP_R", proof: func(initiator.Keys) initiator.Keys { return initiator.Keys{} }},
		{name: "our own response", chap: good, auth: true, says: "wrong CHAP_R", proof: func(k initiator.Keys) initiator.Keys {
			r, _ := k.Get("CHAP_R")
			return initiator.Keys{{Name: "CHAP_N", Value: "disk"}, {Name: "CHAP_R", Value: r}}
		}},
		{name: "one secret both ways", chap: same, auth: true, says: "one secret", proof: func(k initiator.Keys) initiator.Keys {
			return initiator.Keys{{Name: "CHAP_N", Value: "disk"}, {Name: "CHAP_R", Value: prove(k, "secret-of-joe")}}
		}},
		{name: "no authentication", chap: good, method: "None", says: `AuthMethod="None"`},
		{name: "another method", chap: oneWay, method: "KRB5", says: `AuthMethod="KRB5"`},
		{name: "none, where it may", chap: oneWay, method: "None"},
		{name: "an algorithm not offered", chap: oneWay, challenge: challenge.With("CHAP_A", "9"), says: `CHAP_A="9" of 8,7,6,5`},
		{name: "an ID too large", chap: oneWay, challenge: challenge.With("CHAP_I", "256"), says: `CHAP_I="256"`},
		{name: "a challenge that is none", chap: oneWay, challenge: challenge.With("CHAP_C", "12"), says: "CHAP_C"},
		{name: "one way", chap: oneWay},
	} {
		t.Run(c.name, func(t *testing.T) {
			past := false
			say := func(keys initiator.Keys) initiator.Keys {
				if c.method == "" {
					c.method = "CHAP"
				}
				if c.challenge == nil {
					c.challenge = challenge
				}
				if _, ok := keys.Get("AuthMethod"); ok {
					return initiator.Keys{{Name: "AuthMethod", Value: c.method}}
				}
				if _, ok := keys.Get("CHAP_A"); ok {
					return c.challenge
				}
				if _, ok := keys.Get("CHAP_C"); ok {
					return c.proof(keys)
				}
				if _, ok := keys.Get("HeaderDigest"); ok {
					past = true
					return nil
				}
				return initiator.Keys{}
			}
			ended := make(chan struct{})
			_, err := initiator.Login(context.Background(), initiator.Options{TargetName: "iqn.2026-11.example:fake", CHAP: &c.chap, Wait: patience,
				Dial: func(context.Context, string) (net.Conn, error) {
					near, far := net.Pipe()
					go func() { answerCHAP(far, say); close(ended) }()
					return near, nil
				}})
			<-ended
			if past != (c.says == "") || err == nil || !strings.Contains(err.Error(), c.says) || errors.Is(err, initiator.ErrTargetAuth) != c.auth {
				t.Errorf("past the security stage: %v; %v, want %q", past, err, c.says)
			}
		})
	}
}

func TestCHAPHidesSecrets(t *testing.T) {
	a := initiator.CHAP{Name: "joe", Secret: []byte("secret"), TargetSecret: []byte("secret")}
	for _, s := range []string{fmt.Sprintf("%v %+v %#v %s", a, a, a, a), fmt.Sprintf("%+v", initiator.Options{CHAP: &a})} {
		if strings.Contains(s, "secret") || bytes.Contains([]byte(s), []byte("115 101 99")) {
			t.Error(s)
		}
	}
}
