package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/faulty"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// soon is within what everything has to be done that does not need the silent engine. It is no measure of speed: on a loaded machine it still tells
// what goes on from what waits.
const soon = 5 * time.Second

// A silence is a server whose target has a LUN 1 on an engine that says nothing, with a crowd that writes there, a healthy LUN 2 and, on another loop, another
// target.
type silence struct {
	*rig
	other *Target
	crowd []*initiator.Task
	from  []*initiator.Session
	last  *initiator.Session // one of the crowd
}

const (
	silentBudget = 4 << 20
	silentTarget = "iqn.2026-11.io.lunar:other"
)

var lun2 = sam.NewLUN(2)

func newSilence(t *testing.T, policy scsi.TimeoutPolicy) *silence {
	t.Helper()
	x := &silence{rig: newRig(t, Config{BufferBytes: silentBudget, StoreCloseAfter: time.Second}, "")}
	x.policy(policy)
	if err := x.tg.AddDisk(2, newStore(t, ""), scsi.DiskConfig{Identity: "healthy"}); err != nil {
		t.Fatal(err)
	}
	var err error
	if x.other, err = x.s.AddTarget(silentTarget, TargetConfig{}); err != nil {
		t.Fatal(err)
	}
	if err := x.other.AddDisk(1, newStore(t, ""), scsi.DiskConfig{Identity: "other"}); err != nil {
		t.Fatal(err)
	}
	var sessions []*initiator.Session
	for n := range byte(6) {
		sessions = append(sessions, x.login(n+1))
	}
	if err := x.store.Set("any hang"); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		for k, s := range sessions {
			task, err := s.Start(lun1, write10(uint32(8*(i%20)+1024*k), 64), block('s', 64), 0)
			if err != nil {
				t.Fatal(err)
			}
			x.crowd, x.from = append(x.crowd, task), append(x.from, s)
			x.last = s
		}
	}
	if err := x.store.Wait(x.ctx(), 1); err != nil {
		t.Fatal(err)
	}
	return x
}

// within fails the test where f, which must not wait for the silent engine, takes long.
func (x *silence) within(what string, f func(ctx context.Context) error) {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	start := time.Now()
	if err := f(ctx); err != nil || time.Since(start) > soon {
		x.t.Fatalf("%s, with an engine silent that it has nothing to do with, after %v: %v", what, time.Since(start), err)
	}
}

// roundTrip writes to a LUN and reads it back.
func roundTrip(ctx context.Context, s *initiator.Session, lun sam.LUN) error {
	for try := 0; ; try++ {
		res, err := s.Command(ctx, lun, write10(16, 8), block('h', 8), 0)
		if err == nil && res.Status == sam.CheckCondition && try < 4 {
			continue // a unit attention
		}
		if err == nil {
			err = res.Err()
		}
		if err != nil {
			return err
		}
		break
	}
	res, err := s.Command(ctx, lun, read10(16, 8), nil, 8*512)
	if err == nil && (res.Err() != nil || !bytes.Equal(res.Data, block('h', 8))) {
		err = fmt.Errorf("other data, %w", res.Err())
	}
	return err
}

func (x *silence) loginTo(ctx context.Context, name string, n byte) (*initiator.Session, error) {
	o := x.options(n)
	o.TargetName = name
	return initiator.Login(ctx, o)
}

