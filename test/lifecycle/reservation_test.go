package lifecycle

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/daemon"
)

const (
	reserveRounds = 8
	prRegister    = 0
	prReserve     = 1
	prRelease     = 2
	prExclusive   = 3 // exclusive access
	prAPTPL       = 1
)

// loginAs is login by initiator port n.
func loginAs(t *testing.T, d *daemon.Daemon, n byte) *initiator.Session {
	t.Helper()
	s, err := initiator.Login(t.Context(), initiator.Options{Portal: d.Addr, TargetName: daemon.Prefix + disk, ISID: [6]byte{0x80, 0, 0, 0, 0, n}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	for range maxAttention {
		if r := command(t, s, initiator.TestUnitReady(), nil, 0); r.Status == sam.Good {
			return s
		}
	}
	t.Fatalf("the disk is not ready after %d unit attentions", maxAttention)
	return nil
}

func command(t *testing.T, s *initiator.Session, b, out []byte, in int) initiator.Result {
	t.Helper()
	r, err := s.Command(t.Context(), sam.NewLUN(crashLUN), b, out, in)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// reserveOut is PERSISTENT RESERVE OUT.
func reserveOut(t *testing.T, s *initiator.Session, action, kind byte, key, newKey uint64, flags byte) {
	t.Helper()
	list := make([]byte, 24)
	binary.BigEndian.PutUint64(list, key)
	binary.BigEndian.PutUint64(list[8:], newKey)
	list[20] = flags
	r := command(t, s, []byte{cdb.PersistentOut, action, kind, 0, 0, 0, 0, 0, 24, 0}, list, 0)
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
}

func firstRead(t *testing.T, s *initiator.Session) sam.Status {
	t.Helper()
	var b [16]byte
	initiator.PutRead(&b, 0, 1)
	return command(t, s, b[:10], nil, crashBlock).Status
}

// What a registration with APTPL was told is done is there right after a kill -9, and what was released is gone. Round
// after round the key changes, so that each start has to find the newest state.
func TestReservationsSurviveKill(t *testing.T) {
	_, export := file(t)
	state := filepath.Join(t.TempDir(), "state")
	flag := "--state-dir=" + state
	d := daemon.Start(t, export, flag)
	a := loginAs(t, d, 1)
	reserveOut(t, a, prRegister, 0, 0, 1, prAPTPL)
	key := uint64(1)
	for range reserveRounds {
		held := key%2 == 1
		if held {
			reserveOut(t, a, prReserve, prExclusive, key, 0, 0)
		} else {
			reserveOut(t, a, prRelease, prExclusive, key, 0, 0)
		}
		d.Kill(t)
		d = daemon.StartAt(t, d.Addr, export, flag)
		a = loginAs(t, d, 1)
		want := sam.Good
		if held {
			want = sam.ReservationConflict
		}
		if got := firstRead(t, loginAs(t, d, 2)); got != want {
			t.Fatalf("another's read after the kill, reserved %v: %v", held, got)
		}
		if got := firstRead(t, a); got != sam.Good {
			t.Fatalf("the holder's read: %v", got)
		}
		reserveOut(t, a, prRegister, 0, key, key+1, prAPTPL)
		key++
	}
	d.Kill(t)

	// A damaged state is refused, and lunard says which file.
	files, err := filepath.Glob(filepath.Join(state, "pr-*"))
	if err != nil || len(files) != 1 {
		t.Fatal("state:", files, err)
	}
	raw, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-1] ^= 1
	if err := os.WriteFile(files[0], raw, 0o600); err != nil {
		t.Fatal(err)
	}
	res := daemon.Run(t, "--portal=127.0.0.1:0", export, flag)
	if res.Code != failed || !strings.Contains(res.Stderr, "damaged") || !strings.Contains(res.Stderr, files[0]) {
		t.Fatalf("with a damaged state: status %d\n%s", res.Code, res.Stderr)
	}
}
