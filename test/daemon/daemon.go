package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Prefix begins the names of the targets that tests export.
const Prefix = "iqn.2026-11.io.lunar:"

const (
	readyTimeout = 20 * time.Second // a slow machine that also builds; a start takes milliseconds
	stopTimeout  = 30 * time.Second // above lunard's own bound on draining
)

// serving is the line that lunard logs when it lets initiators in.
var serving = regexp.MustCompile(`msg=serving .*\bportals="?([^" \n]+)`)

// Export is the --export argument of target Prefix+name, LUN 1.
func Export(name, uri string) string { return ExportLUN(name, 1, uri) }

// ExportLUN is Export for any LUN.
func ExportLUN(name string, lun int, uri string) string {
	return fmt.Sprintf("--export=%s%s/%d=%s", Prefix, name, lun, uri)
}

// FileURI is the URI of a file with options ("size=1G&thin=on" or empty).
func FileURI(path, options string) string {
	u := url.URL{Scheme: "file", Path: path, RawQuery: options}
	return u.String()
}

// A Daemon is a running lunard.
type Daemon struct {
	Addr string // the portal, 127.0.0.1:PORT

	cmd  *exec.Cmd
	log  *log
	done chan struct{} // closed when the process has ended and been waited for
	err  error         // of Wait; read after done
}

// Start runs lunard with args and a portal on a free loopback port, and returns when it serves.
func Start(t testing.TB, args ...string) *Daemon {
	t.Helper()
	return StartAt(t, "127.0.0.1:0", args...)
}

// StartAt is Start on a given portal: a second start has to come up where the first one was.
func StartAt(t testing.TB, addr string, args ...string) *Daemon {
	t.Helper()
	return StartProgram(t, Program{Path: Binary(t)}, addr, args...)
}

// A Program is a lunard to run, and the environment that it needs; nil for this process's.
type Program struct {
	Path string
	Env  []string
}

// StartProgram is StartAt of another build of lunard.
func StartProgram(t testing.TB, p Program, addr string, args ...string) *Daemon {
	t.Helper()
	d, err := p.Launch(addr, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.end()
		if t.Failed() {
			t.Logf("lunard %s said:\n%s", strings.Join(d.cmd.Args[1:], " "), d.log)
		}
	})
	return d
}

// URL is how libiscsi and qemu name a LUN of target Prefix+name.
func (d *Daemon) URL(name string, lun int) string {
	return fmt.Sprintf("iscsi://%s/%s%s/%d", d.Addr, Prefix, name, lun)
}

// PID is the daemon's process id.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Log is what the daemon has written so far, standard output and error in one.
func (d *Daemon) Log() string { return d.log.String() }

// WaitLog waits until the daemon has written text behind the first from bytes of its log, and returns what follows these.
func (d *Daemon) WaitLog(t testing.TB, from int, text string) string {
	t.Helper()
	limit := time.After(readyTimeout)
	for {
		log, more := d.log.next()
		if log = log[from:]; strings.Contains(log, text) {
			return log
		}
		select {
		case <-more:
		case <-d.done:
			t.Fatalf("lunard ended and has not logged %q", text)
		case <-limit:
			t.Fatalf("lunard has not logged %q", text)
		}
	}
}

// Stop asks the daemon to drain and end (SIGTERM); the test fails unless it ends in time with status 0.
func (d *Daemon) Stop(t testing.TB) {
	t.Helper()
	d.Signal(t, syscall.SIGTERM)
	d.WaitExit(t, 0)
}

// Signal sends sig and does not wait.
func (d *Daemon) Signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("signal %v to lunard: %v", sig, err)
	}
}

// WaitExit waits for the daemon to end; the test fails unless it does so in time with the given status.
func (d *Daemon) WaitExit(t testing.TB, status int) {
	t.Helper()
	if err := d.exited(status); err != nil {
		t.Fatal(err)
	}
}

// Done is closed when the daemon has ended.
func (d *Daemon) Done() <-chan struct{} { return d.done }

// Kill ends the daemon as a crash would (SIGKILL) and waits until it is gone.
func (d *Daemon) Kill(t testing.TB) {
	t.Helper()
	select {
	case <-d.done:
		t.Fatalf("lunard had ended before it was to be killed: %v", d.err)
	default:
	}
	d.end()
}

func (d *Daemon) end() {
	_ = d.cmd.Process.Kill() // fails only when it has ended already
	<-d.done
}

// A Result is how a lunard that was to end by itself did so.
type Result struct {
	Code           int
	Stdout, Stderr string
}

// Run runs lunard with args alone until it ends by itself; it is killed, and the test fails, when it
// goes on for longer than a start may take.
func Run(t testing.TB, args ...string) Result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c := command(Binary(t), args...)
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Start(); err != nil {
		t.Fatalf("starting lunard: %v", err)
	}
	timer := time.AfterFunc(readyTimeout, func() { _ = c.Process.Kill() })
	err := c.Wait()
	if !timer.Stop() {
		t.Fatalf("lunard %s did not end within %v\n%s%s", strings.Join(args, " "), readyTimeout, &stdout, &stderr)
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("lunard %s: %v", strings.Join(args, " "), err)
	}
	return Result{Code: c.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
}

// FreeAddr is a loopback address and port that nobody listened on a moment ago.
func FreeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// log keeps what a process writes, and tells when it serves; safe for one writer beside readers.
type log struct {
	served chan string // gets the first portal's address, once

	mu   sync.Mutex
	b    bytes.Buffer  // guarded by mu
	told bool          // guarded by mu
	more chan struct{} // guarded by mu; closed when more is written
}

func newLog() *log { return &log{served: make(chan string, 1), more: make(chan struct{})} }

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Write(p)
	close(l.more)
	l.more = make(chan struct{})
	if !l.told {
		// Whole lines only: an address may come in two parts.
		text := l.b.Bytes()
		if m := serving.FindSubmatch(text[:bytes.LastIndexByte(text, '\n')+1]); m != nil {
			l.told = true
			l.served <- string(m[1])
		}
	}
	return len(p), nil
}

// next returns what is written, and what is closed when there is more.
func (l *log) next() (string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String(), l.more
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
