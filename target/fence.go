package target

import (
	"context"
	"fmt"

	"github.com/lunar-iscsi/lunar/backstore"
)

// FenceDisk shuts out whoever else has a disk's volume open: when it returns nil, nothing that they submitted will be applied. A store that cannot
// promise that is an error of backstore.ClassUnsupported; ErrNoLUN, ErrNoMedium.
func (t *Target) FenceDisk(ctx context.Context, lun uint16) error {
	u, err := t.changing(ctx, lun)
	if err == nil {
		err = fence(ctx, u.store)
		u.change.give()
	}
	if err != nil {
		return fmt.Errorf("target %s LUN %d: %w", t.name, lun, err)
	}
	return nil
}

func fence(ctx context.Context, st backstore.Store) error {
	if st == nil {
		return ErrNoMedium
	}
	f := backstore.FencerOf(st)
	if f == nil {
		return &backstore.Error{Class: backstore.ClassUnsupported, Op: "fence", Cause: fmt.Errorf("the %s driver cannot shut out others", st.Info().Driver)}
	}
	return f.Fence(ctx)
}
