package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/target"
)

// Load makes what was saved, portals aside: LoadPortals follows when all is there. Volumes are
// opened beside each other. One that cannot be opened does not stop it, unless its LUN says so (spec.LUN.Away): the LUN is there, NOT READY, and is tried
// again; everything else that fails does, with what to do about it.
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
	ctx, done := m.openAhead(ifAway(ctx, spec.AwayOffline), doc.Targets)
	defer done()
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
	ctx, done := m.openAhead(ctx, doc.Targets)
	defer done()
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
