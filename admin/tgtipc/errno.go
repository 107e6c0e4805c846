package tgtipc

import "github.com/lunar-iscsi/lunar/admin"

// An Errno is an error number of tgt's management protocol; 0 is success.
type Errno uint32

// The error numbers.
const (
	Success Errno = iota
	ErrUnknown
	ErrNoMemory
	ErrNoDriver
	ErrNoTarget
	ErrNoLUN
	ErrNoSession
	ErrNoConnection
	ErrNoBinding
	ErrTargetExists
	ErrLUNExists
	ErrBindingExists
	ErrACLExists
	ErrNoACL
	ErrUserExists
	ErrNoUser
	ErrTooManyUsers
	ErrInvalidRequest
	ErrOutgoingExists
	ErrTargetActive
	ErrLUNActive
	ErrDriverActive
	ErrUnsupported
	ErrUnknownParam
	ErrPreventRemoval
)

var errnoTexts = [...]string{
	Success:           "success",
	ErrUnknown:        "unknown error",
	ErrNoMemory:       "out of memory",
	ErrNoDriver:       "can't find the driver",
	ErrNoTarget:       "can't find the target",
	ErrNoLUN:          "can't find the logical unit",
	ErrNoSession:      "can't find the session",
	ErrNoConnection:   "can't find the connection",
	ErrNoBinding:      "can't find the binding",
	ErrTargetExists:   "this target already exists",
	ErrLUNExists:      "this logical unit number already exists",
	ErrBindingExists:  "this binding already exists",
	ErrACLExists:      "this access control rule already exists",
	ErrNoACL:          "this access control rule does not exist",
	ErrUserExists:     "this account already exists",
	ErrNoUser:         "can't find the account",
	ErrTooManyUsers:   "too many accounts",
	ErrInvalidRequest: "invalid request",
	ErrOutgoingExists: "this target already has an outgoing account",
	ErrTargetActive:   "this target is still active",
	ErrLUNActive:      "this logical unit is still active",
	ErrDriverActive:   "this driver is busy",
	ErrUnsupported:    "this operation isn't supported",
	ErrUnknownParam:   "unknown parameter",
	ErrPreventRemoval: "this device has Prevent Removal set",
}

// String is what tgtadm prints for the number.
func (e Errno) String() string {
	if int(e) < len(errnoTexts) {
		return errnoTexts[e]
	}
	return "(unknown tgtadm_errno)"
}

// Error is String.
func (e Errno) Error() string { return e.String() }

// errnos is the one translation of the service's refusals. tgtd says 17 for whatever it has no number for.
var errnos = [...]Errno{
	admin.Internal:         ErrUnknown,
	admin.Invalid:          ErrInvalidRequest,
	admin.NoTarget:         ErrNoTarget,
	admin.NoLUN:            ErrNoLUN,
	admin.NoSession:        ErrNoSession,
	admin.NoConnection:     ErrNoConnection,
	admin.NoAccount:        ErrNoUser,
	admin.NoPortal:         ErrInvalidRequest,
	admin.NoRule:           ErrNoACL,
	admin.NotBound:         ErrNoUser,
	admin.TargetExists:     ErrTargetExists,
	admin.LUNExists:        ErrLUNExists,
	admin.AccountExists:    ErrUserExists,
	admin.PortalExists:     ErrInvalidRequest,
	admin.RuleExists:       ErrACLExists,
	admin.OutgoingExists:   ErrOutgoingExists,
	admin.TargetInUse:      ErrTargetActive,
	admin.LUNInUse:         ErrLUNActive,
	admin.RemovalPrevented: ErrPreventRemoval,
	admin.WouldShrink:      ErrInvalidRequest,
	admin.Unsupported:      ErrUnsupported,
	admin.TooMany:          ErrNoMemory,
	admin.OpenFailed:       ErrInvalidRequest,
	admin.SaveFailed:       ErrUnknown,
	admin.Timeout:          ErrUnknown,
	admin.ShuttingDown:     ErrUnknown,
	admin.NoVolume:         ErrInvalidRequest,
	admin.NoSnapshot:       ErrInvalidRequest,
	admin.VolumeExists:     ErrInvalidRequest,
	admin.SnapshotExists:   ErrInvalidRequest,
	admin.VolumeInUse:      ErrInvalidRequest,
	admin.VolumeBusy:       ErrInvalidRequest,
	admin.WouldDestroy:     ErrInvalidRequest,
	admin.VolumeFailed:     ErrUnknown,
	admin.Cancelled:        ErrUnknown,
}
