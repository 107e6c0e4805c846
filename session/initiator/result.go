package initiator

import (
	"encoding/binary"
	"fmt"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A Result is how a command ended.
type Result struct {
	Response uint8      // iSCSI service response; anything but pdu.CommandCompleted leaves Status without meaning
	Status   sam.Status // SCSI status
	Sense    []byte     // sense data, without its length field; nil if there was none
	Data     []byte     // what was read, as far as it came
	// Underflow and Overflow are the residual counts in bytes; at most one is not 0.
	Underflow, Overflow uint32
}

func (r *Result) setResidual(flags byte, count uint32) {
	if flags&pdu.Underflow != 0 {
		r.Underflow = count
	}
	if flags&pdu.Overflow != 0 {
		r.Overflow = count
	}
}

// Err returns nil for a command that completed with GOOD, a *StatusError for every other end.
func (r *Result) Err() error {
	if r.Response == pdu.CommandCompleted && r.Status == sam.Good {
		return nil
	}
	return &StatusError{Response: r.Response, Status: r.Status, Sense: r.Sense}
}

// A StatusError is a command's end other than GOOD.
type StatusError struct {
	Response uint8
	Status   sam.Status
	Sense    []byte
}

func (e *StatusError) Error() string {
	if e.Response != pdu.CommandCompleted {
		return fmt.Sprintf("service response %02Xh", e.Response)
	}
	key, asc, ascq, ok := SenseFields(e.Sense)
	if !ok {
		return e.Status.String()
	}
	return fmt.Sprintf("%v, sense %Xh/%02Xh/%02Xh", e.Status, key, asc, ascq)
}

// SenseFields returns sense key, additional sense code and qualifier of sense data in fixed or descriptor
// format (SPC-4 clause 4.5), and whether s is one of these and long enough.
func SenseFields(s []byte) (key, asc, ascq byte, ok bool) {
	if len(s) < 4 {
		return 0, 0, 0, false
	}
	switch s[0] & 0x7f {
	case 0x70, 0x71:
		if len(s) >= 14 {
			return s[2] & 0xf, s[12], s[13], true
		}
	case 0x72, 0x73:
		return s[1] & 0xf, s[2], s[3], true
	}
	return 0, 0, 0, false
}

// senseOf returns the sense data in a SCSI Response's data segment, aliased (RFC 7143 §11.4.7.2: two bytes of
// length, then the data).
func senseOf(data []byte) ([]byte, error) {
	if len(data) == 0 {
		return nil, nil
	}
	if len(data) < 2 {
		return nil, fmt.Errorf("a SCSI Response with a data segment of %d byte", len(data))
	}
	n := int(binary.BigEndian.Uint16(data))
	if n > len(data)-2 {
		return nil, fmt.Errorf("a SCSI Response with SenseLength %d in a data segment of %d bytes", n, len(data))
	}
	return data[2 : 2+n], nil
}
