package file

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

// An administrator carries out what backstore.Volumes has.
type administrator struct {
	step func(string) error // of tests: called at each step; nil otherwise
}

func (a administrator) volumes() *backstore.Volumes {
	v := &backstore.Volumes{
		Create: a.create, List: list, Stat: stat, Resize: resize, Delete: remove,
		Snapshot: a.snapshot, Snapshots: listSnapshots, DeleteSnapshot: deleteSnapshot, Rollback: a.rollback, Clone: a.clone,
		Flatten: func(_ context.Context, u *backstore.URI, p backstore.Progress) error {
			_, err := locate(u) // a clone is a file of its own from the start
			p.Report(1, 1)
			return wrap("flatten", err)
		},
	}
	return v
}

// wrap makes err, unless nil, one of operation op.
func wrap(op string, err error) error {
	var (
		c  classed
		be *backstore.Error
		e  unix.Errno
	)
	class := backstore.ClassInternal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &c):
		class = c.class
	case errors.As(err, &be):
		if error(be) == err { //nolint:errorlint // it says all already
			return err
		}
		class = be.Class
	case errors.As(err, &e):
		class = classOf(e)
	case errors.Is(err, context.Canceled):
		class = backstore.ClassCancelled
	case errors.Is(err, context.DeadlineExceeded):
		class = backstore.ClassTimeout
	case errors.Is(err, os.ErrNotExist):
		class = backstore.ClassNotFound
	case errors.Is(err, errTruncated):
		class = backstore.ClassMedium
	}
	return &backstore.Error{Class: class, Op: op, Cause: err}
}

// key tells files apart: by what the path comes to, also while the last of it does not exist.
func key(u *backstore.URI) string {
	path := u.Path
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	} else if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		path = filepath.Join(dir, filepath.Base(path))
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return "file\x00" + path
}

// locate returns the one path of the file that u names, which exists.
func locate(u *backstore.URI) (string, error) {
	if _, err := parse(u, backstore.Options{}); err != nil {
		return "", err
	}
	path, err := resolve(u.Path)
	if err != nil {
		return "", err
	}
	var st unix.Stat_t
	switch err := unix.Stat(path, &st); {
	case err != nil:
		return "", &os.PathError{Op: "stat", Path: path, Err: err}
	case st.Mode&unix.S_IFMT == unix.S_IFBLK:
		return "", classErr(backstore.ClassUnsupported, "%s is a block device; this is for files: use what made the device (LVM, the array)", path)
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return "", classErr(backstore.ClassUnsupported, "%s is not a file", path)
	}
	sweep(tempOf(path)) // of a rollback that a crash has ended
	return path, nil
}

// own opens the file at path and locks it against everybody, as long as the descriptor is open.
func own(path string) (int, error) {
	if isSnapshot(path) {
		return -1, classErr(backstore.ClassReadOnly, "%s is a snapshot", path)
	}
	return ownAny(path)
}

func ownAny(path string) (int, error) { return locked(path, config{}) }

// locked opens the file at path with the lock that cfg asks for, and insists on it.
func locked(path string, cfg config) (int, error) {
	unlocked := ""
	fd, err := existing(path, cfg, func(w string) { unlocked = w })
	if err == nil && unlocked != "" {
		return -1, errors.Join(classErr(backstore.ClassUnsupported, "%s", unlocked), unix.Close(fd))
	}
	return fd, err
}

func (a administrator) create(_ context.Context, u *backstore.URI, size int64, p backstore.Progress) error {
	cfg, err := parse(u, backstore.Options{})
	if err != nil {
		return wrap("create", err)
	}
	switch {
	case size <= 0 || size%sector != 0:
		err = classErr(backstore.ClassRange, "%d bytes is no positive multiple of %d", size, sector)
	case cfg.size != 0 && cfg.size != size:
		err = classErr(backstore.ClassRange, "option size=%d and a size of %d were given", cfg.size, size)
	default:
		m := making{dir: filepath.Dir(u.Path), name: filepath.Base(u.Path), step: a.step}
		err = m.make(func(fd int) error {
			if err := unix.Ftruncate(fd, size); err != nil || cfg.thin {
				return err
			}
			return errnoOf(fallocate(fd, 0, 0, size))
		})
	}
	if err == nil {
		p.Report(size, size)
	}
	return wrap("create", err)
}

