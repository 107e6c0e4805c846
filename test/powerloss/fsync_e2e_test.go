//go:build e2e

package powerloss

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/guest"
)

// A volume upon a device of the device mapper, which can be told to fail writes (dm-flakey) and then to be well again.
const mapped = `
set -e
table() { # linear, or flakey with every write failing
	local size
	size=$(blockdev --getsz /dev/vdb)
	case $1 in
	well) echo "0 $size linear /dev/vdb 0" ;;
	failing) echo "0 $size flakey /dev/vdb 0 0 3600 1 error_writes" ;;
	esac
}
# Without flushing and freezing: what lunard has in the page cache stays there.
become() { dmsetup suspend --noflush --nolockfs sick && table $1 | dmsetup load sick && dmsetup resume --noudevsync sick; }
`

// stop ends lunard in its machine; with a volume that has failed it does not end well.
func stop(t *testing.T, g *guest.Guest, lunard *guest.Command) {
	t.Helper()
	g.Run(t, `for p in /proc/[0-9]*; do [ "$(readlink $p/exe)" = /run/lunard ] && kill ${p#/proc/}; done; true`)
	if _, status := lunard.Status(t, time.Minute); status == 0 {
		t.Error("lunard ended with status 0, as if all that was written were durable")
	}
}

// A flush that fails fails the volume: Linux tells such an error once, drops what it could not write, and would call the
// next flush a success. So nothing more is written or flushed until the volume is opened anew, while reads go on.
func TestFailedFlush(t *testing.T) {
	t.Parallel()
	g := boot(t, daemon.Binary(t), "driver=raw,file.driver=file,file.filename="+newDisk(t))
	g.Run(t, mapped+`
		modprobe -a dm-mod dm-flakey
		table well | dmsetup create --noudevsync --noudevrule sick
		dmsetup mknodes sick
		[ -b /dev/mapper/sick ]`)
	lunard := serve(t, g, "file:///dev/mapper/sick")
	lun := sam.NewLUN(1)
	s := login(t, g)
	ready(t, s, lun)
	command := func(c []byte, out []byte, in int) (initiator.Result, error) {
		r, err := s.Command(t.Context(), lun, c, out, in)
		if err != nil {
			t.Fatal(err)
		}
		return r, r.Err()
	}
	write := func(lba uint64, flags byte) error {
		c := cdb.Transfer(cdb.Write10, lba, unit/block, flags)
		_, err := command(c[:10], bytes.Repeat([]byte{byte(lba)}, unit), 0)
		return err
	}
	flush := func() error { _, err := command(initiator.SynchronizeCache10(), nil, 0); return err }
	refused := func(what string, err error) {
		t.Helper()
		var status *initiator.StatusError
		if !errors.As(err, &status) || status.Status != sam.CheckCondition {
			t.Errorf("%s: %v, want CHECK CONDITION", what, err)
			return
		}
		t.Logf("%s: %v", what, err)
	}
	good := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}

	good("a write", write(8, 0))
	good("a flush", flush())
	good("a write that the kernel has not written back", write(16, 0))
	g.Run(t, mapped+"become failing")
	refused("a flush while the device fails", flush())
	g.Run(t, mapped+"become well")
	refused("a flush after a failed one", flush())
	refused("a write after a failed flush", write(24, 0))
	refused("a FUA write after a failed flush", write(24, cdb.FUA))
	c := cdb.Transfer(cdb.Read10, 8, unit/block, 0)
	r, err := command(c[:10], nil, unit)
	good("a read", err)
	if want := bytes.Repeat([]byte{8}, unit); !bytes.Equal(r.Data, want) {
		t.Error("what was flushed before is not there")
	}

	stop(t, g, lunard)
	lunard = serve(t, g, "file:///dev/mapper/sick")
	s = login(t, g)
	ready(t, s, lun)
	good("a write, opened anew", write(24, cdb.FUA))
	good("a flush, opened anew", flush())

	// The same by a FUA write that fails.
	g.Run(t, mapped+"become failing")
	refused("a FUA write while the device fails", write(32, cdb.FUA))
	g.Run(t, mapped+"become well")
	refused("a flush after a failed FUA write", flush())
	refused("a write after a failed FUA write", write(40, 0))
	if lunard.Ended() {
		t.Error("lunard has ended")
	}
	g.Shutdown(t)
}
