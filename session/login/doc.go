// Package login is the login phase of iSCSI (RFC 7143 sections 6, 12 and 13) as a state machine
// without I/O, goroutine or clock: the negotiation table, the stages, CHAP. Randomness and
// the table of targets are given to it.
//
// It knows keys, stages and statuses. It does not know sockets, sessions (whether a TSIH exists, what is
// reinstated) or where accounts are kept: Policy answers for names, and the end of login is the caller's.
//
// A target gives each connection a Negotiator, which its goroutine owns, and passes it every Login Request:
//
//	n := login.NewNegotiator(cfg, policy, rand.Reader, portalGroup)
//	for {
//		h, data := read() // at most n.MaxDataSegment() bytes of data
//		r := n.Received(h, data)
//		if r.Drop {
//			return r.Err
//		}
//		if r.Final {
//			return enter(n.Result(), r) // TSIH, reinstatement, then the response
//		}
//		send(&r.Header, r.Data)
//		if r.Status != pdu.LoginSuccess {
//			return r.Err
//		}
//	}
//
// An initiator uses Offer, on the same table; CHAPResponse and the binary values are shared, too.
// Text answers keys of Text Requests in the full feature phase.
//
// It promises nothing to programs outside this module.
package login
