package grpcd

import (
	"context"
	"slices"
	"sort"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/api/conv"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/admin/spec"
)

type targets struct {
	api.UnimplementedTargetServiceServer
	s *Server
}

// A page of a list ends with so many things, or when it has become so large.
type page struct {
	most, bytes int
	n, size     int
}

func (s *Server) page(most uint32) *page { return &page{most: int(most), bytes: s.cfg.PageBytes} }

// full counts m, and reports whether it belongs to the next page. There is always room for the first.
func (p *page) full(m proto.Message) bool {
	size := proto.Size(m)
	if p.n > 0 && (p.most > 0 && p.n >= p.most || p.size+size > p.bytes) {
		return true
	}
	p.n++
	p.size += size
	return false
}

// after reads a page token that is a number.
func after(token string) (int, error) {
	if token == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(token)
	if err != nil || n < 0 || n > 1<<31-1 {
		return 0, invalid("give next_page_token of the answer before, or nothing", "page_token: %q is none", token)
	}
	return n, nil
}

func (t *targets) ListTargets(_ context.Context, q *api.ListTargetsRequest) (*api.ListTargetsResponse, error) {
	last, err := after(q.GetPageToken())
	if err != nil {
		return nil, err
	}
	r := &api.ListTargetsResponse{}
	p := t.s.page(q.GetPageSize())
	// What is live is asked of the targets of this page alone.
	list := t.s.svc.Targets(false)
	for i := sort.Search(len(list), func(i int) bool { return list[i].Spec.TID > last }); i < len(list); i++ {
		state := list[i]
		if q.GetLive() {
			if state, err = t.s.svc.Target(admin.Ref{TID: list[i].Spec.TID}, true); missing(err, admin.NoTarget) {
				continue // it went in the meantime
			} else if err != nil {
				return nil, err
			}
		}
		m := conv.FromTargetState(&state, q.GetLive())
		if p.full(m) {
			r.NextPageToken = strconv.Itoa(last)
			break
		}
		r.Targets = append(r.Targets, m)
		last = list[i].Spec.TID
	}
	return r, nil
}

func (t *targets) GetTarget(_ context.Context, q *api.GetTargetRequest) (*api.GetTargetResponse, error) {
	state, err := t.s.target(q.GetTarget(), q.GetLive())
	if err != nil {
		return nil, err
	}
	return &api.GetTargetResponse{Target: conv.FromTargetState(&state, q.GetLive())}, nil
}

// target is the target that a call names.
func (s *Server) target(m *api.TargetRef, live bool) (admin.TargetState, error) {
	ref, err := conv.ToRef(m)
	if err != nil {
		return admin.TargetState{}, err
	}
	return s.svc.Target(ref, live)
}

func (t *targets) AddTarget(ctx context.Context, q *api.AddTargetRequest) (*api.AddTargetResponse, error) {
	want, err := conv.ToTarget(q.GetTarget())
	if err != nil {
		return nil, err
	}
	if err := checkAddresses("target.access", want.Access...); err != nil {
		return nil, err
	}
	made, err := t.s.svc.AddTarget(ctx, want)
	if q.GetAllowExisting() && missing(err, admin.TargetExists) {
		have, herr := t.s.svc.Target(admin.Ref{Name: want.Name}, false)
		if herr != nil {
			return nil, err // another one has the tid
		}
		m := conv.FromTarget(&have.Spec)
		given := proto.CloneOf(q.GetTarget())
		given.Name = m.GetName() // compared normalised, by the service
		if err := sameAs("target", given, m); err != nil {
			return nil, err
		}
		return &api.AddTargetResponse{Target: m, Existed: true}, nil
	}
	if err != nil {
		return nil, err
	}
	return &api.AddTargetResponse{Target: conv.FromTarget(&made)}, nil
}

