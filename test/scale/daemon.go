package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/lunar-iscsi/lunar/test/gauge"
)

// busyLUN is the LUN under load; it is the first target's. All other targets have disks that nobody touches.
const busyLUN = 1

func iqn(i int) string { return fmt.Sprintf("iqn.2026-11.io.lunar:scale%d", i) }

// A daemon is a lunard under way.
type daemon struct{ *gauge.Daemon }

// startDaemon starts lunard with so many targets and returns when its portal takes connections, and how long that took.
func startDaemon(ctx context.Context, lunard, dir, portal string, targets int) (*daemon, time.Duration, error) {
	args := []string{"--portal", portal, "--listen-admin", "none", "--export", fmt.Sprintf("%s/%d=mem:?size=64M", iqn(0), busyLUN)}
	for i := 1; i < targets; i++ {
		args = append(args, "--export", fmt.Sprintf("%s/%d=null:?size=1G", iqn(i), busyLUN))
	}
	start := time.Now()
	d, err := gauge.Start(ctx, lunard, dir, portal, args...)
	if err != nil {
		return nil, 0, err
	}
	return &daemon{d}, time.Since(start), nil
}

// A footprint is what the daemon takes of the machine.
type footprint struct {
	rss, peak   int64 // bytes
	threads     int64
	descriptors int
	cpu         time.Duration
}

func (d *daemon) footprint() (f footprint, err error) {
	proc := fmt.Sprintf("/proc/%d/", d.PID)
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		return f, d.Failed()
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
