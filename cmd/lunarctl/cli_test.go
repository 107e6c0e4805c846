package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lunar-iscsi/lunar/admin/grpcd"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/test/certs"
)

const disk = "iqn.2026-11.io.lunar:disk"

// script is a tour of every command with what it answers: lines that begin with $ are run, in order, on one daemon.
// An initiator is logged in where a line says so.
var script = []string{
	"$ target add iqn.2026-11.io.lunar:disk --alias first --lun 1=mem:?size=64M",
	"$ target add iqn.2026-11.io.lunar:disk --alias first --lun 1=mem:?size=64M --allow-existing",
	"$ target add iqn.2026-11.io.lunar:disk --alias second --allow-existing",
	"$ target add iqn.2026-11.io.lunar:disk",
	"$ target add iqn.2026-11.io.lunar:other --tid 7 --address 192.0.2.0/24 --initiator iqn.1993-08.org.debian:* --offline --no-controller --redirect [2001:db8::1]:3261",
	"$ target list",
	"$ acl add 1 --initiator iqn.1993-08.org.debian:01:host",
	"$ acl add 1 --initiator iqn.1993-08.org.debian:01:host",
	"$ acl add 1 --initiator iqn.1993-08.org.debian:01:host --allow-existing",
	"$ acl add 1 --initiator iqn.1993-08.org.debian:01:host --read-only --allow-existing",
	"$ acl add 1 --address ALL --read-only --no-reset --position 0",
	"$ acl list 1",
	"$ acl remove 1 --address ALL",
	"$ acl remove 1 --address ALL",
	"$ acl remove 1 --address ALL --missing-ok",
	"$ acl add 1",
	"$ acl add 1 ALL",
	"$ acl remove 1 192.0.2.0/24",
	"$ acl add 1 iqn.1993-08.org.debian:01:host",
	"$ acl add 1 --address 10.0.0.0/33",
	"$ acl add 1 --address all",
	"$ lun add 1 2 null:?size=1T --serial S2 --vendor ACME --product Disk --read-only --thin off",
	"$ lun add 1 2 null:?size=1T",
	"$ lun add 1 2 null:?size=1T --serial S2 --allow-existing",
	"$ lun add 1 3 nosuch:volume",
	"$ lun add 1 99999 mem:?size=1M",
	"$ lun list",
	"$ lun list 7",
	"$ lun set 1 2 --read-only=false --write-cache on",
	"$ lun set 1 2 --write-cache on",
	"$ lun set 1 2 --io-timeout 90 --on-timeout error --away offline",
	"$ lun set 1 2 --on-timeout never",
	"$ lun takeover 1 2",
	"$ lun takeover 1 9",
	"$ lun set 1 2",
	"$ lun set 1 2 --thin maybe",
	"$ lun resize 1 1 +64M",
	"$ lun resize 1 1 1M",
	"$ lun resize 1 1 1M --force",
	"$ lun resize 1 1 12x",
	"$ lun offline 1 2",
	"$ lun show 1 2",
	"$ lun online 1 2",
	"$ lun show 1 9",
	"$ acl map add 1 iqn.1993-08.org.debian:01:* 1=2 5",
	"$ acl map add 1 iqn.1993-08.org.debian:01:* 1=2",
	"$ acl map add 1 * --allow-existing",
	"$ acl map list 1",
	"$ acl map remove 1 iqn.1993-08.org.debian:01:* 5",
	"$ acl map remove 1 *",
	"$ acl map remove 1 iqn.1993-08.org.debian:01:*",
	"$ target set 1 --alias changed --nop-interval 30 --nop-count 3 --param FirstBurstLength=65536 --param MaxOutstandingR2T=4 --portal-group 1",
	"$ target set 1 --clear-param MaxOutstandingR2T",
	"$ target set 1",
	"$ target set 1 --param NoSuchKey=1",
	"$ target show 1",
	"$ target show 7",
	"$ target show iqn.2026-11.io.lunar:none",
	"$ account list",
	"< correct horse battery",
	"$ account add alice",
	"< correct horse battery",
	"$ account add alice --allow-existing",
	"< another secret of hers",
	"$ account add alice --allow-existing",
	"< another secret of hers",
	"$ account set-secret alice",
	"< the daemon's own secret",
	"$ account add lunar",
	"$ account bind alice --target 7",
	"$ account bind alice --target 7",
	"$ account bind alice --discovery",
	"$ account bind lunar --target 7 --outgoing",
	"$ account bind nobody --target 7",
	"$ account bind alice",
	"$ account list",
	"$ account unbind alice --discovery",
	"$ account unbind alice --discovery",
	"$ account unbind lunar --target 7 --outgoing --missing-ok",
	"$ account remove alice",
	"< another account's secret",
	"$ account add bob",
	"$ account bind bob --target 7",
	"$ account remove alice",
	"$ account remove alice",
	"$ account remove bob",
	"$ account remove bob --force",
	"$ portal add 127.0.0.1:0 --group 2 --advertise 198.51.100.1:3260",
	"$ portal list",
	"$ portal add nonsense",
	"$ portal remove 192.0.2.1:1",
	"$ portal remove 192.0.2.1:1 --missing-ok",
	"$ system set --nop-interval 20 --nop-count 2",
	"$ system offline",
	"$ system show",
	"$ system online",
	"$ system shutdown --if-empty",
	"$ store list",
	"$ version",
	"login",
	"$ session list",
	"$ session show 1 1",
	"$ session show 1 2",
	"$ session close 1 0",
	"$ session close 1 1 --connection 9",
	"$ stats 1",
	"$ target remove 1",
	"$ target drain 1 --within 1ms",
	"$ target online 1",
	"$ session close 1 1 --missing-ok",
	"$ config show",
	"$ target offline 7",
	"$ lun remove 1 2",
	"$ lun remove 1 2",
	"$ lun remove 1 2 --missing-ok",
	"$ target remove 1 --force",
	"$ target remove 7",
	"$ target remove 7 --missing-ok",
	"$ system shutdown",
	"$ nonsense",
	"$ target nonsense",
	"$ target show",
	"$ target show 1 2",
	"$ lun remove 1",
	"$ target list x",
	"$ target list --no-such-flag",
}

