package longhorn

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/test/deps"
)

// limit is how long anything that must happen is waited for.
const limit = 60 * time.Second

// A Config says what engine is wanted.
type Config struct {
	Volume   string // default: one of its own
	Size     int64  // bytes
	Replicas int    // default 2
	Frontend string // default "socket"; "-": none
	// Path is put before PATH for the controller, which runs tgtadm for its frontends for tgt; Env is added to its environment.
	Path string
	Env  []string
	// NoStart leaves the controller to StartController.
	NoStart bool
}

// An Engine is one volume's controller and replicas. It belongs to its test's goroutine.
type Engine struct {
	Config
	t        testing.TB
	tool     *deps.Tool
	dir      string
	addr     string // the controller's
	replicas []*replica
	control  *process
}

type replica struct {
	dir  string
	addr string
	p    *process // nil while it is dead
}

// Start starts an engine and returns when it serves its volume. All of it ends with the test.
func Start(t testing.TB, c Config) *Engine {
	t.Helper()
	tool := find(t)
	e := &Engine{Config: c, t: t, tool: tool, dir: t.TempDir()}
	if e.Volume == "" {
		// The kernel lists connections by the path that the engine knows, so no two tests have one name.
		e.Volume = fmt.Sprintf("lunar-%d-%d", os.Getpid(), time.Now().UnixNano()%1e9)
	}
	if e.Replicas == 0 {
		e.Replicas = 2
	}
	if e.Frontend == "" {
		e.Frontend = "socket"
	}
	if err := os.Mkdir(e.run(), 0o700); err != nil {
		t.Fatal(err)
	}
	e.addr = freePorts(t, 1)
	for range e.Replicas {
		e.AddReplica()
	}
	if !e.NoStart {
		e.StartController()
	}
	return e
}

func (e *Engine) run() string { return filepath.Join(e.dir, "run") }

// Socket is the path of the volume's socket.
func (e *Engine) Socket() string { return filepath.Join(e.run(), "longhorn-"+e.Volume+".sock") }

// Address is the controller's gRPC address.
func (e *Engine) Address() string { return e.addr }

// URI names the volume, with more options ("&readonly").
func (e *Engine) URI(options string) string {
	return "longhorn:" + e.Volume + "?socket=" + e.Socket() + "&engine=" + e.addr + options
}

// AddReplica starts one more replica, empty and of the engine's size, and returns its number. The controller does not know it.
func (e *Engine) AddReplica() int {
	e.t.Helper()
	i := len(e.replicas)
	r := &replica{dir: filepath.Join(e.dir, "replica"+strconv.Itoa(i))}
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		e.t.Fatal(err)
	}
	e.replicas = append(e.replicas, r)
	e.StartReplica(i)
	return i
}

// ReplicaAddress is the address of a replica as the controller knows it.
func (e *Engine) ReplicaAddress(i int) string { return "tcp://" + e.replicas[i].addr }

// ReplicaDir is the folder with a replica's files.
func (e *Engine) ReplicaDir(i int) string { return e.replicas[i].dir }

// StartReplica starts a replica that is dead, on what it has.
func (e *Engine) StartReplica(i int) {
	e.t.Helper()
	r := e.replicas[i]
	// Three servers in a row, and ports for the copying of files.
	r.addr = freePorts(e.t, 16)
	r.p = start(e.t, e.tool.Command(context.Background(), "--volume-name", e.Volume, "replica", r.dir, "--listen", r.addr,
		"--size", strconv.FormatInt(e.Size, 10)))
	for _, more := range []int{0, 1, 2} {
		addr := portAbove(r.addr, more)
		r.p.wait("it listens on "+addr, func() bool { return dials("tcp", addr) })
	}
}

// StartController starts the controller, on the replicas that are alive, and waits until it serves.
func (e *Engine) StartController() {
	e.t.Helper()
	size := strconv.FormatInt(e.Size, 10)
	args := []string{"controller", e.Volume, "--listen", e.addr, "--size", size, "--current-size", size}
	if e.Frontend != "-" {
		args = append(args, "--frontend", e.Frontend)
	}
	for i, r := range e.replicas {
		if r.p != nil {
			args = append(args, "--replica", e.ReplicaAddress(i))
		}
	}
	cmd := e.tool.Command(context.Background(), args...)
	cmd.Env = append(cmd.Env, e.Env...)
	if e.Path != "" {
		cmd.Env = append(cmd.Env, "PATH="+e.Path+":"+os.Getenv("PATH"))
	}
	if strings.HasPrefix(e.Frontend, "tgt-") {
		root := filepath.Join(e.dir, "root")
		if err := os.MkdirAll(root, 0o700); err != nil {
			e.t.Fatal(err)
		}
		inside(cmd, hosted, e.run(), root)
	} else {
		isolate(cmd, e.run())
	}
	e.control = start(e.t, cmd)
	if e.Frontend != "-" {
		e.control.wait("its socket is there", func() bool { return dials("unix", e.Socket()) })
	}
	e.control.wait("it listens on "+e.addr, func() bool { return dials("tcp", e.addr) })
}

