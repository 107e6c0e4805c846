//go:build e2e

package guest

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// How long, and how often, the tests under load go on in `make e2e`.
const (
	loadSeconds = 60
	kills       = 8
)

func TestXFS(t *testing.T) {
	t.Parallel()
	s := serve(t, "512M")
	g := Boot(t)
	filesystem(t, s, g, s.login(t, g), "mkfs.xfs -q", "xfs_repair -n")
	g.Run(t, "logout "+iqn)
	g.Shutdown(t)
	s.Stop(t)
}

// What fio finds when it reads back what it wrote: sizes from one block to more than a burst, several jobs.
func TestVerified(t *testing.T) {
	t.Parallel()
	s := serve(t, "256M")
	g := Boot(t)
	disk := s.login(t, g)
	for name, options := range map[string]string{
		"4k random":                 "",
		"mixed":                     "--bsrange=512-256k --blockalign=512",
		"mixed, with reads between": "--rw=randrw --bsrange=512-256k --blockalign=512",
		"sequential, 1 MiB":         "--rw=write --bs=1M --iodepth=4",
		"four jobs":                 "--numjobs=4 --offset_increment=32M --group_reporting",
		"buffered":                  "--direct=0 --ioengine=psync --fsync=64",
	} {
		t.Run(name, func(t *testing.T) { verified(t, g, disk, 10, options).wait(t) })
	}
	g.Run(t, "logout "+iqn)
	g.Shutdown(t)
	s.Stop(t)
}

// lunard is away for longer than a moment: what the guest asks for waits, and nothing fails.
func TestAwayWithinTheReplacementTimeout(t *testing.T) {
	t.Parallel()
	s := serve(t, "64M")
	g := Boot(t)
	l := verified(t, g, s.login(t, g, settings[:]...), 20)
	away := time.NewTimer(replacement / 3 * time.Second)
	defer away.Stop()
	s.Kill(t)
	<-away.C
	s.start(t)
	l.wait(t)
	g.Run(t, "logout "+iqn)
	g.Shutdown(t)
	s.Stop(t)
}

// Two machines on one disk, each with its part of it, under load at the same time; afterwards each reads what
// the other wrote.
func TestTwoInitiators(t *testing.T) {
	t.Parallel()
	s := serve(t, "64M")
	one, two := Boot(t), BootWith(t, Options{Initiator: "iqn.2026-11.io.lunar.guest:two"})
	first, second := s.login(t, one), s.login(t, two)
	a, b := verified(t, one, first, 20), verified(t, two, second, 20, "--offset=32M")
	a.wait(t)
	b.wait(t)
	for _, part := range []string{"skip=0", "skip=32"} {
		sum := fmt.Sprintf(" bs=1M count=32 %s iflag=direct status=none | md5sum", part)
		x, y := one.Run(t, "dd if="+first+sum), two.Run(t, "dd if="+second+sum)
		if x != y {
			t.Errorf("%s: the first sees %s, the second %s", part, strings.TrimSpace(x), strings.TrimSpace(y))
		}
	}
	for _, g := range []*Guest{one, two} {
		g.Run(t, "logout "+iqn)
		g.Shutdown(t)
	}
	s.Stop(t)
}
