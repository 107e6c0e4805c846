package login

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A CHAPAlgorithm is a value of CHAP_A (RFC 7143 §12.1.3 and the IANA registry of
// PPP authentication algorithms).
type CHAPAlgorithm uint8

// The algorithms that both sides of lunar know.
const (
	CHAPMD5     CHAPAlgorithm = 5
	CHAPSHA1    CHAPAlgorithm = 6
	CHAPSHA256  CHAPAlgorithm = 7
	CHAPSHA3256 CHAPAlgorithm = 8
)

func (a CHAPAlgorithm) String() string {
	switch a {
	case CHAPMD5:
		return "MD5"
	case CHAPSHA1:
		return "SHA1"
	case CHAPSHA256:
		return "SHA-256"
	case CHAPSHA3256:
		return "SHA3-256"
	}
	return fmt.Sprintf("algorithm %d", uint8(a))
}

// Size returns the length of a response in bytes, 0 for an unknown algorithm.
func (a CHAPAlgorithm) Size() int {
	switch a {
	case CHAPMD5:
		return md5.Size
	case CHAPSHA1:
		return sha1.Size
	case CHAPSHA256, CHAPSHA3256:
		return sha256.Size
	}
	return 0
}

// CHAPResponse returns the hash over id, secret and challenge (RFC 1994 §4.1), nil
// for an unknown algorithm.
func CHAPResponse(a CHAPAlgorithm, id byte, secret, challenge []byte) []byte {
	b := make([]byte, 0, 1+len(secret)+len(challenge))
	b = append(b, id)
	b = append(b, secret...)
	b = append(b, challenge...)
	defer clear(b)
	switch a {
	case CHAPMD5:
		s := md5.Sum(b)
		return s[:]
	case CHAPSHA1:
		s := sha1.Sum(b)
		return s[:]
	case CHAPSHA256:
		s := sha256.Sum256(b)
		return s[:]
	case CHAPSHA3256:
		s := sha3.Sum256(b)
		return s[:]
	}
	return nil
}

// FormatBinary returns b as a hex constant, 0x… (RFC 7143 §6.1).
func FormatBinary(b []byte) string { return "0x" + hex.EncodeToString(b) }

// ParseBinary reads a hex (0x…) or base64 (0b…) constant of 1 to pdu.MaxBinaryLen
// bytes. An odd number of hex digits has an implied 0 in front.
func ParseBinary(s string) ([]byte, error) {
	if len(s) < 3 || s[0] != '0' {
		return nil, fmt.Errorf("binary value begins with neither 0x nor 0b")
	}
	var b []byte
	var err error
	switch digits := s[2:]; s[1] {
	case 'x', 'X':
		if len(digits)%2 == 1 {
			digits = "0" + digits
		}
		b, err = hex.DecodeString(digits)
	case 'b', 'B':
		b, err = base64.StdEncoding.Strict().DecodeString(digits)
	default:
		return nil, fmt.Errorf("binary value begins with neither 0x nor 0b")
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("binary value is not well formed")
	case len(b) == 0 || len(b) > pdu.MaxBinaryLen:
		return nil, fmt.Errorf("binary value of %d bytes", len(b))
	}
	return b, nil
}

// A chap is the target's side of CHAP (RFC 7143 §12.1.3): CHAP_A, then CHAP_N and
// CHAP_R with or without CHAP_I and CHAP_C, and it is done.
type chap struct {
	done      bool
	alg       CHAPAlgorithm // 0 until we chose
	id        byte
	challenge []byte
	came      map[string]string // keys of the list in hand
}

var chapKeys = [...]string{"CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R"}

func isCHAPKey(name string) bool {
	for _, k := range chapKeys {
		if name == k {
			return true
		}
	}
	return false
}

// take keeps one key for step.
func (c *chap) take(k pdu.Key) *failure {
	if _, twice := c.came[k.Name]; twice {
		return failf(pdu.InitiatorError, "%s came twice", k.Name)
	}
	if c.came == nil {
		c.came = make(map[string]string, len(chapKeys))
	}
	c.came[k.Name] = k.Value
	return nil
}

// chooseMethod answers AuthMethod.
func (n *Negotiator) chooseMethod(offer string) *failure {
	if n.stage != pdu.SecurityNegotiation {
		return failf(pdu.InitiatorError, "AuthMethod in the operational stage")
	}
	if n.method != authUndecided {
		return failf(pdu.InitiatorError, "AuthMethod came twice")
	}
	want, method := none, authNone
	if len(n.auth.Incoming) > 0 {
		want, method = "CHAP", authCHAP
	}
	for m := range strings.SplitSeq(offer, ",") {
		if m == want {
			n.method = method
			n.out = pdu.AppendKey(n.out, "AuthMethod", want)
			return nil
		}
	}
	return failf(pdu.AuthenticationFailed, "AuthMethod=%q offered, %s wanted", clip(offer), want)
}

// security goes on with authentication after a list of the security stage. Keys that do not belong to the step, or
// have no value of their kind, are an initiator's error or a missing parameter; a failed authentication is what is wrong
// only as a proof (RFC 7143 §9.2).
func (n *Negotiator) security(transit bool) *failure {
	c := &n.chap
	defer clear(c.came)
	switch {
	case len(c.came) > 0 && n.method != authCHAP:
		return failf(pdu.InitiatorError, "CHAP keys without AuthMethod=CHAP")
	case len(c.came) > 0 && c.done:
		return failf(pdu.InitiatorError, "CHAP keys after the end of CHAP")
	case len(c.came) > 0 && c.alg == 0:
		return n.chapChallenge()
	case len(c.came) > 0:
		return n.chapCheck()
	case transit && !n.mayTransit() && (n.method == authUndecided || c.alg != 0):
		return failf(pdu.AuthenticationFailed, "%s wants to leave the security stage without authentication", n.res.InitiatorName)
	}
	return nil
}

// chapChallenge answers CHAP_A.
func (n *Negotiator) chapChallenge() *failure {
	c := &n.chap
	list, ok := c.came["CHAP_A"]
	switch {
	case !ok:
		return failf(pdu.MissingParameter, "CHAP begins without CHAP_A")
	case len(c.came) != 1:
		return failf(pdu.InitiatorError, "CHAP begins with more than CHAP_A")
	}
	for s := range strings.SplitSeq(list, ",") {
		v, ok := parseNumber(s)
		if a := CHAPAlgorithm(v); ok && v <= 0xff && a.Size() > 0 && (a != CHAPMD5 || !n.cfg.ForbidMD5) {
			c.alg = a
			break
		}
	}
	if c.alg == 0 {
		return failf(pdu.AuthenticationFailed, "no algorithm of CHAP_A=%q will do", clip(list))
	}
	// RFC 7143 §9.2.1: the challenge is as long as the digest and cannot be guessed.
	b := make([]byte, 1+c.alg.Size())
	if _, err := io.ReadFull(n.rand, b); err != nil {
		return failf(pdu.TargetError, "no random numbers for a challenge: %w", err)
	}
	c.id, c.challenge = b[0], b[1:]
	n.out = pdu.AppendKey(n.out, "CHAP_A", strconv.Itoa(int(c.alg)))
	n.out = pdu.AppendKey(n.out, "CHAP_I", strconv.Itoa(int(c.id)))
	n.out = pdu.AppendKey(n.out, "CHAP_C", FormatBinary(c.challenge))
	return nil
}

// chapCheck verifies CHAP_N and CHAP_R, and answers CHAP_I and CHAP_C.
func (n *Negotiator) chapCheck() *failure {
	c := &n.chap
	name, hasName := c.came["CHAP_N"]
	response, hasResponse := c.came["CHAP_R"]
	id, hasID := c.came["CHAP_I"]
	challenge, hasChallenge := c.came["CHAP_C"]
	_, again := c.came["CHAP_A"]
	switch {
	case again:
		return failf(pdu.InitiatorError, "CHAP_A after the algorithm was chosen")
	case !hasName || !hasResponse || hasID != hasChallenge:
		return failf(pdu.MissingParameter, "CHAP_N without CHAP_R, or CHAP_I without CHAP_C, or the other way round")
	}
	r, err := ParseBinary(response)
	switch {
	case err != nil:
		return failf(pdu.InitiatorError, "CHAP_R: %w", err)
	case len(r) != c.alg.Size():
		return failf(pdu.AuthenticationFailed, "CHAP_R is no response of %v", c.alg)
	}
	account := n.findAccount(name, r)
	if account == nil {
		return failf(pdu.AuthenticationFailed, "wrong CHAP name or secret for %q", clip(name))
	}
	if out := n.auth.Outgoing; out != nil && subtle.ConstantTimeCompare(account.Secret, out.Secret) == 1 {
		// RFC 7143 §9.2.1: what we would have answered ourselves proves nothing, so one secret
		// does not serve both directions.
		return failf(pdu.AuthenticationFailed, "accounts %q and %q have the same secret", account.Name, out.Name)
	}
	if hasID {
		if f := n.proveOurselves(id, challenge); f != nil {
			return f
		}
	}
	n.res.AuthUser, c.done = account.Name, true
	return nil
}

// findAccount returns the account whose name is name and whose secret makes r, nil
// if there is none. It takes as long for an unknown name as for a wrong secret.
func (n *Negotiator) findAccount(name string, r []byte) (found *Account) {
	c := &n.chap
	for i := range n.auth.Incoming {
		a := &n.auth.Incoming[i]
		want := CHAPResponse(c.alg, c.id, a.Secret, c.challenge)
		same := subtle.ConstantTimeCompare([]byte(a.Name), []byte(name)) & subtle.ConstantTimeCompare(want, r)
		if same == 1 && len(a.Secret) > 0 {
			found = a
		}
	}
	return found
}

// proveOurselves answers the initiator's challenge: mutual CHAP.
func (n *Negotiator) proveOurselves(id, challenge string) *failure {
	c := &n.chap
	out := n.auth.Outgoing
	if out == nil || len(out.Secret) == 0 {
		return failf(pdu.AuthenticationFailed, "%s wants mutual CHAP, no outgoing account is set", n.res.InitiatorName)
	}
	v, ok := parseNumber(id)
	if !ok || v > 0xff {
		return failf(pdu.InitiatorError, "CHAP_I=%q", clip(id))
	}
	b, err := ParseBinary(challenge)
	switch {
	case err != nil:
		return failf(pdu.InitiatorError, "CHAP_C: %w", err)
	case subtle.ConstantTimeCompare(b, c.challenge) == 1:
		// RFC 7143 §9.2.1: a reflected challenge would have us compute the peer's response.
		return failf(pdu.AuthenticationFailed, "CHAP_C is our own challenge")
	}
	n.out = pdu.AppendKey(n.out, "CHAP_N", out.Name)
	n.out = pdu.AppendKey(n.out, "CHAP_R", FormatBinary(CHAPResponse(c.alg, byte(v), out.Secret, b)))
	n.res.MutualAuth = true
	return nil
}
