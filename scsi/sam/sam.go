package sam

import (
	"encoding/binary"
	"fmt"
)

// Status is the status byte of a completed command (SAM-5 clause 5.3.1).
type Status uint8

// The status codes (SAM-5 table 42).
const (
	Good                Status = 0x00
	CheckCondition      Status = 0x02
	ConditionMet        Status = 0x04
	Busy                Status = 0x08
	ReservationConflict Status = 0x18
	TaskSetFull         Status = 0x28
	ACAActive           Status = 0x30
	TaskAborted         Status = 0x40
)

func (s Status) String() string {
	switch s {
	case Good:
		return "GOOD"
	case CheckCondition:
		return "CHECK CONDITION"
	case ConditionMet:
		return "CONDITION MET"
	case Busy:
		return "BUSY"
	case ReservationConflict:
		return "RESERVATION CONFLICT"
	case TaskSetFull:
		return "TASK SET FULL"
	case ACAActive:
		return "ACA ACTIVE"
	case TaskAborted:
		return "TASK ABORTED"
	}
	return fmt.Sprintf("status %02Xh", uint8(s))
}

// TaskAttribute is a command's task attribute, with the values that iSCSI carries
// in its ATTR field (RFC 7143 §11.3.1); Untagged is treated as Simple.
type TaskAttribute uint8

// The task attributes.
const (
	Untagged    TaskAttribute = 0
	Simple      TaskAttribute = 1
	Ordered     TaskAttribute = 2
	HeadOfQueue TaskAttribute = 3
	ACA         TaskAttribute = 4
)

func (a TaskAttribute) String() string {
	switch a {
	case Untagged:
		return "untagged"
	case Simple:
		return "simple"
	case Ordered:
		return "ordered"
	case HeadOfQueue:
		return "head-of-queue"
	case ACA:
		return "aca"
	}
	return fmt.Sprintf("attr %d", uint8(a))
}

// TMF is a task management function, numbered as iSCSI numbers them (RFC 7143
// §11.5.1, RFC 7144 §4.2.3.1 for 9-12).
type TMF uint8

// The task management functions.
const (
	AbortTask        TMF = 1
	AbortTaskSet     TMF = 2
	ClearACA         TMF = 3
	ClearTaskSet     TMF = 4
	LogicalUnitReset TMF = 5
	TargetWarmReset  TMF = 6
	TargetColdReset  TMF = 7
	TaskReassign     TMF = 8
	QueryTask        TMF = 9
	QueryTaskSet     TMF = 10
	ITNexusReset     TMF = 11
	QueryAsyncEvent  TMF = 12
)

var tmfNames = [...]string{1: "ABORT TASK", "ABORT TASK SET", "CLEAR ACA", "CLEAR TASK SET", "LOGICAL UNIT RESET",
	"TARGET WARM RESET", "TARGET COLD RESET", "TASK REASSIGN", "QUERY TASK", "QUERY TASK SET", "I_T NEXUS RESET", "QUERY ASYNCHRONOUS EVENT"}

func (f TMF) String() string {
	if f >= 1 && int(f) < len(tmfNames) {
		return tmfNames[f]
	}
	return fmt.Sprintf("function %d", uint8(f))
}

// LUN is the eight bytes of a logical unit number as they stand on the wire, read
// as a big-endian integer (SAM-5 clause 4.7).
type LUN uint64

// MaxFlatLUN is the largest number that flat space addressing holds.
const MaxFlatLUN = 16383

// NewLUN returns the single-level LUN for number n: peripheral device addressing up
// to 255, flat space addressing up to 16383. Larger numbers are a caller's error.
func NewLUN(n uint16) LUN {
	if n < 256 {
		return LUN(uint64(n) << 48)
	}
	return LUN(uint64(0x4000|n&0x3fff) << 48)
}

// Number returns the number of a single-level LUN in peripheral (bus 0) or flat
// addressing, and whether l is one.
func (l LUN) Number() (uint16, bool) {
	if l&0xffffffffffff != 0 {
		return 0, false
	}
	first := uint16(l >> 48)
	switch first >> 14 {
	case 0:
		return first & 0xff, first&0x3f00 == 0
	case 1:
		return first & 0x3fff, true
	}
	return 0, false
}

// WellKnown reports whether l is the extended address of the well known logical
// unit with the given number (01h REPORT LUNS, SAM-5 clause 4.7.7.5).
func (l LUN) WellKnown(number uint8) bool {
	return l == LUN(0xc100|uint64(number))<<48
}

// Put writes l to b[0:8].
func (l LUN) Put(b []byte) { binary.BigEndian.PutUint64(b, uint64(l)) }

func (l LUN) String() string {
	if n, ok := l.Number(); ok {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%016x", uint64(l))
}

// A Nexus names one I_T nexus: SCSI initiator port and SCSI target port (SAM-5
// clause 4.5; for iSCSI RFC 7143 §4.4.2: initiator name and ISID, target name and
// portal group tag). It is comparable and serves as a key.
type Nexus struct {
	Initiator string  // normalised iSCSI name
	ISID      [6]byte // RFC 7143 §11.12.5
	Target    string  // normalised iSCSI name
	PortGroup uint16  // target portal group tag
}

func (n Nexus) String() string {
	return fmt.Sprintf("%s,i,0x%x,%s,t,0x%04x", n.Initiator, n.ISID[:], n.Target, n.PortGroup)
}
