package evloop

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Tuning. What was measured stands in doc.go.
const (
	// DefaultMaxTurn bounds the time of a turn: how long an admin call may have to wait for the lock, and
	// how long a busy descriptor keeps others from being asked for. Beside a loop that never sleeps Lock
	// takes 90 µs at most at the median and 200 µs at p99.
	DefaultMaxTurn = 200 * time.Microsecond
	// DefaultMaxTurnWork bounds the units of work (PDUs) of a turn.
	DefaultMaxTurnWork = 64
	// DefaultBlockFor is how long a loop under load waits in its own thread before it parks. Waiting
	// there, a request at a time costs what a bare epoll loop costs (11-12 µs of CPU); through the
	// parking thread some 30.
	DefaultBlockFor = 3 * time.Millisecond

	// clockEvery is how many units of work pass between two looks at the clock (25-40 ns) within a turn.
	clockEvery = 8
	// enoughMisses is how many looks for more work, in a row, that found none end the looking; then one turn in tryAgain
	// looks. See worthTrying.
	enoughMisses = 4
	tryAgain     = 16
	// goschedAfter is how long a loop runs without a wait before it lets the Go scheduler have a look.
	goschedAfter = int64(time.Millisecond)
	// maxYields bounds how often a loop stands back for those who wait for its lock, after one turn.
	// Sleeping for 20 µs instead after the first few was not better, even with more hot loops than CPUs.
	maxYields = 16
	// pollBatch is how many events one call of epoll can report; more come in the next.
	pollBatch = 128
)

// ErrClosed is the error of using a loop or group that was closed.
var ErrClosed = errors.New("evloop: closed")

// Handler is the side of the loop's owner. Its methods run on the loop with the lock held.
type Handler interface {
	// Woken is called after one or more calls of Wake.
	Woken()
	// EndTurn is called at the end of each turn in which anything was called, before the lock is let
	// go: the place to kick stores and to flush.
	EndTurn()
}

// Config is a loop's options. Zero values mean the defaults.
type Config struct {
	Name string // for errors

	MaxTurn     time.Duration // DefaultMaxTurn
	MaxTurnWork int           // DefaultMaxTurnWork
	BlockFor    time.Duration // DefaultBlockFor; negative: park at once
	Spin        time.Duration // busy polling before a blocking wait; 0: none

	// Panic is called on the loop with the lock held when a Pollable, a Timer or the Handler
	// panicked; Loop.Current tells the Pollable, if it was one. A Pollable that panicked is out of the
	// loop when Panic returns, whether Panic removed it or not; its descriptor is not closed. Without
	// Panic nothing is recovered and the process ends.
	Panic func(v any, stack []byte)
}

// What a loop is doing, as others see it.
const (
	awake    uint32 = iota
	blocked         // in epoll_pwait2, or about to be
	parked          // waiting for unpark, or about to
	spinning        // polling without the lock; looks at pending by itself
)

// What others ask of a loop.
const (
	askWoken uint32 = 1 << iota // Handler.Woken is to be called
	askLook                     // there is something new: a timer, a Poke
	askStop
)

// Loop is an event loop: one goroutine, one epoll set, one lock. Fields without a note are guarded by mu.
type Loop struct {
	g   *Group
	h   Handler
	cfg Config // set by NewLoop, then read-only

	epfd   int // set by NewLoop; closed, with closed set, when the goroutine has ended
	wakefd int

	mu      sync.Mutex
	waiters atomic.Int32 // who wants mu, the loop itself aside

	pending atomic.Uint32 // asks that the loop has not seen yet
	state   atomic.Uint32
	signals atomic.Uint64
	unpark  chan struct{} // room for one; whoever takes state from parked to awake sends
	wakeMu  sync.Mutex    // guards wakefd against a close between the decision to write and the write
	stopped chan struct{} // closed when the goroutine has ended
	closed  bool

	slots       []slot
	free        int // first free slot, -1: none
	descriptors int
	queue       idQueue
	timers      timerHeap
	sleepUntil  int64 // the deadline of the sleep that began last
	current     ID    // whose Ready is running

	now     int64
	turnEnd int64 // when the turn's time is used up
	work    int   // units spent in this turn
	lookAt  int   // of work: when to look at the clock next
	spends  uint  // calls of Spend, to see who made progress
	spent   bool  // the turn's budget is used up
	worked  bool  // something was done in this turn: no sleep yet
	dirty   bool  // EndTurn is owed
	polled  bool  // epoll was asked in this turn
	misses  uint8 // polls in a row that found nothing
	serving bool  // the parking thread runs this turn
	asleep  bool  // stats.Busy has all there was; else since awakeAt is to be added
	stats   LoopStats

	// Owned by whoever runs the loop, lock or not: its goroutine, or while that is parked whoever took
	// state from parked to awake, until it sends to unpark or parks the loop again.
	events    []unix.EpollEvent
	ts        timespec64
	lastPoll  int64 // when epoll was asked last
	lastWait  int64 // when the loop last gave up its P
	awakeAt   int64 // when the last sleep ended
	parkedAt  int64 // when the loop last parked
	warm      bool  // events come in quick succession: wait in the own thread
	parkIndex int   // in the group's table

	parkTimer Timer // in the group's heap, guarded by g.mu: when the parking thread is to wake the loop
}

