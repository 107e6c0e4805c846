package target

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
)

const (
	prRegister        = 0
	prReserve         = 1
	prPreemptAndAbort = 5
	prAPTPL           = 1
	prAllPorts        = 4
	prWriteExclusive  = 1
	prRegistrantsOnly = 5
)

// prOut sends PERSISTENT RESERVE OUT and returns how it ended.
func (r *rig) prOut(s *initiator.Session, action, kind byte, key, newKey uint64, flags byte) *initiator.Result {
	r.t.Helper()
	b := []byte{cdb.PersistentOut, action, kind, 0, 0, 0, 0, 0, 24, 0}
	list := make([]byte, 24)
	binary.BigEndian.PutUint64(list, key)
	binary.BigEndian.PutUint64(list[8:], newKey)
	list[20] = flags
	res, err := s.Command(r.ctx(), lun1, b, list, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	return &res
}

func (r *rig) prOK(s *initiator.Session, action, kind byte, key, newKey uint64, flags byte) {
	r.t.Helper()
	if res := r.prOut(s, action, kind, key, newKey, flags); res.Err() != nil {
		r.t.Fatal(res.Err())
	}
}

// keys are what READ KEYS tells.
func (r *rig) keys(s *initiator.Session) (keys []uint64) {
	r.t.Helper()
	res, err := s.Command(r.ctx(), lun1, []byte{cdb.PersistentIn, 0, 0, 0, 0, 0, 0, 1, 0, 0}, nil, 256)
	if err != nil || res.Err() != nil {
		r.t.Fatal(err, res.Err())
	}
	for b := res.Data[8:]; len(b) > 0; b = b[8:] {
		keys = append(keys, binary.BigEndian.Uint64(b))
	}
	return keys
}

// writeStatus is how a write of one block ends.
func (r *rig) writeStatus(s *initiator.Session) sam.Status {
	r.t.Helper()
	res, err := s.Command(r.ctx(), lun1, write10(0, 1), block('w', 1), 0)
	if err != nil {
		r.t.Fatal(err)
	}
	return res.Status
}

// stateFiles are the files in a folder.
func stateFiles(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// With a state folder, a reservation with APTPL is there when the server is made anew; without APTPL nothing is.
func TestStateDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	first := newRig(t, Config{StateDir: dir}, "")
	a, b := first.login(1), first.login(2)
	first.prOK(b, prRegister, 0, 0, 0xb, 0)
	if files := stateFiles(t, dir); len(files) != 0 {
		t.Fatal("kept without APTPL:", files)
	}
	first.prOK(a, prRegister, 0, 0, 0xa, prAPTPL)
	first.prOK(a, prReserve, prWriteExclusive, 0xa, 0, 0)
	if err := first.s.Close(); err != nil {
		t.Fatal(err)
	}
	files := stateFiles(t, dir)
	if len(files) != 1 {
		t.Fatal("state:", files)
	}

	second := newRig(t, Config{StateDir: dir}, "")
	a, b = second.login(1), second.login(2)
	if got := second.writeStatus(b); got != sam.ReservationConflict {
		t.Fatal("another's write after the restart:", got)
	}
	if got := second.writeStatus(a); got != sam.Good {
		t.Fatal("the holder's write after the restart:", got)
	}
	second.prOK(a, prRegister, 0, 0xa, 0xaa, 0)
	if files := stateFiles(t, dir); len(files) != 0 {
		t.Fatal("kept after APTPL was taken back:", files)
	}
	second.prOK(a, prRegister, 0, 0xaa, 0xab, prAPTPL)

	// What cannot be saved has not happened.
	inTheWay := files[0] + ".new"
	if err := os.Mkdir(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	res := second.prOut(a, prRegister, 0, 0xab, 0xac, prAPTPL)
	if err := res.Err(); err == nil || !strings.Contains(err.Error(), "INSUFFICIENT REGISTRATION RESOURCES") {
		t.Fatal("with a folder in the way:", err)
	}
	if got := second.keys(a); len(got) != 2 || got[1] != 0xab {
		t.Fatalf("keys after a failed save: %x", got)
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	second.prOK(a, prRegister, 0, 0xab, 0xac, prAPTPL)
	if err := second.s.Close(); err != nil {
		t.Fatal(err)
	}

	// A damaged file refuses the LUN and says which file.
	name := stateFiles(t, dir)[0]
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	for what, contents := range map[string][]byte{"changed": raw, "empty": {}} {
		if err := os.WriteFile(name, contents, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := NewServer(Config{StateDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		tg, err := s.AddTarget(testTarget, TargetConfig{})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time, too: the name is free again
			err = tg.AddDisk(1, newStore(t, ""), scsi.DiskConfig{Identity: "test"})
			if err == nil || !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Without a state folder APTPL is refused; with one, a volume stands behind one LUN only.
func TestStateDirRefusals(t *testing.T) {
	r := newRig(t, Config{}, "")
	a := r.login(1)
	if res := r.prOut(a, prRegister, 0, 0, 1, prAPTPL); res.Err() == nil || !strings.Contains(res.Err().Error(), "INVALID FIELD IN PARAMETER LIST") {
		t.Error("APTPL without a folder:", res.Err())
	}
	r = newRig(t, Config{StateDir: t.TempDir()}, "")
	if err := r.tg.AddDisk(2, newStore(t, ""), scsi.DiskConfig{Identity: "test"}); err == nil || !strings.Contains(err.Error(), "in use by another LUN") {
		t.Error("one identity twice:", err)
	}
	if err := r.tg.RemoveLUN(r.ctx(), 1, false); err != nil {
		t.Fatal(err)
	}
	if err := r.tg.AddDisk(1, newStore(t, ""), scsi.DiskConfig{Identity: "test"}); err != nil {
		t.Error("after its removal:", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := NewServer(Config{StateDir: file}); err == nil {
		t.Error("a file as folder", s.Close())
	}
}

// PREEMPT AND ABORT ends the commands of the nexus that it preempts wherever they are: with the store or behind
// another. None is answered, the connection goes on, and the write that the store has keeps what overlaps it waiting.
func TestPreemptAndAbort(t *testing.T) {
	r := newRig(t, Config{}, "write hang off=4096 len=4096 count=1")
	victim, other := r.login(1), r.login(2)
	o, p := r.options(3), initiator.DefaultOffer()
	p.ImmediateData = false // its commands wait for their data
	o.Offer = &p
	third, err := initiator.Login(r.ctx(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	r.ready(third)
	r.prOK(victim, prRegister, 0, 0, 0xa, 0)
	r.prOK(other, prRegister, 0, 0, 0xb, 0)
	r.prOK(third, prRegister, 0, 0, 0xc, 0)
	r.prOK(victim, prReserve, prRegistrantsOnly, 0xa, 0, 0)
	start := func(s *initiator.Session, lba uint32, c byte) *initiator.Task {
		t.Helper()
		task, err := s.Start(lun1, write10(lba, 8), block(c, 8), 0)
		if err != nil {
			t.Fatal(err)
		}
		return task
	}
	late := start(victim, 8, 'o')
	if err := r.store.Wait(r.ctx(), 1); err != nil {
		t.Fatal(err)
	}
	behind, kept := start(victim, 12, 'p'), start(third, 12, 'k')
	for _, s := range []*initiator.Session{victim, third} {
		if _, err := s.Ping(r.ctx(), nil); err != nil { // both are there
			t.Fatal(err)
		}
	}
	r.prOK(other, prPreemptAndAbort, prRegistrantsOnly, 0xb, 0xa, 0)
	mine := start(other, 8, 'm')
	if got := r.keys(other); len(got) != 2 {
		t.Fatalf("keys %x", got)
	}
	if done(mine) || done(kept) {
		t.Fatal("an overlapping write was answered before the one in doubt ended")
	}
	r.store.Release()
	for _, task := range []*initiator.Task{kept, mine} {
		if res, err := task.Wait(r.ctx()); err != nil || res.Err() != nil {
			t.Fatal(err, res.Err())
		}
	}
	if got := string(r.read(other, 8, 12)); got != string(block('m', 8))+string(block('k', 4)) {
		t.Fatal("the aborted writes are on top")
	}
	res, err := victim.Command(r.ctx(), lun1, initiator.TestUnitReady(), nil, 0)
	if err != nil || res.Err() == nil || !strings.Contains(res.Err().Error(), "REGISTRATIONS PREEMPTED") {
		t.Fatal(err, res.Err())
	}
	if got := r.writeStatus(victim); got != sam.ReservationConflict {
		t.Fatal("the preempted one's write:", got)
	}
	for _, task := range []*initiator.Task{late, behind} {
		if res, err := task.Wait(r.ctx()); err != nil || res.Status != sam.TaskAborted {
			t.Fatal("a command of the preempted one:", res.Status, err)
		}
	}

	// Of one that preempts its own registration, all but that command itself ends.
	if err := r.store.Set("write hang len=1G count=1"); err != nil {
		t.Fatal(err)
	}
	own := start(third, 100, 'x')
	if err := r.store.Wait(r.ctx(), 1); err != nil {
		t.Fatal(err)
	}
	r.prOK(third, prPreemptAndAbort, 0, 0xc, 0xc, 0)
	r.store.Release()
	if got := r.writeStatus(third); got != sam.ReservationConflict {
		t.Fatal("a write of one that has unregistered itself:", got)
	}
	if done(own) {
		t.Fatal("an aborted command was answered")
	}
}

// A disk behind two targets has one set of reservations. A registration for all target ports is good at both; reservations
// made by RESERVE end with the session.
func TestReservationsOfTwoTargets(t *testing.T) {
	r := newRig(t, Config{}, "")
	second, err := r.s.AddTarget(testTarget+"2", TargetConfig{LoopOf: r.tg})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.ShareDisk(1, r.tg, 1); err != nil {
		t.Fatal(err)
	}
	here, other := r.login(1), r.login(2)
	r.prOK(other, prRegister, 0, 0, 0xb, 0)
	r.prOK(other, prReserve, prRegistrantsOnly, 0xb, 0, 0)
	r.prOK(here, prRegister, 0, 0, 0xa, prAllPorts)
	o := r.options(1)
	o.TargetName = second.Name()
	there, err := initiator.Login(r.ctx(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	r.ready(there)
	if got := r.writeStatus(there); got != sam.Good {
		t.Fatal("registered at all targets, written through the other:", got)
	}
	if got := r.keys(there); len(got) != 3 {
		t.Fatalf("keys %x", got)
	}
}

// RESERVE binds the other sessions until its own ends.
//
// MUST 7143 §6.3.5.1: the end of a session, or its reinstatement, is the loss of its nexus for the logical units
//
// MUST 7143 §4.4.3.2: what RESERVE gave to a nexus ends with its session
func TestReserveEndsWithSession(t *testing.T) {
	r := newRig(t, Config{}, "")
	first, other := r.login(1), r.login(2)
	res, err := first.Command(r.ctx(), lun1, []byte{cdb.Reserve6, 0, 0, 0, 0, 0}, nil, 0)
	if err != nil || res.Err() != nil {
		t.Fatal(err, res.Err())
	}
	if got := r.writeStatus(other); got != sam.ReservationConflict {
		t.Fatal(got)
	}
	again := r.login(1) // reinstates the first
	if got := r.writeStatus(other); got != sam.Good {
		t.Fatal("after the reinstatement:", got)
	}
	if got := r.writeStatus(again); got != sam.Good {
		t.Fatal(got)
	}
}
