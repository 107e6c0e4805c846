//go:build e2e

package powerloss

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/test/mutation"
)

// withoutSync is each place where the driver for files asks for durability, broken.
var withoutSync = []mutation.Mutant{
	{Name: "no RWF_DSYNC by workers", Path: "backstore/file/raw.go",
		Old: "\tn, _, e := unix.Syscall6(unix.SYS_PWRITEV2, uintptr(fd), uintptr(unsafe.Pointer(&iov)), 1, uintptr(off), 0, unix.RWF_DSYNC)\n",
		New: "\tn, _, e := unix.Syscall6(unix.SYS_PWRITEV2, uintptr(fd), uintptr(unsafe.Pointer(&iov)), 1, uintptr(off), 0, 0)\n"},
	{Name: "no RWF_DSYNC by the ring", Path: "backstore/file/ring.go",
		Old: "\t\t\t\tq.opFlags = unix.RWF_DSYNC\n",
		New: "\t\t\t\tq.opFlags = 0\n"},
	{Name: "no fdatasync by the ring", Path: "backstore/file/ring.go",
		Old: "\t\tq.opcode, q.opFlags = opFsync, fsyncDatasync\n",
		New: "\t\tq.opcode = 0 // IORING_OP_NOP\n"},
	{Name: "no fdatasync by workers", Path: "backstore/file/exec.go",
		Old: "\t\t_, _, e := unix.Syscall(unix.SYS_FDATASYNC, uintptr(fd), 0, 0)\n",
		New: "\t\te := unix.Errno(0)\n"},
	{Name: "no O_DSYNC", Path: "backstore/file/open.go",
		Old: "\t\tflags |= unix.O_DSYNC\n",
		New: "\t\tflags |= 0\n"},
}

// brokenLunard builds a lunard with all of these at once.
func brokenLunard(t *testing.T) string {
	t.Helper()
	gomod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(err)
	}
	root, dir := filepath.Dir(strings.TrimSpace(string(gomod))), t.TempDir()
	replace := map[string]string{}
	for i := range withoutSync {
		m := &withoutSync[i]
		path := filepath.Join(root, m.Path)
		from, broken := path, filepath.Join(dir, filepath.Base(path))
		if replace[path] != "" {
			from = broken // a second change of one file
		}
		src, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if src, err = m.Apply(src); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(broken, src, 0o600); err != nil {
			t.Fatal(err)
		}
		replace[path] = broken
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	overlay, lunard := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "lunard")
	if err := os.WriteFile(overlay, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("go", "build", "-overlay", overlay, "-o", lunard, "./cmd/lunard")
	c.Dir = root
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("building a broken lunard: %v\n%s", err, out)
	}
	return lunard
}

// A lunard that asks for no durability is found out: by the volumes with FUA, with flushes and with write-through, each
// of which has lost something that was promised.
func TestPowerLossFindsWhatIsNotDurable(t *testing.T) {
	t.Parallel()
	lives(t, brokenLunard(t), 1, func(round int, v *volume, found verdict) {
		switch {
		case round == 0:
			if found.broken > 0 {
				t.Errorf("%s: a new volume holds %s", v.name, found.first)
			}
		case v.promise == never:
		case found.broken == 0:
			t.Errorf("%s: nothing that was promised is lost, though nothing was made durable", v.name)
		default:
			t.Logf("%s: %d blocks lost, as they had to be: %s", v.name, found.broken, found.first)
		}
	})
}
