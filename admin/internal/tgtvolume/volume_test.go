package tgtvolume

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
)

func TestURI(t *testing.T) {
	for _, c := range []struct {
		store spec.TgtStore
		want  string
	}{
		{spec.TgtStore{Path: "/srv/d.img"}, "file:///srv/d.img"},
		{spec.TgtStore{Type: "rdwr", Path: "/srv/d.img", Flags: "direct"}, "file:///srv/d.img?direct=on"},
		{spec.TgtStore{Type: "rdwr", Path: "/srv/d.img", Flags: "sync:direct"}, "file:///srv/d.img?direct=on&cache=writethrough"},
		{spec.TgtStore{Type: "aio", Path: "/srv/a b?c=d&e#f%.img"}, "file:///srv/a%20b%3Fc=d&e%23f%25.img?direct=on"},
		{spec.TgtStore{Type: "rdwr", Path: "//srv/d.img", Options: "foo=bar"}, "file:///srv/d.img"},
		{spec.TgtStore{Type: "null", Path: "null"}, "null:?size=1T"},
		{spec.TgtStore{Type: "rdwr"}, ""},
		{spec.TgtStore{Type: "curve", Path: "cbd:pool//vol_user_"}, "cbd:pool//vol_user_"},
		{spec.TgtStore{Type: "rbd", Path: "pool/image@snap", Options: "conf=/etc/ceph.conf;id=admin"}, "rbd:pool/image@snap?conf=%2Fetc%2Fceph.conf&id=admin"},
		{spec.TgtStore{Type: "longhorn", Path: "vol", Options: "size=1073741824"}, "longhorn:vol?size=1073741824"},
	} {
		got, err := URI(c.store, nil)
		if err != nil || got != c.want {
			t.Errorf("%+v: %q, %v; want %q", c.store, got, err, c.want)
			continue
		}
		if got == "" {
			continue
		}
		u, err := backstore.ParseURI(got)
		if err != nil {
			t.Errorf("%q: %v", got, err)
		} else if u.Scheme == "file" && (u.Path != filepath.Clean(c.store.Path) || u.Host != "") {
			t.Errorf("%q is the file %q of %q, want %q", got, u.Path, u.Host, c.store.Path)
		}
	}
	none := func(string) bool { return false }
	if got, err := URI(spec.TgtStore{Type: "rbd", Path: "p/i"}, none); err == nil {
		t.Errorf("without a driver for it: %q", got)
	}
	for typ, want := range map[string]string{"sg": "pass", "ssc": "tapes", "sheepdog": "no Sheepdog", "no such": "no backing store type", "file?x": "no backing store type"} {
		if got, err := URI(spec.TgtStore{Type: typ, Path: "/dev/sg0"}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("type %s: %q, %v; want an error with %q", typ, got, err, want)
		}
	}
}

func TestNew(t *testing.T) {
	l, err := New(3, spec.TgtStore{Path: "/d", Flags: "direct:sync"}, "4096", nil)
	want := spec.LUN{Number: 3, Volume: "file:///d?direct=on&cache=writethrough", TgtNaming: true, Thin: new(bool), BlockSize: 4096, Tgt: &spec.TgtStore{Type: "rdwr", Path: "/d", Flags: "sync:direct"}}
	if err != nil || !reflect.DeepEqual(l, want) {
		t.Errorf("%+v, %v", l, err)
	}
	// Measured: tgtd takes 513 for a block size, and serves 512.
	if l, err = New(3, spec.TgtStore{Path: "/d"}, "513", nil); err != nil || l.BlockSize != 0 {
		t.Errorf("%+v, %v", l, err)
	}
	if l, err = New(6, spec.TgtStore{}, "", nil); err != nil || l.Volume != "" || !l.Removable || !l.Offline {
		t.Errorf("without a path: %+v, %v", l, err)
	}
	for _, s := range []spec.TgtStore{{Path: "/d", Flags: "nosuch"}, {Type: "aio", Path: "/d", Flags: "direct"}, {Type: "mmc", Path: "/d"}} {
		if l, err := New(1, s, "", nil); err == nil {
			t.Errorf("%+v: %+v", s, l)
		}
	}
}

