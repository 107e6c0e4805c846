package main

import "fmt"

// A digestFlag says how a digest is negotiated: whether CRC32C may be, and whether it has to be.
type digestFlag struct{ may, must *bool }

// The values of a digestFlag.
const (
	digestAllow   = "allow"
	digestRequire = "require"
	digestNone    = "none"
)

// Set reads one of the values.
func (f digestFlag) Set(s string) error {
	switch s {
	case digestAllow, digestRequire, digestNone:
	default:
		return fmt.Errorf("%q is not %s, %s or %s", s, digestAllow, digestRequire, digestNone)
	}
	*f.may, *f.must = s != digestNone, s == digestRequire
	return nil
}

// String writes it as Set reads it.
func (f digestFlag) String() string {
	switch {
	case f.may == nil || !*f.may:
		return digestNone
	case *f.must:
		return digestRequire
	}
	return digestAllow
}

// Type names the value in the help.
func (f digestFlag) Type() string { return "POLICY" }
