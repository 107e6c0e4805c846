package config

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/test/deps"
)

// A tgtAdmin is Debian's tgt-admin, which prints what it would have tgtadm do.
type tgtAdmin struct {
	script, lib, bin string
}

func findTgtAdmin(t *testing.T) *tgtAdmin {
	t.Helper()
	tool := deps.Find(t, "tgt-admin")
	if _, err := exec.LookPath("perl"); err != nil {
		deps.Skip(t, "no perl, which tgt-admin is written in")
	}
	if os.Geteuid() != 0 {
		deps.Skip(t, "tgt-admin runs as root only")
	}
	// A daemon that serves nothing, devices that say nothing of themselves, and files that nobody uses.
	bin := t.TempDir()
	for name, text := range map[string]string{"tgtadm": "exit 0", "sg_inq": "exit 1", "sg_readcap": "exit 1", "lsof": "exit 1"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(deps.Dir(), "root")
	return &tgtAdmin{script: tool.Path, lib: filepath.Join(root, "usr/share/perl5"), bin: bin}
}

// run returns what is printed, and whether tgt-admin did without complaint.
func (a *tgtAdmin) run(t *testing.T, conf string) (string, bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := exec.CommandContext(ctx, "perl", a.script, "-e", "-p", "-c", conf)
	cmd.Dir = filepath.Dir(conf)
	cmd.Env = append(os.Environ(), "PERL5LIB="+a.lib, "PATH="+a.bin+":"+os.Getenv("PATH"))
	out, err := cmd.Output()
	return string(out), err == nil
}

// A confMaker writes random configurations of what tgt-admin knows, in the many ways in which they can be written.
type confMaker struct {
	*rand.Rand
	dir  string
	b    strings.Builder
	tids []int
}

func (m *confMaker) yes() bool { return m.IntN(3) == 0 }

func (m *confMaker) one(list ...string) string { return list[m.IntN(len(list))] }

// line writes a key and its value.
func (m *confMaker) line(key, value string) {
	indent := m.one("", "  ", "\t")
	switch m.IntN(9) {
	case 0:
		fmt.Fprintf(&m.b, "%s%s = %s\n", indent, key, value)
	case 1:
		fmt.Fprintf(&m.b, "%s%s \"%s\"\n", indent, key, value)
	case 2:
		fmt.Fprintf(&m.b, "%s%s   %s # why\n", indent, key, value)
	case 3:
		fmt.Fprintf(&m.b, "%s%s \\\n   %s\n", indent, key, value)
	case 4:
		fmt.Fprintf(&m.b, "/* left\n out */\n%s%s %s /* and this */\n", indent, key, value)
	case 5:
		fmt.Fprintf(&m.b, "%s%s <<END\n    %s\n    END\n", indent, key, value)
	default:
		fmt.Fprintf(&m.b, "%s%s %s\n", indent, key, value)
	}
}

// options writes directives of a LUN, each at most once but for those that may be more.
func (m *confMaker) options(inBlock bool) {
	all := [][2]string{
		{"vendor_id", m.one("ACME", "VERYLONGVENDOR")}, {"product_id", "Disk Two"}, {"product_rev", "1.0"}, {"scsi_id", "ID-1"}, {"scsi_sn", "SN1"},
		{"sense_format", "1"}, {"removable", m.one("0", "1")}, {"readonly", m.one("0", "1", "yes")}, {"online", m.one("0", "1")},
		{"lbppbe", "3"}, {"la_lba", "1"}, {"optimal_xfer_gran", "8"}, {"optimal_xfer_len", "64"},
		{"write-cache", m.one("on", "off")}, {"bs-type", m.one("rdwr", "aio", "rdwr")}, {"bsopts", "a=b"}, {"allow-in-use", m.one("yes", "no")}, {"device-type", "disk"},
		{"params", m.one("thin_provisioning=1", "rotation_rate=7200,thin_provisioning=0")}, {"mode_page", "2:0:14:0x80:0"}, {"nonsense", "1"},
	}
	if inBlock {
		all = append(all, [2]string{"block-size", m.one("512", "4096", "513")})
	}
	for _, o := range all {
		if m.IntN(8) == 0 {
			m.line(o[0], o[1])
		}
	}
}

func (m *confMaker) target(name string) {
	stores := []string{"disk4.img", "disk5.img", "disk6.img", "tiny.img", "a b.img"}
	m.Shuffle(len(stores), func(i, j int) { stores[i], stores[j] = stores[j], stores[i] })
	fmt.Fprintf(&m.b, m.one("<target %s>\n", "<target \"%s\">\n", "  <target   %s>  \n"), name)
	if m.yes() {
		tid := 1 + m.IntN(50)
		if !slices.Contains(m.tids, tid) {
			m.tids = append(m.tids, tid)
			m.line("controller_tid", fmt.Sprint(tid))
		}
	}
	m.options(false)
	used := stores[:m.IntN(len(stores))]
	reserved := map[int]bool{}
	if m.yes() {
		for _, s := range used {
			m.line("backing-store", m.dir+"/"+s)
		}
	} else {
		for _, s := range used {
			kind := m.one("backing-store", "backing-store", "direct-store")
			fmt.Fprintf(&m.b, "<%s \"%s/%s\">\n", kind, m.dir, s)
			if lun := 1 + m.IntN(6); m.yes() && !reserved[lun] {
				reserved[lun] = true
				m.line("lun", fmt.Sprint(lun))
			}
			m.options(true)
			fmt.Fprintf(&m.b, "</%s>\n", kind)
		}
	}
	for i := range m.IntN(3) {
		m.line("incominguser", fmt.Sprintf("user%d secret%d", i, i))
	}
	if m.yes() {
		m.line("outgoinguser", "us outsecret")
	}
	for _, a := range []string{"ALL", "192.0.2.0/24", "10.0.0.1"} {
		if m.yes() {
			m.line("initiator-address", a)
		}
	}
	if m.yes() {
		m.line("initiator-name", "iqn.2026-01.com.example:host")
	}
	for _, p := range [][2]string{{"HeaderDigest", "CRC32C"}, {"MaxBurstLength", "131072"}, {"InitialR2T", "No"}, {"MaxConnections", "1"}, {"state", "offline"}, {"nop_interval", "5"}, {"MaxQueueCmd", "64"}} {
		if m.yes() {
			m.line(p[0], p[1])
		}
	}
	m.b.WriteString("</target>\n")
}

func (m *confMaker) file() string {
	m.b.Reset()
	m.tids = nil
	if m.yes() {
		m.line("default-driver", "iscsi")
	}
	if m.yes() {
		m.line("iSNSAccessControl", m.one("On", "Off"))
	}
	if m.yes() {
		m.line("incomingdiscoveryuser", "disco discopass1234")
	}
	for _, n := range m.Perm(4)[:m.IntN(4)] {
		m.target(fmt.Sprintf("iqn.2026-01.com.example:t%d", n))
	}
	return m.b.String()
}

// What is read of a configuration is what the real tgt-admin's commands for it make. Seeds are fixed: a difference stays one.
func TestAgainstTgtAdmin(t *testing.T) {
	admin := findTgtAdmin(t)
	dir := demo(t)
	if err := os.WriteFile(dir+"/a b.img", []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	sys := t.TempDir()
	work := t.TempDir()
	same, refused := 0, 0
	for seed := range uint64(60) {
		m := &confMaker{Rand: rand.New(rand.NewPCG(seed, 7)), dir: dir}
		text := m.file()
		path := filepath.Join(work, fmt.Sprintf("%d.conf", seed))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := LoadTargetsConf(path, TargetsConfOptions{NamesAdmitAll: true, Sys: sys})
		out, ok := admin.run(t, path)
		var run tgtadmRun
		if ok {
			if rerr := run.run(out); rerr != nil {
				ok, out = false, out+rerr.Error()
			}
		}
		if err != nil || !ok {
			if err == nil {
				t.Errorf("seed %d: read, but refused by tgt-admin:\n%s\n%s", seed, text, out)
			} else if ok {
				t.Errorf("seed %d: %v, but tgt-admin takes it:\n%s\n%s", seed, err, text, out)
			}
			refused++
			continue
		}
		same++
		sameDocument(t, f.Document, run.doc)
		if t.Failed() {
			t.Fatalf("seed %d:\n%s\n%s", seed, text, out)
		}
	}
	if same < 30 {
		t.Errorf("%d configurations compared, %d refused by both: too few to tell", same, refused)
	}
}
