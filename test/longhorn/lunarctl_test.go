//go:build e2e

package longhorn_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/longhorn"
)

// An administrator's day: what lunarctl does with Longhorn's volumes, one of them served.
func TestByLunarctl(t *testing.T) {
	from, to := longhorn.Start(t, longhorn.Config{Size: size}), longhorn.Start(t, longhorn.Config{Size: size})
	dir, err := os.MkdirTemp("", "lunar") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := "unix:" + filepath.Join(dir, "admin")
	d := daemon.Start(t, "--listen-admin="+socket, daemon.Export("disk", from.URI("")))
	run := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), daemon.Lunarctl(t), append([]string{"--server=" + socket}, args...)...).CombinedOutput()
		return string(out), err
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := run(args...)
		if err != nil {
			t.Fatalf("lunarctl %v: %v\n%s", args, err, out)
		}
		return out
	}
	refused := func(part string, args ...string) {
		t.Helper()
		if out, err := run(args...); err == nil || !strings.Contains(out, part) {
			t.Errorf("lunarctl %v: %v, want %q in\n%s", args, err, part, out)
		}
	}
	if out := must("store", "list"); !strings.Contains(out, "longhorn:VOLUME") {
		t.Errorf("no longhorn in\n%s", out)
	}
	if out := must("volume", "list", from.URI("")); !strings.Contains(out, from.Volume) {
		t.Errorf("no %s in\n%s", from.Volume, out)
	}
	must("snapshot", "create", from.URI(""), "before")
	if out := must("snapshot", "list", from.URI("")); !strings.Contains(out, "before") {
		t.Errorf("no snapshot in\n%s", out)
	}
	refused("already", "snapshot", "create", from.URI(""), "before")
	refused("which is online", "snapshot", "rollback", from.URI(""), "before", "--force") // it is served
	refused("create", "volume", "create", from.URI(""), "8M")
	refused("have Longhorn expand the volume", "lun", "resize", daemon.Prefix+"disk", "1", "16M")
	must("clone", "create", from.URI(""), to.URI(""), "--snapshot", "before")
	refused("is not empty", "clone", "create", from.URI(""), to.URI(""), "--snapshot", "before")
	must("lun", "remove", daemon.Prefix+"disk", "1", "--force")
	must("snapshot", "rollback", from.URI(""), "before", "--force")
	must("snapshot", "delete", from.URI(""), "before")
	if out := must("snapshot", "list", from.URI("")); strings.Contains(out, "before") {
		t.Errorf("still there:\n%s", out)
	}
	must("lun", "add", daemon.Prefix+"disk", "1", to.URI(""))
	d.Stop(t)
}
