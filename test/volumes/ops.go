package volumes

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/lunar-iscsi/lunar/backstore"
)

// unlocked gives mu, which the caller holds, back while f runs.
func (e *Engine) unlocked(f func() error) error {
	e.mu.Unlock()
	defer e.mu.Lock()
	return f()
}

// make makes a volume of data, in time.
func (e *Engine) make(ctx context.Context, op, name, parent string, data []byte, p backstore.Progress) error {
	switch v := e.vols[name]; {
	case name == "" || strings.HasSuffix(name, "/"):
		return fail(backstore.ClassRange, op, "%q is no name", name)
	case v != nil && v.half:
		e.wrongs = append(e.wrongs, "two volumes "+name+" are being made at once")
		fallthrough
	case v != nil:
		return fail(backstore.ClassBusy, op, "%s exists", name)
	}
	v := &volume{name: name, data: data, parent: parent, half: true}
	e.vols[name] = v
	e.begin(op, v, true)
	done := false
	defer func() {
		if !done {
			delete(e.vols, name)
		}
		e.end(op, v)
	}()
	if err := e.unlocked(func() error { return e.run(ctx, op, p) }); err != nil {
		return err
	}
	done, v.half = true, false
	return nil
}

// change does something with a volume that is there: check may refuse, and apply comes into effect when it has taken its time.
func (e *Engine) change(ctx context.Context, op, name string, alone bool, p backstore.Progress, check func(v *volume) error, apply func(v *volume)) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	v, err := e.find(op, name)
	if err == nil && check != nil {
		err = check(v)
	}
	if err != nil {
		return err
	}
	e.begin(op, v, alone)
	defer e.end(op, v)
	if err := e.unlocked(func() error { return e.run(ctx, op, p) }); err != nil {
		return err
	}
	apply(v)
	return nil
}

