package pdu

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// maxDescribed bounds the keys that Describe shows, in bytes.
const maxDescribed = 4096

// Describe returns one line of text about a PDU, the words of logs, traces and
// transcripts:
//
//	SCSI Command itt=2 cmdsn=5 expstatsn=9 F W attr=simple lun=1 edtl=8192 imm=4096 cdb=2a000000000000001000
//	R2T itt=2 ttt=1 statsn=9 expcmdsn=6 maxcmdsn=37 r2tsn=0 off=4096 len=4096
//
// ahs and data may be nil where the caller has none; lengths are then the header's. Text from
// the wire is escaped, the line has no control character in it, and no value of a key
// that helps to guess a secret (CHAP_C, CHAP_R) is shown.
func Describe(h *Header, ahs, data []byte) string {
	d := describer{b: make([]byte, 0, 160)}
	d.word(h.Opcode().String())
	if f := describers[h.Opcode()]; f != nil {
		f(&d, h, ahs, data)
	} else {
		d.num("len", uint64(h.DataLen()))
		d.field("bytes", hex.EncodeToString(h[:]))
	}
	return string(d.b)
}

var describers = map[Opcode]func(*describer, *Header, []byte, []byte){
	OpNOPOut: (*describer).nopOut, OpSCSICommand: (*describer).command, OpTaskMgmtReq: (*describer).taskMgmt, OpLoginReq: (*describer).loginReq,
	OpTextReq: (*describer).textReq, OpDataOut: (*describer).dataOut, OpLogoutReq: (*describer).logoutReq, OpSNACK: (*describer).snack,
	OpNOPIn: (*describer).nopIn, OpSCSIResponse: (*describer).response, OpTaskMgmtResp: (*describer).taskMgmtResp,
	OpLoginResp: (*describer).loginResp, OpTextResp: (*describer).textResp, OpDataIn: (*describer).dataIn,
	OpLogoutResp: (*describer).logoutResp, OpR2T: (*describer).r2t, OpAsync: (*describer).async, OpReject: (*describer).reject,
}

// A describer collects the words of one line.
type describer struct{ b []byte }

func (d *describer) word(s string) {
	if len(d.b) > 0 {
		d.b = append(d.b, ' ')
	}
	d.b = append(d.b, s...)
}

func (d *describer) flag(on bool, s string) {
	if on {
		d.word(s)
	}
}

func (d *describer) field(name, value string) {
	d.word(name)
	d.b = append(d.b, '=')
	d.b = append(d.b, value...)
}

func (d *describer) num(name string, v uint64) {
	d.word(name)
	d.b = strconv.AppendUint(append(d.b, '='), v, 10)
}

// tag writes a tag, or nothing when it is the reserved one.
func (d *describer) tag(name string, v uint32) {
	if v != NoTag {
		d.num(name, uint64(v))
	}
}

// tags writes both tags of a PDU that has both.
func (d *describer) tags(h *Header) {
	d.tag("itt", h.ITT())
	d.tag("ttt", h.TTT())
}

// request writes what requests share, after the tags.
func (d *describer) request(h *Header) {
	d.num("cmdsn", uint64(h.CmdSN()))
	d.num("expstatsn", uint64(h.ExpStatSN()))
	d.flag(h.Immediate(), "I")
}

// answer writes what responses share, after the tags.
func (d *describer) answer(h *Header) {
	d.num("statsn", uint64(h.StatSN()))
	d.window(h)
}

func (d *describer) window(h *Header) {
	d.num("expcmdsn", uint64(h.ExpCmdSN()))
	d.num("maxcmdsn", uint64(h.MaxCmdSN()))
}

func (d *describer) lun(h *Header) { d.field("lun", h.LUN().String()) }

func (d *describer) length(name string, h *Header) {
	if n := h.DataLen(); n != 0 {
		d.num(name, uint64(n))
	}
}

func (d *describer) nopOut(h *Header, _, _ []byte) {
	d.tags(h)
	d.request(h)
	d.lun(h)
	d.length("len", h)
}

func (d *describer) nopIn(h *Header, _, _ []byte) {
	d.tags(h)
	d.answer(h)
	d.lun(h)
	d.length("len", h)
}

func (d *describer) command(h *Header, ahs, _ []byte) {
	c := (*SCSICommand)(h)
	d.tag("itt", h.ITT())
	d.request(h)
	d.flag(h.Final(), "F")
	d.flag(c.Read(), "R")
	d.flag(c.Write(), "W")
	d.field("attr", c.Attr().String())
	d.lun(h)
	d.num("edtl", uint64(c.EDTL()))
	d.length("imm", h)
	cdb := c.CDB()
	cdb = cdb[:cdbLen(cdb[0])]
	a, err := ParseAHS(ahs)
	d.field("cdb", hex.EncodeToString(cdb)+hex.EncodeToString(a.ExtCDB))
	if a.Bidi {
		d.num("bidi", uint64(a.BidiLen))
	}
	if err != nil || len(ahs) != h.AHSLen() {
		d.num("ahs", uint64(h.AHSLen()))
	}
}

