package lifecycle

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/daemon"
)

// A manager is what systemd is to a daemon: it is told when that is ready, and when it reloads.
type manager struct{ conn *net.UnixConn }

func newManager(t *testing.T) *manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return &manager{conn}
}

// wait returns when the daemon has told of state.
func (m *manager) wait(t *testing.T, state string) {
	t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(answerLimit)); err != nil {
		t.Fatal(err)
	}
	for b := make([]byte, 4096); ; {
		n, err := m.conn.Read(b)
		if err != nil {
			t.Fatalf("the daemon does not tell of %s: %v", state, err)
		}
		if strings.Contains("\n"+string(b[:n]), "\n"+state) {
			return
		}
	}
}

// reload has the daemon read its file again, and returns what it logs of that, up to a line with says.
func (m *manager) reload(t *testing.T, d *daemon.Daemon, says string) string {
	t.Helper()
	before := len(d.Log())
	d.Signal(t, syscall.SIGHUP)
	m.wait(t, "RELOADING=1")
	m.wait(t, "READY=1")
	return d.WaitLog(t, before, says) // the log is written behind everything else
}

// A live session is one that goes on through what is done to others.
type live struct {
	*initiator.Session
	name string
}

func logIn(t *testing.T, d *daemon.Daemon, name string) *live {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), answerLimit)
	defer cancel()
	s, err := initiator.Login(ctx, initiator.Options{Portal: d.Addr, TargetName: daemon.Prefix + name})
	if err != nil {
		t.Fatalf("login to %s: %v", name, err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &live{s, name}
}

// status is how a READ of a LUN's first block ends; an initiator takes the unit attentions that are there as they come.
func (l *live) status(t *testing.T, lun uint16) (sam.Status, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), answerLimit)
	defer cancel()
	for range 8 {
		var cdb [16]byte
		initiator.PutRead(&cdb, 0, 1)
		r, err := l.Command(ctx, sam.NewLUN(lun), cdb[:10], nil, 512)
		if err != nil {
			t.Fatalf("session with %s: %v", l.name, err)
		}
		key, asc, ascq, _ := initiator.SenseFields(r.Sense)
		if r.Status != sam.CheckCondition || key != 6 {
			return r.Status, fmt.Sprintf("%02x/%02x/%02x", key, asc, ascq)
		}
	}
	t.Fatalf("session with %s: unit attentions without end", l.name)
	return 0, ""
}

func (l *live) reads(t *testing.T, lun uint16, want bool) {
	t.Helper()
	if status, sense := l.status(t, lun); (status == sam.Good) != want {
		t.Errorf("READ of LUN %d of %s: %v %s, can be read: %v", lun, l.name, status, sense, want)
	}
}

const configText = `
targets:
  - name: PREFIXa
    access: [ALL]
    luns:
      - {lun: 1, volume: "mem:?size=1M"}
  - name: PREFIXb
    access: [ALL]
    luns:
      - {lun: 1, volume: "mem:?size=1M"}
`

// SIGHUP changes what differs in the file, and touches no session of another target; a file that is wrong changes nothing. What the
// command line names is none of the file's business.
func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lunar.yaml")
	put := func(text string) {
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "PREFIX", daemon.Prefix)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(configText)
	m := newManager(t)
	d := daemon.Start(t, "--config", path, daemon.Export("line", "mem:?size=1M"))
	m.wait(t, "READY=1")
	a, b, line := logIn(t, d, "a"), logIn(t, d, "b"), logIn(t, d, "line")
	check := func(second bool) {
		t.Helper()
		for _, s := range []*live{a, b, line} {
			s.reads(t, 1, true)
			if err := s.Err(); err != nil {
				t.Errorf("session with %s: %v", s.name, err)
			}
		}
		a.reads(t, 2, second)
		b.reads(t, 2, false)
	}
	check(false)

	second := strings.Replace(configText, "    luns:\n", "    alias: changed\n    luns:\n      - {lun: 2, volume: \"mem:?size=1M\"}\n", 1)
	put(second)
	if log := m.reload(t, d, "is applied"); strings.Contains(log, daemon.Prefix+"b") {
		t.Errorf("one target has changed; the log says\n%s", log)
	}
	check(true)

	for name, c := range map[string]struct{ text, says string }{
		"no YAML":             {"targets: [", "nothing changes"},
		"a key":               {strings.Replace(configText, "access:", "acess:", 1), "lunar.yaml:4:5: targets[0].acess: unknown key; did you mean access?"},
		"a value":             {strings.Replace(configText, "lun: 1,", "lun: 70000,", 1), "nothing changes"},
		"of the command line": {configText + "  - name: PREFIXline\n", "on the command line"},
		"nothing":             {"", "nothing in it"},
		"in use":              {"targets: []\n", "PREFIXa"},
	} {
		put(c.text)
		t.Run(name, func(t *testing.T) {
			m.reload(t, d, strings.ReplaceAll(c.says, "PREFIX", daemon.Prefix))
			check(true)
		})
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	m.reload(t, d, "no such file")
	check(true)

	// b goes once nobody is there; a, which is, is not asked about.
	if err := b.Logout(t.Context()); err != nil {
		t.Fatal(err)
	}
	put(second[:strings.LastIndex(second, "  - name:")])
	m.reload(t, d, "is applied")
	a.reads(t, 2, true)
	line.reads(t, 1, true)
	if _, err := initiator.Login(t.Context(), initiator.Options{Portal: d.Addr, TargetName: daemon.Prefix + "b"}); err == nil {
		t.Error("a target that is no longer in the file takes logins")
	}
	d.Stop(t)
}

