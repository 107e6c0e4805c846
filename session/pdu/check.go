package pdu

// A Fault is what a header says wrongly by itself, whatever the session: an error, and
// the reason a Reject gives for it.
type Fault struct {
	Reason RejectReason
	Text   string
}

func (f *Fault) Error() string { return f.Text }

// The faults, made once: a peer that sends nothing else costs no memory.
var (
	faultOpcode    = &Fault{RejectNotSupported, "opcode unknown, or not an initiator's"}
	faultAHS       = &Fault{RejectProtocol, "additional header segments malformed, or in a PDU that has none"}
	faultNoData    = &Fault{RejectProtocol, "data segment in a PDU that has none"}
	faultReadData  = &Fault{RejectProtocol, "immediate data without the W bit"}
	faultImmediate = &Fault{RejectProtocol, "more immediate data than the expected data transfer length"}
	faultNotFinal  = &Fault{RejectProtocol, "F bit not set"}
	faultAttr      = &Fault{RejectInvalidField, "reserved task attribute"}
	faultTag       = &Fault{RejectInvalidField, "reserved initiator task tag"}
	faultDataEnd   = &Fault{RejectInvalidField, "data beyond 2^32 bytes"}
	faultContinue  = &Fault{RejectProtocol, "C bit together with F or T"}
	faultReason    = &Fault{RejectInvalidField, "reserved logout reason"}
	faultSNACK     = &Fault{RejectInvalidField, "reserved SNACK type"}
	faultNOPTag    = &Fault{RejectProtocol, "NOP-Out without a tag that is not immediate"}
)

// The last values that are not reserved.
const (
	lastAttr         = 4 // RFC 7143 §11.3.1
	lastLogoutReason = LogoutRemoveRecovery
	lastSNACK        = 3 // RFC 7143 §11.16.1
)

// Check returns what an initiator's header says wrongly by itself, nil if nothing. It
// looks at no negotiated value and no state: lengths against what was declared, numbers
// and tags against the session are the session's. It does not allocate.
func Check(h *Header) *Fault {
	if h.AHSLen() != 0 && h.Opcode() != OpSCSICommand {
		return faultAHS // RFC 7143 §11.2.2: they extend SCSI Commands
	}
	switch h.Opcode() {
	case OpSCSICommand:
		return checkCommand(h)
	case OpNOPOut:
		switch {
		case !h.Final():
			return faultNotFinal
		case h.ITT() == NoTag && !h.Immediate():
			return faultNOPTag // §11.18.1
		}
	case OpTaskMgmtReq, OpLogoutReq:
		switch {
		case h.DataLen() != 0:
			return faultNoData
		case !h.Final():
			return faultNotFinal
		case h.ITT() == NoTag:
			return faultTag
		case h.Opcode() == OpLogoutReq && (*LogoutReq)(h).Reason() > lastLogoutReason:
			return faultReason
		}
	case OpLoginReq, OpTextReq:
		// F of a Text Request and T of a Login Request are the same bit.
		if h.Final() && h[1]&textContinue != 0 {
			return faultContinue // §11.10.2, §11.12.2
		}
		if h.ITT() == NoTag && h.Opcode() == OpTextReq {
			return faultTag
		}
	case OpDataOut:
		switch {
		case h.ITT() == NoTag:
			return faultTag
		case uint64((*DataOut)(h).Offset())+uint64(h.DataLen()) > 1<<32:
			return faultDataEnd
		}
	case OpSNACK:
		switch {
		case h.DataLen() != 0:
			return faultNoData
		case !h.Final():
			return faultNotFinal
		case h[1]&0x0f > lastSNACK:
			return faultSNACK
		}
	default:
		return faultOpcode
	}
	return nil
}

func checkCommand(h *Header) *Fault {
	c := (*SCSICommand)(h)
	switch {
	case h.ITT() == NoTag:
		return faultTag
	case byte(c.Attr()) > lastAttr:
		return faultAttr
	case h.DataLen() != 0 && !c.Write():
		return faultReadData
	case uint64(h.DataLen()) > uint64(c.EDTL()):
		return faultImmediate
	case !h.Final() && !c.Write():
		return faultNotFinal // §11.3.1: F=0 announces unsolicited data
	}
	return nil
}
