package initiator

import (
	"encoding/binary"
	"fmt"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
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
	d, err := sense.Parse(e.Sense)
	if err != nil {
		return e.Status.String()
	}
	return fmt.Sprintf("%v, sense %Xh/%02Xh/%02Xh: %v", e.Status, uint8(d.Key), d.Code.ASC(), d.Code.ASCQ(), d)
}

// SenseFields returns sense key, additional sense code and qualifier of sense data in fixed or descriptor
// format, and whether s is one of these.
func SenseFields(s []byte) (key, asc, ascq byte, ok bool) {
	d, err := sense.Parse(s)
	return uint8(d.Key), d.Code.ASC(), d.Code.ASCQ(), err == nil
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
