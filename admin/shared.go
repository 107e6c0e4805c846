package admin

import (
	"cmp"
	"context"
	"maps"
	"reflect"
	"slices"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// A disk may stand behind several LUNs, of one target or of several: it is one logical unit, and what is said of it by one of those LUNs holds
// for all of them. So a change holds the turns of all these targets, and is saved for all of them at once: whichever is there first after a
// start makes the same disk.

// ways lists the other LUNs that the disk behind e's LUN stands behind, or is about to, by TID. The holder of e's turn calls it.
func (m *Manager) ways(e *entry, lun uint16) (list []*disk) {
	d := e.disks[lun]
	if d == nil || d.key == "" {
		return nil
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, o := range m.volumes[d.key] {
		if o != d && o.unit == d.unit {
			list = append(list, o)
		}
	}
	slices.SortFunc(list, func(a, b *disk) int { return cmp.Or(cmp.Compare(a.e.tid, b.e.tid), cmp.Compare(a.lun, b.lun)) })
	return list
}

// holdDisk is hold for a change of the disk behind a LUN: it takes the turns of all targets that the disk stands behind. give gives them back. A target that
// comes to have the disk meanwhile does so without the change.
func (m *Manager) holdDisk(ctx context.Context, ref Ref, lun uint16) (e *entry, give func(), err error) {
	for {
		if e, err = m.hold(ctx, ref); err != nil {
			return nil, nil, err
		}
		all := m.holders(e, lun)
		if len(all) == 1 {
			return e, e.turn.give, nil
		}
		e.turn.give()
		// Whoever takes several takes them in the order of their TIDs.
		if give, err = m.holdAll(ctx, all); err != nil {
			return nil, nil, err
		}
		switch {
		case m.published(e) == nil:
			give()
			return nil, nil, noTarget(ref)
		case slices.Equal(all, m.holders(e, lun)):
			e.beside = all
			back := give
			return e, func() { e.beside = nil; back() }, nil
		}
		give() // the disk stands behind others by now
	}
}

// holders lists e and the other targets that the disk behind its LUN stands behind, by TID.
func (m *Manager) holders(e *entry, lun uint16) []*entry {
	all := []*entry{e}
	for _, d := range m.ways(e, lun) {
		all = append(all, d.e)
	}
	slices.SortFunc(all, func(a, b *entry) int { return cmp.Compare(a.tid, b.tid) })
	return slices.Compact(all)
}

func (m *Manager) holdAll(ctx context.Context, all []*entry) (give func(), err error) {
	give = func() {
		for _, o := range all {
			o.turn.give()
		}
	}
	for i, o := range all {
		if err := o.turn.take(ctx, m.cfg.MaxWaiting); err != nil {
			all = all[:i]
			give()
			return nil, err
		}
	}
	return give, nil
}

// words are what is to be set of one target.
type words struct {
	e *entry
	t *spec.Target
}

// alike makes edit at every other LUN that the disk behind e's LUN stands behind, and returns what is then to be set of the targets, t for
// e first.
func (m *Manager) alike(e *entry, t *spec.Target, lun uint16, edit func(*entry, *spec.LUN) error) ([]words, error) {
	all := []words{{e, t}}
	for _, d := range m.ways(e, lun) {
		if m.published(d.e) == nil || d.e != e && !slices.Contains(e.beside, d.e) {
			continue // it goes, or it came later: somebody else may be changing it
		}
		i := slices.IndexFunc(all, func(w words) bool { return w.e == d.e })
		if i < 0 {
			s := m.specOf(d.e)
			i, all = len(all), append(all, words{d.e, &s})
		}
		if at, there := place(all[i].t, d.lun); there {
			if err := edit(d.e, &all[i].t.LUNs[at]); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// put saves all, as a whole, and publishes it.
func (m *Manager) put(all []words) error {
	set := map[string][]byte{}
	for _, w := range all {
		part, err := m.targetChange(w.e, nil, w.t, nil, nil)
		if err != nil {
			return err
		}
		maps.Copy(set, part)
	}
	if err := m.save(set); err != nil {
		return err
	}
	for _, w := range all {
		m.publish(w.e, w.t, nil, nil)
	}
	return nil
}

// follow changes l in what next differs from cur.
func follow(l, cur, next *spec.LUN) {
	made := next.Clone()
	to, was, is := reflect.ValueOf(l).Elem(), reflect.ValueOf(cur).Elem(), reflect.ValueOf(&made).Elem()
	for i := range to.NumField() {
		if !reflect.DeepEqual(was.Field(i).Interface(), is.Field(i).Interface()) {
			to.Field(i).Set(is.Field(i))
		}
	}
}
