package session

import (
	"encoding/binary"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A Result is how a command ended.
type Result struct {
	Status sam.Status
	Sense  []byte // with CHECK CONDITION; copied when the response is built
	// Data is the Data-In, whole, as the CDB asked for it; it is cut to what the initiator expects.
	// It must stay valid until the caller has performed the actions. Only with GOOD.
	Data []byte
	// Moved says how much Data-Out the command used, for the residual.
	Moved uint32
	// Failed: there is no SCSI status, the target failed (response 01h, RFC 7143 §11.4.3).
	Failed bool
}

// The conditions that iSCSI itself reports as sense (RFC 7143 §11.4.7.2).
var (
	senseUnsolicited = fixedSense(0x0b, 0x0c, 0x0c) // unexpected unsolicited data
	senseAmount      = fixedSense(0x0b, 0x0c, 0x0d) // incorrect amount of data
	senseDigest      = fixedSense(0x0b, 0x47, 0x05) // protocol service CRC error
	senseCDB         = fixedSense(0x05, 0x24, 0x00) // invalid field in CDB
)

// fixedSense returns sense data in fixed format (SPC-4 clause 4.5.3).
func fixedSense(key, asc, ascq byte) []byte {
	return []byte{0: 0x70, 2: key, 7: 10, 12: asc, 13: ascq, 17: 0}
}

// command takes a SCSI Command whose turn it is (RFC 7143 §11.3). damaged: its data is not what was sent.
func (s *Session) command(c *Conn, h *pdu.SCSICommand, ahs, data []byte, damaged bool, acts []Action) []Action {
	if s.Type == login.Discovery {
		return s.reject(c, h.H(), pdu.RejectProtocol, acts) // §4.3: a discovery session takes text and logout
	}
	itt := h.H().ITT()
	if itt == pdu.NoTag {
		return s.reject(c, h.H(), pdu.RejectInvalidField, acts)
	}
	if len(s.tasks) != 0 && s.tasks[itt] != nil {
		return s.reject(c, h.H(), pdu.RejectTaskInProgress, acts)
	}
	immediate := h.H().Immediate()
	if immediate && s.immediate >= s.lim.Immediate {
		return s.reject(c, h.H(), pdu.RejectImmediate, acts) // §4.2.2.1
	}
	t := s.pool.Get()
	t.Conn, t.ITT, t.LUN, t.Attr, t.Immediate = c, itt, h.H().LUN(), h.Attr(), immediate
	t.Read, t.Write, t.EDTL = h.Read(), h.Write(), h.EDTL()
	copy(t.CDB[:], h.CDB())
	t.state, t.cmdSN, t.heard = taskBegun, h.H().CmdSN(), c.lastRecv
	t.unsol = t.Write && !h.H().Final()
	t.unsolSN, t.got, t.solicit, t.done, t.dataSN, t.r2tCount = 0, 0, 0, 0, 0, 0
	t.counted, t.damaged, t.refused = true, damaged, false
	if immediate {
		s.immediate++
	} else {
		s.outstanding++
	}
	s.Counters.Commands++
	s.Counters.BytesIn += uint64(len(data))

	n := uint32(len(data))
	switch {
	case len(ahs) != 0:
		// A longer CDB or a bidirectional command: nothing that is served here has one.
		return s.refuse(t, senseCDB, acts)
	case t.Read && t.Write:
		return s.refuse(t, senseCDB, acts)
	case n != 0 && (!t.Write || !s.Params.ImmediateData), t.unsol && s.Params.InitialR2T:
		return s.refuse(t, senseUnsolicited, acts)
	case n > t.EDTL && t.Write, n > s.Params.FirstBurstLength, t.unsol && n >= t.unsolEnd(s):
		t.unsol = t.unsol && n < t.unsolEnd(s)
		return s.refuse(t, senseAmount, acts)
	}
	t.got = n
	t.done = n
	if damaged {
		s.Counters.DataErrors++
		return s.refuse(t, senseDigest, acts)
	}
	return append(acts, Action{Kind: Begin, Conn: c, Task: t, LUN: t.LUN, Data: data})
}

// refuse ends a command that the caller never sees.
func (s *Session) refuse(t *Task, sense []byte, acts []Action) []Action {
	t.refused = true
	acts = s.Completed(t, Result{Status: sam.CheckCondition, Sense: sense}, acts)
	if !t.Held() {
		s.pool.Put(t)
	}
	return acts
}

// DamagedSense is the sense data of a command that Damaged reports.
func DamagedSense() []byte { return senseDigest }

// unsolEnd returns where the unsolicited data of t ends (RFC 7143 §13.14).
func (t *Task) unsolEnd(s *Session) uint32 { return min(s.Params.FirstBurstLength, t.EDTL) }

// Begun says that the command of t passed its checks and needs want bytes of Data-Out, at most EDTL.
// True: they are all in the immediate data already; execute it. False: call Collect.
func (s *Session) Begun(t *Task, want uint32) bool {
	return want <= t.got
}

// Collect gives t the place for its Data-Out, buf of as many bytes as the command needs, after Begun said that
// they are not all there. imm is the Begin action's immediate data, which may lie at buf's head already. R2Ts follow as negotiated, and
// Execute when all is there.
func (s *Session) Collect(t *Task, buf, imm []byte, acts []Action) []Action {
	place(buf, imm)
	t.Buf = buf
	t.state = taskCollecting
	s.hold(t)
	t.solicit = t.got
	acts = s.solicitMore(t, acts)
	s.awaitData(t)
	return acts
}

// Executing says that t goes on in the background: it can be aborted from now on.
func (s *Session) Executing(t *Task) {
	t.state = taskExecuting
	s.hold(t)
}

func (s *Session) hold(t *Task) {
	if !t.held {
		s.tasks[t.ITT] = t
		t.held = true
	}
}

// Completed says that the command of t has ended: Data-In and response follow. If Held is true afterwards, the response waits
// for the last of the initiator's data (RFC 7143 §11.4) and the session keeps t and returns it to the
// pool itself; otherwise the caller does, once it has performed the actions.
func (s *Session) Completed(t *Task, r Result, acts []Action) []Action {
	if t.state == taskGone {
		return acts // aborted: not answered (§11.5.1)
	}
	if t.Expecting() {
		// §11.4: with data still expected the response waits for the F bit of the last sequence.
		t.result = r
		t.result.Sense = append([]byte(nil), r.Sense...)
		t.result.Data = nil
		t.state, t.Buf = taskDraining, nil
		s.hold(t)
		s.awaitData(t)
		return acts
	}
	return s.respond(t, &r, acts)
}

// Expecting reports whether data of t is still to come, so that Completed would have Held true.
func (t *Task) Expecting() bool { return t.unsol || t.r2tCount != 0 }

// Held reports whether the session keeps t after Completed.
func (t *Task) Held() bool { return t.state == taskDraining }

func (s *Session) respond(t *Task, r *Result, acts []Action) []Action {
	if t.damaged {
		// Whatever came of it otherwise: data of it was rejected (RFC 7143 §7.8).
		*r = Result{Status: sam.CheckCondition, Sense: senseDigest}
	}
	if r.Status == sam.Good && !r.Failed && t.Read && len(r.Data) != 0 && t.EDTL != 0 {
		acts = s.dataIn(t, r, acts)
		s.finish(t)
		return acts
	}
	acts, a := s.send(t.Conn, acts)
	resp := (*pdu.SCSIResponse)(&a.Header)
	if r.Failed {
		// §11.4.1, §11.4.8: without a status there are no residuals and no ExpDataSN.
		resp.Init(t.ITT, sam.Good, 0, 0)
		resp.SetFailed()
	} else {
		flags, count := t.residual(r)
		resp.Init(t.ITT, r.Status, flags, count)
		resp.SetExpDataSN(t.dataSN)
	}
	a.Refused = t.refused
	if len(r.Sense) != 0 {
		// §11.4.7.2: SenseLength, then the sense data.
		a.Data = append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(r.Sense)), uint16(len(r.Sense))), r.Sense...)
		resp.H().SetDataLen(len(a.Data))
		a.LUN = t.LUN // whose sense data it is
	}
	s.finish(t)
	return acts
}

