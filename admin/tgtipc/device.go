package tgtipc

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/internal/tgtvolume"
	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/scsi/sam"
)

func (c *call) device(ctx context.Context) (string, error) {
	switch c.Op {
	case OpNew:
		return "", c.newLUN(ctx)
	case OpDelete:
		return "", c.deleteLUN(ctx)
	case OpUpdate:
		return "", c.updateLUN(ctx)
	case OpStats:
		return c.statLUN()
	}
	return "", c.notThere(ErrUnsupported)
}

// newLUN puts a disk behind a number. Like tgtd it opens the volume before it answers, takes a volume that it may only read as a
// read-only disk, and makes a removable drive without a medium of no volume at all.
func (c *call) newLUN(ctx context.Context) error {
	t, err := c.find(false)
	if err != nil {
		return err
	}
	if c.LUN == 0 && !t.Spec.NoController || slices.ContainsFunc(t.Spec.LUNs, func(l spec.LUN) bool { return uint64(l.Number) == c.LUN }) {
		return refuse(ErrLUNExists, "target %s has a LUN %d", t.Spec.Name, c.LUN)
	}
	if c.DeviceType != DeviceDisk {
		if name := deviceType(c.DeviceType); name != "" {
			return refuse(ErrInvalidRequest, "device type %s: lunar serves disks", name)
		}
		return refuse(ErrInvalidRequest, "there is no device type %d", c.DeviceType)
	}
	st := spec.TgtStore{Type: tgtvolume.DefaultType}
	size := ""
	for _, kv := range tokens(c.payload) {
		k, v, _ := strings.Cut(kv, "=")
		switch k {
		case "path":
			st.Path = v
		case "bstype":
			st.Type = v
		case "bsopts":
			st.Options = v
		case "bsoflags":
			st.Flags = v
		case "blocksize":
			size = v
			if n, _, _ := tgtvolume.Number(v); n != 512 && tgtvolume.BlockSize(v) == 0 {
				c.log.Warn("management: blocksize ignored, the disk has 512: want a power of two", "tid", c.TID, "lun", c.LUN, "blocksize", oneLine(v, 40))
			}
		}
	}
	if c.LUN > sam.MaxFlatLUN {
		// tgtd keeps it, and no initiator can address it.
		return refuse(ErrInvalidRequest, "LUN %s: the highest that an initiator can address is %d", lunText(c.LUN), sam.MaxFlatLUN)
	}
	if err := c.checkStore(st); err != nil {
		return err
	}
	l, err := tgtvolume.New(uint16(c.LUN), st, size, c.known)
	if err != nil {
		return refuse(ErrInvalidRequest, "%v", err)
	}
	_, err = c.svc.AddLUN(ctx, c.ref(), l, c.Force != 0)
	if mayRead(err) && strings.HasPrefix(l.Volume, "file:") {
		l.Volume, l.ReadOnly = tgtvolume.AddOptions(l.Volume, "readonly=on"), true
		_, err = c.svc.AddLUN(ctx, c.ref(), l, c.Force != 0)
	}
	return err
}

// mayRead tells an error of opening for writing after which one for reading is worth a try.
func mayRead(err error) bool { return errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) }

// deleteLUN takes a disk away. tgtd has no words for a target that is not there: no LUN is there, either.
func (c *call) deleteLUN(ctx context.Context) error {
	if c.LUN == 0 && c.controller() {
		return refuse(ErrInvalidRequest, "LUN 0 is the controller, which every target has")
	}
	if c.TID <= 0 || c.LUN > sam.MaxFlatLUN {
		return refuse(ErrNoLUN, "target %d has no LUN %s", c.TID, lunText(c.LUN))
	}
	err := c.svc.RemoveLUN(ctx, c.ref(), uint16(c.LUN), c.Force != 0)
	if err != nil && admin.CodeOf(err) == admin.NoTarget {
		err = &numbered{ErrNoLUN, err}
	}
	return err
}

// controller reports whether LUN 0 of the request's target is a controller; of a target that is not there it would be.
func (c *call) controller() bool {
	t, err := c.find(false)
	return err != nil || !t.Spec.NoController
}

// lun returns the request's target and LUN. nil is the controller.
func (c *call) lun(live bool) (t admin.TargetState, l *spec.LUN, err error) {
	if t, err = c.find(live); err != nil {
		return t, nil, err
	}
	i := slices.IndexFunc(t.Spec.LUNs, func(l spec.LUN) bool { return uint64(l.Number) == c.LUN })
	switch {
	case i >= 0:
		return t, &t.Spec.LUNs[i], nil
	case c.LUN == 0 && !t.Spec.NoController:
		return t, nil, nil
	}
	return t, nil, refuse(ErrNoLUN, "target %s has no LUN %s", t.Spec.Name, lunText(c.LUN))
}
