package brpc

import "fmt"

// Codes of brpc that a server answers with.
const (
	ENoService   = 1001 // there is no such service
	ENoMethod    = 1002 // there is no such method
	ERequest     = 1003 // a bad message: a required field is missing, or the attachment is larger than what came
	EOvercrowded = 1011
	EInternal    = 2001
	EResponse    = 2002
	ELogOff      = 2003 // the server is stopping: try again later
	ELimit       = 2004
	EClose       = 2005
)

// An Error is what a server answers instead of a message.
type Error struct {
	Code int32
	Text string // the server's own words
}

func (e *Error) Error() string { return fmt.Sprintf("RPC error %d: %s", e.Code, e.Text) }

// Stopping reports whether the server is about to end, and the same call may do after it has been started again.
func (e *Error) Stopping() bool { return e.Code == ELogOff }
