package target

import (
	"fmt"
	"slices"
	"unsafe"

	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/pdu"
	"github.com/lunar-iscsi/lunar/target/evloop"
)

// A record is what the target keeps of one task, beside the session's Task; the two are pooled together.
type record struct {
	task *session.Task
	cmd  scsi.Command
	conn *conn
	ln   *lunNexus

	buf     *evloop.Buf // of data, in or out; nil when it lies in the slab, the arena or nowhere
	place   []byte      // for a READ into the output stream: header, data and digests there, inside placeIn
	placeIn *arena
	placing int          // connections that are receiving into buf
	held    bool         // a reference of placeIn is this record's
	lost    bool         // a fault left its request nobody knows where: its memory is not used again
	tmf     *session.TMF // to be told when the command, aborted, has really ended
	pending bool         // the LU has it
	kind    commandKind  // what it is counted as
	began   int64        // when it came
	aborted bool
	late    lateness
}

// takeActs lends the slice that actions are gathered in. A second borrower, while perform runs, gets none and makes
// its own.
func (l *loop) takeActs() []session.Action {
	a := l.acts
	l.acts = nil
	return a
}

// perform does what a session asks for, in order. Doing may add to the list.
func (l *loop) perform(acts []session.Action) {
	for i := 0; i < len(acts); i++ {
		a := &acts[i]
		switch a.Kind {
		case session.Begin:
			acts = l.begin(a.Task, a.Data, acts)
		case session.Execute:
			acts = l.executeCollected(a.Task.Ref.(*record), acts)
		case session.DataFault:
			r := a.Task.Ref.(*record)
			r.ln.lu.Abort(&r.cmd) // it kept a place
			l.giveBuf(r)
			acts = l.respond(r, session.DataFaultResult(), acts)
		case session.Send, session.SendUrgent, session.SendData:
			if a.Kind == session.Send {
				l.formatSense(a)
				if a.Refused {
					l.commandRefused(a)
				}
			}
			a.Conn.Ref.(*conn).queue(a, nil)
		case session.Abort:
			acts = l.abort(a.Task.Ref.(*record), a.TMF, acts)
		case session.AbortSet, session.ClearSet, session.ResetLU, session.ResetTarget, session.ResetNexus:
			acts = l.function(a.Kind, a.Conn, a.TMF, a.LUN, acts)
		case session.Query:
			acts = l.query(a.Conn, a.TMF, a.LUN, acts)
		case session.PowerCycle:
			l.powerCycle(a.Conn.Ref.(*conn))
		case session.Next:
			acts = a.Conn.Session.Next(l.ev.Now(), acts)
		case session.SendTargets:
			acts = l.sendTargets(a.Conn, a.Name, acts)
		case session.Close:
			a.Conn.Ref.(*conn).close(endLogout, a.Name)
		case session.Drop:
			a.Conn.Ref.(*conn).drop(sessionDrops[a.Why], a.Name)
		}
	}
	clear(acts)
	l.acts = acts[:0]
}

