package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/target"
)

// Load makes what was saved, portals aside: LoadPortals follows when all is there. A volume that cannot be opened does not
// stop it: the LUN is there, NOT READY, and is tried again; everything else that fails does, with what to do about it.
func (m *Manager) Load(ctx context.Context) error {
	if m.cfg.State == nil {
		return nil
	}
	doc, err := decodeDocument(m.cfg.State.Objects())
	if err != nil {
		return fmt.Errorf("what was saved in %s cannot be served: %w", m.cfg.State.File(), err)
	}
	acc := accounts{list: doc.Accounts, discovery: doc.Discovery, bound: map[int]spec.Auth{}}
	m.mu.Lock()
	m.accounts = acc
	m.mu.Unlock()
	m.srv.SetDiscovery(*m.liveAuth(acc.discovery, &acc))
	m.setSystem(doc.System)
	loops := loopsOf(doc.Targets, m.volumeKey)
	made := map[int]*entry{}
	for i := range doc.Targets {
		t := &doc.Targets[i]
		e, err := m.reserve(t, false)
		if err != nil {
			return err
		}
		made[t.TID], e.lead = e, made[loops[t.TID]]
		err = m.make(ctx, e, t, true)
		e.turn.give()
		if err != nil {
			m.unreserve(e)
			return fmt.Errorf("what was saved in %s cannot be served: %w", m.cfg.State.File(), err)
		}
	}
	m.work.Add(1)
	go m.retryVolumes()
	return nil
}

// keepPortal makes a portal of the command line one that is saved, since it is.
func (m *Manager) keepPortal(p spec.Portal) {
	addr, err := p.CheckPortal()
	list := slices.Clone(m.portalsNow())
	for i, o := range list {
		if err == nil && o.state.Bound == addr {
			kept := *o
			kept.passing = false
			list[i] = &kept
		}
	}
	m.setPortals(list)
}

// LoadPortals binds the portals that were saved. One that cannot be bound fails it, unless there are some of this run: these are a way in by which
// it can be removed, and it stays saved and unbound.
func (m *Manager) LoadPortals() error {
	if m.cfg.State == nil {
		return nil
	}
	doc, err := decodeDocument(m.cfg.State.Objects())
	if err != nil {
		return err
	}
	for _, p := range doc.Portals {
		n, err := m.bind(p, false)
		if CodeOf(err) == PortalExists && err != nil {
			m.keepPortal(p) // the command line has named it, too
			continue
		}
		if err != nil && !slices.ContainsFunc(m.portalsNow(), func(o *portalEntry) bool { return o.passing }) {
			return &Error{Code: CodeOf(err), Err: fmt.Errorf("a portal that was saved in %s cannot be opened: %w", m.cfg.State.File(), err),
				Hint: "start with --portal ADDR:PORT to be let in without it, and remove it then"}
		}
		if err != nil {
			m.log.Warn("a portal that was saved cannot be opened, and is left out", "portal", p.Address, "error", err)
			n = &portalEntry{spec: p, state: PortalState{Spec: p}}
		}
		m.setPortals(append(slices.Clip(m.portalsNow()), n))
	}
	return nil
}

// Passing adds doc's targets as of this run only and not saved: what the command line names. Each must have a TID of its own, which says
// only which is which: they get the next free ones.
func (m *Manager) Passing(ctx context.Context, doc spec.Document) error {
	if err := doc.Check(); err != nil {
		return invalid(err)
	}
	loops := loopsOf(doc.Targets, m.volumeKey)
	made := map[int]*entry{}
	for _, t := range doc.Targets {
		key := t.TID
		t.TID = 0
		out, err := m.addTarget(ctx, t, true, made[loops[key]])
		if err != nil {
			if CodeOf(err) == TargetExists {
				err = &Error{Code: TargetExists, Err: err, Hint: "it is saved, and on the command line: take it from one of them"}
			}
			return err
		}
		if made[key], err = m.find(Ref{TID: out.TID}); err != nil {
			return err
		}
	}
	return nil
}

// PassingPortals binds portals of this run only. With optional, those that the machine cannot have are left out, and it is an error if
// none is left.
func (m *Manager) PassingPortals(ctx context.Context, list []spec.Portal, optional bool) ([]PortalState, error) {
	var out []PortalState
	var last error
	for _, p := range list {
		s, err := m.addPortal(ctx, p, true)
		switch {
		case err == nil:
			out = append(out, s)
		case optional && (errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL)):
			last = err
		default:
			return out, err
		}
	}
	if len(out) == 0 {
		return nil, last
	}
	return out, nil
}

// loopsOf says on whose loop each target is to be, by TID: all that have a volume in common, of whichever of their LUNs, share that of the
// first, and so do those that have one in common with these. Who is not there has a loop of its own.
func loopsOf(list []spec.Target, key func(volume string) string) map[int]int {
	leader, first := map[int]int{}, map[string]int{} // first: by volume, the index of a target
	root := func(i int) int {
		for leader[i] != i {
			i = leader[i]
		}
		return i
	}
	for i := range list {
		leader[i] = i
		for k := range list[i].LUNs {
			volume := key(list[i].LUNs[k].Volume)
			if volume == "" {
				continue
			}
			o, there := first[volume]
			if !there {
				first[volume] = i
				continue
			}
			a, b := root(o), root(i)
			leader[max(a, b)] = min(a, b)
		}
	}
	out := map[int]int{}
	for i := range list {
		if r := root(i); r != i {
			out[list[i].TID] = list[r].TID
		}
	}
	return out
}

