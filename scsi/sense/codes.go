package sense

import "fmt"

// A Code is an additional sense code with its qualifier: ASC in the high byte, ASCQ in the low one
// (SPC-4 annex F).
type Code uint16

// ASC returns the additional sense code.
func (c Code) ASC() uint8 { return uint8(c >> 8) }

// ASCQ returns the qualifier.
func (c Code) ASCQ() uint8 { return uint8(c) }

// The codes that lunar reports, or that its initiator wants to name.
const (
	NoAdditionalSense            Code = 0x0000
	NotReadyCauseNotReportable   Code = 0x0400
	BecomingReady                Code = 0x0401
	ManualInterventionRequired   Code = 0x0403
	TransitionState              Code = 0x040A
	StandbyState                 Code = 0x040B
	UnavailableState             Code = 0x040C
	SpaceAllocationInProgress    Code = 0x0414
	CommunicationFailure         Code = 0x0800
	CommunicationTimeout         Code = 0x0801
	WriteError                   Code = 0x0C00
	InvalidFieldInCommandIU      Code = 0x0E03
	UnrecoveredReadError         Code = 0x1100
	ParameterListLengthError     Code = 0x1A00
	MiscompareDuringVerify       Code = 0x1D00
	InvalidOpcode                Code = 0x2000
	LBAOutOfRange                Code = 0x2100
	InvalidFieldInCDB            Code = 0x2400
	LogicalUnitNotSupported      Code = 0x2500
	InvalidFieldInParameterList  Code = 0x2600
	InvalidRelease               Code = 0x2604
	WriteProtected               Code = 0x2700
	SoftwareWriteProtected       Code = 0x2702
	SpaceAllocationFailed        Code = 0x2707
	MediumMayHaveChanged         Code = 0x2800
	PowerOnOrReset               Code = 0x2900
	PowerOn                      Code = 0x2901
	BusReset                     Code = 0x2902
	DeviceReset                  Code = 0x2903
	InternalReset                Code = 0x2904
	NexusLoss                    Code = 0x2907
	ModeParametersChanged        Code = 0x2A01
	ReservationsPreempted        Code = 0x2A03
	ReservationsReleased         Code = 0x2A04
	RegistrationsPreempted       Code = 0x2A05
	AsymmetricAccessChanged      Code = 0x2A06
	CapacityChanged              Code = 0x2A09
	CommandsClearedByOther       Code = 0x2F00
	ThresholdReached             Code = 0x3807
	SavingNotSupported           Code = 0x3900
	MediumNotPresent             Code = 0x3A00
	InquiryDataChanged           Code = 0x3F03
	ReportedLUNsChanged          Code = 0x3F0E
	LogicalUnitFailure           Code = 0x3E01
	InternalTargetFailure        Code = 0x4400
	DataCRCError                 Code = 0x4705
	InvalidMessage               Code = 0x4900
	MediumRemovalPrevented       Code = 0x5302
	InsufficientRegistrationRoom Code = 0x5504
)

var codeNames = map[Code]string{
	NoAdditionalSense:            "NO ADDITIONAL SENSE INFORMATION",
	NotReadyCauseNotReportable:   "LOGICAL UNIT NOT READY, CAUSE NOT REPORTABLE",
	BecomingReady:                "LOGICAL UNIT IS IN PROCESS OF BECOMING READY",
	ManualInterventionRequired:   "LOGICAL UNIT NOT READY, MANUAL INTERVENTION REQUIRED",
	TransitionState:              "LOGICAL UNIT NOT ACCESSIBLE, ASYMMETRIC ACCESS STATE TRANSITION",
	StandbyState:                 "LOGICAL UNIT NOT ACCESSIBLE, TARGET PORT IN STANDBY STATE",
	UnavailableState:             "LOGICAL UNIT NOT ACCESSIBLE, TARGET PORT IN UNAVAILABLE STATE",
	SpaceAllocationInProgress:    "LOGICAL UNIT NOT READY, SPACE ALLOCATION IN PROGRESS",
	CommunicationFailure:         "LOGICAL UNIT COMMUNICATION FAILURE",
	CommunicationTimeout:         "LOGICAL UNIT COMMUNICATION TIME-OUT",
	WriteError:                   "WRITE ERROR",
	InvalidFieldInCommandIU:      "INVALID FIELD IN COMMAND INFORMATION UNIT",
	UnrecoveredReadError:         "UNRECOVERED READ ERROR",
	ParameterListLengthError:     "PARAMETER LIST LENGTH ERROR",
	MiscompareDuringVerify:       "MISCOMPARE DURING VERIFY OPERATION",
	InvalidOpcode:                "INVALID COMMAND OPERATION CODE",
	LBAOutOfRange:                "LOGICAL BLOCK ADDRESS OUT OF RANGE",
	InvalidFieldInCDB:            "INVALID FIELD IN CDB",
	LogicalUnitNotSupported:      "LOGICAL UNIT NOT SUPPORTED",
	InvalidFieldInParameterList:  "INVALID FIELD IN PARAMETER LIST",
	InvalidRelease:               "INVALID RELEASE OF PERSISTENT RESERVATION",
	WriteProtected:               "WRITE PROTECTED",
	SoftwareWriteProtected:       "LOGICAL UNIT SOFTWARE WRITE PROTECTED",
	SpaceAllocationFailed:        "SPACE ALLOCATION FAILED WRITE PROTECT",
	MediumMayHaveChanged:         "NOT READY TO READY CHANGE, MEDIUM MAY HAVE CHANGED",
	PowerOnOrReset:               "POWER ON, RESET, OR BUS DEVICE RESET OCCURRED",
	PowerOn:                      "POWER ON OCCURRED",
	BusReset:                     "SCSI BUS RESET OCCURRED",
	DeviceReset:                  "BUS DEVICE RESET FUNCTION OCCURRED",
	InternalReset:                "DEVICE INTERNAL RESET",
	NexusLoss:                    "I_T NEXUS LOSS OCCURRED",
	ModeParametersChanged:        "MODE PARAMETERS CHANGED",
	ReservationsPreempted:        "RESERVATIONS PREEMPTED",
	ReservationsReleased:         "RESERVATIONS RELEASED",
	RegistrationsPreempted:       "REGISTRATIONS PREEMPTED",
	AsymmetricAccessChanged:      "ASYMMETRIC ACCESS STATE CHANGED",
	CapacityChanged:              "CAPACITY DATA HAS CHANGED",
	CommandsClearedByOther:       "COMMANDS CLEARED BY ANOTHER INITIATOR",
	ThresholdReached:             "THIN PROVISIONING SOFT THRESHOLD REACHED",
	SavingNotSupported:           "SAVING PARAMETERS NOT SUPPORTED",
	MediumNotPresent:             "MEDIUM NOT PRESENT",
	InquiryDataChanged:           "INQUIRY DATA HAS CHANGED",
	ReportedLUNsChanged:          "REPORTED LUNS DATA HAS CHANGED",
	LogicalUnitFailure:           "LOGICAL UNIT FAILURE",
	InternalTargetFailure:        "INTERNAL TARGET FAILURE",
	DataCRCError:                 "PROTOCOL SERVICE CRC ERROR",
	InvalidMessage:               "INVALID MESSAGE ERROR",
	MediumRemovalPrevented:       "MEDIUM REMOVAL PREVENTED",
	InsufficientRegistrationRoom: "INSUFFICIENT REGISTRATION RESOURCES",
}

func (c Code) String() string {
	if s, ok := codeNames[c]; ok {
		return s
	}
	return fmt.Sprintf("%02Xh/%02Xh", c.ASC(), c.ASCQ())
}
