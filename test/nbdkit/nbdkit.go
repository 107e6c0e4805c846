package nbdkit

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/deps"
)

const (
	readyTimeout = 20 * time.Second // milliseconds on a quiet machine
	readyPoll    = 5 * time.Millisecond
)

// A Server is a running nbdkit with one export.
type Server struct {
	Socket string // the path of its unix socket

	tool  *deps.Tool
	args  []string
	cmd   *exec.Cmd
	said  *bytes.Buffer // read after ended
	ended chan struct{} // closed when the process has ended and was waited for
}

// URI is how lunard names the export.
func (s *Server) URI() string { return "nbd+unix:///?socket=" + s.Socket }

// Kill ends the server as a power cut does (SIGKILL): what a filter still held is gone.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill() // fails only when it has ended
	<-s.ended
}

// Pause stops the server in its tracks (SIGSTOP), as a host does that hangs; Resume has it go on.
func (s *Server) Pause() { _ = s.cmd.Process.Signal(syscall.SIGSTOP) } // fails only when it has ended

// Resume ends a Pause.
func (s *Server) Resume() { _ = s.cmd.Process.Signal(syscall.SIGCONT) }

// Start serves an empty memory disk of the given size through the named filters; params go to plugin and
// filters. The answer is the URI of the export.
func Start(t testing.TB, size string, filters []string, params ...string) string {
	t.Helper()
	return start(t, "memory", filters, append([]string{size}, params...)).URI()
}

// StartFile is Start for a file, which is there.
func StartFile(t testing.TB, path string, filters []string, params ...string) *Server {
	t.Helper()
	return start(t, "file", filters, append([]string{path}, params...))
}

func start(t testing.TB, plugin string, filters, params []string) *Server {
	t.Helper()
	tool := deps.Find(t, "nbdkit")
	dir, err := os.MkdirTemp("", "lunar") // the test's own folder may be too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &Server{Socket: filepath.Join(dir, "nbd"), tool: tool}
	args := []string{"--foreground", "--exit-with-parent", "--unix", s.Socket}
	for _, f := range filters {
		args = append(args, "--filter="+tool.NBDKitFilter(f))
	}
	args = append(args, tool.NBDKitPlugin(plugin))
	s.args = append(args, params...)
	s.Launch(t)
	t.Cleanup(func() {
		s.Resume()
		s.Kill()
		if t.Failed() && s.said.Len() > 0 {
			t.Logf("nbdkit said:\n%s", s.said)
		}
	})
	return s
}

// Launch starts a server that has been killed again, on the same socket.
func (s *Server) Launch(t testing.TB) {
	t.Helper()
	_ = os.Remove(s.Socket) // a killed server leaves it behind
	s.said, s.ended = &bytes.Buffer{}, make(chan struct{})
	s.cmd = s.tool.Command(context.WithoutCancel(t.Context()), s.args...)
	s.cmd.Stdout, s.cmd.Stderr = s.said, s.said
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd, ended := s.cmd, s.ended
	go func() {
		defer close(ended)
		_ = cmd.Wait() // says that it was killed
	}()
	poll := time.NewTicker(readyPoll)
	defer poll.Stop()
	deadline := time.After(readyTimeout)
	for {
		if conn, err := net.Dial("unix", s.Socket); err == nil {
			conn.Close()
			return
		}
		select {
		case <-s.ended:
			t.Fatalf("nbdkit ended before it served:\n%s", s.said)
		case <-deadline:
			t.Fatalf("nbdkit does not serve after %v", readyTimeout)
		case <-poll.C:
		}
	}
}
