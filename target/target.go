package target

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/target/evloop"
)

// TargetConfig says what a new target is. The zero value is a plain target.
type TargetConfig struct {
	Alias string // TargetAlias, for people
	// NoController leaves LUN 0 empty until a disk is put there; otherwise it is tgt's controller.
	NoController bool
	// LoopOf puts the target on another target's loop: the two then share one CPU and may export one volume.
	LoopOf *Target
	// PortalGroups are the tags of the portal groups that lead to the target; none: every portal does.
	PortalGroups []uint16
}

// A Target is one iSCSI target. Its methods may be called from any goroutine.
type Target struct {
	s     *Server
	l     *loop
	name  string
	cfg   TargetConfig
	ready atomic.Bool

	// Owned by the loop.
	sessions   map[uint16]*sess // by TSIH
	byNexus    map[sam.Nexus]*sess
	luns       []lunEntry // ascending
	absent     *scsi.LU
	counts     map[uint16]*lunCounters // by LUN; see countersOf
	astray     lunCounters             // of commands to LUNs that are not there
	strays     LUNStats                // likewise
	past       session.Counters        // of sessions that are no more
	seq        uint64                  // of the last session
	closing    int                     // calls of Drain and Remove under way: nobody is let in
	gone       bool                    // it was removed
	left       chan struct{}           // closed when a session ends, if somebody waits for that
	generation uint64                  // of luns; sessions look their LUNs up anew when it changed
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

// AddTarget makes a target and opens it for logins. name is an iSCSI name (RFC 7143 §4.2.7).
func (s *Server) AddTarget(name string, cfg TargetConfig) (*Target, error) {
	norm, err := login.NormalizeName(name)
	if err != nil {
		return nil, fmt.Errorf("target %q: %w", name, err)
	}
	if slices.Contains(cfg.PortalGroups, 0) {
		return nil, fmt.Errorf("target %s: portal group tags are 1 to 65535", norm)
	}
	cfg.PortalGroups = slices.Clone(cfg.PortalGroups)
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
	t := &Target{s: s, l: l, name: norm, cfg: cfg, sessions: map[uint16]*sess{}, byNexus: map[sam.Nexus]*sess{}, counts: map[uint16]*lunCounters{}, absent: scsi.NewAbsent()}
	l.ev.Lock()
	if l.leaving || l.closed {
		l.ev.Unlock()
		return nil, fmt.Errorf("target %s: its loop is that of a target that was removed: %w", norm, ErrNoTarget)
	}
	l.targets = append(l.targets, t)
	if !cfg.NoController {
		u := &unit{lu: scsi.NewController(scsi.ControllerConfig{TargetName: norm, Identity: norm})}
		t.luns = []lunEntry{{lun: sam.NewLUN(0), unit: u}}
		u.refs = 1
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
	norm, err := login.NormalizeName(name)
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
	case t.gone:
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
	if t.gone {
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
	for _, g := range t.s.table.Load().groups(t) {
		u.lu.AddPort(t.name, g)
	}
	t.lunsChangedLocked()
	return nil
}

// on reports whether the portals of a group lead to the target.
func (t *Target) on(group uint16) bool {
	return len(t.cfg.PortalGroups) == 0 || slices.Contains(t.cfg.PortalGroups, group)
}

// addPort makes a portal group known to the logical units that can be reached through it.
func (t *Target) addPort(group uint16) {
	if !t.on(group) {
		return
	}
	t.l.ev.Lock()
	defer t.l.ev.Unlock()
	for _, e := range t.luns {
		e.unit.lu.AddPort(t.name, group)
	}
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

// lunsChangedLocked makes the sessions look at the LUN map anew.
func (t *Target) lunsChangedLocked() {
	t.generation++
	t.forgetCounters()
	for _, s := range t.sessions {
		s.lunsChanged()
	}
	t.l.ev.Wake() // there may be something to send
}

// Reported is scsi.Inventory's: the nexus n knows its LUNs.
func (t *Target) Reported(n sam.Nexus) {
	if s := t.byNexus[n]; s != nil {
		for _, ln := range s.luns {
			ln.nexus.Withdraw(sense.ReportedLUNsChanged)
		}
	}
}

// AppendLUNs is scsi.Inventory's: the LUNs that a nexus sees, ascending.
func (t *Target) AppendLUNs(dst []sam.LUN) []sam.LUN {
	for i := range t.luns {
		dst = append(dst, t.luns[i].lun)
	}
	return dst
}
