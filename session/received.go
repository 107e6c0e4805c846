package session

import (
	"fmt"
	"strconv"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A heldPDU is a copy of a request that came ahead of a CmdSN gap. A nil conn marks a number that counts as
// received without a request (RFC 7143 §11.5.5: the task of an ABORT TASK that overtook it).
type heldPDU struct {
	conn   *Conn
	header pdu.Header
	ahs    []byte
	data   []byte
}

// size is what p counts for in Session.heldBytes.
func (p *heldPDU) size() int {
	if p.conn == nil {
		return 0
	}
	return pdu.HeaderLen + len(p.ahs) + len(p.data)
}

// CheckHeader says whether a PDU may follow whose header has just come, before memory or time is spent on the rest
// of it: its segments within what was declared. An error costs the connection (RFC 7143 §7.9).
func (c *Conn) CheckHeader(h *pdu.Header) error {
	if n := h.DataLen(); n > c.maxRecv {
		return fmt.Errorf("%v with a data segment of %d bytes; %d were declared (MaxRecvDataSegmentLength)", h.Opcode(), n, c.maxRecv)
	}
	return nil
}

// Received takes one whole PDU: header, additional header segments and data segment without pad, all the
// caller's. now is the caller's clock in nanoseconds. It appends what must be done to acts.
func (s *Session) Received(c *Conn, now int64, h *pdu.Header, ahs, data []byte, acts []Action) []Action {
	if c.closed {
		return acts
	}
	c.lastRecv = now
	switch op := h.Opcode(); op {
	case pdu.OpSCSICommand, pdu.OpNOPOut, pdu.OpTaskMgmtReq, pdu.OpTextReq, pdu.OpLogoutReq:
	case pdu.OpDataOut:
		return s.readyTMFs(now, s.dataOut(c, (*pdu.DataOut)(h), data, acts))
	case pdu.OpSNACK:
		// Level 0 keeps nothing that could be sent again (RFC 7143 §11.16).
		return s.reject(c, h, pdu.RejectSNACK, acts)
	default:
		return s.reject(c, h, pdu.RejectNotSupported, acts)
	}
	if h.Immediate() {
		return s.deliver(c, now, h, ahs, data, acts)
	}
	if sn := h.CmdSN(); sn != s.exp || s.max.Before(sn) {
		return s.outOfOrder(c, now, h, ahs, data, acts)
	}
	s.exp++
	acts = s.next(c, now, s.deliver(c, now, h, ahs, data, acts))
	if len(s.tmfs) != 0 {
		acts = s.readyTMFs(now, acts) // one may have waited for this command
	}
	return acts
}

// outOfOrder takes a request whose CmdSN is not the one expected, or for which the window has no room: outside the window it is dropped without a word
// (RFC 7143 §4.2.2.1), inside it waits for the gap to be filled.
func (s *Session) outOfOrder(c *Conn, now int64, h *pdu.Header, ahs, data []byte, acts []Action) []Action {
	sn := h.CmdSN()
	if !s.expects(sn) {
		s.Counters.OutOfWindow++
		return acts
	}
	p := &heldPDU{conn: c, header: *h}
	size := pdu.HeaderLen + len(ahs) + len(data)
	if s.heldBytes+size > s.lim.HeldBytes {
		return s.drop(c, HeldTooMuch, fmt.Sprintf("requests ahead of CmdSN %d, which never came, exceed %d bytes", s.exp, s.lim.HeldBytes), acts)
	}
	if s.held == nil {
		s.held = map[pdu.SN]*heldPDU{}
	}
	if s.gapSince == 0 {
		s.gapSince = now
	}
	s.heldBytes += size
	s.Counters.Held++
	p.ahs, p.data = append([]byte(nil), ahs...), append([]byte(nil), data...)
	s.held[sn] = p
	return acts
}

// next asks to be called back where a request that was held has its turn now: not before the caller has performed what
// was asked for so far, so that each request meets the tasks that those before it left.
func (s *Session) next(c *Conn, now int64, acts []Action) []Action {
	s.pass()
	if len(s.held) == 0 {
		s.gapSince = 0
		return acts
	}
	s.gapSince = now
	if s.held[s.exp] != nil {
		acts = append(acts, Action{Kind: Next, Conn: c})
	}
	return acts
}

// pass goes past numbers that count as received without a request.
func (s *Session) pass() {
	for len(s.held) != 0 {
		p := s.held[s.exp]
		if p == nil || p.conn != nil {
			return
		}
		delete(s.held, s.exp)
		s.exp++
	}
}

// Next delivers the request whose turn a Next action announced, with acts as in Received.
func (s *Session) Next(now int64, acts []Action) []Action {
	p := s.held[s.exp]
	if p == nil {
		return acts // its connection is gone
	}
	delete(s.held, s.exp)
	s.heldBytes -= p.size()
	s.exp++
	c := p.conn
	if !c.closed {
		acts = s.deliver(c, now, &p.header, p.ahs, p.data, acts)
	}
	return s.readyTMFs(now, s.next(c, now, acts))
}

// deliver takes a request whose turn it is.
func (s *Session) deliver(c *Conn, now int64, h *pdu.Header, ahs, data []byte, acts []Action) []Action {
	switch h.Opcode() {
	case pdu.OpSCSICommand:
		return s.command(c, (*pdu.SCSICommand)(h), ahs, data, false, acts)
	case pdu.OpNOPOut:
		return s.nopOut(c, h, data, acts)
	case pdu.OpTaskMgmtReq:
		return s.readyTMFs(now, s.taskMgmt(c, now, (*pdu.TaskMgmtReq)(h), acts))
	case pdu.OpTextReq:
		return s.textReq(c, (*pdu.TextReq)(h), data, acts)
	default: // OpLogoutReq: Received lets nothing else through
		return s.logout(c, (*pdu.LogoutReq)(h), acts)
	}
}

// reject answers a PDU with Reject, its header as data (RFC 7143 §11.17).
func (s *Session) reject(c *Conn, h *pdu.Header, reason pdu.RejectReason, acts []Action) []Action {
	s.Counters.Rejects++
	acts, a := s.send(c, acts)
	(*pdu.Reject)(&a.Header).Init(reason)
	a.Data = append([]byte(nil), h[:]...)
	return acts
}

// nopOut answers a ping ahead of I/O, or takes the answer to ours (RFC 7143 §11.18).
func (s *Session) nopOut(c *Conn, h *pdu.Header, data []byte, acts []Action) []Action {
	if ttt := h.TTT(); ttt != pdu.NoTag {
		if c.pingSince != 0 && ttt == c.pingTTT {
			c.pingSince = 0
		}
		if h.ITT() == pdu.NoTag {
			return acts
		}
	}
	if h.ITT() == pdu.NoTag {
		if !h.Immediate() {
			return s.reject(c, h, pdu.RejectProtocol, acts) // §11.18.1: I must be set when no answer is wanted
		}
		return acts
	}
	s.Counters.Pings++
	if len(data) > c.maxXmit {
		data = data[:c.maxXmit] // §11.18: the echo may be cut to what the initiator takes
	}
	acts = append(acts, Action{Kind: SendUrgent, Conn: c, Data: data})
	(*pdu.NOPIn)(&acts[len(acts)-1].Header).Init(0, h.ITT(), pdu.NoTag, len(data))
	return acts
}

// Tick does what is due at now: pings, bounds on gaps and functions. Call it when NextTick says.
func (s *Session) Tick(now int64, acts []Action) []Action {
	if s.gapSince != 0 && now-s.gapSince >= s.lim.GapTime {
		s.gapSince = now // said once a period
		for _, c := range s.conns {
			acts = s.drop(c, CmdSNGap, fmt.Sprintf("CmdSN %d never came and %d later requests wait for it", s.exp, len(s.held)), acts)
		}
	}
	for _, c := range s.conns {
		acts = c.tick(now, acts)
	}
	return s.tickTMF(now, s.tickData(now, acts))
}

func (c *Conn) tick(now int64, acts []Action) []Action {
	s := c.Session
	switch {
	case c.closed:
		if now-c.lastRecv >= s.lim.LogoutWait {
			return s.drop(c, LogoutWait, "it did not take the answer to its logout", acts)
		}
	case c.logoutAsked != 0 && now-c.logoutAsked >= s.lim.LogoutWait:
		return s.drop(c, LogoutWait, "no logout followed the request for one", acts)
	case s.lim.NOPInterval < 0:
	case c.pingSince != 0:
		// Anything that came shows that the initiator lives; only the answer itself closes the ping, so that answers do not
		// pile up behind a slow one.
		if now-max(c.pingSince, c.lastRecv) >= s.lim.NOPTimeout {
			s.Counters.PingTimeouts++
			return s.drop(c, PingTimeout, "no answer to a ping for "+seconds(s.lim.NOPTimeout), acts)
		}
	case now-c.lastRecv >= s.lim.NOPInterval:
		c.pingSince, c.pingTTT = now, s.newTTT()
		acts = append(acts, Action{Kind: SendUrgent, Conn: c})
		(*pdu.NOPIn)(&acts[len(acts)-1].Header).Init(0, pdu.NoTag, c.pingTTT, 0)
	}
	return acts
}

// Waiting reports whether something waits that is bounded in time beyond the ordinary pings: NextTick may
// have moved nearer.
func (s *Session) Waiting() bool {
	return s.gapSince != 0 || len(s.tmfs) != 0 || s.leaving || s.dueNews
}

// NextTick returns the time by which Tick is wanted, or 0 where nothing waits.
func (s *Session) NextTick() int64 {
	var next int64
	at := func(t int64) {
		if next == 0 || t < next {
			next = t
		}
	}
	if s.gapSince != 0 {
		at(s.gapSince + s.lim.GapTime)
	}
	if s.dataDue != 0 {
		at(s.dataDue)
	}
	s.dueNews = false
	for _, c := range s.conns {
		switch {
		case c.closed:
			at(c.lastRecv + s.lim.LogoutWait)
		case c.logoutAsked != 0:
			at(c.logoutAsked + s.lim.LogoutWait)
		case s.lim.NOPInterval < 0:
		case c.pingSince != 0:
			at(max(c.pingSince, c.lastRecv) + s.lim.NOPTimeout)
		default:
			at(c.lastRecv + s.lim.NOPInterval)
		}
	}
	for _, m := range s.tmfs {
		at(m.deadline)
	}
	return next
}

// seconds writes a duration of ns for a log.
func seconds(ns int64) string { return strconv.FormatFloat(float64(ns)/1e9, 'g', 3, 64) + " s" }

func (s *Session) newTTT() uint32 {
	s.nextTTT++
	if s.nextTTT == pdu.NoTag {
		s.nextTTT = 0
	}
	return s.nextTTT
}
