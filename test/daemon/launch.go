package daemon

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Launch is StartAt for programs: the caller ends the daemon by End.
func Launch(binary, addr string, args ...string) (*Daemon, error) {
	return Program{Path: binary}.Launch(addr, args...)
}

// Launch is StartProgram for programs.
func (p Program) Launch(addr string, args ...string) (*Daemon, error) {
	d := &Daemon{log: newLog(), done: make(chan struct{})}
	d.cmd = command(p.Path, append([]string{"--portal=" + addr, "--log-level=info"}, args...)...)
	d.cmd.Env = p.Env
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting lunard: %w", err)
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.done)
	}()
	select {
	case d.Addr = <-d.log.served:
		return d, nil
	case <-d.done:
		return nil, fmt.Errorf("lunard ended before it served: %v\n%s", d.err, d.log)
	case <-time.After(readyTimeout):
		d.end()
		return nil, fmt.Errorf("lunard does not serve on %s after %v\n%s", addr, readyTimeout, d.log)
	}
}

// End sends sig and waits until the daemon has ended with the given status: -1 where a signal is to end it.
func (d *Daemon) End(sig os.Signal, status int) error {
	if err := d.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("signal %v to lunard: %w", sig, err)
	}
	return d.exited(status)
}

// exited waits for the end; a daemon that does not end in time is killed.
func (d *Daemon) exited(status int) error {
	select {
	case <-d.done:
	case <-time.After(stopTimeout):
		d.end()
		return fmt.Errorf("lunard did not end within %v", stopTimeout)
	}
	if got := d.cmd.ProcessState.ExitCode(); got != status {
		return fmt.Errorf("lunard ended with status %d (%v), want %d", got, d.err, status)
	}
	return nil
}

func command(binary string, args ...string) *exec.Cmd {
	// The default socket is this machine's: tests do without it, or name one of their own.
	if !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--listen-admin") }) {
		args = append([]string{"--listen-admin=none"}, args...)
	}
	c := exec.Command(binary, args...)
	// A test binary that dies (a timeout's panic) takes its daemons along.
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c
}
