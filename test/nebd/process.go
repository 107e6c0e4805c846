package nebd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A Process is the command nebdserver, with a cluster of its own, all in one folder that ends with the test.
type Process struct {
	Pool   *Pool
	Socket string
	Locks  string // a folder for the clients' locks

	dir   string
	args  []string
	cmd   *exec.Cmd
	said  *bytes.Buffer // read after ended
	ended chan struct{} // closed when the process has ended and was waited for
}

// readyTimeout is for the server to begin: milliseconds on a quiet machine.
const readyTimeout = 20 * time.Second

var build = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(out)))
	path := filepath.Join(root, "bin", "test", "nebdserver")
	c := exec.Command("go", "build", "-o", path, "./test/nebd/nebdserver")
	c.Dir = root
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building nebdserver: %w\n%s", err, msg)
	}
	return path, nil
})

// StartProcess starts a server; args are more of its options. That it has died of a request fails the test.
func StartProcess(t testing.TB, args ...string) *Process {
	t.Helper()
	dir, err := os.MkdirTemp("", "lunar") // the test's own folder may be too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{dir: dir, Socket: filepath.Join(dir, "nebd.sock"), Locks: filepath.Join(dir, "lock")}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Mkdir(p.Locks, 0o755); err != nil {
		t.Fatal(err)
	}
	if p.Pool, err = NewPool(filepath.Join(dir, "pool")); err != nil {
		t.Fatal(err)
	}
	p.args = append([]string{"--pool", filepath.Join(dir, "pool"), "--socket", p.Socket, "--meta", filepath.Join(dir, "meta")}, args...)
	p.Launch(t)
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGCONT) // fails only when it has ended
		p.Kill()
		if p.cmd.ProcessState.ExitCode() == abort || t.Failed() {
			t.Errorf("nebdserver ended with %v and said:\n%s", p.cmd.ProcessState, p.said)
		}
	})
	return p
}

// abort is the status of a process that a request has killed, as a shell has it.
const abort = 128 + int(syscall.SIGABRT)

// Launch starts a server that has ended again, on the same socket, with the same descriptors.
func (p *Process) Launch(t testing.TB) {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	p.said, p.ended = &bytes.Buffer{}, make(chan struct{})
	p.cmd = exec.Command(path, p.args...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Stderr = p.said
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan error, 1)
	go func() {
		_, err := out.Read(make([]byte, 1)) // it says one line
		ready <- err
	}()
	cmd, ended := p.cmd, p.ended
	begun := make(chan struct{})
	go func() {
		<-begun
		defer close(ended)
		_ = cmd.Wait() // says that it was killed
	}()
	select {
	case err = <-ready:
	case <-time.After(readyTimeout):
		_ = cmd.Process.Kill() // fails only when it has ended
		err = fmt.Errorf("it does not serve after %v", readyTimeout)
	}
	close(begun)
	if err != nil {
		<-ended
		t.Fatalf("nebdserver: %v\n%s", err, p.said)
	}
}

// Signal sends a signal; one that ends the server is waited for with Wait.
func (p *Process) Signal(sig syscall.Signal) { _ = p.cmd.Process.Signal(sig) } // fails only when it has ended

// Freeze stops the process, every thread of it, until thaw is called: no I/O is carried out meanwhile.
func (p *Process) Freeze() (thaw func()) {
	p.Signal(syscall.SIGSTOP)
	tasks := fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid)
	for running := true; running; {
		running = false
		list, _ := filepath.Glob(tasks) // the pattern is good
		for _, name := range list {
			stat, err := os.ReadFile(name)
			// PID (NAME) STATE …; a thread that is gone does nothing any more.
			if i := bytes.LastIndexByte(stat, ')'); err == nil && i >= 0 && i+2 < len(stat) && !bytes.ContainsRune([]byte("TtZX"), rune(stat[i+2])) {
				running = true
			}
		}
	}
	return func() { p.Signal(syscall.SIGCONT) }
}

// Wait waits until the server has ended.
func (p *Process) Wait() { <-p.ended }

// Kill ends the server at once (SIGKILL).
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	p.Wait()
}

// URI makes a volume and names it for lunard.
func (p *Process) URI(t testing.TB, volume string, size int64) string {
	t.Helper()
	if err := p.Pool.Create(volume, Volume{Owner: "user", Size: size}); err != nil {
		t.Fatal(err)
	}
	return "cbd:pool/" + volume + "_user_?socket=" + p.Socket + "&lockdir=" + p.Locks
}

// Descriptors is how many volumes are open, by the server's records.
func (p *Process) Descriptors(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.dir, "meta"))
	if os.IsNotExist(err) {
		return 0
	}
	var r records
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return len(r.Volumes)
}
