package backstore

import (
	"context"
	"fmt"
	"time"
)

// Progress is told how far long work has come: done of total, in units of the work's own (bytes, objects, percent); total 0 is not known.
// It is called from any goroutine, one at a time, and does not block. Nil is nobody who listens: call Report.
type Progress func(done, total int64)

// Report calls p, if there is one.
func (p Progress) Report(done, total int64) {
	if p != nil {
		p(done, total)
	}
}

// A Volume is a volume as its engine lists it. What an engine does not tell is the zero value, but for Used.
type Volume struct {
	URI     string    // opens it, with those options of what was asked that belong to it
	Name    string    // in the engine's words, for people
	Size    int64     // bytes
	Used    int64     // bytes that it takes up in the engine; -1: not known
	Created time.Time // zero: not known
	Parent  string    // of a clone: what it still depends on, in the engine's words
	InUse   string    // who has it open, in the engine's words; empty: nobody, or not known
}

// A Snapshot is a volume's contents of one moment.
type Snapshot struct {
	Name    string // unique in its volume
	ID      string // the engine's own, where that is another thing
	Size    int64  // bytes of the volume then; 0: not known
	Created time.Time
	Clones  int    // volumes that depend on it; -1: not known
	State   string // "ready", or what goes on with it in the engine's words ("creating 40 %", "error")
}

// A TrashedVolume is a deleted volume that can be restored.
type TrashedVolume struct {
	ID      string // names it to Restore
	Name    string // what it was called
	Size    int64  // bytes; 0: not known
	Deleted time.Time
	Expires time.Time // zero: the engine keeps it until somebody purges it, or does not tell
}

// A Deletion says how a volume is deleted.
type Deletion struct {
	Purge bool // not into the engine's trash: for ever
}

// Volumes is what a driver can do with volumes besides opening them. A nil function is what it cannot. All may block, within ctx, and run
// beside each other and beside open stores; errors are *Error: ClassNotFound, ClassBusy (it exists already, it is in use, it has
// snapshots or clones), ClassUnsupported, ClassReadOnly, ClassNoSpace, ClassOffline, … What has begun and cannot go on is undone, or the error says what is
// left. Whoever calls has seen to it that no store of this process has the volume open where an operation wants that (Rollback, Delete,
// Resize); the driver looks for others.
type Volumes struct {
	// Options are URI options besides the driver's own that Create, Clone or another of these reads ("pool", "stripe"); any other is refused before the call.
	Options []string

	// Create makes a volume of size bytes that reads as zeroes. One that exists already is ClassBusy and is left alone.
	Create func(ctx context.Context, u *URI, size int64, p Progress) error
	// List lists the volumes where u points: a pool, a folder, a server. What is named only in part is the whole of it ("rbd:pool").
	List func(ctx context.Context, u *URI) ([]Volume, error)
	// Stat is one volume of it.
	Stat func(ctx context.Context, u *URI) (Volume, error)
	// Resize changes the size of a volume that is not open here (of one that is, see Resizer). Smaller wants shrink.
	Resize func(ctx context.Context, u *URI, size int64, shrink bool, p Progress) error
	// Delete deletes a volume: into the trash, where there is one.
	Delete func(ctx context.Context, u *URI, d Deletion, p Progress) error
	// Trash lists the deleted volumes that can be restored, where u points; Restore brings one back under the name that u gives or, where u
	// names no volume, its old one, and returns its URI. Purge deletes one for ever.
	Trash   func(ctx context.Context, u *URI) ([]TrashedVolume, error)
	Restore func(ctx context.Context, u *URI, id string) (string, error)
	Purge   func(ctx context.Context, u *URI, id string, p Progress) error

	// Snapshot takes a snapshot of a volume, open or not. It is crash-consistent: of one moment between call and return, and holds every write that
	// was completed before the call. A store that is a Snapshotter is asked instead, where this process has the volume open.
	Snapshot       func(ctx context.Context, u *URI, name string, p Progress) error
	Snapshots      func(ctx context.Context, u *URI) ([]Snapshot, error) // oldest first
	DeleteSnapshot func(ctx context.Context, u *URI, name string, p Progress) error
	// SnapshotURI names a snapshot as a volume that can be opened, which it is not while it is deleted; empty: there can be none such. Nil: none can be opened.
	SnapshotURI func(u *URI, name string) string
	// Rollback gives a volume that is open nowhere the contents (and the size) that it had at the snapshot.
	Rollback func(ctx context.Context, u *URI, name string, p Progress) error

	// Clone makes the volume to, of the same driver, whose contents are those of u at the snapshot (empty: a driver that can takes one itself, else
	// ClassUnsupported). Each is written without the other seeing it. Flatten ends a clone's dependence on its parent.
	Clone   func(ctx context.Context, u *URI, snapshot string, to *URI, p Progress) error
	Flatten func(ctx context.Context, u *URI, p Progress) error
}

// Can lists what v can do in the words of commands, for people: "create", "list", …
func (v *Volumes) Can() []string {
	if v == nil {
		return nil
	}
	var out []string
	for _, c := range []struct {
		name string
		can  bool
	}{
		{"create", v.Create != nil}, {"list", v.List != nil}, {"resize", v.Resize != nil}, {"delete", v.Delete != nil},
		{"restore", v.Restore != nil}, {"snapshot", v.Snapshot != nil}, {"rollback", v.Rollback != nil},
		{"clone", v.Clone != nil}, {"flatten", v.Flatten != nil},
	} {
		if c.can {
			out = append(out, c.name)
		}
	}
	return out
}

// A Snapshotter is an open store that has a part in taking a snapshot of its volume: see Volumes.Snapshot. It runs beside Submit and is
// never called on a loop; writes may be slower meanwhile, and none waits for longer than the engine needs for a few of them.
type Snapshotter interface {
	Snapshot(ctx context.Context, name string, p Progress) error
}

// Volumes returns the driver of u's scheme and what it can do with volumes; an error says that there is none.
func (r *Registry) Volumes(u *URI) (Driver, *Volumes, error) {
	d, err := r.driver(u)
	if err != nil {
		return d, nil, err
	}
	if d.Volumes == nil {
		return d, nil, &Error{Class: ClassUnsupported, Op: "volume", Cause: fmt.Errorf("the %s driver does not administer volumes", u.Scheme)}
	}
	return d, d.Volumes, nil
}

// Key tells whether two URIs name one volume: those of one key do. Empty: each opening is a volume of its own.
func (r *Registry) Key(u *URI) string {
	if d, ok := r.drivers[u.Scheme]; ok && d.Key != nil {
		return d.Key(u)
	}
	if u.Path == "" {
		return "" // mem: and null: are new each time
	}
	return u.Scheme + "\x00" + u.Host + "\x00" + u.Path
}
