//go:build e2e

package guest

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/file"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/target"
)

// TestGrowsUnderTheGuest: a disk grows under a mounted file system that is written to all the while. The guest sees the new size after a rescan, in the
// same session; the file system takes it, and what was written is there. And the disk has the names that tgtd would have given it.
func TestGrowsUnderTheGuest(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	s, err := target.NewServer(target.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	tg, err := s.AddTarget(iqn, target.TargetConfig{})
	if err != nil {
		t.Fatal(err)
	}
	u, err := backstore.ParseURI("file://" + filepath.Join(t.TempDir(), "disk.img") + "?size=64M")
	if err != nil {
		t.Fatal(err)
	}
	st, err := file.Driver().Open(ctx, u, backstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := tg.AddDisk(1, st, scsi.DiskConfig{Identity: "guest", TgtNaming: true, TID: 1}); err != nil {
		t.Fatal(err)
	}
	addr, err := s.Listen(Portal)
	if err != nil {
		t.Fatal(err)
	}
	s.Serve()

	g := BootWith(t, Options{})
	disk := loginAt(t, g, addr.String())
	name := strings.TrimPrefix(disk, "/dev/")
	if got := strings.TrimSpace(g.Run(t, "cat /sys/block/"+name+"/device/wwid; cat /sys/block/"+name+"/device/vendor")); got != "naa.60000000000000000e00000000010001\nIET" {
		t.Errorf("the guest knows the disk as\n%s", got)
	}
	g.Run(t, `
		set -e
		mkdir -p /tmp/m
		mkfs.ext4 -q `+disk+`
		mount `+disk+` /tmp/m
		fill /tmp/m/before 16`)
	load := g.Start(t, `
		set -e
		n=0
		while [ ! -e /tmp/stop ]; do
			fill /tmp/m/load 4
			checked /tmp/m/load
			n=$((n + 1))
			[ $n != 1 ] || echo going
		done
		echo "$n rounds"`)
	load.Until(t, time.Minute, "going")
	for _, size := range []int64{96 << 20, 160 << 20} {
		if got, err := tg.ResizeDisk(ctx, 1, size, false); err != nil || got != size {
			t.Fatalf("%d bytes: %v", got, err)
		}
		g.Run(t, `
			set -e
			before=$(sessions `+iqn+`)
			iscsiadm -m node -T `+iqn+` -R >/dev/null
			grown() { [ "$(blockdev --getsize64 `+disk+`)" = `+strconv.FormatInt(size, 10)+` ]; }
			wait_for 30 grown
			[ "$(sessions `+iqn+`)" = "$before" ]
			resize2fs `+disk+` >/dev/null 2>&1`)
	}
	g.Run(t, "touch /tmp/stop")
	if out := load.Wait(t, time.Minute); !strings.Contains(out, "rounds") {
		t.Errorf("the load said %s", out)
	}
	g.Run(t, `
		set -e
		fill /tmp/m/after 90 # more than there was
		umount /tmp/m
		uncached `+disk+`
		mount `+disk+` /tmp/m
		checked /tmp/m/before
		checked /tmp/m/load
		checked /tmp/m/after
		umount /tmp/m
		fsck.ext4 -fn `+disk+`
		logout `+iqn+` >/dev/null`)
	g.Shutdown(t)
}
