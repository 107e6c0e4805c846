package backstore

import (
	"context"
	"fmt"
)

// What a store that may or may not be a Resizer, Sizer or SizeWatcher does about its size: for hosts, and for stores that wrap another.

// Resize is st's Resize; without one it is ClassUnsupported.
func Resize(ctx context.Context, st Store, size int64) error {
	if r, ok := st.(Resizer); ok {
		return r.Resize(ctx, size)
	}
	return &Error{Class: ClassUnsupported, Op: "resize", Cause: fmt.Errorf("the %s driver cannot resize a volume", st.Info().Driver)}
}

// PresentSize returns the size that st's volume has by now. A store that is no Sizer always knows it.
func PresentSize(ctx context.Context, st Store) (int64, error) {
	if s, ok := st.(Sizer); ok {
		return s.PresentSize(ctx)
	}
	return st.Info().Size, nil
}

// AdoptSize has st take over what PresentSize has returned.
func AdoptSize(ctx context.Context, st Store, size int64) error {
	if s, ok := st.(Sizer); ok {
		return s.AdoptSize(ctx, size)
	}
	return nil
}

// WatchSize has changed called as SizeWatcher says, if st is one.
func WatchSize(st Store, changed func(size int64)) {
	if w, ok := st.(SizeWatcher); ok {
		w.WatchSize(changed)
	}
}
