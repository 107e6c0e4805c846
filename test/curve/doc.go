// Package curve is a CurveBS cluster's administration for tests: the metadata server (MDS) that leads, and the SnapshotCloneServer, on the folder of a nebd.Pool. What is
// made, grown, cloned and rolled back here is what test/nebd serves.
//
//	c, err := curve.Start(curve.Config{Pool: pool})
//	// cbd:pool//vol_user_?mds=c.MDS&snapshot=c.Snap
//
// They answer as the real ones were seen to do: statuses and codes, refusals (a volume that is open is not deleted, and a recover onto one is taken and
// then fails), snapshots that are pending for a while, tasks that are looked at until they are done, lazy clones that count as users of their snapshot. Differences: the object store is
// the folder POOL/.objects; a lazy clone has its data at once and only says that it has not; who is who is kept besides nebd's own fields in
// the volume's .json.
//
// Config.Step lets a test stop a task half way, or have it fail.
package curve
