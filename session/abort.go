package session

import (
	"cmp"
	"slices"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// AbortTasks aborts the tasks of this session that match because of m, which may be another session's. With a nil m
// nobody waits for them. Without tell none is answered; with it each is, TASK ABORTED. Each that was taken away is an Abort action.
// Of a session that is not m's, a task whose command has ended is no longer in the task set, and is answered as it ended.
func (s *Session) AbortTasks(m *TMF, tell bool, match func(*Task) bool, acts []Action) []Action {
	third := m != nil && m.conn.Session != s
	from := len(acts)
	var hit []*Task
	for _, t := range s.tasks {
		if (m == nil || m.before(t)) && !((tell || third) && t.state == taskDraining) && match(t) {
			hit = append(hit, t)
		}
	}
	slices.SortFunc(hit, func(a, b *Task) int { return cmp.Or(int(int32(a.cmdSN-b.cmdSN)), cmp.Compare(a.ITT, b.ITT)) })
	for _, t := range hit {
		acts = s.abort(t, m, tell, acts)
	}
	if m != nil && s.Params.TaskReporting == login.ReportFastAbort {
		acts = s.announce(m, from, acts)
	}
	return acts
}

// announce tells the initiator, on each connection but m's own to which tasks were allegiant that have just been aborted, that those
// of the logical unit are being terminated: it stops their Data-Out and acknowledges that (RFC 7143 §4.2.3.4, §11.9.1). The
// acknowledgement, a NOP-Out that asks for nothing, frees no more: a transfer tag is dead at once and is not used again for 2^32 R2Ts.
func (s *Session) announce(m *TMF, from int, acts []Action) []Action {
	aborted := acts[from:]
	for _, c := range s.conns {
		if c == m.conn || c.closed {
			continue
		}
		for i := range aborted {
			if a := &aborted[i]; a.Kind == Abort && a.Conn == c {
				lun := a.Task.LUN
				var out *Action
				acts, out = s.send(c, acts)
				(*pdu.Async)(&out.Header).Init(lun, pdu.AsyncTaskTermination, 0, 0, 0, 0)
				break
			}
		}
	}
	return acts
}

// abort takes t out of the session.
func (s *Session) abort(t *Task, m *TMF, tell bool, acts []Action) []Action {
	s.Counters.Aborted++
	draining := t.state == taskDraining
	if tell {
		acts = s.tellAborted(t, acts)
	}
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

// tellAborted answers t, which is being aborted, TASK ABORTED. Where its data is still expected the answer waits for that
// (RFC 7143 §11.4): in a task of its own, since the store may keep t for ever. An initiator that is told to stop its Data-Out
// (announce) is not waited for.
func (s *Session) tellAborted(t *Task, acts []Action) []Action {
	r := Result{Status: sam.TaskAborted}
	if !t.unsol && t.r2tCount == 0 || s.Params.TaskReporting == login.ReportFastAbort {
		return s.respond(t, &r, acts)
	}
	d := s.pool.Get()
	d.Conn, d.ITT, d.LUN, d.Attr, d.Immediate = t.Conn, t.ITT, t.LUN, t.Attr, t.Immediate
	d.Read, d.Write, d.EDTL, d.CDB = t.Read, t.Write, t.EDTL, t.CDB
	d.heard, d.cmdSN, d.unsol, d.unsolSN, d.got, d.solicit, d.done = t.heard, t.cmdSN, t.unsol, t.unsolSN, t.got, t.solicit, t.done
	d.dataSN, d.r2ts, d.r2tCount = t.dataSN, t.r2ts, t.r2tCount
	d.state, d.result = taskDraining, r
	d.counted, t.counted, d.refused, d.damaged = t.counted, false, false, false
	s.forget(t)
	s.hold(d)
	s.awaitData(d)
	return acts
}
