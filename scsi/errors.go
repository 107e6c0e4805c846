package scsi

import (
	"errors"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// An answer is what an initiator is told of one class of store error.
type answer struct {
	status sam.Status // CheckCondition with the rest, or a status of its own
	key    sense.Key
	read   sense.Code // for READ
	write  sense.Code // for all else
	lba    bool       // INFORMATION: the first block that may be wrong
}

// answers is the one translation of store errors; docs/errors.md has what initiators do on each, and a test holds the two together.
// An engine that is away is never a MEDIUM ERROR: Linux would fail the I/O at once, file systems go read-only and md or ZFS throw
// the disk out.
var answers = [...]answer{
	backstore.ClassInternal:    {sam.CheckCondition, sense.HardwareError, sense.InternalTargetFailure, sense.InternalTargetFailure, false},
	backstore.ClassMedium:      {sam.CheckCondition, sense.MediumError, sense.UnrecoveredReadError, sense.WriteError, true},
	backstore.ClassIntegrity:   {sam.CheckCondition, sense.MediumError, sense.UnrecoveredReadError, sense.WriteError, true},
	backstore.ClassNotFound:    {sam.CheckCondition, sense.HardwareError, sense.LogicalUnitFailure, sense.LogicalUnitFailure, false},
	backstore.ClassOffline:     {sam.CheckCondition, sense.NotReady, sense.BecomingReady, sense.BecomingReady, false},
	backstore.ClassBusy:        {status: sam.Busy},
	backstore.ClassNoSpace:     {sam.CheckCondition, sense.DataProtect, sense.SpaceAllocationFailed, sense.SpaceAllocationFailed, false},
	backstore.ClassNoSpaceTemp: {sam.CheckCondition, sense.NotReady, sense.SpaceAllocationInProgress, sense.SpaceAllocationInProgress, false},
	backstore.ClassReadOnly:    {sam.CheckCondition, sense.DataProtect, sense.WriteProtected, sense.WriteProtected, false},
	backstore.ClassTimeout:     {sam.CheckCondition, sense.AbortedCommand, sense.CommunicationTimeout, sense.CommunicationTimeout, false},
	backstore.ClassFenced:      {sam.CheckCondition, sense.NotReady, sense.UnavailableState, sense.UnavailableState, false},
	backstore.ClassTransport:   {sam.CheckCondition, sense.NotReady, sense.BecomingReady, sense.BecomingReady, false},
	backstore.ClassRange:       {sam.CheckCondition, sense.IllegalRequest, sense.LBAOutOfRange, sense.LBAOutOfRange, false},
	backstore.ClassUnsupported: {sam.CheckCondition, sense.IllegalRequest, sense.InvalidOpcode, sense.InvalidOpcode, false},
	backstore.ClassMiscompare:  {sam.CheckCondition, sense.Miscompare, sense.MiscompareDuringVerify, sense.MiscompareDuringVerify, false},
	backstore.ClassCancelled:   {sam.CheckCondition, sense.AbortedCommand, sense.NoAdditionalSense, sense.NoAdditionalSense, false},
}

// failStore ends c with what its request's error means to an initiator.
func (lu *LU) failStore(c *Command) {
	lu.noteFailure(&c.req)
	class, at := backstore.ClassInternal, int64(-1)
	var e *backstore.Error
	if errors.As(c.req.Err, &e) && int(e.Class) < len(answers) {
		class, at = e.Class, e.Off
	}
	a := &answers[class]
	if a.status != sam.CheckCondition {
		c.Status, c.Data, c.Sense = a.status, nil, nil
		c.In, c.Out = 0, 0
		return
	}
	d := sense.Data{Key: a.key, Code: a.write}
	if c.span.kind == readSpan && c.step != flushAfter {
		d.Code = a.read
	}
	switch {
	case class == backstore.ClassMiscompare && c.req.Op == backstore.CompareAndWrite && at >= 0:
		d.HasInfo, d.Info = true, uint64(at) // SBC-3, COMPARE AND WRITE: the offset in the compare data
	case a.lba && c.step == jobStep:
		if at < 0 {
			at = c.req.Off
		}
		d.HasInfo, d.Info = true, min(max(uint64(at)>>lu.blockShift, c.lba), c.span.last)
	case a.lba && c.step == moveData:
		d.HasInfo, d.Info = true, c.lba
		if lba := uint64(at) >> lu.blockShift; at >= 0 && lba > c.lba && lba < c.lba+uint64(c.blocks) {
			d.Info = lba
		}
	}
	c.fail(d)
}

// noteFailure remembers that r could not make something durable: the store is then failed until it is opened anew. Likewise that the opener has been
// shut out, which nothing but another store ends: who has the volume now is to keep it.
func (lu *LU) noteFailure(r *backstore.Request) {
	if r.Err != nil && backstore.ClassOf(r.Err) == backstore.ClassFenced && !lu.fenced {
		lu.fenced = true
		lu.readyChanged()
	}
	if r.Err != nil && backstore.ClassOf(r.Err) == backstore.ClassMedium && (r.Op == backstore.Flush || r.Op != backstore.Read && r.Flags&backstore.FUA != 0) {
		lu.failed = true
	}
}
