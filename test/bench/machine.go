package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// machine describes where the figures are from, a line each.
func machine(diskDir string) []string {
	var uts unix.Utsname
	kernel := "unknown"
	if unix.Uname(&uts) == nil {
		kernel = unix.ByteSliceToString(uts.Release[:])
	}
	lines := []string{
		fmt.Sprintf("%s, %d processors", field("/proc/cpuinfo", "model name"), runtime.NumCPU()),
		fmt.Sprintf("memory %s", field("/proc/meminfo", "MemTotal")),
		fmt.Sprintf("Linux %s, %s/%s, %s", kernel, runtime.GOOS, runtime.GOARCH, runtime.Version()),
		fmt.Sprintf("loopback TCP; files in tmpfs; the disk's file system is %s", fsName(diskDir)),
	}
	return append(lines, "load average before the run: "+loadAverage())
}

// loadAverage is the machine's over one, five and fifteen minutes: anything else that runs spoils the figures.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}

// field returns the value of the first line of a file of "name : value" lines.
func field(file, name string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	for l := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return "unknown " + name
}

// revision names the commit that the working tree is at.
func revision(root string) string {
	c := exec.Command("git", "describe", "--always", "--dirty")
	c.Dir = root
	out, err := c.Output()
	if err != nil {
		return "of an unknown revision"
	}
	return strings.TrimSpace(string(out))
}
