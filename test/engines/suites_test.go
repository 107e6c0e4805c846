package engines

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/deps"
)

const (
	disk = "engine" // the target that has the volume
	// toolLimit is for one run of a tool: seconds on a quiet machine.
	toolLimit = 300 * time.Second
	// calm is how long anything may take that is not to notice that an engine is broken. It is far above what a busy machine needs, and
	// far below how long engines are silent.
	calm = 8 * time.Second
	// glance is how often it is looked whether all others are calm.
	glance = 200 * time.Millisecond
	// healing is how long an engine may take until it serves again once it can.
	healing = 90 * time.Second
)

func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), toolLimit)
	defer cancel()
	if out, err := deps.Find(t, name).Command(ctx, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// convert copies an image to a disk, compares, and reads it back.
func convert(t *testing.T, e *Engine, in Instance) {
	const used = 64 << 20
	size := e.size(used)
	export := daemon.Export(disk, in.Volume(t, size))
	d := e.lunard(t, export)
	source := filepath.Join(t.TempDir(), "source.raw")
	f, err := os.Create(source)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 3<<20)
	r := rand.NewChaCha8([32]byte{1})
	for _, off := range []int64{0, 9<<20 + 512, 40 << 20, used - int64(len(noise))} {
		_, _ = r.Read(noise) // never fails
		if _, err := f.WriteAt(noise, off); err != nil {
			t.Fatal(err)
		}
	}
	url := d.URL(disk, 1)
	tool(t, "qemu-img", "convert", "-n", "-W", "-m", "8", "-f", "raw", "-O", "raw", source, url)
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", source, url)
	d.Stop(t)
	// Once more from the engine, by a lunard that has written nothing of it.
	d = e.lunard(t, export)
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", source, d.URL(disk, 1))
	d.Stop(t)
}

// grow makes a disk larger while it is in use.
func grow(t *testing.T, e *Engine, in Instance) {
	if e.Fixed != "" {
		t.Log(e.Fixed)
		return
	}
	uri := in.Volume(t, e.size(64<<20))
	size := e.size(64 << 20)
	dir, err := os.MkdirTemp("", "lunar") // the test's own folder may be too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := "unix:" + filepath.Join(dir, "admin")
	d := e.lunard(t, "--listen-admin="+socket, daemon.Export(disk, uri))
	l := startLoad(t, d, disk, newHistory(), false)
	l.progress(t, 100, calm)
	for range 2 {
		size += 1 << 30
		args := []string{"--server=" + socket, "lun", "resize", daemon.Prefix + disk, "1", fmt.Sprint(size)}
		if g, ok := in.(Grower); ok {
			g.Grow(t, uri, size)
			args[len(args)-1] = "auto"
		}
		lunarctl(t, args...)
		l.progress(t, 100, calm)
		if got := capacity(t, d); got != size {
			t.Errorf("READ CAPACITY says %d bytes, want %d", got, size)
		}
	}
	l.stop(t)
	l.verify(t, d, disk)
	d.Stop(t)
}

func lunarctl(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), healing)
	defer cancel()
	out, err := exec.CommandContext(ctx, daemon.Lunarctl(t), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("lunarctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// capacity asks a disk for its size in bytes, in a session of its own.
func capacity(t *testing.T, d *daemon.Daemon) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), calm)
	defer cancel()
	s, err := login(ctx, d, disk, 50)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	res, err := s.Command(ctx, lun1, initiator.ReadCapacity16(32), nil, 32)
	if err == nil {
		err = res.Err()
	}
	if err != nil || len(res.Data) < 12 {
		t.Fatalf("READ CAPACITY(16): %v, %d bytes", err, len(res.Data))
	}
	return int64(binary.BigEndian.Uint64(res.Data)+1) * int64(binary.BigEndian.Uint32(res.Data[8:]))
}

// faults breaks the engine under load, in each of its ways. Nothing acknowledged is lost and nothing torn; a target beside it does not notice.
func faults(t *testing.T, e *Engine, in Instance) {
	b, ok := in.(Breaker)
	if !ok {
		t.Log("this engine has no faults to show")
		return
	}
	uri := in.Volume(t, e.size(64<<20))
	d := e.lunard(t, daemon.Export(disk, uri), daemon.Export("beside", "mem:?size=64M"))
	h, besides := newHistory(), newHistory()
	for _, f := range b.Faults(uri) {
		t.Run(f.Name, func(t *testing.T) {
			l := startLoad(t, d, disk, h, f.Fails)
			l.progress(t, 200, healing)
			beside := startLoad(t, d, "beside", besides, false)
			beside.progress(t, 100, calm)
			f.Break(t)
			over := time.After(f.For)
			for going := true; going; {
				beside.progress(t, 50, calm)
				answers(t, d, f.Silent)
				select {
				case <-over:
					going = false
				case <-l.broken:
					t.Fatalf("the load: %v", l.err)
				case <-time.After(glance):
				}
			}
			f.Heal(t)
			l.progress(t, 400, healing)
			l.stop(t)
			beside.stop(t)
			if took := time.Duration(beside.longest.Load()); took > calm {
				t.Errorf("a command of the target beside it took %v", took)
			}
			l.verify(t, d, disk)
		})
	}
	d.Stop(t)
}

// answers has a new initiator come and go, and what needs no store answered, while the engine may be silent.
func answers(t *testing.T, d *daemon.Daemon, silent bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), calm)
	defer cancel()
	s, err := login(ctx, d, disk, 60)
	if err != nil {
		t.Fatalf("a login while the engine is broken: %v", err)
	}
	defer s.Close()
	if got, err := s.Ping(ctx, []byte("still there?")); err != nil || !bytes.Equal(got, []byte("still there?")) {
		t.Fatalf("a ping while the engine is broken: %q, %v", got, err)
	}
	if res, err := s.Command(ctx, lun1, initiator.Inquiry(96), nil, 96); err != nil || res.Err() != nil {
		t.Fatalf("INQUIRY while the engine is broken: %v, %v", err, res.Err())
	}
	if !silent {
		return
	}
	// Its own read waits, and can be taken back.
	var b [16]byte
	initiator.PutRead(&b, loadBlocks+8, 8)
	task, err := s.Start(lun1, b[:10], nil, 8*blockSize)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.TaskManagement(ctx, sam.AbortTask, lun1, task); err != nil {
		t.Fatalf("ABORT TASK while the engine is silent: %v", err)
	}
	if err := s.Logout(ctx); err != nil {
		t.Fatalf("a logout while the engine is silent: %v", err)
	}
}
