package target

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/target/evloop"
)

// A Target is one iSCSI target. Its methods may be called from any goroutine.
type Target struct {
	s     *Server
	l     *loop
	name  string
	conf  atomic.Pointer[conf]
	ready atomic.Bool

	configuring sync.Mutex // held by Configure, ahead of the loop's lock

	// Owned by the loop.
	sessions map[uint16]*sess // by TSIH
	byNexus  map[sam.Nexus]*sess
	luns     []lunEntry // ascending
	absent   *scsi.LU
	offline  bool                    // conf's
	counts   map[uint16]*lunCounters // by LUN; see countersOf
	astray   lunCounters             // of commands to LUNs that are not there
	strays   LUNStats                // likewise
	past     session.Counters        // of sessions that are no more
	seq      uint64                  // of the last session
	closing  int                     // calls of Drain and Remove under way: nobody is let in
	left     chan struct{}           // closed when a session ends, if somebody waits for that
}

// A lunEntry is one row of a target's LUN map.
type lunEntry struct {
	lun  sam.LUN
	num  uint16
	unit *unit
}

// A unit is one logical unit with its store.
type unit struct {
	lu    *scsi.LU
	store backstore.Store // nil for the controller
	kicks bool            // in loop.kicks
	refs  int             // LUNs that it stands behind
	state *stateFile      // or nil
	share evloop.Share    // of the budget: what its store has, and what waits for that
}