// KillController kills the controller (SIGKILL).
func (e *Engine) KillController() { e.control.kill() }

// Restart starts the controller, which is dead, anew, and the replicas that are alive with it, as Longhorn does: a controller takes on
// only replicas that no other has opened, and one that was killed has left them open.
func (e *Engine) Restart() {
	e.t.Helper()
	for i, r := range e.replicas {
		if r.p != nil {
			e.KillReplica(i)
			e.StartReplica(i)
		}
	}
	e.StartController()
}

// StopController ends the controller as Longhorn does (SIGTERM), which shuts its frontend down.
func (e *Engine) StopController() {
	e.t.Helper()
	e.Signal(syscall.SIGTERM)
	select {
	case <-e.control.done:
	case <-time.After(limit):
		e.t.Fatalf("the controller does not end:\n%s", e.control.log())
	}
}

// Signal sends a signal to the controller: SIGSTOP freezes it, SIGCONT lets it go on.
func (e *Engine) Signal(s syscall.Signal) { e.control.signal(s) }

// judged is how long a controller that goes on may need to take replicas to be silent: it looks every second.
const judged = 5 * time.Second

// Thaw has a controller go on that was frozen (SIGSTOP), and returns those of the replicas that it gives up, if any. One that stood still for longer than it gives
// a replica may find that this was silent before it reads what it has answered (longhorn-engine 1.12: whichever comes first, by chance).
func (e *Engine) Thaw(replicas ...int) (lost []int) {
	e.t.Helper()
	e.Signal(syscall.SIGCONT)
	tick := time.NewTicker(judged / 20)
	defer tick.Stop()
	for over := time.After(judged); ; {
		lost = nil
		for _, i := range replicas {
			if e.Mode(i) == "ERR" {
				lost = append(lost, i)
			}
		}
		if len(lost) == len(replicas) {
			return lost
		}
		select {
		case <-over:
			return lost
		case <-tick.C:
		}
	}
}

// KillReplica kills a replica (SIGKILL).
func (e *Engine) KillReplica(i int) {
	e.replicas[i].p.kill()
	e.replicas[i].p = nil
}

// SignalReplica is Signal for a replica.
func (e *Engine) SignalReplica(i int, s syscall.Signal) { e.replicas[i].p.signal(s) }

// Tool runs the engine's own command line against the controller and returns what it prints.
func (e *Engine) Tool(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := e.tool.Command(ctx, append([]string{"--url", e.addr, "--volume-name", e.Volume}, args...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("longhorn %v: %w: %s", args, err, errs.String())
	}
	return string(out), err
}

// Must is Tool for what must succeed.
func (e *Engine) Must(args ...string) string {
	e.t.Helper()
	out, err := e.Tool(args...)
	if err != nil {
		e.t.Fatal(err)
	}
	return out
}

// Mode is what the controller uses a replica for: "RW", "WO", "ERR"; empty: it does not know it.
func (e *Engine) Mode(i int) string {
	e.t.Helper()
	for line := range strings.Lines(e.Must("ls-replica")) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == e.ReplicaAddress(i) {
			return f[1]
		}
	}
	return ""
}

// WaitMode waits until the controller uses a replica so.
func (e *Engine) WaitMode(i int, mode string) {
	e.t.Helper()
	e.control.wait(fmt.Sprintf("replica %d is %s", i, mode), func() bool { return e.Mode(i) == mode })
}

// Rebuild puts an empty replica in the place of a dead one, and returns its number when it has all data. I/O may go on meanwhile.
func (e *Engine) Rebuild(dead int) int {
	e.t.Helper()
	if addr := e.ReplicaAddress(dead); strings.Contains(e.Must("ls-replica"), addr) {
		e.Must("rm-replica", addr)
	}
	i := e.AddReplica()
	size := strconv.FormatInt(e.Size, 10)
	e.Must("add-replica", "--size", size, "--current-size", size, e.ReplicaAddress(i))
	e.WaitMode(i, "RW")
	return i
}

// Log is what the controller has printed.
func (e *Engine) Log() string { return e.control.log() }

// find looks for the engine's program, and for what it needs of the machine.
func find(t testing.TB) *deps.Tool {
	t.Helper()
	tool, ok := deps.Lookup("longhorn")
	if !ok {
		deps.Skip(t, "longhorn-engine is not built: scripts/test-deps longhorn does that")
	}
	// What the engine asks of the file system: O_DIRECT and the map of a file's extents. tmpfs has no such map.
	probe := filepath.Join(t.TempDir(), "probe")
	f, err := os.OpenFile(probe, os.O_CREATE|os.O_WRONLY|unix.O_DIRECT, 0o600)
	if err != nil {
		deps.Skip(t, fmt.Sprintf("the file system of %s has no O_DIRECT, which a replica needs: set TMPDIR to one that does (%v)", probe, err))
	}
	_ = f.Close()
	var st unix.Statfs_t
	if err := unix.Statfs(probe, &st); err == nil && st.Type == unix.TMPFS_MAGIC {
		deps.Skip(t, "a replica cannot be on tmpfs: set TMPDIR to another file system")
	}
	try := exec.Command("true")
	isolate(try, t.TempDir())
	if out, err := try.CombinedOutput(); err != nil {
		deps.Skip(t, fmt.Sprintf("no mount namespace, which hides the engine's fixed /var/run (%v: %s)", err, out))
	}
	return tool
}

