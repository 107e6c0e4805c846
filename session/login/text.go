package login

import (
	"fmt"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A Text is the target's side of one negotiation in the full feature phase, a sequence of Text Requests (RFC 7143 §6.4).
// The zero value is a new one.
type Text struct {
	taken   seen
	maxXmit uint32 // the initiator's new MaxRecvDataSegmentLength, 0: none
}

// Answer answers one key and appends the answer to dst. SendTargets is the caller's and has no answer here. A key that only
// a login may carry is answered Reject. An error is a protocol error of the initiator's, which ends the negotiation without
// effect.
func (x *Text) Answer(dst []byte, k pdu.Key) ([]byte, error) {
	i, ok := byName[k.Name]
	if !ok {
		return answerUnknown(dst, k), nil
	}
	r := &table[i]
	if x.taken.has(i) {
		// RFC 7143 §6.4: nothing is declared or negotiated twice in one sequence.
		return dst, fmt.Errorf("%s came twice", r.name)
	}
	x.taken.add(i)
	switch {
	case r.use == fullOnly, isAnswer(k.Value):
		return dst, nil
	case r.use != anyTime, r.from == target:
		return pdu.AppendKey(dst, r.name, Reject), nil
	case r.kind == declaredNumber:
		v, ok := r.parse(k.Value)
		if !ok {
			return pdu.AppendKey(dst, r.name, Reject), nil
		}
		x.maxXmit = v
	}
	return dst, nil
}

// MaxXmit returns the bytes of data segment that the initiator takes once the negotiation has ended, was being what it takes
// until then.
func (x *Text) MaxXmit(was int) int {
	if x.maxXmit == 0 {
		return was
	}
	return int(x.maxXmit)
}
