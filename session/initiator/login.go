package initiator

import (
	"fmt"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A LoginError is a Login Response with a status other than success.
type LoginError struct {
	Status pdu.LoginStatus
	Keys   Keys // what came with it: TargetAddress of a redirection
}

func (e *LoginError) Error() string {
	s := fmt.Sprintf("login refused with status %04Xh", uint16(e.Status))
	switch e.Status {
	case pdu.TargetMovedTemp, pdu.TargetMovedPerm:
		addr, _ := e.Keys.Get("TargetAddress")
		s += fmt.Sprintf(" (target moved to %q)", addr)
	case pdu.InitiatorError:
		s += " (initiator error)"
	case pdu.AuthenticationFailed:
		s += " (authentication failure)"
	case pdu.AuthorizationFailure:
		s += " (not authorized)"
	case pdu.TargetNotFound:
		s += " (no such target)"
	case pdu.TargetRemoved:
		s += " (target removed)"
	case pdu.TooManyConnections:
		s += " (too many connections)"
	case pdu.SessionDoesNotExist:
		s += " (no such session)"
	case pdu.TargetError:
		s += " (target error)"
	case pdu.ServiceUnavailable:
		s += " (not available now)"
	case pdu.OutOfResources:
		s += " (out of resources)"
	}
	return s
}

// LoginHeader returns a Login Request of this connection: immediate, with ISID, TSIH, CID, CmdSN (not used
// up) and ExpStatSN. The same Initiator Task Tag goes through one login (RFC 7143 §11.12).
func (c *Conn) LoginHeader(itt uint32, transit, cont bool, csg, nsg pdu.Stage) *pdu.Header {
	h := new(pdu.Header)
	h[0] = byte(pdu.OpLoginReq) | 0x40
	r := (*pdu.LoginReq)(h)
	r.SetFlags(transit, cont, csg, nsg)
	r.SetISID(c.ISID)
	r.SetTSIH(c.TSIH)
	r.SetCID(c.CID)
	h.SetITT(itt)
	c.Stamp(h)
	return h
}

// LoginStep sends one key list of a login (over several PDUs when it is longer than MaxText) and returns the target's last
// Login Response and the whole list that it answered. A status other than success is a *LoginError, returned with the PDU.
func (c *Conn) LoginStep(itt uint32, transit bool, csg, nsg pdu.Stage, keys Keys) (*PDU, Keys, error) {
	parts := splitText(keys.Encode(), c.MaxText)
	var answer []byte
	for {
		var data []byte
		if len(parts) > 0 {
			data, parts = parts[0], parts[1:]
		}
		cont := len(parts) > 0
		if err := c.Send(c.LoginHeader(itt, transit && !cont, cont, csg, nsg), data); err != nil {
			return nil, nil, err
		}
		p, err := c.Expect(pdu.OpLoginResp)
		if err != nil {
			return p, nil, err
		}
		if len(answer)+len(p.Data) > maxTextAnswer {
			return p, nil, fmt.Errorf("a login answer of more than %d bytes", maxTextAnswer)
		}
		answer = append(answer, p.Data...)
		r := (*pdu.LoginResp)(&p.Header)
		if r.Status() != pdu.LoginSuccess {
			k, _ := ParseKeys(answer)
			return p, k, &LoginError{r.Status(), k}
		}
		if p.ITT() != itt {
			return p, nil, fmt.Errorf("a Login Response for tag %08x, want %08x", p.ITT(), itt)
		}
		if r.CSG() != csg {
			return p, nil, fmt.Errorf("a Login Response in stage %d, want %d", r.CSG(), csg)
		}
		if len(parts) == 0 && !r.Continue() {
			if r.Transit() {
				c.TSIH = r.TSIH()
			}
			k, err := ParseKeys(answer)
			return p, k, err
		}
	}
}

// The two stages that we go through, each with the one that follows.
var (
	stageSecurity    = [2]pdu.Stage{pdu.SecurityNegotiation, pdu.OperationalStage}
	stageOperational = [2]pdu.Stage{pdu.OperationalStage, pdu.FullFeaturePhase}
)

// Login walks a login without authentication: the security stage with the first list (names, SessionType, AuthMethod) and
// the operational stage with the second, each repeated with an empty list while the target holds the stage, up to the
// full feature phase. It returns what the target answered in both.
func (c *Conn) Login(security, operational Keys) (Keys, error) {
	itt := c.NextITT()
	var all Keys
	collect := func(answer Keys) (Keys, error) {
		all = append(all, answer...)
		return nil, nil
	}
	err := c.loginStage(itt, stageSecurity, security, collect)
	if err == nil {
		err = c.loginStage(itt, stageOperational, operational, collect)
	}
	return all, err
}

// loginStage goes through one stage, giving the target's keys to take and sending on what it returns.
func (c *Conn) loginStage(itt uint32, stage [2]pdu.Stage, keys Keys, take func(Keys) (Keys, error)) error {
	for range maxLoginRounds {
		p, answer, err := c.LoginStep(itt, true, stage[0], stage[1], keys)
		if err != nil {
			return err
		}
		if keys, err = take(answer); err != nil {
			return err
		}
		if r := (*pdu.LoginResp)(&p.Header); r.Transit() {
			if r.NSG() != stage[1] {
				return fmt.Errorf("the target goes from login stage %d to %d, want %d", stage[0], r.NSG(), stage[1])
			}
			return nil
		}
	}
	return fmt.Errorf("the target does not leave login stage %d", stage[0])
}

// maxLoginRounds bounds the exchanges of one login stage.
const maxLoginRounds = 16

// SecurityKeys are the keys that open a normal session's login (RFC 7143 §6.3.2); with target "" those of
// a discovery session.
func SecurityKeys(initiator, target string) Keys {
	var k Keys
	if target == "" {
		k = k.With("SessionType", "Discovery")
	} else {
		k = k.With("SessionType", "Normal").With("TargetName", target)
	}
	return append(Keys{{Name: "InitiatorName", Value: initiator}}, k.With("AuthMethod", "None")...)
}
