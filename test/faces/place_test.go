package faces

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/deps"
)

const (
	patience = 30 * time.Second // of one command, on a busy machine
	iqn      = daemon.Prefix + "faces-"
)

// A place is a lunard with every face.
type place struct {
	*testing.T
	*daemon.Daemon
	dir      string // short, for the sockets
	args     []string
	scrape   string // URL of the metrics
	lunarctl string
	tgtadm   *deps.Tool
}

// newPlace starts lunard with all faces, state that is saved, and args.
func newPlace(t *testing.T, args ...string) *place {
	t.Helper()
	dir, err := os.MkdirTemp("", "faces")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &place{T: t, dir: dir, tgtadm: deps.Find(t, "tgtadm"), lunarctl: daemon.Lunarctl(t)}
	p.args = append([]string{"--state-dir=" + p.path("state"), "--listen-admin=unix:" + p.path("admin"), "--tgt-socket=" + p.path("tgt"), "--metrics=127.0.0.1:0"}, args...)
	p.start("127.0.0.1:0")
	return p
}

func (p *place) path(name string) string { return filepath.Join(p.dir, name) }

var metricsAt = regexp.MustCompile(`msg=metrics address="?([0-9.:]+)`)

// start starts lunard at a portal.
func (p *place) start(portal string) {
	p.Helper()
	p.Daemon = daemon.StartAt(p.T, portal, p.args...)
	m := metricsAt.FindStringSubmatch(p.Log())
	if m == nil {
		p.Fatal("lunard does not say where its metrics are")
	}
	p.scrape = "http://" + m[1] + "/metrics"
}

// again kills lunard and starts it where it was.
func (p *place) again() {
	p.Helper()
	p.Kill(p.T)
	p.start(p.Addr)
}

// file makes a sparse file.
func (p *place) file(name string, size int64) string {
	p.Helper()
	path := p.path(name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		p.Fatal(err)
	}
	p.truncate(path, size)
	return path
}

func (p *place) truncate(path string, size int64) {
	p.Helper()
	if err := os.Truncate(path, size); err != nil {
		p.Fatal(err)
	}
}

// ctl runs lunarctl, which has to succeed.
func (p *place) ctl(args ...string) string {
	p.Helper()
	out, said, status := p.run(exec.Command(p.lunarctl, append([]string{"--server=unix:" + p.path("admin")}, args...)...))
	if status != 0 {
		p.Fatalf("lunarctl %s: status %d\n%s%s", strings.Join(args, " "), status, out, said)
	}
	return out
}

// ctlRefused runs lunarctl, which has to fail and say words.
func (p *place) ctlRefused(words string, args ...string) {
	p.Helper()
	out, said, status := p.run(exec.Command(p.lunarctl, append([]string{"--server=unix:" + p.path("admin")}, args...)...))
	if status == 0 || !strings.Contains(said, words) {
		p.Errorf("lunarctl %s: status %d, want %q\n%s%s", strings.Join(args, " "), status, words, out, said)
	}
}

// adm runs Debian's tgtadm, which has to succeed. line is split at blanks.
func (p *place) adm(line string) string {
	p.Helper()
	c := p.tgtadm.Command(p.Context(), append([]string{"--lld", "iscsi"}, strings.Fields(line)...)...)
	c.Env = append(c.Env, "TGT_IPC_SOCKET="+p.path("tgt"))
	out, said, status := p.run(c)
	if status != 0 {
		p.Fatalf("tgtadm %s: status %d\n%s%s", line, status, out, said)
	}
	return out
}

func (p *place) run(c *exec.Cmd) (out, said string, status int) {
	p.Helper()
	var o, e bytes.Buffer
	c.Stdout, c.Stderr = &o, &e
	if err := c.Start(); err != nil {
		p.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() { _ = c.Process.Kill() })
	_ = c.Wait() // what matters of it is the status
	if !timer.Stop() {
		p.Fatalf("%s: no end within %v", strings.Join(c.Args, " "), patience)
	}
	return o.String(), e.String(), c.ProcessState.ExitCode()
}

// jsonOf runs lunarctl --json into v.
func (p *place) jsonOf(v any, args ...string) {
	p.Helper()
	out := p.ctl(append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		p.Fatalf("lunarctl %s: %v in\n%s", strings.Join(args, " "), err, out)
	}
}

// metrics scrapes: values by series, labels in the order in which they are shown.
func (p *place) metrics() map[string]float64 {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.scrape, nil)
	if err != nil {
		p.Fatal(err)
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		p.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		p.Fatalf("%v %s\n%s", err, r.Status, body)
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(body)) {
		if i := strings.LastIndexByte(line, ' '); i > 0 && line[0] != '#' {
			if out[line[:i]], err = strconv.ParseFloat(strings.TrimSpace(line[i:]), 64); err != nil {
				p.Fatalf("%q: %v", line, err)
			}
		}
	}
	return out
}

// ctx bounds what initiators do.
func (p *place) ctx() context.Context {
	ctx, cancel := context.WithTimeout(p.Context(), patience)
	p.Cleanup(cancel)
	return ctx
}

// login logs initiator n in.
func (p *place) login(n byte, target string, change ...func(*initiator.Options)) *initiator.Session {
	p.Helper()
	o := initiator.Options{Portal: p.Addr, TargetName: target, InitiatorName: fmt.Sprintf("%sinitiator%d", iqn, n), ISID: [6]byte{0x80, 0, 0, 0, 0, n}}
	for _, f := range change {
		f(&o)
	}
	s, err := initiator.Login(p.ctx(), o)
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { s.Close() })
	return s
}

// secret makes an account with lunarctl, which reads the secret from its standard input.
func (p *place) secret(name string) {
	p.Helper()
	c := exec.Command(p.lunarctl, "--server=unix:"+p.path("admin"), "account", "add", name)
	c.Stdin = strings.NewReader(accounts[name] + "\n")
	if out, said, status := p.run(c); status != 0 {
		p.Fatalf("account %s: status %d\n%s%s", name, status, out, said)
	}
}

// tid asks lunarctl for the number of a target.
func (p *place) tid(name string) string {
	p.Helper()
	var list []targetStats
	p.jsonOf(&list, "stats", name)
	if len(list) != 1 {
		p.Fatalf("%d targets of the name %s", len(list), name)
	}
	return strconv.Itoa(list[0].TID)
}

// be is a number in network byte order.
func be(b []byte) (n uint64) {
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}
