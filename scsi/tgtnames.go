package scsi

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// The names that tgtd 1.0.85 gives its logical units, byte for byte, so that what an operating system calls a disk by (/dev/disk/by-id,
// multipath maps, ESXi's device names) stays when lunar takes a target over. testdata/tgtd-names.txt has what tgtd itself answered.
// They are unique within one tgtd only: whoever makes new disks had better not use them.

// mostTID is the largest target number that fits where tgtd puts it.
const mostTID = 1<<28 - 1

// nameAsTgt makes what was not given of id what tgtd makes of a target's number and a LUN.
func (id *identity) nameAsTgt(tid int, lun uint16, scsiID string) error {
	if tid < 0 || tid > mostTID {
		return fmt.Errorf("target number %d: names as tgt's have room for 0 to %d", tid, mostTID)
	}
	if id.tgt, id.tid, id.lun, id.scsiID = true, uint32(tid), lun, scsiID; scsiID == "" {
		id.scsiID = fmt.Sprintf("IET     %04x%04x", tid, lun)
	}
	if id.Serial == "" {
		id.Serial = fmt.Sprintf("beaf%d%d", tid, lun)
	}
	if id.Vendor == "" {
		id.Vendor = "IET"
	}
	id.NAA = naaLocal<<60 | uint64(tid)<<32 | uint64(lun)
	return nil
}

// appendTgtSerial appends page 80h: the serial number at the end of a field of 36 characters.
func (id *identity) appendTgtSerial(b []byte) []byte {
	b = append(b, strings.Repeat(" ", mostSerial-min(len(id.Serial), mostSerial))...)
	return appendPadded(b, id.Serial, min(len(id.Serial), mostSerial))
}

// appendTgtDesignators appends page 83h: the SCSI ID as a T10 vendor designator, filled up with zeroes; a local NAA designator of the two
// numbers; and one of NAA 6 with the SCSI ID read as hexadecimal digits, of which the last 31 count, and every other character is a 0.
func (id *identity) appendTgtDesignators(b []byte) []byte {
	field := make([]byte, mostSerial)
	copy(field, id.scsiID)
	b = designator(b, codeASCII, ofUnit, typeT10, field)
	b = designator(b, codeBinary, ofUnit, typeNAA, binary.BigEndian.AppendUint64(nil, id.NAA))
	var digits [16]byte
	at := 2 * len(digits)
	for i := len(id.scsiID) - 1; i >= 0 && at > 1; i-- {
		at--
		digits[at/2] |= hexDigit(id.scsiID[i]) << (4 * (1 - at%2))
	}
	digits[0] |= naaExtended << 4
	return designator(b, codeBinary, ofUnit, typeNAA, digits[:])
}

// naaExtended is the NAA of an IEEE Registered Extended name.
const naaExtended = 6

func hexDigit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 0
}
