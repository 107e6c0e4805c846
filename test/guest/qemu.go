package guest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/deps"
)

// startQEMU starts a virtual machine with Debian's kernel. Its network is QEMU's own slirp, so the guest sees the
// host as one of user-mode Linux does.
func (g *Guest) startQEMU(t testing.TB, o *Options) {
	t.Helper()
	if o.Disk != "" && o.Layer != "" {
		t.Fatal("a guest has either a layer or a disk of its own: both are /dev/vdb")
	}
	qemu := deps.Find(t, "qemu-system-x86_64")
	g.take(t, "kernel", "qemu")
	g.take(t, "initrd", "qemu")
	kernel := []string{"console=ttyS0", "quiet", "panic=-1", "lunar.agent=" + g.agent.address()}
	card := "user,id=net"
	if o.Forward != 0 {
		g.Forwarded = freeAddr(t)
		card += fmt.Sprintf(",hostfwd=tcp:%s-:%d", g.Forwarded, o.Forward)
	}
	args := append(machine(qemu, o.Memory), accelerators()...)
	args = append(args, "-netdev", card, "-device", "virtio-net-pci,netdev=net,romfile=", "-serial", "file:/dev/stdout")
	args = append(args, disk("vda", image("root.img"))...)
	switch {
	case o.Layer != "":
		args = append(args, disk("vdb", image(o.Layer+".img"))...)
		kernel = append(kernel, "lunar.layer=/dev/vdb")
	case o.Disk != "":
		args = append(args, disk("vdb", o.Disk)...)
	}
	args = append(args, "-kernel", "kernel", "-initrd", "initrd", "-append", strings.Join(kernel, " "))
	g.kernel = g.start(t, qemu.Command(context.WithoutCancel(t.Context()), args...), nil)
}

// accelerators are QEMU's choices of what is to run the guest's instructions.
func accelerators() []string {
	if usableKVM() {
		return []string{"-accel", "kvm"}
	}
	return []string{"-accel", "tcg,thread=multi"}
}

// probeTimeout is for a machine that is to start and power off: a second where KVM works as it should.
const probeTimeout = 10 * time.Second

// usableKVM tells whether this process may use KVM and a machine runs with it. A device that opens is not enough:
// nested in other virtual machines there are those with which none gets through its kernel's first instructions.
var usableKVM = sync.OnceValue(func() bool {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	qemu, ok := deps.Lookup("qemu-system-x86_64")
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	parts := filepath.Join(deps.Dir(), "guest")
	args := append(machine(qemu, DefaultMemory), "-accel", "kvm", "-append", "quiet panic=-1 lunar.probe",
		"-kernel", filepath.Join(parts, "kernel"), "-initrd", filepath.Join(parts, "initrd"))
	c := qemu.Command(ctx, args...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c.Run() == nil
})

// machine is QEMU's part of a command line that is the same for all guests. Whatever is not named is not there:
// no display, no monitor, no network card that boots.
func machine(qemu *deps.Tool, mib int) []string {
	args := []string{"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"}
	for _, dir := range qemu.Share("qemu", "seabios") {
		args = append(args, "-L", dir)
	}
	// QEMU before 8 ends on AMD's processors over what arch-capabilities are not there.
	return append(args, "-machine", "pc", "-cpu", "max,arch-capabilities=off", "-smp", "2", "-m", strconv.Itoa(mib))
}

// image is a file that nobody writes to, as a block device. QEMU would not share it with user-mode Linux, which
// takes another kind of lock.
func image(name string) string {
	return "driver=raw,read-only=on,file.driver=file,file.locking=off,file.filename=" + name
}

// disk is a virtio disk upon a block device of QEMU.
func disk(name, blockdev string) []string {
	return []string{"-blockdev", "node-name=" + name + "," + blockdev, "-device", "virtio-blk-pci,drive=" + name}
}

// freeAddr is an address and port that nobody listened on a moment ago: QEMU does not say which port it was given.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", Portal)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
