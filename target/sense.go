package target

import (
	"encoding/binary"

	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// The session tells faults of the transport (RFC 7143 §11.4.7.2) in fixed format, since it knows no mode pages. Where D_SENSE of the
// logical unit asks for descriptors, such sense data is written anew here.

// formatSense sees to the sense data of a response, if it has any.
func (l *loop) formatSense(a *session.Action) {
	if len(a.Data) < 2 || a.Header.Opcode() != pdu.OpSCSIResponse {
		return
	}
	b := a.Conn.Ref.(*conn).se.lookup(a.LUN).lu.FormatSense(a.Data[2:])
	a.Data = append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(b)), uint16(len(b))), b...)
	a.Header.SetDataLen(len(a.Data))
}
