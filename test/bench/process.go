package main

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

// Bounds of starting and stopping a server.
const (
	startTimeout = 20 * time.Second
	stopTimeout  = 5 * time.Second
	pollEvery    = 20 * time.Millisecond
	logTail      = 600 // bytes of a server's output that an error shows
)

// A process is one server's process, started by us and stopped by its id.
type process struct {
	name  string
	cmd   *exec.Cmd
	out   *os.File // stdout and stderr
	ended chan struct{}
	err   error // set before ended is closed
	kill  bool  // the program ignores SIGTERM
}

// startProcess starts args, on the processors that pin names where it is not empty. The process dies with the thread that
// started it, which main keeps.
func startProcess(dir, name, pin string, env []string, args ...string) (*process, error) {
	out, err := os.CreateTemp(dir, name+"-*.log")
	if err != nil {
		return nil, err
	}
	if pin != "" {
		args = append([]string{"taskset", "-c", pin}, args...)
	}
	p := &process{name: name, cmd: exec.Command(args[0], args[1:]...), out: out, ended: make(chan struct{})}
	p.cmd.Env, p.cmd.Dir = env, dir
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// failed says how the process ended, with the end of what it wrote.
func (p *process) failed() error {
	b, err := os.ReadFile(p.out.Name())
	if err != nil {
		return err
	}
	if len(b) > logTail {
		b = b[len(b)-logTail:]
	}
	return fmt.Errorf("%s ended (%v): %s", p.name, p.err, bytes.TrimSpace(b))
}

// listens waits until the process takes connections at addr.
func (p *process) listens(ctx context.Context, addr string) error {
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
func (p *process) pause(ctx context.Context) error {
	select {
	case <-p.ended:
		return p.failed()
	case <-ctx.Done():
		return fmt.Errorf("%s does not get ready: %w", p.name, ctx.Err())
	case <-time.After(pollEvery):
		return nil
	}
}

// stop ends the process, at first kindly.
func (p *process) stop() {
	sig := syscall.SIGTERM
	if p.kill {
		sig = syscall.SIGKILL
	}
	_ = p.cmd.Process.Signal(sig) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
	_ = p.out.Close()
}

// cpu is the processor time of all threads so far. The threads of the servers here live as long as the process.
func (p *process) cpu() (time.Duration, error) {
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

// freePort finds a TCP port of 127.0.0.1 that nobody listens on. Another program can take it before it is used; the start
// of the server then fails and says so.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}
