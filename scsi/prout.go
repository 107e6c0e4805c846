package scsi

import (
	"encoding/binary"
	"slices"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// PERSISTENT RESERVE OUT (SPC-4 §6.16; what each service action does is in §5.13).

// Its service actions.
const (
	prRegister          = 0
	prReserve           = 1
	prRelease           = 2
	prClear             = 3
	prPreempt           = 4
	prPreemptAndAbort   = 5
	prRegisterAndIgnore = 6
	prRegisterAndMove   = 7
)

const (
	// proutList is the length of the parameter list, but for SPEC_I_PT and REGISTER AND MOVE.
	proutList = 24
	// maxProutList bounds a parameter list: a few hundred TransportIDs.
	maxProutList = 64 << 10
)

// Bits of byte 20 of the parameter list; of byte 17 for REGISTER AND MOVE.
const (
	proutAPTPL     = 0x01
	proutAllPorts  = 0x04
	proutSpecPorts = 0x08

	moveAPTPL = 0x01
	moveUnreg = 0x02
)

func prepareProut(lu *LU, c *Command) bool {
	n := binary.BigEndian.Uint32(c.CDB[5:])
	switch {
	case c.restricted():
		return lu.writeProtected(c)
	case lu.broken(c):
		return false
	case n < proutList:
		return c.illegal(sense.ParameterListLengthError)
	case n > maxProutList:
		return c.badField(5, -1)
	case c.OutLen < n:
		return c.illegal(sense.InvalidFieldInCommandIU)
	}
	c.Length, c.Out = n, n
	return true
}

func executeProut(lu *LU, c *Command) Outcome {
	if lu.broken(c) {
		return Done
	}
	if !lu.saving.busy {
		return lu.runProut(c)
	}
	switch {
	case c.NoWait:
		return WouldBlock // its data may be gone when its turn comes
	case len(lu.pending) >= lu.maxQueue:
		return lu.full(c)
	}
	lu.holdBack(c)
	lu.saving.queue.push(c)
	return Pending
}

// runProut carries c out, with no other before it.
func (lu *LU) runProut(c *Command) Outcome {
	ch := &prChange{by: c.Nexus.Nexus, next: lu.pr}
	ch.next.regs = slices.Clone(lu.pr.regs)
	if !lu.planProut(c, ch) {
		return Done
	}
	return lu.commit(c, ch)
}

// planProut works out the change that c asks for; false: c has failed.
func (lu *LU) planProut(c *Command, ch *prChange) bool {
	list, action := c.Buf, cdb.ServiceAction(c.CDB)
	key := binary.BigEndian.Uint64(list)
	if action != prRegisterAndMove {
		switch flags := list[20]; {
		case flags&proutSpecPorts != 0 && action != prRegister:
			return c.badList(20, 3)
		case flags&proutSpecPorts == 0 && len(list) != proutList:
			return c.illegal(sense.ParameterListLengthError)
		}
	}
	if action == prRegister || action == prRegisterAndIgnore {
		return lu.planRegister(c, ch)
	}
	if i := ch.next.find(ch.by); i < 0 || ch.next.regs[i].key != key {
		return !c.conflict()
	}
	switch action {
	case prReserve:
		return planReserve(c, ch)
	case prRelease:
		return planRelease(c, ch)
	case prClear:
		ch.tell(sense.ReservationsPreempted)
		ch.next.regs = nil
		ch.next.release()
		ch.next.generation++
		return true
	case prRegisterAndMove:
		return lu.planMove(c, ch)
	}
	return planPreempt(c, ch)
}

// reservation returns the type that a CDB names, if its scope and type are such.
func (c *Command) reservation() (prType, bool) {
	kind := prType(c.CDB[2] & 0x0f)
	if c.CDB[2]>>4 != prScopeLU {
		return 0, c.badField(2, 7)
	}
	if !kind.valid() {
		return 0, c.badField(2, 3)
	}
	return kind, true
}

// RESERVE (SPC-4 §5.13.9).
func planReserve(c *Command, ch *prChange) bool {
	kind, ok := c.reservation()
	if !ok {
		return false
	}
	p := &ch.next
	switch {
	case p.kind == 0:
		p.kind = kind
		if !kind.all() {
			p.holder = ch.by
		}
	case !p.holds(ch.by) || p.kind != kind:
		return !c.conflict()
	}
	return true
}

// RELEASE (SPC-4 §5.13.11.2.2).
func planRelease(c *Command, ch *prChange) bool {
	kind, ok := c.reservation()
	if !ok {
		return false
	}
	p := &ch.next
	switch {
	case !p.holds(ch.by): // nothing to release, or not its own: that is no error
	case p.kind != kind:
		return c.illegal(sense.InvalidRelease)
	default:
		p.release()
		if kind.registrants() {
			ch.tell(sense.ReservationsReleased)
		}
	}
	return true
}

// PREEMPT, and PREEMPT AND ABORT (SPC-4 §5.13.11.2.4 and 5).
func planPreempt(c *Command, ch *prChange) bool {
	p := &ch.next
	victim := binary.BigEndian.Uint64(c.Buf[8:])
	everybody := p.kind.all() && victim == 0
	takes := everybody // the reservation, too
	if p.kind != 0 && !p.kind.all() {
		takes = victim == p.regs[p.find(p.holder)].key
	}
	if victim == 0 && !takes {
		return c.badList(8, -1)
	}
	kind := p.kind
	if takes { // otherwise scope and type are ignored
		var ok bool
		if kind, ok = c.reservation(); !ok {
			return false
		}
	}
	var lost []sam.Nexus
	p.regs = slices.DeleteFunc(p.regs, func(r registration) bool {
		if r.key != victim && !everybody || takes && r.nexus == ch.by {
			return false
		}
		lost = append(lost, r.nexus)
		return true
	})
	switch {
	case takes:
		changed := p.kind != kind
		p.release()
		p.kind = kind
		if !kind.all() {
			p.holder = ch.by
		}
		if changed {
			ch.tell(sense.ReservationsReleased) // to those that remain
		}
	case len(lost) == 0:
		return !c.conflict()
	case len(p.regs) == 0:
		p.release() // it was all registrants'
	}
	for _, n := range lost {
		if n != ch.by {
			ch.notices = append(ch.notices, notice{n, sense.RegistrationsPreempted})
		}
	}
	if cdb.ServiceAction(c.CDB) == prPreemptAndAbort {
		ch.aborts = lost
	}
	p.generation++
	return true
}
