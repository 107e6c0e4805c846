package lifecycle

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/deps"
)

// iscsiLs is what libiscsi's iscsi-ls lists of a portal, one line for each TargetAddress and LUN.
func iscsiLs(t *testing.T, addr string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), answerLimit)
	defer cancel()
	out, err := deps.Find(t, "iscsi-ls").Command(ctx, "-s", "iscsi://"+addr).CombinedOutput()
	if err != nil {
		t.Fatalf("iscsi-ls of %s: %v\n%s", addr, err, out)
	}
	return string(out)
}

// TestPortals has libiscsi look at a daemon with portals of both IP versions, wildcards among them, and a
// target that only one portal group leads to.
func TestPortals(t *testing.T) {
	_, port, err := net.SplitHostPort(daemon.FreeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	d := daemon.StartAt(t, "0.0.0.0:"+port+",group=4", "--portal=[::]:"+port+",group=6", "--bind="+daemon.Prefix+"six=6",
		daemon.Export("all", "mem:?size=1M"), daemon.Export("six", "mem:?size=1M"))
	all, six := "Target:"+daemon.Prefix+"all Portal:", "Target:"+daemon.Prefix+"six Portal:"
	for addr, want := range map[string][]string{
		"127.0.0.1:" + port: {all + "127.0.0.1:" + port + ",4"},
		"127.0.0.2:" + port: {all + "127.0.0.2:" + port + ",4"},
		"[::1]:" + port:     {all + "[::1]:" + port + ",6", six + "[::1]:" + port + ",6"},
	} {
		out := iscsiLs(t, addr)
		for _, line := range want {
			if !strings.Contains(out, line+"\n") {
				t.Errorf("by %s: no %q in\n%s", addr, line, out)
			}
		}
		if targets, luns := strings.Count(out, "Target:"), strings.Count(out, "Lun:1 "); targets != len(want) || luns != len(want) {
			t.Errorf("by %s: %d targets, %d LUNs:\n%s", addr, targets, luns, out)
		}
	}
	d.Stop(t)
}