// cdbLen returns how many of the 16 bytes of a CDB with this operation code are shown:
// its length by group code (SPC-4 §4.2.5.1), all 16 where that says nothing.
func cdbLen(opcode byte) int {
	switch opcode >> 5 {
	case 0:
		return 6
	case 1, 2:
		return 10
	case 5:
		return 12
	}
	return 16
}

func (d *describer) response(h *Header, _, data []byte) {
	r := (*SCSIResponse)(h)
	d.tag("itt", h.ITT())
	d.answer(h)
	if r.Response() == CommandCompleted {
		d.field("status", r.Status().String())
	} else {
		d.num("response", uint64(r.Response()))
	}
	d.residual(h[1], r.ResidualCount())
	if h[1]&(BidiUnderflow|BidiOverflow) != 0 {
		d.num("bidiresidual", uint64(h.u32(40)))
	}
	d.num("expdatasn", uint64(r.ExpDataSN()))
	d.length("len", h)
	d.sense(data)
}

func (d *describer) residual(flags byte, n uint32) {
	if flags&Underflow != 0 {
		d.num("under", uint64(n))
	}
	if flags&Overflow != 0 {
		d.num("over", uint64(n))
	}
}

// sense writes sense key, ASC and ASCQ of a data segment that is SenseLength and sense
// data (RFC 7143 §11.4.7), in fixed or descriptor format (SPC-4 §4.5).
func (d *describer) sense(data []byte) {
	if len(data) < 2 {
		return
	}
	n := int(binary.BigEndian.Uint16(data))
	s := data[2:min(len(data), 2+n)]
	switch {
	case len(s) >= 14 && s[0]&0x7e == 0x70:
		d.field("sense", fmt.Sprintf("%X/%02X/%02X", s[2]&0xf, s[12], s[13]))
	case len(s) >= 4 && s[0]&0x7e == 0x72:
		d.field("sense", fmt.Sprintf("%X/%02X/%02X", s[1]&0xf, s[2], s[3]))
	}
}

func (d *describer) taskMgmt(h *Header, _, _ []byte) {
	r := (*TaskMgmtReq)(h)
	d.tag("itt", h.ITT())
	d.request(h)
	d.field("function", r.Function().String())
	d.lun(h)
	switch r.Function() {
	case sam.AbortTask, sam.TaskReassign, sam.QueryTask:
		d.tag("reftag", r.RefTag())
		d.num("refcmdsn", uint64(r.RefCmdSN()))
	}
}

func (d *describer) taskMgmtResp(h *Header, _, _ []byte) {
	d.tag("itt", h.ITT())
	d.answer(h)
	d.field("response", (*TaskMgmtResp)(h).Response().String())
	if info := (*TaskMgmtResp)(h).Info(); info != 0 {
		d.field("info", fmt.Sprintf("%06x", info))
	}
}

func (d *describer) dataOut(h *Header, _, _ []byte) {
	o := (*DataOut)(h)
	d.tags(h)
	d.num("expstatsn", uint64(h.ExpStatSN()))
	d.flag(h.Final(), "F")
	d.lun(h)
	d.num("datasn", uint64(o.DataSN()))
	d.num("off", uint64(o.Offset()))
	d.num("len", uint64(h.DataLen()))
}

func (d *describer) dataIn(h *Header, _, _ []byte) {
	i := (*DataIn)(h)
	d.tags(h)
	if i.HasStatus() {
		d.num("statsn", uint64(h.StatSN()))
	}
	d.window(h)
	d.flag(h.Final(), "F")
	d.flag(i.Ack(), "A")
	d.num("datasn", uint64(i.DataSN()))
	d.num("off", uint64(i.Offset()))
	d.num("len", uint64(h.DataLen()))
	if i.HasStatus() {
		d.field("status", i.Status().String())
		d.residual(i.Residual(), i.ResidualCount())
	}
}

func (d *describer) r2t(h *Header, _, _ []byte) {
	r := (*R2T)(h)
	d.tags(h)
	d.num("statsn", uint64(h.StatSN()))
	d.window(h)
	d.lun(h)
	d.num("r2tsn", uint64(r.R2TSN()))
	d.num("off", uint64(r.Offset()))
	d.num("len", uint64(r.Len()))
}

func (d *describer) async(h *Header, _, data []byte) {
	a := (*Async)(h)
	d.num("statsn", uint64(h.StatSN()))
	d.window(h)
	d.field("event", asyncName(a.Event()))
	p1, p2, p3 := a.Params()
	switch a.Event() {
	case AsyncSCSIEvent:
		d.lun(h)
		d.sense(data)
		return
	case AsyncTaskTermination:
		d.lun(h)
		return
	}
	d.field("params", fmt.Sprintf("%d,%d,%d", p1, p2, p3))
}

