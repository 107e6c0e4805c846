package tgt

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/lunar-iscsi/lunar/session/initiator"
)

// libiscsi's own tests (tests/functions.sh): a daemon in the background with a socket of its own, a trailing comma behind its
// portal, and an end by force.
func TestLibiscsiFunctions(t *testing.T) {
	eachOn(t, nil, "", func(p *plant) {
		const iqn = "iqn.2007-10.com.github:sahlberg:libiscsi:test"
		p.Cleanup(func() {
			// The background process is nobody's child: it holds the lock.
			for pid := range strings.FieldsSeq(p.lockHolders()) {
				if n, err := strconv.Atoi(pid); err == nil {
					_ = syscall.Kill(n, syscall.SIGKILL)
				}
			}
		})
		p.do("tgtd --iscsi portal=127.0.0.1:0,")
		// tgtd's parent may be gone before there is a socket; lunard's is not.
		asks := "tgtadm --op show --mode system >/dev/null 2>&1"
		if p.daemon == tgtd {
			asks = "until " + asks + "; do :; done"
		}
		p.quiet(asks)
		p.findPortal("0")
		// What ps -C and init scripts look for.
		if r := p.quiet("for pid in $(lsof -t " + p.socket() + ".0.lock); do cat /proc/$pid/comm; done | sort -u"); r.stdout != "tgtd\n" {
			p.Errorf("the process in the background is called %q", r)
		}
		p.do("tgtadm --op new --mode target --tid 1 -T " + iqn)
		p.do("tgtadm --op bind --mode target --tid 1 -I ALL")
		disk := p.file("test.img", 100<<20)
		p.do("tgtadm --op new --mode logicalunit --tid 1 --lun 1 -b " + disk)
		p.do("tgtadm --op update --mode logicalunit --tid 1 --lun 1 --params thin_provisioning=1")
		p.do("tgtadm --op update --mode logicalunit --tid 1 --lun 1 --params removable=1")
		p.do("tgtadm --op update --mode target --tid 1 -n HeaderDigest -v CRC32C,None")
		p.do("tgtadm --op new --mode account --user libiscsi --password libiscsi1234")
		p.do("tgtadm --op bind --mode account --tid 1 --user libiscsi")
		p.do("tgtadm --op new --mode account --user target_user --password target_secret")
		p.do("tgtadm --op bind --mode account --tid 1 --user target_user --outgoing")
		o := initiator.Options{TargetName: iqn, CHAP: &initiator.CHAP{Name: "libiscsi", Secret: []byte("libiscsi1234")}}
		if p.daemon == lunard { // our challenges are longer than tgtd reads
			o.CHAP.TargetName, o.CHAP.TargetSecret = "target_user", []byte("target_secret")
		}
		s := p.login(o)
		p.do("tgtadm --op delete --mode logicalunit --tid 1 --lun 1")
		p.do("tgtadm --op delete --force --mode target --tid 1")
		waitEnd(p, s)
		p.do("tgtadm --op delete --mode system")
		if r := p.run("tgtadm --op show --mode system"); r.status != 107 {
			p.Errorf("after the end: %+v", r)
		}
	})
}

// Two daemons of one number are refused, and two of different numbers have nothing to do with one another.
func TestTwoDaemons(t *testing.T) {
	each(t, func(p *plant) {
		if r := p.quiet("tgtd -f --iscsi portal=127.0.0.1:0"); r.status != 1 {
			p.Errorf("a second daemon of this number: %+v", r)
		}
		other := &plant{T: p.T, daemon: p.daemon, client: p.client, dir: p.dir, bin: p.bin, env: p.env}
		other.start("-C", "1", "--iscsi", "portal=127.0.0.1:0")
		for i, which := range []string{"0", "1"} {
			p.do(fmt.Sprintf("tgtadm -C %s --op new --mode target --tid %d -T iqn.2026-01.com.example:of%s", which, i+1, which))
		}
		for _, which := range []string{"0", "1"} {
			if out := p.do("tgtadm -C " + which + " --op show --mode target"); !strings.Contains(out, ":of"+which) || strings.Count(out, "Target ") != 1 {
				p.Errorf("daemon %s has\n%s", which, out)
			}
		}
	})
}

// Where tgtd dies, lunard says that the request will not do, and goes on.
func TestWhereTgtdDies(t *testing.T) {
	each(t, func(p *plant) {
		p.apart = true
		if p.daemon == tgtd {
			return // it would end
		}
		p.apart = true
		p.refuse("tgtadm --mode account --op delete", "invalid request")
		p.do("tgtadm --mode target --op new --tid 1 -T iqn.x")
		for _, user := range []string{"a", "b"} {
			p.do("tgtadm --mode account --op new --user " + user + " --password p")
			p.do("tgtadm --mode account --op bind --tid 1 --user " + user)
		}
		p.do("tgtadm --mode account --op unbind --tid 1 --user a")
		if out := p.do("tgtadm --mode target --op show"); !strings.Contains(out, "    Account information:\n        b\n") {
			p.Errorf("after the unbind\n%s", out)
		}
	})
}

// lockHolders are the processes that have the lock of control port 0, a word each.
func (p *plant) lockHolders() string {
	c := exec.Command("/bin/sh", "-c", "lsof -t "+p.socket()+".0.lock") // the test's context has ended
	c.Env = p.env
	out, _ := c.Output() // nobody has it: exit status 1
	return string(out)
}
