package longhorn

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/longhorn/internal/rpc"
)

// maxListed is how many sockets of a folder are looked at.
const maxListed = 1024

// leaveTime is how long a connection that has been closed may be seen after that.
const leaveTime = 2 * time.Second

// volumes is what the driver can do with volumes besides opening them. Making and deleting them is the business of Longhorn's manager,
// which knows nodes and disks; an engine knows one volume. Clones are whole copies, so there is nothing to flatten.
func volumes(left *backstore.Leftovers) *backstore.Volumes {
	return &backstore.Volumes{List: list, Stat: stat, Resize: resize, Snapshot: snapshot, Snapshots: snapshots,
		DeleteSnapshot: deleteSnapshot,
		Rollback: func(ctx context.Context, u *backstore.URI, name string, p backstore.Progress) error {
			if err := left.Check(key(u), "rollback"); err != nil {
				return err
			}
			return rollback(ctx, u, name, p)
		},
		Clone: func(ctx context.Context, u *backstore.URI, name string, to *backstore.URI, p backstore.Progress) error {
			if err := left.Check(key(to), "clone"); err != nil {
				return err
			}
			return clone(ctx, u, name, to, p)
		},
	}
}

func opError(op string, class backstore.Class, format string, args ...any) error {
	return &backstore.Error{Class: class, Op: op, Cause: fmt.Errorf(format, args...)}
}

// list lists the engines whose sockets are in the folder that u names ("longhorn:" is the engine's own), or the one at engine=.
func list(ctx context.Context, u *backstore.URI) ([]backstore.Volume, error) {
	dir := u.Path
	if dir == "" {
		dir = socketDir
		if engine, ok := u.Option("engine"); ok {
			return listEngine(ctx, u, engine)
		}
	} else if st, err := os.Stat(dir); err != nil || !st.IsDir() || !strings.HasPrefix(dir, "/") {
		v, err := stat(ctx, u)
		if err != nil {
			return nil, err
		}
		return []backstore.Volume{v}, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		class := backstore.ClassInternal
		if errors.Is(err, fs.ErrNotExist) {
			class = backstore.ClassNotFound
		}
		return nil, opError("list", class, "%w", err)
	}
	var all []backstore.Volume
	for _, e := range entries {
		name := volumeOf(e.Name())
		if name == "" || e.Type()&fs.ModeSocket == 0 {
			continue
		}
		if len(all) == maxListed {
			return all, opError("list", backstore.ClassInternal, "%s has more than %d sockets of engines", dir, maxListed)
		}
		uri := "longhorn:" + name
		if dir != socketDir {
			uri += "?socket=" + filepath.Join(dir, e.Name())
		}
		v := backstore.Volume{URI: uri, Name: name, Used: -1}
		c := &config{volume: name, socket: filepath.Join(dir, e.Name())}
		v.InUse = c.inUse()
		// A socket is left behind by an engine that was killed: its volume is listed, without a size.
		if fd, size, err := connect(ctx, c); err == nil {
			closeFd(fd)
			v.Size = size
		} else if ctx.Err() != nil {
			return nil, opError("list", backstore.ClassCancelled, "%w", ctx.Err())
		}
		all = append(all, v)
	}
	return all, nil
}

// listEngine lists the one volume of the engine at an address.
func listEngine(ctx context.Context, u *backstore.URI, engine string) ([]backstore.Volume, error) {
	named, err := backstore.ParseURI("longhorn:x?engine=" + engine)
	if err != nil {
		return nil, badURI("%s: %v", u.Shown(), err)
	}
	c, err := parse(named, backstore.Options{})
	if err != nil {
		return nil, err
	}
	c.volume, c.socket = "", ""
	v, err := volumeGet(ctx, c, "list")
	if err != nil {
		return nil, err
	}
	return []backstore.Volume{{URI: "longhorn:" + v.Name + "?engine=" + engine, Name: v.Name, Size: v.Size, Used: -1}}, nil
}

