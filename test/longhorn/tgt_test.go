//go:build e2e

package longhorn_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/longhorn"
)

const patience = time.Minute

// A tgtd is lunard in tgtd's place.
type tgtd struct {
	t   *testing.T
	dir string // with tgtd and tgtadm, and the management socket
	env []string
}

// newTgtd makes a folder that stands first in PATH.
func newTgtd(t *testing.T) *tgtd {
	t.Helper()
	dir, err := os.MkdirTemp("", "lunar") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for name, path := range map[string]string{"tgtd": daemon.Binary(t), "tgtadm": daemon.Tgtadm(t)} {
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return &tgtd{t: t, dir: dir, env: []string{"TGT_IPC_SOCKET=" + filepath.Join(dir, "s")}}
}

// start starts it where /var/run is the engine's.
func (d *tgtd) start(e *longhorn.Engine) {
	d.t.Helper()
	cmd := exec.Command(filepath.Join(d.dir, "tgtd"), "-f", "--iscsi", "portal=127.0.0.1:0", "--lunar", "listen-admin=none")
	cmd.Env = append(os.Environ(), d.env...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	e.Isolate(cmd)
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // killed
	}()
	d.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		<-ended
		if d.t.Failed() {
			d.t.Logf("lunard said:\n%s", &said)
		}
	})
	until(d.t, "it answers", func() bool { return d.try("--mode", "system", "--op", "show") != "" })
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(patience); !ok(); {
		select {
		case <-late:
			t.Fatalf("%v passed before %s", patience, what)
		case <-tick.C:
		}
	}
}

// try runs tgtadm and returns what it says, nothing if it fails.
func (d *tgtd) try(args ...string) string {
	cmd := exec.Command(filepath.Join(d.dir, "tgtadm"), append([]string{"--lld", "iscsi"}, args...)...)
	cmd.Env = append(os.Environ(), d.env...)
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	return string(out)
}

func (d *tgtd) must(args ...string) string {
	d.t.Helper()
	cmd := exec.Command(filepath.Join(d.dir, "tgtadm"), append([]string{"--lld", "iscsi"}, args...)...)
	cmd.Env = append(os.Environ(), d.env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.t.Fatalf("tgtadm %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func (d *tgtd) login(volume string) *initiator.Session {
	d.t.Helper()
	show := d.must("--op", "show", "--mode", "portal")
	portal := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(show), "Portal: "), ",1")
	s, err := initiator.Login(d.t.Context(), initiator.Options{Portal: portal, TargetName: "iqn.2019-10.io.longhorn:" + volume})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { s.Close() })
	return s
}

// command sends a command to LUN 1; a unit attention is taken and the command sent again.
func command(t *testing.T, s *initiator.Session, cdb, out []byte, in int) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for range 8 {
		res, err := s.Command(ctx, sam.NewLUN(1), cdb, out, in)
		if err != nil {
			t.Fatal(err)
		}
		if err = res.Err(); err == nil {
			return res.Data
		}
		if key, _, _, ok := initiator.SenseFields(res.Sense); !ok || key != 6 {
			t.Fatalf("command %#x: %v", cdb[0], err)
		}
	}
	t.Fatal("nothing but unit attentions")
	return nil
}

func capacity(t *testing.T, s *initiator.Session) int64 {
	t.Helper()
	b := command(t, s, initiator.ReadCapacity16(32), nil, 32)
	return int64(binary.BigEndian.Uint64(b)+1) * int64(binary.BigEndian.Uint32(b[8:]))
}

// roundTrip writes at an offset, in blocks of 512 bytes, and reads it back.
func roundTrip(t *testing.T, s *initiator.Session, off int64, data []byte) {
	t.Helper()
	var cdb [16]byte
	initiator.PutWrite(&cdb, uint64(off/512), uint32(len(data)/512))
	command(t, s, cdb[:], data, 0)
	initiator.PutRead(&cdb, uint64(off/512), uint32(len(data)/512))
	if got := command(t, s, cdb[:], nil, len(data)); !bytes.Equal(got, data) {
		t.Errorf("what was written at %d is not there", off)
	}
}

