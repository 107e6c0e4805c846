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
	if stop := s.stopShot.Load(); stop != nil {
		(*stop)(errClosing)
	}
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
	s.gate.taking.Lock() // nobody may write the volume before a snapshot has ended
	defer s.gate.taking.Unlock()
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
