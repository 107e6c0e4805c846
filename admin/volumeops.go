package admin

import (
	"context"
	"fmt"

	"github.com/lunar-iscsi/lunar/backstore"
)

// told tells of what do does.
func (m *Manager) told(ctx context.Context, d deed, do func(d *deed) error) (err error) {
	d.lun = -1
	defer func() { m.tell(ctx, d, false, err) }()
	return do(&d)
}

// CreateVolume is Service's.
func (m *Manager) CreateVolume(ctx context.Context, uri string, size int64, p backstore.Progress) (out VolumeInfo, err error) {
	err = m.told(ctx, deed{op: "volume create", kind: VolumeCreated, what: shown(uri)}, func(d *deed) error {
		n, err := m.one(uri, "create volumes", func(v *backstore.Volumes) bool { return v.Create != nil })
		if err != nil {
			return err
		}
		if size <= 0 {
			return Errorf(Invalid, "%s: a size of %d bytes", n, size)
		}
		d.detail = fmt.Sprintf("%s, %d bytes", n, size)
		w := &volumeWork{what: "it is being created", holds: []held{{n: n, key: n.key, hold: whole, made: true}}}
		err = m.volumeWork(ctx, w, false, p, func(ctx context.Context, _ backstore.Store, p backstore.Progress) error {
			return n.can.Create(ctx, n.u, size, p)
		})
		if err != nil {
			return m.existed(ctx, n, err)
		}
		out = m.made(ctx, n, size)
		return nil
	})
	return out, err
}

// existed tells that a volume that was to be made is there already from other reasons to refuse it.
func (m *Manager) existed(ctx context.Context, n *named, err error) error {
	if CodeOf(err) != VolumeInUse || n.can.Stat == nil {
		return err
	}
	if _, serr := ask(ctx, m, n, func(ctx context.Context) (backstore.Volume, error) { return n.can.Stat(ctx, n.u) }); serr != nil {
		return err
	}
	return &Error{Code: VolumeExists, Text: n.String() + " exists already", Hint: "give it another name, or delete the old one"}
}

// made is a volume that has just been made.
func (m *Manager) made(ctx context.Context, n *named, size int64) VolumeInfo {
	if n.can.Stat != nil {
		v, err := ask(ctx, m, n, func(ctx context.Context) (backstore.Volume, error) { return n.can.Stat(ctx, n.u) })
		if err == nil {
			return VolumeInfo{v, nil}
		}
		m.log.Debug("a volume that was just made cannot be looked at", "volume", n.String(), "error", err)
	}
	return VolumeInfo{backstore.Volume{URI: n.u.String(), Name: n.u.Path, Size: size, Used: -1}, nil}
}

// ResizeVolume is Service's.
func (m *Manager) ResizeVolume(ctx context.Context, uri string, size int64, force bool, p backstore.Progress) (now int64, err error) {
	n, err := m.name(uri)
	if err == nil && n.key != "" && size > 0 {
		if d := m.lunOf(n); d != nil {
			return m.ResizeLUN(ctx, Ref{TID: d.e.tid}, d.lun, size, force) // so that initiators learn of it
		}
	}
	err = m.told(ctx, deed{op: "volume resize", kind: VolumeResized, what: shown(uri)}, func(d *deed) error {
		n, err := m.one(uri, "resize volumes", func(v *backstore.Volumes) bool { return v.Resize != nil })
		if err != nil {
			return err
		}
		if size <= 0 {
			return Errorf(Invalid, "%s: a size of %d bytes", n, size)
		}
		d.detail = fmt.Sprintf("%s, %d bytes", n, size)
		if err := m.notSmaller(ctx, n, size, force); err != nil {
			return err
		}
		w := &volumeWork{what: "it is being resized", holds: []held{{n: n, key: n.key, hold: whole}}}
		return m.volumeWork(ctx, w, false, p, func(ctx context.Context, _ backstore.Store, p backstore.Progress) error {
			return n.can.Resize(ctx, n.u, size, force, p)
		})
	})
	return size, err
}

// lunOf is a LUN that has a volume open, or nil.
func (m *Manager) lunOf(n *named) *disk {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, d := range m.volumes[n.key] {
		if d.there && !d.faulty && !d.going {
			return d
		}
	}
	return nil
}

