package target

import (
	"time"

	"github.com/lunar-iscsi/lunar/scsi"
)

// Commands whose store does not answer: see scsi.DiskConfig.Timeout. While a loop has commands pending it looks at its units once a second;
// no command has a timer.

const (
	// lateEvery is how often that is: what a command may wait for longer than it was to.
	lateEvery = time.Second
	// lateAgain is how long after a line in the log that a unit has commands waiting the next may follow, while it lasts.
	lateAgain = 5 * time.Minute
)

// A lateness says whether a command, which is pending, is answered before it ends.
type lateness uint8

const (
	notLate lateness = iota
	lateUnanswered
	lateAnswered
)

// A waiting is since when a unit has had commands that have waited for longer than they were to, and when that was logged.
type waiting struct {
	since, told int64 // of the loop's clock; 0: it has none
	looked      int64 // when the unit was last looked at: it may stand behind several LUNs
}

// lookLate looks for commands that have waited for too long.
func (l *loop) lookLate(now int64) {
	again := false
	for _, t := range l.targets {
		for i := range t.luns {
			u := t.luns[i].unit
			if u.waiting.looked == now || u.lu.Pendings() == 0 && u.waiting.since == 0 {
				continue
			}
			u.waiting.looked = now
			l.guard(u.lu, func() { u.lu.Overdue(now) })
			l.wantKick(u)
			l.noteLate(t, t.luns[i].num, u, now)
			again = again || u.lu.Pendings() != 0
		}
	}
	if again {
		l.ev.SetTimer(&l.late, now+int64(lateEvery))
	}
}

// noteLate tells of a unit whose commands wait, and when they no longer do.
func (l *loop) noteLate(t *Target, lun uint16, u *unit, now int64) {
	w, late := &u.waiting, u.lu.Late()
	switch {
	case late.Waiting == 0 && w.since == 0:
	case late.Waiting == 0:
		l.s.notes.info(noteLate, "the volume of a LUN answers again", "target", t.name, "lun", lun, "after", time.Duration(now-w.since).Round(time.Second))
		w.since = 0
	case w.since == 0 || now-w.told >= int64(lateAgain):
		if w.since == 0 {
			w.since = now - int64(late.Oldest)
		}
		w.told = now
		l.s.notes.warn(noteLate, "the volume of a LUN does not answer: commands wait for it", "target", t.name, "lun", lun, "commands", late.Waiting,
			"oldest", late.Oldest.Round(time.Second), "answered_not_ready", late.Ended)
	}
}

// TimedOut is scsi.Host's: what the store still has of the command stays with it, and with its buffer.
func (l *loop) TimedOut(c *scsi.Command) bool {
	r, ok := c.Owner.(*record)
	if !ok || r.aborted || r.late != notLate || r.task.Expecting() {
		return false // the session would keep the task for the rest of the initiator's data, and return it
	}
	r.late = lateUnanswered
	l.done = append(l.done, r)
	return true
}

// answerLate answers a command that has had its time, and goes on to keep what the store has of it.
func (l *loop) answerLate(r *record) {
	r.late, r.aborted = lateAnswered, true
	res := l.result(r)
	l.perform(l.tell(r, &res, l.takeActs()))
}
