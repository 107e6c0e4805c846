package admin

import (
	"context"
	"fmt"
	"strings"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
)

// resize makes a LUN's volume another size. A volume whose URI says a size gets the new one there, so that it is found, or made, with it
// at the next start; that is saved ahead of shrinking and behind growing, so that it is never more than the volume has.
func (m *Manager) resize(ctx context.Context, e *entry, t *spec.Target, l *spec.LUN, size int64, force bool) (int64, error) {
	own := t.Clone()
	was, err := m.alike(e, &own, l.Number, func(*entry, *spec.LUN) error { return nil })
	if err != nil {
		return 0, err
	}
	written := false
	write := func(to int64) error {
		other := false
		sized := func(_ *entry, x *spec.LUN) error {
			uri, err := withSize(x.Volume, to)
			if err == nil && uri != x.Volume {
				x.Volume, other = uri, true
			}
			return err
		}
		if err := sized(e, l); err != nil {
			return err
		}
		all, err := m.alike(e, t, l.Number, sized)
		if err != nil || !other {
			return err
		}
		written = true
		return m.put(all)
	}
	before := m.sizeOf(e, l.Number)
	if size != 0 && size < before && force {
		if err := write(size); err != nil {
			return before, err
		}
	}
	now, err := e.live.ResizeDisk(ctx, l.Number, size, force)
	if err != nil {
		if written {
			m.takeBack(e, was)
		}
		code := Unsupported
		if backstore.ClassOf(err) == backstore.ClassRange {
			code = Invalid // such a size cannot be, with any store
		}
		return now, coded(err, code)
	}
	if err := write(now); err != nil {
		if size != 0 && now > before {
			if back, rerr := e.live.ResizeDisk(context.WithoutCancel(ctx), l.Number, before, true); rerr == nil {
				return back, err
			}
		}
		return now, err
	}
	return now, nil
}

// takeBack saves again what was saved before a change that then failed.
func (m *Manager) takeBack(e *entry, was []words) {
	if err := m.put(was); err != nil {
		m.log.Warn("a change that failed is saved and could not be taken back there", "target", e.name, "error", err)
	}
}

// sizeOf is the size that initiators see; 0: there is no such LUN.
func (m *Manager) sizeOf(e *entry, lun uint16) int64 {
	for _, d := range e.live.Disks() {
		if d.LUN == lun {
			return d.Size
		}
	}
	return 0
}

// withSize is a volume's URI with another value of its size option; one that has none stays as it is.
func withSize(volume string, size int64) (string, error) {
	u, err := backstore.ParseURI(volume)
	if err != nil {
		return "", Errorf(Invalid, "%w", err)
	}
	text, there := u.Peek("size")
	if !there {
		return volume, nil
	}
	if n, err := backstore.ParseSize(text); err == nil && n == size {
		return volume, nil
	}
	base, query, _ := strings.Cut(volume, "?")
	options := strings.Split(query, "&")
	for i, o := range options {
		if name, _, _ := strings.Cut(o, "="); name == "size" {
			options[i] = fmt.Sprintf("size=%d", size)
		}
	}
	return base + "?" + strings.Join(options, "&"), nil
}
