package scsi

import (
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL (SBC-3), SEND DIAGNOSTIC and RECEIVE DIAGNOSTIC RESULTS (SPC-4).

// START STOP UNIT.
const (
	startImmed   = 0x01 // byte 1
	startStart   = 0x01 // byte 4
	startLOEJ    = 0x02
	startNoFlush = 0x04
)

func prepareStartStop(lu *LU, c *Command) bool {
	b4 := c.CDB[4]
	eject := b4&(startLOEJ|startStart) == startLOEJ
	switch {
	case b4>>4 != 0:
		return c.badField(4, 7) // there are no power conditions
	case b4&startLOEJ != 0 && !lu.removable:
		return c.badField(4, 1) // nor is there anything to load or eject
	case b4&startLOEJ != 0 && c.restricted():
		return lu.writeProtected(c) // the others would be without their medium
	case lu.unready && !(lu.ejected && !lu.gone() && b4&startLOEJ != 0):
		return !lu.notReady(c)
	case eject && lu.prevents != 0:
		return c.illegal(sense.MediumRemovalPrevented)
	}
	c.wholeMedium(lu, flushSpan)
	c.plan = flushAfter
	return true
}

// wholeMedium makes c's range all blocks.
func (c *Command) wholeMedium(lu *LU, kind spanKind) {
	c.lba, c.blocks = 0, 0
	c.span = span{first: 0, last: max(lu.blocks, 1) - 1, kind: kind}
}

// executeStartStop flushes on STOP. The unit stays ready: others are using it. The medium of a removable disk can be ejected, and loaded
// again, by any initiator; it is not ready for all of them meanwhile, and the store stays open.
func executeStartStop(lu *LU, c *Command) Outcome {
	if c.CDB[4]&startLOEJ != 0 {
		lu.load(c, c.CDB[4]&startStart != 0)
		c.Status = sam.Good
		return Done
	}
	if c.CDB[4]&(startStart|startNoFlush) != 0 {
		c.Status = sam.Good
		return Done
	}
	return lu.flush(c, c.CDB[1]&startImmed != 0)
}

func (lu *LU) load(c *Command, in bool) {
	switch {
	case in == !lu.ejected:
	case in:
		lu.ejected = false
		lu.readyChanged()
		lu.Raise(sense.MediumMayHaveChanged, c.Nexus)
	default:
		if !lu.unready && lu.caches() {
			lu.flushSoon() // whatever is in doubt is nobody's any more: that is not waited for
		}
		lu.ejected = true
		lu.readyChanged()
	}
}

// PREVENT ALLOW MEDIUM REMOVAL: nobody ejects the medium while a nexus prevents it, and who administers the disk does not take it away,
// unless by force. It ends with the nexus, and with a reset (SPC-4, PREVENT ALLOW MEDIUM REMOVAL).
func preparePreventAllow(lu *LU, c *Command) bool {
	if c.CDB[4]&0x02 != 0 {
		return c.badField(4, 1) // the persistent kind is gone since SBC-3
	}
	return !lu.notReady(c)
}

func executePreventAllow(lu *LU, c *Command) Outcome {
	if n := c.Nexus; n != nil {
		n.prevent(lu, c.CDB[4]&0x01 != 0)
	}
	c.Status = sam.Good
	return Done
}

// SEND DIAGNOSTIC, byte 1.
const (
	diagnosticSelfTest = 0x04
	diagnosticCode     = 0xe0
)

func prepareSendDiagnostic(lu *LU, c *Command) bool {
	switch {
	case c.CDB[1]&diagnosticCode != 0:
		return c.badField(1, 7) // no self-test but the default one
	case c.CDB[3]|c.CDB[4] != 0:
		return c.badField(3, -1) // no page can be sent
	case lu.notReady(c):
		return false
	}
	c.wholeMedium(lu, readSpan)
	c.span.last = 0
	c.plan = jobStep
	return true
}

// executeSendDiagnostic carries out the default self-test: the store answers, and its first block can be read.
func executeSendDiagnostic(lu *LU, c *Command) Outcome {
	c.Buf = nil
	c.job = &verifyJob{byteRange: byteRange{0, int64(lu.blockSize)}}
	return lu.executeJob(c, c.CDB[1]&diagnosticSelfTest == 0)
}

func prepareReceiveDiagnostic(_ *LU, c *Command) bool {
	if c.CDB[1]&0x01 != 0 && c.CDB[2] != 0 { // PCV
		return c.badField(2, -1)
	}
	return true
}

// executeReceiveDiagnostic answers the list of pages, which is the only page.
func executeReceiveDiagnostic(_ *LU, c *Command) Outcome {
	b := c.buffer(5)
	b[3] = 1 // page length
	return c.reply(b, uint64(c.CDB[3])<<8|uint64(c.CDB[4]))
}
