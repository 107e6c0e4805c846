package grpcd

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/api/conv"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/backstore"
)

type volumes struct {
	api.UnimplementedVolumeServiceServer
	s *Server
}

func (x *volumes) ListVolumes(q *api.ListVolumesRequest, stream grpc.ServerStreamingServer[api.ListVolumesResponse]) error {
	list, err := x.s.svc.Volumes(x.s.called(stream), q.GetUri())
	if err != nil {
		return err
	}
	out := make([]*api.Volume, len(list))
	for i := range list {
		out[i] = conv.FromVolume(&list[i])
	}
	return batches(x.s, stream, out, func(part []*api.Volume) *api.ListVolumesResponse { return &api.ListVolumesResponse{Volumes: part} })
}

func (x *volumes) GetVolume(ctx context.Context, q *api.GetVolumeRequest) (*api.GetVolumeResponse, error) {
	v, err := x.s.svc.Volume(ctx, q.GetUri())
	if err != nil {
		return nil, err
	}
	return &api.GetVolumeResponse{Volume: conv.FromVolume(&v)}, nil
}

func (x *volumes) CreateVolume(q *api.CreateVolumeRequest, stream grpc.ServerStreamingServer[api.CreateVolumeResponse]) error {
	return work(x.s, stream, func(p *api.VolumeProgress) *api.CreateVolumeResponse { return &api.CreateVolumeResponse{Progress: p} },
		func(ctx context.Context, p backstore.Progress) (*api.CreateVolumeResponse, error) {
			v, err := x.s.svc.CreateVolume(ctx, q.GetUri(), q.GetSize(), p)
			existed := q.GetAllowExisting() && missing(err, admin.VolumeExists)
			if existed {
				if v, err = x.s.svc.Volume(ctx, q.GetUri()); err == nil && v.Size != q.GetSize() {
					err = &admin.Error{Code: admin.VolumeExists, Text: fmt.Sprintf("the volume is there already, with %d bytes instead of %d", v.Size, q.GetSize()), Hint: "resize it, or give it another name"}
				}
			}
			if err != nil {
				return nil, err
			}
			return &api.CreateVolumeResponse{Volume: conv.FromVolume(&v), Existed: existed}, nil
		})
}

func (x *volumes) ResizeVolume(q *api.ResizeVolumeRequest, stream grpc.ServerStreamingServer[api.ResizeVolumeResponse]) error {
	return work(x.s, stream, func(p *api.VolumeProgress) *api.ResizeVolumeResponse { return &api.ResizeVolumeResponse{Progress: p} },
		func(ctx context.Context, p backstore.Progress) (*api.ResizeVolumeResponse, error) {
			size, err := x.s.svc.ResizeVolume(ctx, q.GetUri(), q.GetSize(), q.GetForce(), p)
			return &api.ResizeVolumeResponse{Size: &size}, err
		})
}

// done is the result of work that has no other.
func done(missingOK bool, code admin.Code, err error) (*api.VolumeDone, error) {
	if missingOK && missing(err, code) {
		return &api.VolumeDone{Missing: true}, nil
	}
	return &api.VolumeDone{}, err
}

func (x *volumes) DeleteVolume(q *api.DeleteVolumeRequest, stream grpc.ServerStreamingServer[api.DeleteVolumeResponse]) error {
	return work(x.s, stream, func(p *api.VolumeProgress) *api.DeleteVolumeResponse { return &api.DeleteVolumeResponse{Progress: p} },
		func(ctx context.Context, p backstore.Progress) (*api.DeleteVolumeResponse, error) {
			d, err := done(q.GetMissingOk(), admin.NoVolume, x.s.svc.DeleteVolume(ctx, q.GetUri(), q.GetPurge(), q.GetForce(), p))
			return &api.DeleteVolumeResponse{Done: d}, err
		})
}

func (x *volumes) ListTrash(q *api.ListTrashRequest, stream grpc.ServerStreamingServer[api.ListTrashResponse]) error {
	list, err := x.s.svc.Trash(x.s.called(stream), q.GetUri())
	if err != nil {
		return err
	}
	out := make([]*api.TrashedVolume, len(list))
	for i := range list {
		out[i] = conv.FromTrashed(&list[i])
	}
	return batches(x.s, stream, out, func(part []*api.TrashedVolume) *api.ListTrashResponse { return &api.ListTrashResponse{Volumes: part} })
}

func (x *volumes) RestoreVolume(ctx context.Context, q *api.RestoreVolumeRequest) (*api.RestoreVolumeResponse, error) {
	uri, err := x.s.svc.RestoreVolume(ctx, q.GetUri(), q.GetId())
	if err != nil {
		return nil, err
	}
	return &api.RestoreVolumeResponse{Uri: clean(uri)}, nil
}

