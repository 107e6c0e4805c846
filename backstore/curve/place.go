package curve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"strings"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/curve/mds"
	"github.com/lunar-iscsi/lunar/backstore/curve/snapclone"
)

// maxPassword bounds the file with root's password, in bytes.
const maxPassword = 1024

// kept are the options that belong to a cluster, and so to every volume of it that is listed.
var kept = []string{"socket", "lockdir", "mds", "snapshot", "passwordfile"}

// A place is what an operation on volumes is about: one volume, or a directory of them, and the servers that know it.
type place struct {
	pool string // its text, which means nothing
	path string // with its leading "/"; of a directory too
	user string // empty: none was given
	conf string

	m     *mds.Client
	s     *snapclone.Client // nil: no option snapshot
	query string            // "?…" with the options that are kept
}

// parsePlace reads a URI and its options. need: it has to name a volume.
func parsePlace(u *backstore.URI, need bool) (*place, error) {
	bad := func(err error) error { return fail(backstore.ClassUnsupported, "%s: %w", u.Shown(), err) }
	if u.Host != "" {
		return nil, bad(errName)
	}
	p := &place{path: "/"}
	n, err := parseName(u.Path)
	pool, curve, named := strings.Cut(u.Path, "/")
	if p.pool = pool; pool == "" {
		p.pool = "pool" // "//" would begin a host
	}
	switch {
	case err == nil:
		p.path, p.user, p.conf = n.path, n.user, n.conf
	case need:
		return nil, bad(err)
	case named && curve != "":
		// A directory, with its owner or without.
		dir := curve
		if rest, ok := strings.CutSuffix(curve, "_"); ok {
			if i := strings.LastIndexByte(rest, '_'); i >= 0 {
				dir, p.user = rest[:i], rest[i+1:]
			}
		}
		p.path = path.Clean("/" + dir)
	}
	if path.Clean(p.path) != p.path {
		return nil, bad(fmt.Errorf("the path %q is not a clean one", p.path))
	}
	v, ok := u.Option("mds")
	if !ok {
		return nil, bad(errors.New("option mds=HOST:PORT[,HOST:PORT…] is needed to administer volumes: the cluster's metadata servers"))
	}
	mc := mds.Config{}
	if mc.Addresses, err = mds.ParseAddresses(v); err != nil {
		return nil, bad(fmt.Errorf("option mds: %w", err))
	}
	if v, ok := u.Option("passwordfile"); ok {
		if mc.Password, err = readPassword(v); err != nil {
			return nil, bad(fmt.Errorf("option passwordfile: %w", err))
		}
	}
	if v, ok := u.Option("snapshot"); ok {
		addresses, err := mds.ParseAddresses(v)
		if err != nil {
			return nil, bad(fmt.Errorf("option snapshot: %w", err))
		}
		p.s = snapclone.New(snapclone.Config{Addresses: addresses})
	}
	var query []string
	for _, name := range kept {
		if v, ok := u.Peek(name); ok {
			query = append(query, name+"="+strings.NewReplacer("%", "%25", "&", "%26", " ", "%20").Replace(v))
		}
	}
	p.query = "?" + strings.Join(query, "&")
	p.m = mds.New(mc)
	return p, nil
}

func readPassword(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxPassword+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	password := strings.TrimRight(string(b), "\r\n")
	if len(b) > maxPassword || password == "" || strings.ContainsAny(password, "\r\n") {
		return "", fmt.Errorf("%s: want one line of at most %d bytes", name, maxPassword)
	}
	return password, nil
}

func (p *place) close() { p.m.Close() }

// lister is who may look into directories, which are root's.
func (p *place) lister() string {
	if p.m.CanRoot() || p.user == "" {
		return mds.Root
	}
	return p.user
}

// uri names a volume of the same cluster.
func (p *place) uri(volume, owner string) string {
	name := p.pool + "/" + volume + "_" + owner + "_"
	if p.conf != "" {
		name += ":" + p.conf
	}
	return "cbd:" + (&url.URL{Path: name}).EscapedPath() + p.query
}

// snapshots returns the client for snapshots.
func (p *place) snapshots() (*snapclone.Client, error) {
	if p.s == nil {
		return nil, fail(backstore.ClassUnsupported, "option snapshot=HOST:PORT[,HOST:PORT…] is needed: the cluster's SnapshotCloneServers")
	}
	return p.s, nil
}

// A failed is an error with its class; wrap makes the whole of it.
type failed struct {
	class backstore.Class
	error
}

func (f failed) Unwrap() error { return f.error }

func fail(c backstore.Class, format string, args ...any) error {
	return failed{c, fmt.Errorf(format, args...)}
}

// wrap makes err, unless nil, one of operation op on what u names.
func wrap(op string, u *backstore.URI, err error) error {
	if err == nil {
		return nil
	}
	return &backstore.Error{Class: volumeClass(err), Op: op, Cause: fmt.Errorf("%s: %w", u.Shown(), err)}
}

// volumeClass sorts what the servers say.
func volumeClass(err error) backstore.Class {
	var f failed
	switch {
	case errors.As(err, &f):
		return f.class
	case errors.Is(err, context.Canceled):
		return backstore.ClassCancelled
	case errors.Is(err, context.DeadlineExceeded):
		return backstore.ClassTimeout
	case errors.Is(err, mds.ErrPassword):
		return backstore.ClassReadOnly
	case errors.Is(err, mds.ErrAway), errors.Is(err, snapclone.ErrAway):
		return backstore.ClassOffline
	case errors.Is(err, mds.ErrUnknown), errors.Is(err, snapclone.ErrUnknown):
		return backstore.ClassTransport
	}
	switch mds.StatusOf(err) {
	case mds.NotExist, mds.DirNotExist, mds.NoPoolset:
		return backstore.ClassNotFound
	case mds.Exists, mds.Occupied, mds.UnderSnapshot, mds.BeingCloned, mds.Deleting, mds.SnapshotFrozen, mds.IDNotMatch, mds.StatusInvalid, mds.DirNotEmpty:
		return backstore.ClassBusy
	case mds.ParaError, mds.ExtendUnit, mds.Length:
		return backstore.ClassRange
	case mds.Shrink, mds.NotSupported, mds.RecoverMeta:
		return backstore.ClassUnsupported
	case mds.OwnerAuthFail:
		return backstore.ClassReadOnly
	case mds.StorageError, mds.RecoverError:
		return backstore.ClassMedium
	}
	switch snapclone.CodeOf(err) {
	case snapclone.FileNotExist:
		return backstore.ClassNotFound
	case snapclone.TaskExists, snapclone.FileStatus, snapclone.Unfinished, snapclone.SnapshotError, snapclone.CancelFinished, snapclone.InvalidSnap, snapclone.InUse,
		snapclone.CleanEarly, snapclone.FileExist, snapclone.Full:
		return backstore.ClassBusy
	case snapclone.Limit:
		return backstore.ClassNoSpace
	case snapclone.InvalidUser:
		return backstore.ClassReadOnly
	case snapclone.BadRequest:
		return backstore.ClassRange
	case snapclone.Unsupported:
		return backstore.ClassUnsupported
	case snapclone.Stopped:
		return backstore.ClassOffline
	}
	return backstore.ClassInternal
}
