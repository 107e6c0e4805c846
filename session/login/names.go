package login

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxNameLen is the length of the longest iSCSI name in bytes (RFC 7143 §4.2.7.1).
const MaxNameLen = 223

// NormalizeName checks an iSCSI name and returns the form in which names are compared
// (RFC 7143 §4.2.7.2): lower case. It takes what the stringprep profile of RFC 3722 leaves
// over (letters and digits, '-', '.' and ':') and, beyond it, the '_' of names in use. Of
// the three types, eui. has 16 hex digits and naa. 16 or 32. The date of an iqn. name is not
// looked at (§4.2.7.4 wants yyyy-mm): names with others are in use and do no harm.
func NormalizeName(s string) (string, error) {
	if s == "" {
		return "", fmt.Errorf("empty iSCSI name")
	}
	if len(s) > MaxNameLen {
		return "", fmt.Errorf("iSCSI name of %d bytes, at most %d are allowed", len(s), MaxNameLen)
	}
	if !utf8.ValidString(s) {
		return "", fmt.Errorf("iSCSI name %q is not UTF-8", s)
	}
	for _, c := range s {
		if c < utf8.RuneSelf && !isNameByte(byte(c)) || c >= utf8.RuneSelf && !unicode.IsLetter(c) && !unicode.IsDigit(c) && !unicode.IsMark(c) {
			return "", fmt.Errorf("iSCSI name %q has %q in it", s, c)
		}
	}
	n := strings.ToLower(s)
	if len(n) > MaxNameLen {
		return "", fmt.Errorf("iSCSI name of %d bytes, at most %d are allowed", len(n), MaxNameLen)
	}
	var ok bool
	switch {
	case strings.HasPrefix(n, "iqn."):
		ok = len(n) > 4 && n[4] != ':' && n[4] != '.'
	case strings.HasPrefix(n, "eui."):
		ok = isHex(n[4:], 16)
	case strings.HasPrefix(n, "naa."):
		ok = isHex(n[4:], 16) || isHex(n[4:], 32)
	default:
		return "", fmt.Errorf("iSCSI name %q begins with none of iqn., eui. and naa. (RFC 7143 §4.2.7)", s)
	}
	if !ok {
		return "", fmt.Errorf("iSCSI name %q is not well formed", s)
	}
	return n, nil
}

// NormalizeTargetName is NormalizeName for the name of a target, which may also be one that is no iSCSI name, as tgt takes
// it: of letters and digits of ASCII, ':', '.' and '-'.
func NormalizeTargetName(s string) (string, error) {
	n, err := NormalizeName(s)
	if err == nil || s == "" || len(s) > MaxNameLen {
		return n, err
	}
	for _, c := range []byte(s) {
		if !isNameByte(c) || c == '_' {
			return "", err
		}
	}
	return strings.ToLower(s), nil
}

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == ':' || c == '_'
}

func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
