package file

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

// createMode is the mode of a file that is made: disks are nobody else's business.
const createMode = 0o600

// sector is what the size of a file that is made is a multiple of.
const sector = 512

// config is what the URI and the daemon say.
type config struct {
	size         int64 // of a file to make; 0: not given
	thin         bool
	direct       bool
	writethrough bool
	shared       bool
	readonly     bool
	writer       bool // buffered writes go to the writer where they may wait (writer.go)
}

// Driver returns the driver of the scheme "file".
func Driver() backstore.Driver {
	return backstore.Driver{
		Scheme:  "file",
		Help:    "file:///PATH?size=1G&thin=on&direct=off&cache=writeback|writethrough&shared=off&readonly=off&writer=on — a file (made if a size is given) or a block device",
		Options: []string{"size", "thin", "direct", "cache", "shared", "readonly", "writer"},
		Open:    open,
		Traits:  []string{"fua", "discard", "snapshots", "clones"},
		Volumes: administrator{}.volumes(),
		Key:     key,
	}
}

// errOf makes the error of opening. A permission that is missing is not "read-only" here.
func errOf(op string, err error) error {
	var be *backstore.Error
	if errors.As(err, &be) {
		return err
	}
	c := backstore.ClassInternal
	var e unix.Errno
	if errors.As(err, &e) {
		c = classOf(e)
	}
	return &backstore.Error{Class: c, Op: op, Cause: err}
}

func errClass(c backstore.Class, format string, args ...any) error {
	return &backstore.Error{Class: c, Op: "open", Cause: fmt.Errorf(format, args...)}
}

func parse(u *backstore.URI, o backstore.Options) (c config, err error) {
	if u.Host != "" {
		return c, errClass(backstore.ClassUnsupported, "%s names a host; write file:///PATH", u.Shown())
	}
	if u.Path == "" {
		return c, errClass(backstore.ClassNotFound, "%s names no file; write file:///PATH", u)
	}
	if c.size, err = u.Size("size", 0); err == nil && c.size == 0 {
		if _, given := u.Option("size"); given {
			err = errors.New("option size: a disk of 0 bytes")
		}
	}
	if err == nil && c.size%sector != 0 {
		err = fmt.Errorf("option size: %d is no multiple of %d", c.size, sector)
	}
	if err != nil {
		return c, errClass(backstore.ClassRange, "%w", err)
	}
	for _, b := range []struct {
		name string
		to   *bool
		def  bool
	}{{"thin", &c.thin, true}, {"direct", &c.direct, false}, {"shared", &c.shared, false}, {"readonly", &c.readonly, false}, {"writer", &c.writer, true}} {
		if *b.to, err = u.Bool(b.name, b.def); err != nil {
			return c, errClass(backstore.ClassUnsupported, "%w", err)
		}
	}
	c.readonly = c.readonly || o.ReadOnly
	switch v, _ := u.Option("cache"); v {
	case "", "writeback":
	case "writethrough":
		c.writethrough = true
	default:
		return c, errClass(backstore.ClassUnsupported, "option cache=%s: want writeback or writethrough", v)
	}
	return c, nil
}

func open(_ context.Context, u *backstore.URI, o backstore.Options) (backstore.Store, error) {
	cfg, err := parse(u, o)
	if err != nil {
		return nil, err
	}
	warn := o.Warn
	if warn == nil {
		warn = func(string) {}
	}
	s, err := openFile(u.Path, cfg, warn)
	if err != nil {
		return nil, errOf("open", err)
	}
	return s, nil
}

func openFile(path string, cfg config, warn func(string)) (*Store, error) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	var fd int
	switch {
	case err == unix.ENOENT && cfg.size > 0 && !cfg.readonly:
		fd, err = create(path, cfg, warn)
	case err == unix.ENOENT && cfg.readonly:
		err = errClass(backstore.ClassNotFound, "%s does not exist", path)
	case err == unix.ENOENT:
		err = errClass(backstore.ClassNotFound, "%s does not exist; with size=1G it would be made", path)
	case err != nil:
		err = &os.PathError{Op: "stat", Path: path, Err: err}
	case !cfg.readonly && isSnapshot(path):
		err = errClass(backstore.ClassReadOnly, "%s is a snapshot: readonly=on serves it, or make a clone of it to write", path)
	case st.Mode&unix.S_IFMT != unix.S_IFREG && st.Mode&unix.S_IFMT != unix.S_IFBLK:
		err = errClass(backstore.ClassUnsupported, "%s is neither a file nor a block device", path)
	default:
		fd, err = existing(path, cfg, warn)
	}
	if err != nil {
		return nil, err
	}
	s, err := newStore(fd, path, cfg, warn)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return s, nil
}

func openFlags(cfg config) int {
	flags := unix.O_CLOEXEC
	if !cfg.readonly {
		flags |= unix.O_RDWR
	}
	if cfg.direct {
		flags |= unix.O_DIRECT
	}
	if cfg.writethrough {
		flags |= unix.O_DSYNC
	}
	return flags
}

// existing opens what is there, and changes nothing about it.
func existing(path string, cfg config, warn func(string)) (int, error) {
	for range makeTries {
		fd, err := openLocked(path, cfg, warn)
		if err != nil {
			return -1, err
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return -1, errors.Join(err, unix.Close(fd))
		}
		if sameFile(path, &st) {
			return fd, nil
		}
		// Who had it locked has put another in its place (a rollback), or deleted it.
		if err := unix.Close(fd); err != nil {
			return -1, err
		}
	}
	return -1, errClass(backstore.ClassBusy, "%s is replaced again and again", path)
}

