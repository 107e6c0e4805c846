package faulty

import (
	"context"

	"github.com/lunar-iscsi/lunar/backstore"
)

// Resize is backstore.Resizer's; ClassUnsupported where the inner store is none.
func (s *Store) Resize(ctx context.Context, size int64) error {
	if r, ok := s.inner.(backstore.Resizer); ok {
		return r.Resize(ctx, size)
	}
	return &backstore.Error{Class: backstore.ClassUnsupported, Op: "resize"}
}

// PresentSize is backstore.Sizer's; what an inner store that is none says of itself is true.
func (s *Store) PresentSize(ctx context.Context) (int64, error) {
	if z, ok := s.inner.(backstore.Sizer); ok {
		return z.PresentSize(ctx)
	}
	return s.inner.Info().Size, nil
}

// AdoptSize is backstore.Sizer's.
func (s *Store) AdoptSize(ctx context.Context, size int64) error {
	if z, ok := s.inner.(backstore.Sizer); ok {
		return z.AdoptSize(ctx, size)
	}
	return nil
}

// WatchSize is backstore.SizeWatcher's.
func (s *Store) WatchSize(changed func(size int64)) {
	if w, ok := s.inner.(backstore.SizeWatcher); ok {
		w.WatchSize(changed)
	}
}