// AddTarget makes a target and opens it for logins. name is an iSCSI name (RFC 7143 §4.2.7), or as TargetConfig.AnyName says.
func (s *Server) AddTarget(name string, cfg TargetConfig) (*Target, error) {
	normalize := login.NormalizeName
	if cfg.AnyName {
		normalize = login.NormalizeTargetName
	}
	norm, err := normalize(name)
	if err != nil {
		return nil, fmt.Errorf("target %q: %w", name, err)
	}
	c, err := s.newConf(cfg)
	if err != nil {
		return nil, fmt.Errorf("target %s: %w", norm, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	if s.table.Load().byName[norm] != nil {
		return nil, fmt.Errorf("target %s exists already", norm)
	}
	var l *loop
	if cfg.LoopOf != nil {
		l = cfg.LoopOf.l
	} else if l, err = s.newLoop(norm); err != nil {
		return nil, fmt.Errorf("target %s: %w", norm, err)
	}
	t := &Target{s: s, l: l, name: norm, offline: c.Offline, sessions: map[uint16]*sess{}, byNexus: map[sam.Nexus]*sess{},
		counts: map[uint16]*lunCounters{}, absent: scsi.NewAbsent()}
	t.conf.Store(c)
	l.ev.Lock()
	if l.leaving || l.closed {
		l.ev.Unlock()
		return nil, fmt.Errorf("target %s: its loop is that of a target that was removed: %w", norm, ErrNoTarget)
	}
	l.targets = append(l.targets, t)
	if !cfg.NoController {
		t.controllerLocked(true)
	}
	l.ev.Unlock()
	t.ready.Store(true)
	s.table.Store(s.table.Load().with(t, nil))
	return t, nil
}

// Name returns the target's normalised iSCSI name.
func (t *Target) Name() string { return t.name }

// Target returns the target of that name, or nil.
func (s *Server) Target(name string) *Target {
	norm, err := login.NormalizeTargetName(name)
	if err != nil {
		return nil
	}
	return s.table.Load().byName[norm]
}

// AddDisk puts st behind the LUN of number lun, 0 to 16383. The server owns st from then on, also when
// it returns an error. Sessions see the LUN at once, with a unit attention.
func (t *Target) AddDisk(lun uint16, st backstore.Store, cfg scsi.DiskConfig) error {
	err := t.addDisk(lun, st, cfg)
	if err != nil {
		ctx, cancel := context.WithTimeout(context.Background(), t.s.cfg.StoreCloseAfter)
		defer cancel()
		err = errors.Join(fmt.Errorf("target %s LUN %d: %w", t.name, lun, err), st.Close(ctx))
	}
	return err
}

func (t *Target) addDisk(lun uint16, st backstore.Store, cfg scsi.DiskConfig) error {
	if lun > sam.MaxFlatLUN {
		return fmt.Errorf("LUNs go up to %d", sam.MaxFlatLUN)
	}
	cfg.TargetName = t.name
	state, err := t.s.state.claim(&cfg, st.Info())
	if err != nil {
		return err
	}
	if err = t.putDisk(lun, st, cfg, state); err != nil {
		state.release()
	}
	return err
}

func (t *Target) putDisk(lun uint16, st backstore.Store, cfg scsi.DiskConfig, state *stateFile) error {
	l := t.l
	l.ev.Lock()
	defer l.ev.Unlock()
	switch {
	case l.closed:
		return ErrClosed
	case !t.ready.Load():
		return ErrNoTarget
	}
	if i, there := t.find(lun); there && t.luns[i].unit.store != nil {
		return errors.New("the LUN is in use")
	}
	if a, ok := st.(backstore.Attacher); ok {
		if err := a.Attach(l); err != nil {
			return err
		}
	}
	lu, err := scsi.NewDisk(st, l, cfg)
	if err != nil {
		if a, ok := st.(backstore.Attacher); ok {
			a.Detach()
		}
		if state != nil {
			err = fmt.Errorf("%w (state file %s)", err, state.path())
		}
		return err
	}
	return t.putLocked(lun, &unit{lu: lu, store: st, state: state})
}

// ShareDisk puts the disk behind another target's LUN behind this one's LUN of number lun, too: one logical unit with one set
// of reservations and unit attentions. Both targets must be on one loop (TargetConfig.LoopOf).
func (t *Target) ShareDisk(lun uint16, from *Target, fromLUN uint16) error {
	if t.l != from.l {
		return fmt.Errorf("target %s is not on the loop of %s: one volume has one loop", t.name, from.name)
	}
	if lun > sam.MaxFlatLUN {
		return fmt.Errorf("target %s: LUNs go up to %d", t.name, sam.MaxFlatLUN)
	}
	t.l.ev.Lock()
	defer t.l.ev.Unlock()
	i, ok := from.find(fromLUN)
	if !ok || from.luns[i].unit.store == nil {
		return fmt.Errorf("target %s has no disk at LUN %d", from.name, fromLUN)
	}
	if err := t.putLocked(lun, from.luns[i].unit); err != nil {
		return fmt.Errorf("target %s LUN %d: %w", t.name, lun, err)
	}
	return nil
}

// find returns the place of a LUN in the map and whether it is there.
func (t *Target) find(lun uint16) (int, bool) {
	return slices.BinarySearchFunc(t.luns, lun, func(e lunEntry, n uint16) int { return int(e.num) - int(n) })
}

// putLocked puts u into the LUN map; a disk takes the controller's place.
func (t *Target) putLocked(lun uint16, u *unit) error {
	if !t.ready.Load() {
		return ErrNoTarget
	}
	i, there := t.find(lun)
	e := lunEntry{lun: sam.NewLUN(lun), num: lun, unit: u}
	switch {
	case !there:
		t.luns = slices.Insert(t.luns, i, e)
	case t.luns[i].unit.store != nil:
		return errors.New("the LUN is in use")
	default:
		t.luns[i] = e
	}
	u.refs++
	u.lu.SetPorts(t.name, t.s.table.Load().groups(t))
	t.lunsChangedLocked()
	return nil
}

// RemoveLUN takes a LUN away: its commands are aborted, the store is closed. When a request of the store never
// ends, the store is orphaned and an error of backstore.ClassBusy says so.
func (t *Target) RemoveLUN(ctx context.Context, lun uint16) error {
	l := t.l
	l.ev.Lock()
	i, there := t.find(lun)
	if !there {
		l.ev.Unlock()
		return fmt.Errorf("target %s has no LUN %d", t.name, lun)
	}
	u := t.luns[i].unit
	t.luns = slices.Delete(t.luns, i, i+1)
	t.abortUnitLocked(u.lu)
	t.lunsChangedLocked()
	l.ev.Unlock()
	l.ev.Wake()
	return l.closeUnit(ctx, u)
}
