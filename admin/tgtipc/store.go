package tgtipc

import (
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// The backing stores of tgtd that serve disks without hardware.
const (
	storeRdwr = "rdwr"
	storeAio  = "aio"
	storeNull = "null"
)

// nullSize is how large tgtd's null store is.
const nullSize = "1T"

// loadable are stores of tgtd's modules and forks that a driver of lunar's serves: they are there when the driver is.
var loadable = []struct{ name, scheme, shown string }{
	{"rbd", "rbd", "rbd (bsoflags sync:direct)"},
	{"curve", "cbd", "curve"},
	{"longhorn", "longhorn", "longhorn"},
}

// others are stores that tgtd lists, and lunar as well, and why lunar makes no disk of them.
var others = map[string]string{
	"sheepdog": "lunar has no Sheepdog client",
	"sg":       "SCSI devices are not passed through; a block device is served as rdwr",
	"bsg":      "SCSI devices are not passed through; a block device is served as rdwr",
	"ssc":      "lunar serves disks, not tapes",
	"smc":      "lunar serves disks, not changers",
	"mmc":      "lunar serves disks, not CDs",
}

// devices are the types of device by number, and whether tgtd has them.
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

// hasDriver reports whether lunar has a driver of that scheme.
func (c *call) hasDriver(scheme string) bool {
	for _, d := range c.svc.Drivers() {
		if d.Scheme == scheme {
			return true
		}
	}
	return false
}

// storeFlags reads --bsoflags and returns them in the order in which they are shown.
func storeFlags(s string) (string, error) {
	var sync, direct bool
	for one := range strings.SplitSeq(s, ":") {
		switch one {
		case "sync":
			sync = true
		case "direct":
			direct = true
		case "":
		default:
			return "", refuse(ErrInvalidRequest, "bsoflags %q: want sync, direct or sync:direct", s)
		}
	}
	switch {
	case sync && direct:
		return "sync:direct", nil
	case sync:
		return "sync", nil
	case direct:
		return "direct", nil
	}
	return "", nil
}

// check refuses a store that lunar cannot serve, before anything is opened.
func (c *call) checkStore(st *spec.TgtStore) error {
	if why, ok := others[st.Type]; ok {
		return refuse(ErrInvalidRequest, "backing store type %s: %s", st.Type, why)
	}
	scheme := c.scheme(st.Type)
	switch {
	case scheme == "":
		return refuse(ErrInvalidRequest, "there is no backing store type %q; there are rdwr, aio, null, and lunar's own: %s", st.Type, strings.Join(c.schemes(), ", "))
	case st.Flags != "" && st.Type != storeRdwr && st.Type != "rbd":
		return refuse(ErrInvalidRequest, "backing store type %s takes no bsoflags", st.Type)
	}
	return nil
}

// scheme is the scheme of volumes of a type of store: the type itself where tgt does not know it and lunar does.
func (c *call) scheme(kind string) string {
	switch kind {
	case storeRdwr, storeAio:
		return "file"
	case storeNull:
		return "null"
	}
	for _, s := range loadable {
		if s.name == kind {
			kind = s.scheme
		}
	}
	if !c.hasDriver(kind) {
		return ""
	}
	return kind
}

func (c *call) schemes() (names []string) {
	for _, d := range c.svc.Drivers() {
		names = append(names, d.Scheme)
	}
	slices.Sort(names)
	return names
}

// volume is the URI of a store's volume.
//
// aio means O_DIRECT in tgtd, too. The path of a type that tgtd does not have may be a whole URI, or the name of the volume,
// with bsopts KEY=VALUE;KEY=VALUE as its options.
func (c *call) volume(st *spec.TgtStore) (string, error) {
	switch st.Type {
	case storeNull:
		return "null:?size=" + nullSize, nil
	case storeRdwr, storeAio:
		path, err := filepath.Abs(st.Path)
		if err != nil {
			return "", refuse(ErrInvalidRequest, "backing store %q: %v", st.Path, err)
		}
		var opts []string
		if st.Type == storeAio || strings.Contains(st.Flags, "direct") {
			opts = append(opts, "direct=on")
		}
		if strings.Contains(st.Flags, "sync") {
			opts = append(opts, "cache=writethrough")
		}
		return uri("file://"+(&url.URL{Path: path}).EscapedPath(), opts), nil
	}
	scheme := c.scheme(st.Type)
	var opts []string
	for one := range strings.SplitSeq(st.Options, ";") {
		if k, v, ok := strings.Cut(one, "="); ok {
			opts = append(opts, url.QueryEscape(k)+"="+url.PathEscape(v))
		}
	}
	if strings.HasPrefix(st.Path, scheme+":") {
		return uri(st.Path, opts), nil
	}
	return uri(scheme+":"+(&url.URL{Path: st.Path}).EscapedPath(), opts), nil
}

// uri puts options behind a volume.
func uri(volume string, opts []string) string {
	if len(opts) == 0 {
		return volume
	}
	sep := "?"
	if strings.Contains(volume, "?") {
		sep = "&"
	}
	return volume + sep + strings.Join(opts, "&")
}

// shownStore is a LUN's store in tgt's words, also where it was not made in them.
func shownStore(l *spec.LUN) spec.TgtStore {
	if l.Tgt != nil {
		return *l.Tgt
	}
	scheme, rest, _ := strings.Cut(l.Volume, ":")
	switch scheme {
	case "":
		return spec.TgtStore{Type: storeRdwr}
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
		return spec.TgtStore{Type: storeRdwr, Path: path, Flags: strings.Join(flags, ":")}
	}
	return spec.TgtStore{Type: scheme, Path: l.Volume}
}
