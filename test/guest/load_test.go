package guest

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// replacement is how long a guest's initiator keeps what it was asked while its session is away, in seconds.
const replacement = 60

// settings are of an initiator that notices a dead connection within seconds.
var settings = [...]string{
	fmt.Sprintf("node.session.timeo.replacement_timeout=%d", replacement),
	"node.conn[0].timeo.noop_out_interval=2",
	"node.conn[0].timeo.noop_out_timeout=3",
}

// A load is fio in a guest, which writes blocks that say what they are and reads them all back.
type load struct {
	cmd     *Command
	seconds int
}

// verified starts a load on a disk: random writes of 4 KiB, 16 at once, verified as they go, for so many seconds;
// more are fio's further options. It returns once the load has begun.
func verified(t *testing.T, g *Guest, disk string, seconds int, more ...string) *load {
	t.Helper()
	cmd := g.Start(t, fmt.Sprintf(`
		fio --name=verified --filename=%s --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bs=4k --size=32M \
			--verify=crc32c --verify_fatal=1 --verify_backlog=512 --time_based --runtime=%d \
			--eta=always --eta-newline=500ms --output=/run/fio.$$ %s
		status=$?
		cat /run/fio.$$
		exit $status`, disk, seconds, strings.Join(more, " ")))
	cmd.Until(t, time.Minute, "Jobs: ")
	return &load{cmd: cmd, seconds: seconds}
}

// wait waits for the load to end; every block it read was the one it had written, and it did read and write.
func (l *load) wait(t *testing.T) {
	t.Helper()
	out := l.cmd.Wait(t, time.Duration(l.seconds+2*replacement)*time.Second)
	m := issued.FindStringSubmatch(out)
	if m == nil || m[1] == "0" || m[2] == "0" {
		t.Errorf("fio did not both read and write:\n%s", out)
		return
	}
	t.Logf("%s blocks written, %s read back", m[2], m[1])
}

// issued is fio's count of the reads and writes of a load.
var issued = regexp.MustCompile(`issued rwts: total=(\d+),(\d+),`)

// cuts cuts the connections of a proxy once in every interval until the load ends or n times, and returns how many
// it cut.
func cuts(p *Proxy, l *load, interval time.Duration, n int) (cut int) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for i := range n {
		<-tick.C
		if l.cmd.Ended() {
			break
		}
		cut += p.Cut(i%2 == 0)
	}
	return cut
}

// underCuts is a load whose connection is cut every second.
func underCuts(t *testing.T, o Options, seconds int) {
	t.Helper()
	s := serve(t, "64M")
	p := NewProxy(t, s.Addr)
	g := BootWith(t, o)
	l := verified(t, g, loginAt(t, g, p.Addr, settings[:]...), seconds)
	cut := cuts(p, l, time.Second, seconds-1)
	l.wait(t)
	if cut == 0 || p.Accepted() <= cut {
		t.Errorf("%d connections were cut, %d in all were made", cut, p.Accepted())
	}
	t.Logf("%d connections cut, %d made", cut, p.Accepted())
	// A cut in the midst of a login is noticed by iscsid, without a word of the kernel.
	if n := strings.Count(g.Run(t, "dmesg"), "detected conn error"); n < (cut+1)/2 {
		t.Errorf("the guest's kernel noticed %d of %d cuts", n, cut)
	}
	g.Run(t, "logout "+iqn)
	g.Shutdown(t)
	s.Stop(t)
}

// underKills is a load whose lunard is killed (SIGKILL) n times and is up again at once.
func underKills(t *testing.T, o Options, seconds, n int) {
	t.Helper()
	s := serve(t, "64M")
	g := BootWith(t, o)
	l := verified(t, g, s.login(t, g, settings[:]...), seconds)
	tick := time.NewTicker(time.Duration(seconds) * time.Second / time.Duration(n+1))
	defer tick.Stop()
	for range n {
		<-tick.C
		if l.cmd.Ended() {
			t.Fatal("the load ended before lunard was killed")
		}
		s.restart(t)
	}
	l.wait(t)
	g.Run(t, "logout "+iqn)
	g.Shutdown(t)
	s.Stop(t)
}

func TestCutsUnderLoad(t *testing.T) {
	t.Parallel()
	underCuts(t, Options{}, loadSeconds)
}

func TestKillUnderLoad(t *testing.T) {
	t.Parallel()
	underKills(t, Options{}, loadSeconds, kills)
}

// A guest that loses its power comes back under the same name: its old session is replaced, and what it had
// flushed is there.
func TestRebootWithoutLogout(t *testing.T) {
	t.Parallel()
	reboot(t, Options{})
}

func reboot(t *testing.T, o Options) {
	t.Helper()
	s := serve(t, "128M")
	g := BootWith(t, o)
	disk := s.login(t, g)
	g.Run(t, `
		set -e
		mkfs.ext4 -q `+disk+`
		mkdir -p /tmp/m
		mount `+disk+` /tmp/m
		fill /tmp/m/flushed 8
		sync`)
	busy := g.Start(t, "head -c 4M /dev/urandom >/tmp/m/begun && echo begun && fill /tmp/m/lost 1000")
	busy.Until(t, time.Minute, "begun")
	g.Kill(t)

	g = BootWith(t, o)
	disk = s.login(t, g)
	g.Run(t, `
		set -e
		mkdir -p /tmp/m
		mount `+disk+` /tmp/m
		checked /tmp/m/flushed
		umount /tmp/m
		e2fsck -f -n `+disk+`
		logout `+iqn)
	g.Shutdown(t)
	s.Stop(t)
}
