package login

import (
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// The constants that answer instead of a value (RFC 7143 §6.2).
const (
	Reject        = "Reject"
	Irrelevant    = "Irrelevant"
	NotUnderstood = "NotUnderstood"
)

// isAnswer reports whether value is one of them: it answers and asks for no answer.
func isAnswer(value string) bool {
	return value == Reject || value == Irrelevant || value == NotUnderstood
}

// maxQuoted bounds what an error shows of a peer's value: one that looks like a number may be thousands of bytes long.
const maxQuoted = 255

func clip(value string) string {
	if len(value) > maxQuoted {
		return value[:maxQuoted] + "…"
	}
	return value
}

// answerUnknown appends the answer to a key that is not in the table.
func answerUnknown(dst []byte, k pdu.Key) []byte {
	if isAnswer(k.Value) {
		return dst
	}
	return pdu.AppendKey(dst, k.Name, NotUnderstood)
}

const (
	yes  = "Yes"
	no   = "No"
	none = "None"
)

// parseNumber reads a decimal or hex constant (RFC 7143 §6.1) of at most 32 bits.
func parseNumber(s string) (uint32, bool) {
	base := 10
	switch {
	case len(s) > 2 && s[0] == '0' && s[1]|0x20 == 'x':
		base, s = 16, s[2:]
	case len(s) > 1 && s[0] == '0':
		return 0, false
	}
	v, err := strconv.ParseUint(s, base, 32)
	return uint32(v), err == nil
}

func parseBool(s string) (v uint32, ok bool) {
	switch s {
	case yes:
		return 1, true
	case no:
		return 0, true
	}
	return 0, false
}

func boolText(v uint32) string {
	if v != 0 {
		return yes
	}
	return no
}

// format returns the text of r's value v.
func (r *row) format(v uint32) string {
	switch {
	case r.kind.boolean():
		return boolText(v)
	case r.kind == list:
		return r.values[v]
	}
	return strconv.FormatUint(uint64(v), 10)
}

// parse reads one value of r, not a list of them.
func (r *row) parse(s string) (v uint32, ok bool) {
	switch {
	case r.kind.boolean():
		return parseBool(s)
	case r.kind == list:
		for i, name := range r.values {
			if s == name {
				return uint32(i), true
			}
		}
		return 0, false
	}
	v, ok = parseNumber(s)
	return v, ok && v >= r.min && v <= r.max
}

// combine returns what an offer comes to with a side's own limit, by r's function. ok is
// false when a list has nothing that this side can do, or will: from least on.
func (r *row) combine(offer string, least, own uint32) (v uint32, ok bool) {
	if r.kind == list {
		// RFC 7143 §6.2.1: the first value of the offer that the acceptor supports. The
		// fields are ordered so that who can do one value can do those below it.
		for name := range strings.SplitSeq(offer, ",") {
			if v, ok := r.parse(name); ok && v >= least && v <= own {
				return v, true
			}
		}
		return 0, false
	}
	if v, ok = r.parse(offer); !ok {
		return 0, false
	}
	return r.function(v, own), true
}

// function applies r's result function to two values.
func (r *row) function(a, b uint32) uint32 {
	switch r.kind {
	case boolAnd:
		return a & b
	case boolOr:
		return a | b
	case maximum:
		return max(a, b)
	}
	return min(a, b)
}