// notSmaller refuses to shrink without force.
func (m *Manager) notSmaller(ctx context.Context, n *named, size int64, force bool) error {
	if force || n.can.Stat == nil {
		return nil // a driver that cannot tell is told not to shrink
	}
	v, err := ask(ctx, m, n, func(ctx context.Context) (backstore.Volume, error) { return n.can.Stat(ctx, n.u) })
	if err == nil && size < v.Size {
		err = &Error{Code: WouldShrink, Text: fmt.Sprintf("%s has %d bytes, and would have %d", n, v.Size, size), Hint: "force it if what lies behind may be lost"}
	}
	return err
}

// DeleteVolume is Service's.
func (m *Manager) DeleteVolume(ctx context.Context, uri string, purge, force bool, p backstore.Progress) error {
	return m.told(ctx, deed{op: "volume delete", kind: VolumeDeleted, what: shown(uri)}, func(d *deed) error {
		n, err := m.one(uri, "delete volumes", func(v *backstore.Volumes) bool { return v.Delete != nil })
		if err != nil {
			return err
		}
		d.detail = n.String() + ", to the trash"
		if purge || n.can.Restore == nil {
			d.detail = n.String() + ", for ever"
			if !force {
				return wouldDestroy(n, "would be deleted for ever")
			}
		}
		w := &volumeWork{what: "it is being deleted", holds: []held{{n: n, key: n.key, hold: whole}}}
		return m.volumeWork(ctx, w, false, p, func(ctx context.Context, _ backstore.Store, p backstore.Progress) error {
			return n.can.Delete(ctx, n.u, backstore.Deletion{Purge: purge}, p)
		})
	})
}

func wouldDestroy(n *named, what string) error {
	return &Error{Code: WouldDestroy, Text: fmt.Sprintf("%s %s", n, what), Hint: "force it if that is meant"}
}

// RestoreVolume is Service's.
func (m *Manager) RestoreVolume(ctx context.Context, uri, id string) (out string, err error) {
	err = m.told(ctx, deed{op: "volume restore", kind: VolumeRestored, what: shown(uri)}, func(d *deed) error {
		n, err := m.name(uri)
		if err == nil {
			err = n.check("restore volumes", func(v *backstore.Volumes) bool { return v.Restore != nil })
		}
		if err == nil {
			err = checkName("the deleted volume's id", id)
		}
		if err != nil {
			return err
		}
		d.detail = fmt.Sprintf("%s, %s", n, id)
		w := &volumeWork{what: "it is being restored", holds: []held{{n: n, key: trashKey(n, id), hold: whole}}}
		if n.key != "" {
			w.holds = append(w.holds, held{n: n, key: n.key, hold: whole, made: true})
		}
		err = m.volumeWork(ctx, w, false, nil, func(ctx context.Context, _ backstore.Store, _ backstore.Progress) (err error) {
			out, err = n.can.Restore(ctx, n.u, id)
			return err
		})
		if err == nil {
			d.detail = fmt.Sprintf("%s, %s", shown(out), id)
		}
		return err
	})
	return out, err
}

// trashKey holds a deleted volume: no volume that is there has such a key.
func trashKey(n *named, id string) string {
	return "trash\x00" + n.u.Scheme + "\x00" + n.u.Host + "\x00" + id
}

// PurgeVolume is Service's.
func (m *Manager) PurgeVolume(ctx context.Context, uri, id string, force bool, p backstore.Progress) error {
	return m.told(ctx, deed{op: "volume purge", kind: VolumePurged, what: shown(uri)}, func(d *deed) error {
		n, err := m.name(uri)
		if err == nil {
			err = n.check("purge deleted volumes", func(v *backstore.Volumes) bool { return v.Purge != nil })
		}
		if err == nil {
			err = checkName("the deleted volume's id", id)
		}
		if err != nil {
			return err
		}
		d.detail = fmt.Sprintf("%s, %s", n, id)
		if !force {
			return wouldDestroy(n, fmt.Sprintf("has %q in its trash, which would be gone for ever", id))
		}
		w := &volumeWork{what: fmt.Sprintf("%q is being purged from its trash", id), holds: []held{{n: n, key: trashKey(n, id), hold: whole}}}
		return m.volumeWork(ctx, w, false, p, func(ctx context.Context, _ backstore.Store, p backstore.Progress) error {
			return n.can.Purge(ctx, n.u, id, p)
		})
	})
}
