package deps

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A Tool is a program that was found.
type Tool struct {
	Name string
	Path string // absolute
	root string // where it was unpacked; empty for an installed one
}

// CI tells whether a missing program is a failure (LUNAR_CI is set and not 0).
func CI() bool {
	v := os.Getenv("LUNAR_CI")
	return v != "" && v != "0"
}

// Skip ends the test because this machine lacks something, named by why; under CI the test fails.
func Skip(t testing.TB, why string) {
	t.Helper()
	if CI() {
		t.Fatalf("%s (LUNAR_CI is set: nothing is skipped)", why)
	}
	t.Skip(why)
}

// Dir is the folder that scripts/test-deps unpacks into, by the same rules.
func Dir() string {
	if d := os.Getenv("LUNAR_DEPS"); d != "" {
		return d
	}
	if d := os.Getenv("LUNAR_CACHE"); d != "" {
		return filepath.Join(d, "deps")
	}
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		cache = filepath.Join(os.Getenv("HOME"), ".cache")
	}
	return filepath.Join(cache, "lunar", "deps")
}

// binDirs are searched in this order, below the cache folder and, after PATH, on the system: servers
// are in sbin, which is not in everyone's PATH.
var binDirs = [...]string{"usr/bin", "usr/sbin", "bin", "sbin"}

// Lookup finds a program without a test; ok is false when it is nowhere.
func Lookup(name string) (tool *Tool, ok bool) {
	root := filepath.Join(Dir(), "root")
	for _, d := range binDirs {
		if p := filepath.Join(root, d, name); executable(p) {
			return &Tool{Name: name, Path: p, root: root}, true
		}
	}
	if p, err := exec.LookPath(name); err == nil {
		if p, err = filepath.Abs(p); err == nil {
			return &Tool{Name: name, Path: p}, true
		}
	}
	for _, d := range binDirs {
		if p := filepath.Join("/", d, name); executable(p) {
			return &Tool{Name: name, Path: p}, true
		}
	}
	return nil, false
}

// Find is Lookup for a test, which is skipped (under CI: fails) when the program is nowhere.
func Find(t testing.TB, name string) *Tool {
	t.Helper()
	tool, ok := Lookup(name)
	if !ok {
		Skip(t, name+" not found: scripts/test-deps fetches it")
	}
	return tool
}

// Command is exec.CommandContext for the program, with the environment that it needs.
func (tl *Tool) Command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, tl.Path, args...)
	c.Env = tl.Env()
	return c
}

// Env is this process's environment with what an unpacked program needs to find its libraries and
// modules.
func (tl *Tool) Env() []string {
	env := append(os.Environ(), "LC_ALL=C")
	if tl.root == "" {
		return env
	}
	var libs []string
	for _, pattern := range []string{"usr/lib/*-linux-gnu*", "lib/*-linux-gnu*", "usr/lib/*-linux-gnu*/ceph", "usr/lib/systemd", "lib/systemd"} {
		dirs, _ := filepath.Glob(filepath.Join(tl.root, pattern)) // the only error is a bad pattern
		libs = append(libs, dirs...)
	}
	env = append(env, "LD_LIBRARY_PATH="+strings.Join(libs, ":"))
	if dir := tl.Lib("qemu"); dir != "" {
		env = append(env, "QEMU_MODULE_DIR="+dir)
	}
	var perl []string
	for _, pattern := range []string{"usr/share/perl5", "usr/share/perl/5.*", "usr/lib/*-linux-gnu*/perl5/5.*", "usr/lib/*-linux-gnu*/perl/5.*"} {
		dirs, _ := filepath.Glob(filepath.Join(tl.root, pattern))
		perl = append(perl, dirs...)
	}
	if len(perl) != 0 {
		env = append(env, "PERL5LIB="+strings.Join(perl, ":"))
	}
	return env
}

// NBDKitPlugin is how nbdkit is told to load a plugin: a path when nbdkit is unpacked, since its built-in
// folder is then empty, else the bare name.
func (tl *Tool) NBDKitPlugin(name string) string {
	if p := tl.Lib("nbdkit/plugins/nbdkit-" + name + "-plugin.so"); p != "" {
		return p
	}
	return name
}

// NBDKitFilter is NBDKitPlugin for a filter.
func (tl *Tool) NBDKitFilter(name string) string {
	if p := tl.Lib("nbdkit/filters/nbdkit-" + name + "-filter.so"); p != "" {
		return p
	}
	return name
}

// Share are the folders of data (below usr/share) that an unpacked program was built to find on the system and has
// to be told of, as far as they are there; none for an installed one.
func (tl *Tool) Share(names ...string) (dirs []string) {
	for _, name := range names {
		dir := filepath.Join(tl.root, "usr/share", name)
		if st, err := os.Stat(dir); tl.root != "" && err == nil && st.IsDir() {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// Lib is the path of something below the library folder that the program was unpacked with; empty for an installed program, which finds it by
// itself, and for what is not there.
func (tl *Tool) Lib(sub string) string {
	if tl.root == "" {
		return ""
	}
	found, _ := filepath.Glob(filepath.Join(tl.root, "usr/lib/*-linux-gnu*", sub))
	if len(found) == 0 {
		return ""
	}
	return found[0]
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}
