package lifecycle

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/deps"
)

// answerLimit is for one command of a session: milliseconds on a quiet machine.
const answerLimit = 60 * time.Second

// prompt is what qemu-io writes when it has carried out a command and waits for the next. It takes no
// line before: two at once and it stands still.
const prompt = "qemu-io> "

// A session is a qemu-io that is kept running on a disk and takes its commands one at a time: a login that
// stays while the daemon is signalled.
type session struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers chan string // what it wrote before each prompt; closed at the end of its output
}

func newSession(t *testing.T, url string) *session {
	t.Helper()
	// writeback: otherwise it sends every write with FUA.
	c := deps.Find(t, "qemu-io").Command(context.WithoutCancel(t.Context()), "-t", "writeback", "-f", "raw", url)
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
	s := &session{cmd: c, in: in, answers: make(chan string, 1)}
	go func() {
		defer close(s.answers)
		sc := bufio.NewScanner(out)
		sc.Split(splitPrompts)
		for sc.Scan() {
			s.answers <- sc.Text()
		}
	}()
	t.Cleanup(func() {
		_ = c.Process.Kill() // fails only when it has ended
		for range s.answers {
			continue // until its end
		}
		_ = c.Wait() // says that it was killed
	})
	if said := s.answer(t, "logging in"); said != "" {
		t.Fatalf("qemu-io on %s: %s", url, said)
	}
	return s
}

// splitPrompts is a bufio.SplitFunc: what stands before each prompt, and the rest.
func splitPrompts(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.Index(data, []byte(prompt)); i >= 0 {
		return i + len(prompt), data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// answer is what qemu-io writes until it waits for a command.
func (s *session) answer(t *testing.T, doing string) string {
	t.Helper()
	select {
	case said, ok := <-s.answers:
		if !ok {
			t.Fatalf("%s: qemu-io has ended", doing)
		}
		return said
	case <-time.After(answerLimit):
		t.Fatalf("%s: no answer within %v", doing, answerLimit)
	}
	return ""
}

// do gives a command, and the test fails unless the answer has want in it and speaks of no failure.
func (s *session) do(t *testing.T, command, want string) {
	t.Helper()
	if _, err := fmt.Fprintln(s.in, command); err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	said := s.answer(t, command)
	if !strings.Contains(said, want) || strings.Contains(said, "ailed") || strings.Contains(said, "rror") {
		t.Fatalf("%s: %s", command, said)
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

// flush returns when the disk has said that everything written is durable.
func (s *session) flush(t *testing.T) {
	t.Helper()
	s.do(t, "flush", "")
}

// end closes the session as an initiator does that is done.
func (s *session) end(t *testing.T) {
	t.Helper()
	if _, err := fmt.Fprintln(s.in, "quit"); err != nil {
		t.Fatalf("quit: %v", err)
	}
	select {
	case said, ok := <-s.answers:
		if ok {
			t.Fatalf("quit: %s", said)
		}
	case <-time.After(answerLimit):
		t.Fatalf("qemu-io did not end within %v", answerLimit)
	}
}