// openLocked opens what is at path and locks it, by which time it may have lost that name.
func openLocked(path string, cfg config, warn func(string)) (int, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return -1, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	flags := openFlags(cfg)
	if st.Mode&unix.S_IFMT == unix.S_IFBLK && !cfg.shared {
		flags |= unix.O_EXCL // refused while it is mounted or part of something
	}
	fd, err := unix.Open(path, flags, 0)
	switch {
	case err == unix.EINVAL && cfg.direct:
		return -1, errClass(backstore.ClassUnsupported, "%s: its file system has no direct I/O", path)
	case err == unix.EBUSY:
		return -1, errClass(backstore.ClassBusy, "%s is in use (mounted, or part of another device)", path)
	case err == unix.EROFS || err == unix.EACCES || err == unix.EPERM:
		hint := ""
		if !cfg.readonly {
			hint = " for writing (readonly=on serves it without)"
		}
		return -1, errClass(backstore.ClassReadOnly, "%s cannot be opened%s: %w", path, hint, err)
	case err != nil:
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if err = lock(fd, path, cfg, warn); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// create makes the file whole or not at all: it gets its name when it has its size and is on disk.
func create(path string, cfg config, warn func(string)) (int, error) {
	fd, err := unix.Open(filepath.Dir(path), openFlags(cfg)|unix.O_TMPFILE, createMode)
	switch err {
	case nil:
		err = fill(fd, path, cfg, warn)
		if err == nil {
			err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
		}
		return created(fd, path, err)
	case unix.EOPNOTSUPP, unix.EISDIR:
		return createNamed(path, cfg, warn)
	}
	return -1, createError(path, cfg, err)
}

// createNamed is for file systems without O_TMPFILE: the file has its name from the start, and loses it
// when it cannot be finished.
func createNamed(path string, cfg config, warn func(string)) (int, error) {
	fd, err := unix.Open(path, openFlags(cfg)|unix.O_CREAT|unix.O_EXCL, createMode)
	if err != nil {
		return -1, createError(path, cfg, err)
	}
	if err = fill(fd, path, cfg, warn); err != nil {
		err = errors.Join(err, unix.Unlink(path))
	}
	return created(fd, path, err)
}

func createError(path string, cfg config, err error) error {
	if err == unix.EINVAL && cfg.direct {
		return errClass(backstore.ClassUnsupported, "%s: its file system has no direct I/O", path)
	}
	return &os.PathError{Op: "create", Path: path, Err: err}
}

// fill locks a new file and gives it its size.
func fill(fd int, path string, cfg config, warn func(string)) error {
	if err := lock(fd, path, cfg, warn); err != nil {
		return err
	}
	if cfg.thin {
		if err := unix.Ftruncate(fd, cfg.size); err != nil {
			return err
		}
	} else if e := fallocate(fd, 0, 0, cfg.size); e != 0 {
		return e
	}
	return unix.Fsync(fd)
}

// created ends a creation: the name is made durable, or the descriptor is closed for err.
func created(fd int, path string, err error) (int, error) {
	if err == nil {
		if err = syncDir(filepath.Dir(path)); err != nil {
			err = errors.Join(err, unix.Unlink(path))
		}
	}
	if err != nil {
		return -1, &os.PathError{Op: "create", Path: path, Err: errors.Join(err, unix.Close(fd))}
	}
	return fd, nil
}

func syncDir(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = unix.Fsync(fd)
	if err == unix.EINVAL { // a file system without it
		err = nil
	}
	return errors.Join(err, unix.Close(fd))
}

// newStore looks at what fd is and makes the store. It does not close fd.
func newStore(fd int, path string, cfg config, warn func(string)) (*Store, error) {
	s := &Store{cfg: cfg, path: path, fd: fd, warn: warn, idle: make(chan struct{}, 1)}
	info, err := s.probe()
	if err != nil {
		return nil, err
	}
	switch {
	case cfg.size > info.Size:
		return nil, errClass(backstore.ClassRange, "%s has %d bytes, fewer than size=%d; it is left as it is (drop size=, or grow it first)", path, info.Size, cfg.size)
	case cfg.size > 0 && cfg.size < info.Size:
		warn(fmt.Sprintf("%s has %d bytes, more than size=%d: all of it is served", path, info.Size, cfg.size))
	case info.Size == 0:
		return nil, errClass(backstore.ClassRange, "%s is empty", path)
	case info.Size%int64(info.BlockSize) != 0:
		return nil, errClass(backstore.ClassRange, "%s has %d bytes, no multiple of %d, which direct=on asks for", path, info.Size, info.BlockSize)
	}
	s.info.Store(info)
	s.pace.start = time.Now().Add(-2 * calm) // no write has been slow for long
	s.writer = newPool(1, s.runWriter)
	s.workers = newPool(maxWorkers, s.run)
	// What a process before us wrote and did not flush counts as ours.
	s.written.Store(1)
	if cfg.writethrough && !cfg.readonly {
		if e := fdatasync(fd); e != 0 {
			return nil, &os.PathError{Op: "fdatasync", Path: path, Err: e}
		}
	}
	return s, nil
}
