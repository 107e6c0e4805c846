package guest

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// A process is one that runs for a guest, with all that it started: a group of its own.
type process struct {
	name  string
	cmd   *exec.Cmd
	done  chan struct{} // closed when it has ended and was waited for
	guard *guard
}

// start starts a process of the guest; fd3 is its descriptor 3, or nil.
func (g *Guest) start(t testing.TB, c *exec.Cmd, fd3 *os.File) *process {
	t.Helper()
	c.Dir = g.dir
	if fd3 != nil {
		c.ExtraFiles = []*os.File{fd3}
	}
	c.Stdout, c.Stderr = g.console, g.console
	// HOME is where user-mode Linux keeps its sockets.
	c.Env = append(c.Env, "HOME="+g.dir)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// What the process started may hold its output open for longer.
	c.WaitDelay = stopTimeout
	p := &process{name: filepath.Base(c.Path), cmd: c, done: make(chan struct{})}
	if err := c.Start(); err != nil {
		t.Fatalf("starting %s: %v", p.name, err)
	}
	go func() {
		_ = c.Wait() // how it ended is in ProcessState
		close(p.done)
	}()
	var err error
	if p.guard, err = newGuard(c.Process.Pid); err != nil {
		p.kill(t)
		t.Fatalf("a guard for %s: %v", p.name, err)
	}
	return p
}

// ended is closed when the process has ended; of one that there is not, it never is.
func (p *process) ended() <-chan struct{} {
	if p == nil {
		return nil
	}
	return p.done
}

// kill ends the process and all that it started, and returns when they are gone.
func (p *process) kill(t testing.TB) {
	t.Helper()
	if p == nil {
		return
	}
	defer p.guard.dismiss()
	pgid := p.cmd.Process.Pid
	deadline := time.After(stopTimeout)
	poll := time.NewTicker(endPoll)
	defer poll.Stop()
	for syscall.Kill(-pgid, syscall.SIGKILL) == nil { // ESRCH: nobody is left
		select {
		case <-poll.C:
		case <-deadline:
			t.Errorf("processes of %s do not end", p.name)
			return
		}
	}
	<-p.done
}

// A guard is a shell that outlives a test binary that is killed (or that panics, as a timeout makes it), and
// then ends a group of processes. That the kernel tells a child of its parent's death is not enough: user-mode
// Linux has helpers that do not end with it.
type guard struct {
	cmd  *exec.Cmd
	word io.WriteCloser
}

func newGuard(pgid int) (*guard, error) {
	// Its input ends when the only process that has the other end does; a word first sends it home.
	c := exec.Command("sh", "-c", `read -r word || kill -s KILL -- "-$1"`, "guard", strconv.Itoa(pgid))
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt from the terminal is for the test alone
	word, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	return &guard{cmd: c, word: word}, nil
}

// dismiss ends the guard: the group is gone, and its number may soon be another's.
func (g *guard) dismiss() {
	if g == nil || g.word == nil {
		return
	}
	_, _ = fmt.Fprintln(g.word, "home") // fails only when the guard was killed
	g.word.Close()
	g.word = nil
	_ = g.cmd.Wait()
}
