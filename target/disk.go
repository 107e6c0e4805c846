package target

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// Why a LUN could not be changed. What is returned says which target and LUN, and more; errors.Is finds these.
var (
	// ErrLUNExists: there is a disk at that number, or one is being prepared for it.
	ErrLUNExists = errors.New("the LUN is in use")
	// ErrNoLUN: there is no disk at that number.
	ErrNoLUN = errors.New("there is no such LUN")
	// ErrLUNInUse: commands are under way there; or a session that is still there knows another volume by that number.
	ErrLUNInUse = errors.New("the LUN is still in use")
	// ErrWouldShrink: a disk would become smaller, and whatever lies behind its new end be lost.
	ErrWouldShrink = errors.New("the disk would shrink")
	// ErrRemovalPrevented: an initiator prevents the removal of the medium.
	ErrRemovalPrevented = errors.New("an initiator prevents the removal of the medium")
	// ErrNoMedium: the disk has no volume.
	ErrNoMedium = errors.New("the disk has no volume")
	// ErrOrphans: Config.MaxOrphans. Each has memory and descriptors; there are to be no more of them until their engines answer.
	ErrOrphans = errors.New("too many volumes of LUNs that were removed have not ended their requests")
	// ErrOnline: the volume of a disk that is online is not changed.
	ErrOnline = errors.New("the disk is online")
)

// PutOptions say how a disk is put behind a LUN.
type PutOptions struct {
	// Force gives a LUN to a volume though a session that is there still knows another volume by that number. The session is told of it,
	// 3Fh/0Eh and 3Fh/03h, but what it had in mind for the old volume may yet reach the new one.
	Force bool
	// Offline puts the disk there without its medium: UpdateDisk brings it online.
	Offline bool
}

// A PendingDisk is a disk that is ready to be put behind a LUN. Nobody sees it before Commit; either Commit or Abort must follow.
type PendingDisk struct {
	t     *Target
	lun   uint16
	u     *unit
	ended bool // guarded by the loop's lock
}

// AddDisk puts st behind the LUN of number lun, 0 to 16383: PrepareDisk, then Commit. Sessions see the LUN at once, with a
// unit attention.
func (t *Target) AddDisk(lun uint16, st backstore.Store, cfg scsi.DiskConfig) error {
	p, err := t.PrepareDisk(lun, st, cfg, PutOptions{})
	if err == nil {
		p.Commit()
	}
	return err
}

// PrepareDisk does everything of putting st behind the LUN of number lun that can fail: the logical unit is made, and its place is kept
// for it. A nil st makes a drive without a medium. The server owns st from then on, also when an error is returned: then st is
// closed. The errors are ErrLUNExists, ErrLUNInUse, ErrClosed, and what cfg or st will not do.
func (t *Target) PrepareDisk(lun uint16, st backstore.Store, cfg scsi.DiskConfig, o PutOptions) (*PendingDisk, error) {
	p, err := t.prepareDisk(lun, st, cfg, o)
	if err == nil {
		return p, nil
	}
	err = fmt.Errorf("target %s LUN %d: %w", t.name, lun, err)
	if st != nil {
		ctx, cancel := context.WithTimeout(context.Background(), t.s.cfg.StoreCloseAfter)
		defer cancel()
		err = errors.Join(err, st.Close(ctx))
	}
	return nil, err
}

func (t *Target) prepareDisk(lun uint16, st backstore.Store, cfg scsi.DiskConfig, o PutOptions) (*PendingDisk, error) {
	if lun > sam.MaxFlatLUN {
		return nil, fmt.Errorf("LUNs go up to %d", sam.MaxFlatLUN)
	}
	var info backstore.Info
	if st != nil {
		info = st.Info()
	}
	if n := t.s.orphans.Load(); n >= int64(t.s.cfg.MaxOrphans) && st != nil {
		return nil, fmt.Errorf("%w: %d", ErrOrphans, n)
	}
	cfg.TargetName, cfg.LUN = t.name, lun
	state, err := t.s.state.claim(&cfg, info)
	if err != nil {
		return nil, err
	}
	p, err := t.reserve(lun, st, cfg, cfg.Volume(info), state, o)
	if err != nil {
		state.release()
		return nil, err
	}
	t.watch(p.u, st)
	return p, nil
}

// reserve makes the logical unit and keeps its place.
func (t *Target) reserve(lun uint16, st backstore.Store, cfg scsi.DiskConfig, volume string, state *stateFile, o PutOptions) (*PendingDisk, error) {
	l := t.l
	l.ev.Lock()
	defer l.ev.Unlock()
	switch {
	case l.closed:
		return nil, ErrClosed
	case t.gone:
		return nil, ErrNoTarget
	}
	if err := t.freeLocked(lun, volume, o.Force); err != nil {
		return nil, err
	}
	a, attaches := st.(backstore.Attacher)
	if attaches {
		if err := a.Attach(l); err != nil {
			return nil, err
		}
	}
	lu, err := scsi.NewDisk(st, l, cfg)
	if err == nil && o.Offline {
		err = lu.SetOnline(false, true)
	}
	if err != nil {
		if attaches {
			a.Detach()
		}
		if state != nil {
			err = fmt.Errorf("%w (state file %s)", err, state.path())
		}
		return nil, err
	}
	p := &PendingDisk{t: t, lun: lun, u: &unit{lu: lu, store: st, state: state, refs: 1}}
	t.pending[lun] = p
	return p, nil
}

