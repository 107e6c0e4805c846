package target

import (
	"bytes"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/faulty"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A write that a store has cannot be taken back. Whatever ends its task, from then on nothing that overlaps it is answered before
// the store has ended it, so that a later write is never undone by an earlier one.
func TestLateWrites(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(r *rig, victim *initiator.Session, task *initiator.Task) *initiator.Session
	}{
		{"ABORT TASK", func(r *rig, victim *initiator.Session, task *initiator.Task) *initiator.Session {
			resp, err := victim.TaskManagement(r.ctx(), sam.AbortTask, lun1, task)
			if err != nil || resp != pdu.FunctionComplete {
				r.t.Fatal(resp, err)
			}
			return victim
		}},
		{"LOGICAL UNIT RESET", func(r *rig, victim *initiator.Session, _ *initiator.Task) *initiator.Session {
			resp, err := victim.TaskManagement(r.ctx(), sam.LogicalUnitReset, lun1, nil)
			if err != nil || resp != pdu.FunctionComplete {
				r.t.Fatal(resp, err)
			}
			return victim
		}},
		{"session reinstatement", func(r *rig, _ *initiator.Session, _ *initiator.Task) *initiator.Session {
			s, err := initiator.Login(r.ctx(), r.options(1))
			if err != nil {
				r.t.Fatal(err)
			}
			r.t.Cleanup(func() { s.Close() })
			return s
		}},
		{"connection loss", func(r *rig, victim *initiator.Session, _ *initiator.Task) *initiator.Session {
			victim.Close()
			return r.login(3)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Config{}, "write hang off=4096 len=4096 count=1")
			victim, other := r.login(1), r.login(2)
			task, err := victim.Start(lun1, write10(8, 8), block('o', 8), 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.store.Wait(r.ctx(), 1); err != nil {
				t.Fatal(err)
			}
			victim = c.end(r, victim, task)
			r.ready(victim)
			r.ready(other)

			// Every overlapping command waits, of every nexus; what does not overlap goes on.
			overlapping, err := victim.Start(lun1, write10(15, 2), block('n', 2), 0)
			if err != nil {
				t.Fatal(err)
			}
			reading, err := other.Start(lun1, read10(8, 1), nil, 512)
			if err != nil {
				t.Fatal(err)
			}
			r.write(victim, 64, block('x', 8))
			r.write(other, 17, block('y', 1))
			for name, task := range map[string]*initiator.Task{"write": overlapping, "read": reading} {
				if done(task) {
					t.Fatalf("an overlapping %s was answered before the write in doubt ended", name)
				}
			}

			r.store.Release()
			if res, err := overlapping.Wait(r.ctx()); err != nil || res.Err() != nil {
				t.Fatal(err, res.Err())
			}
			if res, err := reading.Wait(r.ctx()); err != nil || !bytes.Equal(res.Data, block('o', 1)) {
				t.Fatal("the read that waited does not see the late write", err, res.Status)
			}
			want := append(append(block('o', 7), block('n', 2)...), block('y', 1)...)
			if got := r.read(other, 8, 10); !bytes.Equal(got, want) {
				t.Fatal("the late write undid a later one")
			}
		})
	}
}

// done reports whether a task has ended already. It has had every chance to: commands sent behind it were answered.
func done(task *initiator.Task) bool {
	select {
	case <-task.Done():
		return true
	default:
		return false
	}
}

// A sharedStore says that others may write its volume.
type sharedStore struct{ *faulty.Store }

func (s sharedStore) Info() backstore.Info {
	i := s.Store.Info()
	i.Shared = true
	return i
}

// Where others may write the volume, keeping a range apart here is not enough: a function is complete when the write has ended, and
// rejected when that takes too long.
func TestLateWritesOfSharedVolume(t *testing.T) {
	for _, ends := range []bool{true, false} {
		limit := session.Limits{}
		if !ends {
			limit.TMFTimeout = int64(50 * time.Millisecond)
		}
		r := newRig(t, Config{Limit: limit}, "")
		st := newStore(t, "write hang count=1")
		t.Cleanup(func() { st.Release() })
		if err := r.tg.AddDisk(2, sharedStore{st}, scsi.DiskConfig{Identity: "shared"}); err != nil {
			t.Fatal(err)
		}
		s := r.login(1)
		lun := sam.NewLUN(2)
		if _, err := s.Command(r.ctx(), lun, initiator.TestUnitReady(), nil, 0); err != nil {
			t.Fatal(err)
		}
		task, err := s.Start(lun, write10(0, 8), block('s', 8), 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Wait(r.ctx(), 1); err != nil {
			t.Fatal(err)
		}
		answered := make(chan pdu.TMFResponse, 1)
		go func() {
			resp, err := s.TaskManagement(r.ctx(), sam.AbortTask, lun, task)
			if err != nil {
				t.Error(err)
			}
			answered <- resp
		}()
		want := pdu.FunctionRejected
		if ends {
			want = pdu.FunctionComplete
			for range 20 {
				if _, err := s.Ping(r.ctx(), nil); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case resp := <-answered:
				t.Fatalf("answered %v while the write is out", resp)
			default:
			}
			st.Release()
		}
		if resp := <-answered; resp != want {
			t.Fatalf("answered %v, want %v", resp, want)
		}
	}
}
