package tgt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/deps"
)

// The daemons and the clients.
const (
	tgtd   = "tgtd"
	lunard = "lunard"
	theirs = "theirs"
	ours   = "ours"
)

const (
	startTime   = 20 * time.Second // to be ready; takes milliseconds
	commandTime = 60 * time.Second // of one command line of a program
)

// A plant is one daemon with one tgtadm, and the programs around them, in a folder of its own.
type plant struct {
	*testing.T
	daemon string // tgtd or lunard
	client string // theirs or ours
	dir    string // files and the socket
	bin    string // first in PATH: tgtd, tgtadm, tgt-admin
	env    []string
	portal string // 127.0.0.1:PORT
	proc   *exec.Cmd
	ended  chan struct{} // closed when the daemon has ended and been waited for

	transcript bytes.Buffer // what commands said; compared between plants
	apart      bool         // but not between daemons: where they differ is in the test
}

// A result is how a command line ended.
type result struct {
	stdout, stderr string
	status         int
}

// plants are the combinations that tests run with: the first one is what others are compared to.
func plants() (list [][2]string) {
	only := os.Getenv("LUNAR_TGT")
	for _, d := range daemons {
		if only != "" && d != only {
			continue
		}
		for _, c := range []string{theirs, ours} {
			// Our tgtadm with tgtd is the one that nobody is likely to have; cmd/tgtadm compares what it sends, besides.
			if long || d != tgtd || c != ours {
				list = append(list, [2]string{d, c})
			}
		}
	}
	return list
}

// each runs f with every daemon and client. What the commands say has to be the same for all.
func each(t *testing.T, f func(p *plant)) {
	t.Helper()
	eachOn(t, []string{"--iscsi", "portal=127.0.0.1:0"}, "0", f)
}

// eachOn is each with other arguments of the daemon, and its control port; args nil: f starts it.
func eachOn(t *testing.T, args []string, control string, f func(p *plant)) {
	t.Helper()
	var said [][2]string // transcript, and whose
	for _, c := range plants() {
		t.Run(c[0]+"/"+c[1], func(t *testing.T) {
			p := newPlant(t, c[0], c[1])
			if args != nil {
				p.start(args...)
				p.findPortal(control)
			}
			f(p)
			mine := p.transcript.String()
			for i := range said {
				if other := &said[i]; (!p.apart || other[1] == c[0]) && !t.Failed() {
					if d := difference(other[0], mine); d != "" {
						t.Errorf("said otherwise than with %s, plant %d:\n%s", other[1], i+1, d)
					}
				}
			}
			said = append(said, [2]string{mine, c[0]})
		})
	}
}

// newPlant makes the folder and the environment; nothing runs yet.
func newPlant(t *testing.T, d, client string) *plant {
	t.Helper()
	dir, err := os.MkdirTemp("", "tgt") // the socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &plant{T: t, daemon: d, client: client, dir: dir, bin: filepath.Join(dir, "bin")}
	if err := os.Mkdir(p.bin, 0o755); err != nil {
		t.Fatal(err)
	}
	tool := deps.Find(t, "tgtadm")
	link := func(name, path string) {
		if err := os.Symlink(path, filepath.Join(p.bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"tgt-setup-lun", "tgtimg", "lsof", "sg_inq", "sg_readcap"} {
		link(name, deps.Find(t, name).Path)
	}
	admin := deps.Find(t, "tgt-admin").Path
	if os.Geteuid() == 0 {
		link("tgt-admin", admin)
	} else {
		// It asks to be run by root, which its daemon may do without: a copy that does not ask.
		script, err := os.ReadFile(admin)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(p.bin, "tgt-admin"), bytes.ReplaceAll(script, []byte("if ( $> )"), []byte("if ( 0 )")), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if d == tgtd {
		link("tgtd", deps.Find(t, "tgtd").Path)
	} else {
		link("tgtd", daemon.Binary(t))
	}
	if client == theirs {
		link("tgtadm", tool.Path)
	} else {
		link("tgtadm", daemon.Tgtadm(t))
	}
	for _, kv := range tool.Env() {
		if k, _, _ := strings.Cut(kv, "="); k != "PATH" && k != "NOTIFY_SOCKET" {
			p.env = append(p.env, kv)
		}
	}
	// tgt-admin walks a hash of Perl's: in one order. A tgtadm with the race detector would wait a second before it ends.
	p.env = append(p.env, "PATH="+p.bin+":"+os.Getenv("PATH")+":/usr/sbin:/sbin", "TGT_IPC_SOCKET="+p.socket(),
		"PERL_HASH_SEED=0", "PERL_PERTURB_KEYS=0", "GORACE=atexit_sleep_ms=0")
	return p
}

// socket is the prefix of the management sockets.
func (p *plant) socket() string { return filepath.Join(p.dir, "s") }

// start runs the daemon in the foreground, with -f and args, and returns when it says that it is ready.
func (p *plant) start(args ...string) {
	p.Helper()
	path := filepath.Join(p.dir, "notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		p.Fatal(err)
	}
	defer os.Remove(path)
	defer notify.Close()
	var log bytes.Buffer
	if p.daemon == lunard {
		args = append(args, "--lunar", "listen-admin=none") // the socket of this machine's own daemon is not ours
	}
	c := exec.Command(filepath.Join(p.bin, "tgtd"), append([]string{"-f"}, args...)...)
	c.Env = append(p.env, "NOTIFY_SOCKET="+path)
	c.Dir = p.dir
	c.Stdout, c.Stderr = &log, &log
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		p.Fatal(err)
	}
	ended := make(chan struct{})
	p.proc, p.ended = c, ended
	go func() {
		_ = c.Wait()
		notify.Close() // whoever waits for readiness waits no longer
		close(ended)
	}()
	p.Cleanup(func() {
		_ = c.Process.Kill() // fails when it has ended
		<-ended
		if p.Failed() {
			p.Logf("the daemon said:\n%s", &log)
		}
	})
	if err := notify.SetReadDeadline(time.Now().Add(startTime)); err != nil {
		p.Fatal(err)
	}
	for b := make([]byte, 4096); ; {
		n, err := notify.Read(b)
		if err != nil {
			_ = c.Process.Kill()
			<-ended
			p.Fatalf("the daemon is not ready: %v\n%s", err, &log)
		}
		for line := range strings.Lines(string(b[:n])) {
			if strings.TrimSpace(line) == "READY=1" {
				return
			}
		}
	}
}

// kill ends the daemon as a crash would.
func (p *plant) kill() {
	_ = p.proc.Process.Kill() // fails when it has ended
	<-p.ended
}

// findPortal asks for the one portal, whose port the system chose.
func (p *plant) findPortal(control string) {
	p.Helper()
	r := p.quiet("tgtadm -C " + control + " --lld iscsi --op show --mode portal")
	if _, err := fmt.Sscanf(strings.TrimSuffix(strings.TrimSpace(r.stdout), ",1"), "Portal: %s", &p.portal); err != nil {
		p.Fatalf("%v in %+v", err, r)
	}
}

// quiet runs a shell command line and keeps what it says out of the transcript: what is known to differ.
func (p *plant) quiet(line string) result {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.Context(), commandTime)
	defer cancel()
	c := exec.CommandContext(ctx, "/bin/bash", "-c", line)
	c.Env, c.Dir = p.env, p.dir
	// The shell's children go with it when time is up.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = 5 * time.Second
	var out, said bytes.Buffer
	c.Stdout, c.Stderr = &out, &said
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		p.Fatalf("%s: %v (%v)\n%s%s", line, err, context.Cause(ctx), &out, &said)
	}
	return result{out.String(), said.String(), c.ProcessState.ExitCode()}
}

