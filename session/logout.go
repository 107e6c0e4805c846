package session

import (
	"encoding/binary"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// logout takes a Logout Request whose turn it is (RFC 7143 §11.14).
func (s *Session) logout(c *Conn, h *pdu.LogoutReq, acts []Action) []Action {
	response := uint8(pdu.LogoutSuccess)
	closing := c
	switch h.Reason() {
	case pdu.LogoutCloseSession:
		// The outstanding tasks end without an answer (§11.14.5).
		acts = s.AbortTasks(nil, false, func(*Task) bool { return true }, acts)
		s.closing = true
	case pdu.LogoutCloseConnection:
		closing = s.connByCID(h.CID())
		if closing == nil {
			response = pdu.LogoutCIDNotFound
		} else {
			acts = s.AbortTasks(nil, false, func(t *Task) bool { return t.Conn == closing }, acts)
		}
	case pdu.LogoutRemoveRecovery:
		response, closing = pdu.LogoutRecoveryUnsupported, nil
	default:
		return s.reject(c, h.H(), pdu.RejectInvalidField, acts)
	}
	acts, a := s.send(c, acts)
	(*pdu.LogoutResp)(&a.Header).Init(h.H().ITT(), response, s.Params.DefaultTime2Wait, s.Params.DefaultTime2Retain)
	if response != pdu.LogoutSuccess {
		return acts
	}
	s.leaving = true
	if s.closing {
		for _, o := range s.conns {
			o.closed, o.lastRecv = true, c.lastRecv
			acts = append(acts, Action{Kind: Close, Conn: o, Name: "logout"})
		}
		return acts
	}
	closing.closed, closing.lastRecv = true, c.lastRecv
	return append(acts, Action{Kind: Close, Conn: closing, Name: "logout"})
}

// LoggedOut reports whether the connection has logged out, alone or with its session, and is about to be closed.
func (c *Conn) LoggedOut() bool { return c.closed }

func (s *Session) connByCID(cid uint16) *Conn {
	for _, c := range s.conns {
		if c.CID == cid {
			return c
		}
	}
	return nil
}

// ConnLost says that c is gone. Its tasks are aborted; at error recovery level 0 the session ends with its last
// connection, and last is true then (RFC 7143 §4.2.3.4).
func (s *Session) ConnLost(c *Conn, acts []Action) (_ []Action, last bool) {
	c.closed = true
	for i, o := range s.conns {
		if o == c {
			s.conns = append(s.conns[:i], s.conns[i+1:]...)
			break
		}
	}
	acts = s.AbortTasks(nil, false, func(t *Task) bool { return t.Conn == c }, acts)
	for i := 0; i < len(s.tmfs); i++ {
		if s.tmfs[i].conn == c {
			acts = s.answer(s.tmfs[i], pdu.FunctionRejected, acts)
			i--
		}
	}
	for sn, p := range s.held {
		if p.conn == c {
			s.heldBytes -= p.size()
			delete(s.held, sn)
		}
	}
	if len(s.held) == 0 {
		s.gapSince = 0 // a connection that takes this one's place begins without a gap
	}
	if s.text.conn == c {
		s.text = textState{}
	}
	return acts, len(s.conns) == 0
}

// Event tells the initiator of a condition of the logical unit lun by an Asynchronous Message with sense data (RFC 7143 §11.9, AsyncEvent
// 0), on one connection of the session. Whether initiators want that depends on the condition.
func (s *Session) Event(lun sam.LUN, sense []byte, acts []Action) []Action {
	for _, c := range s.conns {
		if c.closed || c.logoutAsked != 0 {
			continue
		}
		var a *Action
		acts, a = s.send(c, acts)
		(*pdu.Async)(&a.Header).Init(lun, pdu.AsyncSCSIEvent, 0, 0, 0, 0)
		// §11.9.4: SenseLength, then the sense data.
		a.Data = append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(sense)), uint16(len(sense))), sense...)
		break
	}
	return acts
}

// AskLogout asks the initiator on every connection to log out within LogoutWait, after which the connection is
// closed (RFC 7143 §11.9.1, AsyncEvent 1).
func (s *Session) AskLogout(now int64, acts []Action) []Action {
	secs := uint16(min((s.lim.LogoutWait+1e9-1)/1e9, 0xffff))
	for _, c := range s.conns {
		if c.closed || c.logoutAsked != 0 {
			continue
		}
		c.logoutAsked = now
		var a *Action
		acts, a = s.send(c, acts)
		(*pdu.Async)(&a.Header).Init(0, pdu.AsyncLogout, 0, 0, 0, secs)
	}
	return acts
}
