//go:build rbd && cgo

package rbd

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/rbd/internal/librbd"
)

func snapshot(ctx context.Context, u *backstore.URI, name string, _ backstore.Progress) error {
	return changed(ctx, u, "snapshot", func(c *config, _ *cluster, img *librbd.Image) error {
		if err := img.SnapCreate(name); err != nil {
			return failed("snapshot", c.spec.String()+"@"+name, err)
		}
		return nil
	})
}

func snapshots(ctx context.Context, u *backstore.URI) ([]backstore.Snapshot, error) {
	c, err := parseImage(u, backstore.Options{})
	if err != nil {
		return nil, err
	}
	return with(ctx, c, "snapshots", func(cl *cluster) ([]backstore.Snapshot, error) { return cl.snapshots(c) })
}

// snapshots lists the snapshots that people have made of an image, oldest first: not those that librbd keeps for clones alone, or of groups.
func (cl *cluster) snapshots(c *config) (out []backstore.Snapshot, err error) {
	img, err := rbd.OpenImageReadOnly(cl.io, c.image, rbd.NoSnapshot)
	if err != nil {
		return nil, failed("snapshots", "image "+c.spec.String(), err)
	}
	defer func() { _ = img.Close() }() // read-only: nothing can be lost
	all, err := img.GetSnapshotNames()
	if err != nil {
		return nil, failed("snapshots", "image "+c.spec.String(), err)
	}
	slices.SortFunc(all, func(a, b rbd.SnapInfo) int { return cmp.Compare(a.Id, b.Id) })
	for _, s := range all {
		if kind, err := img.GetSnapNamespaceType(s.Id); err != nil || kind != rbd.SnapNamespaceTypeUser {
			continue
		}
		v := backstore.Snapshot{Name: s.Name, ID: strconv.FormatUint(s.Id, 10), Size: int64(s.Size), Clones: -1, State: "ready"}
		if at, err := img.GetSnapTimestamp(s.Id); err == nil {
			v.Created = time.Unix(at.Sec, at.Nsec)
		}
		if children, err := cl.children(c, s.Name); err == nil {
			v.Clones = len(children)
		}
		out = append(out, v)
	}
	return out, nil
}

// children are the clones of a snapshot.
func (cl *cluster) children(c *config, snap string) ([]rbd.ImageSpec, error) {
	img, err := rbd.OpenImageReadOnly(cl.io, c.image, snap)
	if err != nil {
		return nil, err
	}
	defer func() { _ = img.Close() }() // read-only: nothing can be lost
	return img.ListChildrenAttributes()
}

func deleteSnapshot(ctx context.Context, u *backstore.URI, name string, p backstore.Progress) error {
	return changed(ctx, u, "delete snapshot", func(c *config, cl *cluster, img *librbd.Image) error {
		what := c.spec.String() + "@" + name
		children, err := cl.children(c, name)
		if err != nil {
			return failed("delete snapshot", what, err)
		}
		if len(children) > 0 {
			first := children[0]
			return &backstore.Error{Class: backstore.ClassBusy, Op: "delete snapshot", Cause: fmt.Errorf("%s has %d clones (%s, …): flatten or delete them first",
				what, len(children), spec{pool: first.PoolName, namespace: first.PoolNamespace, image: first.ImageName})}
		}
		if err := cl.protect(c, name, false); err != nil {
			return failed("delete snapshot", "taking the protection off "+what, err)
		}
		if err := img.SnapRemove(ctx, name, p.Report); err != nil {
			return failed("delete snapshot", what, err)
		}
		return nil
	})
}

// snapshotURI names a snapshot as a volume. Who has that open is not known to the cluster, and reads zeroes when it is deleted.
func snapshotURI(u *backstore.URI, name string) string {
	c, err := parseImage(u, backstore.Options{})
	if err != nil || c.snap != "" {
		return ""
	}
	c.snap = name
	return c.uri(c.spec)
}

// protect gives a snapshot the protection that clones of the first format want, or takes it off.
func (cl *cluster) protect(c *config, snap string, on bool) error {
	img, err := rbd.OpenImage(cl.io, c.image, rbd.NoSnapshot)
	if err != nil {
		return err
	}
	s := img.GetSnapshot(snap)
	is, err := s.IsProtected()
	switch {
	case err != nil || is == on:
	case on:
		err = s.Protect()
	default:
		err = s.Unprotect()
	}
	if cerr := img.Close(); err == nil {
		err = cerr
	}
	return err
}

