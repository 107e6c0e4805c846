package gauge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stopTimeout is how long a process has to end by itself.
const stopTimeout = 5 * time.Second

// A Process is one server's process, started by us and stopped by its id.
type Process struct {
	name  string
	cmd   *exec.Cmd
	out   *os.File      // stdout and stderr
	Ended chan struct{} // closed when the process has ended
	err   error         // set before Ended is closed
	// Stubborn: the program ignores SIGTERM.
	Stubborn bool
}

// StartProcess starts args, on the processors that pin names where it is not empty. The process dies with the thread that
// started it, which the caller keeps (runtime.LockOSThread).
func StartProcess(dir, name, pin string, env []string, args ...string) (*Process, error) {
	out, err := os.CreateTemp(dir, name+"-*.log")
	if err != nil {
		return nil, err
	}
	if pin != "" {
		args = append([]string{"taskset", "-c", pin}, args...)
	}
	p := &Process{name: name, cmd: exec.Command(args[0], args[1:]...), out: out, Ended: make(chan struct{})}
	p.cmd.Env, p.cmd.Dir = env, dir
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.Ended)
	}()
	return p, nil
}

// Failed says how the process ended, with the end of what it wrote.
func (p *Process) Failed() error {
	b, err := os.ReadFile(p.out.Name())
	if err != nil {
		return err
	}
	return fmt.Errorf("%s ended (%v): %s", p.name, p.err, bytes.TrimSpace(b[max(0, len(b)-logTail):]))
}

// Listens waits until the process takes connections at addr.
func (p *Process) Listens(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var d net.Dialer
	for {
		c, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			return c.Close()
		}
		if err := p.pause(ctx); err != nil {
			return err
		}
	}
}

// pause waits a little for something that has no event; it ends early when the process does.
func (p *Process) pause(ctx context.Context) error {
	select {
	case <-p.Ended:
		return p.Failed()
	case <-ctx.Done():
		return fmt.Errorf("%s does not get ready: %w", p.name, ctx.Err())
	case <-time.After(pollEvery):
		return nil
	}
}

// Stop ends the process, at first kindly.
func (p *Process) Stop() {
	sig := syscall.SIGTERM
	if p.Stubborn {
		sig = syscall.SIGKILL
	}
	_ = p.cmd.Process.Signal(sig) // it may have ended
	select {
	case <-p.Ended:
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill()
		<-p.Ended
	}
	_ = p.out.Close()
}

// CPU is the processor time of all threads so far. The threads of the servers here live as long as the process.
func (p *Process) CPU() (time.Duration, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, t := range tasks {
		b, err := os.ReadFile(t)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return 0, err
		}
		ns, _, _ := strings.Cut(string(b), " ")
		n, err := strconv.ParseInt(ns, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", t, err)
		}
		sum += time.Duration(n)
	}
	if len(tasks) == 0 {
		return 0, fmt.Errorf("%s has no threads in /proc: it has ended", p.name)
	}
	return sum, nil
}
