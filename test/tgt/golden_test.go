package tgt

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/tgt/sample"
)

const (
	diskTarget = "iqn.2026-01.com.example:disks"
	initiators = "iqn.1993-08.org.debian:01:initiator-"
)

// goldenPlants runs f as each does, on the control port of the samples of tgtadm.
func goldenPlants(t *testing.T, f func(p *plant)) {
	t.Helper()
	eachOn(t, []string{"-C", "7", "--iscsi", "portal=127.0.0.1:0"}, "7", func(p *plant) {
		p.apart = true
		f(p)
	})
}

// setup runs the commands that the samples' daemon was set up with. lunard serves disks only: what is of other types it refuses.
func (p *plant) setup() {
	p.Helper()
	for _, name := range []string{"disk1.img", "disk2.img", "disk3.img", "aio1.img", "direct1.img"} {
		p.file(name, 64<<20)
	}
	p.file("tiny.img", 1<<20)
	p.file("smc.img", 1<<10)
	p.quiet("tgtimg --op new --device-type cd --type dvd+r --file dvd1.img && tgtimg --op new --device-type tape --barcode TAPE001 --size 16 --type data --file tape1.img")
	for _, name := range []string{"dvd1.img", "tape1.img"} {
		if _, err := os.Stat(filepath.Join(p.dir, name)); err != nil {
			p.Fatal(err)
		}
	}
	for _, line := range sample.Setup(p) {
		line = strings.ReplaceAll(line, sample.Demo, p.dir)
		if p.daemon == lunard && refusedType.MatchString(line) {
			if r := p.quiet(line); r.status != 22 || !strings.HasPrefix(r.stderr, "tgtadm: invalid request\n") {
				p.Errorf("%s: %+v", line, r)
			}
			continue
		}
		if r := p.quiet(line); r != (result{}) {
			p.Fatalf("%s: %+v", line, r)
		}
	}
}

var (
	refusedType = regexp.MustCompile(`--device-type (cd|tape|changer|osd|pt)\b`)
	// A LUN of such a type in a list of targets, and its rows in the statistics: those of target 2.
	refusedLUN = regexp.MustCompile(`(?m)^ {8}LUN: \d+\n {12}Type: (cd/dvd|tape|changer)\n(?: {12}.*\n)+`)
	refusedRow = regexp.MustCompile(`(?m)^  2   [1-4] .*\n`)
	// The octets are of the initiator's login, too.
	octets = regexp.MustCompile(`(?m)^( +\d+ +\d+) +\d+ +\d+( +\d+ +\d+ +\d+ +\d+)$`)
	// lunard serves what forks of tgt do, and lists it as they do.
	forks = regexp.MustCompile(`(?m)^    (curve|longhorn)\n`)
	rbd   = "    rbd (bsoflags sync:direct)\n" // the samples' tgtd had Debian's tgt-rbd
)

// served is a sample or an output as this daemon can have it.
func (p *plant) served(s string) string {
	s = strings.ReplaceAll(s, rbd, "")
	if p.daemon == lunard {
		s = forks.ReplaceAllString(s, "")
	}
	s = octets.ReplaceAllString(s, "$1 octets octets$2")
	if p.portal != "" {
		s = strings.ReplaceAll(s, p.portal, "127.0.0.1:13260")
	}
	s = refusedLUN.ReplaceAllStringFunc(s, func(lun string) string {
		if p.daemon == lunard {
			return ""
		}
		return lun
	})
	if p.daemon == lunard {
		s = refusedRow.ReplaceAllString(s, "")
	}
	return s
}

// An initiator of the samples: number n of them.
func host(target, name, alias string, n byte) initiator.Options {
	return initiator.Options{TargetName: target, InitiatorName: initiators + name, InitiatorAlias: alias, ISID: [6]byte{0x80, 0, 0, n}}
}

// transfer reads and writes 4 KiB so many times, after the unit attention of whoever is new.
func (p *plant) transfer(s *initiator.Session, lun uint16, reads, writes int) {
	p.Helper()
	at := sam.NewLUN(lun)
	if r, err := s.Command(p.Context(), at, initiator.TestUnitReady(), nil, 0); err != nil || r.Status != sam.CheckCondition {
		p.Fatalf("LUN %d: the first command: %+v, %v; want a unit attention", lun, r, err)
	}
	if r, err := s.Command(p.Context(), at, initiator.TestUnitReady(), nil, 0); err != nil || r.Err() != nil {
		p.Fatalf("LUN %d: %v, %v", lun, err, r.Err())
	}
	do := func(n int, op byte, data []byte, in int) {
		for range n {
			c := cdb.Transfer(op, 0, 8, 0)
			if r, err := s.Command(p.Context(), at, c[:10], data, in); err != nil || r.Err() != nil {
				p.Fatalf("LUN %d: %v, %v", lun, err, r.Err())
			}
		}
	}
	do(reads, cdb.Read10, nil, 4096)
	do(writes, cdb.Write10, make([]byte, 4096), 0)
}

