package pdu

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
)

// Limits of text keys (RFC 7143 §6.1). A value's limit holds for each element of a
// list; MaxBinaryLen is that of a large binary value, decoded.
const (
	MaxKeyName   = 63
	MaxValueLen  = 255
	MaxBinaryLen = 1024

	// maxEncoded bounds one whole value, lists and encoded binaries included.
	maxEncoded = 8192
)

// What can be wrong with a list of keys. Every error that Keys yields wraps one.
var (
	ErrNoEquals     = errors.New("text without '='")
	ErrKeyName      = errors.New("invalid key name")
	ErrValueLen     = errors.New("value too long")
	ErrUnterminated = errors.New("last pair lacks its NUL")
)

// A Key is one key=value pair.
type Key struct {
	Name, Value string
}

// AppendKey appends name=value and its NUL to dst.
func AppendKey(dst []byte, name, value string) []byte {
	dst = append(dst, name...)
	dst = append(dst, '=')
	dst = append(dst, value...)
	return append(dst, 0)
}

// Keys yields the pairs of a whole key list, all of its continuations joined, in
// order. Further NULs between and after pairs are skipped (RFC 7143 §6.1: "at
// least one"). It ends after the first error.
func Keys(list []byte) iter.Seq2[Key, error] {
	return func(yield func(Key, error) bool) {
		for {
			k, rest, err := nextKey(list)
			if err == nil && k.Name == "" {
				return
			}
			if !yield(k, err) || err != nil {
				return
			}
			list = rest
		}
	}
}

// nextKey cuts the first pair off list. A Key without a name is the end.
func nextKey(list []byte) (k Key, rest []byte, err error) {
	for len(list) > 0 && list[0] == 0 {
		list = list[1:]
	}
	if len(list) == 0 {
		return Key{}, nil, nil
	}
	end := bytes.IndexByte(list, 0)
	if end < 0 {
		return Key{}, nil, fmt.Errorf("%w: %d bytes", ErrUnterminated, len(list))
	}
	pair, rest := list[:end], list[end+1:]
	eq := bytes.IndexByte(pair, '=')
	if eq < 0 {
		return Key{}, nil, fmt.Errorf("%w: %d bytes", ErrNoEquals, len(pair))
	}
	if !validKeyName(pair[:eq]) {
		return Key{}, nil, fmt.Errorf("%w: %s", ErrKeyName, quoted(pair[:eq]))
	}
	if !valueFits(pair[eq+1:]) {
		return Key{}, nil, fmt.Errorf("%w: %s of %d bytes", ErrValueLen, pair[:eq], len(pair)-eq-1)
	}
	return Key{string(pair[:eq]), string(pair[eq+1:])}, rest, nil
}

// validKeyName checks a standard label (RFC 7143 §6.1): 1-63 letters, digits and
// . - + @ _, the first a capital letter. The X-, Y- and Z- names begin so too, and
// the older X# forms are let through to be answered NotUnderstood.
func validKeyName(b []byte) bool {
	if len(b) == 0 || len(b) > MaxKeyName || !isUpper(b[0]) && b[0] != 'i' {
		return false
	}
	for _, c := range b {
		switch {
		case isUpper(c), c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case c == '.', c == '-', c == '+', c == '@', c == '_', c == '#':
		default:
			return false
		}
	}
	return true
}

func isUpper(c byte) bool { return c >= 'A' && c <= 'Z' }

// valueFits checks the limits of a value: a binary (0x…, 0b…) or a list may be long
// as a whole, any other element holds MaxValueLen bytes.
func valueFits(b []byte) bool {
	if len(b) <= MaxValueLen {
		return true
	}
	if len(b) > maxEncoded {
		return false
	}
	if b[0] == '0' && (b[1]|0x20 == 'x' || b[1]|0x20 == 'b') {
		return true
	}
	for part := range bytes.SplitSeq(b, []byte{','}) {
		if len(part) > MaxValueLen {
			return false
		}
	}
	return true
}

// maxQuoted bounds what an error shows of a peer's key name. Of values it shows nothing: they may
// be secrets.
const maxQuoted = 64

func quoted(b []byte) string {
	if len(b) > maxQuoted {
		return fmt.Sprintf("%q…", b[:maxQuoted])
	}
	return fmt.Sprintf("%q", b)
}
