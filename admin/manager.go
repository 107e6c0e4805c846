package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/target"
)

var _ Service = (*Manager)(nil)

// A Manager is the Service of one daemon: it owns the target.Server, what is to be served, and its saving.
//
// Each target has a turn, which whoever changes it holds from the check to the end; accounts (with who is bound where), portals and the
// system have one each. Turns are taken in that order. mu guards the tables alone and is never held over I/O or a loop's lock. What is published there
// is never changed, only replaced.
type Manager struct {
	cfg     Config
	log     target.Logger
	srv     *target.Server
	started time.Time
	hub     hub
	ended   chan struct{} // closed by Close
	work    sync.WaitGroup

	accountsTurn, portalsTurn, systemTurn *turn

	mu       sync.RWMutex
	byTID    map[int]*entry
	byName   map[string]*entry // normalised name
	system   spec.System
	portals  []*portalEntry // in the order of their making
	accounts accounts       // replaced whole
	volumes  map[string][]*disk
	doing    map[*volumeWork]struct{} // what is being done with volumes
	closing  bool                     // nothing is to be added any more
	closed   bool
}

// accounts is who there is, and bound where. It is never changed, only replaced.
type accounts struct {
	list      []spec.Account
	discovery spec.Auth
	bound     map[int]spec.Auth // by TID
}

// An entry is one target.
type entry struct {
	tid     int
	name    string // as it was given
	norm    string
	passing bool   // of this run only: not saved
	lead    *entry // on whose loop it is to be made, or nil
	turn    *turn

	// Guarded by Manager.mu.
	spec *spec.Target // without Auth; never changed, only replaced; nil: being made, or gone
	live *target.Target

	faults  map[uint16]string // LUNs whose volume could not be opened, and why
	retries map[uint16]*retry // of these

	disks  map[uint16]*disk // of the turn's holder; by LUN
	beside []*entry         // of the turn's holder: whose turns it has, too

	applying sync.Mutex // over making the live target what is published
}

type portalEntry struct {
	spec    spec.Portal
	state   PortalState
	passing bool
}

// New makes a server without targets and portals. Load brings what was saved, Serve lets initiators in.
func New(cfg Config) (*Manager, error) {
	cfg = cfg.withDefaults()
	m := &Manager{cfg: cfg, log: cfg.Log, started: time.Now(), ended: make(chan struct{}),
		accountsTurn: newTurn("accounts"), portalsTurn: newTurn("portals"), systemTurn: newTurn("system settings"),
		byTID: map[int]*entry{}, byName: map[string]*entry{}, volumes: map[string][]*disk{}, doing: map[*volumeWork]struct{}{}}
	m.hub.init(cfg.MaxEvents, cfg.MaxWatchers)
	srv, err := target.NewServer(m.serverConfig())
	if err != nil {
		return nil, err
	}
	m.srv = srv
	if cfg.RetryVolumes > 0 {
		m.work.Add(1)
		go m.retryVolumes()
	}
	return m, nil
}

// Server returns the server that the manager made, for what the Service does not have: it is the manager's to change.
func (m *Manager) Server() *target.Server { return m.srv }

// Serve lets initiators in.
func (m *Manager) Serve() error { return m.srv.Serve() }

// Close ends everything at once, as target.Server.Close does. The state that saves is its maker's to close, afterwards.
func (m *Manager) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return target.ErrClosed
	}
	m.closing, m.closed = true, true
	m.mu.Unlock()
	close(m.ended)
	m.work.Wait()
	m.endVolumeWork()
	return m.srv.Close()
}

// begin bounds a change in time, and refuses it when the daemon ends.
func (m *Manager) begin(ctx context.Context) (context.Context, context.CancelFunc, error) {
	m.mu.RLock()
	closing := m.closing
	m.mu.RUnlock()
	if closing {
		return ctx, nil, &Error{Code: ShuttingDown, Text: "the daemon is shutting down"} // the caller tells of it by its own ctx
	}
	ctx, cancel := context.WithTimeoutCause(ctx, m.cfg.CallTimeout, fmt.Errorf("not done within %v", m.cfg.CallTimeout))
	return ctx, cancel, nil
}

func (r Ref) String() string {
	if r.Name != "" {
		return "target " + r.Name
	}
	return fmt.Sprintf("target with TID %d", r.TID)
}

func noTarget(ref Ref) error { return &Error{Code: NoTarget, Text: ref.String() + " does not exist"} }

// find returns the entry of a target; the target may still be on its way.
func (m *Manager) find(ref Ref) (*entry, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var e *entry
	if ref.Name != "" {
		norm, _, err := spec.NormalizeName(ref.Name)
		if err != nil {
			return nil, noTarget(ref)
		}
		e = m.byName[norm]
	} else {
		e = m.byTID[ref.TID]
	}
	if e == nil {
		return nil, noTarget(ref)
	}
	return e, nil
}

