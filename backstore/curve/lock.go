package curve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A fileLock is the lock that every client of a nebd-server on this host takes on a volume's name before it opens it (libnebd, curve-nbd, QEMU): the
// server has one descriptor a name, and whoever closes it closes it for all.
type fileLock struct{ f *os.File }

var errLocked = errors.New("another process of this host has it open, or a store of this one that is not closed yet")

// takeLock takes the lock of a name or fails with ClassBusy.
func takeLock(dir, nebd string) (*fileLock, error) {
	path := filepath.Join(dir, lockName(nebd))
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			class := backstore.ClassInternal
			if os.IsNotExist(err) {
				err = fmt.Errorf("%w; the folder of the clients' locks is missing: make it, or name another with lockdir=", err)
				class = backstore.ClassNotFound
			}
			return nil, &backstore.Error{Class: class, Op: "open", Cause: err}
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && current(f, path) {
			return &fileLock{f}, nil
		}
		_ = f.Close() // nothing was written to it
		switch {
		case err == nil || errors.Is(err, unix.EINTR): // its last owner has removed the file that was locked
		case errors.Is(err, unix.EWOULDBLOCK):
			return nil, &backstore.Error{Class: backstore.ClassBusy, Op: "open", Cause: fmt.Errorf("lock file %s: %w", path, errLocked)}
		default:
			return nil, &backstore.Error{Class: backstore.ClassInternal, Op: "open", Cause: fmt.Errorf("lock file %s: %w", path, err)}
		}
	}
}

// waitLock takes the lock of a name that is never held for long.
func waitLock(ctx context.Context, dir, nebd string) (*fileLock, error) {
	for {
		l, err := takeLock(dir, nebd)
		if backstore.ClassOf(err) != backstore.ClassBusy || err == nil {
			return l, err
		}
		if pause(ctx, minPause) != nil {
			return nil, err
		}
	}
}

// current reports whether f is still what path names.
func current(f *os.File, path string) bool {
	ours, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(ours, named)
}

// release removes the file, as libnebd does, and lets go of the lock.
func (l *fileLock) release() {
	_ = os.Remove(l.f.Name()) // while it is locked: nobody else has it
	_ = l.f.Close()           // the lock goes with it
}

// pause waits, or returns the context's error.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
