package tgtipc

import (
	"net/url"
	"slices"
	"strings"

	"github.com/lunar-iscsi/lunar/admin/internal/tgtvolume"
	"github.com/lunar-iscsi/lunar/admin/spec"
)

// loadable are stores of tgtd's modules and forks that a driver of lunar's serves: they are listed when the driver is there.
var loadable = []struct{ scheme, shown string }{
	{"rbd", "rbd (bsoflags sync:direct)"},
	{"cbd", "curve"},
	{"longhorn", "longhorn"},
}

// deviceType is the name of a type of device that tgtd has; empty: it has none of that number.
func deviceType(n uint32) string {
	switch n {
	case DeviceTape:
		return "tape"
	case DeviceCD:
		return "cd/dvd"
	case DeviceChanger:
		return "changer"
	case DeviceOSD:
		return "osd"
	case DevicePassthrough:
		return "passthrough"
	case 12:
		return "controller"
	}
	return ""
}

// hasDriver reports whether a driver of that scheme is built in.
func (c *call) hasDriver(scheme string) bool {
	absent, known := c.absent(scheme)
	return known && absent == ""
}

// absent says why a driver that lunar knows is not built in; empty: it is.
func (c *call) absent(scheme string) (why string, known bool) {
	for _, d := range c.svc.Drivers() {
		if d.Scheme == scheme {
			return d.Absent, true
		}
	}
	return "", false
}

// known is hasDriver for volumes of tgtd's own stores besides.
func (c *call) known(scheme string) bool {
	return scheme == "file" || scheme == "null" || c.hasDriver(scheme)
}

// checkStore refuses a store that lunar cannot serve, whether or not there is a path.
func (c *call) checkStore(st spec.TgtStore) error {
	if _, err := tgtvolume.URI(st, c.known); err != nil {
		if why, known := c.absent(tgtvolume.Scheme(st.Type)); known && why != "" {
			return refuse(ErrInvalidRequest, "backing store type %s: %s", st.Type, why)
		}
		var own []string
		for _, d := range c.svc.Drivers() {
			if d.Absent == "" {
				own = append(own, d.Scheme)
			}
		}
		slices.Sort(own)
		return refuse(ErrInvalidRequest, "%v; disks are made of rdwr, aio, null, and lunar's own: %s", err, strings.Join(own, ", "))
	}
	return nil
}

// shownStore is a LUN's store in tgt's words, also where it was not made in them.
func shownStore(l *spec.LUN) spec.TgtStore {
	if l.Tgt != nil {
		return *l.Tgt
	}
	scheme, rest, _ := strings.Cut(l.Volume, ":")
	switch scheme {
	case "":
		return spec.TgtStore{Type: tgtvolume.DefaultType}
	case "file":
		path, query, _ := strings.Cut(rest, "?")
		if after, ok := strings.CutPrefix(path, "//"); ok {
			path = after[max(strings.IndexByte(after, '/'), 0):]
		}
		if p, err := url.PathUnescape(path); err == nil {
			path = p
		}
		q, _ := url.ParseQuery(query) // what is wrong in it is left out
		var flags []string
		if q.Get("cache") == "writethrough" {
			flags = append(flags, "sync")
		}
		if v := q.Get("direct"); q.Has("direct") && v != "off" && v != "no" && v != "false" && v != "0" {
			flags = append(flags, "direct")
		}
		return spec.TgtStore{Type: tgtvolume.DefaultType, Path: path, Flags: strings.Join(flags, ":")}
	}
	return spec.TgtStore{Type: scheme, Path: l.Volume}
}
