package admin

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi"
)

// changeLUN carries out a change of one of a target's LUNs: work is called with the turn held, and those of the other targets that the LUN's disk
// stands behind, and with a copy of what is set, which it may change.
func (m *Manager) changeLUN(ctx context.Context, ref Ref, d *deed, work func(ctx context.Context, e *entry, t *spec.Target) error) (err error) {
	same := false
	defer func() { m.tell(ctx, *d, same, err) }()
	ctx, done, err := m.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	e, give, err := m.holdDisk(ctx, ref, uint16(d.lun))
	if err != nil {
		return err
	}
	defer give()
	d.target = e.name
	t := m.specOf(e)
	if err = work(ctx, e, &t); err == errSame {
		same, err = true, nil
	}
	return err
}

// errSame is what work returns when there was nothing to do.
var errSame = fmt.Errorf("nothing changes")

// saveTarget saves a target whose LUNs have changed.
func (m *Manager) saveTarget(e *entry, t *spec.Target) error {
	set, err := m.targetChange(e, nil, t, nil, nil)
	if err != nil {
		return err
	}
	return m.save(set)
}

// place is where the LUN of that number is, or is to be, among t's, and whether it is there.
func place(t *spec.Target, lun uint16) (int, bool) {
	return slices.BinarySearchFunc(t.LUNs, lun, func(l spec.LUN, n uint16) int { return cmp.Compare(l.Number, n) })
}

// AddLUN is Service's.
func (m *Manager) AddLUN(ctx context.Context, ref Ref, l spec.LUN, force bool) (out spec.LUN, err error) {
	d := &deed{op: "lun add", kind: LUNAdded, target: ref.Name, lun: int(l.Number), what: shown(l.Volume)}
	err = m.changeLUN(ctx, ref, d, func(ctx context.Context, e *entry, t *spec.Target) error {
		l = l.Clone()
		i, there := place(t, l.Number)
		switch {
		case there:
			return Errorf(LUNExists, "target %s has a LUN %d already", e.name, l.Number)
		case l.Number == 0 && !t.NoController:
			return &Error{Code: LUNExists, Text: "target " + e.name + ": LUN 0 is the controller", Hint: "a disk there wants a target without one"}
		case len(t.LUNs) >= m.cfg.MaxLUNs:
			return Errorf(TooMany, "target %s has %d LUNs, the most that are allowed", e.name, len(t.LUNs))
		}
		if err := l.CheckLUN(e.name); err != nil {
			return invalid(err)
		}
		if len(t.LUNs) == 0 {
			if err := m.join(ctx, e, t, &l); err != nil {
				return err
			}
		}
		p, err := m.prepare(ctx, e, e.live, &l, force)
		if err != nil && survives(ctx, &l, err, false) {
			p, err = m.prepareFaulty(e, e.live, &l, err)
		}
		if err != nil {
			return err
		}
		t.LUNs = slices.Insert(t.LUNs, i, l)
		if err := m.saveTarget(e, t); err != nil {
			p.abort()
			return err
		}
		p.commit()
		m.publish(e, t, nil, nil)
		out = l.Clone()
		return nil
	})
	return out, err
}

// RemoveLUN is Service's.
func (m *Manager) RemoveLUN(ctx context.Context, ref Ref, lun uint16, force bool) error {
	d := &deed{op: "lun remove", kind: LUNRemoved, target: ref.Name, lun: int(lun)}
	if force {
		d.what = "force"
	}
	return m.changeLUN(ctx, ref, d, func(ctx context.Context, e *entry, t *spec.Target) error {
		i, there := place(t, lun)
		if !there {
			if lun == 0 && !t.NoController {
				return Errorf(Invalid, "target %s: LUN 0 is the controller", e.name)
			}
			return noLUN(e, lun)
		}
		was := t.Clone()
		t.LUNs = slices.Delete(t.LUNs, i, i+1)
		if !force {
			if n := commands(e, lun); n != 0 {
				return &Error{Code: LUNInUse, Text: fmt.Sprintf("target %s LUN %d: %d commands are under way", e.name, lun, n), Hint: "try again, or force it"}
			}
		}
		stay, err := m.quit(ctx, []*disk{e.disks[lun]}, force)
		if err != nil {
			return err
		}
		if err := m.saveTarget(e, t); err != nil {
			stay()
			return err
		}
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.cfg.CloseTimeout) // a volume that is silent is left to itself
		defer cancel()
		err = e.live.RemoveLUN(closing, lun, force)
		if code := CodeOf(coded(err, Internal)); err != nil && code == LUNInUse {
			// A command has come since we looked. What was saved is taken back; if it cannot be, the LUN has to go.
			serr := m.saveTarget(e, &was)
			if serr == nil {
				stay()
				return coded(err, Internal)
			}
			m.log.Warn("a LUN is removed with commands under way, since its removal is saved and could not be taken back", "target", e.name, "lun", lun, "error", serr)
			err = e.live.RemoveLUN(closing, lun, true)
		}
		if err != nil {
			m.log.Warn("a LUN was removed, but what was behind it could not be closed in order", "target", e.name, "lun", lun, "error", err)
		}
		m.release(e.disks[lun])
		delete(e.disks, lun)
		m.fault(e, lun, nil)
		m.publish(e, t, nil, nil)
		return nil
	})
}

