package pdu

import "fmt"

func (s Stage) String() string {
	switch s {
	case SecurityNegotiation:
		return "security"
	case OperationalStage:
		return "operational"
	case FullFeaturePhase:
		return "full"
	}
	return fmt.Sprintf("stage%d", uint8(s))
}

var loginStatusNames = map[LoginStatus]string{
	LoginSuccess: "success", TargetMovedTemp: "target moved temporarily", TargetMovedPerm: "target moved permanently",
	InitiatorError: "initiator error", AuthenticationFailed: "authentication failure", AuthorizationFailure: "authorization failure",
	TargetNotFound: "not found", TargetRemoved: "target removed", UnsupportedVersion: "unsupported version",
	TooManyConnections: "too many connections", MissingParameter: "missing parameter", CannotInclude: "cannot include in session",
	SessionTypeNotSup: "session type not supported", SessionDoesNotExist: "session does not exist",
	InvalidDuringLogin: "invalid request type during login", TargetError: "target error",
	ServiceUnavailable: "service unavailable", OutOfResources: "out of resources",
}

// String returns the number in hex and its name.
func (s LoginStatus) String() string {
	if n, ok := loginStatusNames[s]; ok {
		return fmt.Sprintf("%04X (%s)", uint16(s), n)
	}
	return fmt.Sprintf("%04X", uint16(s))
}

var tmfResponseNames = map[TMFResponse]string{
	FunctionComplete: "function complete", TaskDoesNotExist: "task does not exist", LUNDoesNotExist: "LUN does not exist",
	TaskStillAllegiant: "task still allegiant", ReassignNotSupported: "task reassignment not supported",
	FunctionNotSupported: "function not supported", AuthorizationFailed: "function authorization failed",
	FunctionSucceeded: "function succeeded", FunctionRejected: "function rejected",
}

func (r TMFResponse) String() string {
	if n, ok := tmfResponseNames[r]; ok {
		return n
	}
	return fmt.Sprintf("response %02Xh", uint8(r))
}

var rejectNames = map[RejectReason]string{
	RejectDataDigest: "data digest error", RejectSNACK: "SNACK rejected", RejectProtocol: "protocol error",
	RejectNotSupported: "command not supported", RejectImmediate: "too many immediate commands",
	RejectTaskInProgress: "task in progress", RejectInvalidACK: "invalid data ACK", RejectInvalidField: "invalid PDU field",
	RejectLongOperation: "long operation, cannot generate target transfer tag", RejectDeprecated: "negotiation reset",
	RejectWaitingForLogout: "waiting for logout",
}

func (r RejectReason) String() string {
	if n, ok := rejectNames[r]; ok {
		return n
	}
	return fmt.Sprintf("reason %02Xh", uint8(r))
}

var asyncNames = [...]string{AsyncSCSIEvent: "SCSI event", AsyncLogout: "logout requested", AsyncDropConnection: "connection dropped",
	AsyncDropSession: "session dropped", AsyncNegotiate: "negotiation requested", AsyncTaskTermination: "tasks terminated"}

func asyncName(event uint8) string {
	if int(event) < len(asyncNames) {
		return asyncNames[event]
	}
	return fmt.Sprintf("event %d", event)
}

// keyNames are the keys whose names RFC 7143 defines. Describe shows the first pair of
// a segment only under one of them: without, it may be the rest of a
// value that began in the PDU before.
var keyNames = nameSet(
	"AuthMethod", "CHAP_A", "CHAP_C", "CHAP_I", "CHAP_N", "CHAP_R", "HeaderDigest", "DataDigest", "MaxConnections", "SendTargets",
	"TargetName", "InitiatorName", "TargetAlias", "InitiatorAlias", "TargetAddress", "TargetPortalGroupTag", "InitialR2T",
	"ImmediateData", "MaxRecvDataSegmentLength", "MaxBurstLength", "FirstBurstLength", "DefaultTime2Wait", "DefaultTime2Retain",
	"MaxOutstandingR2T", "DataPDUInOrder", "DataSequenceInOrder", "ErrorRecoveryLevel", "SessionType", "TaskReporting",
	"iSCSIProtocolLevel", "IFMarker", "OFMarker", "IFMarkInt", "OFMarkInt",
)

// secretNames are keys whose values help whoever wants to guess a secret.
var secretNames = nameSet("CHAP_C", "CHAP_R", "SRP_A", "SRP_B", "SRP_M", "SRP_HM", "SRP_s", "KRB_AP_REQ", "KRB_AP_REP")

func nameSet(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}
