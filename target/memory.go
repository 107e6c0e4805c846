package target

import (
	"fmt"
	"unsafe"

	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/target/evloop"
)

// How the budget is shared out: see evloop.Share. A session has one, so that initiators that ask for much and take nothing, or announce data
// and send none, leave the others theirs; and a logical unit, so that a store that is silent does not end up with all of
// it, its initiators coming back with new sessions and new writes while the old ones are in doubt.
const (
	// ownArenas is how many arenas a loop has outside the budget: the present one and the spares.
	ownArenas = spareArenas + 1
	// arenaPart bounds what arenas beyond these take: no further ones where less than one part in so many of the budget is free.
	arenaPart = 2
	// shortUnread is how much of what was copied for a connection that takes nothing may wait when memory is short.
	shortUnread = 64 << 10
	// keptFree is what a session may keep by itself without asking: text of the usual length.
	keptFree = 8 << 10
	// waitingBytes is what a command takes that waits in conn.waiting, without any data: task, record, and their places in the lists. Those that
	// have a buffer are bounded by that.
	waitingBytes = int(unsafe.Sizeof(record{})+unsafe.Sizeof(session.Task{})) + 64
)

// lend returns a buffer of n bytes for what se sends or asks for; nil: it has its share, or there is no memory.
func (l *loop) lend(se *sess, n int) *evloop.Buf {
	if !l.pool.May(&se.share, n) {
		return nil
	}
	b := l.pool.Get(n)
	if b != nil && !b.Charge(&se.share) {
		l.pool.Put(b) // another loop was faster
		return nil
	}
	return b
}

// entrust charges r's buffer, if it has one, to the logical unit that it is about to be given to. False: that has its share.
func (r *record) entrust() bool {
	return r.buf == nil || r.ln.unit == nil || r.buf.Charge(&r.ln.unit.share)
}

// newArena makes an arena. Those that a loop has beyond ownArenas, since connections do not take what lies in the others, are the
// budget's; one that headers must go to is made in any case.
func (l *loop) newArena() *arena {
	a := &arena{b: make([]byte, arenaSize)}
	if l.arenas >= ownArenas && !l.short() {
		a.charged = l.s.budget.Take(arenaSize)
		if !a.charged {
			l.pool.Trim()
			a.charged = l.s.budget.Take(arenaSize)
		}
	}
	if !a.charged {
		l.arenas++
	}
	return a
}

// retire keeps an arena that nothing lies in any more for reuse, or lets it go.
func (l *loop) retire(a *arena) {
	switch {
	case a.charged:
		l.s.budget.Give(arenaSize)
	case l.arenas <= ownArenas && len(l.spares) < spareArenas:
		l.spares = append(l.spares, a)
	default:
		l.arenas--
	}
}

// mayPlace reports whether n bytes of data may go straight into the stream: not where that takes an arena for which there is no memory.
func (l *loop) mayPlace(n int) bool {
	if a := l.arena; a != nil && (a.refs == 0 || len(a.b)-a.pos >= n) {
		return true
	}
	return len(l.spares) != 0 || l.arenas < ownArenas || !l.short()
}

// short reports whether memory is short: there is none for another arena.
func (l *loop) short() bool {
	b := l.s.budget
	return b.Used()-int64(l.pool.Kept())+arenaSize > b.Limit()-b.Limit()/arenaPart
}

// keepKept charges what the session keeps by itself (requests ahead of a CmdSN gap, text) to the budget, beyond what every session may.
func (c *conn) keepKept() {
	se := c.se
	now := max(se.s.Kept()-keptFree, 0)
	if se.ended || now == se.kept {
		return
	}
	b := c.l.s.budget
	if now < se.kept {
		b.Give(se.kept - now)
	} else if !b.Take(now - se.kept) {
		c.drop(dropNoMemory, fmt.Sprintf("no memory for %d bytes of requests ahead of a CmdSN gap, or of text", now+keptFree))
		return
	}
	se.kept = now
}

// chargeQueue charges the memory of a queue that is longer than what is kept for reuse to the budget, or gives it back.
func (l *loop) chargeQueue(o *outQueue) bool {
	now := 0
	if n := cap(o.q); n > keepQueue {
		now = n * int(unsafe.Sizeof(outPDU{}))
	}
	switch b := l.s.budget; {
	case now < o.charged:
		b.Give(o.charged - now)
	case now > o.charged && !b.Take(now-o.charged):
		return false
	}
	o.charged = now
	return true
}

// stalled is called when the socket may have taken nothing for Config.SendTimeout.
func (c *conn) stalled(now int64) {
	if c.dead || !c.blocked {
		return
	}
	wait := int64(c.l.s.cfg.SendTimeout)
	if due := c.taken + wait; now < due {
		c.l.ev.SetTimer(&c.stall, due)
		return
	}
	c.drop(dropUnread, fmt.Sprintf("it does not read: of %d bytes that wait for it none was taken for %v", c.out.bytes, c.l.s.cfg.SendTimeout))
}

// shutMemory gives back to the budget what the loop keeps for reuse: it ends.
func (l *loop) shutMemory() {
	l.pool.Shut()
	if a := l.arena; a != nil && a.refs == 0 {
		l.arena = nil
		l.retire(a)
	}
}
