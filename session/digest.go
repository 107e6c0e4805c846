package session

import "github.com/lunar-iscsi/lunar/session/pdu"

// Damaged is Received for a whole PDU whose data digest is wrong (RFC 7143 §7.8). It is answered with Reject, and nothing of
// data is looked at. A command whose data that was, immediate or Data-Out, ends with CHECK CONDITION, protocol service CRC
// error, once the rest of its data has come: at error recovery level 0 nobody sends a part again. That a command with
// damaged immediate data is not simply gone has two reasons: its header is sound, and its CmdSN would stay missing. Another
// request is gone: until the initiator sends it again its CmdSN is a gap, which Limits.GapTime bounds.
func (s *Session) Damaged(c *Conn, now int64, h *pdu.Header, ahs, data []byte, acts []Action) []Action {
	if c.closed {
		return acts
	}
	c.lastRecv = now
	s.Counters.DataDigests++
	op, sn := h.Opcode(), h.CmdSN()
	switch op {
	case pdu.OpSCSICommand, pdu.OpNOPOut, pdu.OpTaskMgmtReq, pdu.OpTextReq, pdu.OpLogoutReq:
		if !h.Immediate() && !s.expects(sn) {
			s.Counters.OutOfWindow++
			return acts
		}
	}
	acts = s.reject(c, h, pdu.RejectDataDigest, acts)
	switch {
	case op == pdu.OpDataOut:
		return s.readyTMFs(now, s.damagedOut(c, (*pdu.DataOut)(h), data, acts))
	case op != pdu.OpSCSICommand:
		return acts
	case h.Immediate():
		return s.command(c, (*pdu.SCSICommand)(h), ahs, data, true, acts)
	case sn == s.exp:
		s.exp++
		return s.next(c, now, s.command(c, (*pdu.SCSICommand)(h), ahs, data, true, acts))
	}
	return acts // ahead of a gap nothing is kept of it: a gap more
}

// expects reports whether a request with that CmdSN is not to be ignored: it lies in the window, and none with it waits behind
// a gap already (RFC 7143 §4.2.2.1).
func (s *Session) expects(sn pdu.SN) bool {
	if !sn.InWindow(s.exp, uint32(s.max-s.exp)+1) {
		return false
	}
	_, dup := s.held[sn]
	return !dup
}

// DamagedHeader says that c is to be dropped, since a header with a wrong digest has come: where the next PDU begins cannot be
// told from it (RFC 7143 §7.8).
func (s *Session) DamagedHeader(c *Conn, acts []Action) []Action {
	s.Counters.HeaderDigests++
	return s.drop(c, HeaderDigest, "a header with a wrong digest", acts)
}

// damagedOut takes note of a Data-Out whose data is lost: its place in the sequence counts, so that the end of
// the data is seen, its bytes do not.
func (s *Session) damagedOut(c *Conn, d *pdu.DataOut, data []byte, acts []Action) []Action {
	h := d.H()
	if t := s.tasks[h.ITT()]; t != nil && t.Conn == c && t.awaits(h.TTT()) {
		t.damaged = true
		acts = s.dataFault(t, d.DataSN(), acts)
	}
	return s.dataOut(c, d, data, acts)
}

// awaits reports whether a Data-Out with the given Target Transfer Tag is one that t waits for.
func (t *Task) awaits(ttt uint32) bool {
	if ttt == pdu.NoTag {
		return t.unsol
	}
	return t.findR2T(ttt) >= 0
}
