package journaltest

import (
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"sync"

	"github.com/lunar-iscsi/lunar/admin/journal"
)

// ErrStopped is what every operation returns once the machine has stopped.
var ErrStopped = errors.New("journaltest: the machine has stopped")

// sector is in what pieces data reaches the medium.
const sector = 512

// A FS is a folder in memory. What was written is on the medium when it was synced, and may be there before.
type FS struct {
	mu      sync.Mutex
	rng     *rand.Rand
	names   map[string]*inode // as programs see it
	durable map[string]*inode // as the medium has it
	changes []func(map[string]*inode)
	locked  bool

	ops     int // so far
	stop    int // before which operation the machine stops, from 1; 0: never
	stopped bool
	faults  map[int]error // by number of operation
}

type inode struct{ data, durable []byte }

// New returns an empty folder.
func New(seed uint64) *FS {
	return &FS{rng: rand.New(rand.NewPCG(seed, 1)), names: map[string]*inode{}, durable: map[string]*inode{}, faults: map[int]error{}}
}

// StopAt makes the machine stop at the n-th operation from now on, which may be done in part.
func (f *FS) StopAt(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stop = f.ops + n
}

// FailAt makes the n-th operation from now on fail with err; a write may then be done in part.
func (f *FS) FailAt(n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults[f.ops+n] = err
}

// Heal takes back what FailAt has asked for.
func (f *FS) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.faults)
}

// Ops is how many operations there have been.
func (f *FS) Ops() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ops
}

// Stopped reports whether the machine has stopped.
func (f *FS) Stopped() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stopped
}

// Set puts a file there, on the medium.
func (f *FS) Set(name string, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := &inode{data: data, durable: data}
	f.names[name], f.durable[name] = n, n
}

// Get returns a file as programs see it; nil: it is not there.
func (f *FS) Get(name string) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.names[name]; n != nil {
		return append([]byte(nil), n.data...)
	}
	return nil
}

// Names lists the files.
func (f *FS) Names() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]int{}
	for k, n := range f.names {
		out[k] = len(n.data)
	}
	return out
}

// Restart returns the folder as the next start finds it: after kill -9 all that was written; after a loss of power what the medium
// has, which is what was synced and any part of the rest.
func (f *FS) Restart(power bool) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := New(f.rng.Uint64())
	if !power {
		for k, v := range f.names {
			c := &inode{data: clone(v.data), durable: clone(v.durable)}
			n.names[k], n.durable[k] = c, c
		}
		return n
	}
	names := maps.Clone(f.durable)
	for _, c := range f.changes[:f.rng.IntN(len(f.changes)+1)] {
		c(names)
	}
	for k, v := range names {
		n.Set(k, f.onMedium(v))
	}
	return n
}

// onMedium is what the medium may have of a file.
func (f *FS) onMedium(n *inode) []byte {
	switch f.rng.IntN(4) {
	case 0:
		return clone(n.durable)
	case 1:
		return clone(n.data)
	}
	b := clone(n.data)
	if len(b) > len(n.durable) && f.rng.IntN(2) == 0 {
		b = b[:len(n.durable)+f.rng.IntN(len(b)-len(n.durable)+1)]
	}
	for at := len(n.durable); at < len(b); at = (at/sector + 1) * sector {
		if f.rng.IntN(3) == 0 {
			clear(b[at:min((at/sector+1)*sector, len(b))])
		}
	}
	return b
}

func clone(b []byte) []byte { return append([]byte(nil), b...) }

// step counts an operation. part says that it stops, or fails, in the middle.
func (f *FS) step() (part bool, err error) {
	if f.stopped {
		return false, ErrStopped
	}
	f.ops++
	if f.ops == f.stop {
		f.stopped = true
		return true, ErrStopped
	}
	if err := f.faults[f.ops]; err != nil {
		return true, err
	}
	return false, nil
}

// whole reports whether an operation that is done or not is done, though its caller is not told.
func (f *FS) whole(part bool, err error) bool {
	return err == nil || part && errors.Is(err, ErrStopped) && f.rng.IntN(2) == 0
}

func (f *FS) change(c func(map[string]*inode)) {
	c(f.names)
	f.changes = append(f.changes, c)
}

// Path is journal.FS's.
func (f *FS) Path(name string) string { return "/state/" + name }

// ReadFile is journal.FS's.
func (f *FS) ReadFile(name string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.names[name]
	if n == nil {
		return nil, os.ErrNotExist
	}
	return clone(n.data), nil
}

// Append is journal.FS's.
func (f *FS) Append(name string, create bool) (journal.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.names[name]
	if !create {
		if n == nil {
			return nil, os.ErrNotExist
		}
		return &handle{f, n}, nil
	}
	part, err := f.step()
	if f.whole(part, err) {
		if n == nil {
			n = &inode{}
			f.change(func(m map[string]*inode) { m[name] = n })
		}
		n.data = nil
	}
	if err != nil {
		return nil, err
	}
	return &handle{f, n}, nil
}

// Rename is journal.FS's.
func (f *FS) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	part, err := f.step()
	if n := f.names[from]; n == nil && err == nil {
		return os.ErrNotExist
	} else if n != nil && f.whole(part, err) {
		f.change(func(m map[string]*inode) { delete(m, from); m[to] = n })
	}
	return err
}

// Link is journal.FS's: like the real one it takes the name away first.
func (f *FS) Link(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	part, err := f.step()
	n := f.names[from]
	if f.names[to] != nil && f.whole(part, err) {
		f.change(func(m map[string]*inode) { delete(m, to) })
	}
	if n == nil && err == nil {
		return os.ErrNotExist
	} else if n != nil && f.whole(part, err) {
		f.change(func(m map[string]*inode) { m[to] = n })
	}
	return err
}

// Remove is journal.FS's.
func (f *FS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.names[name] == nil && !f.stopped {
		return os.ErrNotExist
	}
	part, err := f.step()
	if f.whole(part, err) {
		f.change(func(m map[string]*inode) { delete(m, name) })
	}
	return err
}

// Sync is journal.FS's.
func (f *FS) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	part, err := f.step()
	if f.whole(part, err) {
		for _, c := range f.changes {
			c(f.durable)
		}
		f.changes = nil
	}
	return err
}

// Lock is journal.FS's.
func (f *FS) Lock(string) (io.Closer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.locked {
		return nil, journal.ErrLocked
	}
	f.locked = true
	return unlock{f}, nil
}

type unlock struct{ f *FS }

func (u unlock) Close() error {
	u.f.mu.Lock()
	defer u.f.mu.Unlock()
	u.f.locked = false
	return nil
}

// A handle is an open file.
type handle struct {
	f *FS
	n *inode
}

// Write is journal.File's. One that fails has written some of it.
func (h *handle) Write(p []byte) (int, error) {
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	part, err := h.f.step()
	n := len(p)
	switch {
	case err != nil && !part:
		return 0, err
	case err != nil:
		n = h.f.rng.IntN(len(p) + 1)
	}
	h.n.data = append(h.n.data[:len(h.n.data):len(h.n.data)], p[:n]...)
	return n, err
}

// Sync is journal.File's. Of one that fails the medium has any part.
func (h *handle) Sync() error {
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	part, err := h.f.step()
	if h.f.whole(part, err) {
		h.n.durable = clone(h.n.data)
	}
	return err
}

// Truncate is journal.File's.
func (h *handle) Truncate(size int64) error {
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	part, err := h.f.step()
	if h.f.whole(part, err) {
		h.n.data = h.n.data[:min(int(size), len(h.n.data))]
	}
	return err
}

// Close is journal.File's.
func (h *handle) Close() error { return nil }
