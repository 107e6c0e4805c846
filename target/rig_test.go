package target

import (
	"context"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/faulty"
	"github.com/lunar-iscsi/lunar/backstore/mem"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
)

const (
	testTarget = "iqn.2026-11.io.lunar:test"
	testSize   = 8 << 20
	// testWait bounds what a test waits for, never what it expects to be quick.
	testWait = 20 * time.Second
)

var lun1 = sam.NewLUN(1)

// A rig is a server with one target, one disk of memory that can be made to hang, and a portal on loopback.
type rig struct {
	t     testing.TB
	s     *Server
	tg    *Target
	store *faulty.Store
	addr  netip.AddrPort
}

func newRig(t testing.TB, cfg Config, rules string) *rig {
	t.Helper()
	before := resources(t)
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, s: s}
	t.Cleanup(func() {
		r.store.Release()
		if err := s.Close(); err != nil && err != ErrClosed {
			t.Error("closing:", err)
		}
		leaks(t, before)
	})
	if r.tg, err = s.AddTarget(testTarget, TargetConfig{}); err != nil {
		t.Fatal(err)
	}
	r.store = newStore(t, rules)
	if err := r.tg.AddDisk(1, r.store, scsi.DiskConfig{Identity: "test"}); err != nil {
		t.Fatal(err)
	}
	if r.addr, err = s.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(); err != nil {
		t.Fatal(err)
	}
	return r
}

func newStore(t testing.TB, rules string) *faulty.Store {
	t.Helper()
	m, err := mem.New(mem.Config{Size: testSize, BlockSize: 512})
	if err != nil {
		t.Fatal(err)
	}
	st, err := faulty.New(m, rules)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// login returns a session of initiator port n, past its first unit attention.
func (r *rig) login(n byte) *initiator.Session {
	r.t.Helper()
	s, err := initiator.Login(r.ctx(), r.options(n))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { s.Close() })
	r.ready(s)
	return s
}

func (r *rig) options(n byte) initiator.Options {
	return initiator.Options{Portal: r.addr.String(), TargetName: testTarget, ISID: [6]byte{0x80, 0, 0, 0, 0, n}}
}

// ready takes the unit attentions that wait for s.
func (r *rig) ready(s *initiator.Session) {
	r.t.Helper()
	for range 4 {
		res, err := s.Command(r.ctx(), lun1, initiator.TestUnitReady(), nil, 0)
		if err != nil {
			r.t.Fatal(err)
		}
		if res.Status == sam.Good {
			return
		}
	}
	r.t.Fatal("the disk does not become ready")
}

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	r.t.Cleanup(cancel)
	return ctx
}

func write10(lba uint32, blocks uint16) []byte {
	var b [16]byte
	initiator.PutWrite(&b, uint64(lba), uint32(blocks))
	return b[:10]
}

func read10(lba uint32, blocks uint16) []byte {
	var b [16]byte
	initiator.PutRead(&b, uint64(lba), uint32(blocks))
	return b[:10]
}

// block returns n blocks full of c.
func block(c byte, n int) []byte { return []byte(strings.Repeat(string(rune(c)), n*512)) }

func (r *rig) write(s *initiator.Session, lba uint32, data []byte) {
	r.t.Helper()
	res, err := s.Command(r.ctx(), lun1, write10(lba, uint16(len(data)/512)), data, 0)
	if err == nil {
		err = res.Err()
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) read(s *initiator.Session, lba uint32, blocks int) []byte {
	r.t.Helper()
	res, err := s.Command(r.ctx(), lun1, read10(lba, uint16(blocks)), nil, blocks*512)
	if err == nil {
		err = res.Err()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return res.Data
}

// A census counts what could leak.
type census struct{ goroutines, files int }

func resources(t testing.TB) census {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return census{runtime.NumGoroutine(), len(fds)}
}

// leaks fails t unless what was counted before is all that is left, soon.
func leaks(t testing.TB, before census) {
	t.Helper()
	var now census
	for deadline := time.Now().Add(testWait); time.Now().Before(deadline); runtime.Gosched() {
		if now = resources(t); now.goroutines <= before.goroutines && now.files <= before.files {
			return
		}
	}
	buf := make([]byte, 1<<16)
	t.Errorf("left over: %+v, before %+v\n%s", now, before, buf[:runtime.Stack(buf, true)])
}

var _ backstore.Store = (*faulty.Store)(nil)
