//go:build e2e

package ceph

import (
	"os"
	"path/filepath"
	"testing"
)

// What was written to a cluster on disk is there after all of it was killed, and after all of it was stopped.
func TestRestart(t *testing.T) {
	c := Start(t, Config{Bluestore: true})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	image := make([]byte, 8<<20)
	for i := range image {
		image[i] = byte(i>>12) ^ byte(i)
	}
	path := filepath.Join(t.TempDir(), "image")
	must(os.WriteFile(path, image, 0o644))
	_, err := c.RBD("import", path, "rbd/disk")
	must(err)
	for name, end := range map[string]func() error{"kill": func() error { c.KillAll(); return nil }, "stop": c.StopAll} {
		must(end())
		must(c.StartAll())
		back := filepath.Join(t.TempDir(), name)
		_, err := c.RBD("export", "rbd/disk", back)
		must(err)
		got, err := os.ReadFile(back)
		must(err)
		if string(got) != string(image) {
			t.Errorf("after %s the image holds something else", name)
		}
	}
}
