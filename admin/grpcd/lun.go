package grpcd

import (
	"context"
	"slices"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/api/conv"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/admin/spec"
)

type luns struct {
	api.UnimplementedLunServiceServer
	s *Server
}

// names reads which LUN a call is about.
func names(m *api.TargetRef, lun uint32) (admin.Ref, uint16, error) {
	ref, err := conv.ToRef(m)
	if err != nil {
		return ref, 0, err
	}
	n, err := conv.ToLUNNumber("lun", lun)
	return ref, n, err
}

func specOf(t *spec.Target, lun uint16) *spec.LUN {
	i := slices.IndexFunc(t.LUNs, func(l spec.LUN) bool { return l.Number == lun })
	if i < 0 {
		return nil
	}
	return &t.LUNs[i]
}

// lun returns a LUN as it was set.
func (s *Server) lun(ref admin.Ref, lun uint16) (*spec.LUN, error) {
	state, err := s.svc.Target(ref, false)
	if err != nil {
		return nil, err
	}
	if l := specOf(&state.Spec, lun); l != nil {
		return l, nil
	}
	return nil, noLUN(&state.Spec, lun)
}

func noLUN(t *spec.Target, lun uint16) error {
	return &admin.Error{Code: admin.NoLUN, Text: admin.Errorf(admin.NoLUN, "target %s has no LUN %d", t.Name, lun).Error()}
}

func (l *luns) GetLun(_ context.Context, q *api.GetLunRequest) (*api.GetLunResponse, error) {
	ref, n, err := names(q.GetTarget(), q.GetLun())
	if err != nil {
		return nil, err
	}
	state, err := l.s.svc.Target(ref, true)
	if err != nil {
		return nil, err
	}
	r := &api.GetLunResponse{Fault: state.Faults[n]}
	if x := specOf(&state.Spec, n); x != nil {
		r.Spec = conv.FromLUN(x)
	}
	for i := range state.Live.LUNs {
		if state.Live.LUNs[i].LUN == n {
			r.Live = conv.FromLUNInfo(&state.Live.LUNs[i])
		}
	}
	if r.Spec == nil && r.Live == nil {
		return nil, noLUN(&state.Spec, n)
	}
	return r, nil
}

func (l *luns) AddLun(ctx context.Context, q *api.AddLunRequest) (*api.AddLunResponse, error) {
	ref, err := conv.ToRef(q.GetTarget())
	if err != nil {
		return nil, err
	}
	want, err := conv.ToLUN(q.GetLun())
	if err != nil {
		return nil, err
	}
	made, err := l.s.svc.AddLUN(ctx, ref, want, q.GetForce())
	if q.GetAllowExisting() && missing(err, admin.LUNExists) {
		have, herr := l.s.lun(ref, want.Number)
		if herr != nil {
			return nil, err
		}
		m := conv.FromLUN(have)
		if err := sameAs("LUN", q.GetLun(), m); err != nil {
			return nil, err
		}
		return &api.AddLunResponse{Lun: m, Existed: true}, nil
	}
	if err != nil {
		return nil, err
	}
	return &api.AddLunResponse{Lun: conv.FromLUN(&made)}, nil
}

