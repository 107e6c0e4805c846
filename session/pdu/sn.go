package pdu

// An SN is a CmdSN, StatSN, DataSN or R2TSN: 32 bits of serial number arithmetic
// (RFC 1982, RFC 7143 §4.2.2.1). Compare with its methods, never with <.
type SN uint32

// Before reports whether a precedes b.
func (a SN) Before(b SN) bool { return int32(a-b) < 0 }

// InWindow reports whether a is one of the n numbers from first on. A window of
// n = 0 is shut.
func (a SN) InWindow(first SN, n uint32) bool { return uint32(a-first) < n }
