package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/nbd"
	"github.com/lunar-iscsi/lunar/backstore/rbd"
	"github.com/lunar-iscsi/lunar/session/initiator/load"
	"github.com/lunar-iscsi/lunar/test/ceph"
	"github.com/lunar-iscsi/lunar/test/deps"
	"github.com/lunar-iscsi/lunar/test/gauge"
)

// The subjects, as the table names them.
const (
	lunarName  = "lunar"
	tgtdName   = "tgtd"
	driverName = "the driver alone"
	fileName   = "lunar on a file"
)

const iqn = "iqn.2026-11.io.lunar:bench"

// A rig is the servers and stores of an engine's rows.
type rig struct {
	subjects []subject
	ends     []func() error
}

// stop ends everything, the last first.
func (r *rig) stop() (err error) {
	for i := len(r.ends) - 1; i >= 0; i-- {
		err = errors.Join(err, r.ends[i]())
	}
	return err
}

// startRBD starts a cluster in memory with one image and the three ways to it. The image has no exclusive lock, so that all may have it open.
func startRBD(ctx context.Context, o *options, dir string) (*rig, error) {
	r := &rig{}
	d := rbd.Driver()
	if d.Absent != "" {
		return r, fmt.Errorf("the rbd driver is not built in: run this by scripts/rbd-env (%s)", d.Absent)
	}
	c, err := ceph.Launch(ceph.Config{})
	if err != nil {
		return r, err
	}
	r.ends = append(r.ends, func() error { c.Close(); return nil })
	if out, err := c.RBD("create", "--image-feature=layering", "--size="+strconv.FormatInt(o.size>>20, 10)+"M", "rbd/bench"); err != nil {
		return r, fmt.Errorf("rbd create: %w: %s", err, out)
	}
	uri := "rbd:rbd/bench?lock=none&conf=" + c.Conf()
	if err := r.direct(ctx, o, d, uri); err != nil {
		return r, err
	}
	if err := r.lunar(ctx, o, dir, lunarName, uri); err != nil {
		return r, err
	}
	uncached, err := withoutCache(c.Conf(), dir)
	if err != nil {
		return r, err
	}
	return r, r.tgtd(ctx, o, dir, "rbd/bench", uncached)
}

// withoutCache is a copy of ceph.conf for clients that have Ceph's cache on unless it says otherwise.
func withoutCache(conf, dir string) (path string, err error) {
	b, err := os.ReadFile(conf)
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, "uncached.conf")
	return path, os.WriteFile(path, append(b, "\n[client]\nrbd_cache = false\n"...), 0o600)
}

// startNBD starts an nbdkit with a disk in memory, and lunard on it and on a file in memory.
func startNBD(ctx context.Context, o *options, dir string) (*rig, error) {
	r := &rig{}
	tool, ok := deps.Lookup("nbdkit")
	if !ok {
		return r, errors.New("nbdkit not found: scripts/test-deps test fetches it")
	}
	socket := filepath.Join(dir, "nbd")
	p, err := gauge.StartProcess(dir, "nbdkit", "", tool.Env(), tool.Path, "--foreground", "--unix", socket, tool.NBDKitPlugin("memory"), strconv.FormatInt(o.size, 10))
	if err != nil {
		return r, err
	}
	r.ends = append(r.ends, func() error { p.Stop(); return nil })
	if err := appears(ctx, p, socket); err != nil {
		return r, err
	}
	uri := "nbd+unix:///?socket=" + socket
	if err := r.direct(ctx, o, nbd.Drivers()[0], uri); err != nil {
		return r, err
	}
	if err := r.lunar(ctx, o, dir, lunarName, uri); err != nil {
		return r, err
	}
	file := filepath.Join(dir, "disk.img")
	return r, r.lunar(ctx, o, dir, fileName, fmt.Sprintf("file://%s?size=%d", file, o.size))
}

