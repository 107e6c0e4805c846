package tgt

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// freePort is a port of loopback that nobody listened on a moment ago.
func freePort(t testing.TB, host string) int {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Portals of the command line: names, IPv6, all addresses; the last one is shown first.
func TestGoldenPortals(t *testing.T) {
	ports := []int{freePort(t, "127.0.0.1"), freePort(t, "::1"), freePort(t, "127.0.0.1")}
	eachOn(t, nil, "", func(p *plant) {
		p.start("-C", "8", "--iscsi", fmt.Sprintf("portal=127.0.0.1:%d,portal=[::1]:%d,portal=0.0.0.0:%d,nop_interval=9,nop_count=8", ports[0], ports[1], ports[2]))
		p.check("04-portal-show-several", func(s string) string {
			for i, port := range ports {
				s = strings.ReplaceAll(s, fmt.Sprintf(":%d,1\n", port), fmt.Sprintf(":%d,1\n", 13276+i))
			}
			return s
		})
		p.do("tgtadm -C 8 --mode target --op new --tid 1 -T iqn.x")
		if out := p.do("tgtadm -C 8 --mode target --op show --tid 1"); !strings.HasPrefix(out, "nop_interval=9\nnop_count=8\n") {
			p.Errorf("the pings of a new target:\n%s", out)
		}
	})
}

// The driver is stopped and started, and has its portals again; and accounts of discovery are shown.
func TestGoldenDriver(t *testing.T) {
	eachOn(t, []string{"-C", "8", "--iscsi", "portal=127.0.0.1:0"}, "8", func(p *plant) {
		was := p.do("tgtadm -C 8 --mode portal --op show")
		p.check("04-lld-stop", p.served)
		p.check("04-lld-show-stopped", p.served)
		if out := p.do("tgtadm -C 8 --mode portal --op show"); out != "" {
			p.Errorf("portals of a stopped driver: %q", out)
		}
		if c, err := net.Dial("tcp", p.portal); err == nil {
			c.Close()
			p.Error("a stopped driver takes connections")
		}
		p.refuse("tgtadm -C 8 --lld iscsi --mode portal --op show", "can't find the driver")
		p.do("tgtadm -C 8 --lld iscsi --mode lld --op start")
		// A port that the system chose is chosen anew by tgtd.
		if r := p.quiet("tgtadm -C 8 --lld iscsi --mode portal --op show"); r.stdout != was && p.daemon == lunard || strings.Count(r.stdout, "\n") != 1 {
			p.Errorf("portals after a start: %q, were %q", r.stdout, was)
		}
		for _, c := range []string{"--op new --user u1 --password p1", "--op new --user u2 --password p2", "--op bind --user u1", "--op bind --user u2 --outgoing"} {
			p.do("tgtadm -C 8 --mode account " + c)
		}
		p.check("27-system-show-discovery-accounts", p.served)
	})
}

// In the background: the parent returns when the daemon is there, whose number is in the file; and the file goes with it.
func TestBackground(t *testing.T) {
	eachOn(t, nil, "", func(p *plant) {
		p.apart = true
		if p.daemon == tgtd {
			return // it returns before it is there
		}
		pidFile := filepath.Join(p.dir, "pid")
		p.do("tgtd -p " + pidFile + " --iscsi portal=127.0.0.1:0 --lunar listen-admin=none")
		p.findPortal("0")
		b, err := os.ReadFile(pidFile)
		if err != nil {
			p.Fatal(err)
		}
		var pid int
		if _, err := fmt.Sscan(string(b), &pid); err != nil {
			p.Fatal(err)
		}
		gone := p.watch(pid)
		if r := p.quiet("pidof tgtd"); !strings.Contains(" "+strings.TrimSpace(r.stdout)+" ", fmt.Sprintf(" %d ", pid)) {
			p.Errorf("pidof tgtd: %+v, want %d", r, pid)
		}
		if r := p.quiet("tgtd --iscsi portal=127.0.0.1:0 --lunar listen-admin=none"); r.status != 1 || !strings.Contains(r.stderr, "another tgtd") {
			p.Errorf("a second daemon: %+v", r)
		}
		p.do("tgtadm --mode target --op new --tid 1 -T iqn.x")
		p.refuse("tgtadm --mode system --op delete", "invalid request")
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			p.Fatal(err)
		}
		<-gone
		if _, err := os.Stat(pidFile); !os.IsNotExist(err) {
			p.Errorf("the pid file: %v", err)
		}
		if r := p.quiet("tgtadm --mode system --op show"); r.status != 107 {
			p.Errorf("without a daemon: %+v", r)
		}
	})
}