// private makes what is mounted from here on the process's own.
const private = `mount --make-rprivate / && mount --bind "$1" "$(readlink -f /var/run)" && shift && `

// hosted makes a root of its own besides, in which /host/proc is /proc: that is where a frontend for tgt looks for the host.
const hosted = private + `root=$1 && shift && mount -t tmpfs none "$root" && mkdir -p "$root/host/proc" && for d in /* /.[a-z]*; do
	if [ -L "$d" ]; then cp -P "$d" "$root$d"
	elif [ -d "$d" ]; then mkdir "$root$d" && mount --rbind "$d" "$root$d"
	fi || exit
done && mount --rbind /proc "$root/host/proc" && exec chroot "$root" "$@"`

// Isolate has cmd run where /var/run is the engine's: a target for its frontend.
func (e *Engine) Isolate(cmd *exec.Cmd) { isolate(cmd, e.run()) }

// isolate has cmd run where /var/run is the folder dir. The mount is made by a shell that then becomes the program.
func isolate(cmd *exec.Cmd, dir string) { inside(cmd, private+`exec "$@"`, dir) }

func inside(cmd *exec.Cmd, script string, args ...string) {
	cmd.Args = slices.Concat([]string{"sh", "-c", script, "sh"}, args, []string{cmd.Path}, cmd.Args[1:])
	cmd.Path = "/bin/sh"
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
}

// A process is one that a test has started.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	mu   sync.Mutex
	out  bytes.Buffer
	done chan struct{}
}

func start(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p, p
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	}
	cmd.SysProcAttr.Setpgid = true // a replica has a child, which ends with it
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // killed, so its status says nothing
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s\n%s", strings.Join(cmd.Args, " "), p.log())
		}
	})
	return p
}

// Write keeps what the process prints, the beginning and then only so much.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out.Len() < 1<<20 {
		p.out.Write(b)
	}
	return len(b), nil
}

func (p *process) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

func (p *process) signal(s syscall.Signal) {
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, s) // fails only when it has ended
	}
}

// wait waits for what the process must do; it fails the test when it ends instead.
func (p *process) wait(what string, ok func() bool) {
	p.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(limit)
	for !ok() {
		select {
		case <-p.done:
			p.t.Fatalf("%s ended before %s:\n%s", strings.Join(p.cmd.Args, " "), what, p.log())
		case <-late:
			p.t.Fatalf("%v passed before %s:\n%s", limit, what, p.log())
		case <-tick.C:
		}
	}
}

func dials(network, addr string) bool {
	c, err := net.DialTimeout(network, addr, time.Second)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// portAbove is addr with its port raised by n.
func portAbove(addr string, n int) string {
	host, port, _ := net.SplitHostPort(addr) // it is one of freePorts
	p, _ := strconv.Atoi(port)
	return net.JoinHostPort(host, strconv.Itoa(p+n))
}

// freePorts returns the address of the first of n ports in a row that nobody listens on, below those that the kernel gives to clients.
func freePorts(t testing.TB, n int) string {
	t.Helper()
	const low, high = 12000, 32000
	for try := range 200 {
		base := low + (os.Getpid()*37+int(time.Now().UnixNano()/1000)+try*101)%(high-low-n)
		if rowFree(base, n) {
			return net.JoinHostPort("127.0.0.1", strconv.Itoa(base))
		}
	}
	t.Fatalf("no %d free ports in a row", n)
	return ""
}

func rowFree(base, n int) bool {
	for i := range n {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(base+i)))
		if err != nil {
			return false
		}
		defer func() { _ = l.Close() }()
	}
	return true
}

// WaitExpanded waits until every replica has files of the given size: an expansion has reached them all.
func (e *Engine) WaitExpanded(size int64) {
	e.t.Helper()
	e.control.wait(fmt.Sprintf("the replicas have %d bytes", size), func() bool {
		for _, r := range e.replicas {
			heads, _ := filepath.Glob(filepath.Join(r.dir, "volume-head-*.img")) // the only error is a bad pattern
			large := false
			for _, h := range heads {
				st, err := os.Stat(h)
				large = large || err == nil && st.Size() == size
			}
			if r.p != nil && !large {
				return false
			}
		}
		return !strings.Contains(e.Must("info"), `"isExpanding": true`)
	})
}
