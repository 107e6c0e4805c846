package tgtvolume

import (
	"math"
	"strings"
)

// Number reads s as strtol with base 0 does: white space, a sign, 0x or 0 before hexadecimal and octal digits, and whatever follows
// the digits is left over. ok says whether there was a digit; what does not fit is the nearest that does.
func Number(s string) (n int64, rest string, ok bool) {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	neg := false
	if s != "" && (s[0] == '-' || s[0] == '+') {
		neg, s = s[0] == '-', s[1:]
	}
	base := int64(10)
	if s != "" && s[0] == '0' {
		base = 8
		if len(s) > 2 && (s[1] == 'x' || s[1] == 'X') && digit(s[2]) < 16 {
			base, s = 16, s[2:]
		}
	}
	for s != "" && digit(s[0]) < base {
		if d := digit(s[0]); n > (math.MaxInt64-d)/base {
			n = math.MaxInt64
		} else {
			n = n*base + d
		}
		ok, s = true, s[1:]
	}
	if neg {
		n = -n
	}
	return n, s, ok
}

// Decimal reads s as atoi does: what is no number is 0.
func Decimal(s string) int64 {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	sign := ""
	if s != "" && (s[0] == '-' || s[0] == '+') {
		sign, s = s[:1], s[1:]
	}
	end := 0
	for end < len(s) && digit(s[end]) < 10 {
		end++
	}
	// A zero in front would make it octal.
	n, _, _ := Number(sign + strings.TrimLeft(s[:end], "0"))
	return n
}

func digit(c byte) int64 {
	switch {
	case c >= '0' && c <= '9':
		return int64(c - '0')
	case c >= 'a' && c <= 'f':
		return int64(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int64(c-'A') + 10
	}
	return math.MaxInt64
}
