//go:build rbd && cgo

package rbd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ceph/go-ceph/rbd"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/rbd/internal/librbd"
)

// listers is how many images of a listing are looked at at once.
const listers = 8

// volumes is what the driver can do with images besides opening them.
func volumes() *backstore.Volumes {
	return &backstore.Volumes{Create: create, List: list, Stat: stat, Resize: resize, Delete: remove, Trash: trash, Restore: restore, Purge: purge,
		Snapshot: snapshot, Snapshots: snapshots, DeleteSnapshot: deleteSnapshot, SnapshotURI: snapshotURI, Rollback: rollback, Clone: clone, Flatten: flatten}
}

// with runs f, which changes nothing, as a client of c's cluster. When ctx ends first, f is left to end by itself.
func with[T any](ctx context.Context, c *config, op string, f func(*cluster) (T, error)) (T, error) {
	return within(ctx, op, func() (T, error) { return through(ctx, c, op, f) }, func(T) {})
}

// through runs f as a client of c's cluster, to its end: what changes an image may not go on behind the back of whoever has been told that it has
// ended. librbd stops long work when ctx ends, and c.openTime bounds each answer of the cluster, but where f has said cl.steady.
func through[T any](ctx context.Context, c *config, op string, f func(*cluster) (T, error)) (v T, err error) {
	if err := ctx.Err(); err != nil {
		return v, failed(op, c.spec.String(), err)
	}
	cl, err := connect(ctx, c)
	if err == nil {
		v, err = f(cl)
		cl.close()
	}
	var be *backstore.Error
	if errors.As(err, &be) && be.Op == "open" {
		err = &backstore.Error{Class: be.Class, Op: op, Cause: be.Cause}
	}
	return v, err
}

// image runs f for an image that u names, and not a snapshot of it.
func image(ctx context.Context, u *backstore.URI, op string, f func(*config, *cluster) error) error {
	c, err := parseImage(u, backstore.Options{})
	if err != nil {
		return err
	}
	if c.snap != "" {
		return &backstore.Error{Class: backstore.ClassReadOnly, Op: op, Cause: fmt.Errorf("%s is a snapshot", c.spec)}
	}
	_, err = through(ctx, c, op, func(cl *cluster) (struct{}, error) { return struct{}{}, f(c, cl) })
	return err
}

// changed runs f on an image that is opened to be changed.
func changed(ctx context.Context, u *backstore.URI, op string, f func(*config, *cluster, *librbd.Image) error) error {
	return image(ctx, u, op, func(c *config, cl *cluster) error {
		img, err := librbd.Open(cl.io.Pointer(), c.image, "", false)
		if err != nil {
			return failed(op, "image "+c.spec.String(), err)
		}
		err = f(c, cl, img)
		if cerr := img.Close(); err == nil && cerr != nil {
			err = failed(op, "closing image "+c.spec.String(), cerr)
		}
		return err
	})
}

// unused is an error while somebody has the image open for writing. An rbd command that comes and goes is waited for.
func (cl *cluster) unused(ctx context.Context, c *config, op string) error {
	err := cl.alone(ctx, &config{spec: c.spec})
	var be *backstore.Error
	if errors.As(err, &be) {
		return &backstore.Error{Class: be.Class, Op: op, Cause: be.Cause}
	}
	return err
}

func create(ctx context.Context, u *backstore.URI, size int64, _ backstore.Progress) error {
	if size <= 0 || size%blockSize != 0 {
		return &backstore.Error{Class: backstore.ClassRange, Op: "create", Cause: fmt.Errorf("%d bytes are no positive multiple of %d", size, blockSize)}
	}
	return image(ctx, u, "create", func(c *config, cl *cluster) error {
		if err := cl.namespace(c, "create"); err != nil {
			return err
		}
		opts := rbd.NewRbdImageOptions()
		defer opts.Destroy()
		if err := rbd.CreateImage(cl.io, c.image, uint64(size), opts); err != nil {
			return failed("create", "image "+c.spec.String(), err)
		}
		return nil
	})
}

// namespace is an error unless c's namespace is there: librbd would make images that no listing shows.
func (cl *cluster) namespace(c *config, op string) error {
	if c.namespace == "" {
		return nil
	}
	there, err := rbd.NamespaceExists(cl.io, c.namespace)
	if err != nil {
		return failed(op, "namespace "+c.pool+"/"+c.namespace, err)
	}
	if !there {
		return &backstore.Error{Class: backstore.ClassNotFound, Op: op, Cause: fmt.Errorf("there is no namespace %s/%s: `rbd namespace create` makes it", c.pool, c.namespace)}
	}
	return nil
}

