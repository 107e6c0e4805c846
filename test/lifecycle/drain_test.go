package lifecycle

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/deps"
)

const disk = "life"

// file is a disk of 64 MiB in a folder of the test's, not yet there.
func file(t *testing.T) (path, export string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "disk.img")
	return path, daemon.Export(disk, daemon.FileURI(path, "size=64M&thin=on"))
}

func TestStopsWhenIdle(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		path, export := file(t)
		d := daemon.Start(t, export)
		d.Signal(t, sig)
		d.WaitExit(t, 0)
		if st, err := os.Stat(path); err != nil || st.Size() != 64<<20 {
			t.Errorf("after %v the disk is %+v, %v; want 64 MiB", sig, st, err)
		}
	}
}

// A drain with an initiator logged in and idle ends by itself: the initiator is told, and does not have to
// be waited for for ever.
func TestStopsWithASession(t *testing.T) {
	_, export := file(t)
	d := daemon.Start(t, export)
	s := newSession(t, d.URL(disk, 1))
	s.write(t, "", 0x11, 0, 64)
	d.Stop(t)
}

// A drain under load ends with status 0, and what was acknowledged before it is there.
func TestStopsUnderLoad(t *testing.T) {
	_, export := file(t)
	d := daemon.Start(t, export)
	s := newSession(t, d.URL(disk, 1))
	s.write(t, "", 0x22, 1024, 1024)
	ctx, cancel := context.WithCancel(t.Context())
	perf := deps.Find(t, "iscsi-perf").Command(ctx, "-m", "32", "-b", "8", "-t", "60", "-r", d.URL(disk, 1))
	out, err := perf.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := perf.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = perf.Wait() // says that it was killed
	}()
	if _, err := out.Read(make([]byte, 1)); err != nil { // its first report: it is at work
		t.Fatal(err)
	}
	d.Stop(t)

	d = daemon.StartAt(t, d.Addr, export)
	again := newSession(t, d.URL(disk, 1))
	again.read(t, 0x22, 1024, 1024)
	again.end(t)
	d.Stop(t)
}

// What was flushed, and what was written with FUA, is there after the daemon was killed. That the data has
// left the daemon is all that killing a process can show; the drivers' own tests hold what reaches the disk.
func TestKilled(t *testing.T) {
	_, export := file(t)
	d := daemon.Start(t, export)
	s := newSession(t, d.URL(disk, 1))
	s.write(t, "", 0x31, 0, 1024)
	s.flush(t)
	s.write(t, "-f", 0x32, 2048, 64)
	d.Kill(t)

	d = daemon.StartAt(t, d.Addr, export)
	s = newSession(t, d.URL(disk, 1))
	s.read(t, 0x31, 0, 1024)
	s.read(t, 0x32, 2048, 64)
	s.read(t, 0, 4096, 64)
	// Killed with nobody asking for it to be durable, and started again: no lock stays, and it serves.
	s.write(t, "", 0x33, 8192, 64)
	d.Kill(t)
	d = daemon.StartAt(t, d.Addr, export)
	s = newSession(t, d.URL(disk, 1))
	s.read(t, 0x31, 0, 1024)
	s.write(t, "-f", 0x34, 8192, 64)
	s.read(t, 0x34, 8192, 64)
	s.end(t)
	d.Stop(t)
}

// A second start finds the first one's data, whether or not it says a size again, and whatever size that is: a disk
// is made by its size, not cut by it.
func TestSecondStart(t *testing.T) {
	path, export := file(t)
	d := daemon.Start(t, export)
	s := newSession(t, d.URL(disk, 1))
	s.write(t, "", 0x41, 0, 64)
	s.write(t, "", 0x42, 64<<10-64, 64)
	s.end(t)
	d.Stop(t)
	for _, again := range []string{export, daemon.Export(disk, daemon.FileURI(path, "")), daemon.Export(disk, daemon.FileURI(path, "size=1M"))} {
		d = daemon.Start(t, again)
		s = newSession(t, d.URL(disk, 1))
		s.read(t, 0x41, 0, 64)
		s.read(t, 0, 64, 64)
		s.read(t, 0x42, 64<<10-64, 64)
		s.end(t)
		d.Stop(t)
	}
}

// Several targets and LUNs in one daemon keep their data apart.
func TestSeveralDisks(t *testing.T) {
	dir := t.TempDir()
	var args []string
	names := []string{"a", "b", "c"}
	for i, name := range names {
		args = append(args, daemon.ExportLUN(name, i, daemon.FileURI(filepath.Join(dir, name+" disk?.img"), "size=8M")))
	}
	d := daemon.Start(t, args...)
	for i, name := range names {
		s := newSession(t, d.URL(name, i))
		s.write(t, "-f", byte(0x51+i), 0, 8192)
		s.end(t)
	}
	for i, name := range names {
		s := newSession(t, d.URL(name, i))
		s.read(t, byte(0x51+i), 0, 8192)
		s.end(t)
	}
	d.Stop(t)
	for i, name := range names {
		b, err := os.ReadFile(filepath.Join(dir, name+" disk?.img"))
		if err != nil || len(b) != 8<<20 || strings.Trim(string(b), string(rune(0x51+i))) != "" {
			t.Errorf("disk %s: %d bytes, %v, or not all %#x", name, len(b), err, 0x51+i)
		}
	}
}
