package login

import (
	"fmt"
	"strings"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// An Offer is an initiator's side of operational negotiation, on the same table as the
// target's. It belongs to one goroutine.
//
//	o := login.NewOffer(params, login.Normal, true)
//	send(o.AppendKeys(nil))
//	for k, err := range pdu.Keys(answer) {
//		reply, err = o.Take(reply, k) // reply: answers to what the target offered itself
//	}
//	use(o.Params())
type Offer struct {
	own      Params
	result   Params
	session  SessionType
	leading  bool
	proposed seen
	answered seen
}

// NewOffer returns the negotiation of an initiator that would like own, in the first
// connection of a session (leading) or a later one.
func NewOffer(own Params, t SessionType, leading bool) *Offer {
	return &Offer{own: own, result: RFCDefaults(), session: t, leading: leading}
}

// AppendKeys appends every key that fits the session to dst, as key=value pairs.
func (o *Offer) AppendKeys(dst []byte) []byte {
	for i := range table {
		r := &table[i]
		if r.get == nil || r.normal && o.session == Discovery || r.use == leading && !o.leading {
			continue
		}
		o.proposed.add(i)
		v := r.get(&o.own)
		switch r.kind {
		case list:
			dst = pdu.AppendKey(dst, r.name, r.offerList(v))
		case declaredNumber:
			o.result.MaxRecvDataSegmentLength = v
			fallthrough
		default:
			dst = pdu.AppendKey(dst, r.name, r.format(v))
		}
	}
	return dst
}

// offerList lists the values from the highest that the side can do down to the default.
func (r *row) offerList(v uint32) string {
	names := make([]string, 0, len(r.values))
	for ; v > 0; v-- {
		names = append(names, r.values[v])
	}
	return strings.Join(append(names, r.values[0]), ",")
}

// Take takes one key of the target's: the answer to one of ours, a declaration, or an
// offer of its own, whose answer is appended to reply. Keys that are not operational
// (TargetAlias, TargetPortalGroupTag, AuthMethod, …) are left alone. An error is
// a protocol error of the target's (RFC 7143 §6.2).
func (o *Offer) Take(reply []byte, k pdu.Key) ([]byte, error) {
	i, ok := byName[k.Name]
	if !ok {
		if isCHAPKey(k.Name) {
			return reply, nil
		}
		return answerUnknown(reply, k), nil
	}
	r := &table[i]
	switch {
	case r.get == nil && r.kind != obsoleteBool && r.kind != obsoleteNumber:
		return reply, nil
	case o.answered.has(i):
		return reply, fmt.Errorf("%s came twice", r.name)
	}
	o.answered.add(i)
	if r.kind == declaredNumber {
		return reply, o.takeSegment(r, k.Value)
	}
	if !o.proposed.has(i) {
		a := acceptor{own: &o.own, result: o.result, session: o.session, leading: o.leading}
		reply, err := a.answer(reply, i, k.Value)
		o.result = a.result
		return reply, err
	}
	if isAnswer(k.Value) {
		return reply, nil // the key keeps its default
	}
	v, ok := r.parse(k.Value)
	own := r.get(&o.own)
	if !ok || r.kind == list && v > own || r.kind != list && r.function(v, own) != v {
		return reply, fmt.Errorf("%s=%q is no answer to %s", r.name, k.Value, r.format(own))
	}
	r.set(&o.result, v)
	return reply, nil
}

func (o *Offer) takeSegment(r *row, value string) error {
	v, ok := r.parse(value)
	if !ok {
		return fmt.Errorf("%s=%q", r.name, value)
	}
	o.result.MaxXmitDataSegmentLength = v
	return nil
}

// Params returns the values as they stand. Once the login has ended they are the connection's.
func (o *Offer) Params() Params {
	a := acceptor{result: o.result}
	return a.end()
}
