// Package target is the door of lunar as a library: a Server with its targets, portals and logical
// units, which accepts connections, logs initiators in and serves each target on an event loop of its own.
//
// It owns the loops and everything that is shared within one: connections, sessions, buffers,
// logical units. It performs what the session state machine asks for, carries commands to the scsi
// layer and completions back, and knows neither the layout of a PDU nor the meaning of a CDB.
//
// Who owns what: everything reachable from a Target but its name belongs to its loop and is touched
// only on the loop's goroutine or with the loop's lock held; a method whose name ends in Locked wants that
// lock. The table of targets is an immutable snapshot behind an atomic pointer, read by logins and
// discovery without a lock. A Store handed to PrepareDisk or AddDisk belongs to the Server from then on.
//
// The names of this package, and of package backstore with its drivers, are stable API.
package target
