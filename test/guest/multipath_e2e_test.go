//go:build e2e

package guest

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/daemon"
)

// portals is the list in the line that lunard logs when it serves.
var portals = regexp.MustCompile(`msg=serving .*portals="([^"]+)"`)

// written is how many writes each path has carried, by the portal that it logged in to.
func written(t *testing.T, g *Guest) map[string]int {
	t.Helper()
	carried := map[string]int{}
	for line := range strings.Lines(g.Run(t, "paths "+iqn)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			t.Fatalf("a path that is %q", line)
		}
		n, err := strconv.Atoi(f[2])
		if err != nil {
			t.Fatal(err)
		}
		carried[f[0]] = n
	}
	return carried
}

// One disk, two portals on two addresses, one path of which is used: it is lost under load, the other takes over, the
// first comes back, the other is lost.
func multipath(t *testing.T, o Options) {
	t.Helper()
	file := daemon.FileURI(filepath.Join(t.TempDir(), "disk.img"), "size=64M&thin=on")
	d := daemon.StartAt(t, Portal, "--portal=127.0.0.3:0", daemon.Export("guest", file))
	m := portals.FindStringSubmatch(d.Log())
	if m == nil || len(strings.Fields(m[1])) != 2 {
		t.Fatalf("lunard does not serve two portals:\n%s", d.Log())
	}
	g := BootWith(t, o)
	found := g.Run(t, "discover "+d.Addr)
	proxies := map[string]*Proxy{}
	for i, portal := range strings.Fields(m[1]) {
		if !strings.Contains(found, portal+",") {
			t.Errorf("discovery lacks %s:\n%s", portal, found)
		}
		p := NewProxyAt(t, []string{"127.0.0.2:0", "127.0.0.3:0"}[i], portal)
		proxies[p.Addr] = p
		g.Run(t, "login "+p.Addr+" "+iqn+" "+strings.Join(settings[:], " "))
	}
	g.Run(t, "start_multipath")
	device := strings.TrimSpace(g.Run(t, "multipath_device 2"))
	const seconds = 60
	l := verified(t, g, device, seconds)
	var active, idle string // the second has carried no more than a flush
	for portal, n := range written(t, g) {
		if n > 1 {
			active = portal
		} else {
			idle = portal
		}
	}
	if proxies[active] == nil || proxies[idle] == nil {
		t.Fatalf("%q is in use and %q is not: want one path each", active, idle)
	}
	for range 2 {
		proxies[active].Down()
		enough := written(t, g)[idle] + 100
		g.Start(t, fmt.Sprintf(`
			taken_over() { [ $(paths %s | awk '$1 == "%s" { print $3 }') -gt %d ]; }
			wait_for 60 taken_over && wait_for 60 working_paths 1 || path_state`, iqn, idle, enough)).Wait(t, 3*time.Minute)
		proxies[active].Up()
		g.Start(t, "wait_for 60 working_paths 2 || path_state").Wait(t, 2*time.Minute)
		active, idle = idle, active // what was lost is not used again of its own accord
	}
	l.wait(t)
	g.Run(t, "multipath -F; logout "+iqn)
	g.Shutdown(t)
	d.Stop(t)
}

func TestMultipath(t *testing.T) {
	t.Parallel()
	multipath(t, Options{})
}