// nobodyNotices checks all that has nothing to do with the silent engine.
func (x *silence) nobodyNotices(stage string) {
	x.t.Helper()
	for name, lun := range map[string]sam.LUN{testTarget: lun2, silentTarget: lun1} {
		x.within(stage+": I/O of "+name, func(ctx context.Context) error {
			s, err := x.loginTo(ctx, name, 99)
			if err != nil {
				return err
			}
			defer s.Close()
			return roundTrip(ctx, s, lun)
		})
	}
	x.within(stage+": a ping of one that waits", func(ctx context.Context) error { _, err := x.last.Ping(ctx, nil); return err })
	x.within(stage+": I/O to another LUN by one that waits", func(ctx context.Context) error { return roundTrip(ctx, x.last, lun2) })
	x.within(stage+": information", func(context.Context) error { x.tg.Info(); x.s.Stats(); return nil })
	x.within(stage+": an update of the silent disk", func(ctx context.Context) error {
		return x.tg.UpdateDisk(ctx, 1, scsi.DiskUpdate{Config: scsi.DiskConfig{OnTimeout: x.tg.luns[1].unit.lu.Config().OnTimeout, Product: stage}, Online: true})
	})
	x.within(stage+": growing another disk", func(ctx context.Context) error { _, err := x.tg.ResizeDisk(ctx, 2, 0, false); return err })
	if used := x.s.budget.Used(); used > silentBudget {
		x.t.Fatalf("%s: %d bytes are kept, more than the budget", stage, used)
	}
}

// goesOn lets the engine answer again, and checks that whatever waited ends.
func (x *silence) goesOn() {
	x.t.Helper()
	if err := x.store.Set(""); err != nil {
		x.t.Fatal(err)
	}
	x.store.Release()
	for i, task := range x.crowd {
		if _, err := task.Wait(x.ctx()); err != nil {
			x.t.Fatalf("command %d of the crowd: %v", i, err)
		}
	}
	x.within("afterwards: I/O", func(ctx context.Context) error { return roundTrip(ctx, x.last, lun1) })
	x.lookLater(0)
	if d := x.lateness(1); d.InDoubt != 0 || d.Late.Waiting != 0 || d.Queued != 0 {
		x.t.Fatalf("afterwards: %d in doubt, %d queued, %+v", d.InDoubt, d.Queued, d.Late)
	}
}

// TestSilentEngine: an engine that is silent is noticed by those who use its LUN alone. Functions on that LUN are answered; memory is bounded; when it is
// back everything goes on.
func TestSilentEngine(t *testing.T) {
	for name, policy := range map[string]scsi.TimeoutPolicy{"wait": scsi.TimeoutWait, "error": scsi.TimeoutError} {
		t.Run(name, func(t *testing.T) {
			x := newSilence(t, policy)
			x.nobodyNotices("silent")
			x.expired()
			x.nobodyNotices("for 30 s")
			for _, f := range []sam.TMF{sam.AbortTaskSet, sam.LogicalUnitReset} {
				x.within(fmt.Sprint(f), func(ctx context.Context) error {
					resp, err := x.last.TaskManagement(ctx, f, lun1, nil)
					if err == nil && resp != pdu.FunctionComplete {
						err = fmt.Errorf("%v", resp)
					}
					return err
				})
			}
			// All that were aborted, and all that their initiators send again, are in doubt or wait for what is.
			again, err := x.last.Start(lun1, write10(1024*5, 64), block('a', 64), 0)
			if err != nil {
				t.Fatal(err)
			}
			x.nobodyNotices("after a reset")
			x.crowd = []*initiator.Task{again}
			x.goesOn()
		})
	}
}

// TestSilentEngineReturns: what waited is carried out when the engine is back, with nobody told otherwise.
func TestSilentEngineReturns(t *testing.T) {
	x := newSilence(t, scsi.TimeoutWait)
	x.expired()
	x.goesOn()
	good := 0
	for _, task := range x.crowd {
		res, _ := task.Wait(x.ctx())
		if res.Status == sam.Good {
			good++
		} else if res.Status != sam.TaskSetFull && res.Status != sam.Busy {
			t.Fatalf("%v %x: with the policy wait nobody is told of an error", res.Status, res.Sense)
		}
	}
	if good == 0 {
		t.Fatal("none was carried out")
	}
}

