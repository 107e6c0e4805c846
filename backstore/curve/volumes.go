package curve

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/curve/mds"
	"github.com/lunar-iscsi/lunar/backstore/curve/snapclone"
)

// What Curve makes of a volume's size.
const (
	gib       = int64(1) << 30
	minVolume = 10 * gib
	maxVolume = 20 << 40
)

// recycleBin is the directory of deleted volumes.
const recycleBin = "/RecycleBin"

// volumes is what the driver can do with volumes besides opening them.
func volumes() *backstore.Volumes {
	return &backstore.Volumes{
		Options: []string{"stripeunit", "stripecount", "poolset"},
		Create:  createVolume, List: listVolumes, Stat: statVolume, Resize: resizeVolume, Delete: deleteVolume,
		Trash: trash, Restore: restore, Purge: purge,
		Snapshot: takeSnapshot, Snapshots: listSnapshots, DeleteSnapshot: deleteSnapshot, Rollback: rollback,
		Clone: clone, Flatten: flatten,
	}
}

// on does something with the volume that u names.
func on(op string, u *backstore.URI, f func(p *place) error) error {
	p, err := parsePlace(u, true)
	if err == nil {
		err = f(p)
		p.close()
	}
	return wrap(op, u, err)
}

func checkVolumeSize(size int64) error {
	if size < minVolume || size > maxVolume || size%gib != 0 {
		return fail(backstore.ClassRange, "%d bytes: a volume of Curve has 10 GiB to 20 TiB, in whole GiB", size)
	}
	return nil
}

// layout reads the options of a new volume.
func layout(u *backstore.URI) (l mds.Layout, err error) {
	unit, err := u.Size("stripeunit", 0)
	if err != nil {
		return l, fail(backstore.ClassRange, "%w", err)
	}
	l.StripeUnit = uint64(unit)
	if v, ok := u.Option("stripecount"); ok {
		if l.StripeCount, err = strconv.ParseUint(v, 10, 16); err != nil {
			return l, fail(backstore.ClassRange, "option stripecount=%s: want a number", v)
		}
	}
	if (l.StripeUnit != 0) != (l.StripeCount != 0) {
		return l, fail(backstore.ClassRange, "options stripeunit and stripecount go together")
	}
	l.Poolset, _ = u.Option("poolset")
	return l, nil
}

func createVolume(ctx context.Context, u *backstore.URI, size int64, pr backstore.Progress) error {
	return on("create", u, func(p *place) error {
		l, err := layout(u)
		if err == nil {
			err = checkVolumeSize(size)
		}
		if err == nil {
			err = p.m.Create(ctx, p.path, p.user, size, l)
		}
		if err == nil {
			pr.Report(size, size)
		}
		return err
	})
}

// describe makes a volume of what a directory says.
func (p *place) describe(dir string, i mds.Info) backstore.Volume {
	name := path.Join(dir, i.Name)
	v := backstore.Volume{URI: p.uri(name, i.Owner), Name: name, Size: i.Size, Used: -1, Created: i.Created}
	if i.Status == mds.MetaCloned {
		if v.Parent = i.CloneSource; v.Parent == "" {
			v.Parent = "its snapshot"
		}
	}
	return v
}

// listVolumes lists a directory, or the one volume that u names. Directories are not descended into.
func listVolumes(ctx context.Context, u *backstore.URI) ([]backstore.Volume, error) {
	p, err := parsePlace(u, false)
	if err != nil {
		return nil, wrap("list", u, err)
	}
	defer p.close()
	list, err := p.m.List(ctx, p.path, p.lister())
	if mds.StatusOf(err) == mds.NotDirectory {
		v, err := statVolume(ctx, u)
		if err != nil {
			return nil, err
		}
		return []backstore.Volume{v}, nil
	}
	if err != nil {
		if s := mds.StatusOf(err); s == mds.OwnerAuthFail && !p.m.CanRoot() || errors.Is(err, mds.ErrPassword) {
			err = fmt.Errorf("%w; directories are listed by their owner, root: give option passwordfile=PATH", err)
		}
		return nil, wrap("list", u, err)
	}
	var out []backstore.Volume
	for _, i := range list {
		if !i.Dir {
			out = append(out, p.describe(p.path, i))
		}
	}
	return out, nil
}

func statVolume(ctx context.Context, u *backstore.URI) (v backstore.Volume, err error) {
	err = on("stat", u, func(p *place) error {
		i, err := p.m.Info(ctx, p.path, p.user)
		if err == nil && i.Dir {
			err = fail(backstore.ClassNotFound, "it is a directory")
		}
		if err != nil {
			return err
		}
		i.Name = path.Base(p.path)
		v = p.describe(path.Dir(p.path), i)
		by, err := p.m.MountPoints(ctx, p.path)
		v.InUse = strings.Join(by, ", ")
		return err
	})
	return v, err
}

func resizeVolume(ctx context.Context, u *backstore.URI, size int64, _ bool, pr backstore.Progress) error {
	return on("resize", u, func(p *place) error {
		if err := checkVolumeSize(size); err != nil {
			return err
		}
		i, err := p.m.Info(ctx, p.path, p.user)
		switch {
		case err != nil:
			return err
		case size < i.Size:
			return fail(backstore.ClassUnsupported, "it has %d bytes, and a volume of Curve does not shrink", i.Size)
		case size > i.Size:
			if err := p.m.Extend(ctx, p.path, p.user, size); err != nil {
				return err
			}
		}
		pr.Report(size, size)
		return nil
	})
}

