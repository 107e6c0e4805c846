package rbd

import (
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
)

func TestNames(t *testing.T) {
	for _, c := range []struct {
		uri  string
		want spec
		err  string
	}{
		{"rbd:pool/image", spec{"pool", "", "image", ""}, ""},
		{"rbd:image", spec{"rbd", "", "image", ""}, ""},
		{"rbd:pool/ns/image", spec{"pool", "ns", "image", ""}, ""},
		{"rbd:pool/image@snap", spec{"pool", "", "image", "snap"}, ""},
		{"rbd:pool/ns/image@snap", spec{"pool", "ns", "image", "snap"}, ""},
		{"rbd:pool/a%20b", spec{"pool", "", "a b", ""}, ""},
		{"rbd:pool/", spec{}, "image's name is missing"},
		{"rbd:", spec{}, "image's name is missing"},
		{"rbd:/image", spec{}, "pool's name is missing"},
		{"rbd:pool//image", spec{}, "namespace's name is missing"},
		{"rbd:a/b/c/d", spec{}, "want rbd:POOL"},
		{"rbd:pool/image@", spec{}, "snapshot's name is missing"},
		{"rbd:pool/image@a@b", spec{}, "other uses"},
		{"rbd:po@ol/image", spec{}, "other uses"},
		{"rbd://host/pool/image", spec{}, "configuration file"},
		{"rbd:pool/" + strings.Repeat("x", maxName+1), spec{}, "longer than"},
		{"rbd:pool/image?lock=some", spec{}, "exclusive, wait or none"},
		{"rbd:pool/image?shared&lock=exclusive", spec{}, "keeps them out"},
		{"rbd:pool/image?shared&cache=writeback", spec{}, "wants the lock"},
		{"rbd:pool/image?cache=yes", spec{}, "want off"},
		{"rbd:pool/image?inflight=0", spec{}, "want 1 to"},
		{"rbd:pool/image?inflight=4097", spec{}, "want 1 to"},
		{"rbd:pool/image?open_timeout=1ms", spec{}, "want 1s"},
		{"rbd:pool/image?open_timeout=soon", spec{}, "want 1s"},
		{"rbd:pool/image?conf=", spec{}, "conf is empty"},
		{"rbd:pool/image?readonly=perhaps", spec{}, "on or off"},
	} {
		u, err := backstore.ParseURI(c.uri)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseImage(u, backstore.Options{})
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || backstore.ClassOf(err) != backstore.ClassUnsupported {
				t.Errorf("%s: %v, want %q", c.uri, err, c.err)
			}
		} else if err != nil || got.spec != c.want {
			t.Errorf("%s: %v, %v, want %v", c.uri, got, err, c.want)
		} else if got.readOnly != (c.want.snap != "") {
			t.Errorf("%s: read-only is %v", c.uri, got.readOnly)
		}
	}
}

func TestPlaces(t *testing.T) {
	for uri, want := range map[string]spec{"rbd:pool": {pool: "pool"}, "rbd:pool/ns": {pool: "pool", namespace: "ns"}, "rbd:pool/": {pool: "pool"},
		"rbd:": {}, "rbd:pool/ns/x": {}, "rbd:pool/a@b": {}} {
		u, err := backstore.ParseURI(uri)
		if err != nil {
			t.Fatal(err)
		}
		c, err := parsePlace(u)
		if want.pool == "" != (err != nil) || err == nil && c.spec != want {
			t.Errorf("%s: %v, %v, want %v", uri, c, err, want)
		}
	}
}

// A volume that a listing names is opened with the options of the listing that say which cluster, and no others.
func TestURIs(t *testing.T) {
	u, err := backstore.ParseURI("rbd:pool/a?conf=/etc/a+b%26c.conf&id=client.x&readonly&inflight=7")
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseImage(u, backstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := backstore.ParseURI(c.uri(spec{"pool", "n s", "b?=", ""}))
	if err != nil {
		t.Fatal(err)
	}
	d, err := parseImage(again, backstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if d.conf != "/etc/a+b&c.conf" || d.id != "x" || d.spec != (spec{"pool", "n s", "b?=", ""}) || d.readOnly || d.inFlight != defaultInFlight {
		t.Errorf("%s: %+v", again, d)
	}
	for _, other := range []string{"rbd:pool/n/a", "rbd:pool/b", "rbd:pool2/a", "rbd:pool/a@s"} {
		v, err := backstore.ParseURI(other + "?conf=/etc/a+b%26c.conf")
		if err != nil {
			t.Fatal(err)
		}
		if key(u) == key(v) {
			t.Errorf("%s and %s have one key", u, v)
		}
	}
	same, err := backstore.ParseURI("rbd:pool/a?id=other&conf=/etc/a%2Bb%26c.conf")
	if err != nil {
		t.Fatal(err)
	}
	if key(u) != key(same) {
		t.Error("one image has two keys")
	}
}
