package tgt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/nebd"
)

// onLunard runs f with lunard and each of the clients: tgtd of Debian has no Curve.
func onLunard(t *testing.T, f func(p *plant)) {
	for _, c := range plants() {
		if c[0] == lunard {
			t.Run(c[1], func(t *testing.T) {
				p := newPlant(t, c[0], c[1])
				p.start("--iscsi", "portal=127.0.0.1:0")
				p.findPortal("0")
				f(p)
			})
		}
	}
}

// A curveLUN is LUN 1 of a target, as an initiator sees it.
type curveLUN struct {
	p *plant
	s *initiator.Session
}

func (l curveLUN) command(cdb []byte, out []byte, in int) []byte {
	l.p.Helper()
	for {
		res, err := l.s.Command(l.p.Context(), sam.NewLUN(1), cdb, out, in)
		if err != nil {
			l.p.Fatal(err)
		}
		if key, _, _, ok := initiator.SenseFields(res.Sense); ok && key == 6 {
			continue // a unit attention
		}
		if res.Err() != nil {
			l.p.Fatalf("command %#x: %v", cdb[0], res.Err())
		}
		return res.Data
	}
}

func (l curveLUN) read(lba uint64, blocks uint32) []byte {
	l.p.Helper()
	var b [16]byte
	initiator.PutRead(&b, lba, blocks)
	return l.command(b[:10], nil, int(blocks)*512)
}

func (l curveLUN) write(lba uint64, data []byte) {
	l.p.Helper()
	var b [16]byte
	initiator.PutWrite(&b, lba, uint32(len(data)/512))
	l.command(b[:10], data, 0)
}

// capacity is the size in bytes, the logical block and the physical one.
func (l curveLUN) capacity() (size, logical, physical uint64) {
	l.p.Helper()
	d := l.command(initiator.ReadCapacity16(32), nil, 32)
	logical = uint64(binary.BigEndian.Uint32(d[8:]))
	return (binary.BigEndian.Uint64(d) + 1) * logical, logical, logical << (d[13] & 15)
}

// A Curve volume as curve-tgt's users name and grow it. Its blocks are of 4096 bytes and those of the disk of 512; the server dies of what is not in its own.
func TestCurveVolume(t *testing.T) {
	onLunard(t, func(p *plant) {
		const tgtadm = "tgtadm --lld iscsi --mode "
		srv := nebd.StartProcess(t)
		srv.URI(t, "/dir/vol", 64<<20)
		options := " --bsopts 'socket=" + srv.Socket + ";lockdir=" + srv.Locks + "'"
		p.do(tgtadm + "target --op new --tid 1 -T iqn.2026-01.com.example:curve")
		p.do(tgtadm + "logicalunit --op new --tid 1 --lun 1 --bstype curve" + options + " --backing-store cbd:pool//dir/vol_user_")
		p.do(tgtadm + "target --op bind --tid 1 -I ALL")
		if show := p.do(tgtadm + "target --op show"); !strings.Contains(show, "Backing store type: curve") || !strings.Contains(show, "Backing store path: cbd:pool//dir/vol_user_\n") {
			p.Errorf("shown as\n%s", show)
		}
		one := curveLUN{p, p.login(initiator.Options{TargetName: "iqn.2026-01.com.example:curve"})}
		if size, logical, physical := one.capacity(); size != 64<<20 || logical != 512 || physical != 4096 {
			p.Errorf("%d bytes in blocks of %d, physical %d", size, logical, physical)
		}
		// Blocks of 512 bytes, with everything beside them left alone.
		want := make([]byte, 32*512)
		for i, at := range []uint64{3, 7, 8, 15, 20, 1} {
			block := bytes.Repeat([]byte{byte(i + 1)}, 512*(1+i%3))
			copy(want[at*512:], block)
			one.write(at, block)
		}
		if got := one.read(0, 32); !bytes.Equal(got, want) {
			p.Error("what is read is not what was written")
		}
		// Under another pool's name it is the same volume: one disk with two ways to it, and one descriptor.
		p.do(tgtadm + "target --op new --tid 2 -T iqn.2026-01.com.example:curve2")
		p.do(tgtadm + "logicalunit --op new --tid 2 --lun 1 --bstype curve" + options + " --backing-store cbd:other//dir/vol_user_")
		p.do(tgtadm + "target --op bind --tid 2 -I ALL")
		if n := srv.Descriptors(t); n != 1 {
			p.Errorf("%d descriptors of one volume", n)
		}
		two := curveLUN{p, p.login(initiator.Options{TargetName: "iqn.2026-01.com.example:curve2"})}
		if got := two.read(0, 32); !bytes.Equal(got, want) {
			p.Error("the other way has something else")
		}
		// It grows, at the MDS; the word is curve-tgt's.
		if err := srv.Pool.Extend("/dir/vol", 1<<30+64<<20); err != nil {
			p.Fatal(err)
		}
		p.do(tgtadm + "logicalunit --op update --tid 1 --lun 1 --params disksize=auto")
		for _, way := range []curveLUN{one, two} {
			if size, _, _ := way.capacity(); size != 1<<30+64<<20 {
				p.Errorf("%d bytes after it has grown", size)
			}
		}
		two.write(1<<21, bytes.Repeat([]byte{9}, 512))
		if got := one.read(1<<21, 1); !bytes.Equal(got, bytes.Repeat([]byte{9}, 512)) {
			p.Error("beyond the old end")
		}
		// A server that is started again is not noticed.
		srv.Kill()
		srv.Launch(t)
		if got := one.read(0, 32); !bytes.Equal(got, want) {
			p.Error("after a restart of nebd-server it has something else")
		}
		for _, tid := range []string{"1", "2"} {
			p.do(tgtadm + "logicalunit --op delete --tid " + tid + " --lun 1")
		}
		if n := srv.Descriptors(t); n != 0 {
			p.Errorf("%d descriptors are left open", n)
		}
	})
}

// The same by targets.conf, which lunard reads itself: tgt-admin wants a file where a volume is.
func TestCurveConfigured(t *testing.T) {
	srv := nebd.StartProcess(t)
	srv.URI(t, "/vol", 64<<20)
	conf := filepath.Join(t.TempDir(), "targets.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, `default-driver iscsi
<target iqn.2026-01.com.example:curve>
    <backing-store cbd:pool//vol_user_>
        bs-type curve
        bsopts socket=%s;lockdir=%s
    </backing-store>
</target>
`, srv.Socket, srv.Locks), 0o600); err != nil {
		t.Fatal(err)
	}
	d := daemon.Start(t, "--targets-conf="+conf, "--listen-admin=none")
	p := &plant{T: t, portal: d.Addr}
	one := curveLUN{p, p.login(initiator.Options{TargetName: "iqn.2026-01.com.example:curve"})}
	if size, logical, physical := one.capacity(); size != 64<<20 || logical != 512 || physical != 4096 {
		t.Errorf("%d bytes in blocks of %d, physical %d", size, logical, physical)
	}
	one.write(5, bytes.Repeat([]byte{7}, 512))
	if err := one.s.Logout(t.Context()); err != nil {
		t.Error(err)
	}
	d.Stop(t)
	if n := srv.Descriptors(t); n != 0 {
		t.Errorf("%d descriptors are left open", n)
	}
}
