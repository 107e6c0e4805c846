package pdu

import "github.com/lunar-iscsi/lunar/scsi/sam"

// A SCSICommand is a view of a SCSI Command (RFC 7143 §11.3).
type SCSICommand Header

// Offsets and flags of a SCSI Command.
const (
	cmdRead  = 0x40
	cmdWrite = 0x20
	cmdAttr  = 0x07
	cmdEDTL  = 20
	cmdCDB   = 32
)

// H returns the view of the common fields.
func (c *SCSICommand) H() *Header { return (*Header)(c) }

// Read reports the R bit: the command expects Data-In.
func (c *SCSICommand) Read() bool { return c[1]&cmdRead != 0 }

// Write reports the W bit: the command expects Data-Out.
func (c *SCSICommand) Write() bool { return c[1]&cmdWrite != 0 }

// Attr returns the task attribute.
func (c *SCSICommand) Attr() sam.TaskAttribute { return sam.TaskAttribute(c[1] & cmdAttr) }

// SetFlags sets byte 1.
func (c *SCSICommand) SetFlags(final, read, write bool, attr sam.TaskAttribute) {
	c[1] = byte(attr) & cmdAttr
	c.H().flag(1, flagFinal, final)
	c.H().flag(1, cmdRead, read)
	c.H().flag(1, cmdWrite, write)
}

// EDTL returns the Expected Data Transfer Length in bytes.
func (c *SCSICommand) EDTL() uint32 { return c.H().u32(cmdEDTL) }

// SetEDTL sets the Expected Data Transfer Length.
func (c *SCSICommand) SetEDTL(n uint32) { c.H().put32(cmdEDTL, n) }

// CDB returns the 16 bytes of CDB in the header, aliased. Longer CDBs go on in an AHS.
func (c *SCSICommand) CDB() []byte { return c[cmdCDB:HeaderLen] }

func (h *Header) flag(off int, bit byte, on bool) {
	if on {
		h[off] |= bit
	} else {
		h[off] &^= bit
	}
}

// A SCSIResponse is a view of a SCSI Response (RFC 7143 §11.4).
type SCSIResponse Header

// Flags of residuals, in SCSI Response and in the last Data-In (RFC 7143 §11.4.1).
const (
	Underflow     = 0x02 // U: fewer bytes than EDTL were moved
	Overflow      = 0x04 // O: EDTL was too small
	BidiUnderflow = 0x08 // u
	BidiOverflow  = 0x10 // o
)

// Response codes of a SCSI Response (RFC 7143 §11.4.3).
const (
	CommandCompleted = 0x00
	TargetFailure    = 0x01
)

// H returns the view of the common fields.
func (r *SCSIResponse) H() *Header { return (*Header)(r) }

// Init makes r a SCSI Response with status, residual flags and residual count.
func (r *SCSIResponse) Init(itt uint32, status sam.Status, residual byte, count uint32) {
	*r = SCSIResponse{0: byte(OpSCSIResponse), 1: flagFinal | residual, 2: CommandCompleted, 3: byte(status)}
	r.H().SetITT(itt)
	r.H().put32(44, count)
}

// SetFailed says that there is no status: the target failed.
func (r *SCSIResponse) SetFailed() { r[2], r[3] = TargetFailure, 0 }

// Residual returns the residual flags of byte 1.
func (r *SCSIResponse) Residual() byte { return r[1] & 0x1e }

// Response returns the iSCSI service response.
func (r *SCSIResponse) Response() uint8 { return r[2] }

// Status returns the SCSI status; it counts only with response 00h.
func (r *SCSIResponse) Status() sam.Status { return sam.Status(r[3]) }

// ExpDataSN returns how many R2T and Data-In PDUs the target sent for the task.
func (r *SCSIResponse) ExpDataSN() SN { return SN(r.H().u32(36)) }

// SetExpDataSN sets ExpDataSN.
func (r *SCSIResponse) SetExpDataSN(n SN) { r.H().put32(36, uint32(n)) }

