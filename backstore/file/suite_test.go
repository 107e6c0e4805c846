package file

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

// places are the directories that tests run in: the one for temporary files (a disk's file system, mostly) and
// memory, if there is one.
func places(t testing.TB) map[string]string {
	t.Helper()
	dirs := map[string]string{"disk": t.TempDir()}
	if shm, err := os.MkdirTemp("/dev/shm", "lunar-file-test"); err == nil {
		t.Cleanup(func() { os.RemoveAll(shm) })
		dirs["shm"] = shm
	}
	return dirs
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
		for _, opts := range []string{"", "thin=off", "direct=on", "cache=writethrough", "writer=on", "shared=on"} {
			if place == "shm" && opts != "" && opts != "thin=off" {
				continue
			}
			t.Run(place+opts, func(t *testing.T) {
				n, path := 0, ""
				backstoretest.Run(t, func(t *testing.T, size int64) backstore.Store {
					n++
					path = filepath.Join(dir, fmt.Sprintf("%s%d.img", opts, n))
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