// run runs a shell command line, as a program of the field would.
func (p *plant) run(line string) result {
	p.Helper()
	r := p.quiet(line)
	fmt.Fprintf(&p.transcript, "$ %s\n%s", p.plain(line), p.plain(r.stdout))
	for said := range strings.Lines(withoutReasons(r.stderr)) {
		fmt.Fprintf(&p.transcript, "stderr: %s", p.plain(said))
	}
	fmt.Fprintf(&p.transcript, "exit: %d\n", r.status)
	return r
}

// do runs a command line that has to succeed, and gives its standard output.
func (p *plant) do(line string) string {
	p.Helper()
	r := p.run(line)
	if r.status != 0 {
		p.Fatalf("%s: exit status %d\n%s%s", line, r.status, r.stdout, r.stderr)
	}
	return r.stdout
}

// refuse runs a command line that has to fail with tgtadm's words and status 22.
func (p *plant) refuse(line, words string) {
	p.Helper()
	if r := p.run(line); r.status != 22 || !strings.HasPrefix(r.stderr, "tgtadm: "+words+"\n") {
		p.Errorf("%s: %+v, want %q and 22", line, r, words)
	}
}

// plain replaces what differs from one plant to the next: its folder, its ports, and which block clusters its daemon was built for.
func (p *plant) plain(s string) string {
	return clusters.ReplaceAllString(ports.ReplaceAllString(strings.ReplaceAll(s, p.dir, "DIR"), "127.0.0.1:PORT"), "")
}

var (
	ports    = regexp.MustCompile(`127\.0\.0\.1:\d+`)
	clusters = regexp.MustCompile(`(?m)^    (curve|longhorn|rbd)( \(.*\))?\n`) // as --mode system --op show lists them
)

// file makes a sparse file.
func (p *plant) file(name string, size int64) string {
	p.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		p.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		p.Fatal(err)
	}
	return path
}

// text makes a file with a text.
func (p *plant) text(name, text string) string {
	p.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		p.Fatal(err)
	}
	return path
}

// login has an initiator log in; the session ends with the test unless it logs out or is closed.
func (p *plant) login(o initiator.Options) *initiator.Session {
	p.Helper()
	s, err := p.tryLogin(o)
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { s.Close() })
	return s
}

func (p *plant) tryLogin(o initiator.Options) (*initiator.Session, error) {
	if o.CHAP != nil {
		o.CHAP.Algorithms = []login.CHAPAlgorithm{login.CHAPMD5} // all that tgtd knows
	}
	o.Portal, o.Lenient = p.portal, true // tgtd's answers are not all by the standard
	return initiator.Login(p.Context(), o)
}

// difference shows the first lines that two texts differ in.
func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	command := ""
	for i := range max(len(w), len(g)) {
		a, b := "", ""
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if a != b {
			return fmt.Sprintf("line %d, of %s\n%q, here\n%q", i+1, command, a, b)
		}
		if strings.HasPrefix(a, "$ ") {
			command = a
		}
	}
	return ""
}
