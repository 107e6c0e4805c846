package sense

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A Key is a sense key (SPC-4, sense key descriptions).
type Key uint8

// The sense keys.
const (
	NoSense        Key = 0x0
	RecoveredError Key = 0x1
	NotReady       Key = 0x2
	MediumError    Key = 0x3
	HardwareError  Key = 0x4
	IllegalRequest Key = 0x5
	UnitAttention  Key = 0x6
	DataProtect    Key = 0x7
	BlankCheck     Key = 0x8
	VendorSpecific Key = 0x9
	CopyAborted    Key = 0xA
	AbortedCommand Key = 0xB
	VolumeOverflow Key = 0xD
	Miscompare     Key = 0xE
	Completed      Key = 0xF
)

var keyNames = [16]string{"NO SENSE", "RECOVERED ERROR", "NOT READY", "MEDIUM ERROR", "HARDWARE ERROR", "ILLEGAL REQUEST",
	"UNIT ATTENTION", "DATA PROTECT", "BLANK CHECK", "VENDOR SPECIFIC", "COPY ABORTED", "ABORTED COMMAND", "key Ch",
	"VOLUME OVERFLOW", "MISCOMPARE", "COMPLETED"}

func (k Key) String() string { return keyNames[k&0xf] }

// Response codes of sense data (SPC-4 §4.5.1).
const (
	fixedCurrent      = 0x70
	fixedDeferred     = 0x71
	descriptorCurrent = 0x72
	descriptorDefer   = 0x73
)

// Lengths in bytes.
const (
	// FixedLen is the length of what AppendFixed writes.
	FixedLen = 18
	// MaxLen is the most that either format takes here: the descriptor header, an information
	// descriptor and a sense key specific descriptor.
	MaxLen = 8 + 12 + 8
)

// A Where says what a field pointer points into.
type Where uint8

// The places.
const (
	InData Where = iota // the parameter list
	InCDB
)

// Data is what sense data says, whatever its format.
type Data struct {
	Key      Key
	Code     Code
	Deferred bool // about an earlier command

	// HasInfo makes Info the INFORMATION field: an LBA, or the offset of a miscompare.
	HasInfo bool
	Info    uint64

	// HasField makes the sense key specific bytes a field pointer (SPC-4 §4.5.2).
	HasField bool
	Field    Where
	Byte     uint16 // the first byte in error
	Bit      int8   // the most significant bit in error, -1 for none
}

// PointAt sets the field pointer; bit -1 points at the whole byte.
func (d *Data) PointAt(w Where, byteNo uint16, bit int8) {
	d.HasField, d.Field, d.Byte, d.Bit = true, w, byteNo, bit
}

func (d Data) String() string {
	s := fmt.Sprintf("%v %v", d.Key, d.Code)
	if d.HasInfo {
		s += fmt.Sprintf(", information %d", d.Info)
	}
	if d.HasField {
		s += fmt.Sprintf(", byte %d", d.Byte)
	}
	return s
}

// specific writes the three sense key specific bytes.
func (d *Data) specific(b []byte) {
	if !d.HasField {
		return
	}
	b[0] = 0x80 // SKSV
	if d.Field == InCDB {
		b[0] |= 0x40 // C/D
	}
	if d.Bit >= 0 {
		b[0] |= 0x08 | byte(d.Bit)&7 // BPV
	}
	binary.BigEndian.PutUint16(b[1:], d.Byte)
}

// AppendFixed appends fixed format sense data (SPC-4 §4.5.3), FixedLen bytes. An INFORMATION value that
// does not fit its 32 bits is left out, as the VALID bit then says.
func (d *Data) AppendFixed(dst []byte) []byte {
	n := len(dst)
	dst = append(dst, make([]byte, FixedLen)...)
	b := dst[n:]
	b[0] = fixedCurrent
	if d.Deferred {
		b[0] = fixedDeferred
	}
	if d.HasInfo && d.Info <= 0xffffffff {
		b[0] |= 0x80
		binary.BigEndian.PutUint32(b[3:], uint32(d.Info))
	}
	b[2] = byte(d.Key)
	b[7] = FixedLen - 8
	binary.BigEndian.PutUint16(b[12:], uint16(d.Code))
	d.specific(b[15:])
	return dst
}

// AppendDescriptor appends descriptor format sense data (SPC-4 §4.5.2), at most MaxLen bytes.
func (d *Data) AppendDescriptor(dst []byte) []byte {
	n := len(dst)
	dst = append(dst, make([]byte, 8)...)
	b := dst[n:]
	b[0] = descriptorCurrent
	if d.Deferred {
		b[0] = descriptorDefer
	}
	b[1] = byte(d.Key)
	binary.BigEndian.PutUint16(b[2:], uint16(d.Code))
	if d.HasInfo {
		dst = append(dst, 0x00, 0x0a, 0x80, 0)
		dst = binary.BigEndian.AppendUint64(dst, d.Info)
	}
	if d.HasField {
		dst = append(dst, 0x02, 0x06, 0, 0, 0, 0, 0, 0)
		d.specific(dst[len(dst)-4:])
	}
	dst[n+7] = byte(len(dst) - n - 8)
	return dst
}

// ErrFormat is Parse's answer to bytes that are no sense data.
var ErrFormat = errors.New("sense: not sense data in a known format")

// Parse reads sense data of either format. Fields beyond a truncated end are absent.
func Parse(b []byte) (Data, error) {
	var d Data
	if len(b) < 3 {
		return d, ErrFormat
	}
	d.Bit = -1
	switch b[0] & 0x7f {
	case fixedCurrent, fixedDeferred:
		d.Deferred = b[0]&0x7f == fixedDeferred
		d.Key = Key(b[2] & 0xf)
		if len(b) >= 8 {
			b = b[:min(len(b), 8+int(b[7]))]
		}
		if len(b) >= 7 && b[0]&0x80 != 0 {
			d.HasInfo, d.Info = true, uint64(binary.BigEndian.Uint32(b[3:]))
		}
		if len(b) >= 14 {
			d.Code = Code(binary.BigEndian.Uint16(b[12:]))
		}
		if len(b) >= 18 {
			d.parseSpecific(b[15:])
		}
	case descriptorCurrent, descriptorDefer:
		d.Deferred = b[0]&0x7f == descriptorDefer
		if len(b) < 8 {
			return d, ErrFormat
		}
		d.Key = Key(b[1] & 0xf)
		d.Code = Code(binary.BigEndian.Uint16(b[2:]))
		rest := b[8:min(len(b), 8+int(b[7]))]
		for len(rest) >= 2 && len(rest) >= 2+int(rest[1]) {
			desc := rest[:2+int(rest[1])]
			switch {
			case desc[0] == 0x00 && len(desc) >= 12 && desc[2]&0x80 != 0:
				d.HasInfo, d.Info = true, binary.BigEndian.Uint64(desc[4:])
			case desc[0] == 0x02 && len(desc) >= 7:
				d.parseSpecific(desc[4:])
			}
			rest = rest[len(desc):]
		}
	default:
		return d, ErrFormat
	}
	return d, nil
}

// parseSpecific reads a field pointer where the sense key says that it is one.
func (d *Data) parseSpecific(b []byte) {
	if b[0]&0x80 == 0 || d.Key != IllegalRequest {
		return
	}
	d.HasField = true
	if b[0]&0x40 != 0 {
		d.Field = InCDB
	}
	if b[0]&0x08 != 0 {
		d.Bit = int8(b[0] & 7)
	}
	d.Byte = binary.BigEndian.Uint16(b[1:])
}