// ResidualCount returns the residual count in bytes.
func (r *SCSIResponse) ResidualCount() uint32 { return r.H().u32(44) }

// A TaskMgmtReq is a view of a Task Management Function Request (RFC 7143 §11.5).
type TaskMgmtReq Header

// H returns the view of the common fields.
func (r *TaskMgmtReq) H() *Header { return (*Header)(r) }

// Function returns the function.
func (r *TaskMgmtReq) Function() sam.TMF { return sam.TMF(r[1] & 0x7f) }

// SetFunction sets the function and the fixed bit 7.
func (r *TaskMgmtReq) SetFunction(f sam.TMF) { r[1] = flagFinal | byte(f) }

// RefTag returns the Referenced Task Tag.
func (r *TaskMgmtReq) RefTag() uint32 { return r.H().u32(20) }

// SetRefTag sets the Referenced Task Tag.
func (r *TaskMgmtReq) SetRefTag(t uint32) { r.H().put32(20, t) }

// RefCmdSN returns RefCmdSN.
func (r *TaskMgmtReq) RefCmdSN() SN { return SN(r.H().u32(32)) }

// SetRefCmdSN sets RefCmdSN.
func (r *TaskMgmtReq) SetRefCmdSN(n SN) { r.H().put32(32, uint32(n)) }

// A TMFResponse is the response code of a Task Management Function Response
// (RFC 7143 §11.6.1).
type TMFResponse uint8

// The response codes.
const (
	FunctionComplete     TMFResponse = 0
	TaskDoesNotExist     TMFResponse = 1
	LUNDoesNotExist      TMFResponse = 2
	TaskStillAllegiant   TMFResponse = 3
	ReassignNotSupported TMFResponse = 4
	FunctionNotSupported TMFResponse = 5
	AuthorizationFailed  TMFResponse = 6
	FunctionSucceeded    TMFResponse = 7 // RFC 7144 §6
	FunctionRejected     TMFResponse = 255
)

// A TaskMgmtResp is a view of a Task Management Function Response (RFC 7143 §11.6).
type TaskMgmtResp Header

// H returns the view of the common fields.
func (r *TaskMgmtResp) H() *Header { return (*Header)(r) }

// Init makes r a Task Management Function Response.
func (r *TaskMgmtResp) Init(itt uint32, resp TMFResponse) {
	*r = TaskMgmtResp{0: byte(OpTaskMgmtResp), 1: flagFinal, 2: byte(resp)}
	r.H().SetITT(itt)
}

// Response returns the response code.
func (r *TaskMgmtResp) Response() TMFResponse { return TMFResponse(r[2]) }

// Info returns the three bytes of Additional Response Information (RFC 7144 §6), the first in bits 23 to 16: of QUERY ASYNCHRONOUS
// EVENT how many conditions are pending (UADE DEPTH) with the sense key, the additional sense code and its qualifier.
func (r *TaskMgmtResp) Info() uint32 { return r.H().u32(8) >> 8 }

// SetInfo sets Additional Response Information.
func (r *TaskMgmtResp) SetInfo(info uint32) { r.H().put32(8, info<<8) }

// A DataOut is a view of a SCSI Data-Out (RFC 7143 §11.7).
type DataOut Header

// H returns the view of the common fields.
func (d *DataOut) H() *Header { return (*Header)(d) }

// DataSN returns DataSN.
func (d *DataOut) DataSN() SN { return SN(d.H().u32(36)) }

// Offset returns the Buffer Offset in bytes.
func (d *DataOut) Offset() uint32 { return d.H().u32(40) }

// Init makes d a Data-Out of n bytes.
func (d *DataOut) Init(lun sam.LUN, itt, ttt uint32, sn SN, offset uint32, n int, final bool) {
	*d = DataOut{0: byte(OpDataOut)}
	h := d.H()
	h.flag(1, flagFinal, final)
	h.SetDataLen(n)
	h.SetLUN(lun)
	h.SetITT(itt)
	h.SetTTT(ttt)
	h.put32(36, uint32(sn))
	h.put32(40, offset)
}