// TestScript runs the script and compares everything that is written, exit statuses and standard error with it.
func TestScript(t *testing.T) {
	r := newRig(t)
	out := r.script(script, func(string) {
		s := r.login(disk, "iqn.1993-08.org.debian:01:host")
		read := cdb.Transfer(cdb.Read10, 0, 8, 0)
		for range 3 {
			if _, err := s.Command(r.ctx(), sam.NewLUN(1), read[:10], nil, 4096); err != nil {
				t.Fatal(err)
			}
		}
	})
	golden(t, "script.txt", out)
	select {
	case <-r.shutdown:
	default:
		t.Error("the daemon was not told to end")
	}
}

// TestJSONOfEveryCommand: each command that shows something has --json, which is one JSON value, with names that the .proto files have.
func TestJSONOfEveryCommand(t *testing.T) {
	r := newRig(t)
	r.ok("target add " + disk + " --lun 1=mem:?size=64M --initiator *")
	r.login(disk, "iqn.2026-11.test:a")
	for line, has := range map[string]string{
		"target list": ".0.spec.name", "target show 1": ".spec.luns", "lun list": ".0.live.luns.1.size", "lun show 1 1": ".live.block_size", "portal list": ".0.bound", "acl list 1": ".0.initiator",
		"acl map list 1": "", "account list": "", "session list": ".0.initiator", "session show 1 1": ".params.max_burst_length", "stats": ".0.live.luns.1.stats.reads", "stats --server-totals": ".logins",
		"system show": ".spec.offline", "store list": ".0.scheme", "version": ".lunard", "config show": ".targets.0.luns.0.volume", "target set 1 --alias x": ".target.alias", "target offline 1": ".target.offline",
		"lun resize 1 1 auto": ".size", "acl add 1 --address ALL": ".rules.1.address", "stats --watch --times 1": ".targets.0.live.uptime",
	} {
		var v any
		out := r.ok(line + " --json")
		if err := json.Unmarshal([]byte(out), &v); err != nil {
			t.Errorf("%s --json: %v\n%s", line, err, out)
			continue
		}
		for _, k := range strings.FieldsFunc(has, func(r rune) bool { return r == '.' }) {
			switch x := v.(type) {
			case []any:
				var i int
				fmt.Sscan(k, &i)
				if i >= len(x) {
					t.Errorf("%s --json has no %s: %s", line, has, out)
					v = nil
				} else {
					v = x[i]
				}
			case map[string]any:
				var ok bool
				if v, ok = x[k]; !ok {
					t.Errorf("%s --json has no %s: %s", line, has, out)
				}
			}
		}
	}
}