// begin starts a command: its CDB is checked, and it is executed where its data is there.
func (l *loop) begin(t *session.Task, imm []byte, acts []session.Action) []session.Action {
	r := t.Ref.(*record)
	c := t.Conn.Ref.(*conn)
	r.conn = c
	r.ln = c.se.lookup(t.LUN)
	l.commandBegun(r)
	cmd := &r.cmd
	cmd.Nexus, cmd.CDB, cmd.Attr, cmd.OutLen = r.ln.nexus, t.CDB[:], t.Attr, t.OutLen()
	cmd.Inventory, cmd.Owner = c.se, r
	cmd.Buf, cmd.NoWait = nil, false
	dropped := l.overBudget
	l.overBudget = false // a command that follows in the same list has its own data
	if c.se.t.offline {
		return l.busy(r, acts)
	}
	lu := r.ln.lu
	l.inLU, l.inRec = lu, r
	ok := lu.Prepare(cmd)
	l.inLU = nil
	switch {
	case !ok:
		return l.complete(r, acts)
	case dropped:
		return l.taskSetFull(r, acts)
	case cmd.Out == 0 && cmd.In == 0:
		return l.execute(r, acts)
	case cmd.Out == 0:
		return l.read(r, acts)
	case !c.se.s.Begun(t, cmd.Out):
		if l.given(imm) && len(l.gift.B) >= int(cmd.Out) {
			r.buf, l.gift = l.gift, nil // the immediate data is at its head already
		} else if r.buf = l.lend(c.se, int(cmd.Out)); r.buf == nil {
			return l.taskSetFull(r, acts)
		}
		lu.Await(cmd)
		return c.se.s.Collect(t, r.buf.B[:cmd.Out], imm, acts)
	}
	// All the data is here: in the slab, or in a buffer that it was received into.
	cmd.Buf = imm[:cmd.Out]
	if l.given(imm) {
		r.buf, l.gift = l.gift, nil
		return l.execute(r, acts)
	}
	cmd.NoWait = true
	switch l.submit(r) {
	case scsi.Done:
		return l.complete(r, acts)
	case scsi.WouldBlock:
		// The slab is the loop's: what has to wait takes its data along.
		if r.buf = l.lend(c.se, int(cmd.Out)); r.buf == nil {
			return l.taskSetFull(r, acts)
		}
		copy(r.buf.B, cmd.Buf)
		cmd.Buf, cmd.NoWait = r.buf.B, false
		return l.execute(r, acts)
	}
	// The store has kept the slab, which it should not: that stays with it.
	l.slab = make([]byte, slabSize)
	return l.wait(r, acts)
}

// given reports whether imm lies in the buffer that the PDU under way was received into.
func (l *loop) given(imm []byte) bool {
	return l.gift != nil && unsafe.SliceData(imm) == unsafe.SliceData(l.gift.B)
}

// read executes a command that reads the medium.
func (l *loop) read(r *record, acts []session.Action) []session.Action {
	c, cmd := r.conn, &r.cmd
	n := int(cmd.In)
	if c.out.bytes >= l.s.cfg.MaxBacklog {
		// The initiator does not take what it has already asked for: this one waits its turn.
		if !l.s.budget.Take(waitingBytes) {
			return l.taskSetFull(r, acts)
		}
		c.waiting = append(c.waiting, r)
		r.ln.lu.Await(cmd)
		c.se.s.Executing(r.task)
		return acts
	}
	at := pdu.HeaderLen + int(c.hd)
	need := at + pdu.Pad(n) + int(c.dd)
	if n <= inPlaceMax && n <= c.c.MaxDataIn() && !c.blocked && l.mayPlace(need) {
		a := l.room(need)
		start := a.pos
		r.place, r.placeIn = a.b[start:start+need], a
		a.pos += need
		a.refs++ // nothing starts the arena anew meanwhile
		cmd.Buf, cmd.NoWait = r.place[at:at+n], true
		switch l.submit(r) {
		case scsi.Done:
			acts = l.complete(r, acts)
			l.release(a)
			return acts
		case scsi.Pending:
			r.held = true // the store reads to there, sooner or later
			return l.wait(r, acts)
		}
		if a.pos == start+need {
			a.pos = start
		}
		l.release(a)
		r.place, r.placeIn = nil, nil
	}
	if u := r.ln.unit; u != nil && !l.pool.May(&u.share, n) {
		return l.taskSetFull(r, acts) // as entrust is going to find, but before a buffer is made for nothing
	}
	if r.buf = l.lend(c.se, n); r.buf == nil {
		return l.taskSetFull(r, acts)
	}
	cmd.Buf, cmd.NoWait = r.buf.B, false
	return l.execute(r, acts)
}

// executeCollected executes a command whose Data-Out has been collected.
func (l *loop) executeCollected(r *record, acts []session.Action) []session.Action {
	r.cmd.Buf, r.cmd.NoWait = r.buf.B[:r.cmd.Out], false
	return l.execute(r, acts)
}

