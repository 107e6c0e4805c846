package admin

import (
	"context"
	"fmt"
	"slices"

	"github.com/lunar-iscsi/lunar/backstore"
)

// Work that wants a volume for itself may have it from a LUN that is offline: the LUN stays, its volume is closed, and opened anew when the work
// has ended. Meanwhile the LUN is one whose volume could not be opened: if the daemon ends first, the next one opens it. A target's turn is held for the
// closing and for the opening, not in between.

// offlineLocked reports whether a LUN is set to be offline.
func offlineLocked(e *entry, lun uint16) bool {
	if e.spec == nil {
		return false
	}
	i, there := place(e.spec, lun)
	return there && e.spec.LUNs[i].Offline
}

// yieldsLocked reports why d cannot give its volume away for a while, and what to do about it; nil: it can.
func (m *Manager) yieldsLocked(h held, d *disk) error {
	ways := 0
	for _, o := range m.volumes[h.key] {
		if o.unit == d.unit {
			ways++
		}
	}
	switch {
	case !d.there || d.going:
		return &Error{Code: VolumeBusy, Text: fmt.Sprintf("%s: it is being opened or closed for %s", h.n, d), Hint: "try again"}
	case ways > 1:
		return h.inUse(d.String()+", and another LUN as well", d.e.tid, d.lun)
	case !offlineLocked(d.e, d.lun):
		return &Error{Code: VolumeInUse, Text: fmt.Sprintf("%s is %s, which is online", h.n, d),
			Hint: fmt.Sprintf("take it offline first: lunarctl lun offline %d %d", d.e.tid, d.lun)}
	}
	return nil
}

// yield closes the volume of a LUN that is offline, for w.
func (m *Manager) yield(ctx context.Context, w *volumeWork, d *disk) error {
	ref := Ref{TID: d.e.tid}
	ctx, stop := context.WithTimeoutCause(ctx, m.cfg.CallTimeout, fmt.Errorf("not within %v", m.cfg.CallTimeout)) // w has hours, and the turn is everybody's
	defer stop()
	e, give, err := m.holdDisk(ctx, ref, d.lun)
	if err != nil {
		return err
	}
	defer give()
	m.mu.RLock()
	err = m.yieldsLocked(w.holds[0], d) // somebody may have had the turn before us
	m.mu.RUnlock()
	if err == nil && e.disks[d.lun] != d {
		err = &Error{Code: VolumeBusy, Text: fmt.Sprintf("%s: %s has changed", w.holds[0].n, d), Hint: "try again"}
	}
	if err != nil {
		return err
	}
	m.mu.Lock()
	d.going = true
	m.mu.Unlock()
	swap, err := e.live.PrepareSwap(ctx, d.lun, nil)
	if err != nil {
		m.mu.Lock()
		d.going = false
		m.mu.Unlock()
		return coded(err, Invalid)
	}
	m.fault(e, d.lun, &Error{Code: VolumeBusy, Text: fmt.Sprintf("%s: %s", w.holds[0].n, w)})
	e.disks[d.lun] = &disk{e: e, lun: d.lun, faulty: true}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.cfg.CloseTimeout)
	defer cancel()
	err = swap.Commit(closing)
	m.release(d)
	w.yielded = append(w.yielded, d)
	if err != nil {
		// What is still under way at it could be applied at any time.
		return &Error{Code: VolumeInUse, Err: fmt.Errorf("%s: %s: its volume could not be closed in order: %w", w.holds[0].n, d, err), Hint: "try again later"}
	}
	return nil
}

// giveBack opens the volumes anew that were closed for w.
func (m *Manager) giveBack(ctx context.Context, w *volumeWork) {
	if len(w.yielded) == 0 {
		return
	}
	m.mu.Lock()
	w.holds[0].hold, w.holds[0].shut = changing, false // LUNs may have it again, and nothing else comes between
	m.mu.Unlock()
	for _, d := range w.yielded {
		ctx, done := context.WithTimeout(context.WithoutCancel(ctx), m.cfg.CallTimeout)
		err := m.reopen(ctx, &disk{e: d.e, lun: d.lun, faulty: true})
		done()
		switch code := CodeOf(err); {
		case err == nil, code == NoTarget, code == NoLUN:
		default:
			m.log.Warn("the volume of a LUN cannot be opened again; it is tried again", "target", d.e.name, "lun", d.lun, "error", err)
		}
	}
}

// forItself is volumeWork for what wants its first volume for itself, from LUNs that are offline if need be.
func (m *Manager) forItself(ctx context.Context, w *volumeWork, p backstore.Progress, do func(ctx context.Context, p backstore.Progress) error) error {
	w.holds[0].yields = true
	return m.volumeWork(ctx, w, false, p, func(ctx context.Context, _ backstore.Store, p backstore.Progress) error {
		for _, d := range slices.Clone(w.yielding) {
			if err := m.yield(ctx, w, d); err != nil {
				return err
			}
		}
		return do(ctx, p)
	})
}
