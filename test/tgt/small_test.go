package tgt

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/session/initiator"
)

// waitEnd waits until the daemon has closed a session's connection.
func waitEnd(p *plant, s *initiator.Session) {
	p.Helper()
	if _, err := s.Ping(p.Context(), nil); err == nil {
		// It had not come to it yet when it answered: the next one waits for the end.
		for s.Err() == nil {
			_, _ = s.Ping(p.Context(), nil)
		}
	}
}

// opencurve's curveadm: a free tid is one whose show fails; the store is its own and here a file.
func TestCurveadm(t *testing.T) {
	each(t, func(p *plant) {
		const iqn = "iqn.2022-02.com.opencurve:curve.vol"
		p.do("tgtadm --lld iscsi --mode target --op new --tid 1 --targetname iqn.2022-02.com.opencurve:other")
		tid := p.do(`for ((i=1; i<100; i++)); do tgtadm --lld iscsi --mode target --op show --tid $i >/dev/null 2>&1 || { echo -n $i; break; }; done`)
		if tid != "2" {
			p.Fatalf("the free tid is %q", tid)
		}
		disk := p.file("cbd:pool", 64<<20) // the name has a colon, as Curve's have
		p.do("tgtadm --lld iscsi --mode target --op new --tid " + tid + " --targetname " + iqn)
		p.do("tgtadm --lld iscsi --mode logicalunit --op new --tid " + tid + " --lun 1 --backing-store " + disk)
		p.do("tgtadm --lld iscsi --mode logicalunit --op update --tid " + tid + " --lun 1 --params vendor_id=NetEase,product_id=CurveVolume,product_rev=2.0")
		p.do("tgtadm --lld iscsi --mode target --op bind --tid " + tid + " -I ALL")
		show := p.do("tgtadm --lld iscsi --mode target --op show")
		targets := regexp.MustCompile(`(?m)^Target ([0-9]+): (.+)$`).FindAllStringSubmatch(show, -1)
		stores := regexp.MustCompile(`Backing store path: (.*cbd:pool)\n`).FindAllStringSubmatch(show, -1)
		if len(targets) != 2 || targets[1][1] != tid || targets[1][2] != iqn || len(stores) != 1 || stores[0][1] != disk {
			p.Errorf("curveadm reads %q, %q", targets, stores)
		}
		p.do("tgtadm --lld iscsi --mode target --op delete --tid " + tid)
	})
}

// avocado-vt (virttest/iscsi.py, IscsiTGT).
func TestAvocado(t *testing.T) {
	each(t, func(p *plant) {
		const iqn = "iqn.2012-11.com.example:avocado"
		disk := p.file("emulated.img", 64<<20)
		show := func() string { return p.do("tgtadm --lld iscsi --mode target --op show") }
		if ids := regexp.MustCompile(`Target\s+(\d+)`).FindAllString(show(), -1); len(ids) != 0 {
			p.Errorf("targets %q", ids)
		}
		p.do("tgtadm --mode target --op new --tid 1 --lld iscsi --targetname " + iqn)
		if !regexp.MustCompile(`(?m)` + iqn + `$`).MatchString(show()) {
			p.Errorf("no %s at the end of a line of\n%s", iqn, show())
		}
		p.do("tgtadm --lld iscsi --op bind --mode target --tid 1 -I ALL")
		luns := len(regexp.MustCompile(`\s+LUN:\s(\d+)`).FindAllString(show(), -1))
		if luns != 1 {
			p.Errorf("%d LUNs of a new target", luns)
		}
		p.do(fmt.Sprintf("tgtadm --mode logicalunit --op new --tid 1 --lld iscsi --lun %d --backing-store %s", luns, disk))
		stores := regexp.MustCompile(`Backing store path:\s+(/+.+)`).FindAllStringSubmatch(show(), -1)
		if len(stores) != 1 || stores[0][1] != disk {
			p.Errorf("stores %q", stores)
		}
		if out := p.do("tgtadm --lld iscsi --op show --mode account"); out != "" {
			p.Errorf("accounts %q", out)
		}
		p.do("tgtadm --lld iscsi --op new --mode account --user avocado --password avocadopasswd")
		accounts := strings.Split(p.do("tgtadm --lld iscsi --op show --mode account"), "\n")[1:]
		if strings.TrimSpace(accounts[0]) != "avocado" {
			p.Errorf("accounts %q", accounts)
		}
		p.do("tgtadm --lld iscsi --op bind --mode account --tid 1 --user avocado")
		bound := regexp.MustCompile(`Account information:\s(.*)\s+ACL information`).FindStringSubmatch(strings.ReplaceAll(show(), "\n", " "))
		if len(bound) != 2 || strings.TrimSpace(bound[1]) != "avocado" {
			p.Errorf("bound %q", bound)
		}
		p.do("tgtadm --lld iscsi --mode target --op delete --tid 1")
	})
}

