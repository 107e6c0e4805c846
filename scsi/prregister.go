package scsi

import (
	"encoding/binary"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// The service actions of PERSISTENT RESERVE OUT that register: REGISTER, REGISTER AND IGNORE EXISTING KEY (SPC-4 §5.13.7),
// REGISTER AND MOVE (§5.13.8).

// through returns n by way of another target port.
func through(n sam.Nexus, p port) sam.Nexus {
	n.Target, n.PortGroup = p.target, p.group
	return n
}

func (lu *LU) planRegister(c *Command, ch *prChange) bool {
	p := &ch.next
	key, newKey, flags := binary.BigEndian.Uint64(c.Buf), binary.BigEndian.Uint64(c.Buf[8:]), c.Buf[20]
	ignore := cdb.ServiceAction(c.CDB) == prRegisterAndIgnore
	own := p.find(ch.by)
	switch {
	case !ignore && (own < 0 && key != 0 || own >= 0 && p.regs[own].key != key):
		return !c.conflict()
	case flags&proutAPTPL != 0 && lu.persistence == nil:
		return c.badList(20, 0)
	case own >= 0 && flags&proutSpecPorts != 0:
		return c.illegal(sense.InvalidFieldInCDB)
	case own < 0 && newKey == 0:
		return true // nothing is done
	}
	initiators := []sam.Nexus{ch.by}
	if flags&proutSpecPorts != 0 {
		var ok bool
		if initiators, ok = lu.specified(c, initiators); !ok {
			return false
		}
	}
	for k, n := range initiators {
		if k != 0 && n == ch.by {
			continue
		}
		ports := []port{{target: n.Target, group: n.PortGroup, relative: c.Nexus.RelativePort}}
		if flags&proutAllPorts != 0 {
			ports = lu.ports
		}
		for _, at := range ports {
			nexus := through(n, at)
			i := p.find(nexus)
			switch {
			case i >= 0 && n != ch.by:
				// Specified, and registered already: it stays as it is.
			case i >= 0 && !ignore && p.regs[i].key != key:
				return !c.conflict() // as if it had come through that port
			case newKey == 0:
				ch.unregister(nexus)
			default:
				ch.set(nexus, at.relative, newKey)
			}
		}
	}
	if len(p.regs) > maxRegistrations {
		return c.illegal(sense.InsufficientRegistrationRoom)
	}
	p.aptpl = flags&proutAPTPL != 0
	p.generation++
	return true
}

// specified appends the initiator ports that a REGISTER with SPEC_I_PT names, at c's target port.
func (lu *LU) specified(c *Command, to []sam.Nexus) ([]sam.Nexus, bool) {
	list := c.Buf[proutList:]
	if len(list) < 4 {
		return nil, c.illegal(sense.ParameterListLengthError)
	}
	n := binary.BigEndian.Uint32(list)
	if list = list[4:]; n > uint32(len(list)) {
		return nil, c.badList(proutList, -1)
	}
	list = list[:n]
	for len(list) != 0 {
		at := uint16(proutList + 4 + int(n) - len(list))
		id, rest, ok := parseTransportID(list)
		if !ok {
			return nil, c.badList(at, -1)
		}
		list = rest
		if len(to) > maxRegistrations {
			return nil, c.illegal(sense.InsufficientRegistrationRoom)
		}
		nexus := c.Nexus.Nexus
		nexus.Initiator = id.initiator
		if id.port {
			nexus.ISID = id.isid
			to = append(to, nexus)
			continue
		}
		// A name alone stands for all of its ports that are known.
		known := false
		for _, o := range lu.nexuses {
			if nexus.ISID = o.Nexus.ISID; o.Nexus == nexus {
				known = true
				to = append(to, nexus)
			}
		}
		if !known {
			return nil, c.badList(at, -1)
		}
	}
	return to, true
}

func (lu *LU) planMove(c *Command, ch *prChange) bool {
	p, list := &ch.next, c.Buf
	newKey, flags := binary.BigEndian.Uint64(list[8:]), list[17]
	n := binary.BigEndian.Uint32(list[20:])
	switch {
	case n != uint32(len(list)-proutList):
		return c.illegal(sense.ParameterListLengthError)
	case p.kind == 0:
		return c.illegal(sense.InvalidFieldInCDB)
	case p.kind.all() || p.holder != ch.by:
		return !c.conflict()
	case newKey == 0:
		return c.badList(8, -1)
	case flags&moveAPTPL != 0 && lu.persistence == nil:
		return c.badList(17, 0)
	}
	id, rest, ok := parseTransportID(list[proutList:])
	if !ok || len(rest) != 0 || !id.port {
		return c.badList(proutList, -1)
	}
	at, ok := lu.portOf(ch.by, binary.BigEndian.Uint16(list[18:]))
	if !ok {
		return c.badList(18, -1)
	}
	to := through(sam.Nexus{Initiator: id.initiator, ISID: id.isid}, at)
	if to == ch.by {
		return c.badList(proutList, -1)
	}
	ch.set(to, at.relative, newKey)
	if len(p.regs) > maxRegistrations {
		return c.illegal(sense.InsufficientRegistrationRoom)
	}
	p.holder = to
	if flags&moveUnreg != 0 {
		ch.unregister(ch.by)
	}
	p.aptpl = flags&moveAPTPL != 0
	p.generation++
	return true
}

// portOf returns the target port of a relative identifier: of n's own target, or of another that has the LU.
func (lu *LU) portOf(n sam.Nexus, relative uint16) (port, bool) {
	found, ok := port{}, false
	for _, p := range lu.ports {
		if p.relative == relative && (!ok || p.target == n.Target) {
			found, ok = p, true
		}
	}
	return found, ok
}
