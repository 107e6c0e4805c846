package volumes

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// An Engine has volumes by name. Its URIs are SCHEME:NAME; names are listed by their beginning.
type Engine struct {
	scheme string
	// Snapshotters are what is opened: stores that take part in snapshots. Set before it is used.
	Snapshotters bool
	// Can, where set, takes functions away from what the driver can. Set before it is used.
	Can func(*backstore.Volumes)

	mu     sync.Mutex
	vols   map[string]*volume
	trash  map[string]*volume // by id
	next   int
	points map[string][]*Point // by operation, for the next of its kind
	wrongs []string
	calls  map[string]int
	ended  chan struct{} // closed and made anew whenever something ends
}

// A volume is one of an engine's.
type volume struct {
	name   string
	data   []byte
	snaps  []*snap
	parent string // "name@snap" that it depends on
	opens  int
	doing  []string // operations that are under way
	half   bool     // being made
}

type snap struct {
	name string
	data []byte
}

// New makes an engine of no volumes.
func New(scheme string) *Engine {
	return &Engine{scheme: scheme, vols: map[string]*volume{}, trash: map[string]*volume{}, points: map[string][]*Point{}, calls: map[string]int{}, ended: make(chan struct{})}
}

// Driver is the engine's. Its options are a secret, which it does not read, and readonly.
func (e *Engine) Driver() backstore.Driver {
	v := &backstore.Volumes{Options: []string{"stripe"}, Create: e.create, List: e.list, Stat: e.stat, Resize: e.resize, Delete: e.delete, Trash: e.listTrash, Restore: e.restore,
		Purge: e.purge, Snapshot: e.snapshot, Snapshots: e.snapshots, DeleteSnapshot: e.deleteSnapshot, SnapshotURI: e.snapshotURI, Rollback: e.rollback, Clone: e.clone, Flatten: e.flatten}
	if e.Can != nil {
		e.Can(v)
	}
	return backstore.Driver{Scheme: e.scheme, Help: e.scheme + ":NAME — a volume in memory, for tests", Options: []string{"secret", "readonly"},
		Traits: []string{"fua", "discard"}, Open: e.open, Volumes: v}
}

// snapshotURI names a snapshot as a volume. The engine does not open them: a volume of that name stands for it.
func (e *Engine) snapshotURI(u *backstore.URI, name string) string {
	return e.scheme + ":" + u.Path + "@" + name
}

// A Point is where the next operation of a kind stops half way.
type Point struct {
	Reached chan struct{} // closed when it has come there
	Go      chan struct{} // to be closed: it goes on
	Fail    error         // it then fails with that
	Deaf    bool          // it does not listen to its context
	Panic   bool          // it then breaks down
}

// Stop lets the next operation of a kind stop half way: "create", "snapshot", "open", "close", …
func (e *Engine) Stop(op string) *Point {
	p := &Point{Reached: make(chan struct{}), Go: make(chan struct{})}
	e.add(op, p)
	return p
}

// Fail lets the next operation of a kind fail half way.
func (e *Engine) Fail(op string, err error) {
	p := &Point{Reached: make(chan struct{}), Go: make(chan struct{}), Fail: err}
	close(p.Go)
	e.add(op, p)
}

func (e *Engine) add(op string, p *Point) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.points[op] = append(e.points[op], p)
}

// Wrongs lists what its caller did wrong.
func (e *Engine) Wrongs() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.wrongs)
}

// Calls is how often an operation was called for.
func (e *Engine) Calls(op string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.calls[op]
}

// Words writes down all that there is, one line for each volume: to be compared.
func (e *Engine) Words() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var lines []string
	for what, set := range map[string]map[string]*volume{"volume": e.vols, "trash": e.trash} {
		for key, v := range set {
			line := fmt.Sprintf("%s %s %s %d bytes %x parent %q half %v", what, key, v.name, len(v.data), head(v.data), v.parent, v.half)
			for _, s := range v.snaps {
				line += fmt.Sprintf(" @%s %d %x", s.name, len(s.data), head(s.data))
			}
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func head(b []byte) []byte { return b[:min(len(b), 8)] }

func fail(class backstore.Class, op, format string, args ...any) error {
	return &backstore.Error{Class: class, Op: op, Cause: fmt.Errorf(format, args...)}
}

// find returns a volume that is there. The caller holds mu.
func (e *Engine) find(op, name string) (*volume, error) {
	v := e.vols[name]
	if v == nil || v.half {
		return nil, fail(backstore.ClassNotFound, op, "there is no volume %s", name)
	}
	return v, nil
}

// begin enters an operation; alone: nothing else is to be done with the volume, and it is to be open nowhere. The caller holds mu.
func (e *Engine) begin(op string, v *volume, alone bool) {
	e.calls[op]++
	if alone && (v.opens > 0 || len(v.doing) > 0) {
		e.wrongs = append(e.wrongs, fmt.Sprintf("%s of %s, which is open %d times, during %v", op, v.name, v.opens, v.doing))
	}
	v.doing = append(v.doing, op)
}

func (e *Engine) end(op string, v *volume) {
	if i := slices.Index(v.doing, op); i >= 0 {
		v.doing = slices.Delete(v.doing, i, i+1)
	}
	close(e.ended)
	e.ended = make(chan struct{})
}

// Until waits until all that there is is written down so, or ctx ends, and returns how it is.
func (e *Engine) Until(ctx context.Context, words string) string {
	for {
		e.mu.Lock()
		ended := e.ended
		e.mu.Unlock()
		now := e.Words()
		if now == words {
			return now
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return now
		}
	}
}

// run takes its time. A nil error says that the operation may come into effect. It is called without mu.
func (e *Engine) run(ctx context.Context, op string, p backstore.Progress) error {
	e.mu.Lock()
	var at *Point
	if list := e.points[op]; len(list) > 0 {
		at, e.points[op] = list[0], list[1:]
	}
	e.mu.Unlock()
	p.Report(0, 4)
	p.Report(2, 4)
	if at != nil {
		close(at.Reached)
		done := ctx.Done()
		if at.Deaf {
			done = nil
		}
		select {
		case <-at.Go:
		case <-done:
		}
		if at.Panic {
			panic("as a test wants it")
		}
		if at.Fail != nil && ctx.Err() == nil {
			return at.Fail
		}
	}
	if ctx.Err() != nil && (at == nil || !at.Deaf) {
		return &backstore.Error{Class: backstore.ClassCancelled, Op: op, Cause: fmt.Errorf("undone: %w", context.Cause(ctx))}
	}
	p.Report(4, 4)
	return nil
}

// made is when everything was made.
func made() time.Time { return time.Unix(1790000000, 0) }
