package initiator

import (
	"fmt"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A receiver is where in the stream of received bytes we are: between PDUs, or inside the data segment of a Data-In, which
// is taken as it comes, so that a long one needs no memory.
type receiver struct {
	h    pdu.Header // the Data-In that we are in
	io   *IO        // and its task; nil between PDUs
	left int        // bytes of its data segment still to come
	crc  uint32
}

// slabHeaders is what a receive buffer holds beside a data segment: basic and additional headers, digests, pad.
const slabHeaders = 2 << 10

// feed takes received bytes and returns how many it used; the rest, less than a PDU, must be given again with what follows it. The
// receive buffer must have room for slabHeaders and e.longest bytes.
func (e *engine) feed(b []byte) (int, error) {
	n := 0
	for {
		if e.rx.io != nil {
			k, whole, err := e.body(b[n:])
			n += k
			if !whole || err != nil {
				return n, err
			}
			continue
		}
		if len(b)-n < pdu.HeaderLen {
			return n, nil
		}
		h := pdu.HeaderAt(b[n:])
		head := pdu.HeaderLen + h.AHSLen()
		seg := h.DataLen()
		if seg > int(e.p.MaxRecvDataSegmentLength) {
			return n, violation("%v with a data segment of %d bytes, MaxRecvDataSegmentLength is %d", h.Opcode(), seg, e.p.MaxRecvDataSegmentLength)
		}
		crcAt := head
		if e.p.HeaderDigest {
			head += pdu.DigestLen
		}
		need := head
		if h.Opcode() != pdu.OpDataIn && seg > 0 {
			if seg > e.longest {
				return n, fmt.Errorf("%v with a data segment of %d bytes: our receive buffer has room for %d", h.Opcode(), seg, e.longest)
			}
			need += e.trailed(seg)
		}
		if len(b)-n < need {
			return n, nil
		}
		if e.p.HeaderDigest {
			if pdu.Digest(b[n:n+crcAt]) != pdu.DigestAt(b[n+crcAt:]) {
				return n, violation("%v with a wrong header digest", h.Opcode())
			}
		}
		var err error
		if h.Opcode() == pdu.OpDataIn {
			err = e.dataIn(h)
		} else {
			data := b[n+head : n+head+seg]
			if e.p.DataDigest && seg > 0 {
				end := n + head + pdu.Pad(seg)
				if pdu.Digest(b[n+head:end]) != pdu.DigestAt(b[end:]) {
					return n, violation("%v with a wrong data digest", h.Opcode())
				}
			}
			err = e.pdu(h, data)
		}
		if err != nil {
			return n, err
		}
		n += need
	}
}

// trailed returns the bytes of a data segment with pad and digest.
func (e *engine) trailed(seg int) int {
	if e.p.DataDigest {
		return pdu.Pad(seg) + pdu.DigestLen
	}
	return pdu.Pad(seg)
}

// body takes bytes of the Data-In that we are in and reports whether that PDU is whole now.
func (e *engine) body(b []byte) (n int, whole bool, err error) {
	r := &e.rx
	io := r.io
	if n = min(r.left, len(b)); n > 0 {
		if int(io.Got) < len(io.In) {
			copy(io.In[io.Got:], b[:n])
		}
		if e.p.DataDigest {
			r.crc = pdu.UpdateDigest(r.crc, b[:n])
		}
		io.Got += uint32(n)
		r.left -= n
	}
	if r.left > 0 {
		return n, false, nil
	}
	if seg := r.h.DataLen(); seg > 0 {
		tail := e.trailed(seg) - seg
		if len(b)-n < tail {
			return n, false, nil
		}
		if e.p.DataDigest {
			pad := pdu.Pad(seg) - seg
			if pdu.UpdateDigest(r.crc, b[n:n+pad]) != pdu.DigestAt(b[n+pad:]) {
				return n, false, violation("Data-In with a wrong data digest")
			}
		}
		n += tail
	}
	r.io = nil
	if d := (*pdu.DataIn)(&r.h); d.HasStatus() {
		err = e.readEnded(io, d.Status(), d.Residual(), d.ResidualCount())
	}
	return n, true, err
}

// dataIn checks the header of a Data-In and enters its data segment.
func (e *engine) dataIn(h *pdu.Header) error {
	d := (*pdu.DataIn)(h)
	io := e.find(h.ITT())
	switch {
	case io == nil || io.kind != pdu.OpSCSICommand:
		return violation("Data-In for the unknown tag %08x", h.ITT())
	case io.InLen == 0:
		return violation("Data-In for a task that does not read")
	case d.DataSN() != io.dataSN:
		return violation("Data-In with DataSN %d, want %d", d.DataSN(), io.dataSN)
	case d.Offset() != io.Got:
		return violation("Data-In at offset %d, want %d (DataPDUInOrder=Yes)", d.Offset(), io.Got)
	case uint64(io.Got)+uint64(h.DataLen()) > uint64(io.edtl):
		return violation("Data-In up to byte %d, the Expected Data Transfer Length is %d", uint64(io.Got)+uint64(h.DataLen()), io.edtl)
	case d.HasStatus() && !h.Final():
		return violation("Data-In with status and without the F bit")
	case d.Ack() && e.p.ErrorRecoveryLevel == 0:
		return violation("Data-In with the A bit at error recovery level 0")
	}
	io.dataSN++
	if io.burst += uint32(h.DataLen()); io.burst > e.p.MaxBurstLength {
		if err := e.minor("%d bytes of Data-In without the F bit, MaxBurstLength is %d", io.burst, e.p.MaxBurstLength); err != nil {
			return err
		}
	}
	if h.Final() {
		io.burst = 0
	}
	if d.HasStatus() {
		if err := e.statSN(h); err != nil {
			return err
		}
	}
	if err := e.window(h); err != nil {
		return err
	}
	e.rx.h, e.rx.io, e.rx.left, e.rx.crc = *h, io, h.DataLen(), 0
	return nil
}

// statSN checks a response's StatSN: at level 0 over one connection each is the last one's successor.
func (e *engine) statSN(h *pdu.Header) error {
	if h.StatSN() != e.expStatSN {
		if err := e.minor("%v with StatSN %d, want %d", h.Opcode(), h.StatSN(), e.expStatSN); err != nil {
			return err
		}
		if h.StatSN().Before(e.expStatSN) {
			return nil
		}
	}
	e.expStatSN = h.StatSN() + 1
	return nil
}

// nextStatSN checks the StatSN of a PDU that only shows the next one.
func (e *engine) nextStatSN(h *pdu.Header) error {
	if h.StatSN() != e.expStatSN {
		return e.minor("%v with StatSN %d, the next one is %d", h.Opcode(), h.StatSN(), e.expStatSN)
	}
	return nil
}

// window takes ExpCmdSN and MaxCmdSN of a response (RFC 7143 §4.2.2.1: a MaxCmdSN before ExpCmdSN - 1 makes both be ignored, otherwise
// they only grow) and sends what they let through.
func (e *engine) window(h *pdu.Header) error {
	exp, most := h.ExpCmdSN(), h.MaxCmdSN()
	if most.Before(exp - 1) {
		return nil
	}
	if e.cmdSN.Before(exp) {
		if err := e.minor("%v with ExpCmdSN %d, our next CmdSN is %d", h.Opcode(), exp, e.cmdSN); err != nil {
			return err
		}
		exp = e.cmdSN // of a target that counts an immediate request
	}
	if e.expCmdSN.Before(exp) {
		e.expCmdSN = exp
	}
	if e.maxCmdSN.Before(most) {
		e.maxCmdSN = most
		if e.first != nil {
			e.push()
		}
	}
	return nil
}

// readEnded ends a task by the status in its last Data-In.
func (e *engine) readEnded(io *IO, status sam.Status, residual byte, count uint32) error {
	if status == sam.CheckCondition {
		return violation("CHECK CONDITION in a Data-In (RFC 7143 §11.4: sense needs a SCSI Response)")
	}
	io.Status = status
	if err := io.residual(residual, count); err != nil {
		return err
	}
	e.end(io)
	return nil
}

// residual checks and keeps residual flags and count against what was moved (RFC 7143 §11.4.5).
func (io *IO) residual(flags byte, count uint32) error {
	if flags&(pdu.BidiUnderflow|pdu.BidiOverflow) != 0 {
		return violation("bidirectional residual flags in the end of a command that is not")
	}
	moved := io.Got
	if len(io.Out) > 0 {
		moved = io.offered
	}
	good := io.Response == pdu.CommandCompleted && io.Status == sam.Good
	switch flags & (pdu.Underflow | pdu.Overflow) {
	case pdu.Underflow | pdu.Overflow:
		return violation("residual underflow and overflow in one response")
	case pdu.Underflow:
		if count > io.edtl || good && io.InLen > 0 && io.edtl-count != moved {
			return violation("residual underflow of %d with %d of %d bytes moved", count, moved, io.edtl)
		}
		io.Underflow = count
	case pdu.Overflow:
		if good && moved != io.edtl {
			return violation("residual overflow of %d with %d of %d bytes moved", count, moved, io.edtl)
		}
		io.Overflow = count
	default:
		if good && moved != io.edtl {
			return violation("GOOD without residual and only %d of %d bytes moved", moved, io.edtl)
		}
	}
	return nil
}

// end ends io, and the session's leave-taking where that waited for it.
func (e *engine) end(io *IO) {
	e.finish(io)
	if e.first != nil {
		e.push()
	}
}