func (x *volumes) PurgeVolume(q *api.PurgeVolumeRequest, stream grpc.ServerStreamingServer[api.PurgeVolumeResponse]) error {
	return work(x.s, stream, func(p *api.VolumeProgress) *api.PurgeVolumeResponse { return &api.PurgeVolumeResponse{Progress: p} },
		func(ctx context.Context, p backstore.Progress) (*api.PurgeVolumeResponse, error) {
			d, err := done(q.GetMissingOk(), admin.NoVolume, x.s.svc.PurgeVolume(ctx, q.GetUri(), q.GetId(), q.GetForce(), p))
			return &api.PurgeVolumeResponse{Done: d}, err
		})
}

func (x *volumes) CreateSnapshot(q *api.CreateSnapshotRequest, stream grpc.ServerStreamingServer[api.CreateSnapshotResponse]) error {
	return work(x.s, stream, func(p *api.VolumeProgress) *api.CreateSnapshotResponse {
		return &api.CreateSnapshotResponse{Progress: p}
	},
		func(ctx context.Context, p backstore.Progress) (*api.CreateSnapshotResponse, error) {
			return &api.CreateSnapshotResponse{Done: &api.VolumeDone{}}, x.s.svc.CreateSnapshot(ctx, q.GetUri(), q.GetName(), p)
		})
}

func (x *volumes) ListSnapshots(q *api.ListSnapshotsRequest, stream grpc.ServerStreamingServer[api.ListSnapshotsResponse]) error {
	list, err := x.s.svc.Snapshots(x.s.called(stream), q.GetUri())
	if err != nil {
		return err
	}
	out := make([]*api.Snapshot, len(list))
	for i := range list {
		out[i] = conv.FromSnapshot(&list[i])
	}
	return batches(x.s, stream, out, func(part []*api.Snapshot) *api.ListSnapshotsResponse {
		return &api.ListSnapshotsResponse{Snapshots: part}
	})
}

func (x *volumes) DeleteSnapshot(q *api.DeleteSnapshotRequest, stream grpc.ServerStreamingServer[api.DeleteSnapshotResponse]) error {
	return work(x.s, stream, func(p *api.VolumeProgress) *api.DeleteSnapshotResponse {
		return &api.DeleteSnapshotResponse{Progress: p}
	},
		func(ctx context.Context, p backstore.Progress) (*api.DeleteSnapshotResponse, error) {
			d, err := done(q.GetMissingOk(), admin.NoSnapshot, x.s.svc.DeleteSnapshot(ctx, q.GetUri(), q.GetName(), p))
			return &api.DeleteSnapshotResponse{Done: d}, err
		})
}

func (x *volumes) RollbackVolume(q *api.RollbackVolumeRequest, stream grpc.ServerStreamingServer[api.RollbackVolumeResponse]) error {
	return work(x.s, stream, func(p *api.VolumeProgress) *api.RollbackVolumeResponse {
		return &api.RollbackVolumeResponse{Progress: p}
	},
		func(ctx context.Context, p backstore.Progress) (*api.RollbackVolumeResponse, error) {
			return &api.RollbackVolumeResponse{Done: &api.VolumeDone{}}, x.s.svc.RollbackVolume(ctx, q.GetUri(), q.GetName(), q.GetForce(), p)
		})
}

func (x *volumes) CloneVolume(q *api.CloneVolumeRequest, stream grpc.ServerStreamingServer[api.CloneVolumeResponse]) error {
	return work(x.s, stream, func(p *api.VolumeProgress) *api.CloneVolumeResponse { return &api.CloneVolumeResponse{Progress: p} },
		func(ctx context.Context, p backstore.Progress) (*api.CloneVolumeResponse, error) {
			v, err := x.s.svc.CloneVolume(ctx, q.GetUri(), q.GetSnapshot(), q.GetTo(), p)
			return &api.CloneVolumeResponse{Volume: conv.FromVolume(&v)}, err
		})
}

func (x *volumes) FlattenVolume(q *api.FlattenVolumeRequest, stream grpc.ServerStreamingServer[api.FlattenVolumeResponse]) error {
	return work(x.s, stream, func(p *api.VolumeProgress) *api.FlattenVolumeResponse { return &api.FlattenVolumeResponse{Progress: p} },
		func(ctx context.Context, p backstore.Progress) (*api.FlattenVolumeResponse, error) {
			return &api.FlattenVolumeResponse{Done: &api.VolumeDone{}}, x.s.svc.FlattenVolume(ctx, q.GetUri(), p)
		})
}
