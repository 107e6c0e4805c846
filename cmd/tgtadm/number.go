package main

import (
	"errors"
	"math"
)

var (
	errInvalid = errors.New("invalid")
	errRange   = errors.New("out of range")
)

// A numberType is the C type that tgtadm keeps an argument in: a value that does not come out of it as it went in is out of range.
type numberType struct {
	bits   uint
	signed bool // and then not negative
}

var (
	cInt    = numberType{32, true}
	cUint32 = numberType{32, false}
	cUint64 = numberType{64, false}
	cShort  = numberType{16, true}
)

// number reads an argument as tgtadm does: as much of it as C's strtoull takes with base 0 (blanks, a sign, 0x or 0), anything after
// it ignored, which Longhorn's helper relies on (--tid 1:). No digit is errInvalid, and so is 2^64-1, tgtadm's mark for a failure.
func number(s string, t numberType) (uint64, error) {
	v, ok := strtoull(s)
	if !ok || v == math.MaxUint64 {
		return 0, errInvalid
	}
	limit := uint64(math.MaxUint64) >> (64 - t.bits)
	if t.signed {
		limit >>= 1
	}
	if v > limit {
		return 0, errRange
	}
	return v, nil
}

// strtoull is C's of base 0; ok is false without a digit or when the value does not fit 64 bits. A minus sign wraps.
func strtoull(s string) (v uint64, ok bool) {
	for s != "" && (s[0] == ' ' || s[0] >= '\t' && s[0] <= '\r') {
		s = s[1:]
	}
	negative := false
	if s != "" && (s[0] == '+' || s[0] == '-') {
		negative = s[0] == '-'
		s = s[1:]
	}
	base := uint64(10)
	if s != "" && s[0] == '0' {
		base = 8
		if len(s) > 2 && (s[1] == 'x' || s[1] == 'X') && digit(s[2]) < 16 {
			base, s = 16, s[2:]
		}
	}
	for ; s != "" && digit(s[0]) < base; s = s[1:] {
		d := digit(s[0])
		if v > (math.MaxUint64-d)/base {
			return 0, false
		}
		v, ok = v*base+d, true
	}
	if negative {
		v = -v
	}
	return v, ok
}

// digit is the value of a digit of any base up to 16, 16 for anything else.
func digit(c byte) uint64 {
	switch {
	case c >= '0' && c <= '9':
		return uint64(c - '0')
	case c >= 'a' && c <= 'f':
		return uint64(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return uint64(c-'A') + 10
	}
	return 16
}