// A DataIn is a view of a SCSI Data-In (RFC 7143 §11.7).
type DataIn Header

// Flags of a Data-In's byte 1.
const (
	dataInAck    = 0x40
	dataInStatus = 0x01
)

// H returns the view of the common fields.
func (d *DataIn) H() *Header { return (*Header)(d) }

// Init makes d a Data-In of n bytes without status.
func (d *DataIn) Init(itt uint32, sn SN, offset uint32, n int, final bool) {
	*d = DataIn{0: byte(OpDataIn)}
	h := d.H()
	if final {
		h[1] = flagFinal
	}
	h.SetDataLen(n)
	h.SetITT(itt)
	h.SetTTT(NoTag)
	h.put32(36, uint32(sn))
	h.put32(40, offset)
}

// SetStatus makes d carry the command's status: S and F bits, residual flags and
// count (RFC 7143 §11.7.3).
func (d *DataIn) SetStatus(status sam.Status, residual byte, count uint32) {
	d[1] |= flagFinal | dataInStatus | residual
	d[3] = byte(status)
	d.H().put32(44, count)
}

// HasStatus reports the S bit.
func (d *DataIn) HasStatus() bool { return d[1]&dataInStatus != 0 }

// Ack reports the A bit.
func (d *DataIn) Ack() bool { return d[1]&dataInAck != 0 }

// Residual returns the residual flags; they count only with the S bit.
func (d *DataIn) Residual() byte { return d[1] & (Underflow | Overflow) }

// Status returns the status; it counts only with the S bit.
func (d *DataIn) Status() sam.Status { return sam.Status(d[3]) }

// DataSN returns DataSN.
func (d *DataIn) DataSN() SN { return SN(d.H().u32(36)) }

// Offset returns the Buffer Offset in bytes.
func (d *DataIn) Offset() uint32 { return d.H().u32(40) }

// ResidualCount returns the residual count; it counts only with the S bit.
func (d *DataIn) ResidualCount() uint32 { return d.H().u32(44) }

// An R2T is a view of a Ready To Transfer (RFC 7143 §11.8).
type R2T Header

// H returns the view of the common fields.
func (r *R2T) H() *Header { return (*Header)(r) }

// Init makes r an R2T for n bytes from offset on.
func (r *R2T) Init(lun sam.LUN, itt, ttt uint32, sn SN, offset, n uint32) {
	*r = R2T{0: byte(OpR2T), 1: flagFinal}
	h := r.H()
	h.SetLUN(lun)
	h.SetITT(itt)
	h.SetTTT(ttt)
	h.put32(36, uint32(sn))
	h.put32(40, offset)
	h.put32(44, n)
}

// R2TSN returns R2TSN.
func (r *R2T) R2TSN() SN { return SN(r.H().u32(36)) }

// Offset returns the Buffer Offset in bytes.
func (r *R2T) Offset() uint32 { return r.H().u32(40) }

// Len returns the Desired Data Transfer Length in bytes.
func (r *R2T) Len() uint32 { return r.H().u32(44) }

// An Async is a view of an Asynchronous Message (RFC 7143 §11.9).
type Async Header

// The async events (RFC 7143 §11.9.1).
const (
	AsyncSCSIEvent       = 0
	AsyncLogout          = 1 // target asks for logout
	AsyncDropConnection  = 2
	AsyncDropSession     = 3
	AsyncNegotiate       = 4
	AsyncTaskTermination = 5 // the tasks of a LUN are being terminated (FastAbort)
)

// H returns the view of the common fields.
func (a *Async) H() *Header { return (*Header)(a) }

