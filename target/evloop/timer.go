package evloop

// Timer calls F once, on the loop with the lock held. The zero Timer with F set is ready for SetTimer. It
// is meant to be embedded in what it times: setting and stopping allocate nothing. It must stay where it
// is in memory while it is set, and belongs to one loop at a time.
type Timer struct {
	F func(now int64)

	at    int64
	place int // in the loop's heap, counted from 1; 0: not set
}

// Set says whether the timer is waiting to fire. On the loop or with the lock held.
func (t *Timer) Set() bool { return t.place != 0 }

// SetTimer has t fire at the time at (of Loop.Now's clock), or soon after: a parked loop's timers may be
// late by ParkSlack, or by a 64th of the time that the loop slept if that is longer (MaxParkSlack at
// most). A timer that is set already is moved. A time that is past fires in the next turn. On
// the loop or with the lock held; it wakes a loop that would sleep past it.
func (l *Loop) SetTimer(t *Timer, at int64) {
	l.timers.set(t, at)
	if at < l.sleepUntil {
		l.notifyIfAsleep()
	}
}

// StopTimer takes t back; it is fine if t is not set. On the loop or with the lock held, after which F is
// not called.
func (l *Loop) StopTimer(t *Timer) { l.timers.stop(t) }

// runTimers fires what is due. A timer set anew by its F to a time already past fires in the next turn.
func (l *Loop) runTimers() {
	for n := len(l.timers); n > 0 && l.timers.next() <= l.now; n-- {
		t := l.timers[0]
		l.timers.stop(t)
		l.worked, l.dirty = true, true
		l.stats.TimersFired++
		t.F(l.now)
	}
}

// timerHeap is a binary heap by time; each timer knows its place.
type timerHeap []*Timer

// next is when the earliest timer is due; forever if none is set.
func (h timerHeap) next() int64 {
	if len(h) == 0 {
		return forever
	}
	return h[0].at
}

// set gives t its place for the time at, whether it has one already or not.
func (h *timerHeap) set(t *Timer, at int64) {
	t.at = at
	if t.place == 0 {
		*h = append(*h, t)
		t.place = len(*h)
	}
	h.fix(t.place - 1)
}

// stop takes t out, if it is in.
func (h *timerHeap) stop(t *Timer) {
	if t.place == 0 {
		return
	}
	s, i, last := *h, t.place-1, len(*h)-1
	s.swap(i, last)
	s[last] = nil
	*h = s[:last]
	t.place = 0
	if i < last {
		h.fix(i)
	}
}

// fix moves the timer at i to where its time belongs.
func (h timerHeap) fix(i int) {
	if !h.down(i) {
		h.up(i)
	}
}

func (h timerHeap) swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i+1, j+1
}

func (h timerHeap) up(i int) {
	for i > 0 {
		p := (i - 1) / 2
		if h[p].at <= h[i].at {
			return
		}
		h.swap(i, p)
		i = p
	}
}

func (h timerHeap) down(i int) (moved bool) {
	for {
		c := 2*i + 1
		if c >= len(h) {
			return moved
		}
		if c+1 < len(h) && h[c+1].at < h[c].at {
			c++
		}
		if h[i].at <= h[c].at {
			return moved
		}
		h.swap(i, c)
		i, moved = c, true
	}
}