func stat(ctx context.Context, u *backstore.URI) (backstore.Volume, error) {
	c, err := parse(u, backstore.Options{})
	if err != nil {
		return backstore.Volume{}, err
	}
	v := backstore.Volume{URI: u.String(), Name: c.shown(), Used: -1, InUse: c.inUse()}
	if c.engine == "" {
		fd, size, err := connect(ctx, c)
		if err != nil {
			return v, opError("stat", backstore.ClassOf(err), "%w", err)
		}
		closeFd(fd)
		v.Size = size
		return v, nil
	}
	err = c.with("stat", func(cl *rpc.Client) error {
		ev, err := c.volumeOf(ctx, cl, "stat")
		if err != nil {
			return err
		}
		v.Size = ev.Size
		if ch, err := c.chain(ctx, cl, "stat"); err == nil { // else that is not told
			v.Used = 0
			for _, d := range ch.Disks {
				v.Used += d.Size
			}
		}
		return nil
	})
	return v, err
}

// with runs f with a client of the controller.
func (c *config) with(op string, f func(cl *rpc.Client) error) error {
	cl, err := c.control(op)
	if err != nil {
		return err
	}
	defer cl.Close()
	return f(cl)
}

// controlled runs f for the volume that u names, with a client of its controller, and with what that says of the volume.
func controlled(ctx context.Context, u *backstore.URI, op string, f func(c *config, cl *rpc.Client, v rpc.Volume) error) error {
	c, err := parse(u, backstore.Options{})
	if err != nil {
		return err
	}
	return c.with(op, func(cl *rpc.Client) error {
		v, err := c.volumeOf(ctx, cl, op)
		if err != nil {
			return err
		}
		return f(c, cl, v)
	})
}

// replicas lists the replicas that hold the volume's data.
func (c *config) replicas(ctx context.Context, cl *rpc.Client, op string) ([]rpc.Replica, error) {
	all, err := cl.Replicas(ctx)
	if err != nil {
		return nil, c.failed(op, err)
	}
	var good []rpc.Replica
	for _, r := range all {
		if r.Mode == rpc.ReadWrite {
			good = append(good, r)
		}
	}
	if len(good) == 0 {
		return nil, opError(op, backstore.ClassOffline, "no replica of %s works", c.shown())
	}
	return good, nil
}

// complete is replicas for what must be done on all of them: none may be missing.
func (c *config) complete(ctx context.Context, cl *rpc.Client, op string) ([]rpc.Replica, error) {
	all, err := cl.Replicas(ctx)
	if err != nil {
		return nil, c.failed(op, err)
	}
	for _, r := range all {
		if r.Mode != rpc.ReadWrite {
			return nil, opError(op, backstore.ClassBusy, "the replica at %s is %v: %s wants all replicas in order", r.Address, r.Mode, c.shown())
		}
	}
	return c.replicas(ctx, cl, op)
}

// chain is what a replica has: of those in order the one with the most snapshots, since the others may be behind.
func (c *config) chain(ctx context.Context, cl *rpc.Client, op string) (best rpc.Chain, err error) {
	list, err := c.replicas(ctx, cl, op)
	if err != nil {
		return best, err
	}
	found := false
	for _, r := range list {
		ch, e := c.chainOf(ctx, r)
		if e != nil {
			err = e
			continue
		}
		if !found || len(ch.Disks) > len(best.Disks) {
			best, found = ch, true
		}
	}
	if !found {
		return best, c.failed(op, err)
	}
	return best, nil
}

func (c *config) chainOf(ctx context.Context, r rpc.Replica) (rpc.Chain, error) {
	ctx, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	cl, err := rpc.Dial(r.Address, c.volume)
	if err != nil {
		return rpc.Chain{}, err
	}
	defer cl.Close()
	return cl.Chain(ctx)
}

// The files of a replica: one for each snapshot, and the head, into which is written.
const (
	snapPrefix = "volume-snap-"
	snapSuffix = ".img"
)