func (e *Engine) create(ctx context.Context, u *backstore.URI, size int64, p backstore.Progress) error {
	if size%512 != 0 {
		return fail(backstore.ClassRange, "create", "%d bytes are no multiple of 512", size)
	}
	if size > 1<<30 {
		return fail(backstore.ClassNoSpace, "create", "%d bytes are too many", size)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.make(ctx, "create", u.Path, "", make([]byte, size), p)
}

func (e *Engine) list(_ context.Context, u *backstore.URI) ([]backstore.Volume, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []backstore.Volume
	for name, v := range e.vols {
		if !v.half && strings.HasPrefix(name, u.Path) {
			out = append(out, e.told(v))
		}
	}
	slices.SortFunc(out, func(a, b backstore.Volume) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func (e *Engine) told(v *volume) backstore.Volume {
	out := backstore.Volume{URI: e.scheme + ":" + v.name, Name: v.name, Size: int64(len(v.data)), Used: -1, Created: made(), Parent: v.parent}
	if v.opens > 0 {
		out.InUse = fmt.Sprintf("%d openers", v.opens)
	}
	return out
}

func (e *Engine) stat(_ context.Context, u *backstore.URI) (backstore.Volume, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	v, err := e.find("stat", u.Path)
	if err != nil {
		return backstore.Volume{}, err
	}
	return e.told(v), nil
}

func (e *Engine) resize(ctx context.Context, u *backstore.URI, size int64, shrink bool, p backstore.Progress) error {
	return e.change(ctx, "resize", u.Path, true, p, func(v *volume) error {
		if size < int64(len(v.data)) && !shrink {
			return fail(backstore.ClassBusy, "resize", "it would become smaller")
		}
		return nil
	}, func(v *volume) {
		v.data = append(make([]byte, 0, size), append(v.data, make([]byte, size)...)[:size]...)
	})
}

func (e *Engine) delete(ctx context.Context, u *backstore.URI, d backstore.Deletion, p backstore.Progress) error {
	return e.change(ctx, "delete", u.Path, true, p, func(v *volume) error {
		if v.opens > 0 || len(v.snaps) > 0 {
			return fail(backstore.ClassBusy, "delete", "%s is open %d times and has %d snapshots", v.name, v.opens, len(v.snaps))
		}
		return nil
	}, func(v *volume) {
		delete(e.vols, v.name)
		if !d.Purge {
			e.next++
			e.trash[fmt.Sprintf("id%d", e.next)] = v
		}
	})
}

func (e *Engine) listTrash(context.Context, *backstore.URI) ([]backstore.TrashedVolume, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []backstore.TrashedVolume
	for id, v := range e.trash {
		out = append(out, backstore.TrashedVolume{ID: id, Name: v.name, Size: int64(len(v.data)), Deleted: made()})
	}
	slices.SortFunc(out, func(a, b backstore.TrashedVolume) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

func (e *Engine) restore(_ context.Context, u *backstore.URI, id string) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	v := e.trash[id]
	if v == nil {
		return "", fail(backstore.ClassNotFound, "restore", "the trash has no %s", id)
	}
	name := v.name
	if u.Path != "" {
		name = u.Path
	}
	if e.vols[name] != nil {
		return "", fail(backstore.ClassBusy, "restore", "%s exists", name)
	}
	delete(e.trash, id)
	v.name = name
	e.vols[name] = v
	return e.scheme + ":" + name, nil
}

func (e *Engine) purge(ctx context.Context, _ *backstore.URI, id string, p backstore.Progress) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	v := e.trash[id]
	if v == nil {
		return fail(backstore.ClassNotFound, "purge", "the trash has no %s", id)
	}
	e.begin("purge", v, true)
	defer e.end("purge", v)
	if err := e.unlocked(func() error { return e.run(ctx, "purge", p) }); err != nil {
		return err
	}
	delete(e.trash, id)
	return nil
}

func (e *Engine) snapshot(ctx context.Context, u *backstore.URI, name string, p backstore.Progress) error {
	return e.snap(ctx, "snapshot", u.Path, name, p)
}

func (e *Engine) snap(ctx context.Context, op, volume, name string, p backstore.Progress) error {
	return e.change(ctx, op, volume, false, p, func(v *volumeOf) error {
		if op == "snapshot" && e.Snapshotters && v.opens > 0 {
			e.wrongs = append(e.wrongs, "a snapshot past the open store of "+v.name)
		}
		if v.snap(name) >= 0 {
			return fail(backstore.ClassBusy, op, "%s has a snapshot %s", v.name, name)
		}
		return nil
	}, func(v *volumeOf) { v.snaps = append(v.snaps, &snap{name, slices.Clone(v.data)}) })
}

// volumeOf is volume, where a variable has that name.
type volumeOf = volume

func (v *volume) snap(name string) int {
	return slices.IndexFunc(v.snaps, func(s *snap) bool { return s.name == name })
}

// has refuses a snapshot that is not there.
func has(op, name string) func(v *volume) error {
	return func(v *volume) error {
		if v.snap(name) < 0 {
			return fail(backstore.ClassNotFound, op, "%s has no snapshot %s", v.name, name)
		}
		return nil
	}
}

func (e *Engine) snapshots(_ context.Context, u *backstore.URI) ([]backstore.Snapshot, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	v, err := e.find("snapshots", u.Path)
	if err != nil {
		return nil, err
	}
	var out []backstore.Snapshot
	for _, s := range v.snaps {
		out = append(out, backstore.Snapshot{Name: s.name, Size: int64(len(s.data)), Created: made(), Clones: len(e.clonesOf(v.name, s.name)), State: "ready"})
	}
	return out, nil
}

func (e *Engine) clonesOf(name, snap string) (out []string) {
	for _, v := range e.vols {
		if v.parent == name+"@"+snap {
			out = append(out, v.name)
		}
	}
	return out
}

func (e *Engine) deleteSnapshot(ctx context.Context, u *backstore.URI, name string, p backstore.Progress) error {
	return e.change(ctx, "deletesnapshot", u.Path, false, p, func(v *volume) error {
		if err := has("deletesnapshot", name)(v); err != nil {
			return err
		}
		if clones := e.clonesOf(v.name, name); len(clones) > 0 {
			return fail(backstore.ClassBusy, "deletesnapshot", "%s@%s has clones: %v", v.name, name, clones)
		}
		return nil
	}, func(v *volume) {
		if i := v.snap(name); i >= 0 {
			v.snaps = slices.Delete(v.snaps, i, i+1)
		}
	})
}

func (e *Engine) rollback(ctx context.Context, u *backstore.URI, name string, p backstore.Progress) error {
	return e.change(ctx, "rollback", u.Path, true, p, has("rollback", name), func(v *volume) { v.data = slices.Clone(v.snaps[v.snap(name)].data) })
}

func (e *Engine) clone(ctx context.Context, u *backstore.URI, name string, to *backstore.URI, p backstore.Progress) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	v, err := e.find("clone", u.Path)
	if err != nil {
		return err
	}
	if name == "" {
		return fail(backstore.ClassUnsupported, "clone", "it wants a snapshot")
	}
	if err := has("clone", name)(v); err != nil {
		return err
	}
	e.begin("clone of", v, false)
	defer e.end("clone of", v)
	return e.make(ctx, "clone", to.Path, v.name+"@"+name, slices.Clone(v.snaps[v.snap(name)].data), p)
}

func (e *Engine) flatten(ctx context.Context, u *backstore.URI, p backstore.Progress) error {
	return e.change(ctx, "flatten", u.Path, false, p, nil, func(v *volume) { v.parent = "" })
}