// Init makes a an Asynchronous Message.
func (a *Async) Init(lun sam.LUN, event, vcode uint8, p1, p2, p3 uint16) {
	*a = Async{0: byte(OpAsync), 1: flagFinal, 36: event, 37: vcode}
	h := a.H()
	h.SetLUN(lun)
	h.SetITT(NoTag)
	h.put16(38, p1)
	h.put16(40, p2)
	h.put16(42, p3)
}

// Event returns AsyncEvent.
func (a *Async) Event() uint8 { return a[36] }

// Params returns Parameter1 to Parameter3.
func (a *Async) Params() (p1, p2, p3 uint16) { return a.H().u16(38), a.H().u16(40), a.H().u16(42) }

// A TextReq is a view of a Text Request (RFC 7143 §11.10); F is Final, CmdSN and
// tags as everywhere.
type TextReq Header

// textContinue is the C bit of login and text PDUs.
const textContinue = 0x40

// H returns the view of the common fields.
func (r *TextReq) H() *Header { return (*Header)(r) }

// Continue reports the C bit: the key list goes on in the next PDU.
func (r *TextReq) Continue() bool { return r[1]&textContinue != 0 }

// SetFlags sets F and C.
func (r *TextReq) SetFlags(final, cont bool) {
	r.H().flag(1, flagFinal, final)
	r.H().flag(1, textContinue, cont)
}

// A TextResp is a view of a Text Response (RFC 7143 §11.11).
type TextResp Header

// H returns the view of the common fields.
func (r *TextResp) H() *Header { return (*Header)(r) }

// Continue reports the C bit.
func (r *TextResp) Continue() bool { return r[1]&textContinue != 0 }

// Init makes r a Text Response of n bytes of keys.
func (r *TextResp) Init(itt, ttt uint32, n int, final, cont bool) {
	*r = TextResp{0: byte(OpTextResp)}
	h := r.H()
	h.flag(1, flagFinal, final)
	h.flag(1, textContinue, cont)
	h.SetDataLen(n)
	h.SetITT(itt)
	h.SetTTT(ttt)
}

// A Stage is a login stage (RFC 7143 §11.12.3).
type Stage uint8

// The stages.
const (
	SecurityNegotiation Stage = 0
	OperationalStage    Stage = 1
	FullFeaturePhase    Stage = 3
)

// loginTransit is the T bit of login PDUs.
const loginTransit = 0x80

// A LoginReq is a view of a Login Request (RFC 7143 §11.12).
type LoginReq Header

// H returns the view of the common fields.
func (r *LoginReq) H() *Header { return (*Header)(r) }

// Transit reports the T bit.
func (r *LoginReq) Transit() bool { return r[1]&loginTransit != 0 }

// Continue reports the C bit.
func (r *LoginReq) Continue() bool { return r[1]&textContinue != 0 }

// CSG returns the current stage.
func (r *LoginReq) CSG() Stage { return Stage(r[1] >> 2 & 3) }

// NSG returns the next stage; it counts only with T.
func (r *LoginReq) NSG() Stage { return Stage(r[1] & 3) }

// SetFlags sets byte 1.
func (r *LoginReq) SetFlags(transit, cont bool, csg, nsg Stage) {
	r[1] = loginFlags(transit, cont, csg, nsg)
}

func loginFlags(transit, cont bool, csg, nsg Stage) byte {
	b := byte(csg)<<2 | byte(nsg)
	if transit {
		b |= loginTransit
	}
	if cont {
		b |= textContinue
	}
	return b
}

// VersionMax returns the highest version the initiator speaks.
func (r *LoginReq) VersionMax() uint8 { return r[2] }

// VersionMin returns the lowest version the initiator speaks.
func (r *LoginReq) VersionMin() uint8 { return r[3] }

// ISID returns the initiator session ID.
func (r *LoginReq) ISID() [6]byte { return [6]byte(r[8:14]) }

// SetISID sets the initiator session ID.
func (r *LoginReq) SetISID(i [6]byte) { copy(r[8:14], i[:]) }