// TestOrphansAreBounded: LUNs of a silent engine that are removed and added again leave no more than so many behind.
func TestOrphansAreBounded(t *testing.T) {
	const most = 3
	r := newRig(t, Config{MaxOrphans: most}, "")
	s := r.login(1)
	var stores []*faulty.Store
	var err error
	for range 2 * most {
		st := newStore(t, "any hang")
		if err = r.tg.AddDisk(2, st, scsi.DiskConfig{Identity: "silent"}); err != nil {
			break
		}
		stores = append(stores, st)
		if err := hangOne(s); err != nil {
			t.Fatal(err)
		}
		if err := st.Wait(r.ctx(), 1); err != nil {
			t.Fatal(err)
		}
		gone, cancel := context.WithCancel(r.ctx())
		cancel()
		if err := r.tg.RemoveLUN(gone, 2, true); backstore.ClassOf(err) != backstore.ClassBusy {
			t.Fatal(err)
		}
	}
	if !errors.Is(err, ErrOrphans) || len(stores) != most || r.s.Stats().Orphans != most {
		t.Fatalf("after %d: %v, %d orphans", len(stores), err, r.s.Stats().Orphans)
	}
	for _, st := range stores {
		st.Release()
		if err := st.Gone(r.ctx()); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.tg.AddDisk(2, newStore(t, ""), scsi.DiskConfig{Identity: "silent"}); err != nil {
		t.Fatal("when they are gone:", err)
	}
}

// hangOne sends a write to LUN 2 that waits, past the unit attentions there.
func hangOne(s *initiator.Session) error {
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	for range 4 {
		res, err := s.Command(ctx, lun2, initiator.TestUnitReady(), nil, 0)
		if err != nil {
			return err
		}
		if res.Status == sam.Good {
			_, err := s.Start(lun2, write10(0, 8), block('s', 8), 0)
			return err
		}
	}
	return errors.New("LUN 2 is not ready")
}

// TestSilentEngineIsRemoved: the LUN of a silent engine can be taken away, and so can its target; what it has is orphaned, and gone when it is back.
func TestSilentEngineIsRemoved(t *testing.T) {
	for name, remove := range map[string]func(x *silence, ctx context.Context) error{
		"LUN":    func(x *silence, ctx context.Context) error { return x.tg.RemoveLUN(ctx, 1, true) },
		"target": func(x *silence, ctx context.Context) error { return x.tg.Remove(ctx, true) },
	} {
		t.Run(name, func(t *testing.T) {
			x := newSilence(t, scsi.TimeoutWait)
			x.within("removal", func(context.Context) error {
				ctx, cancel := context.WithTimeout(x.ctx(), 50*time.Millisecond)
				defer cancel()
				err := remove(x, ctx)
				if backstore.ClassOf(err) != backstore.ClassBusy {
					return fmt.Errorf("want an error that the store is busy, got %w", err)
				}
				return nil
			})
			x.within("I/O of another target", func(ctx context.Context) error {
				s, err := x.loginTo(ctx, silentTarget, 99)
				if err != nil {
					return err
				}
				defer s.Close()
				return roundTrip(ctx, s, lun1)
			})
			if name == "LUN" {
				x.within("I/O of another LUN", func(ctx context.Context) error { return roundTrip(ctx, x.last, lun2) })
				x.within("adding a LUN in its place", func(context.Context) error {
					p, err := x.tg.PrepareDisk(1, newStore(t, ""), scsi.DiskConfig{Identity: "new"}, PutOptions{Force: true})
					if err == nil {
						p.Commit()
					}
					return err
				})
				x.within("I/O there", func(ctx context.Context) error { return roundTrip(ctx, x.last, lun1) })
			}
			if used := x.s.budget.Used(); used > silentBudget {
				t.Fatalf("%d bytes are kept, more than the budget", used)
			}
			x.store.Release()
			if err := x.store.Gone(x.ctx()); err != nil {
				t.Fatal("the orphan's store is not closed:", err)
			}
		})
	}
}
