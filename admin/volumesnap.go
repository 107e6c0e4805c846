package admin

import (
	"context"
	"fmt"
	"slices"

	"github.com/lunar-iscsi/lunar/backstore"
)

// CreateSnapshot is Service's.
func (m *Manager) CreateSnapshot(ctx context.Context, uri, name string, p backstore.Progress) error {
	return m.told(ctx, deed{op: "snapshot create", kind: SnapshotCreated, what: shown(uri)}, func(d *deed) error {
		n, err := m.one(uri, "take snapshots", func(v *backstore.Volumes) bool { return v.Snapshot != nil })
		if err == nil {
			err = checkSnapshot(name)
		}
		if err != nil {
			return err
		}
		d.detail = fmt.Sprintf("%s, %q", n, name)
		w := &volumeWork{what: fmt.Sprintf("the snapshot %q is being taken of it", name), holds: []held{{n: n, key: n.key, hold: changing}}}
		err = m.volumeWork(ctx, w, true, p, func(ctx context.Context, st backstore.Store, p backstore.Progress) error {
			if s := backstore.SnapshotterOf(st); s != nil {
				return s.Snapshot(ctx, name, p)
			}
			return n.can.Snapshot(ctx, n.u, name, p)
		})
		if CodeOf(err) == VolumeInUse && m.hasSnapshot(ctx, n, name) {
			return &Error{Code: SnapshotExists, Text: fmt.Sprintf("%s has a snapshot %q already", n, name)}
		}
		return err
	})
}

// hasSnapshot reports whether a volume is known to have a snapshot.
func (m *Manager) hasSnapshot(ctx context.Context, n *named, name string) bool {
	list, ok := m.snapshotNames(ctx, n)
	return ok && slices.Contains(list, name)
}

// snapshotNames are the snapshots of a volume; false: they cannot be had.
func (m *Manager) snapshotNames(ctx context.Context, n *named) ([]string, bool) {
	if n.can.Snapshots == nil {
		return nil, false
	}
	list, err := ask(ctx, m, n, func(ctx context.Context) ([]backstore.Snapshot, error) { return n.can.Snapshots(ctx, n.u) })
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
	}
	return names, err == nil
}

// noSnapshot tells a missing snapshot from a missing volume.
func (m *Manager) noSnapshot(ctx context.Context, n *named, name string, err error) error {
	if err == nil || CodeOf(err) != NoVolume {
		return err
	}
	if list, ok := m.snapshotNames(ctx, n); ok && !slices.Contains(list, name) {
		return &Error{Code: NoSnapshot, Text: fmt.Sprintf("%s has no snapshot %q", n, name), Err: err}
	}
	return err
}

// DeleteSnapshot is Service's.
func (m *Manager) DeleteSnapshot(ctx context.Context, uri, name string, p backstore.Progress) error {
	return m.told(ctx, deed{op: "snapshot delete", kind: SnapshotDeleted, what: shown(uri)}, func(d *deed) error {
		n, err := m.one(uri, "delete snapshots", func(v *backstore.Volumes) bool { return v.DeleteSnapshot != nil })
		if err == nil {
			err = checkName("the snapshot's name", name)
		}
		if err != nil {
			return err
		}
		d.detail = fmt.Sprintf("%s, %q", n, name)
		w := &volumeWork{what: fmt.Sprintf("its snapshot %q is being deleted", name), holds: []held{{n: n, key: n.key, hold: changing}}}
		if n.can.SnapshotURI != nil {
			if uri := n.can.SnapshotURI(n.u, name); uri != "" { // engines may not know who reads it
				s, err := m.name(uri)
				if err != nil {
					return err
				}
				w.holds = append(w.holds, held{n: s, key: s.key, hold: whole})
			}
		}
		err = m.volumeWork(ctx, w, false, p, func(ctx context.Context, _ backstore.Store, p backstore.Progress) error {
			return n.can.DeleteSnapshot(ctx, n.u, name, p)
		})
		return m.noSnapshot(ctx, n, name, err)
	})
}

