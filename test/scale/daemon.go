package main

import (
	"bytes"
	"context"
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

// Bounds of the daemon's life.
const (
	startTimeout = 60 * time.Second
	pollEvery    = 10 * time.Millisecond
	logTail      = 800 // bytes of the daemon's log that an error shows
)

// busyLUN is the LUN under load; it is the first target's. All other targets have disks that nobody touches.
const busyLUN = 1

func iqn(i int) string { return fmt.Sprintf("iqn.2026-11.io.lunar:scale%d", i) }

// A daemon is a lunard under way.
type daemon struct {
	cmd   *exec.Cmd
	log   *os.File
	ended chan struct{}
	err   error // set before ended is closed
}

// startDaemon starts lunard with so many targets and returns when its portal takes connections, and how long that took.
func startDaemon(ctx context.Context, lunard, dir, portal string, targets int) (*daemon, time.Duration, error) {
	args := []string{"--portal", portal, "--export", fmt.Sprintf("%s/%d=mem:?size=64M", iqn(0), busyLUN)}
	for i := 1; i < targets; i++ {
		args = append(args, "--export", fmt.Sprintf("%s/%d=null:?size=1G", iqn(i), busyLUN))
	}
	log, err := os.CreateTemp(dir, "lunard-*.log")
	if err != nil {
		return nil, 0, err
	}
	d := &daemon{cmd: exec.Command(lunard, args...), log: log, ended: make(chan struct{})}
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	start := time.Now()
	if err := d.cmd.Start(); err != nil {
		return nil, 0, err
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
	}()
	if err := d.listens(ctx, portal); err != nil {
		d.kill()
		return nil, 0, err
	}
	return d, time.Since(start), nil
}

func (d *daemon) listens(ctx context.Context, portal string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var dialer net.Dialer
	for {
		if c, err := dialer.DialContext(ctx, "tcp", portal); err == nil {
			return c.Close()
		}
		select {
		case <-d.ended:
			return d.failed()
		case <-ctx.Done():
			return fmt.Errorf("lunard does not listen: %w", ctx.Err())
		case <-time.After(pollEvery):
		}
	}
}

// failed says how the daemon ended, with the end of its log.
func (d *daemon) failed() error {
	b, err := os.ReadFile(d.log.Name())
	if err != nil {
		return err
	}
	return fmt.Errorf("lunard ended (%v): %s", d.err, bytes.TrimSpace(b[max(0, len(b)-logTail):]))
}

// kill ends the daemon without a chance to say goodbye, as a crash does.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill() // it may have ended
	<-d.ended
	_ = d.log.Close()
}

// A footprint is what the daemon takes of the machine.
type footprint struct {
	rss, peak   int64 // bytes
	threads     int64
	descriptors int
	cpu         time.Duration
}

func (d *daemon) footprint() (f footprint, err error) {
	proc := fmt.Sprintf("/proc/%d/", d.cmd.Process.Pid)
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		return f, d.failed()
	}
	for _, l := range strings.Split(string(status), "\n") {
		name, value, _ := strings.Cut(l, ":")
		words := strings.Fields(value)
		if len(words) == 0 {
			continue
		}
		n, _ := strconv.ParseInt(words[0], 10, 64) // fields that are no numbers are not asked for
		switch name {
		case "VmRSS":
			f.rss = n << 10
		case "VmHWM":
			f.peak = n << 10
		case "Threads":
			f.threads = n
		}
	}
	fds, err := os.ReadDir(proc + "fd")
	if err != nil {
		return f, err
	}
	f.descriptors = len(fds)
	f.cpu, err = cpuTime(proc)
	return f, err
}

// cpuTime is the processor time of all threads so far.
func cpuTime(proc string) (sum time.Duration, err error) {
	tasks, err := filepath.Glob(proc + "task/*/schedstat")
	if err != nil {
		return 0, err
	}
	for _, t := range tasks {
		b, err := os.ReadFile(t)
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
	return sum, nil
}
