package engines

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/libiscsi"
	"github.com/lunar-iscsi/lunar/test/nbdkit"
)

// An nbdkitInstance is an nbdkit a volume, on a file each.
type nbdkitInstance struct {
	servers map[string]*nbdkit.Server // by URI
	files   map[string]string         // by URI
}

// nbdHasNone is why.
const nbdHasNone = "the NBD protocol has no request for it"

func nbdkitEngine() Engine {
	return Engine{Name: "nbdkit", Libiscsi: libiscsi.Undefined, Lacks: noSnapshots(nbdHasNone), Start: func(*testing.T) Instance {
		return &nbdkitInstance{servers: map[string]*nbdkit.Server{}, files: map[string]string{}}
	}}
}

func (n *nbdkitInstance) Volume(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	s := nbdkit.StartFile(t, path, nil)
	uri := s.URI() + "&restart=safe" // what it acknowledged is in the kernel's page cache
	n.servers[uri], n.files[uri] = s, path
	return uri
}

func (n *nbdkitInstance) Grow(t *testing.T, uri string, size int64) {
	t.Helper()
	if err := os.Truncate(n.files[uri], size); err != nil {
		t.Fatal(err)
	}
}

func (n *nbdkitInstance) Faults(uri string) []Fault {
	s := n.servers[uri]
	return []Fault{
		{Name: "killed", For: time.Second, Silent: true,
			Break: func(*testing.T) { s.Kill() }, Heal: func(t *testing.T) { s.Launch(t) }},
		{Name: "paused", For: 3 * time.Second, Silent: true,
			Break: func(*testing.T) { s.Pause() }, Heal: func(*testing.T) { s.Resume() }},
	}
}
