package main

// The exit statuses that are not an errno of the socket's.
const (
	exitWord  = 1  // an unknown mode or operation
	exitUsage = 22 // every other mistake, and every refusal by the daemon (EINVAL)
)

// refusals are the words for the daemon's error numbers.
var refusals = [...]string{
	0:  "success",
	1:  "unknown error",
	2:  "out of memory",
	3:  "can't find the driver",
	4:  "can't find the target",
	5:  "can't find the logical unit",
	6:  "can't find the session",
	7:  "can't find the connection",
	8:  "can't find the binding",
	9:  "this target already exists",
	10: "this logical unit number already exists",
	11: "this binding already exists",
	12: "this access control rule already exists",
	13: "this access control rule does not exist",
	14: "this account already exists",
	15: "can't find the account",
	16: "too many accounts",
	17: "invalid request",
	18: "this target already has an outgoing account",
	19: "this target is still active",
	20: "this logical unit is still active",
	21: "this driver is busy",
	22: "this operation isn't supported",
	23: "unknown parameter",
	24: "this device has Prevent Removal set",
}

// refusal is what tgtadm says of an error number.
func refusal(n uint32) string {
	if n < uint32(len(refusals)) {
		return refusals[n]
	}
	return "(unknown tgtadm_errno)"
}
