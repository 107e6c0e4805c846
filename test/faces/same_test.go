package faces

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
)

// The accounts of these tests; Windows and open-iscsi want secrets of 12 bytes and more.
var accounts = map[string]string{"of-conf": "secret-of-targets.conf", "of-yaml": "secret of the file", "of-tgt": "secret-of-tgtadm", "of-grpc": "secret of lunarctl"}

// seen is what an initiator sees of one disk.
type seen struct {
	inquiry, serial, names []byte // standard INQUIRY, VPD pages 80h and 83h
	blocks                 []byte // READ CAPACITY(16)
	data                   []byte // what its first block holds
}

// disks are the targets of the test with their disks, and the account that each wants.
var disks = []struct {
	target, user string
	luns         []uint16
}{
	{iqn + "conf", "of-conf", []uint16{1, 2}},
	{iqn + "yaml", "of-yaml", []uint16{1, 7}},
	{iqn + "tgt", "of-tgt", []uint16{1, 2}},
	{iqn + "grpc", "of-grpc", []uint16{3}},
}

// look logs in everywhere and sees what is there. With mark it writes a block of its own to every disk first.
func (p *place) look(mark bool) map[string]seen {
	p.Helper()
	out := map[string]seen{}
	for _, d := range disks {
		s := p.login(1, d.target, func(o *initiator.Options) {
			o.CHAP = &initiator.CHAP{Name: d.user, Secret: []byte(accounts[d.user])}
		})
		for _, lun := range d.luns {
			key := fmt.Sprintf("%s LUN %d", d.target, lun)
			read := func(b []byte, n int) []byte {
				p.Helper()
				for range 8 { // unit attentions
					res, err := s.Command(p.ctx(), sam.NewLUN(lun), b, nil, n)
					if err != nil {
						p.Fatal(key, err)
					}
					if res.Err() == nil {
						return res.Data
					}
					if key, _, _, _ := initiator.SenseFields(res.Sense); key != 6 {
						p.Fatalf("%x: %v", b, res.Err())
					}
				}
				p.Fatalf("%s: unit attentions without an end", key)
				return nil
			}
			read(initiator.TestUnitReady(), 0)
			size := read(initiator.ReadCapacity16(32), 32)
			block := int(be(size[8:12]))
			if mark {
				b := cdb.Transfer(cdb.Write10, 0, 1, 0)
				res, err := s.Command(p.ctx(), sam.NewLUN(lun), b[:10], fmt.Appendf(nil, "%-*s", block, key), 0)
				if err != nil || res.Err() != nil {
					p.Fatal(key, err, res.Err())
				}
			}
			first := cdb.Transfer(cdb.Read10, 0, 1, 0)
			out[key] = seen{read(initiator.Inquiry(96), 96), read(initiator.InquiryVPD(0x80, 255), 255), read(initiator.InquiryVPD(0x83, 255), 255),
				size, read(first[:10], block)}
		}
		if err := s.Logout(p.ctx()); err != nil {
			p.Fatal(err)
		}
	}
	return out
}

// shown is what each face shows of all that is set.
type shown struct{ tgt, accounts, document, yaml string }

func (p *place) shown() shown {
	p.Helper()
	return shown{p.adm("--op show --mode target"), p.adm("--op show --mode account"), p.ctl("config", "show", "--json"), p.ctl("config", "show")}
}

// difference is the first line that differs; the port that the system has chosen for a portal aside.
func difference(got, want shown) string {
	g, w := strings.Split(fmt.Sprint(got), "\n"), strings.Split(fmt.Sprint(want), "\n")
	for i := range max(len(g), len(w)) {
		a, b := "", ""
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b && !(strings.Contains(a, "127.0.0.1:") && strings.Contains(b, "127.0.0.1:0")) {
			return fmt.Sprintf("%q where there was %q", a, b)
		}
	}
	return ""
}

// withSecrets is what `lunarctl config show` writes, with the secrets that it leaves out.
func withSecrets(p *place, yaml string) string {
	p.Helper()
	const hidden = `secret: "<hidden>"`
	lines := strings.Split(yaml, "\n")
	for i := range lines {
		if strings.TrimSpace(lines[i]) == hidden {
			secret, ok := accounts[strings.TrimPrefix(strings.TrimSpace(lines[i-1]), "- name: ")]
			if !ok {
				p.Fatalf("a secret of nobody's in\n%s", yaml)
			}
			lines[i] = strings.Replace(lines[i], "<hidden>", secret, 1)
		}
	}
	return strings.Join(lines, "\n")
}

