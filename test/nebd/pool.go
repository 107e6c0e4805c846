package nebd

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// DefaultBlock is the block of volumes that do not say, in bytes.
const DefaultBlock = 4096

// A Pool is the folder that stands for a cluster: see the package's comment for what is in it.
type Pool struct{ dir string }

// A Volume is what a pool knows of a volume. Besides these fields its file may have others, which are kept.
type Volume struct {
	Owner string `json:"owner"`
	Block int    `json:"blocksize,omitempty"`
	Size  int64  `json:"-"` // the length of its data
}

// NewPool makes a pool of a folder, which is made if it is missing.
func NewPool(dir string) (*Pool, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return &Pool{dir}, nil
}

// Dir is the folder.
func (p *Pool) Dir() string { return p.dir }

var errVolumeName = errors.New("want a path that begins with /, without . and .. and without names that begin with a dot")

// Data is the file of a volume's data.
func (p *Pool) Data(volume string) (string, error) {
	if len(volume) < 2 || volume[0] != '/' || path.Clean(volume) != volume || strings.Contains(volume, "/.") || strings.ContainsRune(volume, 0) {
		return "", fmt.Errorf("volume %q: %w", volume, errVolumeName)
	}
	return filepath.Join(p.dir, filepath.FromSlash(volume)), nil
}

// Meta is the file that says whose it is.
func (p *Pool) Meta(volume string) (string, error) {
	data, err := p.Data(volume)
	if err != nil {
		return "", err
	}
	return filepath.Join(filepath.Dir(data), "."+filepath.Base(data)+".json"), nil
}

// Create makes a volume, and the directories above it.
func (p *Pool) Create(volume string, v Volume) error {
	data, err := p.Data(volume)
	if err != nil {
		return err
	}
	meta, err := p.Meta(volume)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(data), 0o755); err != nil {
		return err
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(data), ".new-*")
	if err != nil {
		return err
	}
	err = f.Truncate(v.Size)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.WriteFile(meta, text, 0o644)
	}
	if err == nil {
		err = os.Link(f.Name(), data) // fails if there is one already
	}
	return errors.Join(err, os.Remove(f.Name()))
}

// Stat looks a volume up.
func (p *Pool) Stat(volume string) (v Volume, err error) {
	data, err := p.Data(volume)
	if err != nil {
		return v, err
	}
	meta, err := p.Meta(volume)
	if err != nil {
		return v, err
	}
	fi, err := os.Stat(data)
	if err != nil {
		return v, err
	}
	if !fi.Mode().IsRegular() {
		return v, fmt.Errorf("%s is no volume", volume)
	}
	text, err := os.ReadFile(meta)
	if err == nil {
		err = json.Unmarshal(text, &v)
	} else if os.IsNotExist(err) {
		err = nil
	}
	if v.Block == 0 {
		v.Block = DefaultBlock
	}
	v.Size = fi.Size()
	return v, err
}

// Extend makes a volume larger.
func (p *Pool) Extend(volume string, size int64) error {
	data, err := p.Data(volume)
	if err != nil {
		return err
	}
	fi, err := os.Stat(data)
	if err != nil {
		return err
	}
	if size < fi.Size() {
		return fmt.Errorf("%s has %d bytes: a volume does not shrink", volume, fi.Size())
	}
	return os.Truncate(data, size)
}

// InUse tells whether a server has a volume open.
func (p *Pool) InUse(volume string) (bool, error) {
	data, err := p.Data(volume)
	if err != nil {
		return false, err
	}
	f, err := os.Open(data)
	if err != nil {
		return false, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	busy := errors.Is(err, unix.EWOULDBLOCK)
	if busy {
		err = nil
	}
	return busy, errors.Join(err, f.Close())
}
