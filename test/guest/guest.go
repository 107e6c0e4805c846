package guest

import (
	"cmp"
	_ "embed"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/deps"
)

// Initiator is the name that a guest logs in with unless its options say otherwise.
const Initiator = "iqn.2026-11.io.lunar.guest:one"

// Portal is where lunard listens for guests: a free port of an address that they reach by its own name.
const Portal = "127.0.0.2:0"

// A guest boots in 3 s and ends in less on a quiet machine, on QEMU without KVM in 8 s; ten times as long where others
// work.
const (
	bootTimeout = 2 * time.Minute
	stopTimeout = 30 * time.Second
	endPoll     = 2 * time.Millisecond // between looks whether the last process of a guest has gone
)

// DefaultMemory is what a guest has unless its options say otherwise, in MiB: what is tested must not fit
// into its page cache, and nothing in it needs more.
const DefaultMemory = 320

//go:embed prelude.sh
var prelude string

// A Backend is what a guest's kernel runs on.
type Backend string

const (
	UML  Backend = "uml"  // user-mode Linux: the kernel is an ordinary process
	QEMU Backend = "qemu" // Debian's kernel in a virtual machine, with KVM where that may be used
)

// BackendVariable names, in the environment, the backend of guests whose options do not say; without it they are UML.
const BackendVariable = "LUNAR_GUEST"

// Options say what a guest is to be.
type Options struct {
	Backend   Backend // empty is what the environment says
	Memory    int     // in MiB; 0 is DefaultMemory
	Initiator string  // the name of its initiator; empty is Initiator
	Layer     string  // a set of scripts/test-deps that goes above the root file system: "postgres"

	// Disk is a further disk of the guest, /dev/vdb: a block device as QEMU's -blockdev takes it, but for its
	// node-name. Not together with Layer; with QEMU alone, as Forward.
	Disk string
	// Forward is a TCP port of the guest that the host reaches at Guest.Forwarded.
	Forward int
}

// A Guest is a running machine. Its methods may be called by one goroutine at a time.
type Guest struct {
	// Forwarded is where the host reaches the guest's port Options.Forward.
	Forwarded string

	dir     string // its processes work here
	console *console
	kernel  *process
	slirp   *process // its network, where that is a process of its own; else nil
	agent   *agent
}

// Boot starts a guest with the default options; see BootWith.
func Boot(t testing.TB) *Guest {
	t.Helper()
	return BootWith(t, Options{})
}

// BootWith starts a guest and returns once it runs scripts and its initiator is up. The test is skipped, or
// fails under CI, where what a guest is made of was not fetched.
func BootWith(t testing.TB, o Options) *Guest {
	t.Helper()
	if o.Backend == "" {
		o.Backend = Backend(cmp.Or(os.Getenv(BackendVariable), string(UML)))
	}
	if o.Memory == 0 {
		o.Memory = DefaultMemory
	}
	if o.Initiator == "" {
		o.Initiator = Initiator
	}
	if runtime.GOARCH != "amd64" {
		deps.Skip(t, "the guests' kernels are for amd64, this is "+runtime.GOARCH)
	}
	dir, err := os.MkdirTemp("", "lunar") // the test's own folder may be too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	g := &Guest{dir: dir, console: &console{}}
	t.Cleanup(func() {
		g.Kill(t)
		_ = os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("the guest's console:\n%s", g.console.tail())
		}
	})
	g.take(t, "root.img", "guest")
	if o.Layer != "" {
		g.take(t, o.Layer+".img", o.Layer)
	}
	if g.agent, err = listen(); err != nil {
		t.Fatal(err)
	}
	switch o.Backend {
	case UML:
		g.startUML(t, &o)
	case QEMU:
		g.startQEMU(t, &o)
	default:
		t.Fatalf("no backend %q for guests (%s): want %s or %s", o.Backend, BackendVariable, UML, QEMU)
	}
	g.script(t, bootTimeout, "cat >/run/prelude <<'PRELUDE'\n"+prelude+"\nPRELUDE\n")
	g.script(t, bootTimeout, "start_initiator "+o.Initiator)
	return g
}

// take puts a file that scripts/test-deps makes (as part of a set) into the guest's folder, under a name without
// characters that mean something on a command line.
func (g *Guest) take(t testing.TB, name, set string) {
	t.Helper()
	path := filepath.Join(deps.Dir(), "guest", name)
	if _, err := os.Stat(path); err != nil {
		deps.Skip(t, "guests lack a part: `scripts/test-deps "+set+"` makes it: "+err.Error())
	}
	if err := os.Symlink(path, filepath.Join(g.dir, name)); err != nil {
		t.Fatal(err)
	}
}

// Kill ends the guest as a power cut would, with its network. A guest that has ended already is no error.
func (g *Guest) Kill(t testing.TB) {
	t.Helper()
	g.kernel.kill(t)
	g.slirp.kill(t)
	if g.agent != nil {
		g.agent.close()
	}
}

// Shutdown powers the guest off in good order; the test fails unless it ends in time with status 0. The
// scripts that run in it are cut short; sessions that were not logged out are not logged out by this.
func (g *Guest) Shutdown(t testing.TB) {
	t.Helper()
	g.Start(t, "sync; busybox poweroff -f")
	select {
	case <-g.kernel.done:
	case <-time.After(stopTimeout):
		t.Fatalf("the guest did not power off within %v", stopTimeout)
	}
	if code := g.kernel.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the guest's kernel ended with status %d", code)
	}
	g.Kill(t)
}

// Console is what the guest's kernel and the processes on the host have said so far.
func (g *Guest) Console() string { return g.console.tail() }

// A console keeps the end of what is written to it.
type console struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

// consoleBytes is how much of it is kept: the boot and then some.
const consoleBytes = 256 << 10

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = append(c.text, p...)
	if over := len(c.text) - consoleBytes; over > 0 {
		c.text = append(c.text[:0], c.text[over:]...)
	}
	return len(p), nil
}

func (c *console) tail() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text)
}

// An agent is the host's end of what the guest's first process does: it keeps one connection waiting, and
// runs the script that comes over it.
type agent struct {
	l     *net.TCPListener
	conns chan net.Conn
	stop  chan struct{}
	once  sync.Once
}

func listen() (*agent, error) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	a := &agent{l: l, conns: make(chan net.Conn), stop: make(chan struct{})}
	go a.accept()
	return a, nil
}

func (a *agent) accept() {
	for {
		c, err := a.l.Accept()
		if err != nil {
			return // closed
		}
		select {
		case a.conns <- c:
		case <-a.stop:
			c.Close()
			return
		}
	}
}

// address is where the guest finds the agent: slirp's name for the host's 127.0.0.1.
func (a *agent) address() string {
	return fmt.Sprintf("10.0.2.2:%d", a.l.Addr().(*net.TCPAddr).Port) // of a TCP listener
}

func (a *agent) close() {
	a.once.Do(func() {
		close(a.stop)
		a.l.Close()
	})
}
