// Package mds asks the metadata servers of a CurveBS cluster (curve.mds.CurveFSService, over package brpc): volumes are created, grown, listed,
// deleted and restored there.
//
//	c := mds.New(mds.Config{Addresses: []string{"10.0.0.1:6666", "10.0.0.2:6666"}})
//	defer c.Close()
//	info, err := c.Info(ctx, "/vol", "user")
//
// One of the servers leads and answers; the others do not listen. Which one it is, is found by trying, and again when it is gone. A call that has been sent
// and not answered may have been carried out: it is sent again only if that does no harm.
//
// The owner of a volume is believed, but for root, who signs with a password.
//
// The package knows nothing of lunar's stores. It promises nothing to programs outside this module.
package mds
