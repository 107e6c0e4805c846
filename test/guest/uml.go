package guest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/test/deps"
)

// startUML starts user-mode Linux and, for its network card, libslirp-helper: the two ends of a pair of sockets.
func (g *Guest) startUML(t testing.TB, o *Options) {
	t.Helper()
	if o.Disk != "" || o.Forward != 0 {
		t.Fatalf("a guest of user-mode Linux has neither disks of its own nor ports that the host reaches: want %s", QEMU)
	}
	uml, helper := deps.Find(t, "linux.uml"), deps.Find(t, "libslirp-helper")
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("the guest's network: %v", err)
	}
	card, wire := os.NewFile(uintptr(ends[0]), "card"), os.NewFile(uintptr(ends[1]), "wire")
	defer card.Close()
	defer wire.Close()
	ctx := context.WithoutCancel(t.Context())
	g.slirp = g.start(t, helper.Command(ctx, "--fd=3", "--exit-with-parent"), wire)
	args := []string{
		fmt.Sprintf("mem=%dM", o.Memory), "ubd0r=root.img", "root=/dev/ubda", "ro", "rootfstype=ext4", "init=/lunar-init",
		"vec0:transport=fd,fd=3", "con=null", "con0=null,fd:1", "quiet", "lunar.agent=" + g.agent.address(),
	}
	if o.Layer != "" {
		args = append(args, "ubd1r="+o.Layer+".img", "lunar.layer=/dev/ubdb")
	}
	kernel := uml.Command(ctx, args...)
	kernel.Env = memoryIn(kernel.Env, "/dev/shm", g.dir, o.Memory)
	g.kernel = g.start(t, kernel, card)
}

// memoryIn is an environment in which user-mode Linux has its memory in a file below shm where there is room for
// it, else below dir: on a disk a guest is slow, in a memory file system that is too small it dies in the midst.
func memoryIn(env []string, shm, dir string, mib int) []string {
	env = slices.DeleteFunc(env, func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return name == "TMPDIR" || name == "TMP" || name == "TEMP"
	})
	var st unix.Statfs_t
	if err := unix.Statfs(shm, &st); err != nil || st.Type != unix.TMPFS_MAGIC || int64(st.Bavail)*st.Bsize < int64(mib)<<20 {
		env = append(env, "TMPDIR="+dir)
	}
	return env
}
