package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A file that takes time to make has a name of its own until it is whole: "." before and this behind its name. Its maker holds a lock on
// it, so what has such a name and no lock was left behind by a crash.
const (
	tempPrefix = "."
	tempSuffix = ".lunar-tmp"
)

// makeTries is how often a name that somebody cleans away is tried again.
const makeTries = 5

// A making is a file that is being made.
type making struct {
	dir, name string // where it will be
	replace   bool   // what has that name already is replaced
	fd        int
	step      func(string) error // of tests: called at each step; may be nil
}

func (m *making) final() string { return filepath.Join(m.dir, m.name) }
func (m *making) temp() string  { return tempOf(m.final()) }

func tempOf(path string) string {
	return filepath.Join(filepath.Dir(path), tempPrefix+filepath.Base(path)+tempSuffix)
}

func (m *making) at(step string) error {
	if m.step == nil {
		return nil
	}
	return m.step(step)
}

// make makes dir/name: all of it, durable, as fill fills it, or nothing. A name that is taken is ClassBusy.
func (m *making) make(fill func(fd int) error) error {
	if !m.replace {
		if err := m.free(); err != nil {
			return err
		}
	}
	if err := m.create(); err != nil {
		return err
	}
	err := m.at("made")
	if err == nil {
		err = fill(m.fd)
	}
	if err == nil {
		err = m.at("filled")
	}
	if err == nil {
		err = unix.Fsync(m.fd)
	}
	if err == nil {
		err = m.at("synced")
	}
	if err == nil {
		err = m.rename()
	} else {
		err = errors.Join(err, unix.Unlink(m.temp()))
	}
	return errors.Join(err, unix.Close(m.fd))
}

// free reports whether the name is.
func (m *making) free() error {
	switch _, err := os.Lstat(m.final()); {
	case err == nil:
		return classErr(backstore.ClassBusy, "%s exists already", m.final())
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	return nil
}

// create makes the file with its temporary name and locks it.
func (m *making) create() error {
	for range makeTries {
		fd, err := unix.Open(m.temp(), unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NOFOLLOW, createMode)
		if err == unix.EEXIST {
			if sweep(m.temp()) {
				continue
			}
			return classErr(backstore.ClassBusy, "%s is being made by somebody else (%s)", m.final(), m.temp())
		}
		if err != nil {
			return &os.PathError{Op: "create", Path: m.temp(), Err: err}
		}
		// Where the file system has no locks nobody sweeps either.
		err = lockOFD(fd, unix.F_WRLCK)
		var st unix.Stat_t
		if e := unix.Fstat(fd, &st); err != unix.EAGAIN && e == nil && sameFile(m.temp(), &st) {
			m.fd = fd
			return nil
		}
		if err = unix.Close(fd); err != nil { // swept between its making and the lock
			return err
		}
	}
	return classErr(backstore.ClassBusy, "%s cannot be made: somebody removes %s", m.final(), m.temp())
}

// rename gives the file, which is whole, its name, and makes that durable.
func (m *making) rename() error {
	var err error
	if m.replace {
		err = unix.Rename(m.temp(), m.final())
	} else {
		err = unix.Renameat2(unix.AT_FDCWD, m.temp(), unix.AT_FDCWD, m.final(), unix.RENAME_NOREPLACE)
		if err == unix.EINVAL || err == unix.ENOSYS { // a file system without it
			if err = unix.Link(m.temp(), m.final()); err == nil {
				err = unix.Unlink(m.temp())
			}
		}
	}
	if err != nil {
		if err == unix.EEXIST {
			err = classErr(backstore.ClassBusy, "%s exists already", m.final())
		}
		return errors.Join(err, unix.Unlink(m.temp()))
	}
	err = m.at("named")
	if err == nil {
		err = syncDir(m.dir)
	}
	if err == nil {
		return m.at("durable")
	}
	if m.replace {
		return fmt.Errorf("%s has its new contents, but whether a crash leaves it so is not known: %w", m.final(), err)
	}
	return errors.Join(err, unix.Unlink(m.final()))
}

func lockOFD(fd int, kind int16) error {
	return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind})
}

// sweep removes a file that was left half made; false: somebody is at it, or it cannot be told.
func sweep(temp string) bool {
	fd, err := unix.Open(temp, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err == unix.ENOENT
	}
	gone := false
	if lockOFD(fd, unix.F_WRLCK) == nil {
		var st unix.Stat_t
		// Not another's file by now that has taken the name.
		if unix.Fstat(fd, &st) == nil && sameFile(temp, &st) {
			gone = unix.Unlink(temp) == nil
		} else {
			gone = true
		}
	}
	_ = unix.Close(fd)
	return gone
}

// isTemp reports whether a name is that of a file in the making.
func isTemp(name string) bool {
	return strings.HasPrefix(name, tempPrefix) && strings.HasSuffix(name, tempSuffix)
}

// duplicate fills dst, which is empty, with the size bytes of src, which nobody changes or which can be had in one moment: by reflink, else by a copy, if
// that may be.
func duplicate(ctx context.Context, dst, src int, size int64, cp *copier, p backstore.Progress) error {
	ok, err := reflink(dst, src)
	if err != nil {
		return err
	}
	if !ok {
		if err := unix.Ftruncate(dst, size); err != nil {
			return err
		}
		if err := cp.all(ctx, size, p); err != nil {
			return err
		}
	}
	p.Report(size, size)
	return nil
}

// stamp makes t the time of a file's last change: that of a snapshot is when it was taken.
func stamp(fd int, t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	return unix.UtimesNanoAt(unix.AT_FDCWD, fdPath(fd), []unix.Timespec{ts, ts}, 0)
}

func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
