//go:build e2e

package engines

import (
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/libiscsi"
	"github.com/lunar-iscsi/lunar/test/qsd"
)

// A qsdInstance is a qemu-storage-daemon a volume.
type qsdInstance struct {
	format  string                 // raw or qcow2
	servers map[string]*qsd.Server // by URI
}

func qsdEngine(format string) Engine {
	e := Engine{Name: "qsd-" + format, Libiscsi: libiscsi.Undefined, Start: func(*testing.T) Instance {
		return &qsdInstance{format: format, servers: map[string]*qsd.Server{}}
	}}
	if format == "qcow2" {
		e.Fixed = "growing takes the export away for a moment, and a qcow2 that comes back may have lost what was not flushed"
	}
	return e
}

func (q *qsdInstance) Volume(t *testing.T, size int64) string {
	t.Helper()
	s := qsd.Start(t, qsd.Config{Disks: []qsd.Disk{{Name: "disk", Driver: q.format, File: qsd.Image(t, q.format, size)}}})
	uri := s.URI("disk")
	if q.format == "raw" {
		uri += "&restart=safe" // what it acknowledged is in the kernel's page cache
	}
	q.servers[uri] = s
	return uri
}

func (q *qsdInstance) Grow(t *testing.T, uri string, size int64) {
	t.Helper()
	q.servers[uri].Resize(t, "disk", size)
}

func (q *qsdInstance) Faults(uri string) []Fault {
	s := q.servers[uri]
	f := []Fault{{Name: "silent for 30 s", For: 30 * time.Second, Silent: true,
		Break: func(t *testing.T) { s.Freeze(t) }, Heal: func(t *testing.T) { s.Thaw(t) }}}
	if q.format == "raw" {
		// Of qcow2 a killed one may have lost what it had not flushed, and the store says so.
		f = append(f, Fault{Name: "killed", For: time.Second, Silent: true,
			Break: func(*testing.T) { s.Kill() }, Heal: func(t *testing.T) { s.Restart(t) }})
	}
	return f
}
