package file

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

// The snapshots of /srv/d.img are plain files in the folder /srv/d.img.snapshots, named as the snapshot is. Nothing else is kept about
// one: its length is the volume's size then, its time of change when it was taken. It is opened without the right to write only.
const snapshotsSuffix = ".snapshots"

// maxSnapshotName keeps a name short enough for what is put around it while it is made.
const maxSnapshotName = 200

func snapshotsOf(path string) string { return path + snapshotsSuffix }

// checkName says what is wrong with a snapshot's name: it is one of a file in a folder that is ours, so it has no way out of it, is not hidden, and can be typed.
func checkName(name string) error {
	bad := func(what string) error {
		return classErr(backstore.ClassRange, "the snapshot's name %q %s", name, what)
	}
	switch {
	case name == "":
		return bad("is empty")
	case len(name) > maxSnapshotName:
		return bad(fmt.Sprintf("is longer than %d bytes", maxSnapshotName))
	}
	for i, c := range []byte(name) {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		case i > 0 && strings.IndexByte("._-+:@", c) >= 0:
		default:
			return bad("has characters other than letters, digits and, not first, . _ - + : @")
		}
	}
	return nil
}

// isSnapshot reports whether path is that of a snapshot of a file that exists.
func isSnapshot(path string) bool {
	of, ok := strings.CutSuffix(filepath.Dir(path), snapshotsSuffix)
	if !ok {
		return false
	}
	var st unix.Stat_t
	return unix.Stat(of, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

// resolve returns the one path of the file: its snapshots are beside that, by whatever links it was named.
func resolve(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", classErr(backstore.ClassNotFound, "%s does not exist", path)
	}
	if err != nil {
		return "", err
	}
	return filepath.Abs(real)
}

// snapshotFolder makes the folder for the snapshots of path, if it is not there, and removes what a crash has left in it.
func snapshotFolder(path string) (string, error) {
	dir := snapshotsOf(path)
	switch err := unix.Mkdir(dir, 0o700); err {
	case nil:
		return dir, syncDir(filepath.Dir(dir))
	case unix.EEXIST:
		return dir, sweepDir(dir)
	default:
		return "", &os.PathError{Op: "mkdir", Path: dir, Err: err}
	}
}

// dropFolder removes the folder for snapshots if it is empty.
func dropFolder(path string) error {
	err := unix.Rmdir(snapshotsOf(path))
	if err == unix.ENOENT || err == unix.ENOTEMPTY || err == unix.EEXIST {
		return nil
	}
	return err
}

// maxEntries is how many files a folder may have that is read.
const maxEntries = 100_000

// readDir returns the entries of dir in order; a missing one has none.
func readDir(dir string) ([]os.DirEntry, error) {
	f, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := f.ReadDir(maxEntries + 1)
	if errors.Is(err, io.EOF) { // it is empty
		err = nil
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if len(list) > maxEntries {
		return nil, classErr(backstore.ClassRange, "%s has more than %d entries", dir, maxEntries)
	}
	return list, nil
}

// sweepDir removes what crashes have left in dir.
func sweepDir(dir string) error {
	list, err := readDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if isTemp(e.Name()) && e.Type().IsRegular() {
			sweep(filepath.Join(dir, e.Name()))
		}
	}
	return nil
}

// A classed is an error that knows its class; wrap makes the whole of it.
type classed struct {
	class backstore.Class
	error
}

func (c classed) Unwrap() error { return c.error }

func classErr(c backstore.Class, format string, args ...any) error {
	return classed{c, fmt.Errorf(format, args...)}
}
