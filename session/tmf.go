package session

import (
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
	cmdSN     pdu.SN
	deadline  int64
	phase     tmfPhase
	unsettled int // tasks whose end the caller must still report
	immediate bool
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
	m := &TMF{Function: h.Function(), LUN: h.H().LUN(), conn: c, itt: h.H().ITT(), cmdSN: h.H().CmdSN(), immediate: h.H().Immediate()}
	switch m.Function {
	case sam.AbortTask:
		return s.abortTask(m, now, h, acts)
	case sam.AbortTaskSet, sam.LogicalUnitReset, sam.TargetWarmReset, sam.TargetColdReset:
		s.skipHeld(m)
		s.await(m)
		m.deadline = now + s.lim.TMFDataWait
		if s.draining(m) {
			return acts
		}
		return s.perform(m, now, acts)
	case sam.TaskReassign:
		return s.answer(m, pdu.ReassignNotSupported, acts) // §11.5.1: levels 0 and 1 have none
	default:
		return s.answer(m, pdu.FunctionNotSupported, acts)
	}
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
	acts = s.abort(t, m, acts)
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
	return m.Function == sam.TargetWarmReset || m.Function == sam.TargetColdReset || m.LUN == lun
}

// before reports whether t came before m, where both are of one session: later tasks are not m's (RFC 7143 §11.5.1).
func (m *TMF) before(t *Task) bool {
	return t.Conn.Session != m.conn.Session || t.cmdSN.Before(m.cmdSN) || t.Immediate && t.cmdSN == m.cmdSN
}

// affects reports whether m ends t, a task of its own session.
func (m *TMF) affects(t *Task) bool { return m.covers(t.LUN) && m.before(t) }

// draining reports whether tasks that m affects still have R2Ts outstanding: the initiator is to answer them before the
// function is carried out (RFC 7143 §4.2.3.3); one with FastAbort does not, so the wait is short.
func (s *Session) draining(m *TMF) bool {
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
	}
	return append(acts, Action{Kind: kind, Conn: m.conn, TMF: m, LUN: m.LUN})
}

// AbortTasks aborts the tasks of this session that match because of m, which may be another session's. With a nil m
// nobody waits for them. None is answered.
func (s *Session) AbortTasks(m *TMF, match func(*Task) bool, acts []Action) []Action {
	for _, t := range s.tasks {
		if (m == nil || m.before(t)) && match(t) {
			acts = s.abort(t, m, acts)
		}
	}
	return acts
}

// abort takes t out of the session.
func (s *Session) abort(t *Task, m *TMF, acts []Action) []Action {
	s.Counters.Aborted++
	draining := t.state == taskDraining
	s.forget(t)
	if draining {
		s.pool.Put(t) // its command had ended; only the answer was held back
		return acts
	}
	if m != nil {
		m.unsettled++
	}
	return append(acts, Action{Kind: Abort, Conn: t.Conn, Task: t, TMF: m})
}

// Settled says that one task of an Abort action with m has settled: its write ended, was never submitted, or
// its range is in doubt so that whatever overlaps waits behind it.
func (m *TMF) Settled(acts []Action) []Action {
	m.unsettled--
	return m.conn.Session.settle(m, acts)
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
	(*pdu.TaskMgmtResp)(&a.Header).Init(m.itt, resp)
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
