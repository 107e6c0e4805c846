package longhorn

import (
	"context"
	"fmt"
	"strings"

	"github.com/lunar-iscsi/lunar/backstore"
)

// An engine of version 1.12 grows a volume in three steps: its replicas, then its frontend, then it counts the new size itself. Its frontend
// "socket", the one that serves us, refuses the second step, and the engine goes on with the old size on grown replicas until it is started
// anew. Its frontends for tgt tell the target, which may be us, by tgtadm, and wait for that. So an open store asks no engine to grow:
// it follows one that has grown, is growing, or is back with more.

func resizeError(class backstore.Class, format string, a ...any) error {
	return &backstore.Error{Class: class, Op: "resize", Cause: fmt.Errorf(format, a...)}
}

// checkSize says what is wrong with size as a new size of the store.
func (s *Store) checkSize(size int64) (now int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing:
		return 0, resizeError(backstore.ClassOffline, "%w", backstore.ErrClosed)
	case size <= 0 || size%sector != 0:
		return 0, resizeError(backstore.ClassRange, "%d bytes is no positive multiple of %d", size, sector)
	}
	return s.info.Size, nil
}

// Resize makes the size that the engine has, or is growing to, that of the store. It asks for none.
func (s *Store) Resize(ctx context.Context, size int64) error {
	now, err := s.checkSize(size)
	switch {
	case err != nil:
		return err
	case size == now:
		return nil
	case size < now:
		return resizeError(backstore.ClassUnsupported, "from %d to %d bytes: a Longhorn volume cannot shrink", now, size)
	}
	present, err := s.PresentSize(ctx)
	if err != nil {
		return err
	}
	if size > present {
		if err := s.growing(ctx, present); err != nil {
			return err
		}
	}
	s.setSize(size)
	return nil
}

// growing returns nil if the engine is growing right now, and else why this store cannot have it grow.
func (s *Store) growing(ctx context.Context, present int64) error {
	frontend := "its frontend"
	if s.cfg.engine != "" {
		v, err := volumeGet(ctx, s.cfg, "resize")
		switch {
		case err != nil:
			return err
		case v.Expanding:
			return nil
		case strings.HasPrefix(v.Frontend, "tgt-"):
			return resizeError(backstore.ClassUnsupported, "the engine has %d bytes and tells its target itself when it grows: have Longhorn expand the volume", present)
		}
		frontend = fmt.Sprintf("its frontend %q", v.Frontend)
	} else if growing, err := s.asksGrowing(ctx); err != nil || growing {
		return err
	}
	return resizeError(backstore.ClassUnsupported, "the engine has %d bytes and cannot grow while %s is up: have Longhorn expand the volume and start its engine anew; the disk then follows", present, frontend)
}

// asksGrowing asks the engine, without its gRPC API, whether it is growing: it then refuses to unmap, however little.
func (s *Store) asksGrowing(ctx context.Context) (bool, error) {
	text := ""
	err := converse(ctx, s.cfg, func(ask asker) (err error) {
		_, text, err = ask(header{magic: magic, seq: 1, typ: typeUnmap})
		return err
	})
	return strings.Contains(text, textGrowing), err
}

// PresentSize asks the engine how large the volume is.
func (s *Store) PresentSize(ctx context.Context) (int64, error) {
	s.mu.Lock()
	closing := s.closing
	s.mu.Unlock()
	if closing {
		return 0, resizeError(backstore.ClassOffline, "%w", backstore.ErrClosed)
	}
	fd, size, err := connect(ctx, s.cfg)
	if err != nil {
		return 0, resizeError(backstore.ClassOf(err), "the engine did not tell its size: %w", err)
	}
	closeFd(fd)
	return size &^ (sector - 1), nil
}

// AdoptSize makes size, if the engine has as much, that of the store.
func (s *Store) AdoptSize(ctx context.Context, size int64) error {
	if _, err := s.checkSize(size); err != nil {
		return err
	}
	present, err := s.PresentSize(ctx)
	if err != nil {
		return err
	}
	if size > present {
		return resizeError(backstore.ClassRange, "the engine has %d bytes, fewer than %d", present, size)
	}
	s.setSize(size)
	return nil
}

func (s *Store) setSize(size int64) {
	s.mu.Lock()
	s.info.Size = size
	s.mu.Unlock()
}

// WatchSize has changed called when an engine that is back has a larger volume than before.
func (s *Store) WatchSize(changed func(size int64)) {
	s.mu.Lock()
	s.changed = changed
	s.mu.Unlock()
}

var (
	_ backstore.Resizer     = (*Store)(nil)
	_ backstore.Sizer       = (*Store)(nil)
	_ backstore.SizeWatcher = (*Store)(nil)
)