func errnoOf(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// uriOf names the file at path.
func uriOf(path string) string { return "file://" + (&url.URL{Path: path}).EscapedPath() }

// describe is what is known of the file at path, whose lstat is fi.
func describe(path string) (v backstore.Volume, ok bool) {
	var st unix.Stat_t
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		// Nobody who may not read it is told who has it open.
		if unix.Stat(path, &st) != nil {
			return v, false
		}
	} else {
		defer unix.Close(fd)
		if unix.Fstat(fd, &st) != nil {
			return v, false
		}
		l := unix.Flock_t{Type: unix.F_WRLCK}
		if unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &l) == nil && l.Type != unix.F_UNLCK {
			v.InUse = "somebody has it open"
		}
	}
	v.URI, v.Name, v.Size, v.Used = uriOf(path), path, st.Size, st.Blocks*512
	return v, st.Mode&unix.S_IFMT == unix.S_IFREG
}

// list lists the files of a folder, or the one file that u names, that can be volumes.
func list(ctx context.Context, u *backstore.URI) ([]backstore.Volume, error) {
	if u.Host != "" || u.Path == "" {
		return nil, wrap("list", classErr(backstore.ClassUnsupported, "name a folder: file:///PATH"))
	}
	path, err := resolve(u.Path)
	if err != nil {
		return nil, wrap("list", err)
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, wrap("list", err)
	}
	if !st.IsDir() {
		v, err := stat(ctx, u)
		if err != nil {
			return nil, err
		}
		return []backstore.Volume{v}, nil
	}
	if err := sweepDir(path); err != nil {
		return nil, wrap("list", err)
	}
	entries, err := readDir(path)
	if err != nil {
		return nil, wrap("list", err)
	}
	var out []backstore.Volume
	for _, e := range entries {
		if ctx.Err() != nil {
			return nil, wrap("list", context.Cause(ctx))
		}
		if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if v, ok := describe(filepath.Join(path, e.Name())); ok && v.Size > 0 && v.Size%sector == 0 {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b backstore.Volume) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func stat(_ context.Context, u *backstore.URI) (backstore.Volume, error) {
	path, err := locate(u)
	if err != nil {
		return backstore.Volume{}, wrap("stat", err)
	}
	v, ok := describe(path)
	if !ok {
		return v, wrap("stat", classErr(backstore.ClassNotFound, "%s does not exist", path))
	}
	if v.InUse != "" {
		if fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
			if by := holder(fd); by != "" {
				v.InUse = strings.TrimPrefix(by, ": held by ")
			}
			_ = unix.Close(fd)
		}
	}
	return v, nil
}

func resize(ctx context.Context, u *backstore.URI, size int64, shrink bool, p backstore.Progress) error {
	path, err := locate(u)
	if err != nil {
		return wrap("resize", err)
	}
	cfg, err := parse(u, backstore.Options{})
	if err != nil {
		return wrap("resize", err)
	}
	cfg = config{thin: cfg.thin, writer: true}
	st, err := openFile(path, cfg, func(string) {})
	if err != nil {
		return wrap("resize", err)
	}
	if now := st.Info().Size; size < now && !shrink {
		err = classErr(backstore.ClassRange, "%s has %d bytes; making it smaller cuts off what is behind the new end, and was not asked for", path, now)
	} else {
		err = st.Resize(ctx, size)
	}
	if err = errors.Join(err, st.Close(context.WithoutCancel(ctx))); err != nil {
		return wrap("resize", err)
	}
	p.Report(size, size)
	return nil
}

// remove deletes a file for ever: there is no trash.
func remove(_ context.Context, u *backstore.URI, _ backstore.Deletion, p backstore.Progress) error {
	path, err := locate(u)
	if err != nil {
		return wrap("delete", err)
	}
	if fi, err := os.Lstat(u.Path); err == nil && fi.Mode()&os.ModeSymlink != 0 {
		return wrap("delete", classErr(backstore.ClassUnsupported, "%s is a link to %s; delete that", u.Path, path))
	}
	fd, err := own(path)
	if err != nil {
		return wrap("delete", err)
	}
	err = func() error {
		if err := sweepDir(snapshotsOf(path)); err != nil {
			return err
		}
		list, err := snapshots(path)
		if err != nil {
			return err
		}
		if len(list) > 0 {
			return classErr(backstore.ClassBusy, "%s has %d snapshots (the first is %q); delete them first", path, len(list), list[0].Name)
		}
		// What is in the folder and is no snapshot is not ours to delete.
		if err := unix.Rmdir(snapshotsOf(path)); err != nil && err != unix.ENOENT {
			if err == unix.ENOTEMPTY || err == unix.EEXIST {
				return classErr(backstore.ClassBusy, "%s is not empty: a snapshot is being taken, or somebody has put something there", snapshotsOf(path))
			}
			return err
		}
		if err := unix.Unlink(path); err != nil {
			return err
		}
		return syncDir(filepath.Dir(path))
	}()
	if err = errors.Join(err, unix.Close(fd)); err == nil {
		p.Report(1, 1)
	}
	return wrap("delete", err)
}

// contents opens path for reading its contents of one moment: locked against those who would change it, or, where somebody has it open already, for a
// reflink only.
func contents(path string) (fd int, still bool, err error) {
	if isSnapshot(path) { // many may read it at once
		fd, err = locked(path, config{readonly: true})
		return fd, err == nil, err
	}
	fd, err = ownAny(path)
	if err == nil {
		return fd, true, nil
	}
	if backstore.ClassOf(err) != backstore.ClassBusy {
		return -1, false, err
	}
	fd, e := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if e != nil {
		return -1, false, errors.Join(err, e)
	}
	return fd, false, nil
}

// fillFrom fills dst with what the file at path has at one moment, which it returns.
func (a administrator) fillFrom(ctx context.Context, dst int, path string, thin bool, p backstore.Progress) (taken time.Time, err error) {
	src, still, err := contents(path)
	if err != nil {
		return taken, err
	}
	defer unix.Close(src)
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return taken, err
	}
	taken = time.Now()
	if !thin {
		if err := unix.Ftruncate(dst, st.Size); err != nil {
			return taken, err
		}
		if e := fallocate(dst, 0, 0, st.Size); e != 0 {
			return taken, e
		}
	}
	cp := &copier{src: src, dst: dst, step: a.step}
	switch {
	case still && thin:
		return taken, duplicate(ctx, dst, src, st.Size, cp, p)
	case still:
		return taken, cp.all(ctx, st.Size, p)
	}
	if ok, err := reflink(dst, src); err != nil || ok {
		return taken, err
	}
	return taken, classErr(backstore.ClassBusy, "%s is open elsewhere, and its file system has no reflinks: a copy would not be of one moment. Have whoever serves it take the snapshot, or close it", path)
}

