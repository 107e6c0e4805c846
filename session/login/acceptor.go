package login

import (
	"fmt"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// An acceptor answers operational keys: the target's side of RFC 7143 §6.2.
type acceptor struct {
	own     *Params // offers and limits
	least   Params  // demands: HeaderDigest and DataDigest
	result  Params
	taken   seen // keys the peer sent
	session SessionType
	leading bool // first connection of its session
}

// answer takes the peer's offer of key i and appends the answer, if the key has one.
func (a *acceptor) answer(dst []byte, i int, offer string) ([]byte, error) {
	r := &table[i]
	if a.taken.has(i) {
		// RFC 7143 §6.3: no parameter is declared or negotiated twice in a login.
		return dst, fmt.Errorf("%s came twice", r.name)
	}
	a.taken.add(i)
	switch {
	case r.normal && a.session == Discovery:
		return pdu.AppendKey(dst, r.name, Irrelevant), nil
	case r.use == leading && !a.leading:
		return pdu.AppendKey(dst, r.name, Reject), nil
	}
	switch r.kind {
	case obsoleteBool:
		// RFC 7143 §13.25 prefers Reject and allows No, which is what initiators
		// that still send these keys offer and understand.
		return pdu.AppendKey(dst, r.name, no), nil
	case obsoleteNumber:
		return pdu.AppendKey(dst, r.name, Reject), nil
	case declaredNumber:
		v, ok := r.parse(offer)
		if !ok {
			return pdu.AppendKey(dst, r.name, Reject), nil
		}
		a.result.MaxXmitDataSegmentLength = v
		return dst, nil
	}
	v, ok := r.combine(offer, r.get(&a.least), r.get(a.own))
	if !ok {
		// RFC 7143 §6.2: the key keeps the value it had, the RFC's default.
		return pdu.AppendKey(dst, r.name, Reject), nil
	}
	if r.name == firstBurst {
		v = min(v, a.result.MaxBurstLength) // RFC 7143 §13.14
	}
	r.set(&a.result, v)
	return pdu.AppendKey(dst, r.name, r.format(v)), nil
}

// declareSegment appends our MaxRecvDataSegmentLength, which holds from then on.
func (a *acceptor) declareSegment(dst []byte) []byte {
	i := byName["MaxRecvDataSegmentLength"]
	a.result.MaxRecvDataSegmentLength = a.own.MaxRecvDataSegmentLength
	return pdu.AppendKey(dst, table[i].name, table[i].format(a.own.MaxRecvDataSegmentLength))
}

// end makes the result consistent when no more keys can come.
func (a *acceptor) end() Params {
	p := a.result
	p.FirstBurstLength = min(p.FirstBurstLength, p.MaxBurstLength)
	return p
}
