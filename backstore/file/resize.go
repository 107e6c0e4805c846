package file

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

// Resize makes a file longer, allocated where thin=off says so, or cuts it off at size. A device has another size only when somebody else has given it
// one: then Resize takes note of that.
func (s *Store) Resize(_ context.Context, size int64) error {
	s.resizing.Lock()
	defer s.resizing.Unlock()
	info := s.Info()
	switch {
	case s.cfg.readonly && !s.closing.Load():
		return s.badSize(backstore.ClassReadOnly, "it is open without the right to write")
	case size == info.Size && !s.closing.Load():
		return nil
	case s.gate.shot.Load() != nil:
		return s.badSize(backstore.ClassBusy, "a snapshot of it is being taken; try again when that has ended")
	}
	if err := s.checkSize(size); err != nil {
		return err
	}
	if s.dev {
		now, err := s.presentSize()
		switch {
		case err != nil:
			return errOf("resize", err)
		case size > now:
			return s.badSize(backstore.ClassUnsupported, "the device has %d bytes, fewer than %d; it has to grow first", now, size)
		case size < info.Size && size != now:
			return s.badSize(backstore.ClassUnsupported, "the device has %d bytes; it has to be made smaller first", now)
		}
		s.setSize(size)
		return nil
	}
	if size > info.Size {
		if err := s.grow(info.Size, size); err != nil {
			return errOf("resize", fmt.Errorf("%s: %w", s.path, err))
		}
		s.setSize(size)
		return nil
	}
	s.setSize(size) // first: whatever comes now is refused
	if err := s.cut(size); err != nil {
		s.setSize(info.Size)
		return errOf("resize", fmt.Errorf("%s: %w", s.path, err))
	}
	return nil
}

// PresentSize returns how many bytes the file or device has by now.
func (s *Store) PresentSize(context.Context) (int64, error) {
	s.resizing.Lock()
	defer s.resizing.Unlock()
	if s.closing.Load() {
		return 0, s.badSize(backstore.ClassOffline, "%w", backstore.ErrClosed)
	}
	size, err := s.presentSize()
	if err != nil {
		return 0, errOf("resize", err)
	}
	return size, nil
}

// AdoptSize takes over that the file or device has another size than before. Nothing about it is changed.
func (s *Store) AdoptSize(_ context.Context, size int64) error {
	s.resizing.Lock()
	defer s.resizing.Unlock()
	if err := s.checkSize(size); err != nil {
		return err
	}
	now, err := s.presentSize()
	if err != nil {
		return errOf("resize", err)
	}
	if size > now {
		return s.badSize(backstore.ClassRange, "it has %d bytes, fewer than %d", now, size)
	}
	s.setSize(size)
	return nil
}

func (s *Store) badSize(c backstore.Class, format string, args ...any) error {
	return &backstore.Error{Class: c, Op: "resize", Cause: fmt.Errorf(s.path+": "+format, args...)}
}

func (s *Store) checkSize(size int64) error {
	if s.closing.Load() {
		return s.badSize(backstore.ClassOffline, "%w", backstore.ErrClosed)
	}
	if unit := int64(max(s.Info().BlockSize, sector)); size <= 0 || size%unit != 0 {
		return s.badSize(backstore.ClassRange, "%d bytes is no positive multiple of %d", size, unit)
	}
	return nil
}

func (s *Store) setSize(size int64) { s.amend(func(i *backstore.Info) { i.Size = size }) }

func (s *Store) presentSize() (int64, error) {
	if s.dev {
		return unix.Seek(s.fd, 0, unix.SEEK_END)
	}
	var st unix.Stat_t
	err := unix.Fstat(s.fd, &st)
	return st.Size, err
}

func (s *Store) grow(from, to int64) error {
	now, err := s.presentSize()
	if err != nil {
		return err
	}
	if now > to { // somebody made it longer; it is not for us to cut that off
		return nil
	}
	if err := unix.Ftruncate(s.fd, to); err != nil {
		return err
	}
	if !s.cfg.thin {
		if e := fallocate(s.fd, 0, from, to-from); e != 0 {
			return errors.Join(e, unix.Ftruncate(s.fd, now)) // what somebody else has added stays
		}
	}
	return unix.Fsync(s.fd)
}

// cut makes the file no longer than size.
func (s *Store) cut(size int64) error {
	now, err := s.presentSize()
	if err != nil {
		return err
	}
	if now > size {
		if err := unix.Ftruncate(s.fd, size); err != nil {
			return err
		}
	}
	return unix.Fsync(s.fd)
}

var _ backstore.Sizer = (*Store)(nil)
