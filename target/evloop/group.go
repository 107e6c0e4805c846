package evloop

import (
	"fmt"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Tuning of parking.
const (
	// ParkSlack is how late a parked loop's timer may be, or a 64th of the time that the loop sleeps if
	// that is longer, up to MaxParkSlack: so that many loops' timers are served by one wake-up of the
	// parking thread.
	ParkSlack     = time.Millisecond
	MaxParkSlack  = time.Second
	parkSlackPart = 64
	// maxBlocking bounds how many loops wait in a thread of their own at once; the rest park. It
	// bounds the process's threads when very many loops wake at the same time.
	maxBlocking = 32
)

// Group is what the loops of a process share: the clock and the parking thread. A process has one.
type Group struct {
	base     time.Time // the clock's zero
	epfd     int       // of the loops' epoll descriptors, each EPOLLONESHOT, armed while parked
	wakefd   int
	blocking atomic.Int32
	stopped  chan struct{}

	mu         sync.Mutex
	loops      []parkSlot
	free       []int
	deadlines  timerHeap // of parked loops, and of some that are awake again
	due        []*Loop   // whose deadline came
	sleepUntil int64     // of the parking thread's wait
	stop       bool
}

type parkSlot struct {
	l   *Loop
	gen uint32
}

// NewGroup makes a group and starts its parking thread. Close ends it.
func NewGroup() (*Group, error) {
	epfd, wakefd, err := newPoller()
	if err != nil {
		return nil, fmt.Errorf("evloop: making the parking thread: %w", err)
	}
	g := &Group{base: time.Now(), epfd: epfd, wakefd: wakefd, stopped: make(chan struct{}), sleepUntil: forever}
	go g.run()
	return g, nil
}

// Close closes the loops that are left, and ends the parking thread. Not on a loop, and without a lock.
func (g *Group) Close() error {
	g.mu.Lock()
	if g.stop {
		g.mu.Unlock()
		<-g.stopped
		return nil
	}
	g.stop = true
	var left []*Loop
	for i := range g.loops {
		if l := g.loops[i].l; l != nil {
			left = append(left, l)
		}
	}
	g.mu.Unlock()
	for _, l := range left {
		l.Close()
	}
	signalEventfd(g.wakefd)
	<-g.stopped
	unix.Close(g.wakefd)
	unix.Close(g.epfd)
	return nil
}

// Clock is the time in nanoseconds since the group was made: monotonic, the clock of Loop.Now and of
// timers. From any goroutine.
func (g *Group) Clock() int64 { return int64(time.Since(g.base)) }

// adopt enters a new loop into the table and, not armed, into the parking epoll.
func (g *Group) adopt(l *Loop) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stop {
		return ErrClosed
	}
	var i int
	if n := len(g.free); n > 0 {
		i = g.free[n-1]
		g.free = g.free[:n-1]
	} else {
		i = len(g.loops)
		g.loops = append(g.loops, parkSlot{})
	}
	s := &g.loops[i]
	s.gen++
	ev := makeID(i, s.gen).event(unix.EPOLLONESHOT)
	if err := unix.EpollCtl(g.epfd, unix.EPOLL_CTL_ADD, l.epfd, &ev); err != nil {
		g.free = append(g.free, i)
		return err
	}
	s.l, l.parkIndex = l, i
	l.parkTimer.F = func(int64) { g.due = append(g.due, l) }
	return nil
}

// disown takes a loop out, before its epoll descriptor is closed.
func (g *Group) disown(l *Loop) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.deadlines.stop(&l.parkTimer)
	var ev unix.EpollEvent
	_ = unix.EpollCtl(g.epfd, unix.EPOLL_CTL_DEL, l.epfd, &ev)
	g.loops[l.parkIndex].l = nil
	g.free = append(g.free, l.parkIndex)
}

// beginBlocking asks for leave to wait in a thread of one's own.
func (g *Group) beginBlocking() bool {
	if g.blocking.Add(1) <= maxBlocking {
		return true
	}
	g.blocking.Add(-1)
	return false
}

func (g *Group) endBlocking() { g.blocking.Add(-1) }

// park has the parking thread wake l when its epoll descriptor is ready or at the deadline. l's state is
// parked already, so whatever was ready before is reported at once.
func (g *Group) park(l *Loop, deadline int64) {
	g.mu.Lock()
	if deadline == forever {
		g.deadlines.stop(&l.parkTimer)
	} else {
		g.deadlines.set(&l.parkTimer, deadline)
	}
	sooner := deadline < g.sleepUntil
	if sooner {
		g.sleepUntil = deadline
	}
	ev := makeID(l.parkIndex, g.loops[l.parkIndex].gen).event(unix.EPOLLIN | unix.EPOLLONESHOT)
	g.mu.Unlock()
	if err := unix.EpollCtl(g.epfd, unix.EPOLL_CTL_MOD, l.epfd, &ev); err != nil {
		// Both descriptors are ours and open, so it cannot be; and a loop that nobody wakes must not be.
		panic(fmt.Sprintf("evloop: parking loop %s: %v", l.cfg.Name, err))
	}
	if sooner {
		signalEventfd(g.wakefd)
	}
}

// coarse puts a deadline that is so far off to the next point of a grid that all loops share. The grid's
// width is a power of two, so that coarser grids are parts of finer ones.
func coarse(deadline, off int64) int64 {
	slack := min(max(off/parkSlackPart, int64(ParkSlack)), int64(MaxParkSlack))
	width := int64(1) << (bits.Len64(uint64(slack)) - 1)
	if deadline > forever-width {
		return forever
	}
	return (deadline + width - 1) &^ (width - 1)
}

// run is the parking thread: the one goroutine that waits for all loops that are idle, and runs their
// first turn when one has something to do.
func (g *Group) run() {
	defer close(g.stopped)
	events := make([]unix.EpollEvent, pollBatch)
	var ts timespec64
	var due []*Loop
	for {
		g.mu.Lock()
		if g.stop && len(g.free) == len(g.loops) {
			g.mu.Unlock()
			return
		}
		g.sleepUntil = g.deadlines.next()
		d := g.sleepUntil
		g.mu.Unlock()
		if d != forever {
			d = max(d-g.Clock(), 0)
		}
		n := pollWait(g.epfd, events, d, &ts)

		now := g.Clock()
		g.mu.Lock()
		for i := range events[:n] {
			if id := eventID(&events[i]); id != 0 {
				if s := &g.loops[id.slot()]; s.l != nil && s.gen == id.gen() {
					g.due = append(g.due, s.l)
				}
			}
		}
		for g.deadlines.next() <= now {
			t := g.deadlines[0]
			g.deadlines.stop(t)
			t.F(now)
		}
		due, g.due = g.due, due[:0]
		g.mu.Unlock()
		woken := false
		for i, l := range due {
			woken = l.serveParked() || woken
			due[i] = nil
		}
		if woken {
			// The loops just woken sit on this P; let them run before it goes into the next wait.
			runtime.Gosched()
		}
	}
}
