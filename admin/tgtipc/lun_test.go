package tgtipc

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/target"
)

// must runs a command line that has to succeed.
func (r *rig) must(t *testing.T, command string) string {
	t.Helper()
	out, stderr, exit := r.run(t, "tgtadm "+command)
	if exit != 0 {
		t.Fatalf("%s: %s", command, stderr)
	}
	return out
}

// fails runs one that has to be refused.
func (r *rig) fails(t *testing.T, no Errno, command string) {
	t.Helper()
	if _, stderr, exit := r.run(t, "tgtadm "+command); exit != 22 || stderr != "tgtadm: "+no.String()+"\n" {
		t.Errorf("%s: status %d, %q; want %v", command, exit, stderr, no)
	}
}

const lu = "--mode logicalunit --tid 1 --lun 1 "

// A disk made here has tgt's names and words, and unmaps nothing until it is told to.
func TestNewDisk(t *testing.T) {
	r := started(t)
	r.must(t, "--mode target --op new --tid 1 -T iqn.a")
	file := filepath.Join(r.dir, "disk1.img")
	r.must(t, lu+"--op new -b "+file+" --bsoflags direct:sync --bsopts a=b --blocksize 4096")
	no := false
	want := spec.LUN{Number: 1, Volume: "file://" + file + "?direct=on&cache=writethrough", TgtNaming: true, BlockSize: 4096, Thin: &no,
		Tgt: &spec.TgtStore{Type: "rdwr", Path: file, Options: "a=b", Flags: "sync:direct"}}
	if got := r.Document().Targets[0]; !got.ExactNames || len(got.Access) != 0 || len(got.LUNs) != 1 || !reflect.DeepEqual(got.LUNs[0], want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	r.must(t, lu+"--op update --params thin_provisioning=1")
	if l := r.Document().Targets[0].LUNs[0]; !*l.Thin {
		t.Error("thin_provisioning=1 had no effect")
	}
}

// A file that may only be read makes a read-only disk, as with tgtd, when it is new and when the path is changed.
func TestReadOnlyFile(t *testing.T) {
	r := started(t)
	file := filepath.Join(r.dir, "disk1.img")
	if err := os.Chmod(file, 0o400); err != nil {
		t.Fatal(err)
	}
	r.must(t, "--mode target --op new --tid 1 -T iqn.a")
	r.must(t, lu+"--op new -b "+file)
	check := func() {
		t.Helper()
		if l := r.Document().Targets[0].LUNs[0]; !l.ReadOnly || l.Volume != "file://"+file+"?readonly=on" || l.Tgt.Path != file {
			t.Errorf("%+v", l)
		}
		if out := r.must(t, "--mode target --op show"); !strings.Contains(out, "Readonly: Yes") {
			t.Errorf("shown as\n%s", out)
		}
	}
	check()
	r.must(t, lu+"--op delete")
	r.must(t, lu+"--op new -b "+filepath.Join(r.dir, "disk2.img"))
	r.must(t, lu+"--op update --params online=0,path="+file)
	check()
}

// What forks of tgt call resizing.
func TestResize(t *testing.T) {
	r := started(t)
	r.must(t, "--mode target --op new --tid 1 -T iqn.a")
	r.must(t, lu+"--op new -b "+filepath.Join(r.dir, "disk1.img"))
	r.must(t, lu+"--op update --params bsopts=size=134217728")
	if out := r.must(t, "--mode target --op show"); !strings.Contains(out, "Size: 134 MB") {
		t.Errorf("grown to\n%s", out)
	}
	r.fails(t, ErrInvalidRequest, lu+"--op update --params bsopts=size=1048576")
	r.must(t, lu+"--op update --params disksize=AUTO")
	r.fails(t, ErrUnknownParam, lu+"--op update --params disksize=64M")
	for _, v := range []string{"bsopts=size=", "bsopts=size=1G", "bsopts=size=-1", "bsopts=foo=1", "bsoflags=direct"} {
		r.fails(t, ErrInvalidRequest, lu+"--op update --params "+v)
	}
	r.must(t, "--mode logicalunit --tid 1 --lun 2 --op new -b x --bstype null")
	r.fails(t, ErrUnsupported, "--mode logicalunit --tid 1 --lun 2 --op update --params disksize=auto")
}

// Stores that tgtd does not have, and lunar does: by the name of their forks, or by lunar's own, and listed where tgt's users look for them.
func TestStoresOfLunar(t *testing.T) {
	r := started(t)
	r.must(t, "--mode target --op new --tid 1 -T iqn.a")
	r.fails(t, ErrInvalidRequest, lu+"--op new --bstype curve -b cbd:pool//vol_user_")
	r.drivers = []admin.DriverInfo{driver("file"), driver("cbd"), driver("nbd+unix"), driver("longhorn")}
	for n, c := range []struct{ args, volume, shown string }{
		{"--bstype curve -b cbd:pool//vol_user_", "cbd:pool//vol_user_", "curve"},
		{"--bstype longhorn -b /sock --bsopts size=1073741824;a=b", "longhorn:/sock?size=1073741824&a=b", "longhorn"},
		{"--bstype nbd+unix -b nbd+unix:///disk?socket=/run/q.sock", "nbd+unix:///disk?socket=/run/q.sock", "nbd+unix"},
	} {
		r.must(t, lu+"--op new "+c.args)
		if l := r.Document().Targets[0].LUNs[0]; l.Volume != c.volume || l.Tgt.Type != c.shown {
			t.Errorf("%d: %+v, want %s", n, l, c.volume)
		}
		r.must(t, lu+"--op delete")
	}
	out := r.must(t, "--mode system --op show")
	if !strings.Contains(out, "Backing stores:\n    curve\n    longhorn\n    sheepdog\n") || strings.Contains(out, "nbd") {
		t.Errorf("listed as\n%s", out)
	}
	r.fails(t, ErrInvalidRequest, lu+"--op new --bstype longhorn -b x --bsoflags direct")
}

// Disks of other faces are shown in tgt's words as far as there are any, under their own names.
func TestDisksOfOtherFaces(t *testing.T) {
	r := started(t)
	file := filepath.Join(r.dir, "disk 7.img")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	r.sizes["file://"+strings.ReplaceAll(file, " ", "%20")+"?direct=on&cache=writethrough"] = 1 << 20
	_, err := r.AddTarget(t.Context(), spec.Target{TID: 9, Name: "iqn.own", NoController: true,
		Access: []spec.Rule{{Initiator: "iqn.x", ReadOnly: true}, {Address: "10.0.0.1", Initiator: "iqn.y"}, {Address: "ALL"}},
		LUNs:   []spec.LUN{{Number: 0, Volume: "file://" + strings.ReplaceAll(file, " ", "%20") + "?direct=on&cache=writethrough"}, {Number: 1, Volume: "mem:?size=64M", Serial: "S"}}})
	if err != nil {
		t.Fatal(err)
	}
	out := r.must(t, "--mode target --op show")
	for _, want := range []string{
		"        LUN: 0\n            Type: disk\n            SCSI ID: naa.000000000000003a\n            SCSI SN: own\n            Size: 1 MB, Block size: 512\n",
		"            Thin-provisioning: Yes\n            Backing store type: rdwr\n            Backing store path: /srv/tgt-demo/disk 7.img\n            Backing store flags: sync:direct\n",
		"            SCSI SN: S\n", "            Backing store type: mem\n            Backing store path: mem:?size=64M\n            Backing store flags: \n",
		"    ACL information:\n        10.0.0.1,initiator-name=iqn.y\n        ALL\n        iqn.x\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "controller") {
		t.Errorf("a controller that is not there:\n%s", out)
	}
	// What a rule has besides is not in the way; and another volume may be had in tgt's words.
	r.fails(t, ErrACLExists, "--mode target --op bind --tid 9 -Q iqn.x")
	r.must(t, "--mode target --op unbind --tid 9 -Q iqn.x")
	r.must(t, "--mode logicalunit --op update --tid 9 --lun 0 --params online=0,path=/srv/tgt-demo/disk1.img,online=1")
	if l := r.Document().Targets[0].LUNs[0]; l.Volume != "file://"+r.dir+"/disk1.img?direct=on&cache=writethrough" || l.Tgt == nil || l.TgtNaming {
		t.Errorf("%+v", l)
	}
	r.must(t, "--mode logicalunit --op delete --tid 9 --lun 0")
	r.must(t, "--mode logicalunit --op new --tid 9 --lun 0 -b /srv/tgt-demo/disk1.img")
}

// A session's connection is closed; IPv6 peers are plain text, IPv4 ones as such.
func TestConnections(t *testing.T) {
	r := setup(t)
	r.live()
	s := &r.sessions[1][0]
	s.Conns = append(s.Conns, target.ConnInfo{CID: 7})
	for _, c := range []struct {
		args string
		no   Errno
	}{{"--tid 77 --sid 2 --cid 0", ErrNoTarget}, {"--tid 1 --sid 9 --cid 0", ErrNoSession}, {"--tid 3 --sid 2 --cid 0", ErrNoSession}, {"--tid 1 --sid 2 --cid 1", ErrNoConnection},
		{"--tid 1 --sid 2 --cid 65536", ErrNoConnection}} {
		r.fails(t, c.no, "--mode conn --op delete "+c.args)
	}
	if out := r.must(t, "--mode conn --op stat --sid 2 --cid 7"); strings.Count(out, "\n") != 2 || !strings.Contains(out, "\n  2   7 ") {
		t.Errorf("of one connection:\n%s", out)
	}
	r.must(t, "--mode conn --op delete --tid 1 --sid 0x10002 --cid 0") // sessions have 16 bits
	if out := r.must(t, "--mode conn --op show --tid 1"); strings.Contains(out, "Session: 2\n") || !strings.Contains(out, "Session: 3\n") {
		t.Errorf("after the close\n%s", out)
	}
	r.must(t, "--mode target --op delete --force --tid 1")
}
