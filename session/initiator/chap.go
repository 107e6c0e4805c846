package initiator

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A CHAP is how an initiator authenticates, and what it wants a target to prove (RFC 7143 §12.1.3).
type CHAP struct {
	Name   string
	Secret []byte
	// Algorithms are offered in this order; DefaultAlgorithms.
	Algorithms []login.CHAPAlgorithm
	// Base64 writes responses and challenges so rather than in hex.
	Base64 bool

	// TargetSecret is what the target has to know (mutual CHAP); nil: nothing is asked of it. TargetName is who it has to
	// be; "": anybody with that secret.
	TargetName   string
	TargetSecret []byte

	Rand io.Reader // of challenges; crypto/rand's Reader
}

// DefaultAlgorithms are what CHAP offers where it names none, the strongest first.
func DefaultAlgorithms() []login.CHAPAlgorithm {
	return []login.CHAPAlgorithm{login.CHAPSHA3256, login.CHAPSHA256, login.CHAPSHA1, login.CHAPMD5}
}

// String hides the secrets from every kind of print.
func (a CHAP) String() string { return "CHAP as " + a.Name }

// GoString is String.
func (a CHAP) GoString() string { return a.String() }

// ErrTargetAuth is wrapped by the error of a login in which the target did not prove who it is.
var ErrTargetAuth = errors.New("the target did not authenticate")

func (a *CHAP) algorithms() []login.CHAPAlgorithm {
	if len(a.Algorithms) == 0 {
		return DefaultAlgorithms()
	}
	return a.Algorithms
}

// List is the value of CHAP_A.
func (a *CHAP) List() string {
	var list []string
	for _, alg := range a.algorithms() {
		list = append(list, strconv.Itoa(int(alg)))
	}
	return strings.Join(list, ",")
}

func (a *CHAP) binary(b []byte) string {
	if a.Base64 {
		return "0b" + base64.StdEncoding.EncodeToString(b)
	}
	return login.FormatBinary(b)
}

// Answer returns CHAP_N and CHAP_R for what a target sent as CHAP_A, CHAP_I and CHAP_C.
func (a *CHAP) Answer(challenge Keys) (answer Keys, alg login.CHAPAlgorithm, err error) {
	text, _ := challenge.Get("CHAP_A")
	n, err := strconv.ParseUint(text, 0, 8)
	alg = login.CHAPAlgorithm(n)
	if err != nil || !slices.Contains(a.algorithms(), alg) {
		return nil, 0, fmt.Errorf("the target chose CHAP_A=%q of %s", text, a.List())
	}
	text, _ = challenge.Get("CHAP_I")
	id, err := strconv.ParseUint(text, 0, 8)
	if err != nil {
		return nil, 0, fmt.Errorf("the target's CHAP_I=%q", text)
	}
	text, _ = challenge.Get("CHAP_C")
	c, err := login.ParseBinary(text)
	if err != nil {
		return nil, 0, fmt.Errorf("the target's CHAP_C: %w", err)
	}
	r := login.CHAPResponse(alg, byte(id), a.Secret, c)
	return Keys{{Name: "CHAP_N", Value: a.Name}, {Name: "CHAP_R", Value: a.binary(r)}}, alg, nil
}

// login walks the security stage.
func (a *CHAP) login(c *Conn, itt uint32, keys Keys) error {
	method := "CHAP,None"
	if a.TargetSecret != nil {
		method = "CHAP"
	}
	_, answer, err := c.LoginStep(itt, false, stageSecurity[0], stageSecurity[1], keys.With("AuthMethod", method))
	if err != nil {
		return err
	}
	switch chosen, _ := answer.Get("AuthMethod"); {
	case chosen == "None" && a.TargetSecret == nil:
		return c.leaveSecurity(itt, nil)
	case chosen != "CHAP":
		return fmt.Errorf("the target chose AuthMethod=%q of %s", chosen, method)
	}
	_, answer, err = c.LoginStep(itt, false, stageSecurity[0], stageSecurity[1], Keys{{Name: "CHAP_A", Value: a.List()}})
	if err != nil {
		return err
	}
	reply, alg, err := a.Answer(answer)
	if err != nil {
		return err
	}
	if a.TargetSecret == nil {
		return c.leaveSecurity(itt, reply)
	}
	return a.mutual(c, itt, reply, alg)
}

// mutual sends our response with a challenge of ours, and checks what comes back.
func (a *CHAP) mutual(c *Conn, itt uint32, reply Keys, alg login.CHAPAlgorithm) error {
	src := a.Rand
	if src == nil {
		src = rand.Reader
	}
	b := make([]byte, 1+alg.Size())
	if _, err := io.ReadFull(src, b); err != nil {
		return fmt.Errorf("a challenge: %w", err)
	}
	id, challenge := b[0], b[1:]
	reply = reply.With("CHAP_I", strconv.Itoa(int(id))).With("CHAP_C", a.binary(challenge))
	_, answer, err := c.LoginStep(itt, false, stageSecurity[0], stageSecurity[1], reply)
	if err != nil {
		return err
	}
	name, _ := answer.Get("CHAP_N")
	text, _ := answer.Get("CHAP_R")
	r, err := login.ParseBinary(text)
	want := login.CHAPResponse(alg, id, a.TargetSecret, challenge)
	switch {
	case err != nil || subtle.ConstantTimeCompare(r, want) != 1:
		return fmt.Errorf("%w: a wrong CHAP_R as %q", ErrTargetAuth, name)
	case a.TargetName != "" && name != a.TargetName:
		return fmt.Errorf("%w: it is %q, not %q", ErrTargetAuth, name, a.TargetName)
	case subtle.ConstantTimeCompare(a.Secret, a.TargetSecret) == 1:
		// RFC 7143 §9.2.1: it may have had us compute its answer.
		return fmt.Errorf("%w: one secret for both directions proves nothing", ErrTargetAuth)
	}
	return c.leaveSecurity(itt, nil)
}

// leaveSecurity sends the last keys of the security stage and goes on to the operational one.
func (c *Conn) leaveSecurity(itt uint32, keys Keys) error {
	p, _, err := c.LoginStep(itt, true, stageSecurity[0], stageSecurity[1], keys)
	if err != nil {
		return err
	}
	if r := (*pdu.LoginResp)(&p.Header); !r.Transit() || r.NSG() != stageSecurity[1] {
		return fmt.Errorf("the target does not leave login stage %d", stageSecurity[0])
	}
	return nil
}
