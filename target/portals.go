package target

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// ErrNoPortal is part of the error of ClosePortal for an address that is not bound.
var ErrNoPortal = errors.New("there is no such portal")

// A BoundPortal is a portal as it was asked for, and the address that it has: a port in place of port 0.
type BoundPortal struct {
	Portal
	Bound netip.AddrPort
}

// Portals lists the portals in the order in which they were made.
func (s *Server) Portals() []BoundPortal {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]BoundPortal, len(s.portals))
	for i, p := range s.portals {
		list[i] = BoundPortal{Portal: p.asked, Bound: p.addr}
	}
	return list
}

// ClosePortal closes the portal that is bound to addr, for new connections and for discovery. Connections that have come in by it go
// on. A portal group that has lost its last portal is no longer a target port of any logical unit, once no session uses it.
func (s *Server) ClosePortal(addr netip.AddrPort) error {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	is := func(p *portal) bool { return p.addr == addr }
	s.mu.Lock()
	i := slices.IndexFunc(s.portals, is)
	if i < 0 {
		s.mu.Unlock()
		return fmt.Errorf("portal %v: %w", addr, ErrNoPortal)
	}
	p := s.portals[i]
	s.portals = slices.Concat(s.portals[:i], s.portals[i+1:]) // Drain and Close go through theirs without the lock
	t := *s.table.Load()
	t.portals = slices.DeleteFunc(slices.Clone(t.portals), is)
	s.table.Store(&t)
	s.mu.Unlock()
	p.close()
	t.syncPorts()
	return nil
}

// syncPorts tells the logical units of every target which portal groups lead to them.
func (t *table) syncPorts() {
	for _, o := range t.targets {
		o.l.ev.Lock()
		o.syncPortsLocked()
		o.l.ev.Unlock()
	}
}

// syncPortsLocked takes the portal groups from the table of the moment, so that of two callers the later one is right whichever way
// their changes came.
func (t *Target) syncPortsLocked() {
	groups := t.s.table.Load().groups(t)
	for _, e := range t.luns {
		e.unit.lu.SetPorts(t.name, groups)
	}
}

// SetAccepting says whether new connections are served. Where they are not, each is closed as soon as it is there; those that are
// there go on, also in the middle of a login. A new server accepts.
func (s *Server) SetAccepting(accept bool) { s.refusing.Store(!accept) }
