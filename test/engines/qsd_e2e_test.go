//go:build e2e

package engines

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/deps"
	"github.com/lunar-iscsi/lunar/test/libiscsi"
)

// A qsdInstance is a qemu-storage-daemon a volume.
type qsdInstance struct {
	format string // raw or qcow2
	by     map[string]*qsd
}

// A qsd serves one image.
type qsd struct {
	dir  string
	args []string
	cmd  *exec.Cmd
	said *bytes.Buffer // read after done
	done chan struct{}
}

func qsdEngine(format string) Engine {
	e := Engine{Name: "qsd-" + format, Libiscsi: libiscsi.Undefined, Start: func(*testing.T) Instance {
		return &qsdInstance{format: format, by: map[string]*qsd{}}
	}}
	if format == "qcow2" {
		e.Fixed = "a daemon that is stopped may lose what was not flushed, and this QEMU resizes no node that is exported"
	}
	return e
}

func (q *qsdInstance) Volume(t *testing.T, size int64) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lunar") // the test's own folder may be too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	image := filepath.Join(dir, "image")
	tool(t, "qemu-img", "create", "-q", "-f", q.format, image, fmt.Sprint(size))
	s := &qsd{dir: dir, args: []string{
		"--blockdev", fmt.Sprintf("driver=%s,node-name=disk,discard=unmap,file.driver=file,file.filename=%s,file.discard=unmap", q.format, image),
		"--nbd-server", "addr.type=unix,addr.path=" + filepath.Join(dir, "nbd"),
		"--export", "type=nbd,id=e,node-name=disk,name=disk,writable=on",
	}}
	s.launch(t)
	t.Cleanup(func() {
		_ = s.cmd.Process.Signal(syscall.SIGCONT)
		s.kill()
	})
	uri := "nbd+unix:///disk?socket=" + filepath.Join(dir, "nbd")
	if q.format == "raw" {
		uri += "&restart=safe" // what it acknowledged is in the kernel's page cache
	}
	q.by[uri] = s
	return uri
}

func (s *qsd) launch(t *testing.T) {
	t.Helper()
	_ = os.Remove(filepath.Join(s.dir, "nbd")) // a killed one leaves it behind
	s.said, s.done = &bytes.Buffer{}, make(chan struct{})
	s.cmd = deps.Find(t, "qemu-storage-daemon").Command(context.WithoutCancel(t.Context()), s.args...)
	s.cmd.Stdout, s.cmd.Stderr = s.said, s.said
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd, done := s.cmd, s.done
	go func() {
		defer close(done)
		_ = cmd.Wait() // says that it was killed
	}()
	limit, tick := time.After(20*time.Second), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for {
		if c, err := net.Dial("unix", filepath.Join(s.dir, "nbd")); err == nil {
			c.Close()
			return
		}
		select {
		case <-s.done:
			t.Fatalf("qemu-storage-daemon ended before it served:\n%s", s.said)
		case <-limit:
			t.Fatal("qemu-storage-daemon does not serve")
		case <-tick.C:
		}
	}
}

func (s *qsd) kill() {
	_ = s.cmd.Process.Kill() // fails only when it has ended
	<-s.done
}

// Grow restarts the daemon on a larger image: this QEMU resizes no node that is exported.
func (q *qsdInstance) Grow(t *testing.T, uri string, size int64) {
	t.Helper()
	s := q.by[uri]
	s.kill()
	tool(t, "qemu-img", "resize", "-q", "-f", q.format, filepath.Join(s.dir, "image"), fmt.Sprint(size))
	s.launch(t)
}

func (q *qsdInstance) Faults(uri string) []Fault {
	s := q.by[uri]
	signal := func(sig os.Signal) func(t *testing.T) {
		return func(t *testing.T) {
			t.Helper()
			if err := s.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
		}
	}
	f := []Fault{{Name: "silent for 30 s", For: 30 * time.Second, Silent: true, Break: signal(syscall.SIGSTOP), Heal: signal(syscall.SIGCONT)}}
	if q.format == "raw" {
		// Of qcow2 a killed one may have lost what it had not flushed, and the store says so.
		f = append(f, Fault{Name: "killed", For: time.Second, Silent: true, Break: func(*testing.T) { s.kill() }, Heal: s.launch})
	}
	return f
}