func (p *place) text(name, text string) string {
	p.Helper()
	if err := os.WriteFile(p.path(name), []byte(text), 0o600); err != nil {
		p.Fatal(err)
	}
	return p.path(name)
}

// build sets something through every face.
func (p *place) build() {
	p.Helper()
	p.ctl("config", "import", p.text("targets.conf", fmt.Sprintf(`
<target %sconf>
	<backing-store %s>
	</backing-store>
	<backing-store %s>
		vendor_id CONFVEND
		write-cache off
	</backing-store>
	initiator-address 127.0.0.1
	incominguser of-conf %s
	MaxRecvDataSegmentLength 16384
</target>
`, iqn, p.file("conf1", 1<<20), p.file("conf2", 2<<20), accounts["of-conf"])))
	p.ctl("config", "apply", p.text("lunar.yaml", fmt.Sprintf(`
keep: true
accounts:
  - name: of-yaml
    secret: %s
targets:
  - name: %syaml
    alias: from a file
    access:
      - initiator: "%s*"
        no-reset: true
    auth:
      incoming: [of-yaml]
    luns:
      - lun: 1
        volume: file://%s?size=3M
        serial: YAML-1
      - lun: 4
        volume: file://%s?size=4M
        block-size: 4096
    lun-maps:
      - initiator: "%sinitiator1"
        luns:
          - {as: 1, lun: 1}
          - {as: 7, lun: 4}
`, accounts["of-yaml"], iqn, iqn, p.path("yaml1"), p.path("yaml2"), iqn)))
	tgt := iqn + "tgt"
	p.adm("--op new --mode target --tid 9 -T " + tgt)
	p.adm("--op new --mode logicalunit --tid 9 --lun 1 -b " + p.file("tgt1", 5<<20))
	p.adm("--op new --mode logicalunit --tid 9 --lun 2 -b " + p.file("tgt2", 6<<20))
	p.adm("--op update --mode logicalunit --tid 9 --lun 2 --params vendor_id=TGTVEND,product_id=Product,scsi_id=by-tgt,scsi_sn=tgt-sn")
	p.adm("--op update --mode target --tid 9 --name MaxBurstLength --value 131072")
	p.adm("--op bind --mode target --tid 9 -I ALL")
	p.adm("--op new --mode account --user of-tgt --password " + accounts["of-tgt"])
	p.adm("--op bind --mode account --tid 9 --user of-tgt")
	grpc := iqn + "grpc"
	p.secret("of-grpc")
	p.ctl("target", "add", grpc, "--alias=from lunarctl", "--lun=3=file://"+p.path("grpc3")+"?size=7M", "--address=127.0.0.0/8", "--param=FirstBurstLength=65536")
	p.ctl("account", "bind", "of-grpc", "--target", grpc)
}

// What is set through one face is seen the same through every other, is changed there, and is served again after a kill -9, with the same names
// and data.
func TestFacesSeeTheSame(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.build()
	first := p.look(true)
	p.consistent("as made")
	// Each changes what another has made.
	grpc := iqn + "grpc"
	p.adm("--op update --mode target --tid " + p.tid(grpc) + " --name MaxOutstandingR2T --value 4")
	p.adm("--op new --mode logicalunit --tid " + p.tid(grpc) + " --lun 8 -b " + p.file("grpc8", 1<<20))
	p.ctl("lun", "resize", iqn+"conf", "2", "3M")
	p.truncate(p.path("tgt1"), 8<<20)
	p.ctl("lun", "resize", "9", "1", "auto")
	p.truncate(p.path("conf1"), 4<<20)
	p.adm("--op update --mode logicalunit --tid " + p.tid(iqn+"conf") + " --lun 1 --params disksize=auto")
	p.ctl("config", "apply", p.text("more.yaml", fmt.Sprintf("keep: true\nsystem:\n  nop-interval: 7\n  nop-count: 3\ntargets:\n  - name: %smore\n    access: [ALL]\n", iqn)))
	p.consistent("as changed")
	want, names := p.shown(), p.look(false)
	for key, d := range names {
		if was := first[key]; !bytes.Equal(d.serial, was.serial) || !bytes.Equal(d.names, was.names) || !bytes.Equal(d.data, was.data) {
			t.Errorf("%s is another disk after it was changed: %q, was %q", key, d, was)
		}
		if !strings.HasPrefix(string(d.data), key) {
			t.Errorf("%s holds %q", key, d.data)
		}
	}
	for key, size := range map[string]uint64{"conf LUN 1": 4, "conf LUN 2": 3, "yaml LUN 1": 3, "yaml LUN 7": 4, "tgt LUN 1": 8, "tgt LUN 2": 6, "grpc LUN 3": 7} {
		b := names[iqn+key].blocks
		if got := (be(b[:8]) + 1) * be(b[8:12]); got != size<<20 {
			t.Errorf("%s has %d bytes, want %d MiB", key, got, size)
		}
	}
	p.again()
	p.consistent("after kill -9")
	if d := difference(p.shown(), want); d != "" {
		t.Errorf("after kill -9 the faces show %s", d)
	}
	again := p.look(false)
	for key, d := range names {
		if was := again[key]; fmt.Sprint(was) != fmt.Sprint(d) {
			t.Errorf("%s is after kill -9\n%q, was\n%q", key, was, d)
		}
	}
}

