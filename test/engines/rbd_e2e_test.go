//go:build e2e

package engines

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/ceph"
	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/libiscsi"
)

// An rbdInstance is a Ceph cluster of three OSDs; each volume is an image.
type rbdInstance struct {
	c      *ceph.Cluster
	n      int
	faults func(t *rbdInstance) []Fault
}

// cephGrace is Ceph's own default: an OSD that is silent for so long is taken to be down, and until then all that it has a part in waits.
const cephGrace = 20 * time.Second

// rbdEngine is a cluster in memory, which loses OSDs.
func rbdEngine() Engine {
	return Engine{Name: "rbd", Libiscsi: libiscsi.Undefined, Lunard: rbdLunard, Start: func(t *testing.T) Instance {
		return &rbdInstance{c: ceph.Start(t, ceph.Config{Grace: cephGrace}), faults: (*rbdInstance).someOSDs}
	}}
}

// bluestoreEngine is a cluster on disk, which loses all that runs.
func bluestoreEngine() Engine {
	return Engine{Name: "rbd-bluestore", Libiscsi: libiscsi.Undefined, Lunard: rbdLunard, Start: func(t *testing.T) Instance {
		return &rbdInstance{c: ceph.Start(t, ceph.Config{Bluestore: true}), faults: (*rbdInstance).everything}
	}}
}

func rbdLunard(t testing.TB, addr string, args ...string) *daemon.Daemon {
	t.Helper()
	return daemon.StartProgram(t, daemon.RBD(t), addr, args...)
}

func (r *rbdInstance) Volume(t *testing.T, size int64) string {
	t.Helper()
	r.n++
	name := fmt.Sprintf("rbd/disk%d", r.n)
	done(t, r.rbd("create", fmt.Sprintf("--size=%dB", size), name))
	return "rbd:" + name + "?conf=" + url.QueryEscape(r.c.Conf())
}

func (r *rbdInstance) rbd(args ...string) error {
	_, err := r.c.RBD(args...)
	return err
}

func (r *rbdInstance) Grow(t *testing.T, uri string, size int64) {
	t.Helper()
	done(t, r.rbd("resize", fmt.Sprintf("--size=%dB", size), imageOf(uri)))
}

// imageOf is the POOL/IMAGE that a URI names.
func imageOf(uri string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(uri, "rbd:"), "?")
	return name
}

func (r *rbdInstance) Faults(string) []Fault { return r.faults(r) }

// whole waits until every copy of everything is there again: what comes next may then take the same copies away.
func (r *rbdInstance) whole(t *testing.T) {
	t.Helper()
	done(t, r.c.WaitClean(2*time.Minute))
}

func (r *rbdInstance) someOSDs() []Fault {
	return []Fault{
		{Name: "an OSD killed", For: 5 * time.Second,
			Break: func(t *testing.T) { done(t, r.c.KillOSD(1)) },
			Heal:  func(t *testing.T) { done(t, r.c.StartOSD(1)); r.whole(t) }},
		{Name: "an OSD frozen for 25 s", For: 25 * time.Second, Silent: true,
			Break: func(t *testing.T) { done(t, r.c.FreezeOSD(2)) },
			Heal:  func(t *testing.T) { done(t, r.c.ThawOSD(2)); r.whole(t) }},
		// One copy is left, and two are wanted: everything waits.
		{Name: "two OSDs killed", For: 15 * time.Second, Silent: true,
			Break: func(t *testing.T) { done(t, r.c.KillOSD(0)); done(t, r.c.KillOSD(1)) },
			Heal:  func(t *testing.T) { done(t, r.c.StartOSD(0)); done(t, r.c.StartOSD(1)); r.whole(t) }},
	}
}

func (r *rbdInstance) everything() []Fault {
	return []Fault{
		{Name: "all killed", For: 3 * time.Second, Silent: true,
			Break: func(*testing.T) { r.c.KillAll() }, Heal: func(t *testing.T) { done(t, r.c.StartAll()) }},
		{Name: "all stopped", For: 3 * time.Second, Silent: true,
			Break: func(t *testing.T) { done(t, r.c.StopAll()) }, Heal: func(t *testing.T) { done(t, r.c.StartAll()) }},
	}
}

func done(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
