package grpcd

import (
	"context"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/api/conv"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

type portals struct {
	api.UnimplementedPortalServiceServer
	s *Server
}

func (p *portals) ListPortals(context.Context, *api.ListPortalsRequest) (*api.ListPortalsResponse, error) {
	r := &api.ListPortalsResponse{}
	for _, x := range p.s.svc.Portals() {
		r.Portals = append(r.Portals, conv.FromPortalState(x))
	}
	return r, nil
}

func (p *portals) AddPortal(ctx context.Context, q *api.AddPortalRequest) (*api.AddPortalResponse, error) {
	want, err := conv.ToPortal(q.GetPortal())
	if err != nil {
		return nil, err
	}
	made, err := p.s.svc.AddPortal(ctx, want)
	if q.GetAllowExisting() && missing(err, admin.PortalExists) {
		if i := p.s.portal(want.Address); i != nil {
			m := conv.FromPortalState(*i)
			given := proto.CloneOf(q.GetPortal())
			given.Address = m.GetSpec().GetAddress() // another spelling of the same
			if group(given) == group(m.GetSpec()) && given.GetAdvertise() == m.GetSpec().GetAdvertise() {
				return &api.AddPortalResponse{Portal: m, Existed: true}, nil
			}
		}
	}
	if err != nil {
		return nil, err
	}
	return &api.AddPortalResponse{Portal: conv.FromPortalState(made)}, nil
}

// group is the tag that a portal has.
func group(p *api.Portal) uint32 { return max(p.GetGroup(), 1) }

// portal finds a portal by the address that was given for it, or that it is bound to.
func (s *Server) portal(address string) *admin.PortalState {
	list := s.svc.Portals()
	a, err := netip.ParseAddrPort(address)
	i := slices.IndexFunc(list, func(p admin.PortalState) bool {
		if p.Spec.Address == address {
			return true
		}
		have, herr := netip.ParseAddrPort(p.Spec.Address)
		return err == nil && (herr == nil && have == a || p.Bound == a)
	})
	if i < 0 {
		return nil
	}
	return &list[i]
}

func (p *portals) RemovePortal(ctx context.Context, q *api.RemovePortalRequest) (*api.RemovePortalResponse, error) {
	a, err := netip.ParseAddrPort(q.GetAddress())
	if err != nil {
		return nil, invalid("", "address: %q is not ADDR:PORT, IPv6 in brackets", q.GetAddress())
	}
	if have := p.s.portal(q.GetAddress()); have != nil && have.Bound.IsValid() {
		a = have.Bound
	}
	err = p.s.svc.RemovePortal(ctx, a)
	if q.GetMissingOk() && missing(err, admin.NoPortal) {
		return &api.RemovePortalResponse{Missing: true}, nil
	}
	if err != nil {
		return nil, err
	}
	return &api.RemovePortalResponse{}, nil
}
