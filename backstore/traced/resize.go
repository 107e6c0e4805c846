package traced

import (
	"context"

	"github.com/lunar-iscsi/lunar/backstore"
)

// Resize is backstore.Resizer's; ClassUnsupported where the inner store is none.
func (s *Store) Resize(ctx context.Context, size int64) error {
	return backstore.Resize(ctx, s.inner, size)
}

// PresentSize is backstore.Sizer's.
func (s *Store) PresentSize(ctx context.Context) (int64, error) {
	return backstore.PresentSize(ctx, s.inner)
}

// AdoptSize is backstore.Sizer's.
func (s *Store) AdoptSize(ctx context.Context, size int64) error {
	return backstore.AdoptSize(ctx, s.inner, size)
}

// WatchSize is backstore.SizeWatcher's.
func (s *Store) WatchSize(changed func(size int64)) { backstore.WatchSize(s.inner, changed) }

var (
	_ backstore.Wrapper     = (*Store)(nil)
	_ backstore.Resizer     = (*Store)(nil)
	_ backstore.Sizer       = (*Store)(nil)
	_ backstore.SizeWatcher = (*Store)(nil)
)