// loopFor says on whose loop a new target is to be: nil for one of its own.
func (m *Manager) loopFor(e *entry, t *spec.Target) (*target.Target, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if e.lead != nil && e.lead.live != nil {
		return e.lead.live, nil
	}
	var on *target.Target
	var by string
	for i := range t.LUNs {
		for _, d := range m.volumes[m.volumeKey(t.LUNs[i].Volume)] {
			switch {
			case d.e.live == nil || d.faulty || !d.there:
			case on != nil && !on.SharesLoop(d.e.live):
				return nil, &Error{Code: Unsupported, Text: fmt.Sprintf("target %s: it has volumes of targets %s and %s, which are on different loops", t.Name, by, d.e.name),
					Hint: "restart the daemon: they then share one"}
			default:
				on, by = d.e.live, d.e.name
			}
		}
	}
	return on, nil
}

// prepareFaulty makes a LUN whose volume could not be opened: a disk without a medium, which is tried again.
func (m *Manager) prepareFaulty(e *entry, live *target.Target, l *spec.LUN, why error) (*pending, error) {
	m.log.Warn("a volume could not be opened; the LUN is there and NOT READY until it can be", "target", e.name, "lun", l.Number, "error", why, "again", m.cfg.RetryVolumes)
	d := &disk{e: e, lun: l.Number, faulty: true}
	cfg := m.diskConfig(e, l) // the identity is saved, or tgt's naming needs none
	put, err := live.PrepareDisk(l.Number, nil, cfg, target.PutOptions{})
	if err != nil {
		return nil, coded(err, Invalid)
	}
	m.fault(e, l.Number, why.Error())
	return &pending{m: m, d: d, put: put, live: live}, nil
}

// retryVolumes tries volumes again that could not be opened.
func (m *Manager) retryVolumes() {
	defer m.work.Done()
	if m.cfg.RetryVolumes < 0 {
		return
	}
	tick := time.NewTicker(m.cfg.RetryVolumes)
	defer tick.Stop()
	for {
		select {
		case <-m.ended:
			return
		case <-tick.C:
		}
		m.retryAll()
	}
}

// retryAll tries each once.
func (m *Manager) retryAll() {
	m.mu.RLock()
	var list []*disk
	for _, e := range m.byTID {
		for lun := range e.faults {
			list = append(list, &disk{e: e, lun: lun})
		}
	}
	m.mu.RUnlock()
	for _, d := range list {
		m.retryVolume(d)
	}
}

func (m *Manager) retryVolume(d *disk) {
	ctx := WithCaller(context.Background(), Caller{Face: "retry", UID: -1})
	ctx, stop := context.WithTimeout(ctx, m.cfg.CallTimeout)
	defer stop()
	e, err := m.hold(ctx, Ref{TID: d.e.tid})
	if err != nil {
		return
	}
	defer e.turn.give()
	if err := m.reopen(ctx, e, d.lun); err != nil {
		m.log.Debug("a volume still cannot be opened", "target", e.name, "lun", d.lun, "error", err)
		return
	}
	m.log.Info("a volume could be opened after all", "target", e.name, "lun", d.lun)
	m.hub.publish(Event{Kind: LUNChanged, Target: e.name, LUN: int(d.lun), Detail: "its volume could be opened", Caller: CallerOf(ctx).String()})
}

// reopen opens the volume of a LUN that is there without it.
func (m *Manager) reopen(ctx context.Context, e *entry, lun uint16) error {
	if !m.faulty(e, lun) {
		return nil
	}
	t := m.specOf(e)
	i, there := place(&t, lun)
	if !there {
		return noLUN(e, lun)
	}
	l := t.LUNs[i].Clone()
	if m.opened(&l) {
		return m.rejoin(ctx, e, &l)
	}
	return m.swapLUN(ctx, e, &t, &l, &l)
}

// opened reports whether another LUN has the volume open.
func (m *Manager) opened(l *spec.LUN) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.ContainsFunc(m.volumes[m.volumeKey(l.Volume)], func(o *disk) bool { return o.there && !o.faulty })
}

// rejoin makes a LUN that is there without its volume a further way to the logical unit that has it by now.
func (m *Manager) rejoin(ctx context.Context, e *entry, l *spec.LUN) error {
	if err := e.live.RemoveLUN(ctx, l.Number, true); err != nil {
		return coded(err, Internal)
	}
	p, err := m.prepare(ctx, e, e.live, l, true)
	if err != nil {
		p, again := m.prepareFaulty(e, e.live, l, err)
		if again != nil {
			return again
		}
		p.commit()
		return err
	}
	p.commit()
	m.fault(e, l.Number, "")
	return nil
}
