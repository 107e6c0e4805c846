package qemu

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/nbdkit"
)

// A disk behind lunard that takes its time: nothing is lost or mixed up, only late.
func TestSlowDisk(t *testing.T) {
	uri := nbdkit.Start(t, "8M", []string{"delay"}, "rdelay=20ms", "wdelay=30ms")
	d := daemon.Start(t, daemon.Export(disk, uri))
	url := d.URL(disk, 1)
	source := image(t, 8<<20, 3)
	run(t, "qemu-img", "convert", "-n", "-W", "-m", "8", "-f", "raw", "-O", "raw", source, url)
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", source, url)
	// Reads right behind writes of the same blocks, all in flight at once.
	qemuIO(t, url, "aio_write -P 0x21 1M 64k", "aio_write -P 0x22 2M 64k", "aio_write -P 0x23 3M 64k",
		"aio_flush", "read -P 0x21 1M 64k", "read -P 0x22 2M 64k", "read -P 0x23 3M 64k")
	d.Stop(t)
}

// failing serves an nbdkit disk of 8 MiB that holds 0x31 and fails reads and writes while the trigger exists.
func failing(t *testing.T) (d *daemon.Daemon, export, trigger string) {
	t.Helper()
	trigger = filepath.Join(t.TempDir(), "fail")
	export = daemon.Export(disk, nbdkit.Start(t, "8M", []string{"error"},
		"error-pread=EIO", "error-pread-rate=100%", "error-pread-file="+trigger,
		"error-pwrite=EIO", "error-pwrite-rate=100%", "error-pwrite-file="+trigger))
	d = daemon.Start(t, export)
	qemuIO(t, d.URL(disk, 1), "write -P 0x31 0 8M", "flush")
	return d, export, trigger
}

func create(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// refused runs a command that is to fail with an error: without one it has been given data, or a success, that
// is none.
func refused(t *testing.T, url, command string) {
	t.Helper()
	out, err := try(t, "qemu-io", ioArgs(url, []string{command})...)
	if err == nil {
		t.Errorf("%s on a failing disk succeeded: %s", command, out)
	}
	if !strings.Contains(out, "Input/output error") {
		t.Errorf("%s on a failing disk does not say what failed: %s", command, out)
	}
	if strings.Contains(out, "Pattern verification failed") {
		t.Errorf("%s on a failing disk was given data: %s", command, out)
	}
}

// What fails behind lunard is reported as an error, never as data or success, and the LUN goes on afterwards.
func TestFailingDisk(t *testing.T) {
	d, _, trigger := failing(t)
	url := d.URL(disk, 1)
	create(t, trigger)
	for _, command := range []string{"read -P 0x31 1M 64k", "read 0 512", "write -P 0x32 1M 64k", "write -P 0x32 2M 512"} {
		refused(t, url, command)
	}
	remove(t, trigger)
	// nbdkit fails a write before it does anything: the old data is there.
	qemuIO(t, url, "read -P 0x31 0 8M", "write -P 0x33 1M 64k", "flush", "read -P 0x33 1M 64k")
	d.Stop(t)
}

// A write that was to be durable and failed leaves doubt about what is: the disk takes no more writes, also when
// the store behind it would again, until it has been opened anew. Reads go on.
func TestFailedFUA(t *testing.T) {
	d, export, trigger := failing(t)
	url := d.URL(disk, 1)
	create(t, trigger)
	refused(t, url, "write -f -P 0x32 1M 64k")
	remove(t, trigger)
	refused(t, url, "write -P 0x33 1M 64k")
	refused(t, url, "write -f -P 0x33 1M 64k")
	qemuIO(t, url, "read -P 0x31 0 8M")
	d.Signal(t, syscall.SIGTERM)
	d.WaitExit(t, 1) // not everything is on the disk, and who stops the daemon learns it

	d = daemon.Start(t, export)
	qemuIO(t, d.URL(disk, 1), "read -P 0x31 0 8M", "write -f -P 0x34 1M 64k", "read -P 0x34 1M 64k")
	d.Stop(t)
}

// Errors here and there under load: every read is right or an error.
func TestFlakyDisk(t *testing.T) {
	uri := nbdkit.Start(t, "8M", []string{"error"}, "error-pread=EIO", "error-pread-rate=20%")
	d := daemon.Start(t, daemon.Export(disk, uri))
	url := d.URL(disk, 1)
	if out, err := try(t, "qemu-io", ioArgs(url, []string{"write -P 0x41 0 8M"})...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	good, bad := 0, 0
	for range 4 {
		var commands []string
		for range 16 {
			commands = append(commands, "read -P 0x41 1M 64k")
		}
		out, _ := try(t, "qemu-io", ioArgs(url, commands)...) // most runs have a failure among their reads
		good += strings.Count(out, "read 65536/65536")
		bad += strings.Count(out, "Input/output error")
		if strings.Contains(out, "Pattern verification failed") {
			t.Fatalf("a read was given wrong data:\n%s", out)
		}
	}
	if good == 0 || bad == 0 || good+bad != 64 {
		t.Errorf("%d reads were good and %d failed, want some of each and 64 in all", good, bad)
	}
	d.Stop(t)
}