// hold takes the turn of a target that is there. Whoever gets it gives it back.
func (m *Manager) hold(ctx context.Context, ref Ref) (*entry, error) {
	e, err := m.find(ref)
	if err != nil {
		return nil, err
	}
	if err := e.turn.take(ctx, m.cfg.MaxWaiting); err != nil {
		return nil, err
	}
	if m.published(e) == nil {
		e.turn.give() // it went while we waited, or its making failed
		return nil, noTarget(ref)
	}
	return e, nil
}

// published is what is set of a target, Auth aside; nil: it is not there.
func (m *Manager) published(e *entry) *spec.Target {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return e.spec
}

// specOf is a copy of all that is set of a target that is there.
func (m *Manager) specOf(e *entry) spec.Target {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.specOfLocked(e)
}

func (m *Manager) specOfLocked(e *entry) spec.Target {
	t := *e.spec
	t.Auth = m.accounts.bound[e.tid]
	return t.Clone()
}

// Document is Service's.
func (m *Manager) Document() spec.Document {
	m.mu.RLock()
	defer m.mu.RUnlock()
	d := spec.Document{System: m.system, Accounts: slices.Clone(m.accounts.list)}
	d.Discovery = m.accounts.discovery
	d.Discovery.Incoming = slices.Clone(d.Discovery.Incoming)
	for _, p := range m.portals {
		d.Portals = append(d.Portals, p.spec)
	}
	for _, e := range m.entriesLocked() {
		d.Targets = append(d.Targets, m.specOfLocked(e))
	}
	return d
}

// entriesLocked lists the targets that are there, ascending TID.
func (m *Manager) entriesLocked() []*entry {
	list := make([]*entry, 0, len(m.byTID))
	for _, e := range m.byTID {
		if e.spec != nil {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b *entry) int { return cmp.Compare(a.tid, b.tid) })
	return list
}

// Targets is Service's.
func (m *Manager) Targets(live bool) []TargetState {
	m.mu.RLock()
	list := m.entriesLocked()
	out := make([]TargetState, len(list))
	lives := make([]*target.Target, len(list))
	for i, e := range list {
		out[i].Spec, lives[i] = m.specOfLocked(e), e.live
		out[i].Faults = m.faultsLocked(e)
	}
	m.mu.RUnlock()
	if live {
		for i, t := range lives {
			out[i].Live = liveInfo(t)
		}
	}
	return out
}

// Target is Service's.
func (m *Manager) Target(ref Ref, live bool) (TargetState, error) {
	e, err := m.find(ref)
	if err != nil {
		return TargetState{}, err
	}
	m.mu.RLock()
	if e.spec == nil {
		m.mu.RUnlock()
		return TargetState{}, noTarget(ref)
	}
	s, t := TargetState{Spec: m.specOfLocked(e), Faults: m.faultsLocked(e)}, e.live
	m.mu.RUnlock()
	if live {
		s.Live = liveInfo(t)
	}
	return s, nil
}

// Watch is Service's.
func (m *Manager) Watch(ctx context.Context) <-chan Event { return m.hub.watch(ctx, m.ended) }

// A deed is one change, for the audit line and the event of it.
type deed struct {
	op     string
	kind   EventKind
	target string
	lun    int // -1: none
	what   string
	detail string
}

// tell writes the audit line of a change, and its event if it was made. same says that there was nothing to change.
func (m *Manager) tell(ctx context.Context, d deed, same bool, err error) {
	caller := CallerOf(ctx)
	result := "ok"
	switch {
	case err != nil:
		result = "refused"
	case same:
		result = "unchanged"
	}
	kv := []any{"caller", caller.String(), "pid", caller.PID, "op", d.op}
	if d.target != "" {
		kv = append(kv, "target", d.target)
	}
	if d.lun >= 0 {
		kv = append(kv, "lun", d.lun)
	}
	if d.what != "" {
		kv = append(kv, "what", d.what)
	}
	if d.detail != "" {
		kv = append(kv, "detail", d.detail)
	}
	kv = append(kv, "result", result)
	if err != nil {
		kv = append(kv, "error", err.Error())
	}
	if caller.Face != FaceStart {
		m.cfg.Audit("audit", kv...)
	}
	if err == nil && !same && d.kind != "" {
		m.hub.publish(Event{Time: time.Now(), Kind: d.kind, Target: d.target, LUN: d.lun, Detail: cmp.Or(d.detail, d.what), Caller: caller.String()})
	}
}

// invalid makes an *Error of what an edit or a check returned.
func invalid(err error) error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return &Error{Code: Invalid, Err: err}
}
