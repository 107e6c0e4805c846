package scsi

import (
	"iter"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// An Outcome is Execute's answer.
type Outcome uint8

// The outcomes.
const (
	// Done: the command has ended; its result is in Status, Sense and Data.
	Done Outcome = iota
	// Pending: Host.Done is called later, on the loop, never from within Execute.
	Pending
	// WouldBlock: only with NoWait. Nothing was kept or changed; execute again without it.
	WouldBlock
)

// A Host is what an LU's commands come from: the target's loop.
type Host interface {
	// Complete takes a store request that ended, from any goroutine, and lets the loop
	// hand it to Completed. It is what the LU gives to the store as Request.C.
	backstore.Completer
	// Done is told, on the loop, that a command which was Pending has ended: from within Completed, Kick,
	// Overdue or SetOffline, never from within Prepare, Execute, Abort or Reset.
	Done(c *Command)
	// TimedOut is told, on the loop and from within Overdue, that c, which is Pending and stays so until Done, has had its time: the
	// result is set when Overdue returns, and is to be answered then. As after Abort its memory stays pinned. False: it
	// cannot be answered yet; nothing has changed.
	TimedOut(c *Command) bool
	// AbortNexus aborts, by Abort, the commands of a nexus at its LU but one, whatever they wait for, and returns how many: what
	// PREEMPT AND ABORT asks for. With tell each is answered TASK ABORTED (TAS is 1), without it none is. It is called
	// on the loop, from within Execute or Completed.
	AbortNexus(n *NexusLU, except *Command, tell bool) int
}

// An Inventory lists the logical units that a nexus can see.
type Inventory interface {
	// AppendLUNs appends their LUNs in ascending order.
	AppendLUNs(dst []sam.LUN) []sam.LUN
	// Reported says that a nexus has been told: at none of its units a unit attention for a change of the inventory is
	// pending any more (SPC-4, REPORT LUNS).
	Reported(n sam.Nexus)
}

// A Command is one SCSI command at one LU. The host pools them: a Command that has ended may be filled
// and prepared again. It must not be copied once prepared. Only the LU's loop touches it.
type Command struct {
	// Set by the host before Prepare.

	// Nexus is from LU.Attach; it holds this nexus's unit attentions. Nil at an absent LU.
	Nexus *NexusLU
	// CDB is the host's memory, valid until the command has ended; at least as long as the operation
	// code's group says.
	CDB []byte
	// Attr is the task attribute; sam.Untagged is SIMPLE. See taskSet.
	Attr sam.TaskAttribute
	// OutLen is the number of Data-Out bytes that the initiator will send, 0 if none.
	OutLen uint32
	// Inventory serves REPORT LUNS.
	Inventory Inventory
	// Owner is the host's own.
	Owner any

	// Set by Prepare.

	// In is the number of medium bytes that Execute puts into Buf; 0 for all but the READs.
	In uint32
	// Out is the number of Data-Out bytes that Execute needs in Buf; never more than OutLen.
	Out uint32

	// Length is the number of medium bytes that the CDB asks for, 0 for commands without any. It stands after a
	// failure, too: the host needs it for the residual.
	Length uint32

	// Set by the host between Prepare and Execute.

	// Buf is where a READ's In bytes go or a WRITE's Out bytes are, exactly that long. It belongs to
	// the host, which leaves it alone until the command has ended.
	Buf []byte
	// NoWait asks a READ or WRITE to end within Execute or answer WouldBlock. Commands without
	// medium data have no use for it.
	NoWait bool

	// The result.

	Status sam.Status
	// Sense is the sense data of a CHECK CONDITION, valid until the Command is prepared again.
	Sense []byte
	// Data is the Data-In to send: Buf for a READ, else the Command's own memory, valid until it is
	// prepared again. Nil after a failure. The host cuts it to what the initiator expects.
	Data []byte

	// The LU's own, from here on.
	lu      *LU
	row     *op
	lba     uint64
	blocks  uint32
	epoch   uint32 // of the LU, when the command was prepared
	span    span   // what the range index is asked for
	flags   backstore.Flags
	plan    plan // the work left before and after the data itself
	step    step // what the request in req is doing
	state   cmdState
	yielded bool   // atStore, but it is the loop that has it: see LU.yield
	late    bool   // Overdue has counted it
	off     int64  // bytes of the (aligned) transfer that are finished
	job     job    // the work of a command that is more than one transfer; nil for READ and WRITE
	bounce  []byte // the aligned cover of the transfer, where Buf itself will not do
	slot    int32  // in the range index, or noSlot
	pos     int32  // in lu.pending
	next    *Command
	req     backstore.Request

	own      []byte // memory for Data that is not Buf
	senseBuf [sense.MaxLen]byte
	since    uint32 // when Overdue first saw it, or its request, in lateUnits; 0: not yet
}

// keepOwn is how much memory for parameter data a pooled Command may keep.
const keepOwn = 1024

// reset clears what an earlier use left.
func (c *Command) reset(lu *LU) {
	c.lu = lu
	c.In, c.Out, c.Length = 0, 0, 0
	c.Status, c.Sense, c.Data = sam.Good, nil, nil
	c.flags, c.plan, c.state, c.off, c.slot, c.span, c.epoch = 0, 0, idle, 0, noSlot, span{}, lu.epoch
	c.bounce, c.job, c.yielded, c.since, c.late = nil, nil, false, 0, false
}

// buffer returns n zero bytes of the Command's own memory.
func (c *Command) buffer(n int) []byte {
	if c.own == nil || cap(c.own) < n || cap(c.own) > keepOwn && n <= keepOwn {
		c.own = make([]byte, max(n, 256))
	}
	b := c.own[:n]
	clear(b)
	return b
}

// reply ends c well with parameter data, cut to the CDB's allocation length (SPC-4 §4.2.5.6).
func (c *Command) reply(b []byte, allocation uint64) Outcome {
	if uint64(len(b)) > allocation {
		b = b[:allocation]
	}
	c.Status, c.Data = sam.Good, b
	return Done
}

// fail ends c with CHECK CONDITION.
func (c *Command) fail(d sense.Data) {
	c.Status, c.Data = sam.CheckCondition, nil
	c.In, c.Out = 0, 0
	if c.lu != nil && c.lu.modes.descriptorSense {
		c.Sense = d.AppendDescriptor(c.senseBuf[:0])
		return
	}
	c.Sense = d.AppendFixed(c.senseBuf[:0])
}

// illegal ends c with ILLEGAL REQUEST.
func (c *Command) illegal(code sense.Code) bool {
	c.fail(sense.Data{Key: sense.IllegalRequest, Code: code})
	return false
}

// badField ends c with INVALID FIELD IN CDB, pointing at a bit (-1: the byte) of the CDB.
func (c *Command) badField(byteNo uint16, bit int8) bool {
	d := sense.Data{Key: sense.IllegalRequest, Code: sense.InvalidFieldInCDB}
	d.PointAt(sense.InCDB, byteNo, bit)
	c.fail(d)
	return false
}

// badList ends c with INVALID FIELD IN PARAMETER LIST, pointing at a bit (-1: the byte) of the list.
func (c *Command) badList(byteNo uint16, bit int8) bool {
	d := sense.Data{Key: sense.IllegalRequest, Code: sense.InvalidFieldInParameterList}
	d.PointAt(sense.InData, byteNo, bit)
	c.fail(d)
	return false
}

// Pending yields each command that is pending and not aborted. The caller may abort the one it was
// given.
func (lu *LU) Pending() iter.Seq[*Command] {
	return func(yield func(*Command) bool) {
		// From the end: abort moves the last one into the place that it frees.
		for i := len(lu.pending) - 1; i >= 0; i-- {
			if c := lu.pending[i]; c.state != inDoubt && !yield(c) {
				return
			}
		}
	}
}
