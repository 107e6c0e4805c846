package session

import (
	"slices"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A TMF is a task management function that has not been answered (RFC 7143 §11.5). It is answered when the tasks
// that it affects have settled (Settled).
type TMF struct {
	Function sam.TMF
	LUN      sam.LUN

	conn      *Conn
	itt       uint32
	ref       uint32 // Referenced Task Tag
	cmdSN     pdu.SN
	deadline  int64
	phase     tmfPhase
	unsettled int // tasks whose end the caller must still report
	immediate bool
	info      uint32 // Additional Response Information
}

type tmfPhase uint8

const (
	tmfDraining  tmfPhase = iota // waits for the Data-Out of the affected tasks' outstanding R2Ts
	tmfOngoing                   // its tasks are being aborted
	tmfPerformed                 // waits for aborted tasks that must settle before the answer
	tmfAnswered
)

// taskMgmt takes a Task Management Function Request whose turn it is.
func (s *Session) taskMgmt(c *Conn, now int64, h *pdu.TaskMgmtReq, acts []Action) []Action {
	if s.Type == login.Discovery {
		return s.reject(c, h.H(), pdu.RejectProtocol, acts)
	}
	s.Counters.Functions++
	if h.H().Immediate() && s.immediateTM >= s.lim.Immediate {
		return s.reject(c, h.H(), pdu.RejectImmediate, acts)
	}
	m := &TMF{Function: h.Function(), LUN: h.H().LUN(), conn: c, itt: h.H().ITT(), ref: h.RefTag(), cmdSN: h.H().CmdSN(), immediate: h.H().Immediate()}
	if slices.Contains(s.Without(), m.Function) {
		return s.answer(m, pdu.FunctionNotSupported, acts)
	}
	if s.NoReset && slices.Contains(endsOthers, m.Function) {
		return s.answer(m, pdu.AuthorizationFailed, acts) // RFC 7143 §11.5.1
	}
	switch m.Function {
	case sam.AbortTask:
		return s.abortTask(m, now, h, acts)
	case sam.AbortTaskSet, sam.ClearTaskSet, sam.LogicalUnitReset, sam.TargetWarmReset, sam.TargetColdReset, sam.ITNexusReset:
		s.skipHeld(m)
		s.await(m)
		m.deadline = now + s.lim.TMFDataWait
		if s.draining(m) {
			return acts
		}
		return s.perform(m, now, acts)
	case sam.ClearACA, sam.QueryTask, sam.QueryTaskSet, sam.QueryAsyncEvent:
		s.await(m)
		m.phase, m.deadline = tmfOngoing, now+s.lim.TMFTimeout
		return append(acts, Action{Kind: Query, Conn: c, TMF: m, LUN: m.LUN})
	case sam.TaskReassign:
		return s.answer(m, pdu.ReassignNotSupported, acts) // §11.5.1: levels 0 and 1 have none
	default:
		return s.answer(m, pdu.FunctionNotSupported, acts)
	}
}

// endsOthers are the functions that end tasks of other initiators, too.
var endsOthers = []sam.TMF{sam.ClearTaskSet, sam.LogicalUnitReset, sam.TargetWarmReset, sam.TargetColdReset}

// level2 are the functions that RFC 7144 has added.
var level2 = []sam.TMF{sam.QueryTask, sam.QueryTaskSet, sam.ITNexusReset, sam.QueryAsyncEvent}

// Without returns the functions that are not to be had in this session: those of RFC 7144 (§6.1), unless iSCSIProtocolLevel 2 was
// agreed on. The slice is read-only.
func (s *Session) Without() []sam.TMF {
	if s.Params.ProtocolLevel < 2 {
		return level2
	}
	return nil
}

func (s *Session) await(m *TMF) {
	s.tmfs = append(s.tmfs, m)
	if m.immediate {
		s.immediateTM++
	} else {
		s.outstanding++ // so that the window bounds those that wait
	}
}

// abortTask carries out ABORT TASK (RFC 7143 §11.5.1).
func (s *Session) abortTask(m *TMF, now int64, h *pdu.TaskMgmtReq, acts []Action) []Action {
	t := s.tasks[h.RefTag()]
	if t == nil || t.LUN != m.LUN {
		ref := h.RefCmdSN()
		if ref.InWindow(s.exp, uint32(m.cmdSN-s.exp)) && !m.cmdSN.Before(s.exp) && uint32(m.cmdSN-s.exp) <= s.lim.Window {
			// The request overtook its task: the task's CmdSN counts as received (§11.5.1, case b).
			if p, ok := s.held[ref]; ok && p.conn != nil && p.header.ITT() != h.RefTag() {
				return s.answer(m, pdu.TaskDoesNotExist, acts)
			}
			s.skip(ref, now)
			return s.next(m.conn, now, s.answer(m, pdu.FunctionComplete, acts))
		}
		return s.answer(m, pdu.TaskDoesNotExist, acts)
	}
	s.await(m)
	m.deadline = now + s.lim.TMFTimeout
	acts = s.abort(t, m, false, acts)
	m.phase = tmfPerformed
	return s.settle(m, acts)
}

// skip makes sn count as received.
func (s *Session) skip(sn pdu.SN, now int64) {
	if p := s.held[sn]; p != nil {
		s.heldBytes -= p.size()
	} else if s.held == nil {
		s.held = map[pdu.SN]*heldPDU{}
	}
	s.held[sn] = &heldPDU{}
	s.pass()
	if s.gapSince == 0 {
		s.gapSince = now
	}
}

// skipHeld drops the commands that m affects among those that wait behind a CmdSN gap.
func (s *Session) skipHeld(m *TMF) {
	for sn, p := range s.held {
		if p.conn != nil && sn.Before(m.cmdSN) && p.header.Opcode() == pdu.OpSCSICommand && m.covers(p.header.LUN()) {
			s.heldBytes -= p.size()
			s.held[sn] = &heldPDU{}
		}
	}
}

// covers reports whether m's function reaches the logical unit lun.
func (m *TMF) covers(lun sam.LUN) bool {
	switch m.Function {
	case sam.TargetWarmReset, sam.TargetColdReset, sam.ITNexusReset:
		return true
	}
	return m.LUN == lun
}

// before reports whether t came before m, where both are of one session: later tasks are not m's (RFC 7143 §11.5.1).
func (m *TMF) before(t *Task) bool {
	return t.Conn.Session != m.conn.Session || t.cmdSN.Before(m.cmdSN) || t.Immediate && t.cmdSN == m.cmdSN
}

// affects reports whether m ends t, a task of its own session.
func (m *TMF) affects(t *Task) bool { return m.covers(t.LUN) && m.before(t) }

// draining reports whether m has to wait before it is carried out: for commands that it affects and that it has overtaken, and for
// the Data-Out of outstanding R2Ts of the tasks that it affects (RFC 7143 §4.2.3.3). With FastAbort the initiator sends no
// more Data-Out once it has sent the request (§4.2.3.4), so there is none to wait for. Those of other sessions are not waited for.
func (s *Session) draining(m *TMF) bool {
	if m.immediate && s.exp.Before(m.cmdSN) && uint32(m.cmdSN-s.exp) <= s.lim.Window {
		return true
	}
	if s.Params.TaskReporting == login.ReportFastAbort {
		return false
	}
	for _, t := range s.tasks {
		if t.r2tCount != 0 && m.affects(t) {
			return true
		}
	}
	return false
}

// endsSoon reports whether t gets no further R2T because a function that ends it waits for those outstanding.
func (s *Session) endsSoon(t *Task) bool {
	for _, m := range s.tmfs {
		if m.phase == tmfDraining && m.affects(t) {
			return true
		}
	}
	return false
}

// perform carries out a function that affects more than one task.
func (s *Session) perform(m *TMF, now int64, acts []Action) []Action {
	m.phase = tmfOngoing
	m.deadline = now + s.lim.TMFTimeout
	kind := ResetTarget
	switch m.Function {
	case sam.LogicalUnitReset:
		kind = ResetLU
	case sam.AbortTaskSet:
		kind = AbortSet
	case sam.ClearTaskSet:
		kind = ClearSet
	case sam.ITNexusReset:
		kind = ResetNexus
	}
	return append(acts, Action{Kind: kind, Conn: m.conn, TMF: m, LUN: m.LUN})
}

// Settled says that one task of an Abort action with m has settled: its write ended, was never submitted, or
// its range is in doubt so that whatever overlaps waits behind it.
func (m *TMF) Settled(acts []Action) []Action {
	m.unsettled--
	return m.conn.Session.settle(m, acts)
}

// TMFQueried carries out a Query action. exists is whether there is such a logical unit; next and pending are its unit attention
// condition for this nexus that will be told next, as key, code and qualifier in 24 bits, and how many there are.
func (s *Session) TMFQueried(m *TMF, exists bool, next uint32, pending int, acts []Action) []Action {
	if m.phase == tmfAnswered {
		return acts
	}
	if !exists {
		return s.answer(m, pdu.LUNDoesNotExist, acts)
	}
	found := false // RFC 7144 §6: "succeeded" says yes, "complete" says no
	switch m.Function {
	case sam.QueryTask:
		t := s.tasks[m.ref]
		found = t != nil && t.LUN == m.LUN
	case sam.QueryTaskSet:
		for _, t := range s.tasks {
			found = found || m.affects(t)
		}
	case sam.QueryAsyncEvent:
		if found = pending != 0; found {
			depth := uint32(1) // UADE DEPTH: 01b is one, 10b is more (SAM-5 §7.10)
			if pending > 1 {
				depth = 2
			}
			m.info = depth<<20 | next
		}
	}
	if found {
		return s.answer(m, pdu.FunctionSucceeded, acts)
	}
	return s.answer(m, pdu.FunctionComplete, acts) // CLEAR ACA: there never is such a condition (NORMACA is 0)
}

// TMFDone says that a ResetLU, ResetTarget or AbortSet action has been carried out, but for tasks not yet settled. exists
// is whether there is such a logical unit.
func (s *Session) TMFDone(m *TMF, exists bool, acts []Action) []Action {
	if m.phase == tmfAnswered {
		return acts // its connection went meanwhile
	}
	if !exists {
		return s.answer(m, pdu.LUNDoesNotExist, acts)
	}
	m.phase = tmfPerformed
	return s.settle(m, acts)
}

// settle answers m when nothing is left to wait for.
func (s *Session) settle(m *TMF, acts []Action) []Action {
	if m.phase != tmfPerformed || m.unsettled > 0 {
		return acts
	}
	return s.answer(m, pdu.FunctionComplete, acts)
}

// answer sends the response of m and forgets it.
func (s *Session) answer(m *TMF, resp pdu.TMFResponse, acts []Action) []Action {
	if m.phase == tmfAnswered {
		return acts
	}
	m.phase = tmfAnswered
	for i, o := range s.tmfs {
		if o == m {
			s.tmfs = append(s.tmfs[:i], s.tmfs[i+1:]...)
			if m.immediate {
				s.immediateTM--
			} else {
				s.outstanding--
			}
			break
		}
	}
	if m.conn.closed {
		return acts
	}
	acts, a := s.send(m.conn, acts)
	r := (*pdu.TaskMgmtResp)(&a.Header)
	r.Init(m.itt, resp)
	r.SetInfo(m.info)
	if m.Function == sam.TargetColdReset && resp == pdu.FunctionComplete {
		s.leaving, m.conn.closed = true, true // what it still sends is not looked at
		acts = append(acts, Action{Kind: PowerCycle, Conn: m.conn})
	}
	return acts
}

// tickTMF bounds what functions wait for.
func (s *Session) tickTMF(now int64, acts []Action) []Action {
	for i := 0; i < len(s.tmfs); i++ {
		m := s.tmfs[i]
		if now < m.deadline {
			continue
		}
		if m.phase == tmfDraining {
			acts = s.perform(m, now, acts)
			continue
		}
		// A write that another opener could see is still out: the function did not do its work.
		acts = s.answer(m, pdu.FunctionRejected, acts)
		i--
	}
	return acts
}

// readyTMFs carries out the functions that waited for Data-Out which has now come.
func (s *Session) readyTMFs(now int64, acts []Action) []Action {
	for i := 0; i < len(s.tmfs); i++ {
		if m := s.tmfs[i]; m.phase == tmfDraining && !s.draining(m) {
			acts = s.perform(m, now, acts)
		}
	}
	return acts
}
