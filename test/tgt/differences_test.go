package tgt

import (
	"encoding/binary"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
)

// The rows of docs/tgt.md's table of differences: what tgtd does and what lunard does instead.

const differ = "iqn.2026-01.com.example:differ"

// differently runs f as each does, with a target that has a disk of 1 MiB and nobody's rule.
func differently(t *testing.T, f func(p *plant, disk string)) {
	t.Helper()
	each(t, func(p *plant) {
		p.apart = true
		disk := p.file("disk", 1<<20)
		p.do("tgtadm --mode target --op new --tid 1 -T " + differ)
		p.do("tgtadm --mode logicalunit --op new --tid 1 --lun 1 -b " + disk)
		f(p, disk)
	})
}

// Host bits and the longest and shortest prefixes.
func TestAddressRules(t *testing.T) {
	differently(t, func(p *plant, _ string) {
		for _, c := range []struct {
			rule         string
			tgtd, lunard bool
		}{
			{"127.0.0.0/8", true, true}, {"127.0.0.1", true, true}, {"ALL", true, true},
			{"10.0.0.0/8", false, false}, {"127.0.0.2", false, false}, {"not-an-address", false, false},
			{"127.0.0.1/8", false, true}, {"127.0.0.1/32", false, true}, {"0.0.0.0/0", false, true},
		} {
			want := c.tgtd
			if p.daemon == lunard {
				want = c.lunard
			}
			p.do("tgtadm --mode target --op bind --tid 1 -I " + c.rule)
			s, err := p.tryLogin(initiator.Options{TargetName: differ})
			if (err == nil) != want || err != nil && !strings.Contains(err.Error(), "0203h") {
				p.Errorf("%s: %v, want it let in: %v", c.rule, err, want)
			}
			if err == nil {
				if err := s.Logout(p.Context()); err != nil {
					p.Error(err)
				}
			}
			p.do("tgtadm --mode target --op unbind --tid 1 -I " + c.rule)
		}
	})
}

// What nobody set is shown as tgtd's and negotiated as lunar's; what was set is kept to.
func TestNegotiatedDefaults(t *testing.T) {
	differently(t, func(p *plant, _ string) {
		p.do("tgtadm --mode target --op bind --tid 1 -I ALL")
		offer := initiator.DefaultOffer()
		offer.InitialR2T, offer.MaxBurstLength, offer.FirstBurstLength, offer.MaxOutstandingR2T = false, 1<<20, 1<<20, 8
		negotiated := func() initiator.Params {
			s := p.login(initiator.Options{TargetName: differ, Offer: &offer})
			defer s.Close()
			return s.Params()
		}
		shown := p.do("tgtadm --mode target --op show --tid 1")
		if !strings.Contains(shown, "InitialR2T=Yes\n") || !strings.Contains(shown, "MaxBurstLength=262144\n") {
			p.Errorf("shown\n%s", shown)
		}
		if got := negotiated(); got.InitialR2T != (p.daemon == tgtd) || (got.MaxBurstLength > 262144) != (p.daemon == lunard) {
			p.Errorf("nothing is set: InitialR2T %v, MaxBurstLength %d", got.InitialR2T, got.MaxBurstLength)
		}
		for _, kv := range []string{"InitialR2T -v Yes", "MaxBurstLength -v 131072", "FirstBurstLength -v 65536", "MaxOutstandingR2T -v 2"} {
			p.do("tgtadm --mode target --op update --tid 1 -n " + kv)
		}
		if got := negotiated(); !got.InitialR2T || got.MaxBurstLength != 131072 || got.FirstBurstLength != 65536 || got.MaxOutstandingR2T != 2 {
			p.Errorf("all is set: %+v", got)
		}
	})
}

