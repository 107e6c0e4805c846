package lifecycle

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/test/daemon"
)

// Exit statuses, as README has them.
const (
	failed = 1
	usage  = 2
)

// What cannot be served is refused in one line that says what and why, and leaves everything as it was.
func TestRefuses(t *testing.T) {
	iqn := daemon.Prefix + disk
	for _, c := range []struct {
		name string
		// args makes the arguments in dir, which holds nothing but what args put there.
		args func(t *testing.T, dir, portal string) []string
		code int
		says []string // parts of the line
	}{
		{"an unknown flag", func(*testing.T, string, string) []string { return []string{"--no-such-flag"} }, usage, []string{"no-such-flag"}},
		{"a digest policy that is none", func(*testing.T, string, string) []string { return []string{"--data-digest=maybe"} }, usage, []string{"data-digest", "maybe", "require"}},
		{"an argument", func(_ *testing.T, dir, portal string) []string {
			return []string{"--portal=" + portal, newFile(dir, "size=1M"), "surplus"}
		}, usage, []string{"surplus"}},
		{"an export without a volume", func(_ *testing.T, _, portal string) []string {
			return []string{"--portal=" + portal, "--export=" + iqn}
		}, usage, []string{iqn}},
		{"a LUN that is no number", func(_ *testing.T, dir, portal string) []string {
			return []string{"--portal=" + portal, "--export=" + iqn + "/one=" + daemon.FileURI(filepath.Join(dir, "new.img"), "size=1M")}
		}, usage, []string{"one"}},
		{"a LUN beyond what can be addressed", func(_ *testing.T, dir, portal string) []string {
			return []string{"--portal=" + portal, daemon.ExportLUN(disk, 16384, daemon.FileURI(filepath.Join(dir, "new.img"), "size=1M"))}
		}, usage, []string{"16384"}},
		{"two volumes for a LUN", func(_ *testing.T, dir, portal string) []string {
			return []string{"--portal=" + portal, newFile(dir, "size=1M"), daemon.Export(disk, "mem:?size=1M")}
		}, usage, []string{iqn}},
		{"a name that is none", func(_ *testing.T, dir, portal string) []string {
			return []string{"--portal=" + portal, "--export=disk 1=" + daemon.FileURI(filepath.Join(dir, "new.img"), "size=1M")}
		}, usage, []string{"disk 1"}},
		{"a portal that is none", func(_ *testing.T, dir, _ string) []string {
			return []string{"--portal=127.0.0.1:port", newFile(dir, "size=1M")}
		}, usage, []string{"127.0.0.1:port"}},
		{"a portal with an option that is none", func(_ *testing.T, dir, portal string) []string {
			return []string{"--portal=" + portal + ",tag=2", newFile(dir, "size=1M")}
		}, usage, []string{"tag=2"}},
		{"a portal group that no portal has", func(_ *testing.T, dir, portal string) []string {
			return []string{"--portal=" + portal + ",group=2", "--bind=" + iqn + "=2,3", newFile(dir, "size=1M")}
		}, usage, []string{"--bind", "group=3"}},
		{"a target that no export has", func(_ *testing.T, dir, portal string) []string {
			return []string{"--portal=" + portal, "--bind=" + iqn + "-other=1", newFile(dir, "size=1M")}
		}, usage, []string{"--bind", iqn + "-other"}},
		{"a scheme without a driver", func(_ *testing.T, _, portal string) []string {
			return []string{"--portal=" + portal, daemon.Export(disk, "floppy:a")}
		}, failed, []string{"floppy"}},
		{"an option that nobody reads", func(_ *testing.T, dir, portal string) []string {
			return []string{"--portal=" + portal, newFile(dir, "size=1M&szie=2M")}
		}, failed, []string{"szie"}},
		{"a missing file", func(_ *testing.T, dir, portal string) []string {
			return []string{"--portal=" + portal, newFile(dir, "")}
		}, failed, []string{"new.img"}},
		{"a file in a missing folder", func(_ *testing.T, dir, portal string) []string {
			return []string{"--portal=" + portal, daemon.Export(disk, daemon.FileURI(filepath.Join(dir, "absent", "new.img"), "size=1M"))}
		}, failed, []string{"absent"}},
		{"a folder", func(_ *testing.T, dir, portal string) []string {
			return []string{"--portal=" + portal, daemon.Export(disk, daemon.FileURI(dir, ""))}
		}, failed, []string{"neither a file nor"}},
		{"a size that is no multiple of the block", func(_ *testing.T, dir, portal string) []string {
			return []string{"--portal=" + portal, newFile(dir, "size=1000")}
		}, failed, []string{"1000", "512"}},
		{"a size that is no multiple of a block of 4096", func(_ *testing.T, dir, portal string) []string {
			return []string{"--portal=" + portal, newFile(dir, "size=1049088&blocksize=4096")}
		}, failed, []string{"1049088", "4096"}},
		{"a size that is no number", func(_ *testing.T, dir, portal string) []string {
			return []string{"--portal=" + portal, newFile(dir, "size=big")}
		}, failed, []string{"big"}},
		{"a file whose size is no multiple of the block", func(t *testing.T, dir, portal string) []string {
			put(t, filepath.Join(dir, "odd.img"), 1000)
			return []string{"--portal=" + portal, daemon.Export(disk, daemon.FileURI(filepath.Join(dir, "odd.img"), ""))}
		}, failed, []string{iqn, "1000", "512"}},
		{"a file that another daemon serves", func(t *testing.T, dir, portal string) []string {
			put(t, filepath.Join(dir, "held.img"), 1<<20)
			export := daemon.Export(disk, daemon.FileURI(filepath.Join(dir, "held.img"), ""))
			daemon.Start(t, export)
			return []string{"--portal=" + portal, export}
		}, failed, []string{"held.img"}},
		{"a portal in use", func(t *testing.T, dir, _ string) []string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			return []string{"--portal=" + l.Addr().String(), newFile(dir, "size=1M")}
		}, failed, []string{"127.0.0.1:", "in use"}},
		{"a portal that is not this machine's", func(_ *testing.T, dir, _ string) []string {
			return []string{"--portal=192.0.2.1:3260", newFile(dir, "size=1M")}
		}, failed, []string{"192.0.2.1:3260"}},
		{"secrets that others may read", func(t *testing.T, dir, portal string) []string {
			put(t, filepath.Join(dir, "auth"), 0)
			return []string{"--portal=" + portal, "--auth=" + filepath.Join(dir, "auth"), newFile(dir, "size=1M")}
		}, failed, []string{"auth", "0600"}},
		{"one secret for both directions", func(t *testing.T, dir, portal string) []string {
			path := authFile(t, dir, "in joe one-secret-4-both", "out lunar one-secret-4-both")
			return []string{"--portal=" + portal, "--auth=" + path, newFile(dir, "size=1M")}
		}, failed, []string{"joe", "lunar", "same secret"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			args := c.args(t, dir, daemon.FreeAddr(t))
			before := contents(t, dir)
			r := daemon.Run(t, args...)
			if r.Code != c.code {
				t.Errorf("exit status %d, want %d", r.Code, c.code)
			}
			if line, rest, _ := strings.Cut(r.Stderr, "\n"); line == "" || rest != "" {
				t.Errorf("standard error is not one line: %q", r.Stderr)
			}
			for _, want := range c.says {
				if !strings.Contains(r.Stderr, want) {
					t.Errorf("%q does not say %q", r.Stderr, want)
				}
			}
			if r.Stdout != "" {
				t.Errorf("standard output: %q", r.Stdout)
			}
			if after := contents(t, dir); !slices.Equal(before, after) {
				t.Errorf("the folder held %v and holds %v", before, after)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	r := daemon.Run(t, "--help")
	if r.Code != 0 || r.Stderr != "" {
		t.Errorf("--help: status %d, %q", r.Code, r.Stderr)
	}
	for _, want := range []string{"--portal", "--export", "--auth", "--log-level", "--trace"} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("--help lacks %s:\n%s", want, r.Stdout)
		}
	}
}

// newFile exports a file in dir that is not there yet.
func newFile(dir, options string) string {
	return daemon.Export(disk, daemon.FileURI(filepath.Join(dir, "new.img"), options))
}

// put makes a file of n bytes that everyone may read.
func put(t *testing.T, path string, n int) {
	t.Helper()
	if err := os.WriteFile(path, bytes.Repeat([]byte{0xd5}, n), 0o644); err != nil {
		t.Fatal(err)
	}
}

// contents is every file below dir with all that it holds.
func contents(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, e.Name()+": "+string(b))
	}
	return list
}
