package target

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// lookLater has the rig's loop look at its units as if so much time had passed.
func (r *rig) lookLater(later time.Duration) {
	l := r.tg.l
	l.ev.Lock()
	l.lookLate(l.s.group.Clock() + int64(later))
	l.ev.Unlock()
	l.ev.Wake()
}

// expired lets the time of all commands that are pending pass.
func (r *rig) expired() {
	r.lookLater(0)
	r.lookLater(scsi.DefaultTimeout + time.Second)
}

func (r *rig) lateness(lun uint16) LUNInfo {
	r.t.Helper()
	for _, d := range r.tg.Disks() {
		if d.LUN == lun {
			return d
		}
	}
	r.t.Fatalf("there is no LUN %d", lun)
	return LUNInfo{}
}

// policy sets what becomes of commands that wait for too long.
func (r *rig) policy(p scsi.TimeoutPolicy) {
	r.t.Helper()
	if err := r.tg.UpdateDisk(r.ctx(), 1, scsi.DiskUpdate{Config: scsi.DiskConfig{OnTimeout: p}, Online: true}); err != nil {
		r.t.Fatal(err)
	}
}

// notReady waits for a task and wants it to have been told that the unit becomes ready.
func (r *rig) notReady(name string, task *initiator.Task) {
	r.t.Helper()
	res, err := task.Wait(r.ctx())
	if err != nil {
		r.t.Fatal(name, err)
	}
	if d, err := sense.Parse(res.Sense); err != nil || d.Key != sense.NotReady || d.Code != sense.BecomingReady {
		r.t.Fatalf("%s: %v %x", name, res.Status, res.Sense)
	}
}

// logLines is a Logger that keeps what was written.
type logLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *logLines) add(level, msg string, kv ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, level+" "+msg+" "+fmt.Sprintln(kv...))
}
func (l *logLines) Debug(msg string, kv ...any) { l.add("debug", msg, kv...) }
func (l *logLines) Info(msg string, kv ...any)  { l.add("info", msg, kv...) }
func (l *logLines) Warn(msg string, kv ...any)  { l.add("warn", msg, kv...) }

// with lists the lines that have s in them.
func (l *logLines) with(s string) (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, s) {
			out = append(out, line)
		}
	}
	return out
}

