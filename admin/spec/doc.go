// Package spec has the words of lunar's configuration: what a daemon is to serve, as plain data. Saved state, the
// declarative file, targets.conf and every administrative face speak of it in these types.
//
// It knows what a well-formed document is, of itself (Document.Check), and nothing of a running server, of volumes that may or
// may not be there, or of how a document is written down. A document is a value: whoever hands one over has given it away, and
// Clone makes a copy that shares nothing.
//
// It promises nothing to programs outside this module.
package spec
