package session

import "github.com/lunar-iscsi/lunar/session/pdu"

// sent checks a PDU that goes out.
func (x *executor) sent(a *Action) {
	h := a.Header
	if x.over {
		return
	}
	if n := len(a.Data); n > x.c.maxXmit && h.Opcode() != pdu.OpSCSIResponse && h.Opcode() != pdu.OpReject {
		x.Fatalf("%v of %d bytes, the initiator takes %d", h.Opcode(), n, x.c.maxXmit)
	}
	x.c.Stamp(&h)
	numbered := true
	switch h.Opcode() {
	case pdu.OpDataIn:
		numbered = (*pdu.DataIn)(&h).HasStatus()
		x.dataIn(a.Task, (*pdu.DataIn)(&h), len(a.Data))
		if numbered {
			x.answers++
		}
	case pdu.OpSCSIResponse:
		x.answers++
	case pdu.OpR2T:
		numbered = false
		x.r2t((*pdu.R2T)(&h))
	case pdu.OpNOPIn:
		if numbered = h.ITT() != pdu.NoTag; !numbered {
			x.ping = h.TTT()
		}
	case pdu.OpTaskMgmtResp:
		if x.tmfs[h.ITT()] == 0 {
			x.Fatalf("function %x is answered and was not asked for, or twice", h.ITT())
		}
		if (*pdu.TaskMgmtResp)(&h).Response() == pdu.FunctionComplete {
			x.done(h.ITT())
		}
		x.tmfs[h.ITT()]--
	case pdu.OpTextResp:
		x.text.itt, x.text.ttt = h.ITT(), h.TTT()
	}
	if numbered {
		if h.StatSN() != x.statSN {
			x.Fatalf("%v with StatSN %d, want %d", h.Opcode(), h.StatSN(), x.statSN)
		}
		x.statSN++
	}
	exp, last := h.ExpCmdSN(), h.MaxCmdSN()
	if x.stamped && (exp.Before(x.window.exp) || last.Before(x.window.max)) {
		x.Fatalf("the window goes back from %d-%d to %d-%d", x.window.exp, x.window.max, exp, last)
	}
	if n := uint32(last - exp + 1); n+x.s.outstanding > fuzzWindow {
		x.Fatalf("a window of %d with %d outstanding", n, x.s.outstanding)
	}
	x.window.exp, x.window.max, x.stamped = exp, last, true
}

// done checks that the one function itt, which is said to be complete, is.
func (x *executor) done(itt uint32) {
	for _, m := range x.waiting {
		if m.itt == itt {
			x.Fatalf("function %x is answered before it was carried out", itt)
		}
	}
	for _, j := range x.pending {
		if j.tmf != nil && j.tmf.itt == itt {
			x.Fatalf("function %x is answered before task %x has ended", itt, j.t.ITT)
		}
	}
}

// counted checks that what counts against the window and the room for immediate requests is what is outstanding.
func (x *executor) counted() {
	var tasks, tmfs [2]uint32 // of the window; immediate
	kind := func(immediate bool) int {
		if immediate {
			return 1
		}
		return 0
	}
	for _, t := range x.s.tasks {
		tasks[kind(t.Immediate)]++
	}
	for _, m := range x.s.tmfs {
		tmfs[kind(m.immediate)]++
	}
	if s := x.s; s.outstanding != tasks[0]+tmfs[0] || s.immediate != tasks[1] || s.immediateTM != tmfs[1] {
		x.Fatalf("%d, and %d and %d immediate ones are counted; of commands there are %d, of functions %d", s.outstanding, s.immediate, s.immediateTM, tasks, tmfs)
	}
}

func (x *executor) live(itt uint32) *job {
	for _, j := range x.jobs {
		if j.t.ITT == itt && !j.aborted {
			return j
		}
	}
	return nil
}

func (x *executor) dataIn(t *Task, d *pdu.DataIn, n int) {
	j := x.jobs[t]
	if j == nil || j.aborted {
		x.Fatalf("data of task %x, which is not there", d.H().ITT())
	}
	if d.Offset() != j.reads || uint64(j.reads)+uint64(n) > uint64(t.EDTL) {
		x.Fatalf("data at %d of %d bytes, %d were sent, %d are expected", d.Offset(), n, j.reads, t.EDTL)
	}
	j.reads += uint32(n)
}

func (x *executor) r2t(r *pdu.R2T) {
	j := x.live(r.H().ITT())
	if j == nil || !j.t.Write {
		x.Fatalf("R2T for task %x", r.H().ITT())
	}
	if r.Len() == 0 || r.Len() > x.s.Params.MaxBurstLength || uint64(r.Offset())+uint64(r.Len()) > uint64(j.want) {
		x.Fatalf("R2T for %d bytes at %d of %d", r.Len(), r.Offset(), j.want)
	}
	x.r2ts = append(x.r2ts, asked{r.H().ITT(), r.H().TTT(), r.Offset(), r.Len(), 0, r.H().LUN()})
}

// arrived checks that all of t's data is what was sent.
func (x *executor) arrived(t *Task, data []byte) {
	for k, b := range data {
		if b != dataAt(uint32(k)) {
			x.Fatalf("task %x: byte %d of its data never came", t.ITT, k)
		}
	}
}