// execute gives a command to its logical unit, for as long as it takes.
func (l *loop) execute(r *record, acts []session.Action) []session.Action {
	if !r.entrust() {
		return l.taskSetFull(r, acts)
	}
	if l.submit(r) == scsi.Done {
		return l.complete(r, acts)
	}
	return l.wait(r, acts)
}

func (l *loop) submit(r *record) scsi.Outcome {
	lu := r.ln.lu
	l.inLU, l.inRec = lu, r
	out := lu.Execute(&r.cmd)
	l.inLU = nil
	return out
}

// wait leaves a command to its logical unit.
func (l *loop) wait(r *record, acts []session.Action) []session.Action {
	r.pending = true
	if !l.late.Set() {
		l.ev.SetTimer(&l.late, l.ev.Now()+int64(lateEvery))
	}
	r.conn.se.s.Executing(r.task)
	l.wantKick(r.ln.unit)
	return acts
}

func (l *loop) wantKick(u *unit) {
	if u != nil && !u.kicks {
		u.kicks = true
		l.kicks = append(l.kicks, u)
	}
}

// ended takes a command that its logical unit has finished after all.
func (l *loop) ended(r *record) {
	if r.late == lateUnanswered {
		l.answerLate(r)
		return
	}
	r.pending = false
	l.wantKick(r.ln.unit)
	acts := l.takeActs()
	if r.aborted {
		if m := r.tmf; m != nil {
			r.tmf = nil
			acts = m.Settled(acts)
		}
		l.free(r)
	} else {
		acts = l.complete(r, acts)
	}
	l.perform(acts)
}

// complete answers a command that has ended.
func (l *loop) complete(r *record, acts []session.Action) []session.Action {
	res := l.result(r)
	return l.respond(r, res, acts)
}

// result is what the initiator is told of a command that has ended.
func (l *loop) result(r *record) session.Result {
	cmd := &r.cmd
	if tr := l.s.cfg.Trace.SCSI; tr != nil {
		tr(r.conn.name, fmt.Sprintf("lun=%v cdb=% x -> %v %x", r.task.LUN, r.task.CDB, cmd.Status, cmd.Sense))
	}
	res := session.Result{Status: cmd.Status, Moved: cmd.Length}
	if cmd.Status != sam.Good && !r.task.Write && cmd.Length <= r.task.EDTL {
		res.Moved = 0 // a READ that fails sends nothing
	}
	if cmd.Status == sam.CheckCondition {
		res.Sense = cmd.Sense
	}
	if cmd.Status == sam.Good {
		res.Data = cmd.Data
	}
	return res
}

func (l *loop) taskSetFull(r *record, acts []session.Action) []session.Action {
	l.s.count.taskSetFull.Add(1)
	r.ln.lu.Abort(&r.cmd) // it may have kept a place
	return l.respond(r, session.Result{Status: sam.TaskSetFull}, acts)
}

// respond hands a result to the session and puts what it sends into the stream at once, since the data lies in
// memory of the command.
func (l *loop) respond(r *record, res session.Result, acts []session.Action) []session.Action {
	acts = l.tell(r, &res, acts)
	if r.task.Held() {
		l.giveBuf(r) // the task stays with the session until the last of its data has come
		return acts
	}
	l.free(r)
	return acts
}

// tell hands a result to the session and puts what it sends into the stream.
func (l *loop) tell(r *record, res *session.Result, acts []session.Action) []session.Action {
	c, from := r.conn, len(acts)
	l.commandEnded(r, res)
	acts = c.se.s.Completed(r.task, *res, acts)
	for i := from; i < len(acts); i++ {
		if acts[i].Kind == session.Send {
			l.formatSense(&acts[i])
		}
		c.queue(&acts[i], r)
	}
	return acts[:from]
}

