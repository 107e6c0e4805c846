package pdu

import "encoding/binary"

// The types of additional header segments (RFC 7143 §11.2.2.1).
const (
	ahsExtendedCDB = 1
	ahsBidiLength  = 2
)

// MaxCDB is the length of the longest CDB in bytes (SPC-4 §4.3.3).
const MaxCDB = 260

// A CommandAHS is what the additional header segments of a SCSI Command say.
type CommandAHS struct {
	ExtCDB  []byte // the bytes of the CDB after the first 16, pad excluded; aliased
	Bidi    bool   // BidiLen was given
	BidiLen uint32 // Expected Bidirectional Read Data Transfer Length
}

// ahsLead is the part of an AHS that AHSLength does not count: itself and AHSType.
const ahsLead = 3

// ParseAHS reads the additional header segments of a SCSI Command, AHSLen bytes
// (RFC 7143 §11.2.2). It refuses unknown types, a second one of a type, and lengths that
// do not come out even.
func ParseAHS(b []byte) (CommandAHS, *Fault) {
	var a CommandAHS
	for len(b) > 0 {
		if len(b) <= ahsLead {
			return CommandAHS{}, faultAHS
		}
		n, kind := int(binary.BigEndian.Uint16(b)), b[2]
		whole := Pad(ahsLead + n)
		if n == 0 || whole > len(b) {
			return CommandAHS{}, faultAHS
		}
		specific := b[ahsLead : ahsLead+n]
		switch kind {
		case ahsExtendedCDB:
			// §11.2.2.3: AHSLength is CDBLength - 15, and a reserved byte is counted.
			if a.ExtCDB != nil || n < 2 || n-1 > MaxCDB-16 {
				return CommandAHS{}, faultAHS
			}
			a.ExtCDB = specific[1:]
		case ahsBidiLength:
			// §11.2.2.4: AHSLength is 5.
			if a.Bidi || n != 5 {
				return CommandAHS{}, faultAHS
			}
			a.Bidi, a.BidiLen = true, binary.BigEndian.Uint32(specific[1:])
		default:
			return CommandAHS{}, faultAHS
		}
		b = b[whole:]
	}
	return a, nil
}

// AppendExtCDB appends an AHS with ext, the bytes of a CDB after the first 16.
func AppendExtCDB(dst, ext []byte) []byte {
	n := len(ext) + 1
	dst = append(dst, byte(n>>8), byte(n), ahsExtendedCDB, 0)
	dst = append(dst, ext...)
	return append(dst, padding[:Pad(ahsLead+n)-ahsLead-n]...)
}

// AppendBidiLen appends an AHS with the Expected Bidirectional Read Data Transfer Length.
func AppendBidiLen(dst []byte, n uint32) []byte {
	return binary.BigEndian.AppendUint32(append(dst, 0, 5, ahsBidiLength, 0), n)
}

// SetAHSLen sets TotalAHSLength from n bytes, a multiple of 4 and at most 1020.
func (h *Header) SetAHSLen(n int) {
	if n < 0 || n > 1020 || n%4 != 0 {
		panic("pdu: impossible length of additional header segments")
	}
	h[4] = byte(n / 4)
}