// list lists the images of a namespace, or of a pool with all its namespaces.
func list(ctx context.Context, u *backstore.URI) ([]backstore.Volume, error) {
	c, err := parsePlace(u)
	if err != nil {
		return nil, err
	}
	return with(ctx, c, "list", func(cl *cluster) (out []backstore.Volume, err error) {
		if err := cl.namespace(c, "list"); err != nil {
			return nil, err
		}
		spaces := []string{c.namespace}
		if c.namespace == "" {
			cl.io.SetNamespace("")
			more, err := rbd.NamespaceList(cl.io)
			if err != nil {
				return nil, failed("list", "namespaces of pool "+c.pool, err)
			}
			slices.Sort(more)
			spaces = append(spaces, more...)
		}
		for _, ns := range spaces {
			cl.io.SetNamespace(ns)
			vs, err := cl.list(ctx, c, ns)
			if err != nil {
				return nil, err
			}
			out = append(out, vs...)
		}
		return out, nil
	})
}

// list lists the images of the namespace that cl works in.
func (cl *cluster) list(ctx context.Context, c *config, ns string) ([]backstore.Volume, error) {
	names, err := rbd.GetImageNames(cl.io)
	if err != nil {
		return nil, failed("list", "images of "+spec{pool: c.pool, namespace: ns}.String(), err)
	}
	slices.Sort(names)
	out := make([]backstore.Volume, len(names))
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	room := make(chan struct{}, listers)
	for i, name := range names {
		if ctx.Err() != nil {
			break
		}
		room <- struct{}{}
		wg.Add(1)
		go func() {
			defer wg.Done()
			out[i], errs[i] = cl.stat(c, spec{pool: c.pool, namespace: ns, image: name}, false)
			<-room
		}()
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, failed("list", "images", err)
	}
	kept := out[:0]
	for i, err := range errs {
		if backstore.ClassOf(err) == backstore.ClassNotFound && err != nil {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		kept = append(kept, out[i])
	}
	return kept, nil
}

func stat(ctx context.Context, u *backstore.URI) (v backstore.Volume, err error) {
	c, err := parseImage(u, backstore.Options{})
	if err != nil {
		return v, err
	}
	return with(ctx, c, "stat", func(cl *cluster) (backstore.Volume, error) { return cl.stat(c, c.spec, true) })
}

// stat is one image of the namespace that cl works in. used: also what it takes up, where its map of objects says that.
func (cl *cluster) stat(c *config, s spec, used bool) (v backstore.Volume, err error) {
	snap := s.snap
	if snap == "" {
		snap = rbd.NoSnapshot
	}
	img, err := rbd.OpenImageReadOnly(cl.io, s.image, snap)
	if err != nil {
		return v, failed("stat", "image "+s.String(), err)
	}
	defer func() { _ = img.Close() }() // read-only: nothing can be lost
	v = backstore.Volume{URI: c.uri(s), Name: s.String(), Used: -1}
	size, err := img.GetSize()
	if err != nil {
		return v, failed("stat", "image "+s.String(), err)
	}
	v.Size = int64(size)
	if at, err := img.GetCreateTimestamp(); err == nil {
		v.Created = time.Unix(at.Sec, at.Nsec)
	}
	if p, err := img.GetParent(); err == nil {
		v.Parent = spec{p.Image.PoolName, p.Image.PoolNamespace, p.Image.ImageName, p.Snap.SnapName}.String()
	} else if !errors.Is(err, rbd.ErrNotFound) {
		return v, failed("stat", "parent of "+s.String(), err)
	}
	watchers, err := img.ListWatchers()
	if err != nil {
		return v, failed("stat", "who has open "+s.String(), err)
	}
	var who []string
	for _, w := range watchers {
		who = append(who, fmt.Sprintf("client.%d at %s", w.Id, w.Addr))
	}
	v.InUse = strings.Join(who, ", ")
	if features, err := img.GetFeatures(); used && err == nil && features&rbd.FeatureFastDiff != 0 {
		var sum int64
		if err := img.DiffIterate(rbd.DiffIterateConfig{Length: size, IncludeParent: rbd.ExcludeParent, WholeObject: rbd.EnableWholeObject,
			Callback: func(_, n uint64, exists int, _ any) int { sum += int64(n) * int64(exists); return 0 }}); err == nil {
			v.Used = sum
		}
	}
	return v, nil
}

func resize(ctx context.Context, u *backstore.URI, size int64, shrink bool, p backstore.Progress) error {
	if size <= 0 || size%blockSize != 0 {
		return &backstore.Error{Class: backstore.ClassRange, Op: "resize", Cause: fmt.Errorf("%d bytes are no positive multiple of %d", size, blockSize)}
	}
	return image(ctx, u, "resize", func(c *config, cl *cluster) error {
		v, err := cl.stat(c, c.spec, false)
		if err != nil {
			return err
		}
		if size < v.Size {
			if !shrink {
				return &backstore.Error{Class: backstore.ClassRange, Op: "resize", Cause: fmt.Errorf("image %s has %d bytes: making it smaller was not asked for", c.spec, v.Size)}
			}
			if err := cl.unused(ctx, c, "resize"); err != nil {
				return err
			}
		}
		img, err := librbd.Open(cl.io.Pointer(), c.image, "", false)
		if err != nil {
			return failed("resize", "image "+c.spec.String(), err)
		}
		if err = cl.steady(); err == nil { // what would be given up could cut off later what is written by then
			err = img.Resize(ctx, size, shrink, p.Report)
		}
		if cerr := img.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return failed("resize", "image "+c.spec.String(), err)
		}
		return nil
	})
}

