//go:build e2e

package engines

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/guest"
)

// guests gives the disk to a Linux kernel: a file system, and fio that verifies what it has written.
func guests(t *testing.T, e *Engine, in Instance) {
	iqn := daemon.Prefix + disk
	d := e.lunardAt(t, "127.0.0.2:0", daemon.Export(disk, in.Volume(t, e.size(256<<20))))
	g := guest.Boot(t)
	g.Run(t, fmt.Sprintf("login %s %s", d.Addr, iqn))
	dev := strings.TrimSpace(g.Run(t, "disk "+iqn))
	load := g.Start(t, fmt.Sprintf(`
		fio --name=verified --filename=%s --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --bsrange=512-64k --blockalign=512 --size=48M --io_size=96M \
			--verify=crc32c --verify_fatal=1 --do_verify=1 --output=/run/fio 2>&1
		status=$?
		cat /run/fio
		exit $status`, dev))
	load.Wait(t, 5*time.Minute)
	g.Run(t, `
		set -e
		mkfs.ext4 -q `+dev+` 160M
		mkdir -p /tmp/m
		mount `+dev+` /tmp/m
		fill /tmp/m/files 24
		umount /tmp/m
		uncached `+dev+`
		mount `+dev+` /tmp/m
		checked /tmp/m/files
		fstrim /tmp/m || true # where the engine has no discard
		checked /tmp/m/files
		umount /tmp/m
		fsck.ext4 -fn `+dev+`
		logout `+iqn+` >/dev/null`)
	g.Shutdown(t)
	d.Stop(t)
}
