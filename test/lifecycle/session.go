package lifecycle

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/deps"
)

const (
	answerLimit = 60 * time.Second // for one command of a session: milliseconds on a quiet machine
	endLimit    = 60 * time.Second
)

// A session is a qemu-io that is kept running on a disk and takes its commands one at a time: a login that
// stays while the daemon is signalled.
type session struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string // closed at the end of its output
}

func newSession(t *testing.T, url string) *session {
	t.Helper()
	c := deps.Find(t, "qemu-io").Command(context.WithoutCancel(t.Context()), "-f", "raw", url)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = c.Stdout
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	s := &session{cmd: c, in: in, lines: make(chan string, 1024)}
	go func() {
		defer close(s.lines)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			s.lines <- sc.Text()
		}
	}()
	t.Cleanup(func() {
		_ = c.Process.Kill() // fails only when it has ended
		for range s.lines {
			continue // until its end
		}
		_ = c.Wait() // says that it was killed
	})
	return s
}

// do gives a command and returns the line that answers it: the first that contains want. A failure that
// qemu-io reports instead fails the test.
func (s *session) do(t *testing.T, command, want string) {
	t.Helper()
	if _, err := fmt.Fprintln(s.in, command); err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	deadline := time.After(answerLimit)
	for {
		select {
		case line, ok := <-s.lines:
			switch {
			case !ok:
				t.Fatalf("%s: qemu-io ended", command)
			case strings.Contains(line, want):
				return
			case strings.Contains(line, "failed"), strings.Contains(line, "error"):
				t.Fatalf("%s: %s", command, line)
			}
		case <-deadline:
			t.Fatalf("%s: no answer within %v", command, answerLimit)
		}
	}
}

// write stores n KiB of a pattern at off KiB and returns when the disk has said that it did. flags are
// qemu-io's: -f for FUA.
func (s *session) write(t *testing.T, flags string, pattern byte, off, n int) {
	t.Helper()
	s.do(t, fmt.Sprintf("write %s -P %#x %dk %dk", flags, pattern, off, n), fmt.Sprintf("wrote %d/%d", n<<10, n<<10))
}

// read checks that n KiB at off KiB have the pattern.
func (s *session) read(t *testing.T, pattern byte, off, n int) {
	t.Helper()
	s.do(t, fmt.Sprintf("read -P %#x %dk %dk", pattern, off, n), fmt.Sprintf("read %d/%d", n<<10, n<<10))
}

// flush returns when everything written is durable: qemu-io says nothing on success, so the answer to a
// read after it is waited for.
func (s *session) flush(t *testing.T) {
	t.Helper()
	if _, err := fmt.Fprintln(s.in, "flush"); err != nil {
		t.Fatalf("flush: %v", err)
	}
	s.do(t, "read 0 512", "read 512/512")
}

// end closes the session as an initiator does that is done.
func (s *session) end(t *testing.T) {
	t.Helper()
	if _, err := fmt.Fprintln(s.in, "quit"); err != nil {
		t.Fatalf("quit: %v", err)
	}
	deadline := time.After(endLimit)
	for {
		select {
		case _, ok := <-s.lines:
			if !ok {
				return
			}
		case <-deadline:
			t.Fatalf("qemu-io did not end within %v", endLimit)
		}
	}
}
