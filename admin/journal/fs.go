package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A FS is one folder. Names have no slash in them.
type FS interface {
	// Path is where a name is, for people.
	Path(name string) string
	// ReadFile returns a file's contents; os.ErrNotExist: it is not there.
	ReadFile(name string) ([]byte, error)
	// Append opens a file for appending; with create it is made, mode 0600, or emptied.
	Append(name string, create bool) (File, error)
	Rename(from, to string) error
	// Link gives a file another name; a file that has that name loses it.
	Link(from, to string) error
	Remove(name string) error
	// Sync makes the names durable.
	Sync() error
	// Lock holds a file exclusively until the Closer is closed; ErrLocked: another process does. It is made if it is not there.
	Lock(name string) (io.Closer, error)
}

// A File is open for appending.
type File interface {
	io.Writer // at the end; less than all is an error
	Sync() error
	Truncate(size int64) error
	Close() error
}

// ErrLocked is what Lock returns when another process holds the file.
var ErrLocked = errors.New("in use by another process")

// dir is a FS of the machine.
type dir string

// Dir returns the folder at path, which is made if it is not there, for its owner alone. One that every user may write to is refused: there
// others could put a state of theirs, or links, in the place of ours.
func Dir(path string) (FS, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	var in []string // where a name has to be made durable, too
	for p := path; ; p = filepath.Dir(p) {
		if _, err := os.Stat(p); !errors.Is(err, os.ErrNotExist) {
			break
		}
		in = append(in, filepath.Dir(p))
	}
	err = os.MkdirAll(path, 0o700)
	for i := 0; i < len(in) && err == nil; i++ {
		err = dir(in[i]).Sync()
	}
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(path)
	if err == nil && st.Mode().Perm()&0o002 != 0 {
		err = fmt.Errorf("%s: every user of this machine may write to it (mode %#o): chmod o-w it, or name a folder below it", path, st.Mode().Perm())
	}
	return dir(path), err
}

func (d dir) Path(name string) string { return filepath.Join(string(d), name) }

func (d dir) ReadFile(name string) ([]byte, error) { return os.ReadFile(d.Path(name)) }

func (d dir) Append(name string, create bool) (File, error) {
	flags := os.O_WRONLY | os.O_APPEND | unix.O_NOFOLLOW
	if create {
		flags |= os.O_CREATE | os.O_TRUNC
	}
	return os.OpenFile(d.Path(name), flags, 0o600)
}

func (d dir) Rename(from, to string) error { return os.Rename(d.Path(from), d.Path(to)) }

func (d dir) Link(from, to string) error {
	if err := os.Remove(d.Path(to)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Link(d.Path(from), d.Path(to))
}

func (d dir) Remove(name string) error { return os.Remove(d.Path(name)) }

func (d dir) Sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d dir) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(d.Path(name), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		defer f.Close()
		if err != unix.EWOULDBLOCK {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		if pid, rerr := io.ReadAll(io.LimitReader(f, 32)); rerr == nil && len(pid) > 0 {
			return nil, fmt.Errorf("%w (pid %s)", ErrLocked, strings.TrimSpace(string(pid)))
		}
		return nil, ErrLocked
	}
	// The number is for whoever finds the file locked; without it the lock is as good.
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	return f, nil
}
