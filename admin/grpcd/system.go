package grpcd

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lunar-iscsi/lunar/admin/api/conv"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/admin/spec"
)

type stats struct {
	api.UnimplementedStatsServiceServer
	s *Server
}

func (x *stats) GetServerStats(context.Context, *api.GetServerStatsRequest) (*api.GetServerStatsResponse, error) {
	st := x.s.svc.System().Stats
	return &api.GetServerStatsResponse{Stats: conv.FromStats(&st)}, nil
}

func (x *stats) GetTargetStats(_ context.Context, q *api.GetTargetStatsRequest) (*api.GetTargetStatsResponse, error) {
	t, err := x.s.target(q.GetTarget(), true)
	if err != nil {
		return nil, err
	}
	m := conv.FromTargetState(&t, true)
	return &api.GetTargetStatsResponse{Tid: m.GetSpec().GetTid(), Name: m.GetSpec().GetName(), Live: m.GetLive()}, nil
}

type system struct {
	api.UnimplementedSystemServiceServer
	s *Server
}

func (x *system) GetSystem(context.Context, *api.GetSystemRequest) (*api.GetSystemResponse, error) {
	st := x.s.svc.System()
	return &api.GetSystemResponse{
		Spec: conv.FromSystem(st.Spec), Version: clean(st.Version), Started: timestamppb.New(st.Started), StateFile: clean(st.StateFile),
		Targets: uint32(len(x.s.svc.Targets(false))), Sessions: uint32(max(st.Stats.Sessions, 0)),
	}, nil
}

func (x *system) UpdateSystem(ctx context.Context, q *api.UpdateSystemRequest) (*api.UpdateSystemResponse, error) {
	to, err := conv.ToSystem(q.GetTo())
	if err != nil {
		return nil, err
	}
	set, err := maskOf(q.GetUpdateMask(), systemFields, to)
	if err != nil {
		return nil, err
	}
	if len(set) == 0 {
		return nil, nothingNamed
	}
	err = x.s.svc.EditSystem(ctx, func(s *spec.System) error {
		for _, f := range set {
			f(s, to)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &api.UpdateSystemResponse{Spec: conv.FromSystem(x.s.svc.System().Spec)}, nil
}

func (x *system) Shutdown(ctx context.Context, q *api.ShutdownRequest) (*api.ShutdownResponse, error) {
	if err := x.s.svc.Shutdown(ctx, q.GetOnlyIfEmpty()); err != nil {
		return nil, err
	}
	return &api.ShutdownResponse{}, nil
}

func (x *system) ListDrivers(context.Context, *api.ListDriversRequest) (*api.ListDriversResponse, error) {
	r := &api.ListDriversResponse{}
	for _, d := range x.s.svc.Drivers() {
		r.Drivers = append(r.Drivers, &api.Driver{Scheme: d.Scheme, Help: d.Help, Options: d.Options, Absent: clean(d.Absent), Traits: d.Traits, Can: d.Can})
	}
	return r, nil
}

// systemFields are the fields that an update of the system may name.
var systemFields = map[string]func(s *spec.System, to spec.System){
	"offline":      func(s *spec.System, to spec.System) { s.Offline = to.Offline },
	"debug":        func(s *spec.System, to spec.System) { s.Debug = to.Debug },
	"nop_interval": func(s *spec.System, to spec.System) { s.NopInterval = to.NopInterval },
	"nop_count":    func(s *spec.System, to spec.System) { s.NopCount = to.NopCount },
	"isns":         func(s *spec.System, to spec.System) { s.ISNS = to.ISNS },
}
