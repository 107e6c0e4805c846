// Package scsi is the logical units: disks on a backstore.Store, the controller at LUN 0, and what answers for a
// LUN that is not there. It turns CDBs into store requests and results into status, sense and data: an
// operation code table for each kind of device, SPC-4 and SBC-3 handlers, VPD and mode pages, reservations, unit
// attentions by I_T nexus, and the range index that keeps overlapping commands apart.
//
// READ and WRITE are one transfer, and have the short way. What takes more store requests than that is a job: a record
// that says which comes next, one at the store at a time, to be aborted between two.
//
// It knows no transport: sessions, tags, data transfer and residuals are its host's. It logs
// nothing and starts no goroutine. It must not import session or target.
//
// Who owns what: an LU, its nexuses and its commands belong to one event loop, which alone calls them; only
// Host.Complete is called by others (by the store). The host owns the Commands and their buffers, and
// leaves both alone while a command is pending. The store belongs to who opened it. Persistent reservations are the LU's; a
// Persistence keeps them for the next start.
//
//	lu, err := scsi.NewDisk(store, host, scsi.DiskConfig{Identity: uuid})
//	nexus := lu.Attach(sam.Nexus{Initiator: "iqn.2024-01.example:a", Target: "iqn.2024-01.example:t", PortGroup: 1})
//	c := &scsi.Command{Nexus: nexus, CDB: cdb, OutLen: edtl}
//	if lu.Prepare(c) {
//		c.Buf = buffers.Get(c.In + c.Out) // and, for a WRITE, filled
//		if lu.Execute(c) == scsi.Pending {
//			return // host.Done(c) follows, from scsi.Completed
//		}
//	}
//	answer(c.Status, c.Sense, c.Data)
//	lu.Kick() // once a batch
//
// It promises nothing to programs outside this module.
package scsi
