package target

import (
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// full begins the full feature phase of c, whose last Login Response is all that is queued: that has its place, ahead of
// whatever is urgent, and every PDU after it has the digests that were agreed upon (RFC 7143 §13.1).
func (c *conn) full(p *login.Params) {
	if c.dead {
		return
	}
	c.stamp(&c.out.q[c.out.head])
	c.out.stamped++
	if p.HeaderDigest {
		c.hd = pdu.DigestLen
	}
	if p.DataDigest {
		c.dd = pdu.DigestLen
	}
}

// damagedHeader gives up a connection on which a header came that does not fit its digest.
func (c *conn) damagedHeader() {
	c.l.s.notes.warn(noteDamaged, "a header came damaged: its digest is wrong", "conn", c.name)
	c.l.perform(c.se.s.DamagedHeader(c.c, c.l.takeActs()))
}

// damaged takes a PDU whose data does not fit its digest.
func (c *conn) damaged(h *pdu.Header, ahs, data []byte) {
	l := c.l
	l.perform(c.se.s.Damaged(c.c, l.ev.Now(), h, ahs, data, l.takeActs()))
	l.s.notes.warn(noteDamaged, "data came damaged: its digest is wrong", "conn", c.name, "pdu", h.Opcode(), "itt", h.ITT())
}

// damaged reports whether the PDU, which has come whole, has a wrong data digest.
func (in *incoming) damaged() bool {
	pad := pdu.Pad(len(in.dst)) - len(in.dst)
	return pdu.UpdateDigest(in.crc, in.tail[:pad]) != pdu.DigestAt(in.tail[pad:])
}