// watch returns a channel that is closed when a process that is not our child has ended; the test ends it at the latest.
func (p *plant) watch(pid int) <-chan struct{} {
	p.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		p.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		defer unix.Close(fd)
		for {
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	p.Cleanup(func() {
		_ = syscall.Kill(pid, syscall.SIGKILL) // fails when it has ended
		<-gone
	})
	return gone
}

// A portal that cannot be had is no start, in the foreground or not, and the reason is told.
func TestPortalThatCannotBe(t *testing.T) {
	eachOn(t, nil, "", func(p *plant) {
		if p.daemon == tgtd {
			return // it listens everywhere instead
		}
		for _, mode := range []string{"-f", ""} {
			r := p.quiet("tgtd " + mode + " --iscsi portal=203.0.113.9:3260 --lunar listen-admin=none")
			if r.status != 1 || !strings.Contains(r.stderr, "203.0.113.9:3260") {
				p.Errorf("tgtd %s: %+v", mode, r)
			}
			if r := p.quiet("tgtadm --mode system --op show"); r.status != 107 {
				p.Errorf("tgtd %s: afterwards %+v", mode, r)
			}
		}
	})
}

// A folder that is named remembers: what was set is there after a kill.
func TestRemembers(t *testing.T) {
	eachOn(t, nil, "", func(p *plant) {
		p.apart = true
		if p.daemon == tgtd {
			return // it never does
		}
		state := filepath.Join(p.dir, "state")
		if err := os.Mkdir(state, 0o700); err != nil {
			p.Fatal(err)
		}
		disk := p.file("disk.img", 64<<20)
		p.start("--iscsi", "portal=127.0.0.1:0", "--lunar-state", state)
		for _, c := range []string{
			"--mode target --op new --tid 3 -T iqn.x", "--mode logicalunit --op new --tid 3 --lun 1 -b " + disk + " --bsoflags sync", "--mode logicalunit --op new --tid 3 --lun 2",
			"--mode logicalunit --op update --tid 3 --lun 1 --params scsi_sn=SN,mode_page=8:0:18:0x10", "--mode target --op bind --tid 3 -I not-an-address -Q iqn.y",
			"--mode account --op new --user a --password p", "--mode account --op bind --tid 3 --user a", "--mode account --op bind --user a --outgoing",
			"--mode target --op update --tid 3 -n MaxBurstLength -v 131072", "--mode target --op new --tid 2 -T UPPER.name",
			"--mode target --op update --tid 2 -n RedirectAddress -v 192.0.2.1", "--mode sys --op update -n iSNSServerIP -v 192.0.2.7",
		} {
			p.do("tgtadm " + c)
		}
		show := func() string {
			return p.do("for i in 'target --tid 3' 'target --tid 2' target sys account lld; do tgtadm --op show --mode $i; done")
		}
		was := show()
		p.kill()
		p.start("--iscsi", "portal=127.0.0.1:0", "--lunar-state", state)
		// Targets are in the order of their making until then, and in that of their numbers afterwards.
		lld := func(s string) string {
			return strings.Replace(s, "        Target 3: iqn.x\n        Target 2: UPPER.name\n", "        Target 2: UPPER.name\n        Target 3: iqn.x\n", 1)
		}
		if is := show(); is != lld(was) {
			p.Errorf("after a kill: %s", difference(lld(was), is))
		}
	})
}
