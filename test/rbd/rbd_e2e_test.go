//go:build e2e

package rbd

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/ceph"
	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/deps"
)

const iqn = daemon.Prefix + "rbd"

// backWithin is how long a lunard that was killed may be without its image, started on the same machine; the cluster itself takes 30 s to believe it dead.
const backWithin = 5 * time.Second

// A place is a cluster with an image, and where a lunard keeps its things.
type place struct {
	*testing.T
	c   *ceph.Cluster
	dir string
}

func newPlace(t *testing.T) *place {
	p := &place{T: t, c: ceph.Start(t, ceph.Config{})}
	if _, err := p.c.RBD("create", "--size=64M", "rbd/disk"); err != nil {
		t.Fatal(err)
	}
	var err error
	if p.dir, err = os.MkdirTemp("", "lunar-rbd"); err != nil { // the test's own folder may be too long for a socket's path
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(p.dir) })
	return p
}

// start starts lunard at a portal.
func (p *place) start(portal string) *daemon.Daemon {
	return daemon.StartProgram(p.T, daemon.RBD(p.T), portal, "--state-dir="+filepath.Join(p.dir, "state"), "--listen-admin=none", "--tgt-socket="+filepath.Join(p.dir, "tgt"))
}

func (p *place) tgtadm(args ...string) (string, error) {
	c := deps.Find(p.T, "tgtadm").Command(p.Context(), args...)
	c.Env = append(c.Env, "TGT_IPC_SOCKET="+filepath.Join(p.dir, "tgt"))
	out, err := c.CombinedOutput()
	return string(out), err
}

func (p *place) must(out string, err error) string {
	p.Helper()
	if err != nil {
		p.Fatalf("%v\n%s", err, out)
	}
	return out
}

func (p *place) qemuIO(d *daemon.Daemon, commands ...string) {
	p.Helper()
	args := []string{"-t", "writeback", "-f", "raw", d.URL("rbd", 1)}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	out, err := deps.Find(p.T, "qemu-io").Command(p.Context(), args...).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("failed")) {
		p.Fatalf("qemu-io %q: %v\n%s", commands, err, out)
	}
}

// TestTgtadm: an image is named as in tgt, is there again after a kill at once, and holds what was written.
func TestTgtadm(t *testing.T) {
	p := newPlace(t)
	d := p.start("127.0.0.1:0")
	p.must(p.tgtadm("--lld", "iscsi", "--op", "new", "--mode", "target", "--tid", "1", "-T", iqn))
	p.must(p.tgtadm("--lld", "iscsi", "--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "--bstype", "rbd", "-b", "rbd/disk",
		"--bsopts", "conf="+p.c.Conf()+";id=admin"))
	p.must(p.tgtadm("--lld", "iscsi", "--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"))
	show := p.must(p.tgtadm("--lld", "iscsi", "--op", "show", "--mode", "target"))
	for _, want := range []string{"Backing store type: rbd", "Backing store path: rbd/disk", "Size: 67 MB"} {
		if !strings.Contains(show, want) {
			t.Errorf("tgtadm does not show %q:\n%s", want, show)
		}
	}
	if out, err := p.tgtadm("--lld", "iscsi", "--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "2", "--bstype", "rbd", "-b", "rbd/none",
		"--bsopts", "conf="+p.c.Conf()); err == nil {
		t.Errorf("an image that is not there was taken: %s", out)
	}
	p.qemuIO(d, "write -P 0xa5 1M 1M", "write -P 0x5a 0 64k", "flush", "discard 32M 8M", "write -z 1M 512")
	d.Kill(t)
	begun := time.Now()
	d = p.start(d.Addr)
	p.qemuIO(d, "read -P 0 1M 512", "read -P 0xa5 1049088 1048064", "read -P 0x5a 0 64k", "write -P 1 0 4k")
	if took := time.Since(begun); took > backWithin {
		t.Errorf("written again %v after the start", took)
	} else {
		t.Logf("written again %v after the start", took)
	}
	d.Stop(t)
	// What tgt's own driver sees of it.
	if out := p.must(p.c.RBD("info", "rbd/disk")); !strings.Contains(out, "size 64 MiB") {
		t.Errorf("rbd info: %s", out)
	}
	if out, err := p.c.RBD("lock", "ls", "rbd/disk"); err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("after lunard has ended the image is locked: %s, %v", out, err)
	}
}

// TestAbsent: a lunard without the driver says what to do.
func TestAbsent(t *testing.T) {
	r := daemon.Run(t, "--listen-admin=none", "--export", iqn+"=rbd:rbd/disk")
	if r.Code == 0 || !strings.Contains(r.Stderr, "make build-rbd") || !strings.Contains(r.Stderr, "librbd-dev") {
		t.Errorf("status %d:\n%s", r.Code, r.Stderr)
	}
}