func noLUN(e *entry, lun uint16) error {
	return Errorf(NoLUN, "target %s has no LUN %d", e.name, lun)
}

// commands is how many commands are under way at a LUN.
func commands(e *entry, lun uint16) int {
	for _, l := range e.live.Disks() {
		if l.LUN == lun {
			return l.Queued
		}
	}
	return 0
}

// EditLUN is Service's.
func (m *Manager) EditLUN(ctx context.Context, ref Ref, lun uint16, edit func(*spec.LUN) error) error {
	d := &deed{op: "lun change", kind: LUNChanged, target: ref.Name, lun: int(lun)}
	return m.changeLUN(ctx, ref, d, func(ctx context.Context, e *entry, t *spec.Target) error {
		i, there := place(t, lun)
		if !there {
			return noLUN(e, lun)
		}
		cur := t.LUNs[i].Clone()
		next := cur.Clone()
		if err := edit(&next); err != nil {
			return invalid(err)
		}
		next = next.Clone()
		if d.detail = spec.Changes(cur, next); d.detail == "" {
			return errSame
		}
		if next.Number != cur.Number || next.Identity != cur.Identity || cmp.Or(next.BlockSize, 512) != cmp.Or(cur.BlockSize, 512) {
			return Errorf(Invalid, "target %s LUN %d: its number, identity and block size stay", e.name, lun)
		}
		if err := next.CheckLUN(e.name); err != nil {
			return invalid(err)
		}
		t.LUNs[i] = next
		if next.Volume != cur.Volume || m.faulty(e, lun) && !next.Offline {
			return m.swapLUN(ctx, e, t, &cur, &next, &swap{})
		}
		all, err := m.alike(e, t, lun, func(o *entry, l *spec.LUN) error {
			follow(l, &cur, &next)
			return l.CheckLUN(o.name)
		})
		if err != nil {
			return invalid(err)
		}
		if err := m.updateLUN(ctx, e, &next, false); err != nil {
			return err
		}
		if cur.ReadOnly && !next.ReadOnly && m.readOnly(e, lun) {
			m.restore(e, &cur)
			return &Error{Code: Unsupported, Text: fmt.Sprintf("target %s LUN %d: the volume is open without the right to write", e.name, lun),
				Hint: "remove the LUN and add it anew, writable"}
		}
		if err := m.put(all); err != nil {
			m.restore(e, &cur)
			return err
		}
		return nil
	})
}

// readOnly reports whether a LUN that is there refuses writes.
func (m *Manager) readOnly(e *entry, lun uint16) bool {
	for _, d := range e.live.Disks() {
		if d.LUN == lun {
			return d.ReadOnly
		}
	}
	return false
}

func (m *Manager) faulty(e *entry, lun uint16) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return e.faults[lun] != ""
}

// updateLUN makes the live LUN what l says.
func (m *Manager) updateLUN(ctx context.Context, e *entry, l *spec.LUN, force bool) error {
	online := !l.Offline && l.Volume != "" && !m.faulty(e, l.Number)
	cfg := m.diskConfig(e, l)
	cfg.Identity = "" // the disk keeps the one that it was made with, whatever medium it has by now
	if d := e.disks[l.Number]; d != nil && d.unit != nil {
		cfg.TID = d.unit.e.tid // and tgt's names of the target that it was made for
	}
	err := e.live.UpdateDisk(ctx, l.Number, scsi.DiskUpdate{Config: cfg, Online: online, Force: force})
	return coded(err, Invalid)
}

// restore makes the live LUN again what it was before a change that could not be saved.
func (m *Manager) restore(e *entry, l *spec.LUN) {
	ctx, cancel := context.WithTimeout(context.Background(), m.cfg.CloseTimeout)
	defer cancel()
	if err := m.updateLUN(ctx, e, l, true); err != nil {
		m.log.Warn("a LUN could not be made again what it was", "target", e.name, "lun", l.Number, "error", err)
	}
}

// A swap says how a LUN gets a volume.
type swap struct {
	opened   backstore.Store // the volume, where it is open already; swapLUN owns it from then on
	takeOver bool            // shut out who has it, and take it away from under the LUN's initiators
}