func (d *describer) loginReq(h *Header, _, data []byte) {
	r := (*LoginReq)(h)
	d.tag("itt", h.ITT())
	d.request(h)
	d.flag(r.Transit(), "T")
	d.flag(r.Continue(), "C")
	d.field("csg", r.CSG().String())
	if r.Transit() {
		d.field("nsg", r.NSG().String())
	}
	isid := r.ISID()
	d.field("isid", hex.EncodeToString(isid[:]))
	d.num("tsih", uint64(r.TSIH()))
	d.num("cid", uint64(r.CID()))
	if r.VersionMax() != 0 || r.VersionMin() != 0 {
		d.field("version", fmt.Sprintf("%d-%d", r.VersionMin(), r.VersionMax()))
	}
	d.keys(h, data)
}

func (d *describer) loginResp(h *Header, _, data []byte) {
	r := (*LoginResp)(h)
	d.tag("itt", h.ITT())
	d.answer(h)
	d.flag(r.Transit(), "T")
	d.flag(r.Continue(), "C")
	d.field("csg", r.CSG().String())
	if r.Transit() {
		d.field("nsg", r.NSG().String())
	}
	d.field("isid", hex.EncodeToString(h[8:14]))
	d.num("tsih", uint64(r.TSIH()))
	d.field("status", r.Status().String())
	d.keys(h, data)
}

func (d *describer) textReq(h *Header, _, data []byte) {
	d.tags(h)
	d.request(h)
	d.flag(h.Final(), "F")
	d.flag((*TextReq)(h).Continue(), "C")
	d.keys(h, data)
}

func (d *describer) textResp(h *Header, _, data []byte) {
	d.tags(h)
	d.answer(h)
	d.flag(h.Final(), "F")
	d.flag((*TextResp)(h).Continue(), "C")
	d.keys(h, data)
}

func (d *describer) logoutReq(h *Header, _, _ []byte) {
	r := (*LogoutReq)(h)
	d.tag("itt", h.ITT())
	d.request(h)
	d.num("reason", uint64(r.Reason()))
	if r.Reason() != LogoutCloseSession {
		d.num("cid", uint64(r.CID()))
	}
}

func (d *describer) logoutResp(h *Header, _, _ []byte) {
	d.tag("itt", h.ITT())
	d.answer(h)
	d.num("response", uint64((*LogoutResp)(h).Response()))
	d.num("time2wait", uint64(h.u16(40)))
	d.num("time2retain", uint64(h.u16(42)))
}

func (d *describer) snack(h *Header, _, _ []byte) {
	d.tags(h)
	d.num("expstatsn", uint64(h.ExpStatSN()))
	d.num("type", uint64(h[1]&0x0f))
	d.lun(h)
	d.num("begrun", uint64(h.u32(40)))
	d.num("runlength", uint64(h.u32(44)))
}

func (d *describer) reject(h *Header, _, data []byte) {
	d.num("statsn", uint64(h.StatSN()))
	d.window(h)
	d.field("reason", (*Reject)(h).Reason().String())
	if len(data) >= HeaderLen {
		bad := HeaderAt(data)
		d.field("of", bad.Opcode().String())
		d.tag("itt", bad.ITT())
	}
}

// keys writes a list of keys, whole or a part of one.
func (d *describer) keys(h *Header, data []byte) {
	if data == nil {
		d.length("len", h)
		return
	}
	d.word("keys=[")
	start := len(d.b)
	for rest := data; len(rest) > 0; {
		pair, next, _ := bytes.Cut(rest, []byte{0})
		first := len(rest) == len(data)
		rest = next
		if len(pair) == 0 {
			continue
		}
		if len(d.b)-start+len(pair) > maxDescribed {
			d.space(start)
			d.b = fmt.Appendf(d.b, "(%d bytes more)", len(pair)+len(rest))
			break
		}
		d.space(start)
		d.pair(pair, first)
	}
	d.b = append(d.b, ']')
}

func (d *describer) space(start int) {
	if len(d.b) > start {
		d.b = append(d.b, ' ')
	}
}

func (d *describer) pair(pair []byte, first bool) {
	name, value, ok := bytes.Cut(pair, []byte{'='})
	if !ok || first && !keyNames[string(name)] {
		d.b = fmt.Appendf(d.b, "(%d bytes)", len(pair))
		return
	}
	d.b = append(appendEscaped(d.b, name), '=')
	if secretNames[string(name)] {
		d.b = fmt.Appendf(d.b, "(%d bytes)", len(value))
		return
	}
	d.b = appendEscaped(d.b, value)
}

// appendEscaped appends text from the wire with everything but visible ASCII, and
// the backslash, as \xNN: nothing in it can end a line or move a cursor.
func appendEscaped(dst, b []byte) []byte {
	for _, c := range b {
		if c <= ' ' || c >= 0x7f || c == '\\' {
			dst = fmt.Appendf(dst, `\x%02x`, c)
			continue
		}
		dst = append(dst, c)
	}
	return dst
}
