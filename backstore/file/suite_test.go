package file

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

// diskDir returns a directory for the test that is not in memory, if this machine has one to offer.
func diskDir(t testing.TB) string {
	t.Helper()
	for _, parent := range []string{os.TempDir(), "/var/tmp", "."} {
		var fs unix.Statfs_t
		if err := unix.Statfs(parent, &fs); err != nil || fs.Type == unix.TMPFS_MAGIC {
			continue
		}
		if dir, err := os.MkdirTemp(parent, "lunar-file-test"); err == nil {
			t.Cleanup(func() { os.RemoveAll(dir) })
			if dir, err = filepath.Abs(dir); err != nil {
				t.Fatal(err)
			}
			return dir
		}
	}
	return t.TempDir()
}

// places are the directories that tests run in: a disk's and, if there is one, memory; LUNAR_TEST_DIRS
// (separated by colons) adds others, for file systems that this machine has not by chance.
func places(t testing.TB) map[string]string {
	t.Helper()
	dirs := map[string]string{"disk": diskDir(t)}
	if shm, err := os.MkdirTemp("/dev/shm", "lunar-file-test"); err == nil {
		t.Cleanup(func() { os.RemoveAll(shm) })
		dirs["shm"] = shm
	}
	for i, d := range filepath.SplitList(os.Getenv("LUNAR_TEST_DIRS")) {
		dir, err := os.MkdirTemp(d, "lunar-file-test")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		dirs[fmt.Sprintf("dir%d", i)] = dir
	}
	return dirs
}

// hasDirect reports whether files in dir can be opened with O_DIRECT.
func hasDirect(t testing.TB, dir string) bool {
	t.Helper()
	st, err := tryURI("file://" + filepath.Join(dir, "direct.img") + "?size=1M&direct=on")
	if err != nil {
		if backstore.ClassOf(err) != backstore.ClassUnsupported {
			t.Fatal(err)
		}
		return false
	}
	if err := st.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	return true
}

func openURI(t testing.TB, uri string) *Store {
	t.Helper()
	st, err := tryURI(uri)
	if err != nil {
		t.Fatalf("%s: %v", uri, err)
	}
	return st
}

func tryURI(uri string) (*Store, error) {
	u, err := backstore.ParseURI(uri)
	if err != nil {
		return nil, err
	}
	st, err := Driver().Open(context.Background(), u, backstore.Options{})
	if err != nil {
		return nil, err
	}
	return st.(*Store), nil
}

func TestStore(t *testing.T) {
	for place, dir := range places(t) {
		for _, opts := range []string{"", "thin=off", "direct=on", "cache=writethrough", "writer=off", "shared=on"} {
			if place == "shm" && opts != "" && opts != "thin=off" || opts == "direct=on" && !hasDirect(t, dir) {
				continue
			}
			t.Run(place+opts, func(t *testing.T) {
				n, path := 0, ""
				backstoretest.Run(t, func(t *testing.T, size int64) backstore.Store {
					n++
					path = filepath.Join(dir, fmt.Sprintf("%s%d.img", opts, n))
					t.Cleanup(func() { os.Remove(path) })
					return openURI(t, fmt.Sprintf("file://%s?size=%d&%s", path, size, opts))
				}, backstoretest.Options{
					Reopen: func(t *testing.T) backstore.Store { return openURI(t, "file://"+path+"?"+opts) },
					OpenReadOnly: func(t *testing.T, size int64) backstore.Store {
						path := filepath.Join(dir, opts+"ro.img")
						st := openURI(t, fmt.Sprintf("file://%s?size=%d&%s", path, size, opts))
						if err := st.Close(context.Background()); err != nil {
							t.Fatal(err)
						}
						return openURI(t, "file://"+path+"?readonly&"+opts)
					},
				})
			})
		}
	}
}

// LUNAR_TEST_DEVICES (separated by colons) names block devices of at least 4 MiB that may be overwritten; the
// suite runs over them too. It needs the right to open them, so it is for hand.
func TestDevices(t *testing.T) {
	for _, dev := range filepath.SplitList(os.Getenv("LUNAR_TEST_DEVICES")) {
		for _, opts := range []string{"", "direct=on", "cache=writethrough"} {
			t.Run(filepath.Base(dev)+opts, func(t *testing.T) {
				backstoretest.Run(t, func(t *testing.T, size int64) backstore.Store {
					st := openURI(t, "file://"+dev+"?"+opts)
					if got := st.Info().Size; got != size {
						t.Fatalf("%s has %d bytes; the suite wants one of %d", dev, got, size)
					}
					h := backstoretest.NewHarness(t, st, false)
					if err := h.Do(&backstore.Request{Op: backstore.WriteZeroes, Len: size}); err != nil {
						t.Fatal(err)
					}
					return st
				}, backstoretest.Options{Reopen: func(t *testing.T) backstore.Store { return openURI(t, "file://"+dev+"?"+opts) }})
			})
		}
	}
}
