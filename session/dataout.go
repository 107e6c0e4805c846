package session

import (
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// solicitMore sends the R2Ts that t may have outstanding now (RFC 7143 §11.8).
func (s *Session) solicitMore(t *Task, acts []Action) []Action {
	if len(s.tmfs) != 0 && s.endsSoon(t) {
		return acts
	}
	want := uint32(len(t.Buf))
	limit := min(int(s.Params.MaxOutstandingR2T), s.lim.MaxR2T, len(t.r2ts))
	for !t.unsol && t.solicit < want && t.r2tCount < limit {
		n := min(want-t.solicit, s.Params.MaxBurstLength)
		ttt := s.newTTT()
		var a *Action
		acts, a = s.send(t.Conn, acts)
		(*pdu.R2T)(&a.Header).Init(t.LUN, t.ITT, ttt, t.dataSN, t.solicit, n)
		t.r2ts[t.r2tCount] = r2t{ttt: ttt, off: t.solicit, end: t.solicit + n}
		t.r2tCount++
		t.dataSN++ // R2TSN starts at 0 for each task and shares its space with DataSN (§11.8.2)
		t.solicit += n
	}
	return acts
}

// findR2T returns the index of t's outstanding R2T with the given tag, or -1.
func (t *Task) findR2T(ttt uint32) int {
	for i := 0; i < t.r2tCount; i++ {
		if t.r2ts[i].ttt == ttt {
			return i
		}
	}
	return -1
}

// Place returns where the data of a PDU belongs, so that it can be received straight into it: the part of a task's
// buffer that a Data-Out fills, and the task. The caller then hands the same bytes to Received. Without a place,
// wanted says whether the data will be looked at: that of a command that is over is dropped.
func (s *Session) Place(c *Conn, h *pdu.Header) (dst []byte, t *Task, wanted bool) {
	if h.Opcode() != pdu.OpDataOut {
		return nil, nil, true
	}
	d := (*pdu.DataOut)(h)
	t = s.tasks[h.ITT()]
	if t == nil || t.Conn != c || t.state != taskCollecting {
		return nil, nil, false
	}
	off, end := uint64(d.Offset()), uint64(d.Offset())+uint64(h.DataLen())
	if end > uint64(len(t.Buf)) {
		return nil, nil, true
	}
	if h.TTT() == pdu.NoTag {
		if !t.unsol || d.DataSN() != t.unsolSN || off != uint64(t.got) {
			return nil, nil, true
		}
	} else if i := t.findR2T(h.TTT()); i < 0 || d.DataSN() != t.r2ts[i].sn || off != uint64(t.r2ts[i].off) || end > uint64(t.r2ts[i].end) {
		return nil, nil, true
	}
	return t.Buf[off:end], t, true
}

// dataOut takes one Data-Out (RFC 7143 §11.7). DataPDUInOrder and DataSequenceInOrder are Yes, so
// anything out of place means lost data: at level 0 the command ends with an error.
func (s *Session) dataOut(c *Conn, d *pdu.DataOut, data []byte, acts []Action) []Action {
	h := d.H()
	t := s.tasks[h.ITT()]
	if t == nil || t.Conn != c {
		s.Counters.LateData++ // late data for a dead task is discarded, never rejected
		return acts
	}
	t.heard = c.lastRecv
	s.Counters.BytesIn += uint64(len(data))
	if h.TTT() == pdu.NoTag {
		return s.unsolicited(t, d, data, acts)
	}
	i := t.findR2T(h.TTT())
	if i < 0 {
		s.Counters.LateData++
		return acts
	}
	r := &t.r2ts[i]
	off, n := d.Offset(), uint32(len(data))
	final := h.Final()
	ok := d.DataSN() == r.sn && off == r.off && n <= r.end-r.off
	if ok {
		r.sn++
		r.off += n
		if t.state == taskCollecting {
			place(t.Buf[off:off+n], data)
			t.done += n
		}
		ok = final == (r.off == r.end)
	}
	if final || r.off == r.end {
		t.r2tCount--
		copy(t.r2ts[i:t.r2tCount], t.r2ts[i+1:t.r2tCount+1])
	}
	if !ok {
		return s.dataFault(t, d.DataSN(), acts)
	}
	return s.dataMore(t, acts)
}

// unsolicited takes a Data-Out that no R2T asked for.
func (s *Session) unsolicited(t *Task, d *pdu.DataOut, data []byte, acts []Action) []Action {
	if !t.unsol {
		s.Counters.LateData++
		if t.state == taskCollecting {
			return s.dataFault(t, d.DataSN(), acts)
		}
		return acts
	}
	off, n, end := d.Offset(), uint32(len(data)), t.unsolEnd(s)
	final := d.H().Final()
	ok := d.DataSN() == t.unsolSN && off == t.got && n <= end-t.got
	if final {
		t.unsol = false
	}
	if ok {
		t.unsolSN++
		t.got += n
		if t.state == taskCollecting && off < uint32(len(t.Buf)) {
			m := min(n, uint32(len(t.Buf))-off)
			place(t.Buf[off:off+m], data[:m])
			t.done += m
		}
		// §13.14: the unsolicited burst is FirstBurstLength or all there is; only then F is set.
		ok = final == (t.got == end)
		if !ok && t.got == end {
			t.unsol = false
		}
	}
	if !ok {
		return s.dataFault(t, d.DataSN(), acts)
	}
	t.solicit = max(t.solicit, min(t.got, uint32(len(t.Buf))))
	return s.dataMore(t, acts)
}

// place copies data unless Place had it received there already.
func place(dst, data []byte) {
	if len(data) != 0 && &dst[0] != &data[0] {
		copy(dst, data)
	}
}

// dataMore goes on after a Data-Out that was in order.
func (s *Session) dataMore(t *Task, acts []Action) []Action {
	switch {
	case t.state == taskDraining:
		return s.drained(t, acts)
	case t.state != taskCollecting:
		return acts
	case t.done < uint32(len(t.Buf)):
		return s.solicitMore(t, acts)
	}
	t.state = taskExecuting
	return append(acts, Action{Kind: Execute, Conn: t.Conn, Task: t, LUN: t.LUN})
}

// drained answers a task whose result was known, when the last of its data has come.
func (s *Session) drained(t *Task, acts []Action) []Action {
	if t.unsol || t.r2tCount != 0 {
		return acts
	}
	r := t.result
	acts = s.respond(t, &r, acts)
	s.pool.Put(t)
	return acts
}

// dataFault ends t because data was lost or is wrong in amount. A task that executes already has all it
// needs; it goes on.
func (s *Session) dataFault(t *Task, sn pdu.SN, acts []Action) []Action {
	s.Counters.DataErrors++
	switch t.state {
	case taskDraining:
		return s.drained(t, acts)
	case taskCollecting:
		// The caller takes its record back, as for an abort, and the answer follows once the data has drained.
		t.state = taskExecuting
		return append(acts, Action{Kind: DataFault, Conn: t.Conn, Task: t})
	}
	return acts
}

// DataFaultResult is what the caller gives to Completed after a DataFault action.
func DataFaultResult() Result {
	return Result{Status: sam.CheckCondition, Sense: senseAmount}
}