func (a administrator) snapshot(ctx context.Context, u *backstore.URI, name string, p backstore.Progress) error {
	path, err := locate(u)
	if err == nil {
		err = checkName(name)
	}
	if err != nil {
		return wrap("snapshot", err)
	}
	if isSnapshot(path) {
		return wrap("snapshot", classErr(backstore.ClassUnsupported, "%s is a snapshot itself", path))
	}
	dir, err := snapshotFolder(path)
	if err != nil {
		return wrap("snapshot", err)
	}
	m := making{dir: dir, name: name, step: a.step}
	err = m.make(func(fd int) error {
		taken, err := a.fillFrom(ctx, fd, path, true, p)
		if err != nil {
			return err
		}
		return stamp(fd, taken)
	})
	return wrap("snapshot", errors.Join(err, dropFolder(path)))
}

func listSnapshots(_ context.Context, u *backstore.URI) ([]backstore.Snapshot, error) {
	path, err := locate(u)
	if err != nil {
		return nil, wrap("list snapshots", err)
	}
	if err := sweepDir(snapshotsOf(path)); err != nil {
		return nil, wrap("list snapshots", err)
	}
	list, err := snapshots(path)
	return list, wrap("list snapshots", err)
}

func sortByTime(list []backstore.Snapshot) {
	slices.SortFunc(list, func(a, b backstore.Snapshot) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
}

// snapshotFile returns the path of the snapshot of the file at path.
func snapshotFile(path, name string) (string, error) {
	if err := checkName(name); err != nil {
		return "", err
	}
	snap := snapshotPath(path, name)
	switch fi, err := os.Lstat(snap); {
	case errors.Is(err, os.ErrNotExist):
		return "", classErr(backstore.ClassNotFound, "%s has no snapshot %q", path, name)
	case err != nil:
		return "", err
	case !fi.Mode().IsRegular():
		return "", classErr(backstore.ClassUnsupported, "%s is not a file", snap)
	}
	return snap, nil
}

func deleteSnapshot(_ context.Context, u *backstore.URI, name string, p backstore.Progress) error {
	path, err := locate(u)
	if err != nil {
		return wrap("delete snapshot", err)
	}
	snap, err := snapshotFile(path, name)
	if err != nil {
		return wrap("delete snapshot", err)
	}
	fd, err := ownAny(snap) // nobody serves it or makes a clone of it
	if err != nil {
		return wrap("delete snapshot", err)
	}
	err = unix.Unlink(snap)
	if err == nil {
		err = syncDir(snapshotsOf(path))
	}
	if err = errors.Join(err, unix.Close(fd), dropFolder(path)); err == nil {
		p.Report(1, 1)
	}
	return wrap("delete snapshot", err)
}

// rollback puts a copy of the snapshot in the place of the file, which keeps its owner and mode: a crash leaves the one or the other.
func (a administrator) rollback(ctx context.Context, u *backstore.URI, name string, p backstore.Progress) error {
	path, err := locate(u)
	if err != nil {
		return wrap("rollback", err)
	}
	snap, err := snapshotFile(path, name)
	if err != nil {
		return wrap("rollback", err)
	}
	fd, err := own(path)
	if err != nil {
		return wrap("rollback", err)
	}
	err = a.replace(ctx, path, snap, fd, p)
	return wrap("rollback", errors.Join(err, unix.Close(fd)))
}

func (a administrator) replace(ctx context.Context, path, snap string, old int, p backstore.Progress) error {
	var st unix.Stat_t
	if err := unix.Fstat(old, &st); err != nil {
		return err
	}
	if st.Nlink > 1 {
		return classErr(backstore.ClassUnsupported, "%s has other names (hard links), which would keep the old contents", path)
	}
	m := making{dir: filepath.Dir(path), name: filepath.Base(path), replace: true, step: a.step}
	return m.make(func(fd int) error {
		if _, err := a.fillFrom(ctx, fd, snap, true, p); err != nil {
			return err
		}
		if err := unix.Fchown(fd, int(st.Uid), int(st.Gid)); err != nil {
			return fmt.Errorf("give it the owner of %s: %w", path, err)
		}
		return unix.Fchmod(fd, st.Mode&0o7777)
	})
}

func (a administrator) clone(ctx context.Context, u *backstore.URI, snapshot string, to *backstore.URI, p backstore.Progress) error {
	path, err := locate(u)
	if err != nil {
		return wrap("clone", err)
	}
	if snapshot != "" {
		if path, err = snapshotFile(path, snapshot); err != nil {
			return wrap("clone", err)
		}
	}
	cfg, err := parse(to, backstore.Options{})
	if err != nil {
		return wrap("clone", err)
	}
	if cfg.size != 0 {
		return wrap("clone", classErr(backstore.ClassRange, "a clone has its parent's size: leave out size="))
	}
	m := making{dir: filepath.Dir(to.Path), name: filepath.Base(to.Path), step: a.step}
	err = m.make(func(fd int) error {
		_, err := a.fillFrom(ctx, fd, path, cfg.thin, p)
		return err
	})
	return wrap("clone", err)
}
