package tgtipc

import (
	"context"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/admin/internal/tgtvolume"
	"github.com/lunar-iscsi/lunar/admin/spec"
)

// An updater carries out the list of a LUN update from left to right. All that is right in it is done, and tgtd's result is that of the
// last of those that have one: online, path, mode_page, the sizes, and what is unknown. Attributes have none, and are collected, so
// that one call to the service does for all in a row.
type updater struct {
	*call
	ctx    context.Context
	edits  []func(*spec.LUN) error
	last   error // of the last that has a result
	failed error // the service did not do what tgtd always can: that is told in any case
}

func (c *call) updateLUN(ctx context.Context) error {
	_, l, err := c.lun(false)
	switch {
	case err != nil:
		return err
	case c.payload == "":
		return nil // systemd's tests send it, and want success
	case l == nil:
		return refuse(ErrInvalidRequest, "LUN 0 is the controller, of which nothing can be changed")
	}
	u := updater{call: c, ctx: ctx}
	list := c.payload
	if strings.HasPrefix(list, "targetOps") {
		list = list[min(len("targetOps "), len(list)):]
	}
	for _, kv := range tokens(list) {
		u.update(kv)
	}
	u.flush()
	if u.failed != nil {
		return u.failed
	}
	return u.last
}

// flush does what was collected.
func (u *updater) flush() {
	if len(u.edits) == 0 {
		return
	}
	edits := u.edits
	u.edits = nil
	if err := u.edit(func(l *spec.LUN) error {
		for _, e := range edits {
			if err := e(l); err != nil {
				return refuse(ErrInvalidRequest, "%v", err)
			}
		}
		return nil
	}); err != nil && u.failed == nil {
		u.failed = err
	}
}

func (u *updater) edit(f func(*spec.LUN) error) error {
	return u.svc.EditLUN(u.ctx, u.ref(), uint16(u.LUN), f)
}

func (u *updater) update(kv string) {
	key, v, ok := strings.Cut(kv, "=")
	if !ok {
		u.last = refuse(ErrInvalidRequest, "LUN update %q: want KEY=VALUE", kv)
		return
	}
	set := func(l *spec.LUN) error { return tgtvolume.Update(l, key, v, u.known) }
	switch key {
	case "mode_page":
		if err := set(&spec.LUN{}); err != nil { // it says the same of every LUN
			u.last = refuse(ErrInvalidRequest, "%v", err)
			return
		}
		u.last = nil
		u.edits = append(u.edits, set)
	case "online":
		u.flush()
		u.last = u.edit(set)
	case "path":
		u.flush()
		u.last = u.path(v)
	case "disksize": // curve-tgt's
		if !strings.EqualFold(v, "auto") {
			u.last = refuse(ErrUnknownParam, "disksize=%s: want auto, which takes over the volume's size", v)
			return
		}
		u.flush()
		u.last = u.resize(0)
	case "bsopts": // Longhorn's
		size, ok := strings.CutPrefix(v, "size=")
		n, err := strconv.ParseInt(size, 10, 64)
		if !ok || err != nil || n <= 0 {
			u.last = refuse(ErrInvalidRequest, "bsopts=%s: of a disk that is there, size=BYTES can be changed", v)
			return
		}
		u.flush()
		u.last = u.resize(n)
	default:
		if err := set(&spec.LUN{}); err != nil {
			u.last = refuse(ErrInvalidRequest, "%v", err)
			return
		}
		u.edits = append(u.edits, set)
	}
}

func (u *updater) resize(size int64) error {
	_, err := u.svc.ResizeLUN(u.ctx, u.ref(), uint16(u.LUN), size, u.Force != 0)
	return err
}

// path puts another volume of the same kind into a disk that is offline.
func (u *updater) path(path string) error {
	change := func(readOnly bool) error {
		return u.edit(func(l *spec.LUN) error {
			if l.Tgt == nil { // made by another face: now it is of tgt's words
				st := shownStore(l)
				l.Tgt = &st
			}
			if err := tgtvolume.Update(l, "path", path, u.known); err != nil {
				return refuse(ErrInvalidRequest, "%v", err)
			}
			if readOnly {
				l.Volume, l.ReadOnly = tgtvolume.AddOptions(l.Volume, "readonly=on"), true
			}
			return nil
		})
	}
	err := change(false)
	if mayRead(err) {
		err = change(true)
	}
	return err
}
