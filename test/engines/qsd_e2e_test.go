//go:build e2e

package engines

import (
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/certs"
	"github.com/lunar-iscsi/lunar/test/libiscsi"
	"github.com/lunar-iscsi/lunar/test/qsd"
)

// A qsdInstance is a qemu-storage-daemon a volume.
type qsdInstance struct {
	format string // raw or qcow2
	certs  string // for TLS; empty without
	by     map[string]*qsd.Server
}

// qsdEngine is qemu-storage-daemon with images of a format, over TLS or not.
func qsdEngine(format string, tls bool) Engine {
	name := "qsd-" + format
	if tls {
		name += "-tls"
	}
	e := Engine{Name: name, Libiscsi: libiscsi.Undefined, Lacks: noSnapshots(nbdHasNone), Start: func(t *testing.T) Instance {
		q := &qsdInstance{format: format, by: map[string]*qsd.Server{}}
		if tls {
			q.certs = certs.New(t, "engines-ca").Folder(t)
		}
		return q
	}}
	if format == "qcow2" {
		e.Fixed = "QEMU resizes no node that is exported, and a server that ends its connections may have lost what was not flushed"
	}
	return e
}

func (q *qsdInstance) Volume(t *testing.T, size int64) string {
	t.Helper()
	s := qsd.Start(t, qsd.Config{TLS: q.certs, Disks: []qsd.Disk{{Name: "disk", Driver: q.format, File: qsd.Image(t, q.format, size)}}})
	uri := s.URI("disk")
	if q.format == "raw" {
		uri += "&restart=safe" // what it acknowledged is in the kernel's page cache
	}
	if q.certs != "" {
		uri += "&tls-certificates=" + q.certs
	}
	q.by[uri] = s
	return uri
}

func (q *qsdInstance) Grow(t *testing.T, uri string, size int64) {
	t.Helper()
	q.by[uri].Resize(t, "disk", size)
}

func (q *qsdInstance) Faults(uri string) []Fault {
	s := q.by[uri]
	f := []Fault{{Name: "silent for 30 s", For: 30 * time.Second, Silent: true,
		Break: func(t *testing.T) { s.Freeze(t) }, Heal: func(t *testing.T) { s.Thaw(t) }}}
	if q.format == "raw" {
		// Of qcow2 a killed one may have lost what it had not flushed, and the store says so.
		f = append(f, Fault{Name: "killed", For: time.Second, Silent: true,
			Break: func(*testing.T) { s.Kill() }, Heal: func(t *testing.T) { s.Restart(t) }})
	}
	return f
}