// NewLoop makes a loop and starts its goroutine. Close ends it.
func (g *Group) NewLoop(cfg Config, h Handler) (*Loop, error) {
	if cfg.MaxTurn <= 0 {
		cfg.MaxTurn = DefaultMaxTurn
	}
	if cfg.MaxTurnWork <= 0 {
		cfg.MaxTurnWork = DefaultMaxTurnWork
	}
	if cfg.BlockFor == 0 {
		cfg.BlockFor = DefaultBlockFor
	}
	epfd, wakefd, err := newPoller()
	if err != nil {
		return nil, fmt.Errorf("evloop: making loop %s: %w", cfg.Name, err)
	}
	l := &Loop{
		g: g, h: h, cfg: cfg, epfd: epfd, wakefd: wakefd, free: -1,
		unpark: make(chan struct{}, 1), stopped: make(chan struct{}),
		events: make([]unix.EpollEvent, pollBatch), awakeAt: g.Clock(),
	}
	if err := g.adopt(l); err != nil {
		unix.Close(wakefd)
		unix.Close(epfd)
		return nil, fmt.Errorf("evloop: making loop %s: %w", cfg.Name, err)
	}
	go l.run()
	return l, nil
}

// Close stops the loop and closes its own descriptors; those of its Pollables stay their owners' to
// close. It returns when no call is running any more and none will come. From any goroutine but the
// loop's, without the lock.
func (l *Loop) Close() error {
	l.notify(askStop)
	<-l.stopped
	return nil
}

// Lock takes the loop's lock for the admin plane. A busy loop yields to whoever waits here after each
// turn. Never on the loop.
func (l *Loop) Lock() {
	l.waiters.Add(1)
	l.mu.Lock()
	l.waiters.Add(-1)
}

// Unlock lets go of the loop's lock. It does not wake the loop: Wake, SetTimer, Poke and Add do.
func (l *Loop) Unlock() { l.mu.Unlock() }

// Wake has Handler.Woken called soon, from any goroutine, with the lock or without. Calls before Woken
// runs are one. What the caller stored before Wake is seen by Woken.
func (l *Loop) Wake() { l.notify(askWoken) }

// Now is the time of this turn, taken once when it began: nanoseconds of Group.Clock. On the loop or
// with the lock held.
func (l *Loop) Now() int64 { return l.now }

// Current is the Pollable whose Ready is running, or which panicked, during Config.Panic; nil in a timer
// or the Handler. On the loop.
func (l *Loop) Current() Pollable {
	if s := l.lookup(l.current); s != nil {
		return s.p
	}
	return nil
}

// Spend counts n units of work (PDUs) of this turn and says whether the turn's budget is used up, in
// which case the Pollable leaves the rest and returns more. On the loop. Calling it also marks the
// Pollable as one that made progress.
func (l *Loop) Spend(n int) bool {
	l.spends++
	l.work += n
	switch {
	case l.spent:
	case l.work >= l.cfg.MaxTurnWork:
		l.spent = true
	case l.work >= l.lookAt:
		l.lookAt = l.work + clockEvery
		l.spent = l.g.Clock() >= l.turnEnd
	}
	return l.spent
}

// run is the loop's goroutine.
func (l *Loop) run() {
	n := 0 // events that the last wait brought
	l.mu.Lock()
	l.awakeAt = l.g.Clock()
	for {
		asks := l.pending.Load()
		if asks != 0 {
			asks = l.pending.Swap(0)
		}
		if asks&askStop != 0 {
			break
		}
		l.turn(asks, n)
		n = 0
		if !l.worked && l.queue.n == 0 {
			n = l.sleep()
		} else {
			l.stepBack()
		}
	}
	l.shut()
	l.mu.Unlock()
	close(l.stopped)
}

