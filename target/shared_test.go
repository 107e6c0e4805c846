package target

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
)

// One unit behind two LUNs: whatever ends one of them leaves what came by the other alone.

// TestOneOfTwoLUNsGoes: a LUN goes, by force or not, while a command is under way at the same disk by another LUN of the target.
func TestOneOfTwoLUNsGoes(t *testing.T) {
	for _, force := range []bool{false, true} {
		r := newRig(t, Config{}, "write hang count=1")
		if err := r.tg.ShareDisk(2, r.tg, 1); err != nil {
			t.Fatal(err)
		}
		s := r.login(1)
		r.readyAt(s, sam.NewLUN(2))
		p := r.hangs(s, 0, 1)
		if err := r.tg.RemoveLUN(r.ctx(), 2, force); err != nil {
			t.Fatalf("force %v: %v", force, err)
		}
		if err := r.tg.RemoveLUN(r.ctx(), 1, false); !errors.Is(err, ErrLUNInUse) {
			t.Errorf("the LUN whose command it is: %v", err)
		}
		r.store.Release()
		if res, err := p.Wait(r.ctx()); err != nil || res.Err() != nil {
			t.Errorf("force %v: the command by the other LUN: %v %v", force, err, res.Err())
		}
	}
}

// TestHiddenOneOfTwoLUNs: likewise where a mask hides it.
func TestHiddenOneOfTwoLUNs(t *testing.T) {
	r := newRig(t, Config{}, "write hang count=1")
	if err := r.tg.ShareDisk(2, r.tg, 1); err != nil {
		t.Fatal(err)
	}
	s := r.login(1)
	r.readyAt(s, sam.NewLUN(2))
	p := r.hangs(s, 0, 1)
	if err := r.tg.Configure(TargetConfig{Masks: []Mask{{Initiator: "*", LUNs: []MaskLUN{{As: 1, LUN: 1}}}}}); err != nil {
		t.Fatal(err)
	}
	r.store.Release()
	if res, err := p.Wait(r.ctx()); err != nil || res.Err() != nil {
		t.Errorf("the command by the other LUN: %v %v", err, res.Err())
	}
}

// TestPortsOfAnEndedWay: a disk is no longer reached through the ports of a target whose LUN, or which itself, is gone.
func TestPortsOfAnEndedWay(t *testing.T) {
	r := newRig(t, Config{}, "")
	ports := func(name string) int {
		r.tg.l.ev.Lock()
		defer r.tg.l.ev.Unlock()
		return len(r.tg.luns[1].unit.lu.Ports(name))
	}
	for name, end := range map[string]func(*Target) error{
		"the LUN":    func(o *Target) error { return o.RemoveLUN(r.ctx(), 7, false) },
		"the target": func(o *Target) error { return o.Remove(r.ctx(), false) },
	} {
		o, err := r.s.AddTarget(testTarget+"-2", TargetConfig{LoopOf: r.tg})
		if err != nil {
			t.Fatal(err)
		}
		if err := o.ShareDisk(7, r.tg, 1); err != nil {
			t.Fatal(err)
		}
		if n := ports(o.Name()); n != 1 {
			t.Fatalf("%d ports of the second target", n)
		}
		if err := end(o); err != nil {
			t.Fatal(err)
		}
		if n := ports(o.Name()); n != 0 {
			t.Errorf("%s is gone, and %d ports of it lead to the disk", name, n)
		}
		_ = o.Remove(r.ctx(), false)
	}
	if n := ports(testTarget); n != 1 {
		t.Errorf("%d ports of the first target", n)
	}
}

// removing starts to remove LUN 1 of a target of its own, whose store has a write that does not end.
func (r *rig) removing() (tg *Target, release func()) {
	r.t.Helper()
	tg, err := r.s.AddTarget(testTarget+"-2", TargetConfig{})
	if err != nil {
		r.t.Fatal(err)
	}
	st := newStore(r.t, "write hang count=1")
	if err := tg.AddDisk(1, st, scsi.DiskConfig{Identity: "slow"}); err != nil {
		r.t.Fatal(err)
	}
	o := r.options(1)
	o.TargetName = tg.Name()
	s, err := initiator.Login(r.ctx(), o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { s.Close() })
	r.ready(s)
	if _, err := s.Start(lun1, write10(0, 8), block('x', 8), 0); err != nil {
		r.t.Fatal(err)
	}
	if err := st.Wait(r.ctx(), 1); err != nil {
		r.t.Fatal(err)
	}
	ctx := r.ctx()
	removed := make(chan error, 1)
	go func() { removed <- tg.RemoveLUN(ctx, 1, true) }()
	for len(tg.Disks()) != 1 && ctx.Err() == nil { // the controller
		runtime.Gosched()
	}
	return tg, func() {
		st.Release()
		if err := <-removed; err != nil || !closed(st) {
			r.t.Error("the LUN was not removed in order:", err)
		}
	}
}

// TestRemoveBehindRemoveLUN: a target is removed while the store of one of its LUNs is being closed, which waits for its last request: that ends
// on the loop.
func TestRemoveBehindRemoveLUN(t *testing.T) {
	r := newRig(t, Config{}, "")
	before := resources(t)
	tg, release := r.removing()
	if err := tg.Remove(r.ctx(), true); err != nil {
		t.Fatal(err)
	}
	release()
	leaks(t, before)
}

// TestCloseBehindRemoveLUN: Close returns when such a store is closed.
func TestCloseBehindRemoveLUN(t *testing.T) {
	r := newRig(t, Config{StoreCloseAfter: time.Hour}, "")
	tg, release := r.removing()
	done := make(chan error, 1)
	go func() { done <- r.s.Close() }()
	for !tg.l.gone() {
		runtime.Gosched()
	}
	release()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-r.ctx().Done():
		t.Fatal("Close does not end")
	}
}

// TestPreparedRemovalKeepsTheName: until a removal is carried out nobody else gets the target's name, so that it can be taken back.
func TestPreparedRemovalKeepsTheName(t *testing.T) {
	r := newRig(t, Config{}, "")
	p, err := r.tg.PrepareRemove(r.ctx(), false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.s.AddTarget(testTarget, TargetConfig{}); err == nil {
		t.Error("a target whose removal may be taken back, and another of its name")
	}
	p.Abort()
	if r.s.Target(testTarget) != r.tg {
		t.Error("it is not found again")
	}
	if p, err = r.tg.PrepareRemove(r.ctx(), false); err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.s.AddTarget(testTarget, TargetConfig{}); err != nil {
		t.Error("its name is not free:", err)
	}
}
