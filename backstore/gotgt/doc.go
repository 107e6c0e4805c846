// Package gotgt runs back ends that were written for gotgt (github.com/gostor/gotgt) as volumes of lunar: whatever implements its
// api.BackingStore, or the smaller api.RemoteBackingStore of programs that embed it.
//
//	reg := backstore.NewRegistry(gotgt.Driver(map[string]gotgt.Remote{"vol1": {Store: mine, Size: 64 << 30}}))
//	u, err := backstore.ParseURI("gotgt:file:/srv/disk.img") // a type that is registered with gotgt, and its path
//	u, err = backstore.ParseURI("gotgt:vol1")                // one of Driver's own
//
// Such a back end is a set of calls that block. They run on a bounded number of goroutines (the option workers), as gotgt runs one a
// connection; so a back end is called by several at once, as it is there. What waits for a worker is a list of the requests themselves, and so
// is bounded by Info.MaxInFlight.
//
// # What it can do, and what not
//
// Read, Write and a sync (DataSync, Sync) are all that gotgt's interfaces promise. A flush is a sync of everything, FUA a sync of what was
// written, and a failed one makes the store failed (backstore, rule 5), and with it those that ran beside it: a sync has gone well when all that were under way with
// it have ended. UNMAP is off unless the option discard says that this back end's Unmap
// does something: gotgt's own file store answers it and keeps the data. There is no compare-and-write, no writing of zeroes and no
// allocation query: the logical unit does the first two itself. A size is what the back end says when it is opened, rounded
// down to whole blocks of 512 bytes, and does not change afterwards. Short reads, which gotgt fills with zeroes, are errors here.
//
// A call cannot be taken back. One that does not return keeps its worker; when all are kept the volume stands still, and Close gives up
// when its context ends, leaving the back end open until the calls have returned. A panic in a back end ends its request with ClassInternal.
// Each read is copied once where the back end is an api.BackingStore (it returns memory of its own); an api.RemoteBackingStore reads
// into its place.
//
// The package knows nothing of SCSI and of the other drivers. It is part of lunar's stable API for programs that embed a target.
package gotgt
