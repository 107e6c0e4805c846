// Package brpc speaks baidu_std, the framing of brpc, in which CurveBS talks: nebd-server on a unix socket, the MDS on TCP.
//
//	c, err := brpc.Dial(ctx, "tcp", "10.0.0.1:6666")
//	answer, _, err := c.Call(ctx, "curve.mds.CurveFSService", "GetFileInfo", message, nil)
//
// A frame is a header of 12 bytes ("PRPC", then as big-endian uint32 the sizes of the body and of the meta in it), the meta, a message, and an
// attachment of raw bytes. The meta, a protobuf RpcMeta, says which method is meant or with which error it ended, and carries the correlation id
// by which an answer finds its call: answers come in any order. Messages are protobuf too; this package does not know them. They are few and
// small, so whoever calls writes them with protowire and reads them with Fields.
//
// There are two levels of error. What this package reports as *Error is brpc's own, and such an answer has no message; an application's error is
// in a message and not known here.
//
// Client is for what is asked seldom (administration, opening, heartbeats); the data path of the curve driver uses the frames alone, and allocates
// nothing. Server is what test servers are made of: a call may be answered later, from any goroutine, or never. What a peer sends is checked before
// anything is kept, and no frame is larger than MaxBody.
//
// The package promises nothing to programs outside this module.
package brpc
