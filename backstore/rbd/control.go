//go:build rbd && cgo

package rbd

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/rbd/internal/librbd"
)

// mindEvery is how often an idle store asks whether the image's lock is still its own.
const mindEvery = 5 * time.Second

// hold keeps Close waiting until control.Done.
func (s *Store) hold(op string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.released {
		return &backstore.Error{Class: backstore.ClassOffline, Op: op, Cause: backstore.ErrClosed}
	}
	s.control.Add(1)
	return nil
}

// mind looks after what librbd tells of the image as a whole, away from the loop: another size, another owner of the lock.
func (s *Store) mind() {
	defer s.control.Done()
	tick := time.NewTicker(mindEvery)
	defer tick.Stop()
	for {
		select {
		case _, more := <-s.poke:
			if !more {
				return
			}
			s.resized()
		case <-tick.C:
		}
		if s.locked {
			s.checkLock()
		}
	}
}

func (s *Store) checkLock() {
	owned, err := s.img.LockOwned()
	why := errLost
	if n, _ := errnoOf(err); n == syscall.ESHUTDOWN {
		why = errFenced
	} else if err != nil || owned { // an error of another kind says nothing of the lock
		return
	}
	s.mu.Lock()
	s.shutOut(why)
	s.unlock()
}

// resized takes over a size that the image has been given behind the store.
func (s *Store) resized() {
	size, err := s.img.Size()
	if err != nil {
		return // I/O tells
	}
	s.settle(size)
}

// settle makes size Info's and tells it to whoever watches.
func (s *Store) settle(size int64) {
	size &^= blockSize - 1
	s.mu.Lock()
	s.info.Size = size
	changed := s.changed
	if s.told == size {
		changed = nil
	}
	s.told = size
	s.unlock()
	if changed != nil {
		changed(size)
	}
}

// WatchSize has changed called when the image has got another size behind the store.
func (s *Store) WatchSize(changed func(size int64)) {
	s.mu.Lock()
	s.changed = changed
	s.mu.Unlock()
}

// Resize changes the image's size. When ctx ends, librbd stops at its next step, which is not waited for; what was cut off by then is gone. What it comes to
// is told as if somebody else had done it.
func (s *Store) Resize(ctx context.Context, size int64) error {
	if size <= 0 || size%blockSize != 0 {
		return &backstore.Error{Class: backstore.ClassRange, Op: "resize", Cause: fmt.Errorf("%d bytes are no positive multiple of %d", size, blockSize)}
	}
	if s.cfg.readOnly {
		return &backstore.Error{Class: backstore.ClassReadOnly, Op: "resize"}
	}
	if err := s.hold("resize"); err != nil {
		return err
	}
	s.mu.Lock()
	s.told = size // the watch says nothing new with it
	s.mu.Unlock()
	_, err := within(ctx, "resize", func() (struct{}, error) {
		defer s.control.Done()
		if err := s.img.Resize(ctx, size, true, func(int64, int64) {}); err != nil {
			s.forget()
			s.resized()
			return struct{}{}, failed("resize", "image "+s.cfg.spec.String(), err)
		}
		s.settle(size)
		return struct{}{}, nil
	}, func(struct{}) { // nobody waits for it any more
		s.forget()
		s.settle(size)
	})
	return err
}

// forget has the next size told whatever it is.
func (s *Store) forget() {
	s.mu.Lock()
	s.told = 0
	s.mu.Unlock()
}

// PresentSize asks the cluster for the image's size.
func (s *Store) PresentSize(ctx context.Context) (int64, error) {
	if err := s.hold("size"); err != nil {
		return 0, err
	}
	return within(ctx, "size", func() (int64, error) {
		defer s.control.Done()
		img, err := librbd.Open(s.cl.io.Pointer(), s.cfg.image, s.cfg.snap, true)
		if err != nil {
			return 0, failed("size", "image "+s.cfg.spec.String(), err)
		}
		size, err := img.Size()
		if cerr := img.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return 0, failed("size", "image "+s.cfg.spec.String(), err)
		}
		return size &^ (blockSize - 1), nil
	}, func(int64) {})
}

// AdoptSize makes size that of Info. An image opened to be read keeps the size that it had, since librbd does not follow it there.
func (s *Store) AdoptSize(ctx context.Context, size int64) error {
	if size <= 0 || size%blockSize != 0 {
		return &backstore.Error{Class: backstore.ClassRange, Op: "size", Cause: fmt.Errorf("%d bytes are no positive multiple of %d", size, blockSize)}
	}
	if err := s.hold("size"); err != nil {
		return err
	}
	now, err := within(ctx, "size", func() (int64, error) {
		defer s.control.Done()
		n, err := s.img.Size()
		if err != nil {
			return 0, failed("size", "image "+s.cfg.spec.String(), err)
		}
		return n, nil
	}, func(int64) {})
	if err != nil {
		return err
	}
	if size > now {
		class := backstore.ClassRange
		if s.cfg.readOnly {
			class = backstore.ClassUnsupported
		}
		return &backstore.Error{Class: class, Op: "size", Cause: fmt.Errorf("the image has %d bytes as it was opened, not %d", now, size)}
	}
	s.mu.Lock()
	s.info.Size, s.told = size, size
	s.mu.Unlock()
	return nil
}

// Snapshot takes a snapshot: librbd lets what is in flight end first, and holds back what comes meanwhile. One that is there when ctx has ended is deleted again.
func (s *Store) Snapshot(ctx context.Context, name string, _ backstore.Progress) error {
	if s.cfg.readOnly {
		return &backstore.Error{Class: backstore.ClassReadOnly, Op: "snapshot"}
	}
	if err := s.hold("snapshot"); err != nil {
		return err
	}
	what := s.cfg.spec.String() + "@" + name
	unwanted := func() {
		if err := s.img.SnapRemove(context.Background(), name, func(int64, int64) {}); err != nil {
			s.warn("the snapshot " + what + ", which came too late, could not be deleted: " + err.Error())
		}
	}
	_, err := within(ctx, "snapshot", func() (struct{}, error) {
		defer s.control.Done()
		if err := s.img.SnapCreate(name); err != nil {
			return struct{}{}, failed("snapshot", what, err)
		}
		if err := ctx.Err(); err != nil {
			unwanted()
			return struct{}{}, failed("snapshot", what, err)
		}
		return struct{}{}, nil
	}, func(struct{}) { // at that very moment
		if s.hold("snapshot") == nil {
			defer s.control.Done()
			unwanted()
		}
	})
	return err
}
