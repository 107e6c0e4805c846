package engines

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/curve"
	"github.com/lunar-iscsi/lunar/test/nebd"
)

// A curveInstance is our nebd-server, with a folder for a cluster, and the servers of its administration.
type curveInstance struct {
	p *nebd.Process
	c *curve.Cluster
	n int

	options string // that name those servers
}

func curveEngine() Engine {
	return Engine{Name: "curve", Libiscsi: fullyProvisioned, Start: func(t *testing.T) Instance {
		p := nebd.StartProcess(t)
		c, err := curve.Start(curve.Config{Pool: p.Pool, Freeze: func(string) func() { return p.Freeze() }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		password := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(password, []byte("root_password\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return &curveInstance{p: p, c: c, options: fmt.Sprintf("&mds=%s&snapshot=%s&passwordfile=%s", c.MDS, c.Snap, password)}
	}}
}

// fullyProvisioned: space is given back only by request (discard=on), since on a volume of Curve that several hosts write it costs data, and
// gotgt's file store takes the request and does nothing.
const fullyProvisioned = `
skip SCSI.CompareAndWrite.InvalidDataOutSize no UNMAP
skip SCSI.GetLBAStatus.UnmapSingle no UNMAP
skip SCSI.Inquiry.BlockLimits no UNMAP
skip SCSI.Unmap.* no UNMAP
skip SCSI.WriteSame1[06].Unmap no UNMAP
skip SCSI.WriteSame1[06].UnmapUn* no UNMAP
skip SCSI.WriteSame1[06].InvalidDataOutSize no UNMAP
`

func (c *curveInstance) Volume(t *testing.T, size int64) string {
	t.Helper()
	c.n++
	return c.p.URI(t, fmt.Sprintf("/dir/engine%d", c.n), size) + c.options
}

// Beside is another volume of the same owner.
func (c *curveInstance) Beside(_ *testing.T, uri, name string) string {
	volume, options, _ := strings.Cut(uri, "_user_?")
	return volume + "-" + name + "_user_?" + options
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
