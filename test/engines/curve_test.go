package engines

import (
	"fmt"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/nebd"
)

// A curveInstance is our nebd-server, with a folder for a cluster.
type curveInstance struct {
	p *nebd.Process
	n int
}

func curveEngine() Engine {
	return Engine{Name: "curve", Start: func(t *testing.T) Instance { return &curveInstance{p: nebd.StartProcess(t)} }}
}

func (c *curveInstance) Volume(t *testing.T, size int64) string {
	t.Helper()
	c.n++
	return c.p.URI(t, fmt.Sprintf("/dir/engine%d", c.n), size)
}

// Grow is what an administrator does at the MDS; nebd-server goes on telling the old size.
func (c *curveInstance) Grow(t *testing.T, uri string, size int64) {
	t.Helper()
	name, _, _ := strings.Cut(strings.TrimPrefix(uri, "cbd:pool/"), "?")
	name, err := url.PathUnescape(strings.TrimSuffix(name, "_user_"))
	if err == nil {
		err = c.p.Pool.Extend(name, size)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (c *curveInstance) Faults(string) []Fault {
	again := func(t *testing.T) {
		c.p.Kill()
		c.p.Launch(t)
	}
	return []Fault{
		{Name: "upgraded", For: 3 * time.Second, Silent: true,
			Break: func(*testing.T) { c.p.Signal(syscall.SIGTERM); c.p.Wait() }, Heal: again},
		{Name: "killed", For: time.Second, Silent: true, Break: func(*testing.T) { c.p.Kill() }, Heal: again},
		{Name: "killed and there at once", For: time.Second, Break: again, Heal: again},
		{Name: "paused", For: 3 * time.Second, Silent: true,
			Break: func(*testing.T) { c.p.Signal(syscall.SIGSTOP) }, Heal: func(*testing.T) { c.p.Signal(syscall.SIGCONT) }},
		// What it got meanwhile it never answers: its successor does.
		{Name: "unanswered", For: 3 * time.Second, Silent: true,
			Break: func(*testing.T) { c.p.Signal(syscall.SIGUSR1) }, Heal: again},
	}
}
