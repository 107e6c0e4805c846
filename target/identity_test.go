package target

import (
	"slices"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// named is a store whose engine names its volume.
type named struct {
	backstore.Store
	name string
}

func (n named) Info() backstore.Info {
	i := n.Store.Info()
	i.Identity = n.name
	return i
}

// TestReservationsFollowTheIdentity: what was reserved with APTPL belongs to the identity that a disk was given, whatever volume is behind it and
// whatever that calls itself: across a swap, a restart, and being taken away and put back, with a medium or without.
func TestReservationsFollowTheIdentity(t *testing.T) {
	dir := t.TempDir()
	first := newRig(t, Config{StateDir: dir}, "")
	a, b := first.login(1), first.login(2)
	first.prOK(a, prRegister, 0, 0, 0xa, prAPTPL)
	first.prOK(a, prReserve, prWriteExclusive, 0xa, 0, 0)
	config := scsi.DiskConfig{Identity: "test"}
	swap := func(st backstore.Store) {
		t.Helper()
		if err := first.tg.UpdateDisk(first.ctx(), 1, scsi.DiskUpdate{Config: config}); err != nil {
			t.Fatal(err)
		}
		p, err := first.tg.PrepareSwap(first.ctx(), 1, st)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Commit(first.ctx()); err != nil {
			t.Fatal(err)
		}
		if err := first.tg.UpdateDisk(first.ctx(), 1, scsi.DiskUpdate{Config: config, Online: true}); err != nil {
			t.Fatal(err)
		}
	}
	swap(named{newStore(t, ""), "another volume"})
	first.readyAt(a, lun1)
	first.readyAt(b, lun1)
	if got := first.writeStatus(b); got != sam.ReservationConflict {
		t.Error("another's write after the swap:", got)
	}
	first.prOK(b, prRegister, 0, 0, 0xb, prAPTPL) // saved after the swap
	if err := first.s.Close(); err != nil {
		t.Fatal(err)
	}

	second := newRig(t, Config{StateDir: dir}, "")
	_, b = second.login(1), second.login(2)
	if got := second.keys(b); !slices.Equal(got, []uint64{0xa, 0xb}) || second.writeStatus(b) != sam.ReservationConflict {
		t.Errorf("keys after the restart: %x", got)
	}
	again := func(st backstore.Store, identity string, want ...uint64) {
		t.Helper()
		if err := second.tg.RemoveLUN(second.ctx(), 1, true); err != nil {
			t.Fatal(err)
		}
		p, err := second.tg.PrepareDisk(1, newStore(t, ""), scsi.DiskConfig{Identity: "test"}, PutOptions{Force: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Abort(second.ctx()); err != nil { // its claim goes with it
			t.Fatal(err)
		}
		if err := second.put(1, st, scsi.DiskConfig{Identity: identity}, PutOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
		for second.next(b, lun1) != 0 {
		}
		if got := second.keys(b); !slices.Equal(got, want) {
			t.Errorf("identity %q: keys %x, want %x", identity, got, want)
		}
	}
	again(named{newStore(t, ""), "third"}, "test", 0xa, 0xb)
	again(named{newStore(t, ""), "test"}, "other")
	again(named{newStore(t, ""), "test"}, "", 0xa, 0xb)
	if err := second.tg.UpdateDisk(second.ctx(), 1, scsi.DiskUpdate{}); err != nil {
		t.Fatal(err)
	}
	if got := second.keys(b); len(got) != 2 {
		t.Errorf("without its medium: keys %x", got)
	}
}
