// Package snapclone asks a CurveBS cluster's SnapshotCloneServer (HTTP): it takes snapshots of volumes into an object store, and makes clones of them.
//
//	c := snapclone.New(snapclone.Config{Addresses: []string{"10.0.0.1:5555"}})
//	id, err := c.CreateSnapshot(ctx, "user", "/vol", "monday")
//	s, err := c.Snapshot(ctx, "user", id)    // until s.Status is SnapshotDone
//
// One of the servers serves, the others do not; which one, is found by trying. All work is done by tasks of the server, which whoever calls polls (Poll). A call that
// changes something and is not answered may have been carried out: it is not sent twice.
//
// What a server answers is bounded and checked. The package knows nothing of lunar's stores, and promises nothing to programs outside this module.
package snapclone
