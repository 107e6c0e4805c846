package tgtipc

import (
	"context"
	"math"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// Lengths of what identifies a disk; tgtd cuts what is longer.
const (
	maxVendor   = 8
	maxProduct  = 16
	maxRevision = 4
	maxID       = 36
)

// An updater carries out the list of a LUN update from left to right. All that is right in it is done, and tgtd's result is that of the
// last of those that have one: online, path, mode_page, the sizes, and what is unknown. Attributes have none, and are collected, so
// that one call to the service does for all in a row.
type updater struct {
	*call
	ctx    context.Context
	edits  []func(*spec.LUN)
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
			e(l)
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
	if e := attribute(key, v); e != nil {
		u.edits = append(u.edits, e)
		return
	}
	switch key {
	case "mode_page":
		var e func(*spec.LUN)
		if e, u.last = modePage(v); u.last == nil {
			u.edits = append(u.edits, e)
		}
	case "online":
		u.flush()
		u.last = u.edit(func(l *spec.LUN) error {
			// Without a medium there is nothing to bring online; tgtd takes no notice.
			l.Offline = decimal(v) == 0 || l.Volume == ""
			return nil
		})
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
		u.last = refuse(ErrInvalidRequest, "disks have no parameter %q", key)
	}
}

func (u *updater) resize(size int64) error {
	_, err := u.svc.ResizeLUN(u.ctx, u.ref(), uint16(u.LUN), size, u.Force != 0)
	return err
}

// path puts another volume of the same kind into a disk that is offline.
func (u *updater) path(path string) error {
	if path == "" {
		return refuse(ErrInvalidRequest, "path=: want a file or device")
	}
	change := func(readOnly bool) error {
		return u.edit(func(l *spec.LUN) error {
			if !l.Offline {
				return refuse(ErrInvalidRequest, "path=%s: the disk is online; set online=0 first", path)
			}
			st := shownStore(l)
			st.Path = path
			if err := u.checkStore(&st); err != nil {
				return err
			}
			v, err := u.volume(&st)
			if err != nil {
				return err
			}
			l.Volume, l.Tgt = v, &st
			if readOnly {
				l.Volume, l.ReadOnly = uri(v, []string{"readonly=on"}), true
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

// attribute is what KEY=VALUE changes where it always can be; nil: it is no such key. Flags are atoi's: "Yes" is 0.
func attribute(key, v string) func(*spec.LUN) {
	n := int(min(max(decimal(v), 0), math.MaxInt32))
	on := decimal(v) != 0
	switch key {
	case "scsi_id":
		return func(l *spec.LUN) { l.SCSIID = cut(v, maxID) }
	case "scsi_sn":
		return func(l *spec.LUN) { l.Serial = cut(v, maxID) }
	case "vendor_id":
		return func(l *spec.LUN) { l.Vendor = cut(v, maxVendor) }
	case "product_id":
		return func(l *spec.LUN) { l.Product = cut(v, maxProduct) }
	case "product_rev":
		return func(l *spec.LUN) { l.Revision = cut(v, maxRevision) }
	case "sense_format":
		return func(l *spec.LUN) { l.DescriptorSense = on }
	case "removable":
		return func(l *spec.LUN) { l.Removable = on }
	case "readonly":
		return func(l *spec.LUN) { l.ReadOnly = on }
	case "thin_provisioning":
		return func(l *spec.LUN) { l.Thin = &on }
	case "lbppbe": // an exponent: logical blocks in a physical one
		return func(l *spec.LUN) { l.PhysicalBlock = max(l.BlockSize, 512) << min(n, maxExponent) }
	case "la_lba":
		return func(l *spec.LUN) { l.LowestAligned = n }
	case "optimal_xfer_gran":
		return func(l *spec.LUN) { l.OptimalGranularity = n }
	case "optimal_xfer_len":
		return func(l *spec.LUN) { l.OptimalLength = n }
	case "rotation_rate":
		return func(l *spec.LUN) { l.RotationRate = n }
	}
	return nil
}

// maxExponent is the largest that READ CAPACITY(16) has room for (SBC-3 §5.16.2).
const maxExponent = 15

func cut(s string, n int) string { return s[:min(len(s), n)] }

// modePage reads PAGE:SUBPAGE:LENGTH:BYTE:…, where bytes may be missing. What lunar has of the pages takes effect; the rest is kept.
func modePage(v string) (func(*spec.LUN), error) {
	parts := strings.Split(v, ":")
	var n []int64
	for _, p := range parts {
		d, _, _ := number(p)
		n = append(n, d)
	}
	for len(n) < 3 {
		n = append(n, 0)
	}
	page, sub, length, data := n[0]&0xff, n[1]&0xff, n[2]&0xffff, n[3:]
	if int64(len(data)) > length {
		return nil, refuse(ErrInvalidRequest, "mode page %02Xh: %d bytes are given and its length is %d", page, len(data), length)
	}
	prefix := parts[0] + ":" + part(parts, 1) + ":"
	return func(l *spec.LUN) {
		pages := make([]string, 0, len(l.ModePages)+1)
		for _, p := range l.ModePages {
			if !strings.HasPrefix(p, prefix) {
				pages = append(pages, p)
			}
		}
		l.ModePages = append(pages, v)
		if len(data) == 0 || sub != 0 {
			return
		}
		switch page {
		case 0x08: // caching: WCE (SBC-3 §6.5.5)
			wce := data[0]&0x04 != 0
			l.WriteCache = &wce
		case 0x0a: // control: D_SENSE (SPC-4 §7.5.8)
			l.DescriptorSense = data[0]&0x04 != 0
		}
	}, nil
}

func part(parts []string, i int) string {
	if i < len(parts) {
		return parts[i]
	}
	return ""
}
