package scsi

import (
	"encoding/binary"
)

// PERSISTENT RESERVE IN (SPC-4 §6.15).

// Its service actions.
const (
	prReadKeys        = 0
	prReadReservation = 1
	prCapabilities    = 2
	prReadFullStatus  = 3
)

// Bits of REPORT CAPABILITIES.
const (
	prSIPC  = 0x08 // byte 2: SPEC_I_PT
	prATPC  = 0x04 // ALL_TG_PT
	prPTPLC = 0x01 // APTPL
	prTMV   = 0x80 // byte 3: the type mask is there
	prPTPLA = 0x01 // APTPL is active
)

func preparePrin(lu *LU, c *Command) bool { return !lu.broken(c) }

// prin starts an answer with the generation, and with room for the length of what follows.
func (lu *LU) prin(c *Command) []byte {
	b := c.buffer(8)
	binary.BigEndian.PutUint32(b, lu.pr.generation)
	return b
}

// prinReply fills the length in. It is that of everything there is, whatever the allocation length cuts off.
func (c *Command) prinReply(b []byte) Outcome {
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)-8))
	return c.reply(b, uint64(binary.BigEndian.Uint16(c.CDB[7:])))
}

func executeReadKeys(lu *LU, c *Command) Outcome {
	b := lu.prin(c)
	for i := range lu.pr.regs {
		b = binary.BigEndian.AppendUint64(b, lu.pr.regs[i].key)
	}
	return c.prinReply(b)
}

func executeReadReservation(lu *LU, c *Command) Outcome {
	b := lu.prin(c)
	if p := &lu.pr; p.kind != 0 {
		key := uint64(0) // nobody's in particular, where all registrants hold it
		if !p.kind.all() {
			key = p.regs[p.find(p.holder)].key
		}
		b = binary.BigEndian.AppendUint64(b, key)
		b = append(b, 0, 0, 0, 0, 0, prScopeLU<<4|byte(p.kind), 0, 0)
	}
	return c.prinReply(b)
}

func executePRCapabilities(lu *LU, c *Command) Outcome {
	b := c.buffer(8)
	binary.BigEndian.PutUint16(b, 8)
	b[2] = prSIPC | prATPC
	if lu.persistence != nil {
		b[2] |= prPTPLC
	}
	b[3] = prTMV
	if lu.pr.aptpl {
		b[3] |= prPTPLA
	}
	binary.BigEndian.PutUint16(b[4:], prTypeMask)
	return c.reply(b, uint64(binary.BigEndian.Uint16(c.CDB[7:])))
}

// READ FULL STATUS (SPC-4 §6.15.5): a descriptor for each registration. ALL_TG_PT is 0: what a REGISTER with it
// did is as many registrations.
func executeReadFullStatus(lu *LU, c *Command) Outcome {
	b := lu.prin(c)
	p := &lu.pr
	for i := range p.regs {
		r := &p.regs[i]
		start := len(b)
		b = append(b, make([]byte, 24)...)
		d := b[start:]
		binary.BigEndian.PutUint64(d, r.key)
		if p.holds(r.nexus) {
			d[12] = 0x01 // R_HOLDER
			d[13] = prScopeLU<<4 | byte(p.kind)
		}
		binary.BigEndian.PutUint16(d[18:], r.port)
		b = appendTransportID(b, r.nexus)
		binary.BigEndian.PutUint32(b[start+20:], uint32(len(b)-start-24))
	}
	return c.prinReply(b)
}
