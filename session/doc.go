// Package session is the target's side of an iSCSI session as a state machine without I/O:
// PDUs come in, actions come out (RFC 7143). It knows sessions, connections and tasks: the CmdSN
// window, unsolicited and solicited Data-Out, R2T, Data-In, residuals, NOPs, task
// management, text, logout. It has no socket, no goroutine, no clock and no store: it asks for a
// command to be begun and to be executed, and is told when it ended.
//
// Everything of a session belongs to one caller, the loop of its target; nothing here locks. A
// session, its connections and its tasks are plain data. Memory: a PDU's data is the
// caller's and is looked at only during the call; a Task belongs to the caller from Begin until
// it gives it back with Pool.Put; the buffer that Data-Out is collected in is the caller's.
//
// The face is plain methods that append to a slice of Actions, which the caller performs in order:
//
//	acts = s.Received(c, now, h, ahs, data, acts[:0])
//	for i := range acts {
//		switch a := &acts[i]; a.Kind {
//		case session.Begin:   // check the CDB, then s.Begun or s.Completed
//		case session.Execute: // all Data-Out is in a.Task.Buf; then s.Completed
//		case session.Send:    // stamp with c.Stamp, send a.Header and a.Data
//		…
//		}
//	}
//
// A PDU whose data digest is wrong goes to Damaged instead, and DamagedHeader ends a connection: the caller computes
// digests, the session knows what follows from a wrong one.
//
// It promises nothing to programs outside this module.
package session