// A start with a file that is wrong ends before anything is bound or made, and says where.
func TestStartWithBadFile(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("targets:\n  - name: x y\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	made := filepath.Join(dir, "made.img")
	for name, args := range map[string][]string{
		"bad.yaml:2:11": {"--config", bad, daemon.Export("x", daemon.FileURI(made, "size=1M"))},
		"give one":      {"--config", bad, "--targets-conf", bad},
		"no such file":  {"--targets-conf", dir + "/none"},
	} {
		if r := daemon.Run(t, args...); r.Code == 0 || !strings.Contains(r.Stderr, name) {
			t.Errorf("%q: status %d, %q", args, r.Code, r.Stderr)
		}
	}
	if _, err := os.Stat(made); err == nil {
		t.Error("a volume was made")
	}
}

// A targets.conf is served as tgt-admin would have it: names of LUNs and access.
func TestTargetsConf(t *testing.T) {
	dir := t.TempDir()
	const text = `
<target PREFIXt>
  backing-store DIR/b.img
  backing-store DIR/a.img
</target>
<target PREFIXn>
  initiator-name iqn.2026-11.io.lunar:other
</target>
`
	zeroes := strings.Repeat("\x00", 1<<20)
	for name, text := range map[string]string{"a.img": zeroes, "b.img": zeroes, "targets.conf": strings.NewReplacer("PREFIX", daemon.Prefix, "DIR", dir).Replace(text)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := daemon.Start(t, "--targets-conf", filepath.Join(dir, "targets.conf"))
	s := logIn(t, d, "t")
	s.reads(t, 1, true)
	s.reads(t, 2, true)
	s.reads(t, 3, false)
	if _, err := initiator.Login(t.Context(), initiator.Options{Portal: d.Addr, TargetName: daemon.Prefix + "n"}); err == nil {
		t.Error("names let others in")
	}
	d.WaitLog(t, 0, "tgt-admin would admit everybody")
	d.Stop(t)
}

// identity is what a disk says it is: VPD page 83h.
func (l *live) identity(t *testing.T) string {
	t.Helper()
	r, err := l.Command(t.Context(), sam.NewLUN(1), initiator.InquiryVPD(0x83, 255), nil, 255)
	if err == nil {
		err = r.Err()
	}
	if err != nil {
		t.Fatalf("INQUIRY to %s: %v", l.name, err)
	}
	return string(r.Data)
}

// At a start the file is applied on top of what is saved: what it does not name goes, what it names and leaves open stays as it was.
func TestConfigOverState(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lunar.yaml")
	put := func(text string) {
		if err := os.WriteFile(path, []byte(strings.NewReplacer("PREFIX", daemon.Prefix, "DIR", dir).Replace(text)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const two = `
targets:
  - name: PREFIXa
    access: [ALL]
    luns:
      - {lun: 1, volume: "file://DIR/a.img?size=1M"}
  - name: PREFIXb
    access: [ALL]
    luns:
      - {lun: 1, volume: "file://DIR/b.img?size=1M"}
`
	start := func() *daemon.Daemon {
		return daemon.Start(t, "--config", path, "--state-dir", filepath.Join(dir, "state"))
	}
	put(two)
	d := start()
	a := logIn(t, d, "a")
	was := a.identity(t)
	d.Kill(t)

	put(strings.Replace(two[:strings.LastIndex(two, "  - name:")], "access: [ALL]", "access: [127.0.0.0/8]", 1))
	d = start()
	if now := logIn(t, d, "a").identity(t); now != was {
		t.Errorf("the disk was %q, and is %q", was, now)
	}
	if _, err := initiator.Login(t.Context(), initiator.Options{Portal: d.Addr, TargetName: daemon.Prefix + "b"}); err == nil {
		t.Error("a target that is no longer in the file takes logins")
	}
	d.Kill(t)

	// Without the file, what was applied is what is saved.
	d = daemon.Start(t, "--state-dir", filepath.Join(dir, "state"))
	if now := logIn(t, d, "a").identity(t); now != was {
		t.Errorf("the disk was %q, and is %q", was, now)
	}
	d.Stop(t)
}

// Where nothing is saved, the same file still makes the same disks.
func TestConfigWithoutState(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lunar.yaml")
	text := strings.NewReplacer("PREFIX", daemon.Prefix, "mem:?size=1M", "file://"+dir+"/a.img?size=1M").Replace(configText)
	if err := os.WriteFile(path, []byte(text[:strings.LastIndex(text, "  - name:")]), 0o600); err != nil {
		t.Fatal(err)
	}
	was := ""
	for range 2 {
		d := daemon.Start(t, "--config", path)
		now := logIn(t, d, "a").identity(t)
		if was != "" && now != was {
			t.Errorf("the disk was %q, and is %q", was, now)
		}
		was = now
		d.Kill(t)
	}
}

// A SIGHUP that comes while the daemon starts does not end it.
func TestHangupDuringStart(t *testing.T) {
	// A start that waits: an NBD server that takes the connection and says nothing.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.CommandContext(t.Context(), daemon.Binary(t), "--portal=127.0.0.1:0", daemon.Export("x", "nbd://"+l.Addr().String()+"/x"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	// The server goes away, and with it the reason to wait: the start fails, by itself.
	_ = l.Close()
	_ = conn.Close()
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("lunard: %v; want exit status 1, a start that failed", err)
	}
}
