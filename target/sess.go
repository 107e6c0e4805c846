package target

import (
	"net/netip"
	"time"

	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/target/evloop"
)

// A sess is one normal session of a target: the protocol's state, and what the nexus is at each logical unit. It belongs to
// the target's loop.
type sess struct {
	s     *session.Session
	t     *Target
	user  string // CHAP name, or empty
	sent  string // the initiator's name as it came
	sees  view
	alias string // InitiatorAlias, or empty
	from  netip.AddrPort
	since time.Time
	seq   uint64 // of the target's sessions; it does not change
	flaps flapGuard
	timer evloop.Timer
	armed int64                 // when the timer fires, while it is set
	luns  map[sam.LUN]*lunNexus // those that commands have named
	had   map[sam.LUN]string    // the volumes of those that have since been given another unit, or none
	last  *lunNexus             // the one that the last command named
	share evloop.Share          // of the budget
	kept  int                   // of what s.Kept is, how much the budget was charged
	keep  bool                  // a connection of it is being replaced: it outlives the loss of its last one
	ended bool
}

// A lunNexus is what one nexus is at one LUN.
type lunNexus struct {
	lun   sam.LUN
	unit  *unit // nil: there is no such LUN
	lu    *scsi.LU
	nexus *scsi.NexusLU
	own   LUNStats     // of this nexus
	stats *LUNStats    // own, or of a LUN that is not there the target's
	count *lunCounters // of the LUN
}

// lookup returns the logical unit that lun names for this nexus; for one that is not there, the unit that says so.
func (s *sess) lookup(lun sam.LUN) *lunNexus {
	if s.last != nil && s.last.lun == lun {
		return s.last
	}
	if n, ok := lun.Number(); ok {
		lun = sam.NewLUN(n) // one unit has one nexus here, whichever way the initiator writes its number
	}
	ln := s.luns[lun]
	if ln == nil {
		ln = s.find(lun)
		if ln.unit == nil {
			return ln // not kept: an initiator may ask for any of 2^64
		}
		s.luns[lun] = ln
	}
	s.last = ln
	return ln
}

// by returns a function that says whether a task of s came by such a LUN. A task that the session has refused by itself was never begun
// here; its LUN says where it is.
func (s *sess) by(is func(*lunNexus) bool) func(*session.Task) bool {
	return func(t *session.Task) bool {
		if ln := t.Ref.(*record).ln; ln != nil {
			return is(ln)
		}
		n, ok := t.LUN.Number()
		ln := s.luns[sam.NewLUN(n)]
		return ok && ln != nil && is(ln)
	}
}

// at is by for every LUN of s that lu stands behind.
func (s *sess) at(lu *scsi.LU) func(*session.Task) bool {
	return s.by(func(ln *lunNexus) bool { return ln.lu == lu })
}

// abortBy aborts what came by such LUNs and tells the initiator TASK ABORTED.
func (s *sess) abortBy(is func(*lunNexus) bool) {
	l := s.t.l
	l.perform(s.s.ShowWindow(s.s.AbortTasks(nil, true, s.by(is), l.takeActs())))
}

// detach takes a nexus off its logical unit. What it has counted stays with the LUN.
func (l *loop) detach(ln *lunNexus) {
	ln.own.settle()
	ln.count.past.Add(&ln.own)
	ln.own = LUNStats{}
	l.guard(ln.lu, func() { ln.lu.Detach(ln.nexus) })
}

// arm sets the session's timer to when its state machine wants to be called.
func (s *sess) arm() {
	next := s.s.NextTick()
	if next == 0 || s.ended || s.timer.Set() && s.armed <= next {
		return
	}
	s.armed = next
	s.t.l.ev.SetTimer(&s.timer, next)
}

func (s *sess) tick(now int64) {
	l := s.t.l
	l.perform(s.s.Tick(now, l.takeActs()))
	s.arm()
}

// endSession forgets a session whose connections are gone: an I_T nexus loss at its logical units.
func (l *loop) endSession(s *sess, end ending, why string) {
	if s.ended {
		return
	}
	s.ended = true
	l.ev.StopTimer(&s.timer)
	for lun, ln := range s.luns {
		l.detach(ln)
		delete(s.luns, lun)
	}
	s.last = nil
	t := s.t
	delete(t.sessions, s.s.TSIH)
	if t.byNexus[s.s.Nexus] == s {
		delete(t.byNexus, s.s.Nexus)
	}
	l.s.sessions.Add(-1)
	t.past.Add(&s.s.Counters)
	l.s.tsih.give(s.s.TSIH)
	l.s.budget.Give(s.kept)
	s.kept = 0
	l.s.count.ended[end].Add(1)
	l.notifyLocked(SessionEnded, s, 0, s.from, end.String(), why)
	t.sessionLeft()
}

// dropSession closes a session's connections at once.
func (l *loop) dropSession(s *sess, end ending, why string) {
	for conns := s.s.Conns(); len(conns) != 0; conns = s.s.Conns() {
		conns[0].Ref.(*conn).lost(end, why)
	}
	l.endSession(s, end, why)
}
