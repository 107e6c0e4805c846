package curve

import (
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
)

func TestNames(t *testing.T) {
	for s, want := range map[string]name{
		"pool//iscsi_test_":  {path: "/iscsi", user: "test"},
		"/" + "/iscsi_test_": {path: "/iscsi", user: "test"},
		"pool1//cinder/volume-1_cinder_:/etc/curve/client.conf": {path: "/cinder/volume-1", user: "cinder", conf: "/etc/curve/client.conf"},
		"pool//a_b_c_user_": {path: "/a_b_c", user: "user"},
		"pool//a:b_user_":   {}, // the last ":" begins the conf
		"pool//vol_user":    {},
		"pool//vol_":        {},
		"pool//vol":         {},
		"pool//_user_":      {},
		"pool//vol__":       {},
		"pool/vol_user_":    {},
		"pool":              {},
		"":                  {},
		"pool//dir/_user_":  {},
		"pool//" + strings.Repeat("x", maxName) + "_user_":                   {},
		"pool//" + strings.Repeat("x", maxName-len("cbd:pool//_u_")) + "_u_": {path: "/" + strings.Repeat("x", maxName-len("cbd:pool//_u_")), user: "u"},
	} {
		got, err := parseName(s)
		if (err != nil) != (want.path == "") {
			t.Errorf("%q: %v", s, err)
			continue
		}
		if want.nebd = "cbd:" + s; err == nil && got != want {
			t.Errorf("%q: %+v, want %+v", s, got, want)
		}
	}
	n, err := parseName("pool//dir/vol_user_:/x")
	if err != nil {
		t.Fatal(err)
	}
	if got := n.alias("size"); got != "cbd:size//dir/vol_user_:/x" {
		t.Errorf("alias: %s", got)
	}
	if got := lockName(n.nebd); got != "cbd:pool++dir+vol_user_:+x" {
		t.Errorf("lock: %s", got)
	}
}

// One volume has one key, whatever its pool is called; two clusters have two.
func TestKey(t *testing.T) {
	r := backstore.NewRegistry(Driver())
	keyOf := func(s string) string {
		u, err := backstore.ParseURI(s)
		if err != nil {
			t.Fatal(err)
		}
		return r.Key(u)
	}
	base := keyOf("cbd:pool//vol_user_")
	for s, same := range map[string]bool{
		"cbd:other//vol_user_":                              true,
		"cbd:pool//vol_user_?socket=/data/nebd//nebd.sock":  true,
		"cbd:pool//vol_user_?inflight=3&lockdir=/x":         true,
		"cbd:pool//vol2_user_":                              false,
		"cbd:pool//vol_user_?socket=/data/nebd/nebd-2.sock": false,
		"cbd:pool//vol_user_:/etc/curve/other.conf":         false,
		"cbd:pool//vol_user":                                false,
	} {
		if got := keyOf(s); (got == base) != same {
			t.Errorf("%s: the same key: %v, want %v", s, got == base, same)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, s := range []string{
		"cbd:pool//vol", "cbd://host/pool//vol_user_", "cbd:pool//vol_user_?inflight=0", "cbd:pool//vol_user_?inflight=5000", "cbd:pool//vol_user_?inflight=x",
		"cbd:pool//vol_user_?offline_after=-1s", "cbd:pool//vol_user_?offline_after=soon", "cbd:pool//vol_user_?socket=", "cbd:pool//vol_user_?lockdir=",
		"cbd:pool//vol_user_?readonly=perhaps", "cbd:pool//vol_user_?socket=/" + strings.Repeat("x", 200), "cbd:pool//vol_user_?shared&discard",
	} {
		u, err := backstore.ParseURI(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parse(u, backstore.Options{}); err == nil || backstore.ClassOf(err) != backstore.ClassUnsupported {
			t.Errorf("%s: %v", s, err)
		}
	}
	u, err := backstore.ParseURI("cbd:pool//vol_user_?offline_after=90&inflight=7&readonly&discard")
	if err != nil {
		t.Fatal(err)
	}
	c, err := parse(u, backstore.Options{})
	if err != nil || c.offline.Seconds() != 90 || c.inFlight != 7 || !c.readOnly || c.socket != defaultSocket || c.lockDir != defaultLockDir {
		t.Errorf("%+v, %v", c, err)
	}
	d := c.describe(info{size: 1 << 30, block: 4096})
	if !d.Has(backstore.CapFUA|backstore.CapDiscard) || d.Has(backstore.CapFlush) || d.DiscardZeroes || d.DiscardGranularity != 1<<30 || d.BlockSize != 4096 || d.PhysicalBlock != 4096 || d.MaxInFlight != 7 {
		t.Errorf("%+v", d)
	}
	if _, err := Driver().Open(t.Context(), u, backstore.Options{TakeOver: true}); backstore.ClassOf(err) != backstore.ClassUnsupported {
		t.Errorf("taking over: %v", err)
	}
}