func TestUpdate(t *testing.T) {
	base, _ := New(1, spec.TgtStore{Path: "/d"}, "", nil)
	for _, c := range []struct {
		key, value string
		want       func(*spec.LUN)
	}{
		{"vendor_id", "ACME-LONG", func(l *spec.LUN) { l.Vendor = "ACME-LON" }},
		{"product_id", "Disk Two", func(l *spec.LUN) { l.Product = "Disk Two" }},
		{"product_rev", "01034", func(l *spec.LUN) { l.Revision = "0103" }},
		{"scsi_sn", "SN", func(l *spec.LUN) { l.Serial = "SN" }},
		{"scsi_id", "ID", func(l *spec.LUN) { l.SCSIID = "ID" }},
		{"readonly", "1", func(l *spec.LUN) { l.ReadOnly = true }},
		{"readonly", "yes", func(*spec.LUN) {}},
		{"removable", " 1x", func(l *spec.LUN) { l.Removable = true }},
		{"online", "0", func(l *spec.LUN) { l.Offline = true }},
		{"sense_format", "1", func(l *spec.LUN) { l.DescriptorSense = true }},
		{"rotation_rate", "7200", func(l *spec.LUN) { l.RotationRate = 7200 }},
		{"la_lba", "7", func(l *spec.LUN) { l.LowestAligned = 7 }},
		{"optimal_xfer_gran", "8", func(l *spec.LUN) { l.OptimalGranularity = 8 }},
		{"optimal_xfer_len", "64", func(l *spec.LUN) { l.OptimalLength = 64 }},
		{"lbppbe", "3", func(l *spec.LUN) { l.PhysicalBlock = 4096 }},
		{"thin_provisioning", "1", func(l *spec.LUN) { *l.Thin = true }},
		{"mode_page", "8:0:18:0x10:0", func(l *spec.LUN) {
			l.ModePages, l.WriteCache = []string{"8:0:18:16" + strings.Repeat(":0", 17)}, new(bool)
		}},
		{"mode_page", "10:0:10:4", func(l *spec.LUN) {
			l.ModePages, l.DescriptorSense = []string{"10:0:10:4" + strings.Repeat(":0", 9)}, true
		}},
	} {
		got, want := base.Clone(), base.Clone()
		c.want(&want)
		if err := Update(&got, c.key, c.value, nil); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s=%s: %v, %+v; want %+v", c.key, c.value, err, got, want)
		}
	}
	l := base.Clone()
	for _, p := range []string{"8:0:2:1:2", "10:0:1:9", "0x8:0:1:4"} {
		if err := Update(&l, "mode_page", p, nil); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"10:0:1:9", "8:0:1:4"}; !reflect.DeepEqual(l.ModePages, want) {
		t.Errorf("mode pages %v, want %v: a page is there once", l.ModePages, want)
	}
	for _, bad := range [][2]string{{"nosuch", "1"}, {"path", "/e"}, {"mode_page", "8:0:1:1:2"}, {"path", ""}} {
		l := base.Clone()
		if err := Update(&l, bad[0], bad[1], nil); err == nil || !reflect.DeepEqual(l, base) {
			t.Errorf("%s=%s: %v, %+v", bad[0], bad[1], err, l)
		}
	}
	l = base.Clone()
	if err := Update(&l, "online", "0", nil); err != nil {
		t.Fatal(err)
	}
	if err := Update(&l, "path", "/e", nil); err != nil || l.Volume != "file:///e" || l.Tgt.Path != "/e" || base.Tgt.Path != "/d" {
		t.Errorf("%v, %+v", err, l)
	}
}
