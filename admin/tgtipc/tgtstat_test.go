package tgtipc

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore/mem"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/target"
	"github.com/lunar-iscsi/lunar/test/deps"
)

const (
	statTarget = "iqn.2026-11.io.lunar:stat"
	statWait   = 20 * time.Second
)

// A counted is a daemon, or a server, that an initiator talks to and that counts.
type counted struct {
	portal string
	stats  func() string // the tables of the one session there is
}

// realTgtd starts the real one with a disk at LUN 1.
func realTgtd(t *testing.T, size int64) counted {
	t.Helper()
	daemon, tool := deps.Find(t, "tgtd"), deps.Find(t, "tgtadm")
	dir, err := os.MkdirTemp("", "tgt") // the socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	env := append(daemon.Env(), "TGT_IPC_SOCKET="+filepath.Join(dir, "s"))
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "n"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	var log bytes.Buffer
	c := exec.Command(daemon.Path, "-f", "-C", "97", "--iscsi", "portal=127.0.0.1:0")
	c.Env, c.Stdout, c.Stderr = append(env, "NOTIFY_SOCKET="+filepath.Join(dir, "n")), &log, &log
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		if t.Failed() {
			t.Logf("tgtd said:\n%s", &log)
		}
	})
	notify.SetReadDeadline(time.Now().Add(statWait))
	if n, err := notify.Read(make([]byte, 4096)); err != nil || n == 0 {
		t.Fatal("tgtd is not ready:", err)
	}
	adm := func(line string) string {
		ctx, cancel := context.WithTimeout(t.Context(), statWait)
		defer cancel()
		c := exec.CommandContext(ctx, tool.Path, append([]string{"-C", "97", "--lld", "iscsi"}, strings.Fields(line)...)...)
		c.Env = env
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("tgtadm %s: %v\n%s", line, err, out)
		}
		return string(out)
	}
	img := filepath.Join(dir, "disk")
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, size); err != nil {
		t.Fatal(err)
	}
	adm("--mode target --op new --tid 1 -T " + statTarget)
	adm("--mode logicalunit --op new --tid 1 --lun 1 -b " + img)
	adm("--mode target --op bind --tid 1 -I ALL")
	portal := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(adm("--mode portal --op show")), "Portal: "), ",1")
	return counted{portal, func() string { return adm("--mode session --op stat --tid 1 --sid 1") }}
}

// ours is a server in this process, with what tgtd offers.
func ours(t *testing.T, size int64) counted {
	t.Helper()
	s, err := target.NewServer(target.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	p := initiator.DefaultOffer()
	p.InitialR2T, p.FirstBurstLength, p.MaxBurstLength, p.MaxRecvDataSegmentLength, p.MaxOutstandingR2T = true, 65536, 262144, 8192, 1
	tg, err := s.AddTarget(statTarget, target.TargetConfig{Params: &p})
	if err != nil {
		t.Fatal(err)
	}
	m, err := mem.New(mem.Config{Size: size, BlockSize: 512})
	if err != nil {
		t.Fatal(err)
	}
	if err := tg.AddDisk(1, m, scsi.DiskConfig{Identity: "stat"}); err != nil {
		t.Fatal(err)
	}
	addr, err := s.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(); err != nil {
		t.Fatal(err)
	}
	return counted{addr.String(), func() string {
		state := admin.TargetState{Spec: spec.Target{TID: 1, Name: statTarget}, Live: tg.Info()}
		return sessionStats(&state, &state.Live.Sessions[0])
	}}
}

// What tgtadm's stat shows of one session after the same commands, with tgtd and with lunar: what counts as read and written, and when;
// errors; PDUs, and bytes from the login on, which says more here than there.
func TestStatIsTgtds(t *testing.T) {
	const size = 8 << 20
	var tables [2][]string
	for i, c := range []counted{realTgtd(t, size), ours(t, size)} {
		ctx, cancel := context.WithTimeout(t.Context(), statWait)
		defer cancel()
		o := initiator.DefaultOffer()
		o.MaxRecvDataSegmentLength = 8192
		s, err := initiator.Login(ctx, initiator.Options{Portal: c.portal, TargetName: statTarget, Offer: &o, Lenient: true})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		base := c.stats()
		for _, w := range []struct {
			what     string
			lun      uint16
			cdb, out []byte
			in       int
		}{
			{"a unit attention", 1, initiator.TestUnitReady(), nil, 0},
			{"TEST UNIT READY", 1, initiator.TestUnitReady(), nil, 0},
			{"INQUIRY", 1, initiator.Inquiry(36), nil, 36},
			{"INQUIRY to LUN 0", 0, initiator.Inquiry(36), nil, 36},
			{"READ", 1, transfer(cdb.Read10, 0, 8), nil, 4096},
			{"WRITE with immediate data", 1, transfer(cdb.Write10, 0, 8), make([]byte, 4096), 0},
			{"WRITE through R2Ts", 1, transfer(cdb.Write10, 0, 128), make([]byte, 65536), 0},
			{"READ in pieces", 1, transfer(cdb.Read10, 0, 128), nil, 65536},
			{"READ out of range", 1, transfer(cdb.Read10, 1<<30, 8), nil, 4096},
			{"MODE SENSE", 1, []byte{cdb.ModeSense6, 0, 8, 0, 32, 0}, nil, 32},
		} {
			if _, err := s.Command(ctx, sam.NewLUN(w.lun), w.cdb, w.out, w.in); err != nil {
				t.Fatalf("%s: %v", w.what, err)
			}
			tables[i] = append(tables[i], w.what+"\n"+since(t, base, c.stats()))
		}
	}
	for i := range tables[0] {
		if tables[0][i] != tables[1][i] {
			t.Errorf("after %s\nwith lunar\n%s", tables[0][i], tables[1][i])
		}
	}
}

func transfer(op byte, lba uint64, blocks uint32) []byte {
	c := cdb.Transfer(op, lba, blocks, 0)
	return c[:10]
}

// since writes a table of session statistics with the octets of each connection counted from those in base on.
func since(t *testing.T, base, now string) string {
	t.Helper()
	octets := func(s string) (sid, cid int, n [2]int, rest string) {
		line := s[strings.LastIndex(strings.TrimSpace(s), "\n")+1:]
		if _, err := fmt.Sscan(line, &sid, &cid, &n[0], &n[1]); err != nil || len(line) < 36 {
			t.Fatalf("%v in %q", err, s)
		}
		return sid, cid, n, line[36:]
	}
	_, _, was, _ := octets(base)
	sid, cid, is, rest := octets(now)
	body := now[:strings.LastIndex(strings.TrimSpace(now), "\n")+1]
	return body + fmt.Sprintf("%d %d +%d +%d %s", sid, cid, is[0]-was[0], is[1]-was[1], rest)
}
