package pdu

import (
	"encoding/binary"
	"fmt"

	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// HeaderLen is the length of a basic header segment (RFC 7143 §11.2.1).
const HeaderLen = 48

// NoTag is the reserved tag FFFFFFFFh: no initiator or target task tag.
const NoTag uint32 = 0xffffffff

// An Opcode is the six opcode bits of byte 0 (RFC 7143 §11.2.1.2).
type Opcode uint8

// The opcodes.
const (
	OpNOPOut       Opcode = 0x00
	OpSCSICommand  Opcode = 0x01
	OpTaskMgmtReq  Opcode = 0x02
	OpLoginReq     Opcode = 0x03
	OpTextReq      Opcode = 0x04
	OpDataOut      Opcode = 0x05
	OpLogoutReq    Opcode = 0x06
	OpSNACK        Opcode = 0x10
	OpNOPIn        Opcode = 0x20
	OpSCSIResponse Opcode = 0x21
	OpTaskMgmtResp Opcode = 0x22
	OpLoginResp    Opcode = 0x23
	OpTextResp     Opcode = 0x24
	OpDataIn       Opcode = 0x25
	OpLogoutResp   Opcode = 0x26
	OpR2T          Opcode = 0x31
	OpAsync        Opcode = 0x32
	OpReject       Opcode = 0x3f
)

var opcodeNames = map[Opcode]string{
	OpNOPOut: "NOP-Out", OpSCSICommand: "SCSI Command", OpTaskMgmtReq: "Task Management Request", OpLoginReq: "Login Request",
	OpTextReq: "Text Request", OpDataOut: "SCSI Data-Out", OpLogoutReq: "Logout Request", OpSNACK: "SNACK Request",
	OpNOPIn: "NOP-In", OpSCSIResponse: "SCSI Response", OpTaskMgmtResp: "Task Management Response", OpLoginResp: "Login Response",
	OpTextResp: "Text Response", OpDataIn: "SCSI Data-In", OpLogoutResp: "Logout Response", OpR2T: "R2T", OpAsync: "Asynchronous Message", OpReject: "Reject",
}

func (o Opcode) String() string {
	if n, ok := opcodeNames[o]; ok {
		return n
	}
	return fmt.Sprintf("opcode %02Xh", uint8(o))
}

// Offsets shared by several PDUs.
const (
	offLUN      = 8
	offITT      = 16
	offTTT      = 20
	offCmdSN    = 24 // requests
	offStatSN   = 24 // responses
	offExpCmd   = 28 // responses
	offExpStat  = 28 // requests
	offMaxCmd   = 32 // responses
	flagFinal   = 0x80
	flagImmed   = 0x40
	opcodeBits  = 0x3f
	lengthLimit = 1<<24 - 1
)

// A Header is a view of a basic header segment, whatever the PDU. The typed views
// (SCSICommand, DataIn, …) are conversions of a *Header; none of them copies.
type Header [HeaderLen]byte

// HeaderAt returns a view of the first 48 bytes of b, which must be there.
func HeaderAt(b []byte) *Header { return (*Header)(b) }

func (h *Header) u32(off int) uint32      { return binary.BigEndian.Uint32(h[off:]) }
func (h *Header) put32(off int, v uint32) { binary.BigEndian.PutUint32(h[off:], v) }
func (h *Header) put16(off int, v uint16) { binary.BigEndian.PutUint16(h[off:], v) }
func (h *Header) u16(off int) uint16      { return binary.BigEndian.Uint16(h[off:]) }

// Opcode returns the opcode.
func (h *Header) Opcode() Opcode { return Opcode(h[0] & opcodeBits) }

// Immediate reports the I bit: the request is outside the CmdSN order.
func (h *Header) Immediate() bool { return h[0]&flagImmed != 0 }

// Final reports the F bit.
func (h *Header) Final() bool { return h[1]&flagFinal != 0 }

// AHSLen returns the bytes of additional header segments (TotalAHSLength × 4, at most 1020).
func (h *Header) AHSLen() int { return int(h[4]) * 4 }

// DataLen returns DataSegmentLength in bytes, without the pad.
func (h *Header) DataLen() int { return int(h[5])<<16 | int(h[6])<<8 | int(h[7]) }

// Pad returns n rounded up to the four bytes that segments are padded to.
func Pad(n int) int { return (n + 3) &^ 3 }

// WireLen returns the bytes of the whole PDU, pad included, without digests.
func (h *Header) WireLen() int { return HeaderLen + h.AHSLen() + Pad(h.DataLen()) }

// SetDataLen sets DataSegmentLength. More than 2^24-1 is a caller's error.
func (h *Header) SetDataLen(n int) {
	if n < 0 || n > lengthLimit {
		panic(fmt.Sprintf("pdu: data segment of %d bytes", n))
	}
	h[5], h[6], h[7] = byte(n>>16), byte(n>>8), byte(n)
}

// LUN returns bytes 8-15, in the PDUs that carry a LUN.
func (h *Header) LUN() sam.LUN { return sam.LUN(binary.BigEndian.Uint64(h[offLUN:])) }

// SetLUN sets bytes 8-15.
func (h *Header) SetLUN(l sam.LUN) { l.Put(h[offLUN:]) }

// ITT returns the Initiator Task Tag.
func (h *Header) ITT() uint32 { return h.u32(offITT) }

// SetITT sets the Initiator Task Tag.
func (h *Header) SetITT(t uint32) { h.put32(offITT, t) }

// TTT returns the Target Transfer Tag, in the PDUs that carry one.
func (h *Header) TTT() uint32 { return h.u32(offTTT) }

// SetTTT sets the Target Transfer Tag.
func (h *Header) SetTTT(t uint32) { h.put32(offTTT, t) }

// CmdSN returns a request's CmdSN (not in SCSI Data-Out and SNACK).
func (h *Header) CmdSN() SN { return SN(h.u32(offCmdSN)) }

// SetCmdSN sets a request's CmdSN.
func (h *Header) SetCmdSN(n SN) { h.put32(offCmdSN, uint32(n)) }

// ExpStatSN returns a request's ExpStatSN.
func (h *Header) ExpStatSN() SN { return SN(h.u32(offExpStat)) }

// SetExpStatSN sets a request's ExpStatSN.
func (h *Header) SetExpStatSN(n SN) { h.put32(offExpStat, uint32(n)) }

// StatSN returns a response's StatSN.
func (h *Header) StatSN() SN { return SN(h.u32(offStatSN)) }

// SetStatSN sets a response's StatSN.
func (h *Header) SetStatSN(n SN) { h.put32(offStatSN, uint32(n)) }

// ExpCmdSN returns a response's ExpCmdSN.
func (h *Header) ExpCmdSN() SN { return SN(h.u32(offExpCmd)) }

// MaxCmdSN returns a response's MaxCmdSN.
func (h *Header) MaxCmdSN() SN { return SN(h.u32(offMaxCmd)) }

// SetWindow sets a response's ExpCmdSN and MaxCmdSN.
func (h *Header) SetWindow(exp, max SN) {
	h.put32(offExpCmd, uint32(exp))
	h.put32(offMaxCmd, uint32(max))
}