func remove(ctx context.Context, u *backstore.URI, d backstore.Deletion, p backstore.Progress) error {
	return image(ctx, u, "delete", func(c *config, cl *cluster) error {
		if err := cl.unused(ctx, c, "delete"); err != nil {
			return err
		}
		snaps, err := cl.snapshots(c)
		if err != nil {
			return err
		}
		if n := len(snaps); n > 0 {
			return &backstore.Error{Class: backstore.ClassBusy, Op: "delete", Cause: fmt.Errorf("image %s has %d snapshots (%s, …): delete them first", c.spec, n, snaps[0].Name)}
		}
		if d.Purge {
			err = librbd.Remove(ctx, cl.io.Pointer(), c.image, p.Report)
		} else {
			err = rbd.GetImage(cl.io, c.image).Trash(0)
		}
		if err != nil {
			return failed("delete", "image "+c.spec.String(), err)
		}
		return nil
	})
}

// place finds out what a name of two parts is, a namespace's or an image's; named says that the image was named.
func place(ctx context.Context, u *backstore.URI, op string) (c *config, cl *cluster, named bool, err error) {
	if c, err = parsePlace(u); err != nil {
		if c, err = parseImage(u, backstore.Options{}); err != nil {
			return nil, nil, false, err
		}
		cl, err = connect(ctx, c)
		return c, cl, true, err
	}
	name := c.namespace
	c.namespace = ""
	if cl, err = connect(ctx, c); err != nil || name == "" {
		return c, cl, false, err
	}
	there, err := rbd.NamespaceExists(cl.io, name)
	if err != nil {
		cl.close()
		return nil, nil, false, failed(op, "namespace "+c.pool+"/"+name, err)
	}
	if there {
		c.namespace = name
		cl.io.SetNamespace(name)
		return c, cl, false, nil
	}
	c.image = name
	return c, cl, true, nil
}

func trash(ctx context.Context, u *backstore.URI) ([]backstore.TrashedVolume, error) {
	return within(ctx, "trash", func() (out []backstore.TrashedVolume, err error) {
		c, cl, named, err := place(ctx, u, "trash")
		if err != nil {
			return nil, err
		}
		defer cl.close()
		all, err := rbd.GetTrashList(cl.io)
		if err != nil {
			return nil, failed("trash", "of "+c.spec.String(), err)
		}
		for _, t := range all {
			if named && t.Name != c.image {
				continue
			}
			v := backstore.TrashedVolume{ID: t.Id, Name: t.Name, Deleted: t.DeletionTime}
			if t.DefermentEndTime.After(t.DeletionTime) {
				v.Expires = t.DefermentEndTime
			}
			if img, err := rbd.OpenImageByIdReadOnly(cl.io, t.Id, rbd.NoSnapshot); err == nil {
				if n, err := img.GetSize(); err == nil {
					v.Size = int64(n)
				}
				_ = img.Close() // read-only: nothing can be lost
			}
			out = append(out, v)
		}
		return out, nil
	}, func([]backstore.TrashedVolume) {})
}

func restore(ctx context.Context, u *backstore.URI, id string) (string, error) {
	c, cl, named, err := place(ctx, u, "restore")
	if err != nil {
		return "", err
	}
	defer cl.close()
	if !named {
		all, err := rbd.GetTrashList(cl.io)
		if err != nil {
			return "", failed("restore", "trash of "+c.spec.String(), err)
		}
		at := slices.IndexFunc(all, func(t rbd.TrashInfo) bool { return t.Id == id })
		if at < 0 {
			return "", &backstore.Error{Class: backstore.ClassNotFound, Op: "restore", Cause: fmt.Errorf("%s has no %q in its trash", c.spec, id)}
		}
		c.image = all[at].Name
	}
	if err := rbd.TrashRestore(cl.io, id, c.image); err != nil {
		return "", failed("restore", id+" as "+c.spec.String(), err)
	}
	return c.uri(c.spec), nil
}

func purge(ctx context.Context, u *backstore.URI, id string, p backstore.Progress) error {
	c, cl, _, err := place(ctx, u, "purge")
	if err != nil {
		return err
	}
	defer cl.close()
	if err := librbd.TrashRemove(ctx, cl.io.Pointer(), id, true, p.Report); err != nil {
		return failed("purge", id+" of "+c.spec.String(), err)
	}
	return nil
}
