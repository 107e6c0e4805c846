package scsi

import (
	"slices"

	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// The task set of an LU (SAM-5 §8): one for all nexuses (TST is 0), with SIMPLE, ORDERED and HEAD OF QUEUE commands. Nothing
// of it is touched while all commands are SIMPLE and have their data: then whatever comes is enabled at once, and the range
// index alone says who waits for whom.
//
// A command is in the set from the moment when all its data is there. Before, it is only its own nexus's: a younger command of
// that nexus keeps its place behind it where their order can be told (they overlap, or one is not SIMPLE), but no other nexus
// waits for an initiator to send its data. None could tell: what has not been answered may as well have come later.
//
// From there on a command is enabled, or dormant until what it must let go ahead has ended:
//
//   - SIMPLE waits for every HEAD OF QUEUE command and for the older ORDERED ones,
//   - ORDERED waits for every HEAD OF QUEUE command and for all older ones,
//   - HEAD OF QUEUE waits for nobody; only the range index may keep it from blocks that others are using.
//
// The dormant are released in order of arrival, since each that waits keeps those behind it waiting. Enabled commands wait for
// enabled ones only, so nobody waits in a circle.
//
// An aborted command has left the set, also when the store still has its write: ORDERED commands do not wait for it, so that a
// store that never answers holds nothing up for longer than it takes an initiator to abort. The range index keeps what overlaps
// the write in doubt behind it, whatever its attribute: the data is right, and nothing else of the order could still be seen.
//
// QUEUE ALGORITHM MODIFIER is 0: overlapping SIMPLE commands of one nexus take effect in their order.
type taskSet struct {
	gate    int // commands in the set that are not SIMPLE, and the dormant; 0: whatever is SIMPLE may go on at once
	heads   int // HEAD OF QUEUE
	ordered int // ORDERED and enabled: at most one
	parked  int // dormant
	held    int // behind one of their own nexus: see NexusLU.early
	dormant queue
}

// Await says that Execute of c, which Prepare let through, comes later: its data does, or there is no room yet for what it
// reads. c keeps its place among the commands of its nexus. Execute or Abort must follow.
func (lu *LU) Await(c *Command) {
	if n := c.Nexus; n != nil {
		n.early = append(n.early, c)
		c.state = awaiting
	}
}

// enter takes c, all of whose data is there, into the task set, or leaves it behind those of its nexus that are not in it yet.
func (lu *LU) enter(c *Command) Outcome {
	n := c.Nexus
	if n != nil && len(n.early) != 0 {
		if c.state == awaiting && !lu.recheck(c) {
			lu.unawait(c)
			return Done
		}
		at := slices.Index(n.early, c)
		if at < 0 {
			at = len(n.early)
		}
		if behind(c, n.early[:at]) {
			switch {
			case c.NoWait:
				return WouldBlock
			case len(lu.pending) >= lu.maxQueue:
				lu.unawait(c)
				return lu.full(c)
			case at == len(n.early):
				n.early = append(n.early, c)
			}
			lu.park(c, held)
			return Pending
		}
	}
	waited := c.state == awaiting
	out := lu.enterSet(c)
	if waited && out != WouldBlock {
		lu.unawait(c)
	}
	return out
}

// enterSet enables c or lets it be dormant.
func (lu *LU) enterSet(c *Command) Outcome {
	switch {
	case c.Attr == sam.HeadOfQueue, lu.set.parked == 0 && lu.mayRun(c):
		return lu.run(c)
	case c.NoWait:
		return WouldBlock
	case len(lu.pending) >= lu.maxQueue:
		return lu.full(c)
	}
	lu.park(c, dormant)
	lu.set.dormant.push(c)
	return Pending
}

// behind reports whether c has to let one of the older commands of its nexus go ahead.
func behind(c *Command, older []*Command) bool {
	for _, e := range older {
		switch {
		case c.Attr == sam.HeadOfQueue:
			return false
		case c.Attr == sam.Ordered || e.Attr > sam.Simple:
			return true
		case c.span.kind != noSpan && c.span.kind != flushSpan && e.span.kind != noSpan && e.span.kind != flushSpan &&
			(c.span.kind == writeSpan || e.span.kind == writeSpan) && c.span.first <= e.span.last && e.span.first <= c.span.last:
			return true
		}
	}
	return false
}

// mayRun reports whether c, which is not HEAD OF QUEUE and has no dormant command ahead of it, may be enabled.
func (lu *LU) mayRun(c *Command) bool {
	s := &lu.set
	if c.Attr == sam.Ordered {
		return len(lu.pending)-lu.doubts-s.parked-s.held == 0
	}
	return s.heads == 0 && s.ordered == 0
}

// park makes c pending without a place in the range index.
func (lu *LU) park(c *Command, state cmdState) {
	c.pos = int32(len(lu.pending))
	lu.pending = append(lu.pending, c)
	if c.Nexus != nil {
		c.Nexus.pending++
	}
	if c.state = state; state == held {
		lu.set.held++
		c.Nexus.held++
		return
	}
	lu.set.parked++
	lu.set.gate++
}

// join counts c, which is pending and enabled and not SIMPLE.
func (s *taskSet) join(c *Command) {
	s.gate++
	if c.Attr == sam.HeadOfQueue {
		s.heads++
	} else {
		s.ordered++
	}
}

// leave is told of every command that leaves the pending ones, or is in doubt from now on.
func (s *taskSet) leave(c *Command) {
	switch {
	case c.state == held:
		s.held--
		c.Nexus.held--
	case c.state == dormant:
		s.parked--
		s.gate--
	case c.Attr <= sam.Simple:
	case c.Attr == sam.HeadOfQueue:
		s.gate--
		s.heads--
	default:
		s.gate--
		s.ordered--
	}
}

// unawait forgets the place that c has among the commands of its nexus, and lets those behind it be looked at.
func (lu *LU) unawait(c *Command) {
	n := c.Nexus
	if i := slices.Index(n.early, c); i >= 0 {
		n.early = slices.Delete(n.early, i, i+1)
	}
	if c.state == awaiting {
		c.state = idle
	}
	if n.held != 0 && !n.stirred {
		n.stirred = true
		lu.stirred = append(lu.stirred, n)
		lu.wakeUp()
	}
}

// admit goes on with commands that had to let others go ahead, and reports whether there were any. It is called on the loop
// after something has ended.
func (lu *LU) admit() bool {
	found := false
	for c := lu.nextHeld(); c != nil; c = lu.nextHeld() {
		found = true
		lu.unawait(c)
		lu.untrack(c)
		if !lu.recheck(c) || lu.enterSet(c) == Done {
			lu.host.Done(c)
		}
	}
	for c := lu.set.dormant.head; c != nil && lu.mayRun(c); c = lu.set.dormant.head {
		found = true
		lu.set.dormant.pop()
		lu.untrack(c)
		if !lu.recheck(c) || lu.run(c) == Done {
			lu.host.Done(c)
		}
	}
	return found
}

// recheck looks again at what Prepare has seen: of the disk (refit), and of the mode parameters, which may have changed while c waited: a write that is
// carried out after the volatile cache was turned off is durable when it ends, and none is after the medium was write-protected.
func (lu *LU) recheck(c *Command) bool {
	if c.epoch != lu.epoch {
		return lu.refit(c)
	}
	if c.span.kind != writeSpan {
		return true
	}
	if lu.protects(c) {
		return lu.writeProtected(c)
	}
	lu.durable(c)
	return true
}

// nextHeld returns a command that is not behind one of its own nexus any more; nil: there is none. It looks only where one has gone
// ahead since: an initiator that never sends its data costs the others nothing.
func (lu *LU) nextHeld() *Command {
	for len(lu.stirred) != 0 {
		last := len(lu.stirred) - 1
		n := lu.stirred[last]
		for i, c := range n.early {
			if c.state == held && !behind(c, n.early[:i]) {
				return c
			}
		}
		n.stirred = false
		lu.stirred[last] = nil
		lu.stirred = lu.stirred[:last]
	}
	return nil
}

// wakeUp lets the loop go on with what waits, where Done must not be called from.
func (lu *LU) wakeUp() {
	if !lu.woken {
		lu.woken = true
		lu.wake.Owner = lu
		lu.completer.Complete(&lu.wake)
	}
}
