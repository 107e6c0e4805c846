package main

import (
	"errors"
	"fmt"
	"io"
	"log/syslog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// readyEnv names the descriptor on which a daemon in the background tells whoever put it there that it is ready.
const readyEnv = "LUNAR_TGTD_READY"

// daemonize starts the daemon in the background and returns when it is ready, with nil, or when it will not be. A Go program cannot
// fork: it is started anew, in a session of its own and in the root folder.
//
// tgtd returns before it has looked at anything, so that scripts had to sleep, and failures were seen in the system's log only.
func daemonize(args []string) error {
	self, err := named()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	c := exec.Command(self, args...)
	c.Args[0] = os.Args[0]
	c.Dir = "/"
	c.Env = append(os.Environ(), readyEnv+"=3")
	c.ExtraFiles = []*os.File{w}
	c.Stderr = os.Stderr // until it is ready
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = c.Start()
	w.Close()
	if err != nil {
		return err
	}
	// Whoever gives up on us gives up on it.
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(sig)
	told := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(r, make([]byte, 1))
		told <- err
	}()
	select {
	case err = <-told:
	case s := <-sig:
		_ = c.Process.Kill() // fails only when it has ended
		_ = c.Wait()
		return fmt.Errorf("%v before the daemon was ready", s)
	}
	if err == nil {
		return c.Process.Release()
	}
	// It has said why, on our standard error.
	err = c.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		return &exitError{exit.ExitCode(), "tgtd: not started"}
	}
	return fmt.Errorf("the daemon ended before it was ready: %v", err)
}

// named is the path of this program by the name that it was called by: what is started so is a tgtd for ps and pidof, though the file may be
// a lunard that a link points to.
func named() (string, error) {
	if path, err := exec.LookPath(os.Args[0]); err == nil {
		return filepath.Abs(path) // it is started in another folder
	}
	return os.Executable()
}

// A backgrounded is the daemon's side of daemonize.
type backgrounded struct {
	told    *os.File
	pidFile string
}

// background writes the pid file, if there is to be one.
func background(pidFile string) (*backgrounded, error) {
	fd, err := strconv.Atoi(os.Getenv(readyEnv))
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("%s=%s: want a descriptor", readyEnv, os.Getenv(readyEnv))
	}
	unix.CloseOnExec(fd)
	if err := os.Unsetenv(readyEnv); err != nil {
		return nil, err
	}
	d := &backgrounded{told: os.NewFile(uintptr(fd), "ready"), pidFile: pidFile}
	if pidFile != "" {
		if err := os.WriteFile(pidFile, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
			return nil, fmt.Errorf("--pid-file: %w", err)
		}
	}
	return d, nil
}

// ready lets daemonize return, and lets go of the terminal.
func (d *backgrounded) ready() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	if _, err := d.told.Write([]byte{1}); err != nil {
		return fmt.Errorf("whoever started the daemon is gone: %w", err)
	}
	if err := unix.Dup3(int(null.Fd()), unix.Stderr, 0); err != nil {
		return err
	}
	return d.told.Close()
}

func (d *backgrounded) end() {
	if d.pidFile != "" {
		_ = os.Remove(d.pidFile) // a file that is gone already is as good
	}
}

// logTo is where the log goes: the system's where that is wanted. Where there is none it goes to standard error, but in the background
// nowhere: the terminal is for the reason why the daemon did not start.
func (o *options) logTo() io.Writer {
	if !o.syslog {
		return os.Stderr
	}
	w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_INFO, "tgtd")
	switch {
	case err == nil:
		return w
	case o.ready != nil:
		return io.Discard
	}
	return os.Stderr
}
