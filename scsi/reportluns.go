package scsi

import (
	"encoding/binary"

	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// REPORT LUNS (SPC-4; the select codes of 10h and above SPC-5).

// SELECT REPORT codes.
const (
	selectUnits          = 0x00 // all but the well known
	selectWellKnown      = 0x01
	selectAll            = 0x02
	selectAdministrative = 0x10
	selectNoSubsidiary   = 0x11 // all that are no subsidiary logical units
)

func prepareReportLUNs(_ *LU, c *Command) bool {
	switch c.CDB[2] {
	case selectUnits, selectWellKnown, selectAll, selectAdministrative, selectNoSubsidiary:
		return true
	}
	return c.badField(2, -1)
}

func executeReportLUNs(_ *LU, c *Command) Outcome {
	b := c.buffer(8)
	if n := c.Nexus; n != nil {
		// The inventory is what the condition asked the initiator to read.
		n.Withdraw(sense.ReportedLUNsChanged)
		if c.Inventory != nil {
			c.Inventory.Reported(n.Nexus)
		}
	}
	// There are no well known and no administrative logical units here.
	if s := c.CDB[2]; c.Inventory != nil && s != selectWellKnown && s != selectAdministrative {
		luns := c.Inventory.AppendLUNs(nil)
		b = c.buffer(8 + 8*len(luns))
		for i, l := range luns {
			l.Put(b[8+8*i:])
		}
	}
	// LUN LIST LENGTH is the whole list's, however much of it is sent.
	binary.BigEndian.PutUint32(b, uint32(len(b)-8))
	return c.reply(b, uint64(binary.BigEndian.Uint32(c.CDB[6:])))
}