// unused makes sure that no client has the volume open, as far as the metadata server knows: one that has opened it within the last second is not seen.
func (p *place) unused(ctx context.Context) error {
	by, err := p.m.MountPoints(ctx, p.path)
	if err == nil && len(by) > 0 {
		err = fail(backstore.ClassBusy, "it is open at %s", strings.Join(by, ", "))
	}
	return err
}

// deleteVolume moves a volume to the recycle bin. The metadata server allows that for one with snapshots, which would then be of nothing.
func deleteVolume(ctx context.Context, u *backstore.URI, d backstore.Deletion, pr backstore.Progress) error {
	return on("delete", u, func(p *place) error {
		if d.Purge && !p.m.CanRoot() {
			return fail(backstore.ClassReadOnly, "the recycle bin is emptied by root only: give option passwordfile=PATH, or delete it without purging")
		}
		i, err := p.m.Info(ctx, p.path, p.user)
		if err == nil && i.Dir {
			err = fail(backstore.ClassUnsupported, "it is a directory")
		}
		if err == nil {
			err = p.unused(ctx)
		}
		if err == nil && p.s != nil {
			var list []snapclone.Snapshot
			if list, err = p.s.Snapshots(ctx, p.user, p.path); err == nil && len(list) > 0 {
				err = fail(backstore.ClassBusy, "it has %d snapshots (the first is %q); delete them first", len(list), list[0].Name)
			}
		}
		if err == nil {
			err = p.m.Delete(ctx, p.path, p.user, i.ID, false)
		}
		if err == nil && d.Purge {
			if err = p.purge(ctx, i.ID); err != nil {
				err = fmt.Errorf("it is in the recycle bin (id %s), and is not purged: %w", trashID(i.ID, p.path), err)
			}
		}
		if err == nil {
			pr.Report(1, 1)
		}
		return err
	})
}

// purge deletes what is in the recycle bin under an id.
func (p *place) purge(ctx context.Context, id uint64) error {
	list, err := p.m.List(ctx, recycleBin, mds.Root)
	if err != nil {
		return err
	}
	for _, i := range list {
		if i.ID == id {
			return p.m.Delete(ctx, path.Join(recycleBin, i.Name), mds.Root, id, true)
		}
	}
	return fail(backstore.ClassNotFound, "no deleted volume has the id %d", id)
}

// trashID names a deleted volume: its id and where it was, which is what restores it.
func trashID(id uint64, was string) string { return strconv.FormatUint(id, 10) + was }

func parseTrashID(s string) (id uint64, was string, err error) {
	i := strings.IndexByte(s, '/')
	if i > 0 {
		if id, err = strconv.ParseUint(s[:i], 10, 64); err == nil && id != 0 {
			return id, s[i:], nil
		}
	}
	return 0, "", fail(backstore.ClassRange, "%q names no deleted volume; the trash's list has such names as 1042/vol", s)
}

// trash lists the deleted volumes that were below the directory, or had the path, that u names.
func trash(ctx context.Context, u *backstore.URI) ([]backstore.TrashedVolume, error) {
	p, err := parsePlace(u, false)
	if err != nil {
		return nil, wrap("list trash", u, err)
	}
	defer p.close()
	list, err := p.m.List(ctx, recycleBin, mds.Root)
	if mds.StatusOf(err) == mds.NotExist { // nothing was ever deleted
		return nil, nil
	}
	if err != nil {
		return nil, wrap("list trash", u, err)
	}
	var out []backstore.TrashedVolume
	for _, i := range list {
		if i.Dir || i.Original != p.path && !strings.HasPrefix(i.Original, strings.TrimSuffix(p.path, "/")+"/") {
			continue
		}
		t := backstore.TrashedVolume{ID: trashID(i.ID, i.Original), Name: i.Original, Size: i.Size}
		// vol-ID-SECONDS
		if j := strings.LastIndexByte(i.Name, '-'); j >= 0 {
			if sec, err := strconv.ParseInt(i.Name[j+1:], 10, 64); err == nil {
				t.Deleted = time.Unix(sec, 0)
			}
		}
		out = append(out, t)
	}
	return out, nil
}

func restore(ctx context.Context, u *backstore.URI, id string) (string, error) {
	p, err := parsePlace(u, false)
	if err != nil {
		return "", wrap("restore", u, err)
	}
	defer p.close()
	number, was, err := parseTrashID(id)
	if err != nil {
		return "", wrap("restore", u, err)
	}
	user := p.user
	if user == "" {
		user = mds.Root
	}
	if err := p.m.Recover(ctx, was, user, number); err != nil {
		return "", wrap("restore", u, err)
	}
	i, err := p.m.Info(ctx, was, user)
	if err != nil {
		return "", wrap("restore", u, fmt.Errorf("it is back as %s, but: %w", was, err))
	}
	if _, nerr := parseName(u.Path); nerr == nil && p.path != was {
		if err := p.m.Rename(ctx, was, p.path, user); err != nil {
			return "", wrap("restore", u, fmt.Errorf("it is back as %s, and does not get the new name: %w", was, err))
		}
		was = p.path
	}
	return p.uri(was, i.Owner), nil
}

func purge(ctx context.Context, u *backstore.URI, id string, pr backstore.Progress) error {
	p, err := parsePlace(u, false)
	if err != nil {
		return wrap("purge", u, err)
	}
	defer p.close()
	number, _, err := parseTrashID(id)
	if err == nil {
		err = p.purge(ctx, number)
	}
	if err == nil {
		pr.Report(1, 1)
	}
	return wrap("purge", u, err)
}
