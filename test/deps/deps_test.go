package deps

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unpacked makes a cache folder that holds the named files, executable, and points the package at it.
func unpacked(t *testing.T, files ...string) (root string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("LUNAR_DEPS", dir)
	root = filepath.Join(dir, "root")
	for _, f := range files {
		p := filepath.Join(root, f)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestLookupPrefersTheCache(t *testing.T) {
	root := unpacked(t, "usr/sbin/sh", "usr/lib/x86_64-linux-gnu/qemu/block-iscsi.so",
		"usr/lib/x86_64-linux-gnu/nbdkit/filters/nbdkit-delay-filter.so", "usr/share/perl5/Config/General.pm")
	sh, ok := Lookup("sh")
	if !ok || sh.Path != filepath.Join(root, "usr/sbin/sh") {
		t.Fatalf("sh = %+v, %v; want the one below %s", sh, ok, root)
	}
	env := sh.Command(t.Context()).Env
	lib := filepath.Join(root, "usr/lib/x86_64-linux-gnu")
	for _, want := range []string{"LD_LIBRARY_PATH=" + lib, "QEMU_MODULE_DIR=" + lib + "/qemu", "LC_ALL=C",
		"PERL5LIB=" + filepath.Join(root, "usr/share/perl5")} {
		if !slices.Contains(env, want) {
			t.Errorf("no %s in the environment", want)
		}
	}
	if got, want := sh.NBDKitFilter("delay"), lib+"/nbdkit/filters/nbdkit-delay-filter.so"; got != want {
		t.Errorf("filter = %s, want %s", got, want)
	}
	if got := sh.NBDKitPlugin("memory"); got != "memory" {
		t.Errorf("a plugin that was not unpacked = %s, want its name", got)
	}
}

func TestLookupFallsBackToTheSystem(t *testing.T) {
	unpacked(t)
	sh, ok := Lookup("sh")
	if !ok || !filepath.IsAbs(sh.Path) {
		t.Fatalf("sh = %+v, %v", sh, ok)
	}
	for _, e := range sh.Command(t.Context()).Env {
		if strings.HasPrefix(e, "QEMU_MODULE_DIR=") && os.Getenv("QEMU_MODULE_DIR") == "" {
			t.Errorf("an installed program got %s", e)
		}
	}
	if tool, ok := Lookup("no-such-program-here"); ok {
		t.Errorf("found %+v", tool)
	}
}

// recorder is a testing.TB that notes how it was ended.
type recorder struct {
	testing.TB
	skipped, failed bool
}

func (r *recorder) Helper()               {}
func (r *recorder) Skip(...any)           { r.skipped = true }
func (r *recorder) Fatalf(string, ...any) { r.failed = true; panic(r) }

func TestMissingIsSkippedButFailsUnderCI(t *testing.T) {
	unpacked(t)
	end := func() (r *recorder) {
		r = &recorder{TB: t}
		defer func() {
			if p := recover(); p != nil && p != any(r) {
				panic(p)
			}
		}()
		Find(r, "no-such-program-here")
		return r
	}
	t.Setenv("LUNAR_CI", "")
	if r := end(); !r.skipped || r.failed {
		t.Errorf("without LUNAR_CI: %+v", r)
	}
	t.Setenv("LUNAR_CI", "1")
	if r := end(); r.skipped || !r.failed {
		t.Errorf("with LUNAR_CI=1: skipped %v, failed %v", r.skipped, r.failed)
	}
}

func TestDirFollowsTheScript(t *testing.T) {
	t.Setenv("HOME", "/h")
	for _, c := range []struct{ deps, cache, xdg, want string }{
		{"/d", "/c", "/x", "/d"},
		{"", "/c", "/x", "/c/deps"},
		{"", "", "/x", "/x/lunar/deps"},
		{"", "", "", "/h/.cache/lunar/deps"},
	} {
		t.Setenv("LUNAR_DEPS", c.deps)
		t.Setenv("LUNAR_CACHE", c.cache)
		t.Setenv("XDG_CACHE_HOME", c.xdg)
		if got := Dir(); got != c.want {
			t.Errorf("Dir() with %+v = %s", c, got)
		}
	}
}
