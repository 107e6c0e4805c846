package scsi

import (
	"errors"

	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// Whether a disk's medium can be used: a fault may have taken the unit offline for good, there may be no store, and whoever administers the
// disk may have taken the medium away.

// SetOffline makes every command that needs the medium end NOT READY from now on, whoever has it; commands already at the store
// end as they would. It is what a host does with an LU that it no longer trusts. The LU stays so.
func (lu *LU) SetOffline(reason string) {
	lu.offline = reason
	lu.readyChanged()
}

// Offline returns what SetOffline was told, or "".
func (lu *LU) Offline() string { return lu.offline }

// Online reports whether there is a medium and it may be used.
func (lu *LU) Online() bool { return !lu.unready }

// ErrRemovalPrevented: a nexus prevents the removal of the medium (PREVENT ALLOW MEDIUM REMOVAL).
var ErrRemovalPrevented = errors.New("an initiator prevents the removal of the medium")

// ErrNoMedium: there is no store that could be put online.
var ErrNoMedium = errors.New("the disk has no medium")

// SetOnline takes the medium away: commands that need it end NOT READY, MEDIUM NOT PRESENT; what the store has been given ends as it would. Or
// it brings it back, of which each nexus hears (28h/00h). Reservations, mode parameters and unit attentions stay. force takes
// it away from a nexus that prevents that; the error is then not ErrRemovalPrevented.
func (lu *LU) SetOnline(online, force bool) error {
	if err := lu.mayBeOnline(online, force); err != nil || online == !lu.unloaded {
		return err
	}
	lu.unloaded, lu.ejected = !online, false
	lu.readyChanged()
	if online {
		lu.Raise(sense.MediumMayHaveChanged, nil)
	}
	return nil
}

func (lu *LU) mayBeOnline(online, force bool) error {
	switch {
	case online && lu.store == nil:
		return ErrNoMedium
	case !online && !lu.unloaded && lu.prevents != 0 && !force:
		return ErrRemovalPrevented
	}
	return nil
}

func (lu *LU) readyChanged() { lu.unready = lu.gone() || lu.ejected }

// gone: it takes more than an initiator to make the medium ready.
func (lu *LU) gone() bool { return lu.offline != "" || lu.unloaded || lu.fenced }

// notReady ends c if the medium cannot be used. After a fault that takes manual intervention: initiators then report the failure, or
// fail over, instead of trying again for minutes.
func (lu *LU) notReady(c *Command) bool {
	if !lu.unready {
		return false
	}
	c.fail(sense.Data{Key: sense.NotReady, Code: lu.unreadyCode()})
	return true
}

func (lu *LU) unreadyCode() sense.Code {
	if lu.offline != "" {
		return sense.ManualInterventionRequired
	}
	switch {
	case lu.unloaded && lu.store == nil && lu.cfg.Away:
		return sense.BecomingReady
	case lu.unloaded:
	case lu.fenced:
		return sense.UnavailableState
	}
	return sense.MediumNotPresent
}

// broken ends c after a fault. Registrations and reservations do not need the medium.
func (lu *LU) broken(c *Command) bool { return lu.offline != "" && lu.notReady(c) }

// prevent notes whether n prevents the removal of the medium.
func (n *NexusLU) prevent(lu *LU, on bool) {
	if n.prevents == on {
		return
	}
	if n.prevents = on; on {
		lu.prevents++
	} else {
		lu.prevents--
	}
}

// refit looks again at a command that waited before it was carried out, now that what Prepare saw may hold no longer: the disk may
// have shrunk, or be another. False: c has ended.
func (lu *LU) refit(c *Command) bool {
	if c.epoch < lu.medium && c.span.kind != noSpan {
		c.fail(sense.Data{Key: sense.NotReady, Code: sense.MediumNotPresent}) // it was meant for what is there no more
		return false
	}
	c.epoch = lu.epoch
	if c.row.prepare == nil {
		return true
	}
	c.flags, c.plan, c.span = 0, 0, span{}
	return c.row.prepare(lu, c)
}

// within reports whether the store may be given c's next request, in an epoch that is not the one in which c was prepared. False: c
// has ended.
func (lu *LU) within(c *Command) bool {
	switch {
	case lu.notReady(c):
		return false
	case c.req.Off+c.req.Len > lu.info.Size:
		c.fail(sense.Data{Key: sense.IllegalRequest, Code: sense.LBAOutOfRange, HasInfo: true, Info: max(c.lba, lu.blocks)})
		return false
	}
	return true
}