// tgtadm names a volume as Longhorn does, by its socket.
func TestByTgtadm(t *testing.T) {
	e := longhorn.Start(t, longhorn.Config{Size: size})
	d := newTgtd(t)
	d.start(e)
	socket := "/var/run/longhorn-" + e.Volume + ".sock"
	d.must("--mode", "target", "--op", "new", "--tid", "1", "-T", "iqn.2019-10.io.longhorn:"+e.Volume)
	if said := d.try("--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", "1", "--bstype", "longhorn", "-b", socket+"x"); said != "" {
		t.Errorf("a socket that is not there: %s", said)
	}
	d.must("--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", "1", "--bstype", "longhorn", "-b", socket,
		"--bsopts", "size="+strconv.Itoa(size)+";request_timeout=540")
	d.must("--mode", "target", "--op", "bind", "--tid", "1", "-I", "ALL")
	show := d.must("--mode", "target", "--op", "show")
	for _, want := range []string{"Backing store type: longhorn", "Backing store path: " + socket, "Size: 8 MB"} {
		if !strings.Contains(show, want) {
			t.Errorf("no %q in\n%s", want, show)
		}
	}
	s := d.login(e.Volume)
	roundTrip(t, s, 512, fill(1536, 7)) // not in whole sectors of the engine's
	h := harness(t, e.URI(""))
	h.Want(0, append(append(make([]byte, 512), fill(1536, 7)...), make([]byte, 2048)...), "the volume")
	h.Close()
	// There is nothing to grow to.
	if said := d.try("--mode", "logicalunit", "--op", "update", "--tid", "1", "--lun", "1", "--params", "bsopts=size="+strconv.Itoa(2*size)); said != "" {
		t.Errorf("it grew: %s", said)
	}
	if got := capacity(t, s); got != size {
		t.Errorf("capacity %d", got)
	}
}

// Longhorn's own frontend drives lunard as it drives its tgtd: it makes the target, grows the disk while it is in use, and removes it.
func TestFrontendForTgt(t *testing.T) {
	d := newTgtd(t)
	e := longhorn.Start(t, longhorn.Config{Size: size, Frontend: "tgt-iscsi", Path: d.dir, Env: d.env, NoStart: true})
	d.start(e)
	e.StartController()
	until(t, "the target is there", func() bool {
		return strings.Contains(d.must("--mode", "target", "--op", "show"), "ACL information:\n        ALL")
	})
	if show := d.must("--mode", "target", "--op", "show"); !strings.Contains(show, "Backing store type: longhorn") {
		t.Errorf("the target is\n%s", show)
	}
	s := d.login(e.Volume)
	if got := capacity(t, s); got != size {
		t.Fatalf("capacity %d", got)
	}
	// The frontend has it said that there is no write cache, which is so.
	if b := command(t, s, []byte{0x1a, 8, 8, 0, 64, 0}, nil, 64); len(b) < 7 || b[6]&4 != 0 {
		t.Errorf("the caching page is %x", b)
	}
	stop, writes := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { writes <- n }()
		for {
			select {
			case <-stop:
				return
			default:
				roundTrip(t, s, int64(n%64)*4096, fill(4096, byte(n)))
				n++
			}
		}
	}()
	e.Must("expand", "--size", strconv.Itoa(2*size))
	until(t, "the engine has grown", func() bool { return strings.Contains(e.Must("info"), `"size": `+strconv.Itoa(2*size)) })
	close(stop)
	t.Logf("%d writes meanwhile", <-writes)
	if got := capacity(t, s); got != 2*size {
		t.Errorf("capacity %d", got)
	}
	roundTrip(t, s, 2*size-4096, fill(4096, 9))
	e.StopController()
	if show := d.must("--mode", "target", "--op", "show"); show != "" {
		t.Errorf("left over:\n%s", show)
	}
}