// Everything that tgtadm shows, fresh, set up, and with four sessions that have done what those of the samples had.
func TestGoldenShow(t *testing.T) {
	goldenPlants(t, func(p *plant) {
		p.checkAll(p.served, "01-system-show-fresh", "02-target-show-empty", "03-lld-show-fresh", "04-portal-show", "05-account-show-empty", "06-system-stat-empty")
		p.setup()
		p.checkAll(p.served, "20-target-show-all-nosession", "21-target-show-tid1", "21-target-show-tid3", "21-target-show-tid5", "22-system-show-configured",
			"23-lld-show-configured", "24-account-show", "25-conn-show-nosession", "26-target-stat-nosession")
		if err := p.login(host(diskTarget, "a", "", 9)).Logout(p.Context()); err != nil { // session 1
			p.Fatal(err)
		}
		a := p.login(host(diskTarget, "a", "host-a", 1))
		b := p.login(host(diskTarget, "b", "", 2))
		media := p.login(host("iqn.2026-01.com.example:media", "a", "host-a", 3))
		o := host("iqn.2026-01.com.example:chap", "c", "host-c", 4)
		o.CHAP = &initiator.CHAP{Name: "alice", Secret: []byte("secretpass12")}
		c := p.login(o)
		p.transfer(a, 1, 10, 5)
		p.transfer(b, 5, 3, 0)
		p.transfer(c, 1, 2, 2)
		if p.daemon == tgtd {
			p.transfer(media, 1, 0, 0)
			if r, err := media.Command(p.Context(), sam.NewLUN(1), []byte{cdb.PreventAllow, 0, 0, 0, 1, 0}, nil, 0); err != nil || r.Err() != nil {
				p.Fatalf("prevent removal: %v, %v", err, r.Err())
			}
		}
		p.checkAll(p.served, "30-target-show-all-sessions", "31-conn-show-tid1", "32-conn-show-tid2", "33-session-show-tid1", "34-target-stat-tid1", "35-system-stat",
			"36-lun-stat", "37-session-stat-sid2", "38-conn-stat", "39-target-show-tid1-live")
	})
}

// The mistakes and refusals of the samples, in their order, with one session as they had.
func TestGoldenErrors(t *testing.T) {
	goldenPlants(t, func(p *plant) {
		p.setup()
		p.login(host(diskTarget, "a", "", 1))
		random := regexp.MustCompile(`(?m)^Portal: 127\.0\.0\.1:\d+,1$`)
		canonical := func(s string) string { return random.ReplaceAllString(p.served(s), "Portal: 127.0.0.1:PORT,1") }
		for _, s := range append(sample.Blocks(p, "40-cli-errors.txt"), sample.Blocks(p, "41-server-errors.txt")...) {
			s.Command = strings.ReplaceAll(s.Command, "127.0.0.1:13260", p.portal)
			if p.daemon == lunard {
				switch {
				case changer.MatchString(s.Command):
					s.Stdout, s.Stderr, s.Exit = "", "tgtadm: can't find the logical unit\n", 22
				case highLUN.MatchString(s.Command):
					s.Stdout, s.Stderr, s.Exit = "", "tgtadm: invalid request\n", 22
				case strings.HasSuffix(s.Command, " disksize=auto"):
					s.Stdout, s.Stderr, s.Exit = "", "", 0
				case strings.HasSuffix(s.Command, "/disk2.img") && s.Exit == 0:
					s.Stdout, s.Stderr, s.Exit = "", "tgtadm: this operation isn't supported\n", 22
				}
			}
			p.compare("", s, canonical)
		}
	})
}

// Where lunard differs: it has no changer (LUN 4 of target 2), and no LUNs that nobody can address; it takes over a volume's new size; and a
// disk does not turn into one that another LUN is.
var (
	changer = regexp.MustCompile(`--tid 2 --lun 4 `)
	highLUN = regexp.MustCompile(`--lun (16384|65536) `)
)
