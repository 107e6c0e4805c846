package ceph

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/lunar-iscsi/lunar/test/deps"
)

const (
	stopTimeout = 20 * time.Second // for a daemon that was asked to end; then it is killed
	toolTimeout = 60 * time.Second // for one run of a tool
)

// A process is a running daemon of the cluster.
type process struct {
	name string // mon.a, osd.0
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and was waited for
}

// launch starts a daemon in the foreground; what it says on its outputs goes to log/NAME.out.
func (c *Cluster) launch(tool *deps.Tool, kind, id string) (*process, error) {
	p := &process{name: kind + "." + id, done: make(chan struct{})}
	out, err := os.OpenFile(filepath.Join(c.dir, "log", p.name+".out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p.cmd = exec.Command(tool.Path, "-f", "-c", c.Conf(), "-i", id)
	p.cmd.Env = c.Env()
	p.cmd.Stdout, p.cmd.Stderr = out, out
	// A program that dies (a test's time-out) takes its cluster along.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	go func() {
		_ = p.cmd.Wait() // says that it was killed
		close(p.done)
	}()
	return p, nil
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *process) signal(sig syscall.Signal) error {
	if !p.running() {
		return fmt.Errorf("%s has ended: %v", p.name, p.cmd.ProcessState)
	}
	return p.cmd.Process.Signal(sig)
}

// kill ends it as a crash does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails only when it has ended
	<-p.done
}

// stop asks it to end and waits for that.
func (p *process) stop() error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(stopTimeout):
		p.kill()
		return fmt.Errorf("%s did not end within %v", p.name, stopTimeout)
	}
}

// run runs one of Ceph's tools to its end.
func (c *Cluster) run(tool *deps.Tool, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool.Path, args...)
	cmd.Env = c.Env()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("no end within %v", toolTimeout)
	}
	if err != nil {
		return string(out), fmt.Errorf("%s %q: %w\n%s", tool.Name, args, err, out)
	}
	return string(out), nil
}

// all does f for each of n in parallel.
func all(n int, f func(i int) error) error {
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- f(i) }()
	}
	var first error
	for range n {
		first = errors.Join(first, <-errs)
	}
	return first
}