// TestWatch: rates are written for each sample, and of what happened in it.
func TestWatch(t *testing.T) {
	r := newRig(t)
	r.ok("target add " + disk + " --lun 1=mem:?size=64M --initiator *")
	out := r.ok("stats --watch --times 2 --interval 100ms")
	if n := strings.Count(out, "READS/S"); n != 2 {
		t.Errorf("%d tables:\n%s", n, out)
	}
	status, _, errOut := r.run("", "stats", "--watch", "--interval", "1ms")
	if status != exitUsage || !strings.Contains(errOut, "is below") {
		t.Errorf("%d, %s", status, errOut)
	}
}

// TestEvents: a change made after the stream began is told, with who made it.
func TestEvents(t *testing.T) {
	r := newRig(t)
	began := make(chan struct{})
	w := &notify{when: "watching", do: func() { close(began) }}
	done := make(chan string)
	go func() {
		var out strings.Builder
		run(r.ctx(), []string{"--server", r.server, "events", "--kind", "target_added,lun_added", "--times", "2"}, nil, &out, w)
		done <- out.String()
	}()
	<-began
	r.ok("target add " + disk)
	r.ok("target set 1 --alias unheard")
	r.ok("lun add 1 5 mem:?size=1M")
	golden(t, "events.txt", <-done)
	if status, _, errOut := r.run("", "events", "--kind", "nonsense"); status != exitUsage || !strings.Contains(errOut, "nonsense") {
		t.Errorf("%d, %s", status, errOut)
	}
}

// A notify is a writer that tells when it was written something.
type notify struct {
	when string
	do   func()
}

func (n *notify) Write(p []byte) (int, error) {
	if strings.Contains(string(p), n.when) {
		n.do()
	}
	return len(p), nil
}

// TestNoDaemon: where nobody answers, that is said, with where, and with a status of its own.
func TestNoDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none")
	var out, errOut strings.Builder
	status := run(t.Context(), []string{"target", "list", "--server", "unix:" + path}, nil, &out, &errOut)
	if status != exitNoServer || !strings.Contains(errOut.String(), "no daemon answers at unix:"+path) || !strings.Contains(errOut.String(), "\nhint: ") || out.Len() != 0 {
		t.Errorf("%d, %q, %q", status, out.String(), errOut.String())
	}
	if said := errOut.String(); !strings.Contains(said, "connect: no such file or directory\n") || strings.Contains(said, "rror while dialing") {
		t.Errorf("what gRPC says of itself is told: %q", said)
	}
	t.Setenv("LUNAR_SERVER", "nonsense")
	errOut.Reset()
	if status := run(t.Context(), []string{"target", "list"}, nil, &out, &errOut); status != exitUsage || !strings.Contains(errOut.String(), `"nonsense": want unix:/PATH`) {
		t.Errorf("%d, %q", status, errOut.String())
	}
	errOut.Reset()
	if status := run(t.Context(), []string{"target", "list", "--server", "tcp:127.0.0.1:1"}, nil, &out, &errOut); status != exitUsage || !strings.Contains(errOut.String(), "mutual TLS") {
		t.Errorf("%d, %q", status, errOut.String())
	}
}