func (l *luns) UpdateLun(ctx context.Context, q *api.UpdateLunRequest) (*api.UpdateLunResponse, error) {
	ref, n, err := names(q.GetTarget(), q.GetLun())
	if err != nil {
		return nil, err
	}
	to := spec.LUN{}
	if q.GetTo() != nil {
		if to, err = conv.ToLUN(q.GetTo()); err != nil {
			return nil, err
		}
	}
	set, err := maskOf(q.GetUpdateMask(), lunFields, to)
	if err != nil {
		return nil, err
	}
	if len(set) == 0 {
		return nil, nothingNamed
	}
	err = l.s.svc.EditLUN(ctx, ref, n, func(x *spec.LUN) error {
		for _, f := range set {
			f(x, to)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	have, err := l.s.lun(ref, n)
	if err != nil {
		return nil, err
	}
	return &api.UpdateLunResponse{Lun: conv.FromLUN(have)}, nil
}

func (l *luns) RemoveLun(ctx context.Context, q *api.RemoveLunRequest) (*api.RemoveLunResponse, error) {
	ref, n, err := names(q.GetTarget(), q.GetLun())
	if err != nil {
		return nil, err
	}
	err = l.s.svc.RemoveLUN(ctx, ref, n, q.GetForce())
	if q.GetMissingOk() && missing(err, admin.NoLUN) {
		return &api.RemoveLunResponse{Missing: true}, nil
	}
	if err != nil {
		return nil, err
	}
	return &api.RemoveLunResponse{}, nil
}

func (l *luns) ResizeLun(ctx context.Context, q *api.ResizeLunRequest) (*api.ResizeLunResponse, error) {
	ref, n, err := names(q.GetTarget(), q.GetLun())
	if err != nil {
		return nil, err
	}
	if q.GetSize() < 0 {
		return nil, invalid("", "size: %d is negative", q.GetSize())
	}
	size, err := l.s.svc.ResizeLUN(ctx, ref, n, q.GetSize(), q.GetForce())
	if err != nil {
		return nil, err
	}
	return &api.ResizeLunResponse{Size: size}, nil
}

func (l *luns) TakeOverLun(ctx context.Context, q *api.TakeOverLunRequest) (*api.TakeOverLunResponse, error) {
	ref, n, err := names(q.GetTarget(), q.GetLun())
	if err != nil {
		return nil, err
	}
	if err := l.s.svc.TakeOverLUN(ctx, ref, n); err != nil {
		return nil, err
	}
	return &api.TakeOverLunResponse{}, nil
}

// lunFields are the fields that an update of a LUN may name.
var lunFields = map[string]func(l *spec.LUN, to spec.LUN){
	"volume":               func(l *spec.LUN, to spec.LUN) { l.Volume = to.Volume },
	"offline":              func(l *spec.LUN, to spec.LUN) { l.Offline = to.Offline },
	"vendor":               func(l *spec.LUN, to spec.LUN) { l.Vendor = to.Vendor },
	"product":              func(l *spec.LUN, to spec.LUN) { l.Product = to.Product },
	"revision":             func(l *spec.LUN, to spec.LUN) { l.Revision = to.Revision },
	"serial":               func(l *spec.LUN, to spec.LUN) { l.Serial = to.Serial },
	"scsi_id":              func(l *spec.LUN, to spec.LUN) { l.SCSIID = to.SCSIID },
	"tgt_naming":           func(l *spec.LUN, to spec.LUN) { l.TgtNaming = to.TgtNaming },
	"physical_block":       func(l *spec.LUN, to spec.LUN) { l.PhysicalBlock = to.PhysicalBlock },
	"read_only":            func(l *spec.LUN, to spec.LUN) { l.ReadOnly = to.ReadOnly },
	"removable":            func(l *spec.LUN, to spec.LUN) { l.Removable = to.Removable },
	"thin":                 func(l *spec.LUN, to spec.LUN) { l.Thin = to.Clone().Thin },
	"write_cache":          func(l *spec.LUN, to spec.LUN) { l.WriteCache = to.Clone().WriteCache },
	"descriptor_sense":     func(l *spec.LUN, to spec.LUN) { l.DescriptorSense = to.DescriptorSense },
	"rotation_rate":        func(l *spec.LUN, to spec.LUN) { l.RotationRate = to.RotationRate },
	"lowest_aligned":       func(l *spec.LUN, to spec.LUN) { l.LowestAligned = to.LowestAligned },
	"optimal_granularity":  func(l *spec.LUN, to spec.LUN) { l.OptimalGranularity = to.OptimalGranularity },
	"optimal_length":       func(l *spec.LUN, to spec.LUN) { l.OptimalLength = to.OptimalLength },
	"no_unmap":             func(l *spec.LUN, to spec.LUN) { l.NoUnmap = to.NoUnmap },
	"no_write_same":        func(l *spec.LUN, to spec.LUN) { l.NoWriteSame = to.NoWriteSame },
	"no_compare_and_write": func(l *spec.LUN, to spec.LUN) { l.NoCompareAndWrite = to.NoCompareAndWrite },
	"mode_pages":           func(l *spec.LUN, to spec.LUN) { l.ModePages = slices.Clone(to.ModePages) },
	"timeout":              func(l *spec.LUN, to spec.LUN) { l.Timeout = to.Timeout },
	"on_timeout":           func(l *spec.LUN, to spec.LUN) { l.OnTimeout = to.OnTimeout },
	"away":                 func(l *spec.LUN, to spec.LUN) { l.Away = to.Away },
	"tgt":                  func(l *spec.LUN, to spec.LUN) { l.Tgt = to.Clone().Tgt },
}
