package target

import (
	"context"
	"errors"
	"fmt"

	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// UpdateDisk changes what can be changed of a disk while it is used, all of it or nothing. Sessions hear of what they are told otherwise from
// now on: INQUIRY data (3Fh/03h), capacity data (2Ah/09h), mode parameters (2Ah/01h), and that the medium is there again
// (28h/00h). Registrations and reservations stay. A volatile cache that is turned off is made durable first, within ctx. The errors
// are ErrNoLUN, ErrRemovalPrevented, ErrNoMedium, ErrLUNInUse where another change of the disk does not end within ctx, and what of u will
// not do.
func (t *Target) UpdateDisk(ctx context.Context, lun uint16, u scsi.DiskUpdate) error {
	if err := t.updateDisk(ctx, lun, &u); err != nil {
		return fmt.Errorf("target %s LUN %d: %w", t.name, lun, plain(err))
	}
	return nil
}

func (t *Target) updateDisk(ctx context.Context, lun uint16, u *scsi.DiskUpdate) error {
	disk, err := t.changing(ctx, lun)
	if err != nil {
		return err
	}
	defer disk.change.give()
	l, lu := t.l, disk.lu
	l.ev.Lock()
	ch, err := lu.Plan(u)
	if err != nil {
		l.ev.Unlock()
		return err
	}
	if !ch.Through(lu) {
		defer l.ev.Unlock()
		return lu.Apply(ch)
	}
	lu.WriteThrough(true) // what is written from now on is durable when it ends
	l.ev.Unlock()
	flushed := t.flush(ctx, disk)
	l.ev.Lock()
	defer l.ev.Unlock()
	lu.WriteThrough(false)
	if flushed != nil {
		return flushed
	}
	if ch, err = lu.Plan(u); err != nil {
		return err
	}
	return lu.Apply(ch)
}

// plain makes this package's errors of those that a logical unit has of the same meaning.
func plain(err error) error {
	for of, is := range map[error]error{scsi.ErrRemovalPrevented: ErrRemovalPrevented, scsi.ErrNoMedium: ErrNoMedium, scsi.ErrOnline: ErrOnline} {
		if errors.Is(err, of) {
			return is
		}
	}
	return err
}

// An errand is a command of the server's own at one logical unit.
type errand struct {
	cmd   scsi.Command
	ended chan struct{} // closed on the loop
}

// flush makes durable what has been written to a disk.
func (t *Target) flush(ctx context.Context, u *unit) error {
	l := t.l
	e := &errand{ended: make(chan struct{})}
	e.cmd.Owner = e
	out := scsi.Done
	l.ev.Lock()
	sound := l.guard(u.lu, func() { out = u.lu.Flush(&e.cmd) })
	l.wantKick(u)
	l.ev.Unlock()
	l.ev.Wake()
	if !sound {
		return errors.New("flush: a fault in lunar itself took the disk offline")
	}
	if out == scsi.Pending {
		select {
		case <-e.ended:
		case <-ctx.Done():
			l.ev.Lock()
			defer l.ev.Unlock()
			l.guard(u.lu, func() { u.lu.Abort(&e.cmd) })
			return fmt.Errorf("flush: it has not ended: %w", ctx.Err())
		}
	}
	if e.cmd.Status == sam.Good {
		return nil
	}
	if d, err := sense.Parse(e.cmd.Sense); err == nil {
		return fmt.Errorf("flush: %v, %v", d.Key, d.Code)
	}
	return fmt.Errorf("flush: %v", e.cmd.Status)
}