// TestNotAllowed: a socket of another user's says so, and who may. The error is a system's: root, whom tests may run as, would get in.
func TestNotAllowed(t *testing.T) {
	c := &cli{server: "unix:/run/lunar/lunard.sock"}
	err := c.explain(newRoot(), status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing: dial unix /run/lunar/lunard.sock: connect: permission denied"`))
	f, ok := err.(*failure)
	if !ok || f.status != exitNoServer || f.Error() != "unix:/run/lunar/lunard.sock may not be used by this user: dial unix /run/lunar/lunard.sock: connect: permission denied" || !strings.Contains(f.hint, "sudo") {
		t.Errorf("%#v", err)
	}
}

// TestCompletion: names come from the live daemon, with what they are; without one there are none, soon.
func TestCompletion(t *testing.T) {
	r := newRig(t)
	r.ok("target add " + disk + " --lun 3=mem:?size=64M --initiator *")
	r.login(disk, "iqn.2026-11.test:a")
	for line, want := range map[string]string{
		"target show ": disk + "\ttid 1, 1 LUNs", "lun show 1 ": "3\tmem:?size=64M", "session close 1 ": "1\tiqn.2026-11.test:a", "acl add 1 --initiator ": "iqn.2026-11.test:a",
		"portal remove ": r.portal + "\tgroup 1", "events --kind ": "lun_resized", "lun set 1 3 --thin ": "auto", "target list ": "",
	} {
		_, out, _ := r.run("", append([]string{"__complete"}, append(strings.Fields(line), "")...)...)
		if !strings.Contains("\n"+out, "\n"+want) || strings.Contains(out, ":0") {
			t.Errorf("%s: %q, want %q", line, out, want)
		}
	}
	r.server = "unix:" + filepath.Join(t.TempDir(), "none")
	if _, out, _ := r.run("", "__complete", "target", "show", ""); out != ":4\n" {
		t.Errorf("without a daemon: %q", out)
	}
}

// TestConfig: a file is compared, applied, and applied again without effect; mistakes in it are told by line, and change nothing.
func TestConfig(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	first := write("lunar.yaml", `
accounts:
  - {name: alice, secret: not to be seen}
targets:
  - name: iqn.2026-11.io.lunar:disk
    access: [ALL]
    auth: {incoming: [alice]}
    luns:
      - {lun: 1, volume: "mem:?size=64M"}
      - {lun: 2, volume: "mem:?size=32M"}
`)
	var b strings.Builder
	say := func(args ...string) {
		status, out, errOut := r.run("", args...)
		fmt.Fprintf(&b, "$ %s\n%s%s", strings.ReplaceAll(strings.Join(args, " "), dir+"/", ""), strings.ReplaceAll(out, dir+"/", ""), strings.ReplaceAll(errOut, dir+"/", ""))
		if status != 0 {
			fmt.Fprintf(&b, "exit status %d\n", status)
		}
	}
	say("config", "diff", first)
	say("config", "diff", first, "--exit-code")
	say("config", "apply", first, "--dry-run")
	if n := len(r.m.Targets(false)); n != 0 {
		t.Fatalf("a dry run has made %d targets", n)
	}
	say("config", "apply", first)
	say("config", "apply", first)
	say("config", "show")
	// Without accounts in the file, what there is stays, secrets with it.
	second := write("second.yaml", `
targets:
  - name: iqn.2026-11.io.lunar:disk
    alias: another
    access: [ALL]
    auth: {incoming: [alice]}
    luns:
      - {lun: 1, volume: "mem:?size=64M"}
`)
	say("config", "apply", second)
	if d := r.m.Document(); len(d.Accounts) != 1 || d.Accounts[0].Secret != "not to be seen" {
		t.Errorf("the account is %+v", d.Accounts)
	}
	say("config", "apply", write("wrong.yaml", "targets:\n  - name: iqn.2026-11.io.lunar:disk\n    nonsense: 1\n"))
	say("config", "apply", filepath.Join(dir, "none.yaml"))
	say("config", "apply", write("fails.yaml", "targets:\n  - name: iqn.2026-11.io.lunar:a\n  - name: iqn.2026-11.io.lunar:b\n    luns:\n      - {lun: 1, volume: \"file:///no/such/file\"}\n"))
	conf := write("targets.conf", "<target iqn.2026-11.io.lunar:tgt>\n  backing-store "+write("disk.img", strings.Repeat("\x00", 1<<20))+"\n  incominguser bob secretofbobs1\n  initiator-name iqn.x:y\n</target>\n")
	if status, _, said := r.run("", "config", "import", write("wrong.conf", "# lunar\n\nSome other text\n")); status != exitUsage || !strings.Contains(said, "no target in it") {
		t.Errorf("a file that has no target: %d, %q", status, said)
	}
	say("config", "import", conf, "--dry-run")
	say("config", "import", conf)
	say("target", "list")
	say("config", "import", conf, "--print")
	golden(t, "config.txt", strings.ReplaceAll(b.String(), dir, "DIR"))
	if strings.Contains(strings.ReplaceAll(b.String(), "--print", ""), "not to be seen") {
		t.Error("a secret is shown")
	}
}

// TestOverTCP: with certificates a daemon is spoken to over TCP; without, or with the wrong ones, it is not.
func TestOverTCP(t *testing.T) {
	r := newRig(t)
	hour := time.Now().Add(time.Hour)
	servers, clients := certs.New(t, "servers"), certs.New(t, "clients")
	server, alice, mallory := servers.Issue(t, "lunard", hour), clients.Issue(t, "alice", hour), servers.Issue(t, "mallory", hour)
	s, err := grpcd.New(r.m, grpcd.Config{TLS: &grpcd.TLSFiles{Cert: server.Cert, Key: server.Key, ClientCA: clients.File}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := grpcd.Listen("tcp:127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	defer func() {
		s.Stop(r.ctx())
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	r.server = l.String()
	t.Setenv("LUNAR_TLS_CA", servers.File)
	t.Setenv("LUNAR_TLS_CERT", alice.Cert)
	if status, out, errOut := r.run("", "target", "list", "--tls-key", alice.Key); status != 0 {
		t.Errorf("alice: %d %s %s", status, out, errOut)
	}
	for _, c := range []struct {
		name, want string
		args       []string
	}{
		// The daemon ends the connection: whether we read why before we notice is a matter of luck.
		{"whom the daemon does not know", "our certificate", []string{"--tls-key", mallory.Key, "--tls-cert", mallory.Cert}},
		{"who does not know the daemon", "failed to verify certificate", []string{"--tls-key", alice.Key, "--tls-ca", clients.File}},
	} {
		if status, _, errOut := r.run("", append([]string{"target", "list"}, c.args...)...); status != exitNoServer || !strings.Contains(errOut, c.want) {
			t.Errorf("one %s: %d %s", c.name, status, errOut)
		}
	}
	if status, _, errOut := r.run("", "target", "list", "--tls-key", mallory.Key); status != exitUsage || !strings.Contains(errOut, "private key does not match") {
		t.Errorf("a key of another certificate: %d %s", status, errOut)
	}
}

// TestStatsAgree: what stats and session show is what the initiator has done and got.
func TestStatsAgree(t *testing.T) {
	r := newRig(t)
	r.ok("target add " + disk + " --lun 1=mem:?size=64M --initiator *")
	s := r.login(disk, "iqn.2026-11.test:a")
	lun := sam.NewLUN(1)
	good := func(c []byte, out []byte, in int) {
		t.Helper()
		for range 2 { // the first meets the unit attention of a new nexus
			res, err := s.Command(r.ctx(), lun, c, out, in)
			if err != nil {
				t.Fatal(err)
			}
			if res.Status == sam.Good {
				return
			}
		}
		t.Fatalf("% x does not end GOOD", c)
	}
	good([]byte{cdb.TestUnitReady, 0, 0, 0, 0, 0}, nil, 0)
	const reads, writes = 5, 3
	for i := range reads {
		c := cdb.Transfer(cdb.Read10, uint64(i), 8, 0)
		good(c[:10], nil, 4096)
	}
	for i := range writes {
		c := cdb.Transfer(cdb.Write10, uint64(i), 16, 0)
		good(c[:10], make([]byte, 8192), 0)
	}
	beyond := cdb.Transfer(cdb.Read10, 1<<31, 8, 0)
	if res, err := s.Command(r.ctx(), lun, beyond[:10], nil, 4096); err != nil || res.Status == sam.Good {
		t.Fatal(res, err)
	}
	type counts struct {
		Lun, Reads, Writes, Errors uint64
		ReadBytes                  uint64 `json:"read_bytes"`
		WriteBytes                 uint64 `json:"write_bytes"`
		ReadsFailed                uint64 `json:"reads_failed"`
	}
	want := counts{1, reads, writes, 2, reads * 4096, writes * 8192, 1}
	var totals []struct {
		Live struct {
			Luns []struct {
				Stats       counts
				Errors      map[string]uint64
				ReadLatency struct {
					Buckets []struct{ Count uint64 }
				} `json:"read_latency"`
			}
		}
	}
	if err := json.Unmarshal([]byte(r.ok("stats --json")), &totals); err != nil {
		t.Fatal(err)
	}
	l := totals[0].Live.Luns[1]
	var timed uint64
	for _, b := range l.ReadLatency.Buckets {
		timed += b.Count
	}
	if l.Stats != want || l.Errors["5/21/00"] != 1 || timed != reads && timed != reads+1 {
		t.Errorf("stats tell %+v, %v, %d reads timed; want %+v", l.Stats, l.Errors, timed, want)
	}
	var session struct {
		Luns        []counts
		Connections []struct {
			Commands uint64
			RxData   uint64 `json:"rx_data"`
			TxData   uint64 `json:"tx_data"`
		}
	}
	if err := json.Unmarshal([]byte(r.ok("session show 1 1 --json")), &session); err != nil {
		t.Fatal(err)
	}
	if session.Luns[1] != want {
		t.Errorf("the session tells %+v, want %+v", session.Luns[1], want)
	}
	if c := session.Connections[0]; c.Commands != reads+writes+3 || c.RxData != writes*8192 || c.TxData < reads*4096 {
		t.Errorf("the connection tells %+v", c)
	}
}
