package scsi

import "github.com/lunar-iscsi/lunar/scsi/sense"

// REQUEST SENSE (SPC-4): a pending unit attention, which is cleared by that, or what the unit's state has to
// say, as parameter data in the format that the DESC bit asks for.
func executeRequestSense(lu *LU, c *Command) Outcome {
	d := sense.Data{Bit: -1}
	switch n := c.Nexus; {
	case lu.ops.absent:
		d.Key, d.Code = sense.IllegalRequest, sense.LogicalUnitNotSupported
	case n != nil && n.attentions != 0:
		d.Key, d.Code = sense.UnitAttention, n.take()
	case lu.unready:
		d.Key, d.Code = sense.NotReady, lu.unreadyCode()
	}
	var b []byte
	if c.CDB[1]&0x01 != 0 {
		b = d.AppendDescriptor(c.buffer(0))
	} else {
		b = d.AppendFixed(c.buffer(0))
	}
	return c.reply(b, uint64(c.CDB[4]))
}
