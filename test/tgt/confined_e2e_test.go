//go:build e2e

package tgt

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/deps"
)

// allowed expands a set of systemd's system calls.
func allowed(t *testing.T, set string) (calls []string) {
	t.Helper()
	out, err := deps.Find(t, "systemd-analyze").Command(t.Context(), "syscall-filter", set).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range strings.Fields(strings.SplitN(string(out), "\n", 2)[1]) {
		switch {
		case strings.HasPrefix(word, "@"):
			calls = append(calls, allowed(t, word)...)
		case !strings.HasPrefix(word, "#"):
			calls = append(calls, word)
		}
	}
	return calls
}

// What lunard asks of the kernel, from its start through I/O of each kind to its end, is what its unit lets it ask.
func TestUnitSystemCalls(t *testing.T) {
	strace := deps.Find(t, "strace")
	_, text := unit(t, installed(t), "lunard.service")
	var may []string
	for _, set := range strings.Fields(strings.Join(directives(text, "SystemCallFilter"), " ")) {
		may = append(may, allowed(t, set)...)
	}
	if len(may) < 100 {
		t.Fatalf("%d system calls", len(may))
	}
	dir := t.TempDir()
	trace := filepath.Join(dir, "trace")
	c := strace.Command(t.Context(), "-f", "-qq", "-o", trace, daemon.Binary(t), "--portal=127.0.0.1:0", "--log-level=info", "--state-dir="+filepath.Join(dir, "state"),
		daemon.Export("plain", daemon.FileURI(filepath.Join(dir, "plain"), "size=16M")),
		daemon.Export("direct", daemon.FileURI(filepath.Join(dir, "direct"), "size=16M&direct=on")))
	pipe, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	portal := ""
	lines := bufio.NewScanner(pipe)
	for portal == "" && lines.Scan() {
		fmt.Fprintln(&log, lines.Text())
		if m := regexp.MustCompile(`portals="?([^" ]+)`).FindStringSubmatch(lines.Text()); m != nil {
			portal = m[1]
		}
	}
	if portal == "" {
		t.Fatalf("lunard does not serve:\n%s", &log)
	}
	for _, name := range []string{"plain", "direct"} {
		traffic(t, portal, daemon.Prefix+name)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", c.Process.Pid, c.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.Fields(string(children))[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
		fmt.Fprintln(&log, lines.Text())
	}
	var exit *exec.ExitError
	if err := c.Wait(); err != nil {
		t.Fatalf("%v (%v)\n%s", err, exit, &log)
	}
	said, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\d+ +([a-z_0-9]+)\(`).FindAllStringSubmatch(string(said), -1) {
		used[m[1]] = true
	}
	if len(used) < 20 || !used["epoll_ctl"] {
		t.Fatalf("the trace has only %v", used)
	}
	for call := range used {
		if !slices.Contains(may, call) {
			t.Errorf("lunard uses %s, which the unit does not allow", call)
		}
	}
}

// traffic writes, reads, flushes, unmaps and reserves.
func traffic(t *testing.T, portal, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTime)
	defer cancel()
	s, err := initiator.Login(ctx, initiator.Options{Portal: portal, TargetName: name})
	if err != nil {
		t.Fatal(err)
	}
	lun := sam.NewLUN(1)
	command := func(c, out []byte, in int) {
		t.Helper()
		r, err := s.Command(ctx, lun, c, out, in)
		if err == nil && r.Status == sam.CheckCondition {
			r, err = s.Command(ctx, lun, c, out, in) // the unit attention of whoever is new
		}
		if err != nil || r.Err() != nil {
			t.Fatalf("% x: %v, %v", c, err, r.Err())
		}
	}
	command(initiator.TestUnitReady(), nil, 0)
	block := bytes.Repeat([]byte{0xA5}, 64<<10)
	transfer := func(op byte) []byte { c := cdb.Transfer(op, 128, 128, 0); return c[:10] }
	command(transfer(cdb.Write10), block, 0)
	command(transfer(cdb.Read10), nil, len(block))
	command(initiator.SynchronizeCache10(), nil, 0)
	// UNMAP of 1 MiB, and a registration that outlives a loss of power.
	command([]byte{0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0}, append([]byte{0, 22, 0, 16, 0, 0, 0, 0}, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 8, 0, 0, 0, 0, 0), 0)
	register := make([]byte, 24)
	register[15], register[20] = 1, 1
	command([]byte{0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0}, register, 0)
	if err := s.Logout(ctx); err != nil {
		t.Fatal(err)
	}
}
