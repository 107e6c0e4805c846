package file

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

// Close waits for what is in flight, makes everything durable and lets go of the file and its lock.
// When ctx ends first the store is an orphan: a goroutine goes on with that.
func (s *Store) Close(ctx context.Context) error {
	if s.closing.Swap(true) {
		return &backstore.Error{Class: backstore.ClassOffline, Op: "close", Cause: backstore.ErrClosed}
	}
	s.writer.kick() // a batch without its Kick
	done := make(chan error, 1)
	go func() { done <- s.release() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return &backstore.Error{Class: backstore.ClassBusy, Op: "close",
			Cause: fmt.Errorf("%s: %d requests have not ended: %w", s.path, s.inFlight.Load(), ctx.Err())}
	}
}

func (s *Store) release() error {
	for s.inFlight.Load() != 0 {
		<-s.idle
	}
	s.resizing.Lock() // a Resize under way still has the descriptor
	defer s.resizing.Unlock()
	var err error
	switch {
	case s.failed.Load(): // Linux would call a flush good now
		err = &backstore.Error{Class: backstore.ClassMedium, Op: "close", Cause: fmt.Errorf("%s: %w", s.path, errNotDurable)}
	case !s.cfg.readonly && (s.cfg.shared || s.written.Load() != s.synced.Load()):
		if e := fdatasync(s.fd); e != 0 {
			err = &backstore.Error{Class: classOf(e), Op: "close", Cause: fmt.Errorf("%s: flush: %w", s.path, e)}
		}
	}
	s.writer.stop()
	s.workers.stop()
	if e := unix.Close(s.fd); e != nil {
		err = errors.Join(err, &backstore.Error{Class: backstore.ClassMedium, Op: "close", Cause: fmt.Errorf("%s: %w", s.path, e)})
	}
	return err
}

// Resize makes a file longer, or takes note that a device has become so. Nothing is ever cut off: shrinking
// is ClassUnsupported.
func (s *Store) Resize(_ context.Context, size int64) error {
	s.resizing.Lock()
	defer s.resizing.Unlock()
	bad := func(c backstore.Class, format string, args ...any) error {
		return &backstore.Error{Class: c, Op: "resize", Cause: fmt.Errorf(s.path+": "+format, args...)}
	}
	info := s.Info()
	switch {
	case s.closing.Load():
		return bad(backstore.ClassOffline, "%w", backstore.ErrClosed)
	case s.cfg.readonly:
		return bad(backstore.ClassReadOnly, "it is open without the right to write")
	case size <= 0 || size%int64(max(info.BlockSize, sector)) != 0:
		return bad(backstore.ClassRange, "%d bytes is no positive multiple of %d", size, max(info.BlockSize, sector))
	case size < info.Size:
		return bad(backstore.ClassUnsupported, "from %d to %d bytes: shrinking would cut data off", info.Size, size)
	case size == info.Size:
		return nil
	}
	if s.dev {
		now, err := unix.Seek(s.fd, 0, unix.SEEK_END)
		if err != nil {
			return errOf("resize", err)
		}
		if size > now {
			return bad(backstore.ClassUnsupported, "the device has %d bytes, fewer than %d; it has to grow first", now, size)
		}
	} else if err := s.grow(info.Size, size); err != nil {
		return errOf("resize", fmt.Errorf("%s: %w", s.path, err))
	}
	s.amend(func(i *backstore.Info) { i.Size = size })
	return nil
}

func (s *Store) grow(from, to int64) error {
	var st unix.Stat_t
	if err := unix.Fstat(s.fd, &st); err != nil {
		return err
	}
	if st.Size > to { // somebody made it longer; it is not for us to cut that off
		return nil
	}
	if err := unix.Ftruncate(s.fd, to); err != nil {
		return err
	}
	if !s.cfg.thin {
		if e := fallocate(s.fd, 0, from, to-from); e != 0 {
			return errors.Join(e, unix.Ftruncate(s.fd, from))
		}
	}
	return unix.Fsync(s.fd)
}
