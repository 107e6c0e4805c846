package faulty

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

type action uint8

const (
	noAction action = iota
	actError
	actDelay
	actHang
	actStall
	actWouldBlock
)

// A rule is one line of the text. Guarded by Store.mu (seen and hits change).
type rule struct {
	text   string
	op     backstore.Op // 0: any
	act    action
	class  backstore.Class
	wait   time.Duration // of a delay or stall
	period time.Duration // of a stall
	off    int64
	length int64 // 0: up to the end
	fua    bool
	after  uint64
	every  uint64 // 0: each one
	count  uint64 // 0: no limit

	seen uint64 // requests that fit
	hits uint64 // of them, those that the action was done to
}

var opNames = map[string]backstore.Op{"any": 0, "read": backstore.Read, "write": backstore.Write, "flush": backstore.Flush,
	"discard": backstore.Discard, "zeroes": backstore.WriteZeroes, "caw": backstore.CompareAndWrite, "allocation": backstore.Allocation}

var classNames = map[string]backstore.Class{"medium": backstore.ClassMedium, "integrity": backstore.ClassIntegrity,
	"offline": backstore.ClassOffline, "busy": backstore.ClassBusy, "nospace": backstore.ClassNoSpace,
	"nospacetemp": backstore.ClassNoSpaceTemp, "readonly": backstore.ClassReadOnly, "timeout": backstore.ClassTimeout,
	"fenced": backstore.ClassFenced, "transport": backstore.ClassTransport, "unsupported": backstore.ClassUnsupported,
	"cancelled": backstore.ClassCancelled, "internal": backstore.ClassInternal}

// parse reads a text of rules; an empty text has none.
func parse(text string) ([]*rule, error) {
	var rules []*rule
	for _, line := range strings.FieldsFunc(text, func(c rune) bool { return c == ';' || c == '\n' }) {
		words := strings.FieldsFunc(line, func(c rune) bool { return c == ' ' || c == '\t' || c == ',' || c == '\r' })
		if len(words) == 0 {
			continue
		}
		r := &rule{text: strings.TrimSpace(line)}
		for i, w := range words {
			if err := r.word(w, i == 0); err != nil {
				return nil, fmt.Errorf("fault rule %q: %w", r.text, err)
			}
		}
		switch {
		case r.act == noAction:
			return nil, fmt.Errorf("fault rule %q: no action; want error=, delay=, hang, pending, stall= or wouldblock", r.text)
		case r.act == actStall && (r.period == 0 || r.wait > r.period):
			return nil, fmt.Errorf("fault rule %q: a stall wants every=TIME of at least its own length", r.text)
		case r.act != actStall && r.period != 0:
			return nil, fmt.Errorf("fault rule %q: every=TIME belongs to a stall; want every=N", r.text)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func (r *rule) word(w string, first bool) (err error) {
	key, val, has := strings.Cut(w, "=")
	if !has {
		if op, ok := opNames[key]; ok && first {
			r.op = op
			return nil
		}
		switch key {
		case "fua":
			r.fua = true
			return nil
		case "hang":
			return r.do(actHang)
		case "pending":
			return r.do(actDelay)
		case "wouldblock":
			return r.do(actWouldBlock)
		}
		return fmt.Errorf("%q is no operation, action or condition", w)
	}
	switch key {
	case "error":
		var ok bool
		if r.class, ok = classNames[val]; !ok {
			return fmt.Errorf("%q is no class of error", val)
		}
		return r.do(actError)
	case "delay", "stall":
		if r.wait, err = positive(val); err != nil {
			return err
		}
		if key == "stall" {
			return r.do(actStall)
		}
		return r.do(actDelay)
	case "every":
		if r.every, err = strconv.ParseUint(val, 10, 64); err != nil || r.every == 0 {
			r.every = 0
			r.period, err = positive(val)
		}
	case "after":
		r.after, err = strconv.ParseUint(val, 10, 64)
	case "count":
		if r.count, err = strconv.ParseUint(val, 10, 64); err == nil && r.count == 0 {
			err = fmt.Errorf("count=0 would never do anything")
		}
	case "off":
		r.off, err = backstore.ParseSize(val)
	case "len":
		r.length, err = backstore.ParseSize(val)
	default:
		err = fmt.Errorf("%q is no action or condition", key)
	}
	return err
}

func (r *rule) do(a action) error {
	if r.act != noAction {
		return fmt.Errorf("two actions in one rule")
	}
	r.act = a
	return nil
}

func positive(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is no positive time; want 200ms or the like", s)
	}
	return d, nil
}

// fits reports whether the rule is about q, whatever its counters say.
func (r *rule) fits(q *backstore.Request) bool {
	if r.op != 0 && r.op != q.Op || r.fua && q.Flags&backstore.FUA == 0 {
		return false
	}
	if r.off == 0 && r.length == 0 {
		return true
	}
	return q.Op != backstore.Flush && q.Off+q.Len > r.off && (r.length == 0 || q.Off-r.off < r.length)
}

// strikes counts q, which fits, and reports whether the action is to be done to it. undo takes
// that back.
func (r *rule) strikes() bool {
	r.seen++
	if r.seen <= r.after || r.count != 0 && r.hits >= r.count || r.every != 0 && (r.seen-r.after)%r.every != 0 {
		return false
	}
	r.hits++
	return true
}

func (r *rule) undo(struck bool) {
	r.seen--
	if struck {
		r.hits--
	}
}