func rollback(ctx context.Context, u *backstore.URI, name string, p backstore.Progress) error {
	return image(ctx, u, "rollback", func(c *config, cl *cluster) error {
		if err := cl.unused(ctx, c, "rollback"); err != nil {
			return err
		}
		img, err := librbd.Open(cl.io.Pointer(), c.image, "", false)
		if err != nil {
			return failed("rollback", "image "+c.spec.String(), err)
		}
		if err = cl.steady(); err == nil { // what would be given up could be applied later, over what is written by then
			err = img.Rollback(ctx, name, p.Report)
		}
		if cerr := img.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return failed("rollback", c.spec.String()+" to "+name+" (what it holds now is old in part: do it again)", err)
		}
		return nil
	})
}

// clone makes a clone, of the second format where the cluster's clients all know that, else of the first. Without a snapshot's name one is taken, and deleted
// again: librbd keeps it for the clone alone, which it does for the second format.
func clone(ctx context.Context, u *backstore.URI, snap string, to *backstore.URI, _ backstore.Progress) error {
	dest, err := parseImage(to, backstore.Options{})
	if err != nil {
		return err
	}
	return image(ctx, u, "clone", func(c *config, cl *cluster) (err error) {
		if dest.snap != "" || dest.query != c.query {
			return &backstore.Error{Class: backstore.ClassUnsupported, Op: "clone", Cause: fmt.Errorf("%s is no image of the cluster (conf, id, keyring, cluster) that %s is of", to.Shown(), c.spec)}
		}
		out, err := cl.conn.OpenIOContext(dest.pool)
		if err != nil {
			return failed("clone", "pool "+dest.pool, err)
		}
		defer out.Destroy()
		out.SetNamespace(dest.namespace)
		if err := (&cluster{conn: cl.conn, io: out}).namespace(dest, "clone"); err != nil {
			return err
		}
		from, own := snap, snap == ""
		if own {
			from = "clone-" + dest.image + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
			if err := cl.snap(c, from, true); err != nil {
				return failed("clone", "taking a snapshot of "+c.spec.String(), err)
			}
			defer func() {
				if e := cl.snap(c, from, false); e != nil && err == nil {
					err = failed("clone", "deleting "+c.spec.String()+"@"+from+" (the clone is there)", e)
				}
			}()
		}
		return cl.clone(c, from, !own, out, dest)
	})
}

func (cl *cluster) snap(c *config, name string, make bool) error {
	img, err := rbd.OpenImage(cl.io, c.image, rbd.NoSnapshot)
	if err != nil {
		return err
	}
	if make {
		_, err = img.CreateSnapshot(name)
	} else {
		err = img.GetSnapshot(name).Remove()
	}
	if cerr := img.Close(); err == nil {
		err = cerr
	}
	return err
}

// clone makes the clone dest of a snapshot; mayProtect: the first format will do.
func (cl *cluster) clone(c *config, snap string, mayProtect bool, out *rados.IOContext, dest *config) error {
	what := dest.spec.String() + " of " + c.spec.String() + "@" + snap
	if _, err := cl.children(c, snap); err != nil {
		return failed("clone", what, err)
	}
	opts := rbd.NewRbdImageOptions()
	defer opts.Destroy()
	err := rbd.CloneImage(cl.io, c.image, snap, out, dest.image, opts)
	if n, _ := errnoOf(err); n == syscall.EINVAL {
		if !mayProtect {
			return &backstore.Error{Class: backstore.ClassUnsupported, Op: "clone", Cause: fmt.Errorf("this cluster makes clones of the first format, which keep their snapshot: take one "+
				"and name it (or `ceph osd set-require-min-compat-client mimic`): %w", n)}
		}
		if err := cl.protect(c, snap, true); err != nil {
			return failed("clone", "protecting "+c.spec.String()+"@"+snap, err)
		}
		err = rbd.CloneImage(cl.io, c.image, snap, out, dest.image, opts)
	}
	if err != nil {
		return failed("clone", what, err)
	}
	return nil
}

func flatten(ctx context.Context, u *backstore.URI, p backstore.Progress) error {
	return changed(ctx, u, "flatten", func(c *config, cl *cluster, img *librbd.Image) error {
		v, err := cl.stat(c, c.spec, false)
		if err != nil {
			return err
		}
		if v.Parent == "" {
			return &backstore.Error{Class: backstore.ClassUnsupported, Op: "flatten", Cause: fmt.Errorf("image %s is no clone", c.spec)}
		}
		if err := img.Flatten(ctx, p.Report); err != nil {
			return failed("flatten", "image "+c.spec.String(), err)
		}
		return nil
	})
}
