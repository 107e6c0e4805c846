package nbdkit

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/deps"
)

const (
	readyTimeout = 20 * time.Second // milliseconds on a quiet machine
	readyPoll    = 5 * time.Millisecond
)

// Start serves an empty memory disk of the given size through the named filters; params go to plugin and
// filters. The answer is the URI of the export.
func Start(t testing.TB, size string, filters []string, params ...string) string {
	t.Helper()
	tool := deps.Find(t, "nbdkit")
	dir, err := os.MkdirTemp("", "lunar") // the test's own folder may be too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "nbd")
	args := []string{"--foreground", "--exit-with-parent", "--unix", socket}
	for _, f := range filters {
		args = append(args, "--filter="+tool.NBDKitFilter(f))
	}
	args = append(args, tool.NBDKitPlugin("memory"), size)
	c := tool.Command(context.WithoutCancel(t.Context()), append(args, params...)...)
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Wait() // says that it was killed
	}()
	t.Cleanup(func() {
		_ = c.Process.Kill() // fails only when it has ended
		<-ended
		if t.Failed() && said.Len() > 0 {
			t.Logf("nbdkit said:\n%s", &said)
		}
	})
	poll := time.NewTicker(readyPoll)
	defer poll.Stop()
	deadline := time.After(readyTimeout)
	for {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return "nbd+unix:///?socket=" + socket
		}
		select {
		case <-ended:
			t.Fatalf("nbdkit ended before it served:\n%s", &said)
		case <-deadline:
			t.Fatalf("nbdkit does not serve after %v", readyTimeout)
		case <-poll.C:
		}
	}
}