// giveBuf gives back a record's buffer, or leaves that to the connection that is receiving into it.
func (l *loop) giveBuf(r *record) {
	if r.buf != nil && r.placing == 0 {
		l.pool.Put(r.buf)
		r.buf = nil
	}
}

// unplace says that a connection no longer receives into r's buffer.
func (l *loop) unplace(r *record) {
	r.placing--
	if r.aborted && r.placing == 0 && !r.pending {
		l.free(r)
	}
}

// free returns a record and its task to the pool, unless somebody still writes into its buffer.
func (l *loop) free(r *record) {
	if r.placing != 0 {
		r.aborted = true
		return
	}
	if r.lost {
		return
	}
	if r.held {
		r.held = false
		l.release(r.placeIn)
	}
	l.giveBuf(r)
	l.tasks.Put(r.task)
}

// clear makes r ready for its next use.
func (r *record) clear() {
	r.conn, r.ln, r.tmf, r.aborted, r.pending, r.late, r.place, r.placeIn = nil, nil, nil, false, false, notLate, nil, nil
	r.cmd.Buf, r.cmd.Data = nil, nil
}

// abort takes an aborted task back from wherever it is. A write that a store already has stays in the unit's range index, in
// doubt, until the store has ended it, and its buffer with it.
func (l *loop) abort(r *record, m *session.TMF, acts []session.Action) []session.Action {
	r.aborted = true
	l.commandAborted(r)
	if r.late == lateUnanswered {
		r.late = lateAnswered // it is not, and will not be
		l.forgetDone(r)
	}
	if r.pending {
		lu := r.ln.lu
		ended := false
		sound := l.guard(lu, func() { ended = lu.Abort(&r.cmd) })
		r.lost = r.lost || !sound
		hold := m != nil && !ended && (!sound || lu.AbortNeedsEnd())
		l.wantKick(r.ln.unit)
		if !ended {
			if hold {
				r.tmf = m // others may write the volume: only the end of the write is enough
				return acts
			}
			if m != nil {
				acts = m.Settled(acts)
			}
			return acts
		}
		r.pending = false
		l.forgetDone(r) // it may have ended, and its turn to be answered will not come
	} else {
		l.unwait(r)
		l.guard(r.ln.lu, func() { r.ln.lu.Abort(&r.cmd) })
	}
	if m != nil {
		acts = m.Settled(acts)
	}
	l.free(r)
	return acts
}

// forgetDone takes r out of those that are to be dealt with.
func (l *loop) forgetDone(r *record) {
	if i := slices.Index(l.done, r); i >= 0 {
		l.done[i] = nil
	}
}

// unwait takes r off its connection's list of reads that wait for room.
func (l *loop) unwait(r *record) {
	c := r.conn
	for i, o := range c.waiting {
		if o == r {
			c.waiting = append(c.waiting[:i], c.waiting[i+1:]...)
			l.s.budget.Give(waitingBytes)
			return
		}
	}
}

// resume goes on with reads that waited, now that there is less to send.
func (c *conn) resume() {
	l := c.l
	for len(c.waiting) != 0 && !c.dead && c.out.bytes < l.s.cfg.MaxBacklog/2 {
		r := c.waiting[0]
		c.waiting = append(c.waiting[:0], c.waiting[1:]...)
		l.s.budget.Give(waitingBytes)
		l.perform(l.read(r, l.takeActs()))
	}
}

// close closes c when everything before has been sent.
func (c *conn) close(end ending, why string) {
	if c.dead {
		return
	}
	c.closeEnd, c.closeWhy = end, why
	c.mark()
}

// sendTargets answers SendTargets in a normal session.
func (l *loop) sendTargets(sc *session.Conn, what string, acts []session.Action) []session.Action {
	c := sc.Ref.(*conn)
	keys, ok := l.s.table.Load().sendTargets(what, c.se.t.name, c.se.initiator(), c.way)
	if !ok {
		return c.se.s.TextRefuse(acts)
	}
	return c.se.s.TextReply(keys, acts)
}