// systemd's TEST-64 (iscsi_lvm): a LUN update that changes nothing, and a delete without force straight after each logout.
func TestSystemdUdevStorage(t *testing.T) {
	each(t, func(p *plant) {
		const iqn = "iqn.2021-09.com.example:iscsi.test"
		for round := range 20 {
			p.do("tgtadm --lld iscsi --op new --mode target --tid=1 --targetname " + iqn)
			p.do("tgtadm --lld iscsi --op new --mode logicalunit --tid 1 --lun 1 -b " + p.file("lun1", 1<<20))
			p.do("tgtadm --lld iscsi --op update --mode logicalunit --tid 1 --lun 1")
			p.do("tgtadm --lld iscsi --op bind --mode target --tid 1 -I ALL")
			s := p.login(initiator.Options{TargetName: iqn})
			if err := s.Logout(p.Context()); err != nil {
				p.Fatalf("round %d: %v", round, err)
			}
			p.do("tgtadm --lld iscsi --op delete --mode target --tid=1")
		}
	})
}

// dracut's and mkosi-initrd's tests: three targets, LUNs 1, 2 and 3 of one target without a LUN 1 of another.
func TestDracut(t *testing.T) {
	each(t, func(p *plant) {
		for i := 1; i <= 3; i++ {
			p.do(fmt.Sprintf("tgtadm --lld iscsi --mode target --op new --tid %d --targetname iqn.2009-06.dracut:target%d", i, i-1))
			p.do(fmt.Sprintf("tgtadm --lld iscsi --mode logicalunit --op new --tid %d --lun %d -b %s", i, i, p.file(fmt.Sprintf("disk%d", i), 1<<20)))
			p.do(fmt.Sprintf("tgtadm --lld iscsi --mode target --op bind --tid %d -I 127.0.0.0/8", i))
		}
		for i := 1; i <= 3; i++ {
			p.login(initiator.Options{TargetName: fmt.Sprintf("iqn.2009-06.dracut:target%d", i-1)})
		}
		p.do("tgtadm --lld iscsi --op show --mode target")
	})
}

// What openQA, OpenWrt's init script and sos run, and what people have written for themselves: max tid + 1, and LUNs paired
// with the paths that follow them.
func TestScripts(t *testing.T) {
	each(t, func(p *plant) {
		next := `n=$(tgtadm --lld iscsi --op show --mode target | sed -n 's/^Target\s\+\([0-9]\+\):.*/\1/p' | sort -n | tail -1); echo -n $((n + 1))`
		if n := p.do(next); n != "1" {
			p.Errorf("the first tid is %q", n)
		}
		p.do("tgtadm --lld iscsi --mode target --op new --tid 7 -T iqn.2026-01.com.example:seven")
		p.do("tgtadm --lld iscsi --mode target --op new --tid 4 -T iqn.2026-01.com.example:four")
		if n := p.do(next); n != "8" {
			p.Errorf("the next tid is %q", n)
		}
		for _, name := range []string{"b", "a"} {
			p.do("tgtadm --lld iscsi --mode logicalunit --op new --tid 7 --lun $(tgtadm --lld iscsi --op show --mode target | sed -n '/^Target 7:/,$p' | grep -c ' LUN:') -b " + p.file(name, 1<<20))
		}
		pairs := p.do(`tgtadm --lld iscsi --op show --mode target | sed -n '/^Target 7:/,$p' | egrep "LUN:|store path" | sed 's/^ *//'`)
		want := fmt.Sprintf("LUN: 0\nBacking store path: None\nLUN: 1\nBacking store path: %s/b\nLUN: 2\nBacking store path: %s/a\n", p.dir, p.dir)
		if pairs != want {
			p.Errorf("pairs\n%s", pairs)
		}
		// OpenWrt's keys.
		for _, kv := range []string{"MaxRecvDataSegmentLength=65536", "InitialR2T=No", "MaxOutstandingR2T=8", "ImmediateData=Yes", "FirstBurstLength=262144",
			"MaxBurstLength=1048576", "DefaultTime2Wait=2", "DefaultTime2Retain=0", "MaxConnections=1", "HeaderDigest=None", "DataDigest=None", "state=ready"} {
			k, v, _ := strings.Cut(kv, "=")
			p.do("tgtadm --lld iscsi --mode target --op update --tid 7 --name " + k + " --value " + v)
		}
		p.do("tgtadm --lld iscsi --mode target --op show --tid 7")
		p.do("tgtadm --lld iscsi --mode target --op show")
	})
}

// tgt's own tgt-setup-lun, which looks for a process that is called tgtd.
func TestSetupLUN(t *testing.T) {
	each(t, func(p *plant) {
		// Its scratch file has a fixed name in /tmp.
		disk := p.file("disk", 1<<20)
		p.do("tgt-setup-lun -n iqn.2026-01.com.example:setup -d " + disk + " -b rdwr")
		p.do("tgt-setup-lun -n iqn.2026-01.com.example:setup2 -d " + disk + " -b rdwr 127.0.0.1 192.0.2.9")
		p.do("tgtadm --lld iscsi --op show --mode target")
		if comm := p.quiet(fmt.Sprintf("cat /proc/%d/comm", p.proc.Process.Pid)); comm.stdout != "tgtd\n" {
			p.Errorf("the process is called %q", comm.stdout)
		}
	})
}
