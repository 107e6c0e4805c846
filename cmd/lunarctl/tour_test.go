package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lunar-iscsi/lunar/session/initiator"
	lunard "github.com/lunar-iscsi/lunar/test/daemon"
)

// TestTour: the commands of docs/lunarctl.md are run, in their order, against a lunard of its own process; what they have set is there
// after it was killed.
func TestTour(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "lunarctl.md"))
	if err != nil {
		t.Fatal(err)
	}
	srv := t.TempDir()
	for name, text := range map[string]string{
		"alice.secret": "a secret of hers\n",
		"lunar.yaml":   "keep: true\ntargets:\n  - name: iqn.2026-11.io.lunar:second\n    access: [iqn.1993-08.org.debian:*]\n    luns:\n      - {lun: 1, volume: \"file:///srv/second.img?size=1G\"}\n",
		"targets.conf": "<target iqn.2026-11.io.lunar:disk>\n  backing-store /srv/disk.img\n</target>\n<target iqn.2026-11.io.lunar:second>\n  backing-store /srv/second.img\n</target>\n",
	} {
		if err := os.WriteFile(filepath.Join(srv, name), []byte(strings.ReplaceAll(text, "/srv", srv)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := &rig{t: t, server: "unix:" + filepath.Join(srv, "lunard.sock")}
	state := filepath.Join(srv, "state")
	d := lunard.Start(t, "--listen-admin", r.server, "--state-dir", state)
	r.portal = d.Addr
	n, loggedIn := 0, false
	replace := strings.NewReplacer("/srv", srv, "192.0.2.10:3260", lunard.FreeAddr(t))
	for _, line := range strings.Split(string(doc), "\n") {
		command, ok := strings.CutPrefix(line, "    lunarctl ")
		if !ok {
			continue
		}
		if strings.Contains(command, "session") && !loggedIn {
			loggedIn = true
			s, err := initiator.Login(r.ctx(), initiator.Options{Portal: r.portal, TargetName: disk, InitiatorName: "iqn.1993-08.org.debian:01:host"})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
		}
		args := shellWords(replace.Replace(command))
		if status, out, errOut := r.run("", args...); status != 0 {
			t.Fatalf("lunarctl %s: exits with %d\n%s%s", command, status, out, errOut)
		}
		n++
	}
	if n < 40 || !loggedIn {
		t.Errorf("%d commands were run", n)
	}
	// The command line's portal has another port 0 next time.
	before := strings.ReplaceAll(r.ok("config show"), `"127.0.0.1:0"`, `"`+r.portal+`"`)
	d.Kill(t)
	lunard.StartAt(t, r.portal, "--listen-admin", r.server, "--state-dir", state)
	if after := r.ok("config show"); after != before {
		t.Errorf("after kill -9:\n%s\nbefore:\n%s", after, before)
	}
}

// TestVolumesTour: the commands of docs/volumes.md are run, in their order, against a lunard of its own process, with an initiator logged in.
func TestVolumesTour(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "volumes.md"))
	if err != nil {
		t.Fatal(err)
	}
	srv := t.TempDir()
	r := &rig{t: t, server: "unix:" + filepath.Join(srv, "lunard.sock")}
	d := lunard.Start(t, "--listen-admin", r.server)
	r.portal = d.Addr
	n := 0
	for _, line := range strings.Split(string(doc), "\n") {
		command, ok := strings.CutPrefix(line, "    lunarctl ")
		if !ok {
			continue
		}
		if status, out, errOut := r.run("", shellWords(strings.ReplaceAll(command, "/srv", srv))...); status != 0 {
			t.Fatalf("lunarctl %s: exits with %d\n%s%s", command, status, out, errOut)
		}
		if strings.HasPrefix(command, "target add") {
			r.login(disk, "iqn.1993-08.org.debian:01:host")
		}
		n++
	}
	if n < 20 {
		t.Errorf("%d commands were run", n)
	}
	left, err := filepath.Glob(filepath.Join(srv, "*.img*"))
	if err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestDaemonsListenAdmin: what lunard's flags for administration refuse, and that a daemon in the way of another is not harmed.
func TestDaemonsListenAdmin(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	for want, args := range map[string][]string{
		"needs mutual TLS":    {"--listen-admin", "tcp:127.0.0.1:0"},
		"want unix:PATH":      {"--listen-admin", "nonsense"},
		"goes with no other":  {"--listen-admin", "none", "--listen-admin", "unix:" + socket},
		"every user of this":  {"--listen-admin", "unix:" + socket + ",mode=0777"},
		"are for --listen-ad": {"--listen-admin", "unix:" + socket, "--admin-cert", "x", "--admin-key", "x", "--admin-ca", "x"},
	} {
		if res := lunard.Run(t, append([]string{"--portal", "127.0.0.1:0"}, args...)...); res.Code != 2 || !strings.Contains(res.Stderr, want) {
			t.Errorf("%v: exits with %d, %s", args, res.Code, res.Stderr)
		}
	}
	d := lunard.Start(t, "--listen-admin", "unix:"+socket)
	if res := lunard.Run(t, "--portal", "127.0.0.1:0", "--listen-admin", "unix:"+socket); res.Code != 1 || !strings.Contains(res.Stderr, "another daemon") {
		t.Errorf("a second daemon exits with %d, %s", res.Code, res.Stderr)
	}
	r := &rig{t: t, server: "unix:" + socket}
	r.ok("target add " + disk)
	d.Signal(t, syscall.SIGTERM)
	d.WaitExit(t, 0)
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the socket outlives the daemon")
	}
	// A socket that a killed daemon left behind is no reason not to start.
	d = lunard.Start(t, "--listen-admin", "unix:"+socket)
	d.Kill(t)
	d = lunard.Start(t, "--listen-admin", "unix:"+socket)
	r.ok("target list")
	r.ok("system shutdown")
	d.WaitExit(t, 0)
	if status, _, _ := r.run("", "target", "list"); status != exitNoServer {
		t.Errorf("without a daemon: %d", status)
	}
}
