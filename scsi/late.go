package scsi

import (
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// What becomes of commands whose store does not answer. A store waits for its engine for as long as that is away; how long an initiator is to
// wait is the LU's to say. The host looks once in a while (Overdue), so that no command pays for a timer or a clock of its own.

// A TimeoutPolicy says what becomes of a command that has waited for DiskConfig.Timeout.
type TimeoutPolicy uint8

// The policies.
const (
	// TimeoutWait lets it wait on: it is counted and told of.
	TimeoutWait TimeoutPolicy = iota
	// TimeoutError ends it NOT READY. What the store has of it stays the store's: a write is in doubt until the store ends it, as after Abort. Where
	// others may write the volume past this LU (AbortNeedsEnd) a write that the store has waits on nevertheless.
	TimeoutError
)

// DefaultTimeout is that of DiskConfig.Timeout: as long as Linux and Windows give a command, at which they would abort it.
const DefaultTimeout = 30 * time.Second

// lateUnit is what times are kept in: 31 bits are 6 years.
const lateUnit = 100 * time.Millisecond

// A Lateness tells of the commands that have waited for longer than DiskConfig.Timeout, as the last call of Overdue has found them.
type Lateness struct {
	Waiting int           // there now, those that were aborted or answered and that the store still has included
	Oldest  time.Duration // how long the first of these has waited
	Total   uint64        // there have been
	Ended   uint64        // of Total, those that TimeoutError has ended
}

// Late returns what the last call of Overdue has found.
func (lu *LU) Late() Lateness { return lu.late }

// Pendings returns how many commands are pending, those in doubt included.
func (lu *LU) Pendings() int { return len(lu.pending) }

// Overdue looks for commands that the store has not ended in time, and does with them as DiskConfig.OnTimeout says. It is called on the loop every
// second or so while there are Pendings, outside of the LU's code; now is of a clock of the host's, in ns. A command's
// time begins when it is first seen here: after it has become pending, or its next request has got to the store.
func (lu *LU) Overdue(now int64) {
	limit := lu.cfg.Timeout
	if limit == 0 {
		limit = DefaultTimeout
	}
	tick := uint32(now/int64(lateUnit)) + 1
	lu.late.Waiting, lu.late.Oldest = 0, 0
	ended := false
	// From the end: what is taken out has the last one put in its place.
	for i := len(lu.pending) - 1; i >= 0; i-- {
		c := lu.pending[i]
		if c.yielded || c.state == held || c.state == persisting {
			continue // it waits for the loop, for data from its initiator, for the saved state
		}
		if c.since == 0 {
			c.since = tick
		}
		age := time.Duration(int32(tick-c.since)) * lateUnit
		if age < limit {
			continue
		}
		if !c.late {
			c.late = true
			lu.late.Total++
		}
		if lu.cfg.OnTimeout == TimeoutError && lu.expire(c) {
			ended = true
			if c.state == idle {
				continue
			}
		}
		lu.late.Waiting++
		lu.late.Oldest = max(lu.late.Oldest, age)
	}
	if ended {
		lu.drain()
		lu.Kick()
	}
}

// expire ends c for its initiator, if that can be.
func (lu *LU) expire(c *Command) bool {
	switch {
	case c.state == inDoubt:
		return false // nobody waits for it
	case c.state != atStore:
		lu.timedOut(c)
		if c.state == queued {
			lu.ready.remove(c)
		} else if c.state == dormant {
			lu.set.dormant.remove(c)
		}
		lu.untrack(c)
		lu.host.Done(c)
	case c.span.kind == writeSpan && lu.AbortNeedsEnd() || !lu.host.TimedOut(c):
		return false
	default:
		lu.timedOut(c)
		lu.doubt(c)
	}
	lu.late.Ended++
	return true
}

// timedOut makes the answer of c what initiators try again on with pauses, as for an engine that is away: it may be there again the next
// time. What an earlier write may still do is done before that, since they overlap.
func (lu *LU) timedOut(c *Command) {
	c.fail(sense.Data{Key: sense.NotReady, Code: sense.BecomingReady})
}
