package evloop

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestTimerHeap holds the heap against a sorted list under random sets, moves and stops.
func TestTimerHeap(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var h timerHeap
	timers := make([]Timer, 50)
	for range 20000 {
		tm := &timers[rnd.IntN(len(timers))]
		if rnd.IntN(3) == 0 {
			h.stop(tm)
		} else {
			h.set(tm, rnd.Int64N(100))
		}
		want := forever
		n := 0
		for i := range timers {
			if timers[i].Set() {
				n++
				want = min(want, timers[i].at)
				if h[timers[i].place-1] != &timers[i] {
					t.Fatal("a timer does not know its place")
				}
			}
		}
		if h.next() != want || len(h) != n {
			t.Fatalf("next at %d of %d timers, want %d of %d", h.next(), len(h), want, n)
		}
	}
}

// TestTimerOrder fires timers in the order of their times, none early.
func TestTimerOrder(t *testing.T) {
	g := newGroup(t)
	l := newLoop(t, g, Config{}, nil)
	done := make(chan struct{})
	rnd := rand.New(rand.NewPCG(3, 4))
	var order []int64
	timers := make([]Timer, 100)
	l.Lock()
	start := g.Clock()
	for i := range timers {
		at := start + rnd.Int64N(10e6)
		timers[i].F = func(now int64) {
			if now < at {
				t.Errorf("fired %d ns early", at-now)
			}
			if order = append(order, at); len(order) == len(timers)-1 {
				close(done)
			}
		}
		l.SetTimer(&timers[i], at)
	}
	l.StopTimer(&timers[50])
	l.StopTimer(&timers[50])
	l.Unlock()
	await(t, "the last timer", done)
	l.Close()
	if !slices.IsSorted(order) {
		t.Error("timers fired out of order")
	}
	if s := l.Stats(); s.TimersFired != 99 || s.Timers != 0 {
		t.Errorf("%+v", s)
	}
}

// TestTimerMovedWhileAsleep sets a timer sooner than the one that the loop sleeps for, in each kind of
// sleep.
func TestTimerMovedWhileAsleep(t *testing.T) {
	for name, cfg := range map[string]Config{"parked": {BlockFor: -1}, "blocked": {BlockFor: 1e12}} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t)
			l := newLoop(t, g, cfg, nil)
			fired := make(chan struct{}, 1)
			timer := &Timer{F: func(int64) { fired <- struct{}{} }}
			fd, f := pair(t)
			addEcho(t, l, fd)
			for range 5 {
				roundTrip(t, f, []byte("x"))
				roundTrip(t, f, []byte("y"))
				l.Lock()
				l.SetTimer(timer, g.Clock()+int64(time.Hour))
				l.Unlock()
				awaitAsleep(t, l)
				l.Lock()
				l.SetTimer(timer, g.Clock()+1e6)
				l.Unlock()
				await(t, "the timer", fired)
			}
			l.Close()
		})
	}
}

// TestTimersOfManyLoops serves the timers of many parked loops from the one parking thread.
func TestTimersOfManyLoops(t *testing.T) {
	const loops, rounds = 100, 5
	g := newGroup(t)
	done := make(chan struct{}, loops)
	for i := range loops {
		l := newLoop(t, g, Config{BlockFor: -1}, nil)
		n := 0
		timer := &Timer{}
		due := g.Clock() + int64(i%7)*1e6
		timer.F = func(now int64) {
			if now < due {
				t.Errorf("loop %d: %d ns early", i, due-now)
			}
			if n++; n == rounds {
				done <- struct{}{}
				return
			}
			due = now + int64(1+i%5)*1e6
			l.SetTimer(timer, due)
		}
		l.Lock()
		l.SetTimer(timer, due)
		l.Unlock()
	}
	for range loops {
		await(t, "a loop's last timer", done)
	}
}

// TestTimerSetAnewAtOnce has a timer that is always due not keep the turn for itself.
func TestTimerSetAnewAtOnce(t *testing.T) {
	g := newGroup(t)
	l := newLoop(t, g, Config{}, nil)
	timer := &Timer{}
	timer.F = func(now int64) { l.SetTimer(timer, now) }
	fd, f := pair(t)
	addEcho(t, l, fd)
	l.Lock()
	l.SetTimer(timer, 0)
	l.Unlock()
	roundTrip(t, f, []byte("beside the timer"))
	l.Close()
}

// TestCoarse holds the grid's promise: never early, and late by no more than the slack.
func TestCoarse(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	for range 10000 {
		now, off := rnd.Int64N(1<<50), rnd.Int64N(1<<rnd.IntN(50))
		late := coarse(now+off, off) - (now + off)
		if late < 0 || late > min(max(int64(ParkSlack), off/parkSlackPart), int64(MaxParkSlack)) {
			t.Fatalf("%d ns ahead at %d: late by %d ns", off, now, late)
		}
	}
	if coarse(forever, forever) != forever || coarse(forever-1, forever-1) != forever {
		t.Error("forever is not for ever")
	}
	// A thousand deadlines, 5 s ahead and spread over 5 s, share few points.
	points := map[int64]bool{}
	for i := range int64(1000) {
		points[coarse(i*5e6+5e9, 5e9)] = true
	}
	if len(points) > 80 {
		t.Errorf("%d wake-ups for 1000 deadlines in 5 s", len(points))
	}
}
