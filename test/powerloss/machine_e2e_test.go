//go:build e2e

package powerloss

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/guest"
)

const (
	target       = "power"
	port         = 3260 // lunard's, in its machine
	diskSize     = 512 << 20
	startTimeout = 2 * time.Minute // of lunard in a machine that is emulated on a busy one
	maxAttention = 8               // unit attentions that a new session may be told of
)

// newDisk makes the file that is a machine's disk.
func newDisk(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "machine.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(diskSize); err != nil {
		t.Fatal(err)
	}
	return path
}

// boot starts a machine on a disk (see guest.Options) and puts a lunard into it.
func boot(t *testing.T, lunard, disk string) *guest.Guest {
	t.Helper()
	g := guest.BootWith(t, guest.Options{Backend: guest.QEMU, Disk: disk, Forward: port})
	g.Put(t, lunard, "/run/lunard")
	return g
}

// serve starts lunard in its machine with LUNs 1, 2, … of the target, each by its URI, and returns when it serves.
func serve(t *testing.T, g *guest.Guest, uris ...string) *guest.Command {
	t.Helper()
	args := fmt.Sprintf("exec /run/lunard --log-level=info --portal=0.0.0.0:%d", port)
	for i, uri := range uris {
		args += " '" + daemon.ExportLUN(target, i+1, uri) + "'"
	}
	c := g.Start(t, args)
	c.Until(t, startTimeout, "msg=serving")
	return c
}

// login opens a session from outside.
func login(t *testing.T, g *guest.Guest) *initiator.Session {
	t.Helper()
	s, err := initiator.Login(t.Context(), initiator.Options{Portal: g.Forwarded, TargetName: daemon.Prefix + target, Wait: startTimeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// ready takes the unit attentions that wait for a new session.
func ready(t *testing.T, s *initiator.Session, lun sam.LUN) {
	t.Helper()
	var last error
	for range maxAttention {
		r, err := s.Command(t.Context(), lun, initiator.TestUnitReady(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if last = r.Err(); last == nil {
			return
		}
	}
	t.Fatalf("LUN %v is not ready: %s", lun, strings.TrimSpace(fmt.Sprint(last)))
}
