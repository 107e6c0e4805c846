package admin

import (
	"context"
	"fmt"
	"slices"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
)

// TakesOver is the trait of drivers that know backstore.Options.TakeOver.
const TakesOver = "take over"

// TakeOverLUN is Service's.
func (m *Manager) TakeOverLUN(ctx context.Context, ref Ref, lun uint16) error {
	d := &deed{op: "lun takeover", kind: LUNChanged, target: ref.Name, lun: int(lun), detail: "its volume was taken over"}
	return m.changeLUN(ctx, ref, d, func(ctx context.Context, e *entry, t *spec.Target) error {
		i, there := place(t, lun)
		if !there {
			return noLUN(e, lun)
		}
		l := t.LUNs[i].Clone()
		if l.Volume == "" {
			return Errorf(Invalid, "target %s LUN %d has no volume", e.name, lun)
		}
		d.what = shown(l.Volume)
		if !m.faulty(e, lun) && !m.fenced(e, lun) {
			return coded(e.live.FenceDisk(ctx, lun), Unsupported)
		}
		u, err := backstore.ParseURI(l.Volume)
		if err != nil {
			return Errorf(Invalid, "target %s LUN %d: %w", e.name, lun, err)
		}
		if m.faulty(e, lun) && m.opened(&l) {
			return m.rejoin(ctx, e, &l) // it is another LUN of ours that has it
		}
		if !m.takesOver(u.Scheme) {
			return &Error{Code: Unsupported, Text: fmt.Sprintf("target %s LUN %d: the %s driver cannot shut out whoever else has %s", e.name, lun, u.Scheme, u.Shown()),
				Hint: "end whoever has it there; the volume is then opened by itself"}
		}
		return m.swapLUN(ctx, e, t, &l, &l, &swap{takeOver: true})
	})
}

func (m *Manager) takesOver(scheme string) bool {
	return slices.ContainsFunc(m.cfg.Registry.Drivers(), func(d backstore.Driver) bool {
		return d.Scheme == scheme && slices.Contains(d.Traits, TakesOver)
	})
}

// fenced reports whether somebody else has taken the volume of a LUN that is there.
func (m *Manager) fenced(e *entry, lun uint16) bool {
	for _, d := range e.live.Disks() {
		if d.LUN == lun {
			return d.Fenced
		}
	}
	return false
}
