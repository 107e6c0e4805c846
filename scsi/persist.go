package scsi

import (
	"bytes"
	"slices"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// Persistent reservations (SPC-4 §5.13): who is registered with which key, and who holds the reservation. They outlive nexuses
// and resets; with APTPL, which a host makes possible, the daemon too.

// A Persistence keeps an LU's persistent reservations for its next start.
type Persistence interface {
	// Save makes state what the next start is given as DiskConfig.Reservations; nil: there is nothing to keep. It is called
	// on the loop and must not block. done is called once, from any goroutine, when the state is durable or, with an
	// error, when the state before is what a start would find. state is the callee's; one Save at a time.
	Save(state []byte, done func(error))
}

// maxRegistrations bounds the registrations of one LU: a thousand ports, as large clusters have them, with a few hundred bytes each.
const maxRegistrations = 1024

// A prType is the TYPE of a persistent reservation (SPC-4, persistent reservation type codes); 0: none.
type prType uint8

const (
	prWriteExclusive    prType = 1
	prExclusiveAccess   prType = 3
	prWriteExclusiveRO  prType = 5 // registrants only
	prExclusiveAccessRO prType = 6
	prWriteExclusiveAR  prType = 7 // all registrants
	prExclusiveAccessAR prType = 8
	prTypeMask                 = 0xea01 // as REPORT CAPABILITIES lists them
	prScopeLU                  = 0
)

func (t prType) valid() bool {
	switch t {
	case prWriteExclusive, prExclusiveAccess, prWriteExclusiveRO, prExclusiveAccessRO, prWriteExclusiveAR, prExclusiveAccessAR:
		return true
	}
	return false
}

// exclusive: others may not read either.
func (t prType) exclusive() bool {
	return t == prExclusiveAccess || t == prExclusiveAccessRO || t == prExclusiveAccessAR
}

// registrants: whoever is registered has access.
func (t prType) registrants() bool { return t >= prWriteExclusiveRO }

// all: whoever is registered holds the reservation.
func (t prType) all() bool { return t >= prWriteExclusiveAR }

// A registration is one nexus's.
type registration struct {
	nexus sam.Nexus
	port  uint16 // relative target port identifier
	key   uint64 // never 0
}

// persistent is the state of the persistent reservations of an LU.
type persistent struct {
	regs       []registration // in order of registration; no nexus twice
	kind       prType
	holder     sam.Nexus // of a reservation that is not all registrants'; registered
	aptpl      bool      // as the last REGISTER said
	generation uint32    // PRGENERATION: 0 at the start, whatever is restored
}

// find returns the place of a nexus's registration, or -1.
func (p *persistent) find(n sam.Nexus) int {
	for i := range p.regs {
		if p.regs[i].nexus == n {
			return i
		}
	}
	return -1
}

// holds reports whether a registered nexus is a holder of the reservation.
func (p *persistent) holds(n sam.Nexus) bool {
	return p.kind != 0 && (p.kind.all() || p.holder == n)
}

// release ends the reservation.
func (p *persistent) release() { p.kind, p.holder = 0, sam.Nexus{} }

// A notice is a unit attention condition for a nexus, should it be there.
type notice struct {
	nexus sam.Nexus
	code  sense.Code
}

// A prChange is what one PERSISTENT RESERVE OUT will have done.
type prChange struct {
	by      sam.Nexus
	next    persistent
	notices []notice
	aborts  []sam.Nexus // whose commands PREEMPT AND ABORT ends
}

// tell adds a notice for everybody registered but the nexus that made the change.
func (ch *prChange) tell(code sense.Code) {
	for i := range ch.next.regs {
		if n := ch.next.regs[i].nexus; n != ch.by {
			ch.notices = append(ch.notices, notice{n, code})
		}
	}
}

// set registers a nexus, or changes its key.
func (ch *prChange) set(n sam.Nexus, port uint16, key uint64) {
	p := &ch.next
	if i := p.find(n); i >= 0 {
		p.regs[i].key = key
		return
	}
	p.regs = append(p.regs, registration{nexus: n, port: port, key: key})
}

// unregister removes a nexus's registration, and the reservation where that goes with it (SPC-4 §5.13.11.2.3): with the
// registration of its holder, or with the last one where all hold it.
func (ch *prChange) unregister(n sam.Nexus) {
	p := &ch.next
	i := p.find(n)
	if i < 0 {
		return
	}
	p.regs = slices.Delete(p.regs, i, i+1)
	switch kind := p.kind; {
	case kind == 0:
	case kind.all():
		if len(p.regs) == 0 {
			p.release()
		}
	case p.holder == n:
		p.release()
		if kind.registrants() {
			ch.tell(sense.ReservationsReleased)
		}
	}
}

// saving is the PERSISTENT RESERVE OUT whose outcome is being made durable, and those that wait for that.
type saving struct {
	lu     *LU
	busy   bool
	cmd    *Command // nil: it was aborted
	change prChange
	queue  queue
	req    backstore.Request // brings the end of Save back to the loop
}

// commit carries out a change for c, at once or when it is durable.
func (lu *LU) commit(c *Command, ch *prChange) Outcome {
	state := ch.next.encode(lu.naa)
	if lu.persistence == nil || bytes.Equal(state, lu.pr.encode(lu.naa)) {
		lu.apply(c, ch)
		c.Status = sam.Good
		return Done
	}
	s := &lu.saving
	s.busy, s.cmd, s.change = true, c, *ch
	s.req = backstore.Request{Op: backstore.Flush, C: lu.completer, Owner: s}
	lu.holdBack(c)
	lu.persistence.Save(state, s.saved)
	return Pending
}

// saved is Save's done.
func (s *saving) saved(err error) {
	s.req.Err = err
	s.lu.completer.Complete(&s.req)
}

// holdBack makes c pending without a place in the range index.
func (lu *LU) holdBack(c *Command) {
	c.span = span{kind: flushSpan}
	lu.track(c, 0)
	c.state = persisting
}

// ended takes the end of a Save, on the loop, and goes on with what waited for it.
func (s *saving) ended() {
	lu, c := s.lu, s.cmd
	ch := s.change
	s.busy, s.cmd, s.change = false, nil, prChange{}
	if s.req.Err == nil {
		// Also when c was aborted: what is in memory is what a start would find.
		lu.apply(c, &ch)
	}
	if c != nil {
		c.Status = sam.Good
		if s.req.Err != nil {
			c.illegal(sense.InsufficientRegistrationRoom)
		}
		lu.untrack(c)
		lu.host.Done(c)
	}
	for !s.busy {
		c := s.queue.pop()
		if c == nil {
			break
		}
		lu.untrack(c)
		if lu.runProut(c) == Done {
			lu.host.Done(c)
		}
	}
}

// forget lets an aborted command go that holdBack held. A change that is being saved is carried out all the same.
func (s *saving) forget(c *Command) {
	if s.cmd == c {
		s.cmd = nil
		return
	}
	s.queue.remove(c)
}

// apply makes a change the state. c is the command that asked for it, nil if it was aborted meanwhile.
func (lu *LU) apply(c *Command, ch *prChange) {
	lu.pr = ch.next
	lu.regrant()
	for _, nx := range ch.aborts {
		for _, n := range lu.nexuses {
			if n.Nexus != nx {
				continue
			}
			if nx == ch.by {
				lu.host.AbortNexus(n, c, false)
			} else if lu.host.AbortNexus(n, c, lu.TaskAborted()) != 0 {
				lu.cleared(n)
			}
		}
	}
	for _, t := range ch.notices {
		for _, n := range lu.nexuses {
			if n.Nexus == t.nexus {
				n.raise(t.code)
			}
		}
	}
}