// TestTimeoutWait: with the policy wait commands go on waiting. It is told of, once in a while, and when it is over.
func TestTimeoutWait(t *testing.T) {
	log := &logLines{}
	r := newRig(t, Config{Logger: log}, "write hang count=1")
	s := r.login(1)
	task, err := s.Start(lun1, write10(8, 8), block('o', 8), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.store.Wait(r.ctx(), 1); err != nil {
		t.Fatal(err)
	}
	r.expired()
	for i := range 11 {
		r.lookLater(time.Duration(i+2) * scsi.DefaultTimeout)
	}
	r.ready(s)
	if done(task) {
		t.Fatal("the command was answered")
	}
	if d := r.lateness(1); d.Late.Waiting != 1 || d.Late.Total != 1 || d.Late.Ended != 0 || d.Late.Oldest < scsi.DefaultTimeout {
		t.Fatalf("%+v", d.Late)
	}
	if w := log.with("does not answer"); len(w) != 2 || !strings.Contains(w[0], "lun 1") || !strings.Contains(w[0], testTarget) {
		t.Fatalf("in 6 minutes it was told of %d times: %q", len(w), w)
	}
	r.store.Release()
	if res, err := task.Wait(r.ctx()); err != nil || res.Err() != nil {
		t.Fatal(err, res.Err())
	}
	r.lookLater(0)
	if d := r.lateness(1); d.Late.Waiting != 0 || d.Late.Total != 1 {
		t.Fatalf("%+v", d.Late)
	}
	if n := len(log.with("answers again")); n != 1 {
		t.Fatalf("the end was told of %d times", n)
	}
}

// TestTimeoutError: with the policy error the initiator is answered, NOT READY; what the store has of it stays there, with its
// memory, and what overlaps waits for that. Functions, logins and the rest of the disk go on. When the store ends it nothing is left.
func TestTimeoutError(t *testing.T) {
	r := newRig(t, Config{}, "write hang off=4096 len=4096 count=1; read hang off=1M len=512 count=1; flush hang count=1")
	r.policy(scsi.TimeoutError)
	victim, other := r.login(1), r.login(2)
	tasks := map[string]*initiator.Task{}
	start := func(name string, s *initiator.Session, cdb, out []byte, in int) {
		task, err := s.Start(lun1, cdb, out, in)
		if err != nil {
			t.Fatal(err)
		}
		tasks[name] = task
	}
	start("write", victim, write10(8, 8), block('o', 8), 0)
	start("read", victim, read10(2048, 1), nil, 512)
	if err := r.store.Wait(r.ctx(), 2); err != nil {
		t.Fatal(err)
	}
	start("overlapping write", victim, write10(15, 2), block('n', 2), 0)
	start("overlapping read", other, read10(8, 1), nil, 512)
	r.ready(victim)
	r.ready(other)
	used := r.s.Stats().BufferBytes
	r.expired()
	for name, task := range tasks {
		r.notReady(name, task)
	}
	if d := r.lateness(1); d.InDoubt != 2 || d.Late.Waiting != 2 || d.Late.Ended != 4 || d.Errors["2/04/01"] != 4 || d.Queued != 0 {
		t.Fatalf("in doubt %d, %+v, %v, %d queued", d.InDoubt, d.Late, d.Errors, d.Queued)
	}
	if now := r.s.Stats().BufferBytes; now == 0 || now > used {
		t.Fatalf("%d bytes of buffers are in use, %d before", now, used)
	}
	if resp, err := victim.TaskManagement(r.ctx(), sam.AbortTask, lun1, tasks["write"]); err != nil || resp != pdu.TaskDoesNotExist && resp != pdu.FunctionComplete {
		t.Fatal("abort of what was answered:", resp, err)
	}
	if resp, err := other.TaskManagement(r.ctx(), sam.LogicalUnitReset, lun1, nil); err != nil || resp != pdu.FunctionComplete {
		t.Fatal("reset:", resp, err)
	}
	r.ready(victim)
	r.ready(other)
	r.write(other, 64, block('x', 8))
	retry, err := victim.Start(lun1, write10(8, 8), block('r', 8), 0)
	if err != nil {
		t.Fatal(err)
	}
	r.ready(victim)
	if done(retry) {
		t.Fatal("a write was answered ahead of one in doubt that it overlaps")
	}
	r.store.Release()
	if res, err := retry.Wait(r.ctx()); err != nil || res.Err() != nil {
		t.Fatal(err, res.Err())
	}
	if got := r.read(other, 8, 8); !bytes.Equal(got, block('r', 8)) {
		t.Fatal("the late write undid the later one")
	}
	r.lookLater(0)
	if d := r.lateness(1); d.InDoubt != 0 || d.Late.Waiting != 0 || d.Errors["2/04/01"] != 4 || d.Queued != 0 {
		t.Fatalf("in doubt %d, %+v, %v, %d queued: what was answered is not to end again", d.InDoubt, d.Late, d.Errors, d.Queued)
	}
}

// TestTimeoutErrorEnds: sessions end, the LUN goes, and the target goes, while the store has what was answered.
func TestTimeoutErrorEnds(t *testing.T) {
	for name, end := range map[string]func(r *rig, s *initiator.Session) error{
		"session closed": func(_ *rig, s *initiator.Session) error { return s.Close() },
		"LUN removed": func(r *rig, _ *initiator.Session) error {
			r.store.Release()
			return r.tg.RemoveLUN(r.ctx(), 1, true)
		},
		"answered and ended at once": func(r *rig, s *initiator.Session) error {
			r.store.Release()
			_, err := s.Ping(r.ctx(), nil)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{}, "any hang count=3")
			r.policy(scsi.TimeoutError)
			s := r.login(1)
			var tasks []*initiator.Task
			for i := range 3 {
				task, err := s.Start(lun1, write10(uint32(8*i), 8), block('o', 8), 0)
				if err != nil {
					t.Fatal(err)
				}
				tasks = append(tasks, task)
			}
			if err := r.store.Wait(r.ctx(), 3); err != nil {
				t.Fatal(err)
			}
			r.expired()
			for _, task := range tasks {
				r.notReady("write", task)
			}
			if err := end(r, s); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestTimeoutErrorMeetsAbort: an ABORT TASK that comes between a command's time and its answer takes the answer away, and only that.
func TestTimeoutErrorMeetsAbort(t *testing.T) {
	r := newRig(t, Config{}, "write hang count=1")
	r.policy(scsi.TimeoutError)
	s := r.login(1)
	task, err := s.Start(lun1, write10(8, 8), block('o', 8), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.store.Wait(r.ctx(), 1); err != nil {
		t.Fatal(err)
	}
	r.lookLater(0)
	l := r.tg.l
	l.ev.Lock()
	u := r.tg.luns[1].unit
	u.lu.Overdue(l.s.group.Clock() + int64(2*scsi.DefaultTimeout)) // it is to be answered at the end of the turn
	for _, se := range r.tg.sessions {
		l.dropSession(se, endAdmin, "a test")
	}
	l.ev.Unlock()
	l.ev.Wake()
	if _, err := task.Wait(r.ctx()); err == nil {
		t.Fatal("it was answered")
	}
	again := r.login(1)
	if d := r.lateness(1); d.InDoubt != 1 {
		t.Fatalf("%d in doubt", d.InDoubt)
	}
	r.store.Release()
	if got := r.read(again, 8, 8); !bytes.Equal(got, block('o', 8)) {
		t.Fatal("the write is not there")
	}
}
