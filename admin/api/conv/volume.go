package conv

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lunar-iscsi/lunar/admin"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/backstore"
)

// when makes a message of a time; the zero time is absent.
func when(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// known makes an optional number; below zero it is absent.
func known(n int64) *int64 {
	if n < 0 {
		return nil
	}
	return &n
}

// FromVolume makes a message.
func FromVolume(v *admin.VolumeInfo) *api.Volume {
	m := &api.Volume{Uri: text(v.URI), Name: text(v.Name), Size: v.Size, Used: known(v.Used), Created: when(v.Created), Parent: text(v.Parent), InUse: text(v.InUse)}
	for _, l := range v.LUNs {
		m.Luns = append(m.Luns, &api.VolumeLun{Target: text(l.Target), Tid: int32(l.TID), Lun: uint32(l.LUN), Offline: l.Offline})
	}
	return m
}

// FromSnapshot makes a message.
func FromSnapshot(s *backstore.Snapshot) *api.Snapshot {
	return &api.Snapshot{Name: text(s.Name), Id: text(s.ID), Size: s.Size, Created: when(s.Created), Clones: known(int64(s.Clones)), State: text(s.State)}
}

// FromTrashed makes a message.
func FromTrashed(v *backstore.TrashedVolume) *api.TrashedVolume {
	return &api.TrashedVolume{Id: text(v.ID), Name: text(v.Name), Size: v.Size, Deleted: when(v.Deleted), Expires: when(v.Expires)}
}
