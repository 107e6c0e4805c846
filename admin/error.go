package admin

import (
	"errors"
	"fmt"
)

// A Code says what kind of refusal an Error is. Each face has one translation of it: of gRPC's status, and of tgt's error number.
type Code uint8

// The codes.
const (
	Internal         Code = iota // a fault of lunar, or of the machine
	Invalid                      // the call makes no sense, whatever is there
	NoTarget                     // what it names is not there …
	NoLUN                        //
	NoSession                    //
	NoConnection                 //
	NoAccount                    //
	NoPortal                     //
	NoRule                       // … of an ACL or a LUN map
	NotBound                     // the account is not bound there
	TargetExists                 // what it makes is there already …
	LUNExists                    //
	AccountExists                // … or is bound already
	PortalExists                 //
	RuleExists                   //
	OutgoingExists               // another outgoing account is bound
	TargetInUse                  // sessions are there; force would do it
	LUNInUse                     // commands are under way, or a nexus still knows another volume by that number; force would do it
	RemovalPrevented             // an initiator prevents medium removal
	WouldShrink                  // data would be lost; force would do it
	Unsupported                  // lunar, or this store, cannot
	TooMany                      // a limit
	OpenFailed                   // the volume could not be opened
	SaveFailed                   // the change could not be made durable, and was not made
	Timeout                      // it took too long
	ShuttingDown                 // the daemon ends
	NoVolume                     // no such volume, or what it was to be found in
	NoSnapshot                   // no such snapshot of it
	VolumeExists                 // a volume that was to be made is there already
	SnapshotExists               //
	VolumeInUse                  // it is a LUN here, somebody else has it open, or it has snapshots or clones
	VolumeBusy                   // something else is being done with it, by this service
	WouldDestroy                 // what is there would be lost for ever; force would do it
	VolumeFailed                 // its engine failed, or is away; a *backstore.Error in the chain has the class
	Cancelled                    // the caller went away, or took it back
)

// An Error says what failed, on which target or LUN, and what to do about it.
type Error struct {
	Code Code
	Text string // one line, without the words of Hint
	Hint string // what to do, or empty
	Err  error  // the cause, or nil
}

func (e *Error) Error() string {
	s := e.Text
	if e.Err != nil {
		if s != "" {
			s += ": "
		}
		s += e.Err.Error()
	}
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error. A %w among the verbs is its cause's place, and unwraps to it.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Err: fmt.Errorf(format, args...)}
}

// CodeOf returns the code of the first Error in err's chain; Internal where there is none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}