// turn does what there is to do, within the turn's budget.
func (l *Loop) turn(asks uint32, n int) {
	l.now = l.g.Clock()
	l.turnEnd = l.now + int64(l.cfg.MaxTurn)
	l.work, l.lookAt, l.spent = 0, clockEvery, false
	l.worked, l.dirty, l.polled = false, false, n > 0
	l.stats.Turns++
	if n > 0 {
		l.lastPoll = l.now
		l.enqueueEvents(n)
	}
	if l.cfg.Panic == nil {
		l.steps(&asks)
	} else {
		for !l.guardedSteps(&asks) {
		}
	}
	l.stats.Work += uint64(l.work)
}

// guardedSteps says whether steps came to its end. Each step marks what it takes up before it calls
// anybody, so that after a panic the next call goes on behind it.
func (l *Loop) guardedSteps(asks *uint32) (done bool) {
	defer func() {
		if done {
			return
		}
		v := recover()
		l.stats.Panics++
		id := l.current
		l.cfg.Panic(v, debug.Stack())
		l.current = 0
		if l.lookup(id) != nil {
			l.Remove(id)
		}
	}()
	l.steps(asks)
	return true
}

func (l *Loop) steps(asks *uint32) {
	if *asks&askWoken != 0 {
		*asks &^= askWoken
		l.worked, l.dirty = true, true
		l.stats.Wakes++
		l.h.Woken()
	}
	l.runTimers()
	if !l.polled && (l.queue.n == 0 && l.worthTrying(l.misses) || l.queue.n != 0 && l.now-l.lastPoll >= int64(l.cfg.MaxTurn)) {
		l.poll()
	}
	l.runQueue()
	if !l.polled && !l.worked && l.queue.n == 0 && l.worthTrying(l.misses) {
		l.poll()
		l.runQueue()
	}
	if l.dirty {
		l.dirty = false
		l.h.EndTurn()
	}
}

// poll asks epoll without waiting.
func (l *Loop) poll() {
	l.polled, l.lastPoll = true, l.now
	l.stats.Polls++
	n := pollNow(l.epfd, l.events)
	if n > 0 {
		l.enqueueEvents(n)
		l.misses = 0
	} else if l.misses < enoughMisses {
		l.misses++
	}
}

// worthTrying reports whether to look for more work by a system call that does not wait, after so many in a row
// that found none. Where an initiator has one command out there is never any: the wait itself is the better question. Once in a
// while it is tried all the same.
func (l *Loop) worthTrying(misses uint8) bool {
	return misses < enoughMisses || l.stats.Turns%tryAgain == 0
}

// tried notes what a guess found.
func (s *slot) tried(progress bool) {
	if progress {
		s.misses = 0
	} else if s.misses < enoughMisses {
		s.misses++
	}
}

// runQueue calls whoever is in the queue now, each once, until the turn's budget is used up; one at least,
// so that a Handler that uses up the budget does not shut out the descriptors. Who makes progress gets a
// new place at the end.
func (l *Loop) runQueue() {
	for i, n := 0, l.queue.n; i < n && (i == 0 || !l.spent); i++ {
		id := l.queue.pop()
		s := l.lookup(id)
		if s == nil {
			continue // removed meanwhile
		}
		ev, guess := s.pend, s.guess
		s.pend, s.queued, s.guess = 0, false, false
		l.current, l.dirty = id, true
		spends := l.spends
		more := s.p.Ready(ev)
		l.current = 0
		progress := more || l.spends != spends
		s = l.lookup(id) // where it is now, if it is still there
		if guess && s != nil {
			s.tried(progress)
		}
		if progress {
			l.worked = true
			switch {
			case more:
				l.enqueue(id, Readable)
			case s != nil && ev&Readable != 0 && !l.serving && !s.queued && l.worthTrying(s.misses):
				l.enqueue(id, Readable)
				s.guess = true
			}
		}
	}
}

// stepBack lets go of the lock between two turns and takes it again: at once if nobody waits for it,
// else after they have had it.
func (l *Loop) stepBack() {
	l.mu.Unlock()
	if l.waiters.Load() > 0 {
		for i := 0; i < maxYields && l.waiters.Load() > 0; i++ {
			runtime.Gosched()
		}
		l.lastWait = l.now
		l.mu.Lock()
		l.stats.Yields++
		return
	}
	if l.now-l.lastWait >= goschedAfter {
		runtime.Gosched()
		l.lastWait = l.now
	}
	l.mu.Lock()
}

// shut closes the loop's own descriptors.
func (l *Loop) shut() {
	l.closed = true
	l.g.disown(l)
	l.wakeMu.Lock()
	unix.Close(l.wakefd)
	l.wakefd = -1
	l.wakeMu.Unlock()
	unix.Close(l.epfd)
	l.epfd = -1
}
