package initiator

import (
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// pdu takes a whole PDU other than a Data-In. data is the caller's receive buffer.
func (e *engine) pdu(h *pdu.Header, data []byte) error {
	op := h.Opcode()
	switch op {
	case pdu.OpR2T:
		if err := e.nextStatSN(h); err != nil {
			return err
		}
		if err := e.window(h); err != nil {
			return err
		}
		return e.r2t((*pdu.R2T)(h))
	case pdu.OpNOPIn:
		if h.ITT() == pdu.NoTag {
			if err := e.nextStatSN(h); err != nil {
				return err
			}
			if err := e.window(h); err != nil {
				return err
			}
			e.pong(h)
			return nil
		}
	case pdu.OpAsync: // before its window lets go what waits
		e.leaving = e.leaving || (*pdu.Async)(h).Event() == pdu.AsyncLogout
	case pdu.OpSCSIResponse, pdu.OpTaskMgmtResp, pdu.OpLogoutResp, pdu.OpReject:
	default:
		return violation("a PDU that has no place here: %v", op)
	}
	if err := e.statSN(h); err != nil {
		return err
	}
	if err := e.window(h); err != nil {
		return err
	}
	switch op {
	case pdu.OpSCSIResponse:
		return e.response((*pdu.SCSIResponse)(h), data)
	case pdu.OpAsync:
		return e.async(h, data)
	case pdu.OpReject:
		err := &RejectError{Reason: (*pdu.Reject)(h).Reason(), Of: pdu.OpReject}
		if len(data) >= pdu.HeaderLen {
			err.Of = pdu.HeaderAt(data).Opcode()
		}
		return err
	}
	return e.answered(h, data)
}

// r2t answers an R2T with the Data-Out that it asks for (RFC 7143 §11.8).
func (e *engine) r2t(r *pdu.R2T) error {
	h := r.H()
	io := e.find(h.ITT())
	switch {
	case io == nil || io.kind != pdu.OpSCSICommand:
		return violation("R2T for the unknown tag %08x", h.ITT())
	case len(io.Out) == 0:
		return violation("R2T for a task that does not write")
	case h.TTT() == pdu.NoTag:
		return violation("R2T with the reserved Target Transfer Tag")
	case h.LUN() != io.LUN:
		return violation("R2T for LUN %v, the task's is %v", h.LUN(), io.LUN)
	case r.R2TSN() != io.dataSN:
		return violation("R2T with R2TSN %d, want %d", r.R2TSN(), io.dataSN)
	case r.Offset() != io.offered:
		return violation("R2T at offset %d, want %d (DataSequenceInOrder=Yes)", r.Offset(), io.offered)
	case r.Len() == 0 || r.Len() > e.p.MaxBurstLength:
		return violation("R2T for %d bytes, MaxBurstLength is %d", r.Len(), e.p.MaxBurstLength)
	case uint64(r.Offset())+uint64(r.Len()) > uint64(io.edtl):
		return violation("R2T up to byte %d, the Expected Data Transfer Length is %d", uint64(r.Offset())+uint64(r.Len()), io.edtl)
	}
	// What we put into the stream since the kernel last took some is certainly unanswered.
	if io.r2ts == 0 || io.batch != e.batch {
		io.batch, io.r2ts = e.batch, 0
	}
	if io.r2ts++; io.r2ts > e.p.MaxOutstandingR2T {
		return violation("%d R2Ts at once for a task, MaxOutstandingR2T is %d", io.r2ts, e.p.MaxOutstandingR2T)
	}
	io.dataSN++
	e.dataOut(io, h.LUN(), h.TTT(), r.Len())
	return nil
}

// pong answers a NOP-In that asks for it (RFC 7143 §11.19.1): tag and LUN are copied, without data.
func (e *engine) pong(h *pdu.Header) {
	if h.TTT() == pdu.NoTag {
		return
	}
	(*pdu.NOPOut)(&e.h).Init(h.LUN(), pdu.NoTag, h.TTT(), true, 0)
	e.h.SetCmdSN(e.cmdSN)
	e.put(nil)
}

// response ends a command.
func (e *engine) response(r *pdu.SCSIResponse, data []byte) error {
	h := r.H()
	io := e.find(h.ITT())
	if io == nil || io.kind != pdu.OpSCSICommand {
		return violation("SCSI Response for the unknown tag %08x", h.ITT())
	}
	io.Response, io.Status = r.Response(), r.Status()
	if io.Response == pdu.CommandCompleted {
		if r.ExpDataSN() != io.dataSN {
			if err := e.minor("SCSI Response with ExpDataSN %d after %d R2T and Data-In", r.ExpDataSN(), io.dataSN); err != nil {
				return err
			}
		}
		if err := io.residual(r.Residual(), r.ResidualCount()); err != nil {
			return err
		}
	}
	sense, err := senseOf(data)
	if err != nil {
		return violation("%v", err)
	}
	if io.Response == pdu.CommandCompleted && io.Status == sam.CheckCondition && len(sense) == 0 {
		return violation("CHECK CONDITION without sense data")
	}
	io.Sense = append(io.Sense[:0], sense...)
	e.end(io)
	return nil
}

// answered ends a request other than a command.
func (e *engine) answered(h *pdu.Header, data []byte) error {
	io := e.find(h.ITT())
	// A response's opcode is the request's with bit 5 set.
	if io == nil || io.kind|0x20 != h.Opcode() {
		return violation("%v for the unknown tag %08x", h.Opcode(), h.ITT())
	}
	e.replies++
	io.reply = &PDU{Header: *h, Data: append([]byte(nil), data...)}
	if io.kind == pdu.OpTaskMgmtReq && (*pdu.TaskMgmtResp)(h).Response() == pdu.FunctionComplete {
		e.taken(io)
	}
	e.end(io)
	return nil
}

// taken ends the tasks that a completed task management function took away: those sent before it (RFC 7143 §4.2.3.3).
func (e *engine) taken(tmf *IO) {
	f := (*pdu.TaskMgmtReq)(&tmf.req).Function()
	abort := func(io *IO) {
		io.Err = ErrAborted
		e.finish(io)
	}
	if f == sam.AbortTask {
		if tmf.ref != nil && tmf.ref.active {
			abort(tmf.ref)
		}
		return
	}
	all := f == sam.TargetWarmReset || f == sam.TargetColdReset || f == sam.ITNexusReset
	lun := f == sam.AbortTaskSet || f == sam.ClearTaskSet || f == sam.LogicalUnitReset
	for i := range e.slots {
		io := e.slots[i].io
		if io == nil || io.kind != pdu.OpSCSICommand || !io.cmdSN.Before(tmf.cmdSN) {
			continue
		}
		if all || lun && io.LUN == tmf.req.LUN() {
			abort(io)
		}
	}
}

// async takes an Asynchronous Message (RFC 7143 §11.9).
func (e *engine) async(h *pdu.Header, data []byte) error {
	a := (*pdu.Async)(h)
	switch a.Event() {
	case pdu.AsyncLogout: // see pdu
		return nil
	case pdu.AsyncDropConnection, pdu.AsyncDropSession:
		return &DroppedError{Event: a.Event()}
	case pdu.AsyncTaskTermination:
		// §11.9.1: what was asked for before is out already, since R2Ts are answered whole; what is left is to acknowledge it.
		(*pdu.NOPOut)(&e.h).Init(h.LUN(), pdu.NoTag, pdu.NoTag, true, 0)
		e.h.SetCmdSN(e.cmdSN)
		e.put(nil)
		fallthrough
	case pdu.AsyncSCSIEvent:
		if e.onAsync != nil {
			e.onAsync(&PDU{Header: *h, Data: append([]byte(nil), data...)})
		}
		return nil
	}
	return violation("an Asynchronous Message of event %d", a.Event())
}

// A DroppedError says that the target announced the end of the connection or the session.
type DroppedError struct{ Event uint8 }

func (e *DroppedError) Error() string {
	if e.Event == pdu.AsyncDropSession {
		return "the target drops all connections of the session"
	}
	return "the target drops the connection"
}