// RollbackVolume is Service's.
func (m *Manager) RollbackVolume(ctx context.Context, uri, name string, force bool, p backstore.Progress) error {
	return m.told(ctx, deed{op: "snapshot rollback", kind: VolumeRolledBack, what: shown(uri)}, func(d *deed) error {
		n, err := m.one(uri, "roll volumes back", func(v *backstore.Volumes) bool { return v.Rollback != nil })
		if err == nil {
			err = checkName("the snapshot's name", name)
		}
		if err != nil {
			return err
		}
		d.detail = fmt.Sprintf("%s, to %q", n, name)
		if !force {
			return wouldDestroy(n, fmt.Sprintf("would lose what was written since the snapshot %q", name))
		}
		w := &volumeWork{what: fmt.Sprintf("it is being rolled back to the snapshot %q", name), holds: []held{{n: n, key: n.key, hold: whole}}}
		err = m.forItself(ctx, w, p, func(ctx context.Context, p backstore.Progress) error {
			return n.can.Rollback(ctx, n.u, name, p)
		})
		return m.noSnapshot(ctx, n, name, err)
	})
}

// CloneVolume is Service's.
func (m *Manager) CloneVolume(ctx context.Context, uri, snapshot, to string, p backstore.Progress) (out VolumeInfo, err error) {
	err = m.told(ctx, deed{op: "clone create", kind: VolumeCloned, what: shown(to)}, func(d *deed) error {
		n, err := m.one(uri, "clone volumes", func(v *backstore.Volumes) bool { return v.Clone != nil })
		if err == nil && snapshot != "" {
			err = checkName("the snapshot's name", snapshot)
		}
		if err != nil {
			return err
		}
		clone, err := m.one(to, "create volumes", func(*backstore.Volumes) bool { return true })
		if err != nil {
			return err
		}
		switch {
		case clone.u.Scheme != n.u.Scheme:
			return Errorf(Invalid, "%s: a clone of %s is of the same kind, %s:", clone, n, n.u.Scheme)
		case clone.key == n.key:
			return Errorf(Invalid, "%s is to be a clone of itself", clone)
		}
		d.detail = fmt.Sprintf("%s, of %s", clone, n)
		if snapshot != "" {
			d.detail += fmt.Sprintf(" at %q", snapshot)
		}
		w := &volumeWork{what: fmt.Sprintf("the clone %s is being made of %s", clone, n), holds: []held{{n: n, key: n.key, hold: reading}, {n: clone, key: clone.key, hold: whole, made: true}}}
		err = m.volumeWork(ctx, w, false, p, func(ctx context.Context, _ backstore.Store, p backstore.Progress) error {
			return n.can.Clone(ctx, n.u, snapshot, clone.u, p)
		})
		if err != nil {
			if snapshot != "" {
				err = m.noSnapshot(ctx, n, snapshot, err)
			}
			return m.existed(ctx, clone, err)
		}
		out = m.made(ctx, clone, 0)
		return nil
	})
	return out, err
}

// FlattenVolume is Service's.
func (m *Manager) FlattenVolume(ctx context.Context, uri string, p backstore.Progress) error {
	return m.told(ctx, deed{op: "clone flatten", kind: VolumeFlattened, what: shown(uri)}, func(d *deed) error {
		n, err := m.one(uri, "flatten clones", func(v *backstore.Volumes) bool { return v.Flatten != nil })
		if err != nil {
			return err
		}
		w := &volumeWork{what: "it is being flattened", holds: []held{{n: n, key: n.key, hold: changing}}}
		return m.volumeWork(ctx, w, false, p, func(ctx context.Context, _ backstore.Store, p backstore.Progress) error {
			return n.can.Flatten(ctx, n.u, p)
		})
	})
}