func (t *targets) UpdateTarget(ctx context.Context, q *api.UpdateTargetRequest) (*api.UpdateTargetResponse, error) {
	ref, err := conv.ToRef(q.GetTarget())
	if err != nil {
		return nil, err
	}
	to := spec.Target{}
	if q.GetTo() != nil {
		if to, err = conv.ToTarget(q.GetTo()); err != nil {
			return nil, err
		}
	}
	set, err := maskOf(q.GetUpdateMask(), targetFields, to)
	if err != nil {
		return nil, err
	}
	params, err := conv.ToTarget(&api.Target{Params: q.GetSetParams()})
	if err != nil {
		return nil, err
	}
	if len(set) == 0 && len(params.Params) == 0 && len(q.GetClearParams()) == 0 {
		return nil, nothingNamed
	}
	err = t.s.svc.EditTarget(ctx, ref, func(x *spec.Target) error {
		for _, f := range set {
			f(x, to)
		}
		for k, v := range params.Params {
			if x.Params == nil {
				x.Params = map[string]string{}
			}
			x.Params[k] = v
		}
		for _, k := range q.GetClearParams() {
			delete(x.Params, k)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	state, err := t.s.svc.Target(ref, false)
	if err != nil {
		return nil, err
	}
	return &api.UpdateTargetResponse{Target: conv.FromTarget(&state.Spec)}, nil
}

func (t *targets) RemoveTarget(ctx context.Context, q *api.RemoveTargetRequest) (*api.RemoveTargetResponse, error) {
	ref, err := conv.ToRef(q.GetTarget())
	if err != nil {
		return nil, err
	}
	err = t.s.svc.RemoveTarget(ctx, ref, q.GetForce())
	if q.GetMissingOk() && missing(err, admin.NoTarget) {
		return &api.RemoveTargetResponse{Missing: true}, nil
	}
	if err != nil {
		return nil, err
	}
	return &api.RemoveTargetResponse{}, nil
}

func (t *targets) DrainTarget(ctx context.Context, q *api.DrainTargetRequest) (*api.DrainTargetResponse, error) {
	ref, err := conv.ToRef(q.GetTarget())
	if err != nil {
		return nil, err
	}
	d := DefaultDrain
	if q.GetTimeout() != nil {
		if err := q.GetTimeout().CheckValid(); err != nil {
			return nil, invalid("", "timeout: %w", err)
		}
		d = q.GetTimeout().AsDuration()
		if d <= 0 || d > MaxDrain {
			return nil, invalid("", "timeout: %v is not within 1 ns to %v", d, MaxDrain)
		}
	}
	ctx, cancel := within(ctx, d)
	defer cancel()
	if err := t.s.svc.DrainTarget(ctx, ref); err != nil {
		return nil, err
	}
	return &api.DrainTargetResponse{}, nil
}

// targetFields are the fields that an update of a target may name.
var targetFields = map[string]func(t *spec.Target, to spec.Target){
	"alias":         func(t *spec.Target, to spec.Target) { t.Alias = to.Alias },
	"offline":       func(t *spec.Target, to spec.Target) { t.Offline = to.Offline },
	"access":        func(t *spec.Target, to spec.Target) { t.Access = slices.Clone(to.Access) },
	"exact_names":   func(t *spec.Target, to spec.Target) { t.ExactNames = to.ExactNames },
	"auth":          func(t *spec.Target, to spec.Target) { t.Auth = to.Clone().Auth },
	"lun_maps":      func(t *spec.Target, to spec.Target) { t.LUNMaps = to.Clone().LUNMaps },
	"params":        func(t *spec.Target, to spec.Target) { t.Params = to.Clone().Params },
	"nop_interval":  func(t *spec.Target, to spec.Target) { t.NopInterval = to.NopInterval },
	"nop_count":     func(t *spec.Target, to spec.Target) { t.NopCount = to.NopCount },
	"redirect":      func(t *spec.Target, to spec.Target) { t.Redirect = to.Redirect },
	"portal_groups": func(t *spec.Target, to spec.Target) { t.PortalGroups = slices.Clone(to.PortalGroups) },
	"tgt_naming":    func(t *spec.Target, to spec.Target) { t.TgtNaming = to.TgtNaming },
	"no_controller": func(t *spec.Target, to spec.Target) { t.NoController = to.NoController },
}
