package volumes

import (
	"context"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A store is an open volume.
type store struct {
	e *Engine
	v *volume
	i backstore.Info // but for its size
}

// A snapshotter is a store that takes part in snapshots.
type snapshotter struct{ *store }

func (e *Engine) open(ctx context.Context, u *backstore.URI, o backstore.Options) (backstore.Store, error) {
	ro, err := u.Bool("readonly", o.ReadOnly)
	if err != nil {
		return nil, fail(backstore.ClassUnsupported, "open", "%w", err)
	}
	if err := e.run(ctx, "open", nil); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	v, err := e.find("open", u.Path)
	if err != nil {
		return nil, err
	}
	for _, op := range v.doing {
		switch op {
		case "delete", "rollback", "resize":
			e.wrongs = append(e.wrongs, v.name+" is opened during "+op)
		}
	}
	v.opens++
	s := &store{e, v, backstore.Info{Driver: e.scheme, Volume: v.name, Identity: "engine volume " + v.name, BlockSize: 1, PhysicalBlock: 512, MaxTransfer: 1 << 20, MaxInFlight: 64, MemAlign: 1,
		Caps: backstore.CapFlush | backstore.CapFUA, ReadOnly: ro, Coherent: true}}
	if e.Snapshotters {
		return &snapshotter{s}, nil
	}
	return s, nil
}

func (s *store) Info() backstore.Info {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	i := s.i
	i.Size = int64(len(s.v.data))
	return i
}

func (s *store) Submit(r *backstore.Request) backstore.Outcome {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	size := int64(len(s.v.data))
	switch {
	case r.Off < 0 || r.Len < 0 || r.Off > size || r.Len > size-r.Off:
		r.Err = fail(backstore.ClassRange, r.Op.String(), "outside")
	case r.Op == backstore.Read:
		copy(r.Buf, s.v.data[r.Off:r.Off+r.Len])
	case r.Op == backstore.Write && s.i.ReadOnly:
		r.Err = fail(backstore.ClassReadOnly, "write", "it is open read-only")
	case r.Op == backstore.Write:
		copy(s.v.data[r.Off:r.Off+r.Len], r.Buf)
	case r.Op != backstore.Flush:
		r.Err = fail(backstore.ClassUnsupported, r.Op.String(), "not here")
	}
	return backstore.Done
}

func (s *store) Close(ctx context.Context) error {
	err := s.e.run(ctx, "close", nil)
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	s.v.opens--
	return err
}

// Resize is backstore.Resizer's.
func (s *store) Resize(_ context.Context, size int64) error {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	s.v.data = append(make([]byte, 0, size), append(s.v.data, make([]byte, size)...)[:size]...)
	return nil
}

// Snapshot is backstore.Snapshotter's.
func (s *snapshotter) Snapshot(ctx context.Context, name string, p backstore.Progress) error {
	return s.e.snap(ctx, "store snapshot", s.v.name, name, p)
}

// Close notices what still goes on.
func (s *snapshotter) Close(ctx context.Context) error {
	s.e.mu.Lock()
	for _, op := range s.v.doing {
		if op == "store snapshot" {
			s.e.wrongs = append(s.e.wrongs, s.v.name+" is closed during its snapshot")
		}
	}
	s.e.mu.Unlock()
	return s.store.Close(ctx)
}
