package file

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

var errClosing = classed{backstore.ClassOffline, backstore.ErrClosed}

// Snapshot takes a snapshot of the open volume, in one moment, while it is written. Where the file system shares blocks the writes wait for
// that; where not, a copy is made, and a write waits for the megabytes that it would change in it before they are copied.
func (s *Store) Snapshot(ctx context.Context, name string, p backstore.Progress) error {
	err := s.snapshot(ctx, name, p, nil)
	if err != nil {
		err = fmt.Errorf("%s: %w", s.path, err)
	}
	return wrap("snapshot", err)
}

func (s *Store) snapshot(ctx context.Context, name string, p backstore.Progress, step func(string) error) error {
	if err := checkName(name); err != nil {
		return err
	}
	if s.dev {
		return classErr(backstore.ClassUnsupported, "snapshots are of files; of a block device, whatever is below it takes them (LVM, the array)")
	}
	if !s.gate.taking.TryLock() {
		return classErr(backstore.ClassBusy, "another snapshot of it is being taken")
	}
	defer s.gate.taking.Unlock()
	switch {
	case s.closing.Load():
		return errClosing
	case s.failed.Load():
		return classErr(backstore.ClassMedium, "%w", errFailed)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.stopShot.Store(&cancel)
	defer s.stopShot.Store(nil)
	if s.closing.Load() { // between the two
		return errClosing
	}
	path, err := s.still()
	if err != nil {
		return err
	}
	dir, err := snapshotFolder(path)
	if err != nil {
		return err
	}
	m := making{dir: dir, name: name, step: step}
	err = m.make(func(fd int) error { return s.shoot(ctx, fd, step, p) })
	return errors.Join(err, dropFolder(path)) // it stays where a snapshot is in it
}

// still returns the path of the file, having seen that the file there is the one that is open.
func (s *Store) still() (string, error) {
	path, err := resolve(s.path)
	if err != nil {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Fstat(s.fd, &st); err != nil {
		return "", err
	}
	if !sameFile(path, &st) {
		return "", classErr(backstore.ClassNotFound, "another file has its name by now")
	}
	return path, nil
}

// shoot fills dst with the volume's contents of one moment.
func (s *Store) shoot(ctx context.Context, dst int, step func(string) error, p backstore.Progress) error {
	src, err := unix.Open(fdPath(s.fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	if !s.cfg.direct {
		// So that less has to be written while writers wait. Whether it succeeds is for the store's own flush to find out.
		_ = fdatasync(src)
	}
	sh := s.newShot()
	s.resizing.Lock() // Resize looks for the snapshot under it
	size := s.Info().Size
	s.gate.shot.Store(sh)
	s.resizing.Unlock()
	taken, err := s.moment(ctx, sh, dst, src, size, step, p)
	err = sh.end(err)
	s.gate.shot.Store(nil)
	sh.pool.stop()
	s.gate.past = append(s.gate.past, sh)
	if err != nil {
		return err
	}
	return stamp(dst, taken)
}

// moment has dst filled while the gate is shut, and returns the moment.
func (s *Store) moment(ctx context.Context, sh *shot, dst, src int, size int64, step func(string) error, p backstore.Progress) (taken time.Time, err error) {
	if err := s.drain(ctx); err != nil {
		return taken, err
	}
	taken = time.Now()
	if step != nil {
		if err := step("moment"); err != nil {
			return taken, err
		}
	}
	ok, err := reflink(dst, src)
	switch {
	case err != nil:
		return taken, err
	case ok:
		// The file may be longer than the volume.
		return taken, unix.Ftruncate(dst, size)
	case s.cfg.shared:
		return taken, classErr(backstore.ClassUnsupported, "it is open shared, and its file system has no reflinks: what others write while it is copied cannot be kept out")
	case s.cfg.readonly:
		return taken, classErr(backstore.ClassUnsupported, "it is open without the right to write, and its file system has no reflinks: nobody knows who else writes it while it is copied; close it first")
	}
	if err := unix.Ftruncate(dst, size); err != nil {
		return taken, err
	}
	sh.begin(&copier{src: src, dst: dst, step: step}, size)
	sh.all(ctx, p)
	return taken, nil
}

// snapshots lists the snapshots of the file at path, oldest first.
func snapshots(path string) ([]backstore.Snapshot, error) {
	dir := snapshotsOf(path)
	list, err := readDir(dir)
	if err != nil {
		return nil, err
	}
	var out []backstore.Snapshot
	for _, e := range list {
		if !e.Type().IsRegular() || checkName(e.Name()) != nil {
			continue
		}
		st, err := e.Info()
		if err != nil { // deleted just now
			continue
		}
		out = append(out, backstore.Snapshot{Name: e.Name(), Size: st.Size(), Created: st.ModTime(), State: "ready"})
	}
	sortByTime(out)
	return out, nil
}

func snapshotPath(path, name string) string { return filepath.Join(snapshotsOf(path), name) }