// The volume has grown behind us: curve-tgt's word for it, a session there and told.
func TestDiskSizeAuto(t *testing.T) {
	differently(t, func(p *plant, disk string) {
		p.do("tgtadm --mode target --op bind --tid 1 -I ALL")
		s := p.login(initiator.Options{TargetName: differ})
		lun := sam.NewLUN(1)
		ready := func() initiator.Result {
			r, err := s.Command(p.Context(), lun, initiator.TestUnitReady(), nil, 0)
			if err != nil {
				p.Fatal(err)
			}
			return r
		}
		for ready().Status == sam.CheckCondition { // of whoever is new
		}
		p.do("truncate -s 2M " + disk)
		resize := "tgtadm --mode logicalunit --op update --tid 1 --lun 1 --params disksize=auto"
		if p.daemon == tgtd {
			p.refuse(resize, "invalid request")
			return
		}
		p.do(resize)
		r := ready()
		if key, asc, ascq, ok := initiator.SenseFields(r.Sense); !ok || key != 6 || asc != 0x2A || ascq != 9 {
			p.Errorf("after the resize: %v, % x; want CAPACITY DATA HAS CHANGED", r.Status, r.Sense)
		}
		c, err := s.Command(p.Context(), lun, initiator.ReadCapacity16(32), nil, 32)
		if err != nil || c.Err() != nil || binary.BigEndian.Uint64(c.Data) != 2<<20/512-1 {
			p.Errorf("READ CAPACITY: %v, %v, % x", err, c.Err(), c.Data)
		}
	})
}

// What lunard has no use for is said to be so, with the reason for who asks.
func TestRefusedForAReason(t *testing.T) {
	differently(t, func(p *plant, disk string) {
		if p.daemon == tgtd {
			return
		}
		for _, c := range [][3]string{
			{"tgtadm --mode system --op update -n iSNS -v On", "this operation isn't supported", "iSNS"},
			{"tgtadm --mode logicalunit --op new --tid 1 --lun 2 --device-type tape -b " + disk, "invalid request", "tape"},
			{"tgtadm --mode logicalunit --op new --tid 1 --lun 2 --bstype sg -b /dev/sg0", "invalid request", "passed through"},
			{"tgtadm --mode logicalunit --op new --tid 1 --lun 2 -b " + disk + ".missing", "invalid request", "does not exist"},
			{"tgtadm --mode logicalunit --op new --tid 1 --lun 16384 -b " + disk, "invalid request", "16383"},
		} {
			r := p.run(c[0])
			first, second, _ := strings.Cut(r.stderr, "\n")
			if r.status != 22 || first != "tgtadm: "+c[1] || (p.client == ours) != (strings.HasPrefix(second, "tgtadm: reason: ") && strings.Contains(second, c[2])) {
				p.Errorf("%s: %+v", c[0], r)
			}
		}
	})
}

// A portal that is not there is the end of the start, and SIGTERM an end in order.
func TestStartAndTerm(t *testing.T) {
	eachOn(t, nil, "", func(p *plant) {
		p.apart = true
		if p.daemon == tgtd {
			return // it would listen everywhere; and ignore the signal
		}
		for _, portal := range []string{"203.0.113.9:3260", "127.0.0.1:99999", "no.such.host.invalid"} {
			for _, f := range []string{"-f ", ""} {
				if r := p.run("tgtd " + f + "--iscsi portal=" + portal); r.status != 1 || !strings.Contains(r.stderr, strings.Split(portal, ":")[0]) {
					p.Errorf("tgtd %s with portal %s: %+v", f, portal, r)
				}
			}
		}
		p.start("--iscsi", "portal=127.0.0.1:0")
		p.findPortal("0")
		p.do("tgtadm --mode target --op new --tid 1 -T " + differ)
		p.do("tgtadm --mode target --op bind --tid 1 -I ALL")
		s := p.login(initiator.Options{TargetName: differ})
		if err := p.proc.Process.Signal(syscall.SIGTERM); err != nil {
			p.Fatal(err)
		}
		waitEnd(p, s)
		<-p.ended
		if code := p.proc.ProcessState.ExitCode(); code != 0 {
			p.Errorf("SIGTERM: exit status %d", code)
		}
		if r := p.run(fmt.Sprintf("tgtadm -C %d --mode system --op show", 0)); r.status != 107 {
			p.Errorf("after SIGTERM: %+v", r)
		}
	})
}
