//go:build e2e

package ceph

import (
	"strings"
	"testing"
	"time"
)

// A cluster serves an image while one of its OSDs is dead, and is whole again when it is back.
func TestCluster(t *testing.T) {
	c := Start(t, Config{})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	rbd := func(args ...string) string {
		t.Helper()
		out, err := c.RBD(args...)
		must(err)
		return out
	}
	rbd("create", "--size=16M", "rbd/disk")
	must(c.KillOSD(1))
	must(c.WaitDown(1, time.Minute))
	if ok, err := c.clean(); ok || err == nil {
		t.Errorf("with an OSD dead it is clean: %v, %v", ok, err)
	}
	rbd("bench", "--io-type=write", "--io-size=64K", "--io-total=4M", "rbd/disk")
	must(c.StartOSD(1))
	must(c.WaitClean(time.Minute))
	if out := rbd("ls", "rbd"); strings.TrimSpace(out) != "disk" {
		t.Errorf("rbd ls: %q", out)
	}
	if err := c.StartOSD(1); err == nil {
		t.Error("an OSD that runs was started again")
	}
}
