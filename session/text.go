package session

import (
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A textState is the one text negotiation that a session may have open (RFC 7143 §7.3 allows one at a time).
type textState struct {
	conn *Conn
	itt  uint32
	last bool   // the request had its F bit: the answer may have it too
	ttt  uint32 // of our last response, NoTag when none is open
	in   []byte // a request with its continuations so far
	out  []byte // a reply that goes on in the next response
	reqs int    // requests with keys so far, or that could have had some
	open bool
	keys login.Text
}

// textPart bounds one Text Response, however much the initiator takes: the caller queues it in one piece.
const textPart = 256 << 10

// textReq takes a Text Request whose turn it is (RFC 7143 §11.10).
func (s *Session) textReq(c *Conn, h *pdu.TextReq, data []byte, acts []Action) []Action {
	s.Counters.Texts++
	x := &s.text
	itt, ttt := h.H().ITT(), h.H().TTT()
	final := h.H().Final()
	switch {
	case itt == pdu.NoTag, h.Continue() && final:
		s.Counters.TextsAstray++
		return s.reject(c, h.H(), pdu.RejectProtocol, acts)
	case ttt == pdu.NoTag:
		*x = textState{conn: c, itt: itt, open: true} // a new one; whatever was open is given up (§11.10.4)
	case !x.open || x.conn != c || x.itt != itt || x.ttt != ttt:
		s.Counters.TextsAstray++
		return s.reject(c, h.H(), pdu.RejectProtocol, acts)
	}
	x.last = final
	if len(x.out) != 0 {
		// The initiator asks for the rest of a long reply (§6.2); it may not send keys meanwhile.
		if len(data) != 0 || h.Continue() {
			return s.textFail(h, &s.Counters.TextsAstray, acts)
		}
		return s.textOut(acts)
	}
	if x.reqs++; x.reqs > s.lim.TextRequests || len(x.in)+len(data) > s.lim.TextBytes {
		return s.textFail(h, &s.Counters.TextsOver, acts)
	}
	x.in = append(x.in, data...)
	if h.Continue() {
		if len(data) == 0 {
			return s.textFail(h, &s.Counters.TextsAstray, acts) // nothing that could go on
		}
		x.ttt = s.newTTT()
		acts, a := s.send(c, acts)
		(*pdu.TextResp)(&a.Header).Init(itt, x.ttt, 0, false, false)
		return acts
	}
	return s.textKeys(h, acts)
}

// textFail ends the negotiation without effect: what was negotiated so far is forgotten (RFC 7143 §7.12). why counts it.
func (s *Session) textFail(h *pdu.TextReq, why *uint64, acts []Action) []Action {
	*why++
	c := s.text.conn
	s.text = textState{}
	return s.reject(c, h.H(), pdu.RejectProtocol, acts)
}

// textKeys answers a whole list of keys.
func (s *Session) textKeys(h *pdu.TextReq, acts []Action) []Action {
	x := &s.text
	in := x.in
	x.in = nil
	var out []byte
	var targets *pdu.Key
	n := 0
	for k, err := range pdu.Keys(in) {
		if err == nil {
			out, err = x.keys.Answer(out, k)
		}
		if err != nil {
			return s.textFail(h, &s.Counters.TextsBad, acts)
		}
		n++
		if k.Name == "SendTargets" {
			targets = &k
		}
	}
	if targets != nil {
		if n > 1 {
			// RFC 7143 appendix C: SendTargets is the only key of its request.
			return s.TextRefuse(acts)
		}
		return append(acts, Action{Kind: SendTargets, Conn: x.conn, Name: targets.Value})
	}
	return s.TextReply(out, acts)
}

// TextReply answers the open text request with the given keys, in as many responses as the initiator's
// MaxRecvDataSegmentLength makes necessary. The session keeps keys.
func (s *Session) TextReply(keys []byte, acts []Action) []Action {
	if !s.text.open {
		return acts
	}
	s.text.out = keys
	return s.textOut(acts)
}

// TextRefuse rejects the open text request: what it asked for is not to be had in this session.
func (s *Session) TextRefuse(acts []Action) []Action {
	x := &s.text
	if !x.open {
		return acts
	}
	s.Counters.TextsBad++
	h := pdu.Header{0: byte(pdu.OpTextReq), 1: 0x80}
	h.SetITT(x.itt)
	h.SetTTT(pdu.NoTag)
	c := x.conn
	*x = textState{}
	return s.reject(c, &h, pdu.RejectProtocol, acts)
}

func (s *Session) textOut(acts []Action) []Action {
	x := &s.text
	c := x.conn
	xmit := x.keys.MaxXmit(c.maxXmit)
	// Until the end the initiator may hold to either of the two.
	n := min(len(x.out), c.maxXmit, xmit, textPart)
	part, rest := x.out[:n], x.out[n:]
	acts, a := s.send(c, acts)
	a.Data = part
	// §11.11.1: F answers F; to a request without it the target may not end the negotiation.
	last := len(rest) == 0 && x.last
	x.ttt = pdu.NoTag
	if !last {
		x.ttt = s.newTTT()
	}
	(*pdu.TextResp)(&a.Header).Init(x.itt, x.ttt, n, last, len(rest) != 0)
	if last {
		c.maxXmit = xmit // §6.4: what was negotiated holds once the negotiation has ended
		*x = textState{}
	} else {
		x.out = rest
	}
	return acts
}
