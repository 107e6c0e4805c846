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
	// TgtNaming and TID give the controller the names that tgtd gives the one of its target number TID.
	TgtNaming bool
	TID       int
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
	generation uint64 // of luns; sessions look their LUNs up anew when it changed
	pending    map[uint16]*PendingDisk
	controller *unit // what is at LUN 0 without a disk there; nil: nothing
}

// A lunEntry is one row of a target's LUN map.
type lunEntry struct {
	lun  sam.LUN
	num  uint16
	unit *unit
}

// A unit is one logical unit with its store.
type unit struct {
	lu         *scsi.LU
	controller bool
	store      backstore.Store // nil: there is no medium
	kicks      bool            // in loop.kicks
	refs       int             // LUNs that it stands behind, or is to
	state      *stateFile      // or nil
	share      evloop.Share    // of the budget: what its store has, and what waits for that
	change     turn            // of who changes store or size
	swap       *PendingSwap    // which has the turn, or nil
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
	t := &Target{s: s, l: l, name: norm, cfg: cfg, sessions: map[uint16]*sess{}, byNexus: map[sam.Nexus]*sess{}, pending: map[uint16]*PendingDisk{}, absent: scsi.NewAbsent()}
	l.ev.Lock()
	l.targets = append(l.targets, t)
	if !cfg.NoController {
		t.controller = &unit{controller: true, refs: 1, lu: scsi.NewController(scsi.ControllerConfig{TargetName: norm, Identity: norm, TgtNaming: cfg.TgtNaming, TID: cfg.TID})}
		t.luns = []lunEntry{{lun: sam.NewLUN(0), unit: t.controller}}
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
	if !ok || from.luns[i].unit.controller {
		return fmt.Errorf("target %s LUN %d: %w", from.name, fromLUN, ErrNoLUN)
	}
	u := from.luns[i].unit
	if err := t.freeLocked(lun, u.lu.Volume(), false); err != nil {
		return fmt.Errorf("target %s LUN %d: %w", t.name, lun, err)
	}
	u.refs++
	t.placeLocked(lun, u)
	return nil
}

// find returns the place of a LUN in the map and whether it is there.
func (t *Target) find(lun uint16) (int, bool) {
	return slices.BinarySearchFunc(t.luns, lun, func(e lunEntry, n uint16) int { return int(e.num) - int(n) })
}

// placeLocked puts u into the LUN map, at a number that freeLocked has found free; a disk takes the controller's place.
func (t *Target) placeLocked(lun uint16, u *unit) {
	e := lunEntry{lun: sam.NewLUN(lun), num: lun, unit: u}
	if i, there := t.find(lun); there {
		t.luns[i] = e
	} else {
		t.luns = slices.Insert(t.luns, i, e)
	}
	for _, g := range t.s.table.Load().groups(t) {
		u.lu.AddPort(t.name, g)
	}
	t.lunsChangedLocked()
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

// lunsChangedLocked makes the sessions look at the LUN map anew.
func (t *Target) lunsChangedLocked() {
	t.generation++
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

// Remove ends the target: sessions are closed, its LUNs too.
func (t *Target) Remove(ctx context.Context) error {
	s := t.s
	s.mu.Lock()
	if s.table.Load().byName[t.name] != t {
		s.mu.Unlock()
		return fmt.Errorf("target %s does not exist", t.name)
	}
	s.table.Store(s.table.Load().with(nil, t))
	s.mu.Unlock()
	t.ready.Store(false)
	l := t.l
	l.ev.Lock()
	for _, se := range t.sessions {
		l.dropSession(se, "the target was removed")
	}
	units := t.takeUnitsLocked()
	l.targets = slices.DeleteFunc(l.targets, func(o *Target) bool { return o == t })
	last := len(l.targets) == 0
	past := l.past
	l.ev.Unlock()
	var errs []error
	for _, u := range units {
		errs = append(errs, l.closeUnit(ctx, u))
	}
	if last {
		s.mu.Lock()
		s.loops = slices.DeleteFunc(s.loops, func(o *loop) bool { return o == l })
		s.past.Add(&past)
		s.mu.Unlock()
		errs = append(errs, l.close(ctx))
	}
	return errors.Join(errs...)
}
