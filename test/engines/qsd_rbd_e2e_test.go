//go:build e2e

package engines

import (
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/ceph"
	"github.com/lunar-iscsi/lunar/test/libiscsi"
	"github.com/lunar-iscsi/lunar/test/qsd"
)

// A qsdRBDInstance is a Ceph cluster behind a qemu-storage-daemon a volume: RBD for a lunard that has no librbd.
type qsdRBDInstance struct {
	rbdInstance
	servers map[string]*qsd.Server // by URI
}

func qsdRBDEngine() Engine {
	return Engine{Name: "qsd-rbd", Libiscsi: libiscsi.Undefined, Lacks: noSnapshots(nbdHasNone), Start: func(t *testing.T) Instance {
		return &qsdRBDInstance{rbdInstance: rbdInstance{c: ceph.Start(t, ceph.Config{Grace: cephGrace})}, servers: map[string]*qsd.Server{}}
	}}
}

func (q *qsdRBDInstance) Volume(t *testing.T, size int64) string {
	t.Helper()
	pool, image, _ := strings.Cut(imageOf(q.rbdInstance.Volume(t, size)), "/")
	// cache.direct: what is acknowledged is on the OSDs, so that the daemon can be started anew under its clients.
	s := qsd.Start(t, qsd.Config{Disks: []qsd.Disk{{Name: "disk", Driver: "rbd",
		Args: []string{"pool=" + pool, "image=" + image, "conf=" + q.c.Conf(), "cache.direct=on"}}}})
	uri := s.URI("disk") + "&restart=safe"
	q.servers[uri] = s
	return uri
}

func (q *qsdRBDInstance) Grow(t *testing.T, uri string, size int64) {
	t.Helper()
	q.servers[uri].Resize(t, "disk", size)
}

func (q *qsdRBDInstance) Faults(uri string) []Fault {
	s := q.servers[uri]
	return append(q.someOSDs(),
		// The image's lock is the dead one's until Ceph has waited for it.
		Fault{Name: "killed", For: time.Second, Silent: true,
			Break: func(*testing.T) { s.Kill() }, Heal: func(t *testing.T) { s.Restart(t) }})
}
