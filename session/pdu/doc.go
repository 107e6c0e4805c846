// Package pdu reads and writes the protocol data units of iSCSI (RFC 7143 section 11): views over the
// 48-byte basic header segment, text keys, digests, serial numbers, and Describe, the one-line
// text of a PDU that logs, traces and transcripts share.
//
// It knows the layout of every PDU and nothing of what a session does with them: no state, no I/O. A view
// is a conversion of a *Header over the caller's memory; nothing is copied and nothing is kept.
//
//	h := pdu.HeaderAt(buf)
//	if h.Opcode() == pdu.OpSCSICommand {
//		c := (*pdu.SCSICommand)(h)
//		fmt.Println(c.H().ITT(), c.EDTL(), c.CDB())
//	}
//
// It promises nothing to programs outside this module.
package pdu