// swapLUN gives a LUN another volume, or the same one anew.
func (m *Manager) swapLUN(ctx context.Context, e *entry, t *spec.Target, cur, next *spec.LUN, how *swap) error {
	if !how.takeOver && !cur.Offline && !next.Offline && cur.Volume != "" && !m.faulty(e, cur.Number) {
		return &Error{Code: Invalid, Text: fmt.Sprintf("target %s LUN %d is online", e.name, cur.Number), Hint: "take it offline to give it another volume"}
	}
	stay, err := m.quit(ctx, []*disk{e.disks[cur.Number]}, false)
	if err != nil {
		m.closeStore(e.disks[cur.Number], how.opened)
		return err
	}
	swapped := false
	defer func() {
		if !swapped {
			stay()
		}
	}()
	if others := m.ways(e, cur.Number); len(others) != 0 { // none comes to it any more
		m.closeStore(e.disks[cur.Number], how.opened)
		return &Error{Code: Unsupported, Text: fmt.Sprintf("target %s LUN %d: its disk, which is to have another volume, is %s, too", e.name, cur.Number, others[0]),
			Hint: "remove it there, and add it anew afterwards"}
	}
	if how.opened == nil {
		goOn, err := m.holdRetries(ctx, e, cur.Number)
		if err != nil {
			return err
		}
		defer goOn()
	}
	old, d := e.disks[next.Number], &disk{e: e, lun: next.Number, identity: next.Identity} // d may have the volume that old has
	st := how.opened
	if next.Volume != "" {
		u, err := backstore.ParseURI(next.Volume)
		if err != nil {
			return Errorf(Invalid, "%s: %w", d, err)
		}
		d.key = m.cfg.Registry.Key(u)
		other, err := m.claim(d, old)
		if err == nil && other != nil {
			m.release(d)
			err = &Error{Code: Unsupported, Text: fmt.Sprintf("%s: the volume is %s's already", d, other), Hint: "remove the LUN and add it anew"}
		}
		if err == nil && st == nil {
			if st, err = m.openVolume(ctx, u, d, next, how.takeOver); err != nil {
				m.release(d)
				err = &Error{Code: OpenFailed, Err: fmt.Errorf("%s: %s: %w", d, shown(next.Volume), err)}
			}
		}
		if err != nil {
			m.closeStore(d, how.opened)
			return err
		}
		d.store = st
	}
	undo := func() { m.release(d); m.restore(e, cur) }
	if !cur.Offline {
		off := *cur
		off.Offline = true
		if err := m.updateLUN(ctx, e, &off, how.takeOver); err != nil {
			m.closeStore(d, st)
			undo()
			return err
		}
	}
	swap, err := e.live.PrepareSwap(ctx, next.Number, st)
	if err != nil {
		undo()
		return coded(err, Invalid)
	}
	if err := m.saveTarget(e, t); err != nil {
		if aerr := swap.Abort(context.WithoutCancel(ctx)); aerr != nil {
			m.log.Warn("a volume that was not to be used after all could not be closed in order", "target", e.name, "lun", d.lun, "error", aerr)
		}
		undo()
		return err
	}
	swapped = true
	if err := swap.Commit(context.WithoutCancel(ctx)); err != nil {
		m.log.Warn("the volume that a LUN had could not be closed in order", "target", e.name, "lun", d.lun, "error", err)
	}
	m.release(old)
	m.mu.Lock()
	d.there = true
	m.mu.Unlock()
	e.disks[d.lun] = d
	m.fault(e, d.lun, nil)
	m.restore(e, next)
	m.publish(e, t, nil, nil)
	return nil
}

func (m *Manager) closeStore(d *disk, st backstore.Store) {
	if st == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), m.cfg.CloseTimeout)
	defer cancel()
	if err := st.Close(ctx); err != nil {
		m.log.Warn("a volume could not be closed in order", "target", d.e.name, "lun", d.lun, "error", err)
	}
}

// ResizeLUN is Service's.
func (m *Manager) ResizeLUN(ctx context.Context, ref Ref, lun uint16, size int64, force bool) (now int64, err error) {
	d := &deed{op: "lun resize", kind: LUNResized, target: ref.Name, lun: int(lun)}
	err = m.changeLUN(ctx, ref, d, func(ctx context.Context, e *entry, t *spec.Target) error {
		i, there := place(t, lun)
		if !there {
			return noLUN(e, lun)
		}
		if size < 0 {
			return Errorf(Invalid, "target %s LUN %d: a size of %d bytes", e.name, lun, size)
		}
		var err error
		if now, err = m.resize(ctx, e, t, &t.LUNs[i], size, force); err == nil {
			d.detail = fmt.Sprintf("%d bytes", now)
		}
		return err
	})
	return now, err
}
