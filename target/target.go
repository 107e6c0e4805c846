package target

import (
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
	sessions   map[uint16]*sess // by TSIH
	byNexus    map[sam.Nexus]*sess
	luns       []lunEntry // ascending
	absent     *scsi.LU
	offline    bool // conf's
	pending    map[uint16]*PendingDisk
	controller *unit                   // what is at LUN 0 without a disk there; nil: nothing
	counts     map[uint16]*lunCounters // by LUN; see countersOf
	astray     lunCounters             // of commands to LUNs that are not there
	strays     LUNStats                // likewise
	past       session.Counters        // of sessions that are no more
	seq        uint64                  // of the last session
	closing    int                     // calls of Drain and Remove under way: nobody is let in
	gone       bool                    // it was removed
	left       chan struct{}           // closed when a session ends, if somebody waits for that
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
	waiting    waiting
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
	switch {
	case s.table.Load().byName[norm] != nil:
		return nil, fmt.Errorf("target %s exists already", norm)
	case s.going[norm]:
		return nil, fmt.Errorf("target %s exists still: it is being removed", norm)
	}
	var l *loop
	if cfg.LoopOf != nil {
		l = cfg.LoopOf.l
	} else if l, err = s.newLoop(norm); err != nil {
		return nil, fmt.Errorf("target %s: %w", norm, err)
	}
	t := &Target{s: s, l: l, name: norm, offline: c.Offline, sessions: map[uint16]*sess{}, byNexus: map[sam.Nexus]*sess{}, counts: map[uint16]*lunCounters{}, pending: map[uint16]*PendingDisk{}, absent: scsi.NewAbsent()}
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

// SharesLoop reports whether the two targets are on one loop, so that they may have a disk in common.
func (t *Target) SharesLoop(o *Target) bool { return t.l == o.l }

// ShareDisk puts the disk behind another target's LUN behind this one's LUN of number lun, too: one logical unit with one set
// of reservations and unit attentions. Both targets must be on one loop (TargetConfig.LoopOf).
func (t *Target) ShareDisk(lun uint16, from *Target, fromLUN uint16) error {
	p, err := t.PrepareShare(lun, from, fromLUN, PutOptions{})
	if err == nil {
		p.Commit()
	}
	return err
}

// PrepareShare is PrepareDisk for a disk that is there already, or is pending: see ShareDisk.
func (t *Target) PrepareShare(lun uint16, from *Target, fromLUN uint16, o PutOptions) (*PendingDisk, error) {
	if t.l != from.l {
		return nil, fmt.Errorf("target %s is not on the loop of %s: one volume has one loop", t.name, from.name)
	}
	if lun > sam.MaxFlatLUN {
		return nil, fmt.Errorf("target %s: LUNs go up to %d", t.name, sam.MaxFlatLUN)
	}
	t.l.ev.Lock()
	defer t.l.ev.Unlock()
	if t.l.closed || !slices.Contains(t.l.targets, t) {
		return nil, ErrClosed
	}
	u, err := from.diskLocked(fromLUN)
	if p := from.pending[fromLUN]; err != nil && p != nil {
		u, err = p.u, nil
	}
	if err != nil {
		return nil, fmt.Errorf("target %s LUN %d: %w", from.name, fromLUN, err)
	}
	if err := t.freeLocked(lun, u.lu.Volume(), o.Force); err != nil {
		return nil, fmt.Errorf("target %s LUN %d: %w", t.name, lun, err)
	}
	u.refs++
	p := &PendingDisk{t: t, lun: lun, u: u}
	t.pending[lun] = p
	return p, nil
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
	u.lu.SetPorts(t.name, t.s.table.Load().groups(t))
	t.lunsChangedLocked()
}
