//go:build e2e

package guest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/deps"
)

// An administrated lunard is one that lunarctl and Debian's tgtadm are let in to.
type administrated struct {
	*testing.T
	*daemon.Daemon
	dir    string // short, for the sockets
	tgtadm *deps.Tool
}

func administrate(t *testing.T) *administrated {
	t.Helper()
	dir, err := os.MkdirTemp("", "lunar")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	a := &administrated{T: t, dir: dir, tgtadm: deps.Find(t, "tgtadm")}
	a.Daemon = daemon.StartAt(t, Portal, "--state-dir="+a.path("state"), "--listen-admin=unix:"+a.path("admin"), "--tgt-socket="+a.path("tgt"))
	return a
}

func (a *administrated) path(name string) string { return filepath.Join(a.dir, name) }

// ctl runs lunarctl, adm tgtadm; both have to succeed.
func (a *administrated) ctl(args ...string) {
	a.Helper()
	if out, err := a.lunarctl(args...).CombinedOutput(); err != nil {
		a.Fatalf("lunarctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (a *administrated) lunarctl(args ...string) *exec.Cmd {
	return exec.CommandContext(a.Context(), daemon.Lunarctl(a.T), append([]string{"--server=unix:" + a.path("admin")}, args...)...)
}

func (a *administrated) adm(line string) {
	a.Helper()
	c := a.tgtadm.Command(a.Context(), append([]string{"--lld", "iscsi"}, strings.Fields(line)...)...)
	c.Env = append(c.Env, "TGT_IPC_SOCKET="+a.path("tgt"))
	if out, err := c.CombinedOutput(); err != nil {
		a.Fatalf("tgtadm %s: %v\n%s", line, err, out)
	}
}

// truncate makes a file, or gives it another size.
func (a *administrated) truncate(name string, size int64) string {
	a.Helper()
	f, err := os.OpenFile(a.path(name), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = f.Truncate(size)
		f.Close()
	}
	if err != nil {
		a.Fatal(err)
	}
	return a.path(name)
}

// Disks grow by tgtadm and lunarctl while the guest uses them. The guest hears of it, sees the new sizes after iscsiadm -R, in the same session,
// has lost nothing of a load that verifies what it reads, grows the file system and uses what is new.
func TestGrowsByAdministrators(t *testing.T) {
	t.Parallel()
	a := administrate(t)
	a.adm("--op new --mode target --tid 1 -T " + iqn)
	raw := a.truncate("raw", 64<<20)
	a.adm("--op new --mode logicalunit --tid 1 --lun 1 -b " + raw)
	a.adm("--op bind --mode target --tid 1 -I ALL")
	a.ctl("lun", "add", iqn, "2", "file://"+a.path("fs")+"?size=64M")

	g := Boot(t)
	one := loginAt(t, g, a.Addr)
	two := strings.TrimSpace(g.Run(t, "disk "+iqn+" 2"))
	g.Run(t, `
		set -e
		sessions `+iqn+` >/tmp/before
		mkdir -p /tmp/m
		mkfs.ext4 -q `+two+`
		mount `+two+` /tmp/m
		fill /tmp/m/before 16`)
	l := verified(t, g, one, 20)
	sees := func(disk string, size int64) {
		t.Helper()
		g.Run(t, fmt.Sprintf(`
			set -e
			iscsiadm -m session -R >/dev/null
			grown() { [ "$(</sys/block/%s/size)" = %d ] && [ "$(blockdev --getsize64 %s)" = %d ]; }
			wait_for 30 grown
			sessions %s | cmp /tmp/before -`, strings.TrimPrefix(disk, "/dev/"), size/512, disk, size, iqn))
	}
	a.truncate("raw", 96<<20)
	a.adm("--op update --mode logicalunit --tid 1 --lun 1 --params disksize=auto")
	sees(one, 96<<20)
	a.ctl("lun", "resize", iqn, "2", "128M")
	sees(two, 128<<20)
	a.ctl("lun", "resize", iqn, "1", "+32M")
	sees(one, 128<<20)
	if l.cmd.Ended() {
		t.Error("the load had ended before the disk had grown twice")
	}
	g.Run(t, `
		set -e
		resize2fs `+two+` >/dev/null 2>&1
		fill /tmp/m/after 70 # more than there was
		umount /tmp/m
		uncached `+two+`
		mount `+two+` /tmp/m
		checked /tmp/m/before
		checked /tmp/m/after
		umount /tmp/m
		e2fsck -f -n `+two+`
		head -c 4M /dev/urandom >/tmp/end
		dd if=/tmp/end of=`+one+` bs=1M seek=124 oflag=direct conv=notrunc status=none
		dd if=`+one+` bs=1M skip=124 iflag=direct status=none | cmp - /tmp/end`)
	if out, err := a.lunarctl("lun", "resize", iqn, "1", "64M").CombinedOutput(); err == nil || !strings.Contains(string(out), "force") {
		t.Errorf("made smaller: %v\n%s", err, out)
	}
	sees(one, 128<<20)
	l.wait(t)
	said := g.Run(t, "dmesg")
	if !strings.Contains(said, "Capacity data has changed") || strings.Contains(said, "I/O error") || strings.Contains(said, "detected conn error") {
		t.Errorf("the guest's kernel says\n%s", said)
	}
	g.Run(t, "logout "+iqn)
	g.Shutdown(t)
	a.Stop(t)
}

// Who may use a target, and with which account, changes while the guest is logged in: the session goes on, discovery shows what the guest may use
// by now, and the next login is by the new rules.
func TestAccessChangesWhileLoggedIn(t *testing.T) {
	t.Parallel()
	a := administrate(t)
	mine, other := iqn+"-mine", iqn+"-other"
	a.ctl("target", "add", mine, "--lun=1=mem:?size=64M", "--initiator="+Initiator)
	a.ctl("target", "add", other, "--lun=1=mem:?size=64M", "--initiator=iqn.somebody.else")
	a.adm("--op new --mode account --user " + name + " --password " + secret)
	g := Boot(t)
	shows := func(want ...string) {
		t.Helper()
		out, _ := g.Try(t, "discover "+a.Addr) // with nothing to be found it fails
		for _, target := range []string{mine, other} {
			has := strings.Contains(out, target+"\n") || strings.HasSuffix(strings.TrimSpace(out), target)
			if has != strings.Contains(strings.Join(want, " ")+" ", target+" ") {
				t.Errorf("discovery shows %q, want %v", out, want)
			}
		}
	}
	shows(mine)
	g.Run(t, fmt.Sprintf("login %s %s", a.Addr, mine))
	disk := strings.TrimSpace(g.Run(t, "disk "+mine))
	l := verified(t, g, disk, 15)

	a.ctl("acl", "add", mine, "--initiator=iqn.somebody.else")
	a.ctl("acl", "remove", mine, "--initiator="+Initiator)
	shows()
	a.adm("--op bind --mode target --tid 2 --initiator-name " + Initiator)
	shows(other)
	a.ctl("account", "bind", name, "--target", mine)
	if out := g.Run(t, "sessions "+mine); strings.TrimSpace(out) == "" {
		t.Error("the session ended")
	}
	l.wait(t)
	g.Run(t, "logout "+mine)
	again := func(settings ...string) int {
		t.Helper()
		_, status := g.Try(t, fmt.Sprintf("iscsiadm -m node -o delete >/dev/null 2>&1; login %s %s %s", a.Addr, mine, strings.Join(settings, " ")))
		return status
	}
	account := chap(authKey, name, secret)
	if status := again(account...); status == 0 {
		t.Error("it may not log in any more, and did")
	}
	a.ctl("acl", "add", mine, "--initiator="+Initiator)
	shows(mine, other)
	if status := again(authKey + "authmethod=None"); status != refusedByTarget {
		t.Errorf("without the account: status %d, want %d", status, refusedByTarget)
	}
	if status := again(account...); status != 0 {
		t.Errorf("with the account: status %d", status)
	}
	g.Run(t, "dd if=$(disk "+mine+") of=/dev/null bs=64k count=4 iflag=direct status=none && logout "+mine)
	g.Shutdown(t)
	a.Stop(t)
}