// snapName is the snapshot that a file is.
func snapName(file string) (string, bool) {
	name, ok := strings.CutPrefix(file, snapPrefix)
	if !ok {
		return "", false
	}
	return strings.CutSuffix(name, snapSuffix)
}

// nameRule: a snapshot's name is part of a file's.
var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$`)

func checkName(op, name string) error {
	if !nameRule.MatchString(name) || name == "volume-head" {
		return opError(op, backstore.ClassUnsupported, "%q is no name for a snapshot: want up to 200 letters, digits, dots, dashes and underscores, the first a letter or digit", name)
	}
	return nil
}

// find is the file of a snapshot.
func (c *config) find(ctx context.Context, cl *rpc.Client, op, name string) (rpc.Disk, error) {
	ch, err := c.chain(ctx, cl, op)
	if err != nil {
		return rpc.Disk{}, err
	}
	d, ok := ch.Disks[snapPrefix+name+snapSuffix]
	if !ok || d.Removed {
		return d, opError(op, backstore.ClassNotFound, "%s has no snapshot %q", c.shown(), name)
	}
	return d, nil
}

func snapshot(ctx context.Context, u *backstore.URI, name string, p backstore.Progress) error {
	c, err := parse(u, backstore.Options{})
	if err != nil {
		return err
	}
	return c.snapshot(ctx, name, p)
}

func (c *config) snapshot(ctx context.Context, name string, p backstore.Progress) error {
	const op = "snapshot"
	if err := checkName(op, name); err != nil {
		return err
	}
	return c.with(op, func(cl *rpc.Client) error {
		ch, err := c.chain(ctx, cl, op)
		if err != nil {
			return err
		}
		if d, ok := ch.Disks[snapPrefix+name+snapSuffix]; ok && d.Removed {
			return opError(op, backstore.ClassBusy, "the snapshot %q of %s was deleted and its file is still being joined with another", name, c.shown())
		} else if ok {
			return opError(op, backstore.ClassBusy, "%s has a snapshot %q already", c.shown(), name)
		}
		ctx, cancel := context.WithTimeout(ctx, callTime)
		defer cancel()
		p.Report(0, 1)
		if err := cl.Snapshot(ctx, name, map[string]string{"created-by": "lunar"}); err != nil {
			return c.failed(op, err)
		}
		p.Report(1, 1)
		return nil
	})
}

// Snapshot takes a snapshot by the engine, which lets the requests that it has end first.
func (s *Store) Snapshot(ctx context.Context, name string, p backstore.Progress) error {
	return s.cfg.snapshot(ctx, name, p)
}

func snapshots(ctx context.Context, u *backstore.URI) (list []backstore.Snapshot, err error) {
	err = controlled(ctx, u, "snapshots", func(c *config, cl *rpc.Client, _ rpc.Volume) error {
		ch, err := c.chain(ctx, cl, "snapshots")
		if err != nil {
			return err
		}
		for file, d := range ch.Disks {
			name, ok := snapName(file)
			if !ok || d.Removed {
				continue
			}
			s := backstore.Snapshot{Name: name, Created: d.Created, State: "ready"}
			if !d.User {
				s.State = "ready (made by the engine for itself)"
			}
			list = append(list, s)
		}
		// By what they are based on, since several can be of one second.
		depth := func(s backstore.Snapshot) (n int) {
			for d, ok := ch.Disks[snapPrefix+s.Name+snapSuffix]; ok && n <= len(ch.Disks); n++ {
				d, ok = ch.Disks[d.Parent]
			}
			return n
		}
		slices.SortFunc(list, func(a, b backstore.Snapshot) int {
			if k := a.Created.Compare(b.Created); k != 0 {
				return k
			}
			return depth(a) - depth(b)
		})
		return nil
	})
	return list, err
}

var _ backstore.Snapshotter = (*Store)(nil)