// consistent holds the faces against each other.
func (p *place) consistent(when string) {
	p.Helper()
	s := p.shown()
	var doc struct {
		Targets []struct {
			TID    int    `json:"tid"`
			Name   string `json:"name"`
			Access []struct{ Initiator, Address string }
			LUNs   []struct {
				Number uint16 `json:"number"`
				TgtIs  *struct {
					Path string `json:"path"`
				} `json:"tgt"`
			} `json:"luns"`
			Auth *struct {
				Incoming []string `json:"incoming"`
			} `json:"auth"`
		} `json:"targets"`
	}
	if err := json.Unmarshal([]byte(s.document), &doc); err != nil {
		p.Fatal(err)
	}
	metrics := p.metrics()
	if n := metrics["lunar_targets"]; int(n) != len(doc.Targets) || strings.Count(s.tgt, "\nTarget ")+1 != len(doc.Targets) {
		p.Errorf("%s: %d targets are set, the metrics have %v, tgtadm %d", when, len(doc.Targets), n, strings.Count(s.tgt, "\nTarget ")+1)
	}
	parts := strings.Split("\n"+s.tgt, "\nTarget ")
	for i, t := range doc.Targets {
		part := parts[i+1] + "\n"
		if !strings.HasPrefix(part, fmt.Sprintf("%d: %s\n", t.TID, t.Name)) || strings.Count(part, "        LUN: ") != len(t.LUNs)+1 {
			p.Errorf("%s: target %d %s with %d LUNs is to tgtadm\n%s", when, t.TID, t.Name, len(t.LUNs), part)
		}
		for _, l := range t.LUNs {
			if !strings.Contains(part, fmt.Sprintf("        LUN: %d\n", l.Number)) || l.TgtIs != nil && !strings.Contains(part, "Backing store path: "+l.TgtIs.Path+"\n") {
				p.Errorf("%s: LUN %d is to tgtadm\n%s", when, l.Number, part)
			}
		}
		for _, a := range t.Access {
			if !strings.Contains(part, "        "+a.Address+a.Initiator+"\n") {
				p.Errorf("%s: tgtadm does not show %v of\n%s", when, a, part)
			}
		}
		if t.Auth != nil {
			for _, user := range t.Auth.Incoming {
				if !strings.Contains(part, "Account information:\n        "+user+"\n") || !strings.Contains(s.accounts, user) {
					p.Errorf("%s: tgtadm does not show account %s of\n%s", when, user, part)
				}
			}
		}
	}
	// What is written as a file is what is set.
	file := p.text("shown.yaml", withSecrets(p, s.yaml))
	if out := p.ctl("config", "diff", file); strings.TrimSpace(out) != "" && !strings.Contains(out, "nothing") {
		p.Errorf("%s: `config show` is not what is set:\n%s", when, out)
	}
	if out := p.ctl("config", "apply", file); strings.TrimSpace(out) != "" && !strings.Contains(out, "nothing") {
		p.Errorf("%s: applying what is set changed something:\n%s", when, out)
	}
	if d := difference(p.shown(), s); d != "" {
		p.Errorf("%s: applying what is set has made %s", when, d)
	}
}
