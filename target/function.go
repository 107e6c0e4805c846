package target

import (
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
	"github.com/lunar-iscsi/lunar/session"
)

// Task management functions that reach beyond one task, across the sessions of a loop. Which tasks of its own session a
// function affects the session knows; who else has tasks at a logical unit is known here.

// function carries out a function that ends tasks.
func (l *loop) function(kind session.ActionKind, sc *session.Conn, m *session.TMF, lun sam.LUN, acts []session.Action) []session.Action {
	se := sc.Ref.(*conn).se
	switch kind {
	case session.ResetTarget:
		code := sense.BusReset
		if m.Function == sam.TargetColdReset {
			code = sense.PowerOn // RFC 7143 §11.5.1; reservations survive it, as they do every reset
		}
		for _, e := range se.t.luns {
			if m.Function == sam.TargetColdReset || se.shows(e.unit) {
				acts = l.resetUnit(se, e.unit.lu, m, code, acts)
			}
		}
		return se.s.TMFDone(m, true, acts)
	case session.ResetNexus:
		acts = l.abortAll(se.s.AbortTasks(m, false, func(*session.Task) bool { return true }, nil), m, acts)
		for _, ln := range se.luns {
			l.guard(ln.lu, func() { ln.lu.ResetNexus(ln.nexus) })
		}
		return se.s.TMFDone(m, true, acts)
	}
	ln := se.lookup(lun)
	if ln.unit == nil {
		return se.s.TMFDone(m, false, acts)
	}
	switch kind {
	case session.ResetLU:
		acts = l.resetUnit(se, ln.lu, m, sense.DeviceReset, acts)
	case session.ClearSet:
		acts = l.clearUnit(se, ln.lu, m, acts)
	default:
		acts = l.abortAll(se.s.AbortTasks(m, false, sameLUN(lun), nil), m, acts)
	}
	return se.s.TMFDone(m, true, acts)
}

// sameLUN returns a function that says whether a task names the logical unit lun, in whichever form.
func sameLUN(lun sam.LUN) func(*session.Task) bool {
	n, single := lun.Number()
	return func(t *session.Task) bool {
		m, ok := t.LUN.Number()
		return t.LUN == lun || single && ok && m == n
	}
}

// resetUnit aborts the commands of every nexus at lu for se's function m and resets it.
func (l *loop) resetUnit(se *sess, lu *scsi.LU, m *session.TMF, code sense.Code, acts []session.Action) []session.Action {
	acts, _ = l.clear(se, lu, m, acts)
	l.guard(lu, func() { lu.Reset(code) }) // every nexus hears of it, so that none needs 2Fh/00h
	return acts
}

// clearUnit aborts the commands of every nexus at lu for se's CLEAR TASK SET; others whose commands these were hear of it.
func (l *loop) clearUnit(se *sess, lu *scsi.LU, m *session.TMF, acts []session.Action) []session.Action {
	acts, others := l.clear(se, lu, m, acts)
	for _, o := range others {
		for _, ln := range o.luns {
			if ln.lu == lu {
				l.guard(lu, func() { lu.Cleared(ln.nexus) })
			}
		}
	}
	return acts
}

// clear aborts the commands of every nexus at lu. With TAS those of others than se are answered TASK ABORTED. It returns the
// other sessions that had any.
func (l *loop) clear(se *sess, lu *scsi.LU, m *session.TMF, acts []session.Action) (_ []session.Action, others []*sess) {
	for _, t := range l.targets {
		for _, o := range t.sessions {
			tell := o != se && lu.TaskAborted()
			aborts := o.s.AbortTasks(m, tell, o.at(lu), nil)
			if o != se && len(aborts) != 0 {
				others = append(others, o)
				// The initiator learns in the next answer, and may need room in its window to ask for one.
				aborts = o.s.ShowWindow(aborts)
			}
			acts = l.abortAll(aborts, m, acts)
		}
	}
	return acts, others
}

// abortAll performs the actions of AbortTasks at once.
func (l *loop) abortAll(aborts []session.Action, m *session.TMF, acts []session.Action) []session.Action {
	for i := range aborts {
		switch a := &aborts[i]; a.Kind {
		case session.Abort:
			acts = l.abort(a.Task.Ref.(*record), m, acts)
		default:
			a.Conn.Ref.(*conn).queue(a, nil)
		}
	}
	return acts
}

// AbortNexus is scsi.Host's: PREEMPT AND ABORT ends what a nexus still has at one logical unit. A write that a
// store has stays in doubt, so that what overlaps it waits, whoever sends it. What has ended already is answered as it did.
func (l *loop) AbortNexus(n *scsi.NexusLU, except *scsi.Command, tell bool) int {
	in := l.inLU // the caller's code goes on after this
	var aborts []session.Action
	for _, t := range l.targets {
		if se := t.byNexus[n.Nexus]; se != nil {
			aborts = se.s.AbortTasks(nil, tell, func(task *session.Task) bool {
				r := task.Ref.(*record)
				return r.ln != nil && r.ln.nexus == n && &r.cmd != except && !task.Held() && !l.ending(r)
			}, aborts)
		}
	}
	count := 0
	for i := range aborts {
		if aborts[i].Kind == session.Abort {
			count++
		}
	}
	l.abortAll(aborts, nil, nil)
	l.inLU = in
	return count
}

// ending reports whether r's command has ended and is about to be answered.
func (l *loop) ending(r *record) bool {
	for _, d := range l.done {
		if d == r {
			return true
		}
	}
	return false
}

// query answers a function that asks, or that has nothing to do.
func (l *loop) query(sc *session.Conn, m *session.TMF, lun sam.LUN, acts []session.Action) []session.Action {
	se := sc.Ref.(*conn).se
	ln := se.lookup(lun)
	if ln.unit == nil {
		return se.s.TMFQueried(m, false, 0, 0, acts)
	}
	code, n := ln.nexus.Pending()
	return se.s.TMFQueried(m, true, uint32(sense.UnitAttention)<<16|uint32(code), n, acts)
}

// powerCycle ends every session of c's target, as TARGET COLD RESET does (RFC 7143 §11.5.1); c itself when it has sent the answer.
func (l *loop) powerCycle(c *conn) {
	t := c.se.t
	const why = "TARGET COLD RESET"
	l.s.log.Info("every session of a target ends", "target", t.name, "sessions", len(t.sessions), "why", why, "conn", c.name)
	for _, o := range t.sessions {
		if o != c.se {
			l.dropSession(o, endReset, why)
		}
	}
	for _, sc := range c.se.s.Conns() {
		if o := sc.Ref.(*conn); o != c {
			o.lost(endReset, why)
		}
	}
	c.close(endReset, why)
}
