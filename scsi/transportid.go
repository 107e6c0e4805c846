package scsi

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"

	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// TransportIDs of iSCSI (SPC-4 §7.6.4.6): an initiator's name, or the name and the ISID, which is an initiator port.

const (
	transportISCSI    = 0x05 // PROTOCOL IDENTIFIER
	transportWithISID = 0x40 // TPID FORMAT 01b
	transportMinimum  = 20   // of ADDITIONAL LENGTH
	isidMark          = ",i,0x"
)

// A transportID is what a TransportID names.
type transportID struct {
	initiator string
	isid      [6]byte
	port      bool // with an ISID: one initiator port; without: all of that name that are known
}

// appendTransportID appends the TransportID of n's initiator port.
func appendTransportID(b []byte, n sam.Nexus) []byte {
	start := len(b)
	b = append(b, transportWithISID|transportISCSI, 0, 0, 0)
	b = append(b, n.Initiator...)
	b = append(b, isidMark...)
	b = hex.AppendEncode(b, n.ISID[:])
	b = append(b, 0)
	for (len(b)-start)%4 != 0 || len(b)-start < 4+transportMinimum {
		b = append(b, 0)
	}
	binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start-4))
	return b
}

// parseTransportID reads the TransportID that b starts with, and returns what is behind it.
func parseTransportID(b []byte) (id transportID, rest []byte, ok bool) {
	if len(b) < 4 {
		return id, nil, false
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if b[0]&0x0f != transportISCSI || n%4 != 0 || n < transportMinimum || n > len(b)-4 {
		return id, nil, false
	}
	text, rest := b[4:4+n], b[4+n:]
	end := bytes.IndexByte(text, 0)
	if end < 0 {
		return id, nil, false
	}
	name := strings.ToLower(string(text[:end])) // RFC 7143 §4.2.7.2: names are compared so
	switch b[0] & 0xf0 {
	case 0:
	case transportWithISID:
		at := strings.Index(name, isidMark)
		if at < 0 {
			return id, nil, false
		}
		digits := name[at+len(isidMark):]
		if len(digits) == 0 || len(digits) > 12 {
			return id, nil, false
		}
		isid, err := hex.DecodeString(strings.Repeat("0", 12-len(digits)) + digits)
		if err != nil {
			return id, nil, false
		}
		copy(id.isid[:], isid)
		id.port, name = true, name[:at]
	default:
		return id, nil, false
	}
	if name == "" || len(name) > maxName || strings.IndexFunc(name, func(r rune) bool { return r <= ' ' || r == ',' || r == 0x7f }) >= 0 {
		return id, nil, false
	}
	id.initiator = name
	return id, rest, true
}
