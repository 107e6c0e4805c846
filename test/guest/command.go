package guest

import (
	"bytes"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// runTimeout bounds a script that is run without a bound of its own: most take a second.
const runTimeout = 3 * time.Minute

// A Command is a script that runs in a guest.
type Command struct {
	g      *Guest
	script string
	conn   net.Conn

	mu      sync.Mutex
	out     []byte        // guarded by mu
	changed chan struct{} // guarded by mu; closed and made anew when out grows or the script ends
	ended   bool          // guarded by mu
	status  int           // guarded by mu; -1 when the connection ended before the script's status came
}

// Start runs a script (of bash, with the functions of prelude.sh) in the guest and does not wait for it.
func (g *Guest) Start(t testing.TB, script string) *Command {
	t.Helper()
	return g.begin(t, runTimeout, script)
}

// begin is Start with a bound on how long the guest may take to ask for a script.
func (g *Guest) begin(t testing.TB, timeout time.Duration, script string) *Command {
	t.Helper()
	c := &Command{g: g, script: script, changed: make(chan struct{})}
	select {
	case c.conn = <-g.agent.conns:
	case <-g.kernel.done:
		t.Fatalf("the guest has ended (%v): no script can run in it", g.kernel.cmd.ProcessState)
	case <-g.slirp.ended():
		t.Fatalf("the guest's network has ended (%v)", g.slirp.cmd.ProcessState)
	case <-time.After(timeout):
		t.Fatalf("the guest asks for no script within %v", timeout)
	}
	if _, err := fmt.Fprintf(c.conn, "%d\n%s", len(script), script); err != nil {
		t.Fatalf("a script for the guest: %v", err)
	}
	go c.receive()
	return c
}

// exit begins the line that ends the output of a script: its status follows.
const exit = "\n@exit "

// status is that of a script whose output is out, if it has ended.
func status(out []byte) (rest []byte, status int, ended bool) {
	tail := max(0, len(out)-len(exit)-len("255\n"))
	i := bytes.LastIndex(out[tail:], []byte(exit))
	if i < 0 || out[len(out)-1] != '\n' {
		return out, 0, false
	}
	status, err := strconv.Atoi(string(out[tail+i+len(exit) : len(out)-1]))
	return out[:tail+i], status, err == nil
}

func (c *Command) receive() {
	defer c.conn.Close()
	buf := make([]byte, 16<<10)
	for {
		n, err := c.conn.Read(buf)
		c.mu.Lock()
		c.out = append(c.out, buf[:n]...)
		if rest, status, ended := status(c.out); ended {
			c.out, c.status, c.ended = rest, status, true
		} else if err != nil {
			c.status, c.ended = -1, true
		}
		ended := c.ended
		close(c.changed)
		c.changed = make(chan struct{})
		c.mu.Unlock()
		if ended {
			return
		}
	}
}

// now is what is known of the command, and a channel that is closed when more is.
func (c *Command) now() (out string, ended bool, status int, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.out), c.ended, c.status, c.changed
}

// Ended tells whether the script has ended.
func (c *Command) Ended() bool {
	_, ended, _, _ := c.now()
	return ended
}

// Status waits for the script to end and returns its output (both streams in one) and its status; the test
// fails when it takes longer than timeout, or the guest dies.
func (c *Command) Status(t testing.TB, timeout time.Duration) (out string, status int) {
	t.Helper()
	out, status, ok := c.wait(t, timeout, func(string) bool { return false })
	if !ok {
		t.Fatalf("no end within %v of\n%s\nit said:\n%s", timeout, c.script, out)
	}
	if status < 0 {
		t.Fatalf("the guest was gone before the end of\n%s\nit said:\n%s", c.script, out)
	}
	return out, status
}

// Wait is Status for a script that is to succeed.
func (c *Command) Wait(t testing.TB, timeout time.Duration) string {
	t.Helper()
	out, status := c.Status(t, timeout)
	if status != 0 {
		t.Fatalf("status %d of\n%s\nit said:\n%s", status, c.script, out)
	}
	return out
}

// Until waits until the script has said text.
func (c *Command) Until(t testing.TB, timeout time.Duration, text string) {
	t.Helper()
	out, status, ok := c.wait(t, timeout, func(out string) bool { return strings.Contains(out, text) })
	switch {
	case !ok:
		t.Fatalf("%q was not said within %v by\n%s\nit said:\n%s", text, timeout, c.script, out)
	case !strings.Contains(out, text):
		t.Fatalf("%q was not said by\n%s\nwhich ended with status %d and said:\n%s", text, c.script, status, out)
	}
}

// wait returns with ok when the script has ended or its output is enough.
func (c *Command) wait(t testing.TB, timeout time.Duration, enough func(out string) bool) (out string, status int, ok bool) {
	t.Helper()
	deadline := time.After(timeout)
	dead := c.g.kernel.done
	for {
		out, ended, status, changed := c.now()
		if ended || enough(out) {
			return out, status, true
		}
		select {
		case <-changed:
		case <-dead:
			// Nothing will come any more, whatever slirp thinks of the connection.
			c.conn.Close()
			dead = nil
		case <-deadline:
			return out, 0, false
		}
	}
}

// Run runs a script and returns its output; the test fails unless it succeeds.
func (g *Guest) Run(t testing.TB, script string) string {
	t.Helper()
	return g.script(t, runTimeout, script)
}

// Try runs a script and returns its output and status.
func (g *Guest) Try(t testing.TB, script string) (out string, status int) {
	t.Helper()
	return g.Start(t, script).Status(t, runTimeout)
}

func (g *Guest) script(t testing.TB, timeout time.Duration, script string) string {
	t.Helper()
	return g.begin(t, timeout, script).Wait(t, timeout)
}
