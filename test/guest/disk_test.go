package guest

import (
	"crypto/md5"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/test/daemon"
)

const iqn = daemon.Prefix + "guest"

// A server is lunard with one disk in a file.
type server struct {
	*daemon.Daemon
	file string
	args []string
}

// serve starts lunard on an address that a guest reaches, with a disk of the given size ("64M") and options.
func serve(t *testing.T, size string, args ...string) *server {
	t.Helper()
	s := &server{file: filepath.Join(t.TempDir(), "disk.img")}
	s.args = append(args, daemon.Export("guest", daemon.FileURI(s.file, "size="+size+"&thin=on")))
	s.Daemon = daemon.StartAt(t, Portal, s.args...)
	return s
}

// restart ends lunard as a crash does and starts it where it was.
func (s *server) restart(t *testing.T) {
	t.Helper()
	s.Kill(t)
	s.start(t)
}

// start starts lunard again where it was.
func (s *server) start(t *testing.T) {
	t.Helper()
	s.Daemon = daemon.StartAt(t, s.Addr, s.args...)
}

// login logs the guest in and returns the name of its disk.
func (s *server) login(t *testing.T, g *Guest, settings ...string) string {
	t.Helper()
	return loginAt(t, g, s.Addr, settings...)
}

func loginAt(t *testing.T, g *Guest, portal string, settings ...string) string {
	t.Helper()
	g.Run(t, fmt.Sprintf("login %s %s %s", portal, iqn, strings.Join(settings, " ")))
	return strings.TrimSpace(g.Run(t, "disk "+iqn))
}

// sum is the MD5 sum of the first n bytes of the disk, without lunard.
func (s *server) sum(t *testing.T, n int64) string {
	t.Helper()
	f, err := os.Open(s.file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := md5.New()
	if _, err := io.CopyN(h, f, n); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// allocated is how many bytes lunard's file has blocks for.
func (s *server) allocated(t *testing.T) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(s.file, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512 // whatever the file system's own block is (stat(2))
}

// The whole life of a disk: found, logged in to, written, read back past the guest's cache, logged out of; and
// what it holds is in lunard's file.
func TestDisk(t *testing.T) {
	t.Parallel()
	wholeLife(t, Options{})
}

func wholeLife(t *testing.T, o Options) {
	t.Helper()
	s := serve(t, "64M")
	g := BootWith(t, o)
	if out, want := g.Run(t, "discover "+s.Addr), s.Addr+",1 "+iqn; !strings.Contains(out, want) {
		t.Errorf("discovery lacks %q:\n%s", want, out)
	}
	disk := s.login(t, g)
	if out := strings.TrimSpace(g.Run(t, "blockdev --getsize64 --getss --getpbsz --getro "+disk)); out != "67108864\n512\n4096\n0" {
		t.Errorf("size, logical block, physical block and read-only are\n%s", out)
	}
	out := g.Run(t, `
		set -e
		disk=`+disk+`
		head -c 24M /dev/urandom >/tmp/data
		dd if=/tmp/data of=$disk bs=1M oflag=direct status=none
		dd if=/tmp/data of=$disk bs=4k count=256 seek=4096 conv=fsync,notrunc status=none
		dd if=/tmp/data of=/tmp/data bs=4k count=256 seek=4096 conv=notrunc status=none
		uncached $disk
		cmp -n $((24 << 20)) /tmp/data $disk
		dd if=$disk bs=512 skip=1 count=2047 iflag=direct status=none | cmp -n 1048064 - <(tail -c +513 /tmp/data)
		md5sum </tmp/data
		logout `+iqn+` >/dev/null
		[ ! -b $disk ]`)
	if want := s.sum(t, 24<<20); !strings.Contains(out, want) {
		t.Errorf("the file's sum is %s, the guest wrote one of %s", want, out)
	}
	if out, status := g.Try(t, "iscsiadm -m session"); status != 21 {
		t.Errorf("there is a session after logout (status %d): %s", status, out)
	}
	g.Shutdown(t)
	s.Stop(t)
}

// filesystem makes a file system on the disk and fills it; what was put there is there after it was mounted again, what
// was deleted leaves lunard's file when the file system is trimmed, and fsck finds nothing to repair.
func filesystem(t *testing.T, s *server, g *Guest, disk, mkfs, fsck string) {
	t.Helper()
	g.Start(t, `
		set -e
		disk=`+disk+`
		mkdir -p /tmp/m
		`+mkfs+` $disk
		mount $disk /tmp/m
		fill /tmp/m/a 12
		fill /tmp/m/gone 8
		umount /tmp/m
		uncached $disk
		mount $disk /tmp/m
		checked /tmp/m/a
		checked /tmp/m/gone
		fill /tmp/m/b 4
		sync # before, or it would be put where the others were
		rm -r /tmp/m/gone
		umount /tmp/m # xfs frees what was deleted some time later, or now
		mount $disk /tmp/m`).Wait(t, 5*time.Minute)
	before := s.allocated(t)
	g.Start(t, `
		set -e
		disk=`+disk+`
		fstrim /tmp/m
		umount /tmp/m
		uncached $disk
		mount $disk /tmp/m
		checked /tmp/m/a
		checked /tmp/m/b
		umount /tmp/m
		`+fsck+` $disk`).Wait(t, 5*time.Minute)
	if after := s.allocated(t); after > before-(7<<20) {
		t.Errorf("lunard's file had %d bytes allocated before 8 MiB were trimmed, and has %d after it", before, after)
	}
}

func TestExt4(t *testing.T) {
	t.Parallel()
	ext4(t, Options{})
}

func ext4(t *testing.T, o Options) {
	t.Helper()
	s := serve(t, "256M")
	g := BootWith(t, o)
	filesystem(t, s, g, s.login(t, g), "mkfs.ext4 -q", "e2fsck -f -n")
	g.Run(t, "logout "+iqn)
	g.Shutdown(t)
	s.Stop(t)
}
