// Package backstore is the contract between lunar's SCSI layer and whatever holds the blocks: the
// Store interface, its requests and error classes, the volume URI and the registry of drivers.
//
// It knows bytes, not SCSI: a driver never sees a CDB, a LUN or an initiator. The drivers are
// packages below this one; backstoretest is the one conformance suite that all of them pass, faulty
// wraps any of them with injected faults.
//
// Who owns what: the caller owns a Request and its buffers, except while a driver has it pending.
//
//	reg := backstore.NewRegistry(file.Driver(), mem.Driver())
//	u, err := backstore.ParseURI("file:///srv/d.img?size=1G")
//	st, err := reg.Open(ctx, u, backstore.Options{})
//	r := &backstore.Request{Op: backstore.Read, Len: 4096, Buf: make([]byte, 4096), C: c}
//	if st.Submit(r) == backstore.Done && r.Err == nil { … }
//
// Store, Request, Info and the drivers are stable API for programs that embed a target.
package backstore
