package target

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi"
)

// A PendingSwap is another volume that is ready to take the place of an offline disk's. Until Commit or Abort, one of which must
// follow, nothing else of the disk can be changed.
type PendingSwap struct {
	t     *Target
	u     *unit
	st    backstore.Store
	m     *scsi.Medium
	ended bool // guarded by the loop's lock
}

// PrepareSwap does everything of giving an offline disk another volume that can fail; a nil st leaves it without one. It waits within
// ctx until the store that the disk has now has ended what was under way. The disk keeps its identity, its names and its reservations.
// The server owns st from then on, also when an error is returned: then st is closed. The errors are ErrNoLUN, ErrOnline, ErrLUNInUse, and what
// st will not do.
func (t *Target) PrepareSwap(ctx context.Context, lun uint16, st backstore.Store) (*PendingSwap, error) {
	p, err := t.prepareSwap(ctx, lun, st)
	if err == nil {
		return p, nil
	}
	err = fmt.Errorf("target %s LUN %d: %w", t.name, lun, plain(err))
	if st != nil {
		ctx, cancel := context.WithTimeout(context.Background(), t.s.cfg.StoreCloseAfter)
		defer cancel()
		err = errors.Join(err, st.Close(ctx))
	}
	return nil, err
}

func (t *Target) prepareSwap(ctx context.Context, lun uint16, st backstore.Store) (*PendingSwap, error) {
	u, err := t.changing(ctx, lun)
	if err != nil {
		return nil, err
	}
	p := &PendingSwap{t: t, u: u, st: st}
	if err = p.plan(); err == nil {
		err = p.drained(ctx)
	}
	if err == nil {
		err = p.attach()
	}
	if err != nil {
		u.change.give()
		return nil, err
	}
	t.watch(u, st)
	return p, nil
}

func (p *PendingSwap) plan() (err error) {
	p.t.l.ev.Lock()
	defer p.t.l.ev.Unlock()
	p.m, err = p.u.lu.PlanMedium(p.st)
	return err
}

// drained waits until nothing is under way at the store that the disk has.
func (p *PendingSwap) drained(ctx context.Context) error {
	l := p.t.l
	tick := time.NewTicker(closePoll)
	defer tick.Stop()
	for {
		l.ev.Lock()
		l.kick()
		n := p.u.lu.InFlight()
		l.ev.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %d requests have not ended: %w", ErrLUNInUse, n, ctx.Err())
		case <-tick.C:
		}
	}
}

func (p *PendingSwap) attach() error {
	l := p.t.l
	l.ev.Lock()
	defer l.ev.Unlock()
	if l.closed || p.u.refs == 0 {
		return ErrNoLUN
	}
	if a, ok := p.st.(backstore.Attacher); ok {
		if err := a.Attach(l); err != nil {
			return err
		}
	}
	p.u.swap = p
	return nil
}

// endLocked makes p end without effect, and reports whether it had not ended.
func (p *PendingSwap) endLocked() bool {
	if p.ended {
		return false
	}
	p.ended, p.u.swap = true, nil
	if a, ok := p.st.(backstore.Attacher); ok {
		a.Detach()
	}
	return true
}

// Commit gives the disk its new volume, which is to be brought online yet, and closes the one before. The error is of that closing alone:
// what had been written to that volume may not be durable. When the disk has been removed meanwhile, both are closed
// with it and nothing happens.
func (p *PendingSwap) Commit(ctx context.Context) error {
	l := p.t.l
	l.ev.Lock()
	if p.ended {
		l.ev.Unlock()
		return nil
	}
	p.ended, p.u.swap = true, nil
	old := p.u.store
	if a, ok := old.(backstore.Attacher); ok {
		a.Detach()
	}
	p.u.lu.SetMedium(p.m)
	p.u.store = p.st
	l.ev.Unlock()
	defer p.u.change.give()
	return closeStore(ctx, old)
}

// Abort leaves the disk as it is and closes the store that it was to have. After Commit it does nothing.
func (p *PendingSwap) Abort(ctx context.Context) error {
	p.t.l.ev.Lock()
	ends := p.endLocked()
	p.t.l.ev.Unlock()
	if !ends {
		return nil
	}
	defer p.u.change.give()
	return closeStore(ctx, p.st)
}

func closeStore(ctx context.Context, st backstore.Store) error {
	if st == nil {
		return nil
	}
	return st.Close(ctx)
}
