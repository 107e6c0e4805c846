package scsi

import (
	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// An LU is one logical unit: a disk on a store, the controller, or the answer for a LUN that is not there.
// It belongs to one event loop: all its methods are called on that loop, or with its lock held.
type LU struct {
	shape
	device uint8 // peripheral qualifier and device type, byte 0 of INQUIRY data

	// Set by NewDisk, then read-only.
	host      Host
	completer backstore.Completer // host, converted once

	cfg      DiskConfig // what the shape was made of, without the reservations
	store    backstore.Store
	kicker   backstore.Kicker   // nil: the store wants none
	canceler backstore.Canceler // nil: the store has none

	initial   modes // at start, and after a reset
	modes     modes
	protected bool // readOnly, or by SWP
	passing   bool // the volatile cache is about to be turned off: see WriteThrough
	through   bool // a write is durable when it ends: modes.writeThrough, or passing

	unready  bool   // commands that need the medium end NOT READY: one of the next four
	offline  string // why the LU was taken offline for good; empty: it was not
	unloaded bool   // there is no medium, or SetOnline took it away
	ejected  bool   // START STOP UNIT has ejected it
	fenced   bool   // somebody else has taken the store's volume over
	failed   bool   // the store has refused to make something durable
	prevents int    // nexuses that prevent medium removal

	// epoch is one more each time when what Prepare saw may hold no longer: see refit. A command of before medium, the epoch of the last
	// change of the store, is for a medium that is no more.
	epoch, medium uint32

	persistence Persistence // nil: APTPL is not offered; set by NewDisk
	ports       []port      // target ports that lead here
	reserver    *NexusLU    // for whom RESERVE holds, or nil
	pr          persistent
	saving      saving

	nexuses []*NexusLU
	pending []*Command // in no order; those in doubt included
	doubts  int        // commands aborted with a request still at the store
	late    Lateness
	index   rangeIndex
	flight  int // requests at the store
	ready   queue
	set     taskSet
	stirred []*NexusLU // have held commands, and one has left early since they were looked at
	freed   []*Command // scratch for the index
	unkick  bool       // something was submitted since the last Kick

	wake   backstore.Request // what the LU posts to itself when Abort freed somebody
	woken  bool
	behind background
}

// A fuaMode says how the FUA bit is carried out.
type fuaMode uint8

const (
	noFUA      fuaMode = iota // not offered
	nativeFUA                 // the store's flag
	flushedFUA                // a flush behind the write, or ahead of the read
)

// Prepare checks a command before its data is there: operation code, CDB, unit attention, range, write protection
// and the length of Data-Out. False: the command has ended and its result is set. No store is touched and
// nothing is allocated.
func (lu *LU) Prepare(c *Command) bool {
	c.reset(lu)
	row := lu.ops.find(c.CDB)
	if n := c.Nexus; n != nil && (n.attentions != 0 || row != nil && n.denied>>row.resv&1 != 0) && n.withholds(c, row) {
		return false
	}
	if c.Attr > sam.HeadOfQueue {
		// SAM-5 §8.6: without an ACA condition, and there is none here, no command may have the ACA attribute; the rest is reserved.
		return c.illegal(sense.InvalidMessage)
	}
	if row == nil {
		return lu.noRow(c)
	}
	if len(c.CDB) < int(row.length) {
		return c.badField(uint16(len(c.CDB)), -1)
	}
	if c.CDB[row.length-1]&cdb.NACA != 0 {
		return c.badField(uint16(row.length)-1, 2) // NORMACA is 0: no ACA here (SAM-5 §5.2)
	}
	c.row = row
	if row.prepare == nil {
		return true
	}
	return row.prepare(lu, c)
}

// withholds ends c if the nexus has to learn of a unit attention condition, or a reservation is in the way. Precedence is SAM-5's
// (§5.3.3): a reset, then the conflict, then the other conditions, ahead of whatever else the command could be told
// (§5.14). row is nil for a command that the LU does not have.
func (n *NexusLU) withholds(c *Command, row *op) bool {
	attentive := row != nil && row.attentive
	reset := n.attentions&(1<<resetClass-1) != 0 && !attentive
	if !reset && row != nil && n.denied>>row.resv&1 != 0 && row.conflicts(c) {
		return true
	}
	if n.attentions == 0 || attentive {
		return false
	}
	c.fail(sense.Data{Key: sense.UnitAttention, Code: n.take()})
	return true
}

// Execute carries out a command that Prepare let through, when its task attribute lets it.
func (lu *LU) Execute(c *Command) Outcome {
	n := c.Nexus
	if c.Attr > sam.Simple || lu.set.gate != 0 || n != nil && len(n.early) != 0 {
		return lu.enter(c)
	}
	if n != nil && n.denied>>c.row.resv&1 != 0 && c.row.conflicts(c) {
		return Done
	}
	return c.row.execute(lu, c)
}

// run carries out a command that is enabled. What has been reserved since it came counts as well.
func (lu *LU) run(c *Command) Outcome {
	if n := c.Nexus; n != nil && n.denied>>c.row.resv&1 != 0 && c.row.conflicts(c) {
		return Done
	}
	return c.row.execute(lu, c)
}

// Capacity returns the number of logical blocks and their size in bytes; 0, 0 where the LU has no medium.
func (lu *LU) Capacity() (blocks uint64, blockSize uint32) { return lu.blocks, lu.blockSize }

// AbortNeedsEnd reports whether an aborted command's request must have ended before a task management
// function may be called complete: others may write the volume past this LU, so that keeping its range
// apart here is not enough.
func (lu *LU) AbortNeedsEnd() bool { return lu.info.Shared }

// InDoubt returns the number of aborted commands whose request the store still has.
func (lu *LU) InDoubt() int { return lu.doubts }

// Kick passes the end of a batch on to the store, if anything was submitted since the last one.
func (lu *LU) Kick() {
	if lu.unkick {
		lu.unkick = false
		lu.kicker.Kick()
	}
}

// full ends c because the LU has no room for it (SAM-5 §5.3.1: BUSY for a nexus without a command
// here, which would wait for ever for one of its own to end).
func (lu *LU) full(c *Command) Outcome {
	c.Status, c.Data, c.Sense = sam.TaskSetFull, nil, nil
	c.In, c.Out = 0, 0
	if c.Nexus != nil && c.Nexus.pending == 0 {
		c.Status = sam.Busy
	}
	return Done
}
