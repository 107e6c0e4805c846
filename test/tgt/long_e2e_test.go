//go:build e2e

package tgt

// long: every daemon with every tgtadm.
const long = true
