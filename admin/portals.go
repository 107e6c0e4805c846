package admin

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/target"
)

// Portals is Service's.
func (m *Manager) Portals() []PortalState {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]PortalState, len(m.portals))
	for i, p := range m.portals {
		out[i] = p.state
	}
	return out
}

// AddPortal is Service's.
func (m *Manager) AddPortal(ctx context.Context, p spec.Portal) (PortalState, error) {
	return m.addPortal(ctx, p, false)
}

func (m *Manager) addPortal(ctx context.Context, p spec.Portal, passing bool) (out PortalState, err error) {
	d := deed{op: "portal add", kind: PortalAdded, lun: -1, what: p.Address}
	defer func() { m.tell(ctx, d, false, err) }()
	ctx, done, err := m.begin(ctx)
	if err != nil {
		return out, err
	}
	defer done()
	if err := m.portalsTurn.take(ctx, m.cfg.MaxWaiting); err != nil {
		return out, err
	}
	defer m.portalsTurn.give()
	n, err := m.bind(p, passing)
	if err != nil {
		return out, err
	}
	list := append(slices.Clip(m.portalsNow()), n)
	if err := m.savePortals(list, passing); err != nil {
		if cerr := m.srv.ClosePortal(n.state.Bound); cerr != nil {
			m.log.Warn("a portal that was not to be used after all could not be closed", "portal", p.Address, "error", cerr)
		}
		return out, err
	}
	m.setPortals(list)
	return n.state, nil
}

// bind opens a portal. The holder of the portals' turn calls it.
func (m *Manager) bind(p spec.Portal, passing bool) (*portalEntry, error) {
	addr, err := p.CheckPortal()
	if err != nil {
		return nil, invalid(err)
	}
	list := m.portalsNow()
	if len(list) >= m.cfg.MaxPortals {
		return nil, Errorf(TooMany, "portal %s: there are %d portals, the most that are allowed", p.Address, len(list))
	}
	for _, o := range list {
		if o.state.Bound == addr {
			return nil, Errorf(PortalExists, "portal %s exists already", p.Address)
		}
	}
	bound, err := m.srv.ListenPortal(target.Portal{Addr: addr, Group: p.Group, Advertise: p.Advertise})
	if err != nil {
		return nil, &Error{Code: OpenFailed, Err: fmt.Errorf("%w", err)}
	}
	return &portalEntry{spec: p, state: PortalState{Spec: p, Bound: bound}, passing: passing}, nil
}

// RemovePortal is Service's. An address with port 0 is that of the portal that asked for any port.
func (m *Manager) RemovePortal(ctx context.Context, addr netip.AddrPort) (err error) {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	d := deed{op: "portal remove", kind: PortalRemoved, lun: -1, what: addr.String()}
	defer func() { m.tell(ctx, d, false, err) }()
	ctx, done, err := m.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := m.portalsTurn.take(ctx, m.cfg.MaxWaiting); err != nil {
		return err
	}
	defer m.portalsTurn.give()
	list := m.portalsNow()
	i := slices.IndexFunc(list, func(p *portalEntry) bool { return p.state.Bound == addr || p.spec.Address == addr.String() })
	if i < 0 {
		return Errorf(NoPortal, "there is no portal %v", addr)
	}
	gone := list[i]
	left := slices.Concat(list[:i], list[i+1:])
	if err := m.savePortals(left, gone.passing); err != nil {
		return err
	}
	m.setPortals(left)
	if !gone.state.Bound.IsValid() {
		return nil // it was saved, and could not be bound
	}
	if err := m.srv.ClosePortal(gone.state.Bound); err != nil {
		m.log.Warn("a portal was removed that was closed already", "portal", gone.spec.Address, "error", err)
	}
	return nil
}

func (m *Manager) portalsNow() []*portalEntry {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.portals
}

func (m *Manager) setPortals(list []*portalEntry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.portals = list
}

func (m *Manager) savePortals(list []*portalEntry, passing bool) error {
	if m.cfg.State == nil || passing {
		return nil
	}
	var saved []spec.Portal
	for _, p := range list {
		if !p.passing {
			saved = append(saved, p.spec)
		}
	}
	b, err := encode(saved)
	if err != nil {
		return err
	}
	return m.save(map[string][]byte{keyPortals: b})
}