// residual returns flags and count of what the CDB asked for against what the initiator expected (RFC 7143 §11.4.5).
func (t *Task) residual(r *Result) (byte, uint32) {
	moved := r.Moved
	if r.Status == sam.Good && len(r.Data) != 0 {
		moved = uint32(len(r.Data))
	}
	edtl := t.EDTL
	if !t.Read && !t.Write {
		edtl = 0
	}
	switch {
	case moved < edtl:
		return pdu.Underflow, edtl - moved
	case moved > edtl:
		return pdu.Overflow, moved - edtl
	}
	return 0, 0
}

// dataIn appends the Data-In PDUs of t, status in the last (RFC 7143 §11.7.3).
func (s *Session) dataIn(t *Task, r *Result, acts []Action) []Action {
	c := t.Conn
	flags, count := t.residual(r)
	data := r.Data
	if uint32(len(data)) > t.EDTL {
		data = data[:t.EDTL]
	}
	s.Counters.BytesOut += uint64(len(data))
	burst := int(s.Params.MaxBurstLength)
	off, left := 0, burst
	for {
		n := min(len(data)-off, left)
		if n > c.maxXmit {
			n = c.maxXmit &^ 3 // §11.7.7: but for the last of a sequence they are whole words
		}
		last := off+n == len(data)
		left -= n
		acts = append(acts, Action{Kind: SendData, Conn: c, Task: t, Data: data[off : off+n]})
		d := (*pdu.DataIn)(&acts[len(acts)-1].Header)
		d.Init(t.ITT, t.dataSN, uint32(off), n, last || left == 0)
		t.dataSN++
		if last {
			d.SetStatus(r.Status, flags, count)
			return acts
		}
		off += n
		if left == 0 {
			left = burst
		}
	}
}

// finish forgets t, which has been answered.
func (s *Session) finish(t *Task) {
	s.Counters.Responses++
	s.forget(t)
}

func (s *Session) forget(t *Task) {
	t.state = taskGone
	if t.held {
		t.held = false
		delete(s.tasks, t.ITT)
	}
	if t.counted {
		t.counted = false
		if t.Immediate {
			s.immediate--
		} else {
			s.outstanding--
		}
	}
}
