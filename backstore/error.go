package backstore

import (
	"errors"
	"fmt"
)

// A Class sorts errors by what a caller can do about them; the SCSI layer has one row a class.
type Class uint8

// The classes.
const (
	ClassInternal    Class = iota // a fault in the driver itself
	ClassMedium                   // the engine could not read or write the data
	ClassIntegrity                // the data failed a check
	ClassNotFound                 // no such volume
	ClassOffline                  // the engine is away; it may come back
	ClassBusy                     // somebody else has it, or too much is in flight
	ClassNoSpace                  // no space, until an administrator acts
	ClassNoSpaceTemp              // no space at the moment
	ClassReadOnly                 // writing is not allowed
	ClassTimeout                  // no answer in time; like every error it promises that the request is not applied later
	ClassFenced                   // this opener has been shut out
	ClassTransport                // the connection to the engine failed
	ClassRange                    // outside the volume or its multiples
	ClassUnsupported              // the driver cannot do this
	ClassMiscompare               // CompareAndWrite found other data; Off is the first difference
	ClassCancelled                // taken back by Cancel
)

var classNames = [...]string{ClassInternal: "internal error", ClassMedium: "medium error", ClassIntegrity: "integrity error",
	ClassNotFound: "not found", ClassOffline: "offline", ClassBusy: "busy", ClassNoSpace: "no space", ClassNoSpaceTemp: "no space for now",
	ClassReadOnly: "read-only", ClassTimeout: "timed out", ClassFenced: "fenced", ClassTransport: "transport error", ClassRange: "out of range",
	ClassUnsupported: "unsupported", ClassMiscompare: "miscompare", ClassCancelled: "cancelled"}

func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return fmt.Sprintf("class %d", uint8(c))
}

// An Error is how every driver reports failure.
type Error struct {
	Class Class
	Op    string // what was attempted: an Op's name, "open", "close", "resize", …
	Off   int64  // bytes into the volume, where that has a meaning; for ClassMiscompare relative to the request
	Cause error  // may be nil
}

func (e *Error) Error() string {
	s := e.Op + ": " + e.Class.String()
	if e.Off != 0 {
		s += fmt.Sprintf(" at byte %d", e.Off)
	}
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// ClassOf returns the class of err: that of the first *Error in its chain, or ClassInternal.
func ClassOf(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return ClassInternal
}
