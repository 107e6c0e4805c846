package gotgt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/gostor/gotgt/pkg/api"
	"github.com/gostor/gotgt/pkg/scsi"
	_ "github.com/gostor/gotgt/pkg/scsi/backingstore" // registers gotgt's own file store with it

	"github.com/lunar-iscsi/lunar/backstore"
)

const scheme = "gotgt"

// A Remote is an api.RemoteBackingStore of a program that embeds a target.
type Remote struct {
	Store   api.RemoteBackingStore
	Size    int64 // bytes
	Discard bool  // its Unmap gives space back
}

// Driver returns the driver of the scheme "gotgt". remotes, which may be nil, are volumes by name; any other volume is TYPE:PATH, where the type is
// registered with gotgt (scsi.RegisterBackingStore).
func Driver(remotes map[string]Remote) backstore.Driver {
	left := &backstore.Leftovers{}
	return backstore.Driver{
		Scheme:  scheme,
		Help:    "gotgt:TYPE:PATH — a back end written for gotgt, as gotgt:file:/srv/disk.img; workers=8 inflight=256 discard readonly",
		Options: []string{"workers", "inflight", "discard", "readonly"},
		Traits:  []string{"fua"},
		Open: func(ctx context.Context, u *backstore.URI, o backstore.Options) (backstore.Store, error) {
			if err := left.Check(u.Path, "open"); err != nil {
				return nil, err
			}
			st, err := open(ctx, u, o, remotes)
			if err != nil {
				return nil, err
			}
			st.left, st.key = left, u.Path
			return st, nil
		},
	}
}

func open(ctx context.Context, u *backstore.URI, o backstore.Options, remotes map[string]Remote) (*Store, error) {
	c := Config{Volume: u.Path}
	var err error
	if c.Workers, err = number(u, "workers", DefaultWorkers, maxWorkers); err != nil {
		return nil, err
	}
	if c.InFlight, err = number(u, "inflight", DefaultInFlight, maxInFlight); err != nil {
		return nil, err
	}
	if c.ReadOnly, err = u.Bool("readonly", false); err != nil {
		return nil, refused("%s: %w", u.Shown(), err)
	}
	c.ReadOnly = c.ReadOnly || o.ReadOnly
	r, known := remotes[u.Path]
	if c.Discard, err = u.Bool("discard", known && r.Discard); err != nil {
		return nil, refused("%s: %w", u.Shown(), err)
	}
	if o.TakeOver {
		return nil, refused("%s: a back end of gotgt cannot shut others out", u.Shown())
	}
	if known {
		return NewRemote(r.Store, r.Size, c)
	}
	typ, path, ok := strings.Cut(u.Path, ":")
	if !ok || typ == "" || path == "" || u.Host != "" {
		return nil, refused("%s: want gotgt:TYPE:PATH, for example gotgt:file:/srv/disk.img", u.Shown())
	}
	bs, err := scsi.NewBackingStore(typ)
	if err != nil || bs == nil {
		return nil, refused("%s: no back end of type %q is registered with gotgt in this program", u.Shown(), typ)
	}
	return openLocal(ctx, bs, path, c)
}

// openLocal opens a back end off the caller's goroutine: gotgt's Open knows no time limit.
func openLocal(ctx context.Context, bs api.BackingStore, path string, c Config) (*Store, error) {
	type opened struct {
		st  *Store
		err error
	}
	done := make(chan opened)
	gone := make(chan struct{})
	go func() {
		var o opened
		o.st, o.err = openNow(bs, path, c)
		select {
		case done <- o:
		case <-gone:
			if o.err == nil {
				_ = o.st.Close(context.Background()) // nobody is there to be told
			}
		}
	}()
	select {
	case o := <-done:
		if o.err != nil {
			return nil, o.err
		}
		return o.st, nil
	case <-ctx.Done():
		close(gone)
		return nil, &backstore.Error{Class: backstore.ClassOffline, Op: "open", Cause: fmt.Errorf("the back end's Open has not returned: %w", context.Cause(ctx))}
	}
}

func openNow(bs api.BackingStore, path string, c Config) (st *Store, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &backstore.Error{Class: backstore.ClassInternal, Op: "open", Cause: panicked{p}}
		}
	}()
	// What of a logical unit a back end may look at.
	dev := &api.SCSILu{Path: path, Storage: bs, BlockShift: blockShift}
	if err := bs.Open(dev, path); err != nil {
		return nil, &backstore.Error{Class: openClass(err), Op: "open", Cause: err}
	}
	size := bs.Size(dev)
	if size > 1<<63-1 {
		err = refused("the back end says that it has %d bytes", size)
	} else {
		dev.Size = size
		st, err = New(bs, dev, int64(size), c)
	}
	if err != nil {
		_ = bs.Close(dev) // the error says more
		return nil, err
	}
	return st, nil
}

func number(u *backstore.URI, name string, def, limit int) (int, error) {
	v, ok := u.Option(name)
	if !ok {
		return def, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > limit {
		return 0, refused("%s: option %s=%s: want 1 to %d", u.Shown(), name, v, limit)
	}
	return n, nil
}

func openClass(err error) backstore.Class {
	if errors.Is(err, fs.ErrNotExist) {
		return backstore.ClassNotFound
	}
	return class(err)
}
