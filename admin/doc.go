// Package admin is the one service behind every administrative face: tgt's management socket (admin/tgtipc), gRPC (admin/grpcd),
// files (admin/config), metrics (admin/metrics).
//
// It keeps what the daemon is to serve (package spec) in step with a target.Server and with what is saved, and knows nothing of how
// a call came in, but who made it (Caller), for the audit lines. A call happens whole or not at all: it is checked, what may fail is
// prepared, it is saved, and then the server changes; an *Error says why it did not.
//
// It promises nothing to programs outside this module.
package admin