// appears waits for a server's socket.
func appears(ctx context.Context, p *gauge.Process, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		select {
		case <-p.Ended:
			return p.Failed()
		case <-ctx.Done():
			return fmt.Errorf("%s does not appear: %w", path, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// direct opens the volume in this process, fills it, and has it as a subject.
func (r *rig) direct(ctx context.Context, o *options, d backstore.Driver, uri string) error {
	u, err := backstore.ParseURI(uri)
	if err != nil {
		return err
	}
	st, err := d.Open(ctx, u, backstore.Options{})
	if err != nil {
		return err
	}
	l, err := newLoop()
	if err != nil {
		return errors.Join(err, st.Close(ctx))
	}
	a, attached := st.(backstore.Attacher)
	if attached {
		if err := a.Attach(l); err != nil {
			return errors.Join(err, st.Close(ctx), l.close())
		}
	}
	r.ends = append(r.ends, func() error {
		if attached {
			a.Detach()
		}
		return errors.Join(st.Close(context.Background()), l.close())
	})
	if err := fill(st, l, o.size); err != nil {
		return fmt.Errorf("filling the volume: %w", err)
	}
	r.subjects = append(r.subjects, subject{driverName, func(_ context.Context, w *work, seconds float64) (sample, error) {
		return l.drive(st, w, o.size, time.Duration(seconds*float64(time.Second)))
	}})
	return nil
}

// fill writes the pattern that clients check.
func fill(st backstore.Store, l *loop, size int64) error {
	const block = 1 << 20
	r := &backstore.Request{Op: backstore.Write, Len: block, Buf: make([]byte, block), C: l}
	for r.Off = 0; r.Off < size; r.Off += block {
		load.Fill(r.Buf, r.Off)
		if st.Submit(r) == backstore.Pending {
			if k, ok := st.(backstore.Kicker); ok {
				k.Kick()
			}
			for done := 0; done == 0; {
				ended, err := l.turn()
				if err != nil {
					return err
				}
				done = len(ended)
			}
		}
		if r.Err != nil {
			return r.Err
		}
	}
	return nil
}

// lunar starts a lunard on the volume.
func (r *rig) lunar(ctx context.Context, o *options, dir, name, uri string) error {
	portal, err := gauge.FreeAddress()
	if err != nil {
		return err
	}
	p, err := gauge.StartProcess(dir, "lunard", "", nil, o.lunard, "--listen-admin=none", "--portal", portal, "--export", iqn+"/1="+uri)
	if err != nil {
		return err
	}
	r.ends = append(r.ends, func() error { p.Stop(); return nil })
	if err := p.Listens(ctx, portal); err != nil {
		return err
	}
	r.subjects = append(r.subjects, remote(o, name, p, portal))
	return nil
}

// tgtd starts Debian's tgtd with tgt-rbd on the image.
func (r *rig) tgtd(ctx context.Context, o *options, dir, image, conf string) error {
	daemon, ok := deps.Lookup("tgtd")
	admin, ok2 := deps.Lookup("tgtadm")
	if !ok || !ok2 {
		return errors.New("tgtd not found: scripts/test-deps clusterbench fetches it, with tgt-rbd")
	}
	portal, err := gauge.FreeAddress()
	if err != nil {
		return err
	}
	env := append(daemon.Env(), "TGT_IPC_SOCKET="+filepath.Join(dir, "tgt"))
	args := []string{daemon.Path, "-f", "-C", "0", "--iscsi", "portal=" + portal}
	if libs := filepath.Join(deps.Dir(), "root", "usr", "lib"); strings.HasPrefix(daemon.Path, deps.Dir()) {
		// It looks for its modules in /usr/lib/tgt alone: unpacked, it is shown a /usr/lib that has the unpacked one in it.
		args = append([]string{"unshare", "--mount", "sh", "-c", `mount -t overlay -o "lowerdir=$0:/usr/lib" none /usr/lib && exec "$@"`, libs}, args...)
	}
	p, err := gauge.StartProcess(dir, "tgtd", "", env, args...)
	if err != nil {
		return err
	}
	p.Stubborn = true
	r.ends = append(r.ends, func() error { p.Stop(); return nil })
	if err := p.Listens(ctx, portal); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"--op", "new", "--mode", "target", "--tid", "1", "-T", iqn},
		{"--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "--bstype", "rbd", "-b", image, "--bsopts", "conf=" + conf + ";id=admin"},
		{"--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"},
	} {
		c := exec.CommandContext(ctx, admin.Path, append([]string{"-C", "0", "--lld", "iscsi"}, args...)...)
		c.Env = env
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("tgtadm %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	r.subjects = append(r.subjects, remote(o, tgtdName, p, portal))
	return nil
}

// remote is a server on which lunarctl's load generator runs. There is no uncounted warm-up: processor time and commands are both of the whole run.
func remote(o *options, name string, p *gauge.Process, portal string) subject {
	return subject{name, func(ctx context.Context, w *work, seconds float64) (sample, error) {
		reads := "100"
		if w.write {
			reads = "0"
		}
		before, err := p.CPU()
		if err != nil {
			return sample{}, err
		}
		rep, err := gauge.Load(ctx, o.lunarctl, portal, iqn, 1, w.depth, seconds, "--bs", strconv.Itoa(w.block), "--read-percent", reads, "--warmup", "0", "--lenient")
		if err != nil {
			return sample{}, err
		}
		after, err := p.CPU()
		if err != nil {
			return sample{}, err
		}
		if rep.Errors != 0 {
			return sample{}, fmt.Errorf("%d commands failed", rep.Errors)
		}
		ios := rep.Read.Count + rep.Write.Count
		return sample{iops: rep.IOPS, cpu: float64((after - before).Microseconds()) / float64(max(ios, 1))}, nil
	}}
}