// freeLocked says whether a volume may be put behind a LUN.
func (t *Target) freeLocked(lun uint16, volume string, force bool) error {
	if i, there := t.find(lun); there && !t.luns[i].unit.controller || t.pending[lun] != nil {
		return ErrLUNExists
	}
	if force {
		return nil
	}
	for _, s := range t.sessions {
		if s.mistakes(lun, volume) {
			return fmt.Errorf("%w: %s has a session that knows another volume by that number; it has to log out, or the change to be forced", ErrLUNInUse, s.s.Nexus.Initiator)
		}
	}
	return nil
}

// mistakes reports whether the session knows another volume by the number that it would see the LUN under, and that volume is there no
// more. A controller, which has none, is not taken for one.
func (s *sess) mistakes(lun uint16, volume string) bool {
	for as, was := range s.had {
		n, _ := as.Number()
		if _, shown := s.sees.luns[n]; (shown || !s.sees.masked || n == 0) && s.number(n) == lun && was != volume && was != "" {
			return true
		}
	}
	return false
}

// Commit puts the disk behind its LUN. Sessions see it at once, with a unit attention. When the target has been removed
// meanwhile, the store has been closed with it, and nothing happens.
func (p *PendingDisk) Commit() {
	l := p.t.l
	l.ev.Lock()
	defer l.ev.Unlock()
	if p.ended {
		return
	}
	p.ended = true
	delete(p.t.pending, p.lun)
	p.t.placeLocked(p.lun, p.u)
}

// Abort gives the place back and closes the store. After Commit it does nothing.
func (p *PendingDisk) Abort(ctx context.Context) error {
	l := p.t.l
	l.ev.Lock()
	if p.ended {
		l.ev.Unlock()
		return nil
	}
	p.ended = true
	delete(p.t.pending, p.lun)
	last := p.t.dropLocked(p.u)
	l.ev.Unlock()
	if !last {
		return nil
	}
	return l.closeUnit(ctx, p.u)
}

// RemoveLUN takes a LUN away. With force its commands are aborted, which their initiators are told (TASK ABORTED); else it is ErrLUNInUse
// while any are under way. When it returns the store is closed, unless the disk stands behind another LUN, too. When a request of the store never
// ends, the store is orphaned and an error of backstore.ClassBusy says so.
func (t *Target) RemoveLUN(ctx context.Context, lun uint16, force bool) error {
	l := t.l
	l.ev.Lock()
	i, there := t.find(lun)
	if !there || t.luns[i].unit.controller {
		l.ev.Unlock()
		return fmt.Errorf("target %s LUN %d: %w", t.name, lun, ErrNoLUN)
	}
	u := t.luns[i].unit
	if n := t.commandsLocked(lun, u); n != 0 && !force {
		l.ev.Unlock()
		return fmt.Errorf("target %s LUN %d: %w: %d commands are under way", t.name, lun, ErrLUNInUse, n)
	}
	t.luns = slices.Delete(t.luns, i, i+1)
	t.abortLUNLocked(lun)
	if lun == 0 && t.controller != nil {
		t.luns = slices.Insert(t.luns, 0, lunEntry{lun: sam.NewLUN(0), unit: t.controller})
	}
	t.lunsChangedLocked()
	last := t.dropLocked(u)
	l.ev.Unlock()
	l.ev.Wake()
	if !last {
		return nil
	}
	return l.closeUnit(ctx, u)
}

// commandsLocked returns how many commands of t's sessions are under way at u by that LUN, and, where u stands behind no other, those
// that were aborted there and whose requests the store still has.
func (t *Target) commandsLocked(lun uint16, u *unit) int {
	n := 0
	for _, s := range t.sessions {
		for _, ln := range s.luns {
			if s.target(ln) == lun {
				n += ln.nexus.Commands()
			}
		}
	}
	if u.refs == 1 {
		n += u.lu.InDoubt()
	}
	return n
}

// takeUnitsLocked empties the LUN map of a target that ends, and returns the units, those that are pending included, that stood behind
// nothing else: closeUnit is to follow for each.
func (t *Target) takeUnitsLocked() (last []*unit) {
	luns := t.luns
	t.luns = nil
	for _, e := range luns {
		if t.dropLocked(e.unit) {
			last = append(last, e.unit)
		}
	}
	for _, p := range t.pending {
		p.ended = true
		if t.dropLocked(p.u) {
			last = append(last, p.u)
		}
	}
	clear(t.pending)
	return last
}

// dropLocked says that u stands behind one LUN of t's less, which is not in the LUN map any more. True: that was the last one of all, and
// closeUnit must follow, without the lock.
func (t *Target) dropLocked(u *unit) (last bool) {
	if !slices.ContainsFunc(t.luns, func(e lunEntry) bool { return e.unit == u }) {
		u.lu.SetPorts(t.name, nil)
	}
	if u.refs--; u.refs != 0 || u.controller {
		return false
	}
	t.l.closings++
	return true
}

// diskLocked returns the unit of a disk.
func (t *Target) diskLocked(lun uint16) (*unit, error) {
	i, there := t.find(lun)
	if !there || t.luns[i].unit.controller {
		return nil, ErrNoLUN
	}
	return t.luns[i].unit, nil
}

// changing finds a disk and waits for the turn to change its store or size, which the caller gives back.
func (t *Target) changing(ctx context.Context, lun uint16) (*unit, error) {
	t.l.ev.Lock()
	u, err := t.diskLocked(lun)
	t.l.ev.Unlock()
	if err != nil {
		return nil, err
	}
	if err := u.change.take(ctx); err != nil {
		return nil, fmt.Errorf("%w: another change of it is under way: %w", ErrLUNInUse, err)
	}
	t.l.ev.Lock()
	defer t.l.ev.Unlock()
	if now, err := t.diskLocked(lun); err != nil || now != u {
		u.change.give()
		return nil, ErrNoLUN
	}
	return u, nil
}
