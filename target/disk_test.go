package target

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
)

// put prepares a disk and commits it.
func (r *rig) put(lun uint16, st backstore.Store, cfg scsi.DiskConfig, o PutOptions) error {
	p, err := r.tg.PrepareDisk(lun, st, cfg, o)
	if err == nil {
		p.Commit()
	}
	return err
}

// closed reports whether a store has been closed.
func closed(st backstore.Store) bool {
	req := &backstore.Request{Op: backstore.Flush}
	return st.Submit(req) == backstore.Done && errors.Is(req.Err, backstore.ErrClosed)
}

// luns asks a session which LUNs there are.
func (r *rig) luns(s *initiator.Session) (list []uint16) {
	r.t.Helper()
	res, err := s.Command(r.ctx(), sam.NewLUN(0), initiator.ReportLUNs(1024), nil, 1024)
	if err != nil || res.Err() != nil {
		r.t.Fatal("REPORT LUNS:", err, res.Err())
	}
	for b := res.Data[8:]; len(b) >= 8; b = b[8:] {
		n, _ := sam.LUN(binary.BigEndian.Uint64(b)).Number()
		list = append(list, n)
	}
	return list
}

// TestPrepareDisk: a prepared disk has its place and nobody sees it; Commit shows it, Abort closes the store and gives the place back.
func TestPrepareDisk(t *testing.T) {
	r := newRig(t, Config{StateDir: t.TempDir()}, "")
	s := r.login(1)
	st := newStore(t, "")
	p, err := r.tg.PrepareDisk(2, st, scsi.DiskConfig{Identity: "two"}, PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.luns(s); len(got) != 2 || r.next(s, lun1) != 0 {
		t.Errorf("a disk that is only prepared is seen: %v", got)
	}
	late := newStore(t, "")
	if err := r.tg.AddDisk(2, late, scsi.DiskConfig{Identity: "late"}); !errors.Is(err, ErrLUNExists) || !strings.Contains(err.Error(), testTarget+" LUN 2") {
		t.Error("a place that is kept was given away:", err)
	}
	if !closed(late) {
		t.Error("the store that was refused is open")
	}
	if err := r.tg.ShareDisk(2, r.tg, 1); !errors.Is(err, ErrLUNExists) {
		t.Error("a place that is kept was shared:", err)
	}
	if err := r.tg.RemoveLUN(r.ctx(), 2, true); !errors.Is(err, ErrNoLUN) {
		t.Error("a disk that is only prepared was removed:", err)
	}
	p.Commit()
	if got := r.next(s, lun1); got != 0x3f0e {
		t.Errorf("told %04x of a new disk", got)
	}
	if got := r.luns(s); len(got) != 3 {
		t.Errorf("a disk that was committed is not seen: %v", got)
	}
	if err := p.Abort(r.ctx()); err != nil || closed(st) {
		t.Error("Abort after Commit did something:", err)
	}

	st = newStore(t, "")
	if p, err = r.tg.PrepareDisk(3, st, scsi.DiskConfig{Identity: "three"}, PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := p.Abort(r.ctx()); err != nil || !closed(st) {
		t.Error("Abort left the store open:", err)
	}
	p.Commit()
	if got := r.luns(s); len(got) != 3 {
		t.Errorf("Commit after Abort did something: %v", got)
	}
	if err := r.put(3, newStore(t, ""), scsi.DiskConfig{Identity: "three"}, PutOptions{}); err != nil {
		t.Error("the place, or the identity, was not given back:", err)
	}
}

// TestPreparedAtTheEnd: what was prepared ends with its target, and Commit comes too late then.
func TestPreparedAtTheEnd(t *testing.T) {
	r := newRig(t, Config{}, "")
	other, err := r.s.AddTarget(testTarget+"-2", TargetConfig{})
	if err != nil {
		t.Fatal(err)
	}
	st := newStore(t, "")
	p, err := other.PrepareDisk(1, st, scsi.DiskConfig{Identity: "x"}, PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Remove(r.ctx(), false); err != nil || !closed(st) {
		t.Error("the target's end left a store open:", err)
	}
	p.Commit()
	if err := p.Abort(r.ctx()); err != nil {
		t.Error(err)
	}
	if _, err := other.PrepareDisk(1, newStore(t, ""), scsi.DiskConfig{Identity: "x"}, PutOptions{}); !errors.Is(err, ErrClosed) {
		t.Error("a disk for a target that is no more:", err)
	}
}

// TestLUNReuse: a number is not given to another volume while a session is there that knows the old one by it, unless forced; the same
// volume may come back.
func TestLUNReuse(t *testing.T) {
	r := newRig(t, Config{}, "")
	lun2 := sam.NewLUN(2)
	add := func(identity string, force bool) error {
		return r.put(2, newStore(t, ""), scsi.DiskConfig{Identity: identity}, PutOptions{Force: force})
	}
	remove := func() {
		t.Helper()
		if err := r.tg.RemoveLUN(r.ctx(), 2, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := add("one", false); err != nil {
		t.Fatal(err)
	}
	s, stranger := r.login(1), r.login(2)
	r.readyAt(s, lun2)
	remove()
	if err := add("two", false); !errors.Is(err, ErrLUNInUse) || !strings.Contains(err.Error(), initiator.DefaultInitiatorName) {
		t.Error("the number was given to another volume:", err)
	}
	if err := r.tg.ShareDisk(2, r.tg, 1); !errors.Is(err, ErrLUNInUse) {
		t.Error("the number was given to another LUN's volume:", err)
	}
	if err := add("one", false); err != nil {
		t.Fatal("the same volume may not come back:", err)
	}
	for _, want := range []int{0x2900, 0} {
		if got := r.next(s, lun2); got != want {
			t.Errorf("the same volume: %04x, want %04x", got, want)
		}
	}
	remove()
	if err := add("two", true); err != nil {
		t.Fatal(err)
	}
	if got := r.next(s, lun1); got != 0x3f0e {
		t.Errorf("another LUN: %04x", got)
	}
	for _, want := range []int{0x2900, 0x3f03, 0} {
		if got := r.next(s, lun2); got != want {
			t.Errorf("another volume: %04x, want %04x", got, want)
		}
	}
	remove()
	s.Close()
	// Who has gone does not count, nor who never asked for it.
	for end := r.ctx(); ; {
		if err := add("three", false); err == nil {
			break
		} else if !errors.Is(err, ErrLUNInUse) || end.Err() != nil {
			t.Fatal(err)
		}
	}
	r.readyAt(stranger, lun2)
}

// TestLUNReuseMasked: it is the session's own number that counts.
func TestLUNReuseMasked(t *testing.T) {
	r := newRig(t, Config{}, "")
	add := func(lun uint16, identity string) error {
		return r.put(lun, newStore(t, ""), scsi.DiskConfig{Identity: identity}, PutOptions{})
	}
	for _, lun := range []uint16{5, 6} {
		if err := add(lun, fmt.Sprint("old", lun)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.tg.Configure(TargetConfig{Masks: []Mask{{Initiator: "*", LUNs: []MaskLUN{{As: 1, LUN: 1}, {As: 2, LUN: 5}}}}}); err != nil {
		t.Fatal(err)
	}
	s := r.login(1)
	r.readyAt(s, sam.NewLUN(2))
	for _, lun := range []uint16{5, 6} {
		if err := r.tg.RemoveLUN(r.ctx(), lun, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := add(5, "new"); !errors.Is(err, ErrLUNInUse) {
		t.Error("a number that a session sees under another one was given away:", err)
	}
	for _, lun := range []uint16{6, 2} {
		if err := add(lun, fmt.Sprint("new", lun)); err != nil {
			t.Errorf("LUN %d, which nobody sees: %v", lun, err)
		}
	}
	if err := add(5, "old5"); err != nil {
		t.Error("the same volume:", err)
	}
}

// TestForcedRemovalIsTold: who has commands at a LUN that is taken away by force learns what became of them.
func TestForcedRemovalIsTold(t *testing.T) {
	r := newRig(t, Config{}, "")
	lun2, st := sam.NewLUN(2), newStore(t, "write hang count=1")
	if err := r.tg.AddDisk(2, st, scsi.DiskConfig{Identity: "two"}); err != nil {
		t.Fatal(err)
	}
	s := r.login(1)
	r.readyAt(s, lun2)
	p, err := s.Start(lun2, write10(0, 8), block('a', 8), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Wait(r.ctx(), 1); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.tg.RemoveLUN(r.ctx(), 2, true) }()
	if res, err := p.Wait(r.ctx()); err != nil || res.Status != sam.TaskAborted {
		t.Errorf("the write: %v, %v", err, res.Status)
	}
	st.Release()
	if err := <-done; err != nil || !closed(st) {
		t.Error("the store is open:", err)
	}
}

// TestRemoveLUNInUse: without force a LUN with a command under way stays, whether the store has it, or its data is to come, or it was
// aborted and the store still has it; afterwards it goes, and its store is closed.
func TestRemoveLUNInUse(t *testing.T) {
	r := newRig(t, Config{}, "")
	lun2 := sam.NewLUN(2)
	st := newStore(t, "write hang count=1")
	if err := r.tg.AddDisk(2, st, scsi.DiskConfig{Identity: "two"}); err != nil {
		t.Fatal(err)
	}
	s := r.login(1)
	r.readyAt(s, lun2)
	p, err := s.Start(lun2, write10(0, 8), block('a', 8), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Wait(r.ctx(), 1); err != nil {
		t.Fatal(err)
	}
	stays := func(when string) {
		t.Helper()
		if err := r.tg.RemoveLUN(r.ctx(), 2, false); !errors.Is(err, ErrLUNInUse) {
			t.Errorf("%s: %v", when, err)
		}
	}
	stays("while the store has a write")
	if err := r.tg.RemoveLUN(r.ctx(), 0, true); !errors.Is(err, ErrNoLUN) {
		t.Error("the controller was removed:", err)
	}
	c := r.rawLogin(2)
	c.Timeout = testWait
	for range 2 {
		if _, err := c.ReadCommand(lun2, initiator.TestUnitReady(), 0); err != nil {
			t.Fatal(err)
		}
	}
	st.Release()
	if res, err := p.Wait(r.ctx()); err != nil || res.Err() != nil {
		t.Fatal(err, res.Err())
	}
	h := c.CommandHeader(lun2, write10(0, 1024), false, true, 512<<10)
	if err := c.Send(h, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Expect(0x31); err != nil { // R2T
		t.Fatal(err)
	}
	stays("while data is to come")
	c.Close()
	r.goes(2)
	if !closed(st) {
		t.Error("the store is open")
	}
}

// goes removes a LUN without force, as soon as it goes.
func (r *rig) goes(lun uint16) {
	r.t.Helper()
	for end := r.ctx(); ; {
		err := r.tg.RemoveLUN(end, lun, false)
		if err == nil {
			return
		}
		if !errors.Is(err, ErrLUNInUse) || end.Err() != nil {
			r.t.Fatal(err)
		}
	}
}

// TestControllerComesBack: a disk at LUN 0 takes the controller's place, and gives it back.
func TestControllerComesBack(t *testing.T) {
	r := newRig(t, Config{}, "")
	s := r.login(1)
	kind := func() byte {
		res, err := s.Command(r.ctx(), sam.NewLUN(0), initiator.Inquiry(36), nil, 36)
		if err != nil || res.Err() != nil {
			t.Fatal(err, res.Err())
		}
		return res.Data[0]
	}
	for range 2 {
		if got := kind(); got != 0x0c {
			t.Fatalf("LUN 0 is of type %02x", got)
		}
		if err := r.tg.AddDisk(0, newStore(t, ""), scsi.DiskConfig{Identity: "zero"}); err != nil {
			t.Fatal(err)
		}
		if got := kind(); got != 0 {
			t.Fatalf("the disk at LUN 0 is of type %02x", got)
		}
		if err := r.tg.RemoveLUN(r.ctx(), 0, false); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNoControllerAnyMore: a disk comes to LUN 0, whose controller is gone, while a session is there that knows it: it knew no volume.
func TestNoControllerAnyMore(t *testing.T) {
	r := newRig(t, Config{}, "")
	s := r.login(1)
	if _, err := s.Command(r.ctx(), sam.NewLUN(0), initiator.Inquiry(36), nil, 36); err != nil {
		t.Fatal(err)
	}
	if err := r.tg.Configure(TargetConfig{NoController: true}); err != nil {
		t.Fatal(err)
	}
	if err := r.tg.AddDisk(0, newStore(t, ""), scsi.DiskConfig{Identity: "zero"}); err != nil {
		t.Error(err)
	}
}

// TestPutOffline: a disk that is put there offline is so from the start.
func TestPutOffline(t *testing.T) {
	r := newRig(t, Config{}, "")
	if err := r.put(2, newStore(t, ""), scsi.DiskConfig{Identity: "two"}, PutOptions{Offline: true}); err != nil {
		t.Fatal(err)
	}
	s, lun2 := r.login(1), sam.NewLUN(2)
	r.next(s, lun2)
	if got := r.sensed(s, lun2, read10(0, 1), nil, 512); got != 0x023a00 {
		t.Errorf("%06x", got)
	}
	if err := r.tg.UpdateDisk(r.ctx(), 2, scsi.DiskUpdate{Online: true}); err != nil {
		t.Fatal(err)
	}
	r.hearsAt(s, lun2, 0x2800)
}

// TestDiskWithoutMedium: a drive is there without a volume, and says so.
func TestDiskWithoutMedium(t *testing.T) {
	r := newRig(t, Config{StateDir: t.TempDir()}, "")
	if err := r.tg.AddDisk(2, nil, scsi.DiskConfig{}); err == nil {
		t.Error("a drive without an identity")
	}
	if err := r.tg.AddDisk(2, nil, scsi.DiskConfig{Identity: "drive", TgtNaming: true, TID: 7}); err != nil {
		t.Fatal(err)
	}
	s, lun2 := r.login(1), sam.NewLUN(2)
	if res, err := s.Command(r.ctx(), lun2, initiator.Inquiry(36), nil, 36); err != nil || res.Err() != nil || res.Data[1] != 0x80 || string(res.Data[8:16]) != "IET     " {
		t.Fatalf("INQUIRY: %v %v %x", err, res.Err(), res.Data)
	}
	if res, err := s.Command(r.ctx(), lun2, initiator.InquiryVPD(0x80, 255), nil, 255); err != nil || res.Err() != nil || !strings.HasSuffix(string(res.Data), " beaf72") {
		t.Fatalf("VPD 80h: %v %v %q", err, res.Err(), res.Data)
	}
	r.next(s, lun2)
	for _, cdb := range [][]byte{initiator.TestUnitReady(), read10(0, 1), initiator.ReadCapacity16(32), initiator.SynchronizeCache10()} {
		res, err := s.Command(r.ctx(), lun2, cdb, nil, 512)
		if key, asc, ascq, _ := initiator.SenseFields(res.Sense); err != nil || key != 2 || asc != 0x3a || ascq != 0 {
			t.Errorf("%x: %v, %x/%02x/%02x", cdb, err, key, asc, ascq)
		}
	}
	if _, err := r.tg.ResizeDisk(r.ctx(), 2, 1<<20, false); !errors.Is(err, ErrNoMedium) {
		t.Error("a size without a medium:", err)
	}
	ctx, cancel := context.WithCancel(r.ctx())
	cancel()
	if err := r.tg.RemoveLUN(ctx, 2, false); err != nil {
		t.Error(err)
	}
}
