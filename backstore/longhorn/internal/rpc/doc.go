// Package rpc calls the gRPC services of a Longhorn engine: its controller, its replicas and their sync agents, as far as the
// driver needs them (longhorn-engine 1.12; package ptypes of its .proto files).
//
//	c, err := rpc.Dial("10.0.0.1:10000", "pvc-1")
//	defer c.Close()
//	v, err := c.Volume(ctx)
//
// Messages are written and read field by field: the fields that are used are few, and unknown ones are skipped, so that an engine
// of another version is no trouble as long as the numbers that stand here mean the same. Answers are not trusted: what does not
// parse is an error, and gRPC bounds their length.
//
// The package knows nothing of the data protocol and of backstore. It promises nothing to other programs.
package rpc
