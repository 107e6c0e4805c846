package tgt

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/deps"
)

// installed runs `make install install-tgt` below a folder that is not the module's, and returns it.
func installed(t *testing.T) (prefix string) {
	t.Helper()
	prefix = t.TempDir()
	gomod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("make", "-s", "install", "install-tgt", "PREFIX="+prefix, "BIN="+filepath.Join(prefix, "built"), "DESTDIR=",
		"TGTADMIN="+deps.Find(t, "tgt-admin").Path)
	c.Dir = filepath.Dir(strings.TrimSpace(string(gomod)))
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("make install: %v\n%s", err, out)
	}
	return prefix
}

func unit(t *testing.T, prefix, name string) (path, text string) {
	t.Helper()
	path = filepath.Join(prefix, "lib/systemd/system", name)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, string(b)
}

// directives are the values of a unit's lines of one name, in order.
func directives(text, name string) (values []string) {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			values = append(values, v)
		}
	}
	return values
}

// The units are what systemd takes without a word, and lunard's own is confined.
func TestUnits(t *testing.T) {
	prefix := installed(t)
	analyze := deps.Find(t, "systemd-analyze")
	for _, name := range []string{"lunard.service", "tgt.service"} {
		path, text := unit(t, prefix, name)
		if strings.Contains(text, "@bindir@") || strings.Contains(text, "@sbindir@") || strings.Contains(text, "@tgtadmin@") {
			t.Errorf("%s: a path that was not filled in:\n%s", name, text)
		}
		if out, err := analyze.Command(t.Context(), "verify", "--man=no", path).CombinedOutput(); err != nil || len(out) != 0 {
			t.Errorf("systemd-analyze verify %s: %v\n%s", name, err, out)
		}
	}
	path, text := unit(t, prefix, "lunard.service")
	if out, err := analyze.Command(t.Context(), "security", "--offline=yes", "--no-pager", "--threshold=30", path).CombinedOutput(); err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
	// Each flag that it gives is one that lunard has.
	help := daemon.Run(t, "--help").Stdout
	flags := regexp.MustCompile(`--[a-z][a-z-]*`).FindAllString(strings.Join(directives(text, "ExecStart"), " "), -1)
	if len(flags) == 0 {
		t.Errorf("no flag in %q", directives(text, "ExecStart"))
	}
	for _, f := range flags {
		if !regexp.MustCompile(`(?m)^ +` + f + `\b`).MatchString(help) {
			t.Errorf("lunard has no %s; its help:\n%s", f, help)
		}
	}
}

const unitConf = `
default-driver iscsi
<target iqn.2026-01.com.example:unit>
    backing-store DIR/unit.img
    PARAM
</target>
`

// The unit's lines in systemd's order, without systemd: start, reload with a changed file, stop with an initiator there. Debian's
// own unit, too, which has to do for whoever only puts lunard where tgtd was.
func TestUnitSequence(t *testing.T) {
	prefix := installed(t)
	_, text := unit(t, prefix, "tgt.service")
	units := map[string]string{"ours": text, "Debian's": debianUnit}
	for _, kind := range []string{"Debian's", "ours"} {
		text := units[kind]
		t.Run(kind, func(t *testing.T) {
			each(t, func(p *plant) {
				lines := func(name string) (list []string) {
					for _, l := range directives(text, name) {
						program, rest, _ := strings.Cut(l, " ")
						list = append(list, filepath.Base(program)+" "+strings.ReplaceAll(rest, "/etc/tgt/targets.conf", p.dir+"/targets.conf"))
					}
					if len(list) == 0 {
						p.Fatalf("no %s in\n%s", name, text)
					}
					return list
				}
				if l := lines("ExecStart"); l[0] != "tgtd -f" {
					p.Errorf("the unit starts %q; this test starts tgtd -f", l)
				}
				p.file("unit.img", 1<<20)
				conf := func(line string) {
					p.text("targets.conf", strings.ReplaceAll(strings.ReplaceAll(unitConf, "DIR", p.dir), "PARAM", line))
				}
				conf("")
				for i, l := range lines("ExecStartPost") {
					if _, err := p.tryLogin(initiator.Options{TargetName: "iqn.2026-01.com.example:unit"}); err == nil {
						p.Errorf("an initiator got in before step %d of the start", i)
					}
					p.do(l)
				}
				if out := p.do("tgtadm --mode target --op show"); !strings.Contains(out, p.dir+"/unit.img") {
					p.Errorf("not served after the start:\n%s", out)
				}
				p.login(initiator.Options{TargetName: "iqn.2026-01.com.example:unit"}).Close()
				// In use, or not any more: the reload works either way once the connection is known to have gone.
				p.quiet("until ! tgtadm --mode conn --op show --tid 1 | grep -q Session; do :; done")
				conf("vendor_id RELOADED")
				for _, l := range lines("ExecReload") {
					p.do(l)
				}
				s := p.login(initiator.Options{TargetName: "iqn.2026-01.com.example:unit"})
				for _, l := range lines("ExecStop") {
					p.do(l)
				}
				waitEnd(p, s)
				if r := p.run("tgtadm --mode system --op show"); r.status != 107 {
					p.Errorf("after the stop: %+v", r)
				}
			})
		})
	}
}

// A daemon that was killed is started again and set up again, as Restart=on-failure has it: what the file says is there once, its
// discovery user among it, at which tgt-admin stops when it finds it bound already.
func TestUnitRestart(t *testing.T) {
	eachOn(t, nil, "", func(p *plant) {
		p.file("unit.img", 1<<20)
		p.text("targets.conf", "incomingdiscoveryuser disco discopass1234\n"+strings.ReplaceAll(strings.ReplaceAll(unitConf, "DIR", p.dir), "PARAM", "incominguser u secretsecret12"))
		for range 3 {
			p.start("--iscsi", "portal=127.0.0.1:0")
			p.findPortal("0")
			for _, l := range directives(debianUnit, "ExecStartPost") {
				program, rest, _ := strings.Cut(l, " ")
				p.do(filepath.Base(program) + " " + strings.ReplaceAll(rest, "/etc/tgt/targets.conf", p.dir+"/targets.conf"))
			}
			p.do("tgtadm --mode target --op show")
			p.do("tgtadm --mode system --op show")
			p.do("tgtadm --mode account --op show")
			p.login(initiator.Options{TargetName: "iqn.2026-01.com.example:unit", CHAP: &initiator.CHAP{Name: "u", Secret: []byte("secretsecret12")}})
			p.kill()
		}
	})
}

// debianUnit are the commands of Debian 12's tgt.service.
const debianUnit = `
ExecStart=/usr/sbin/tgtd -f
ExecStartPost=/usr/sbin/tgtadm --op update --mode sys --name State -v offline
ExecStartPost=/usr/sbin/tgt-admin -e -c /etc/tgt/targets.conf
ExecStartPost=/usr/sbin/tgtadm --op update --mode sys --name State -v ready
ExecStop=/usr/sbin/tgtadm --op update --mode sys --name State -v offline
ExecStop=/usr/sbin/tgt-admin --offline ALL
ExecStop=/usr/sbin/tgt-admin --update ALL -c /dev/null -f
ExecStop=/usr/sbin/tgtadm --op delete --mode system
ExecReload=/usr/sbin/tgt-admin --update ALL -c /etc/tgt/targets.conf
`
