package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
)

// resize makes a LUN's volume another size. A volume whose URI says a size gets the new one there, so that it is found, or made, with it
// at the next start, whichever LUN of the target it is behind (see sayElsewhere); that is saved ahead of shrinking and behind growing, so that it is
// never more than the volume has.
func (m *Manager) resize(ctx context.Context, e *entry, t *spec.Target, l *spec.LUN, size int64, force bool) (int64, error) {
	was, volume := t.Clone(), l.Volume
	write := func(to int64) error {
		if changed, err := saySize(t, keyOf(l.Volume), l.Number, to); err != nil || !changed {
			return err
		}
		if err := m.saveTarget(e, t); err != nil {
			return err
		}
		m.publish(e, t, nil, nil)
		return nil
	}
	before := m.sizeOf(e, l.Number)
	if size != 0 && size < before && force {
		if err := write(size); err != nil {
			return before, err
		}
	}
	now, err := e.live.ResizeDisk(ctx, l.Number, size, force)
	if err != nil {
		if l.Volume != volume {
			m.takeBack(e, &was)
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

// saySize writes a size into the URIs of the LUNs of t that have the volume of that key, or number lun. It reports whether that has changed any.
func saySize(t *spec.Target, key string, lun uint16, size int64) (changed bool, err error) {
	for i := range t.LUNs {
		l := &t.LUNs[i]
		if l.Number != lun && (key == "" || keyOf(l.Volume) != key) {
			continue
		}
		uri, err := withSize(l.Volume, size)
		if err != nil {
			return changed, err
		}
		changed = changed || uri != l.Volume
		l.Volume = uri
	}
	return changed, nil
}

// keyOf is the volumeKey of a LUN's volume.
func keyOf(volume string) string {
	u, err := backstore.ParseURI(volume)
	if err != nil {
		return ""
	}
	return volumeKey(u)
}

// sayElsewhere writes the size that a volume has by now, or most if that is less and not 0, into the URIs of other targets that share it: one that
// says more than the volume has could not be opened at the next start. Nobody's turn is held.
func (m *Manager) sayElsewhere(but Ref, key string, most int64) {
	if key == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), m.cfg.CallTimeout)
	defer cancel()
	resized, err := m.find(but)
	if err != nil {
		return
	}
	m.mu.RLock()
	others := map[*entry]bool{}
	for _, d := range m.volumes[key] {
		others[d.e] = d.e != resized
	}
	m.mu.RUnlock()
	for o, is := range others {
		if !is {
			continue
		}
		if err := m.sayIn(ctx, o, key, most); err != nil && CodeOf(err) != NoTarget {
			m.log.Warn("a volume has another size, and the URI of another target that shares it could not be changed to say so", "target", o.name, "error", err)
		}
	}
}

func (m *Manager) sayIn(ctx context.Context, o *entry, key string, most int64) error {
	e, err := m.hold(ctx, Ref{TID: o.tid})
	if err != nil {
		return err
	}
	defer e.turn.give()
	t := m.specOf(e)
	i := slices.IndexFunc(t.LUNs, func(l spec.LUN) bool { return keyOf(l.Volume) == key })
	if i < 0 {
		return nil
	}
	size := m.sizeOf(e, t.LUNs[i].Number)
	if most > 0 {
		size = min(size, most)
	}
	if size == 0 {
		return nil // there is no medium
	}
	changed, err := saySize(&t, key, t.LUNs[i].Number, size)
	if err != nil || !changed {
		return err
	}
	if err := m.saveTarget(e, &t); err != nil {
		return err
	}
	m.publish(e, &t, nil, nil)
	return nil
}

// takeBack saves again what was saved before a change that then failed.
func (m *Manager) takeBack(e *entry, t *spec.Target) {
	if err := m.saveTarget(e, t); err != nil {
		m.log.Warn("a change that failed is saved and could not be taken back there", "target", e.name, "error", err)
		return
	}
	m.publish(e, t, nil, nil)
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
