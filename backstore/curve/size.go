package curve

import (
	"context"
	"errors"
	"fmt"

	"github.com/lunar-iscsi/lunar/backstore"
)

// nebd-server tells the size that a volume had when it opened it, for as long as it has it open. So its present size is asked for under another name (volume.present). I/O
// beyond the old size works on the old descriptor as soon as the volume is larger, so a size is adopted by no more than saying so.

var errShrink = errors.New("volumes of Curve do not shrink")

func sizeError(c backstore.Class, err error) error {
	return &backstore.Error{Class: c, Op: "resize", Cause: err}
}

// usable says whether size can be one, of a store that is open.
func (s *Store) usable(size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing:
		return sizeError(backstore.ClassOffline, backstore.ErrClosed)
	case size <= 0 || size%int64(s.info.BlockSize) != 0:
		return sizeError(backstore.ClassRange, fmt.Errorf("%d bytes is no positive multiple of %d", size, s.info.BlockSize))
	}
	return nil
}

// PresentSize asks how large the volume is by now.
func (s *Store) PresentSize(ctx context.Context) (int64, error) {
	if err := s.usable(maxBlock); err != nil {
		return 0, err
	}
	i, err := s.v.present(ctx)
	if err != nil {
		return 0, sizeError(backstore.ClassOf(err), fmt.Errorf("its present size could not be learnt: %w", err))
	}
	return i.size, nil
}

// AdoptSize makes size that of the store.
func (s *Store) AdoptSize(ctx context.Context, size int64) error {
	if err := s.usable(size); err != nil {
		return err
	}
	if size > s.Info().Size {
		now, err := s.PresentSize(ctx)
		if err != nil {
			return err
		}
		if size > now {
			return sizeError(backstore.ClassRange, fmt.Errorf("the volume has %d bytes, fewer than %d", now, size))
		}
	}
	s.setSize(size)
	return nil
}

func (s *Store) setSize(size int64) {
	s.mu.Lock()
	s.info.Size = size
	s.mu.Unlock()
}

// Resize grows the volume. Curve gives out space by the segment, normally 1 GiB, and takes none back.
func (s *Store) Resize(ctx context.Context, size int64) error {
	if err := s.usable(size); err != nil {
		return err
	}
	now, err := s.PresentSize(ctx)
	if err != nil {
		return err
	}
	switch {
	case size < now:
		return sizeError(backstore.ClassUnsupported, fmt.Errorf("it has %d bytes: %w", now, errShrink))
	case size > now:
		answer, err := s.v.h.call(ctx, s.cfg.patience, "ResizeFile", resizeMessage(s.v.fd.Load(), size))
		if err != nil {
			return sizeError(backstore.ClassOf(err), err)
		}
		code, err := parseCode(answer)
		if err != nil {
			return sizeError(backstore.ClassTransport, err)
		}
		if code != 0 {
			return sizeError(backstore.ClassUnsupported, fmt.Errorf("the cluster refused to grow it from %d to %d bytes: what is added has to be whole segments (1 GiB, if the cluster is as usual), up to 20 TiB in all, and the volume without snapshots", now, size))
		}
	}
	s.setSize(size)
	return nil
}

var (
	_ backstore.Sizer    = (*Store)(nil)
	_ backstore.Resizer  = (*Store)(nil)
	_ backstore.Attacher = (*Store)(nil)
	_ backstore.Kicker   = (*Store)(nil)
)
