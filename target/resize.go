package target

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// Online resize. Initiators never see blocks that the store does not have: a disk grows behind its store and shrinks ahead of it.

// ResizeDisk makes a disk size bytes large, by its store, and returns the new size; every nexus hears of it (2Ah/09h). Size 0 takes over the size
// that the volume has by now, rounded down to whole blocks. To make it smaller takes force, else it is ErrWouldShrink; requests that
// the store has beyond the new end are waited for, within ctx (then ErrLUNInUse, and nothing has changed). A store that cannot do it
// is an error of backstore.ClassUnsupported.
func (t *Target) ResizeDisk(ctx context.Context, lun uint16, size int64, force bool) (int64, error) {
	n, err := t.resizeDisk(ctx, lun, size, force)
	if err != nil {
		return n, fmt.Errorf("target %s LUN %d: %w", t.name, lun, err)
	}
	return n, nil
}

func (t *Target) resizeDisk(ctx context.Context, lun uint16, size int64, force bool) (int64, error) {
	u, err := t.changing(ctx, lun)
	if err != nil {
		return 0, err
	}
	defer u.change.give()
	st := u.store
	if st == nil {
		return 0, ErrNoMedium
	}
	t.l.ev.Lock()
	now, block := u.lu.Describe().Size, u.lu.Granularity()
	t.l.ev.Unlock()
	var apply func() error
	if size != 0 {
		info := st.Info()
		switch _, able := st.(backstore.Resizer); { // before initiators see anything of it
		case !able:
			return now, backstore.Resize(ctx, st, size) // which says why
		case info.ReadOnly:
			return now, &backstore.Error{Class: backstore.ClassReadOnly, Op: "resize", Cause: fmt.Errorf("%s is open without the right to write", info.Volume)}
		}
		apply = func() error { return backstore.Resize(ctx, st, size) }
	} else {
		if size, err = backstore.PresentSize(ctx, st); err != nil {
			return now, err
		}
		if size -= size % block; size == 0 {
			return now, fmt.Errorf("the volume has less than a block of %d bytes", block)
		}
		apply = func() error { return backstore.AdoptSize(ctx, st, size) }
	}
	switch {
	case size < 0 || size%block != 0:
		return now, &backstore.Error{Class: backstore.ClassRange, Op: "resize", Cause: fmt.Errorf("%d bytes: want a positive multiple of %d", size, block)}
	case size == now:
		return now, nil
	case size > now:
		if err := apply(); err != nil {
			return now, err
		}
		return size, t.capacity(u, size)
	case !force:
		return now, fmt.Errorf("%w: from %d to %d bytes", ErrWouldShrink, now, size)
	}
	if err := t.capacity(u, size); err != nil {
		return now, err
	}
	if err = t.cleared(ctx, u, size); err == nil {
		err = apply()
	}
	if err != nil {
		if back := t.capacity(u, now); back != nil {
			err = fmt.Errorf("%w; and the disk keeps the smaller size: %w", err, back)
		}
		return now, err
	}
	return size, nil
}

// capacity sets the size that initiators see.
func (t *Target) capacity(u *unit, size int64) error {
	t.l.ev.Lock()
	defer t.l.ev.Unlock()
	return u.lu.Resize(size)
}

// cleared waits until the store has no request any more that reaches beyond size.
func (t *Target) cleared(ctx context.Context, u *unit, size int64) error {
	tick := time.NewTicker(closePoll)
	defer tick.Stop()
	for {
		t.l.ev.Lock()
		t.l.kick()
		n := u.lu.Beyond(size)
		t.l.ev.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %d requests beyond the new end have not ended: %w", ErrLUNInUse, n, ctx.Err())
		case <-tick.C:
		}
	}
}

// watch lets a disk follow a volume that changes its size by itself, also to a smaller one: what is not there cannot be read.
func (t *Target) watch(u *unit, st backstore.Store) {
	var notices atomic.Int64 // that nobody has followed yet
	backstore.WatchSize(st, func(int64) {
		if notices.Add(1) != 1 {
			return
		}
		go func() {
			for seen := int64(1); ; seen = notices.Load() {
				if t.follow(u, st); notices.CompareAndSwap(seen, 0) {
					return
				}
			}
		}()
	})
}

// follow takes over the size of st.
func (t *Target) follow(u *unit, st backstore.Store) {
	if u.change.take(context.Background()) != nil { // it has no end but the turn's
		return
	}
	defer u.change.give()
	t.l.ev.Lock()
	defer t.l.ev.Unlock()
	if u.store != st {
		return
	}
	now := u.lu.Describe().Size
	size := st.Info().Size
	size -= size % u.lu.Granularity()
	if size == now || u.refs == 0 {
		return
	}
	if err := u.lu.Resize(size); err != nil {
		t.s.log.Warn("a volume has changed its size, and its disk cannot follow", "target", t.name, "volume", st.Info().Volume, "size", size, "disk", now, "error", err)
		return
	}
	if size < now {
		t.s.log.Warn("a volume has shrunk by itself: what was behind its end is lost", "target", t.name, "volume", st.Info().Volume, "size", size, "before", now)
		return
	}
	t.s.log.Info("a volume has grown by itself", "target", t.name, "volume", st.Info().Volume, "size", size, "before", now)
}
