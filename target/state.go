package target

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi"
)

// A stateDir is the folder that keeps what has to outlive the daemon: one file for each volume with persistent
// reservations that are to (APTPL).
type stateDir struct {
	path string
	log  Logger

	mu   sync.Mutex
	open map[string]bool // file names in use; guarded by mu
}

// A stateFile is one LU's; it is a scsi.Persistence.
type stateFile struct {
	dir  *stateDir
	name string
	last []byte // what the file holds; touched by one Save at a time
}

// maxState bounds a state file, well above what a thousand registrations with the longest names take.
const maxState = 1 << 20

// newStateDir makes the folder if it is not there.
func newStateDir(path string, log Logger) (*stateDir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
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
		err = syncDir(in[i])
	}
	if err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	return &stateDir{path: path, log: log, open: map[string]bool{}}, nil
}

// claim opens the state of the volume that cfg and info name, and completes cfg with it. Nil: there is none to be had.
func (d *stateDir) claim(cfg *scsi.DiskConfig, info backstore.Info) (*stateFile, error) {
	volume := cfg.Volume(info)
	if d == nil || info.Shared || volume == "" || cfg.Persistence != nil {
		return nil, nil
	}
	sum := sha256.Sum256([]byte(volume))
	f := &stateFile{dir: d, name: "pr-" + hex.EncodeToString(sum[:16])}
	d.mu.Lock()
	taken := d.open[f.name]
	d.open[f.name] = true
	d.mu.Unlock()
	if taken {
		return nil, fmt.Errorf("the volume's identity %q is in use by another LUN", volume)
	}
	var err error
	if f.last, err = f.read(); err != nil {
		f.release()
		return nil, fmt.Errorf("the saved persistent reservations: %w", err)
	}
	cfg.Persistence, cfg.Reservations = f, f.last
	return f, nil
}

// path is where the state is.
func (f *stateFile) path() string { return filepath.Join(f.dir.path, f.name) }

func (f *stateFile) read() ([]byte, error) {
	st, err := os.Stat(f.path())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if st.Size() == 0 || st.Size() > maxState {
		return nil, fmt.Errorf("%s has %d bytes: it is damaged", f.path(), st.Size())
	}
	return os.ReadFile(f.path())
}

// release lets another LU have the volume. A nil f has none.
func (f *stateFile) release() {
	if f != nil {
		f.dir.mu.Lock()
		delete(f.dir.open, f.name)
		f.dir.mu.Unlock()
	}
}

// Save is scsi.Persistence's. A disk can take its time: it is not waited for on the loop.
func (f *stateFile) Save(state []byte, done func(error)) {
	go func() {
		err := f.put(state)
		if err == nil {
			f.last = state
		} else {
			f.dir.log.Warn("persistent reservations could not be saved; the command is refused", "file", f.path(), "error", err)
		}
		done(err)
	}()
}

// put makes state the file's durable contents, or leaves it as it was; nil: there is no file.
func (f *stateFile) put(state []byte) error {
	if err := f.swap(state); err != nil {
		return err
	}
	if err := syncDir(f.dir.path); err != nil {
		return errors.Join(err, f.swap(f.last))
	}
	return nil
}

// syncDir makes the names in a folder durable.
func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// swap puts state in the file's place in one step. What a start after a crash of this process finds is the old or the new; after a
// crash of the machine, too, once the folder has been synced.
func (f *stateFile) swap(state []byte) error {
	if state == nil {
		if err := os.Remove(f.path()); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	t, err := os.OpenFile(f.path()+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = t.Write(state)
	if err == nil {
		err = t.Sync()
	}
	if err = errors.Join(err, t.Close()); err != nil {
		return errors.Join(err, os.Remove(t.Name()))
	}
	return os.Rename(t.Name(), f.path())
}
