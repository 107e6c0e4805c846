package evloop

import "time"

// notify asks something of the loop and wakes it if it sleeps. Whoever takes state to awake does the
// waking, so that it is done once a sleep.
func (l *Loop) notify(ask uint32) {
	if l.pending.Load()&ask == 0 {
		l.pending.Or(ask)
	}
	switch l.state.Load() {
	case blocked:
		if l.state.CompareAndSwap(blocked, awake) {
			l.signals.Add(1)
			l.wakeMu.Lock()
			if l.wakefd >= 0 {
				signalEventfd(l.wakefd)
			}
			l.wakeMu.Unlock()
		}
	case parked:
		if l.wakeParked() {
			l.signals.Add(1)
		}
	}
}

func (l *Loop) notifyIfAsleep() {
	if l.state.Load() != awake {
		l.notify(askLook)
	}
}

// wakeParked ends the sleep of a parked loop, if it is parked.
func (l *Loop) wakeParked() bool {
	if !l.state.CompareAndSwap(parked, awake) {
		return false
	}
	l.unpark <- struct{}{}
	return true
}

// sleep waits for something to do, without the lock, and returns how many events it brought.
func (l *Loop) sleep() (n int) {
	l.sleepUntil = l.timers.next()
	now := l.g.Clock()
	if l.sleepUntil <= now {
		return 0
	}
	l.stats.Busy += time.Duration(now - l.awakeAt)
	l.asleep = true
	if l.cfg.Spin > 0 && l.warm {
		n = l.spin(now)
		now = l.g.Clock()
		if n > 0 || l.pending.Load() != 0 || l.sleepUntil <= now {
			l.awakeAt, l.asleep = now, false
			return n
		}
	}
	d := min(l.sleepUntil-now, int64(l.cfg.BlockFor))
	if d > 0 && (l.warm || d < int64(l.cfg.BlockFor)) && l.g.beginBlocking() {
		l.stats.BlockingWaits++
		l.state.Store(blocked)
		l.mu.Unlock()
		if l.pending.Load() == 0 {
			n = pollWait(l.epfd, l.events, d, &l.ts)
		}
		l.state.Store(awake)
		l.g.endBlocking()
		l.warm = n > 0
		l.mu.Lock()
	} else {
		l.parkUnlock(now)
		<-l.unpark
		l.warm = l.g.Clock()-l.parkedAt < int64(l.cfg.BlockFor)
		l.mu.Lock()
	}
	l.awakeAt, l.asleep = l.g.Clock(), false
	l.lastWait = l.awakeAt
	return n
}

// parkUnlock parks the loop, and lets go of the lock only when the parking thread has it in its care: so
// the deadline left there is the latest one, whoever runs the loop next. Somebody may have woken the
// loop again when this returns.
func (l *Loop) parkUnlock(now int64) {
	l.stats.Parks++
	l.parkedAt = now
	l.sleepUntil = coarse(l.sleepUntil, l.sleepUntil-now)
	l.state.Store(parked)
	if l.pending.Load() == 0 || !l.wakeParked() {
		l.g.park(l, l.sleepUntil)
	}
	l.mu.Unlock()
}

// serveParked is the parking thread's answer to an event or a deadline of a parked loop. Of a loop that
// parked a while ago it runs one turn itself, while the loop's goroutine goes on waiting, and parks it
// again: a keepalive or a timer of an idle loop then costs no switch to another goroutine and no wake-up
// of another thread, most of what it would cost. A loop that has something to do again so soon, or has
// more to do than one turn, or whose lock somebody holds, is woken instead.
func (l *Loop) serveParked() (woken bool) {
	if !l.state.CompareAndSwap(parked, awake) {
		return false
	}
	now := l.g.Clock()
	if now-l.parkedAt < int64(l.cfg.BlockFor) || !l.mu.TryLock() {
		l.unpark <- struct{}{}
		return true
	}
	asks := l.pending.Swap(0)
	if asks&askStop == 0 {
		l.stats.Served++
		l.serving = true
		l.turn(asks, 0)
		l.serving = false
		l.sleepUntil = l.timers.next()
		end := l.g.Clock()
		l.stats.Busy += time.Duration(end - now)
		if l.queue.n == 0 && l.sleepUntil-end > int64(l.cfg.BlockFor) {
			l.parkUnlock(end)
			return false
		}
	} else {
		l.pending.Or(asks)
	}
	l.awakeAt = now
	l.mu.Unlock()
	l.unpark <- struct{}{}
	return true
}

// spin polls without a wait for as long as Config.Spin, without the lock: until there is an event, or
// somebody asks something.
func (l *Loop) spin(now int64) (n int) {
	end := min(now+int64(l.cfg.Spin), l.sleepUntil)
	l.state.Store(spinning)
	l.mu.Unlock()
	for n == 0 && l.pending.Load() == 0 && l.g.Clock() < end {
		n = pollNow(l.epfd, l.events)
	}
	l.mu.Lock()
	l.state.Store(awake) // only now: until here others changed things with the lock, and must say so
	return n
}
