package evloop

import "time"

// LoopStats counts what a loop did since it was made.
type LoopStats struct {
	Turns         uint64        // turns with the lock held
	Work          uint64        // units of work, as told to Spend
	Polls         uint64        // epoll asked without waiting
	BlockingWaits uint64        // waits in the loop's own thread
	Parks         uint64        // times handed to the parking thread
	Served        uint64        // turns that the parking thread ran while the loop stayed parked
	Wakes         uint64        // calls of Handler.Woken
	Signals       uint64        // sleeps ended by Wake, a timer set or a Poke from outside: at most one each
	TimersFired   uint64        // timers whose F was called
	Yields        uint64        // turns after which somebody waited for the lock
	Panics        uint64        // panics recovered
	Busy          time.Duration // time awake: not blocked and not parked
	Descriptors   int           // descriptors in the loop now
	Timers        int           // timers set now
}

// Stats takes the loop's lock for a moment. Not on the loop.
func (l *Loop) Stats() LoopStats {
	l.Lock()
	defer l.Unlock()
	s := l.stats
	s.Busy = l.Busy()
	s.Signals = l.signals.Load()
	s.Descriptors, s.Timers = l.descriptors, len(l.timers)
	return s
}

// Busy is how long the loop has been awake until now, a sleep that has not begun yet included: a loop under full load may not
// sleep for minutes. With the lock held.
func (l *Loop) Busy() time.Duration {
	b := l.stats.Busy
	if !l.asleep {
		b += time.Duration(l.g.Clock() - l.awakeAt)
	}
	return b
}