// TSIH returns the target session identifying handle, 0 for a new session.
func (r *LoginReq) TSIH() uint16 { return r.H().u16(14) }

// SetTSIH sets the TSIH.
func (r *LoginReq) SetTSIH(t uint16) { r.H().put16(14, t) }

// CID returns the connection ID.
func (r *LoginReq) CID() uint16 { return r.H().u16(20) }

// SetCID sets the connection ID.
func (r *LoginReq) SetCID(c uint16) { r.H().put16(20, c) }

// LoginStatus is Status-Class and Status-Detail as one number (RFC 7143 §11.13.5).
type LoginStatus uint16

// The login statuses.
const (
	LoginSuccess         LoginStatus = 0x0000
	TargetMovedTemp      LoginStatus = 0x0101
	TargetMovedPerm      LoginStatus = 0x0102
	InitiatorError       LoginStatus = 0x0200
	AuthenticationFailed LoginStatus = 0x0201
	AuthorizationFailure LoginStatus = 0x0202
	TargetNotFound       LoginStatus = 0x0203
	TargetRemoved        LoginStatus = 0x0204
	UnsupportedVersion   LoginStatus = 0x0205
	TooManyConnections   LoginStatus = 0x0206
	MissingParameter     LoginStatus = 0x0207
	CannotInclude        LoginStatus = 0x0208
	SessionTypeNotSup    LoginStatus = 0x0209
	SessionDoesNotExist  LoginStatus = 0x020a
	InvalidDuringLogin   LoginStatus = 0x020b
	TargetError          LoginStatus = 0x0300
	ServiceUnavailable   LoginStatus = 0x0301
	OutOfResources       LoginStatus = 0x0302
)

// A LoginResp is a view of a Login Response (RFC 7143 §11.13).
type LoginResp Header

// H returns the view of the common fields.
func (r *LoginResp) H() *Header { return (*Header)(r) }

// Init makes r a Login Response. Version-max and Version-active are 0, the only
// version there is.
func (r *LoginResp) Init(itt uint32, isid [6]byte, tsih uint16, status LoginStatus, transit, cont bool, csg, nsg Stage, n int) {
	*r = LoginResp{0: byte(OpLoginResp), 1: loginFlags(transit, cont, csg, nsg)}
	h := r.H()
	h.SetDataLen(n)
	copy(r[8:14], isid[:])
	h.put16(14, tsih)
	h.SetITT(itt)
	h.put16(36, uint16(status))
}

// Transit reports the T bit.
func (r *LoginResp) Transit() bool { return r[1]&loginTransit != 0 }

// Continue reports the C bit.
func (r *LoginResp) Continue() bool { return r[1]&textContinue != 0 }

// CSG returns the current stage.
func (r *LoginResp) CSG() Stage { return Stage(r[1] >> 2 & 3) }

// NSG returns the next stage; it counts only with T.
func (r *LoginResp) NSG() Stage { return Stage(r[1] & 3) }

// TSIH returns the target session identifying handle.
func (r *LoginResp) TSIH() uint16 { return r.H().u16(14) }

// SetTSIH sets the TSIH.
func (r *LoginResp) SetTSIH(t uint16) { r.H().put16(14, t) }

// Status returns Status-Class and Status-Detail.
func (r *LoginResp) Status() LoginStatus { return LoginStatus(r.H().u16(36)) }

// A LogoutReq is a view of a Logout Request (RFC 7143 §11.14).
type LogoutReq Header

// The logout reasons (RFC 7143 §11.14.1).
const (
	LogoutCloseSession    = 0
	LogoutCloseConnection = 1
	LogoutRemoveRecovery  = 2
)

// H returns the view of the common fields.
func (r *LogoutReq) H() *Header { return (*Header)(r) }

// Reason returns the reason code.
func (r *LogoutReq) Reason() uint8 { return r[1] & 0x7f }

// SetReason sets the reason code and the fixed bit 7.
func (r *LogoutReq) SetReason(c uint8) { r[1] = flagFinal | c }

