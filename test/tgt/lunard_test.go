package tgt

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/session/initiator"
)

// A manager is the end of sd_notify that systemd has.
type manager struct {
	t *testing.T
	c *net.UnixConn
	// What was told since the last call of wait.
	told []string
}

// wait returns when a line that begins so has come.
func (m *manager) wait(prefix string) {
	m.t.Helper()
	if err := m.c.SetReadDeadline(time.Now().Add(startTime)); err != nil {
		m.t.Fatal(err)
	}
	b := make([]byte, 4096)
	for {
		for i, line := range m.told {
			if strings.HasPrefix(line, prefix) {
				m.told = m.told[i+1:]
				return
			}
		}
		n, err := m.c.Read(b)
		if err != nil {
			m.t.Fatalf("waiting for %s: %v", prefix, err)
		}
		m.told = append(m.told, strings.Fields(string(b[:n]))...)
	}
}

// lunard.service's lines without systemd: the start is told when disks are there, the watchdog is fed, a reload begins and ends and
// ends nobody's session, and the stop is status 0.
func TestLunardUnit(t *testing.T) {
	prefix := installed(t)
	_, text := unit(t, prefix, "lunard.service")
	dir := t.TempDir()
	short, err := os.MkdirTemp("", "tgt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) })
	write := func(alias string) (path string) {
		path = filepath.Join(dir, "lunar.yaml")
		conf := "targets:\n  - name: iqn.2026-11.io.lunar:unit\n    alias: " + alias + "\n    access: [ALL]\n    luns:\n      - lun: 1\n        volume: file://" +
			filepath.Join(dir, "disk") + "?size=1M\n"
		if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(short, "n"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m := &manager{t: t, c: c}
	start := directives(text, "ExecStart")[0]
	for _, r := range [][2]string{
		{"/var/lib/lunar", filepath.Join(dir, "state")}, {"/run/lunar", short},
		{"$LUNARD_OPTIONS", "--log-level=info --portal=127.0.0.1:0 --config=" + write("before")},
	} {
		start = strings.ReplaceAll(start, r[0], r[1])
	}
	if strings.Contains(start, "$") || !strings.Contains(start, "--config") {
		t.Fatalf("the unit starts %q", start)
	}
	args := strings.Fields(start)
	cmd := exec.Command(args[0], args[1:]...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(short, "n"), "WATCHDOG_USEC=200000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	t.Cleanup(func() {
		if !ended {
			_ = cmd.Process.Kill() // fails when it has ended
			_ = cmd.Wait()
			t.Logf("lunard said:\n%s", &log)
		}
	})
	m.wait("READY=1")
	m.wait("WATCHDOG=1")
	s, err := initiator.Login(t.Context(), initiator.Options{Portal: listening(t, cmd.Process.Pid), TargetName: "iqn.2026-11.io.lunar:unit"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	write("after")
	reload := strings.ReplaceAll(directives(text, "ExecReload")[0], "$MAINPID", strconv.Itoa(cmd.Process.Pid))
	if out, err := exec.Command("/bin/sh", "-c", reload).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", reload, err, out)
	}
	m.wait("RELOADING=1")
	m.wait("READY=1")
	if _, err := s.Ping(t.Context(), nil); err != nil {
		t.Errorf("the session after a reload: %v", err)
	}
	if err := s.Logout(t.Context()); err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	m.wait("STOPPING=1")
	err, ended = cmd.Wait(), true
	if err != nil {
		t.Errorf("%v\n%s", err, &log)
	}
}

// listening is the one TCP address of IPv4 that a process listens on.
func listening(t *testing.T, pid int) string {
	t.Helper()
	sockets := map[string]bool{}
	fds, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "socket:[") {
			sockets[strings.Trim(to[len("socket:"):], "[]")] = true
		}
	}
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) > 9 && f[3] == "0A" && sockets[f[9]] { // LISTEN
			_, port, _ := strings.Cut(f[1], ":")
			n, err := strconv.ParseUint(port, 16, 16)
			if err != nil {
				t.Fatal(err)
			}
			return "127.0.0.1:" + strconv.FormatUint(n, 10)
		}
	}
	t.Fatal("it listens nowhere")
	return ""
}