// CID returns the connection ID; it counts only with reasons 1 and 2.
func (r *LogoutReq) CID() uint16 { return r.H().u16(20) }

// SetCID sets the connection ID.
func (r *LogoutReq) SetCID(c uint16) { r.H().put16(20, c) }

// The logout responses (RFC 7143 §11.15.1).
const (
	LogoutSuccess             = 0
	LogoutCIDNotFound         = 1
	LogoutRecoveryUnsupported = 2
	LogoutCleanupFailed       = 3
)

// A LogoutResp is a view of a Logout Response (RFC 7143 §11.15).
type LogoutResp Header

// H returns the view of the common fields.
func (r *LogoutResp) H() *Header { return (*Header)(r) }

// Init makes r a Logout Response; the times are seconds.
func (r *LogoutResp) Init(itt uint32, response uint8, time2wait, time2retain uint16) {
	*r = LogoutResp{0: byte(OpLogoutResp), 1: flagFinal, 2: response}
	r.H().SetITT(itt)
	r.H().put16(40, time2wait)
	r.H().put16(42, time2retain)
}

// Response returns the response code.
func (r *LogoutResp) Response() uint8 { return r[2] }

// A RejectReason says why a PDU was rejected (RFC 7143 §11.17.1).
type RejectReason uint8

// The reasons.
const (
	RejectDataDigest       RejectReason = 0x02
	RejectSNACK            RejectReason = 0x03
	RejectProtocol         RejectReason = 0x04
	RejectNotSupported     RejectReason = 0x05
	RejectImmediate        RejectReason = 0x06
	RejectTaskInProgress   RejectReason = 0x07
	RejectInvalidACK       RejectReason = 0x08
	RejectInvalidField     RejectReason = 0x09
	RejectLongOperation    RejectReason = 0x0a
	RejectDeprecated       RejectReason = 0x0b // was: negotiation reset
	RejectWaitingForLogout RejectReason = 0x0c
)

// A Reject is a view of a Reject (RFC 7143 §11.17); its data segment is the header
// of the rejected PDU.
type Reject Header

// H returns the view of the common fields.
func (r *Reject) H() *Header { return (*Header)(r) }

// Init makes r a Reject that carries one header of 48 bytes.
func (r *Reject) Init(reason RejectReason) {
	*r = Reject{0: byte(OpReject), 1: flagFinal, 2: byte(reason)}
	r.H().SetDataLen(HeaderLen)
	r.H().SetITT(NoTag)
}

// Reason returns the reason.
func (r *Reject) Reason() RejectReason { return RejectReason(r[2]) }

// A NOPOut is a view of a NOP-Out (RFC 7143 §11.18).
type NOPOut Header

// H returns the view of the common fields.
func (n *NOPOut) H() *Header { return (*Header)(n) }

// Init makes n a NOP-Out, immediate or not, with length bytes of ping data.
func (n *NOPOut) Init(lun sam.LUN, itt, ttt uint32, immediate bool, length int) {
	*n = NOPOut{0: byte(OpNOPOut), 1: flagFinal}
	h := n.H()
	h.flag(0, flagImmed, immediate)
	h.SetDataLen(length)
	h.SetLUN(lun)
	h.SetITT(itt)
	h.SetTTT(ttt)
}

// A NOPIn is a view of a NOP-In (RFC 7143 §11.19).
type NOPIn Header

// H returns the view of the common fields.
func (n *NOPIn) H() *Header { return (*Header)(n) }

// Init makes n a NOP-In with length bytes of ping data.
func (n *NOPIn) Init(lun sam.LUN, itt, ttt uint32, length int) {
	*n = NOPIn{0: byte(OpNOPIn), 1: flagFinal}
	h := n.H()
	h.SetDataLen(length)
	h.SetLUN(lun)
	h.SetITT(itt)
	h.SetTTT(ttt)
}
