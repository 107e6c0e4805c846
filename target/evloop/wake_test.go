package evloop

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// awaitAsleep waits until the loop sleeps, parked or blocked.
func awaitAsleep(t testing.TB, l *Loop) {
	t.Helper()
	awaitState(t, l, func(s uint32) bool { return s != awake })
}

// awaitParked waits until the loop has parked.
func awaitParked(t testing.TB, l *Loop) {
	t.Helper()
	awaitState(t, l, func(s uint32) bool { return s == parked })
}

func awaitState(t testing.TB, l *Loop, ok func(uint32) bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(l.state.Load()); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("the loop does not go to sleep")
		}
	}
	l.Lock()   // a loop holds its lock until its parking is complete
	l.Unlock() //nolint:staticcheck // waiting for it is the point
}

// TestNoLostWake hands items to the loop one after the other, each only when the one before was taken,
// so that a single lost wake-up stops it all. Short waits make the loop go through all kinds of sleep.
func TestNoLostWake(t *testing.T) {
	const producers, items = 4, 5000
	for name, cfg := range map[string]Config{
		"park":  {BlockFor: -1},
		"short": {BlockFor: 5 * time.Microsecond},
		"long":  {BlockFor: time.Hour},
		"spin":  {Spin: 5 * time.Microsecond, BlockFor: 20 * time.Microsecond},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t)
			var mailbox [producers]atomic.Bool
			var acks [producers]chan struct{}
			for i := range acks {
				acks[i] = make(chan struct{}, 1)
			}
			l := newLoop(t, g, cfg, &handler{woken: func() {
				for i := range mailbox {
					if mailbox[i].Swap(false) {
						acks[i] <- struct{}{}
					}
				}
			}})
			var wg sync.WaitGroup
			for i := range producers {
				wg.Go(func() {
					for range items {
						mailbox[i].Store(true)
						l.Wake()
						select {
						case <-acks[i]:
						case <-time.After(10 * time.Second):
							t.Error("a wake-up was lost")
							return
						}
					}
				})
			}
			wg.Wait()
			l.Close()
			if s := l.Stats(); s.Wakes > producers*items || s.Signals > s.Parks+s.BlockingWaits {
				t.Errorf("more wakes than asked for, or more signals than sleeps: %+v", s)
			}
		})
	}
}

// TestNoLostEvent sends single bytes through loops that park or wait shortly after each.
func TestNoLostEvent(t *testing.T) {
	for name, block := range map[string]time.Duration{"park": -1, "short": 5 * time.Microsecond, "default": 0} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t)
			var wg sync.WaitGroup
			for range 3 {
				l := newLoop(t, g, Config{BlockFor: block}, nil)
				fd, f := pair(t)
				addEcho(t, l, fd)
				wg.Go(func() {
					f.SetDeadline(time.Now().Add(30 * time.Second))
					for range 3000 {
						roundTrip(t, f, []byte{1})
					}
				})
			}
			wg.Wait()
		})
	}
}

// TestCloseRaces has others wake, lock, time and poke a loop while it is closed, from several at once.
func TestCloseRaces(t *testing.T) {
	g := newGroup(t)
	for range 50 {
		l := newLoop(t, g, Config{BlockFor: 20 * time.Microsecond}, nil)
		fd, f := pair(t)
		e := addEcho(t, l, fd)
		f.Write([]byte("x"))
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for range 2 {
			timer := &Timer{F: func(int64) {}}
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					l.Wake()
					l.Lock()
					l.Poke(e.id)
					l.SetTimer(timer, g.Clock()+1e4)
					l.Unlock()
					l.Stats()
				}
			})
		}
		var closers sync.WaitGroup
		for range 2 {
			closers.Go(func() { l.Close() })
		}
		closers.Wait()
		close(stop)
		wg.Wait()
		l.Lock()
		if err := l.Remove(e.id); err != nil {
			t.Errorf("Remove after Close: %v", err)
		}
		l.Unlock()
	}
}

// TestLockBesideAFullLoop takes the lock again and again while the loop never sleeps; a caller that
// holds it keeps the loop out.
func TestLockBesideAFullLoop(t *testing.T) {
	g := newGroup(t)
	l := newLoop(t, g, Config{MaxTurnWork: 1 << 30}, nil)
	inside := 0
	var turns atomic.Uint64
	fd, _ := pair(t)
	l.Lock()
	id, err := l.Add(fd, ready(func(Events) bool {
		turns.Add(1)
		inside++
		for !l.Spend(1) {
		}
		inside--
		return true
	}), Readable)
	if err != nil {
		t.Fatal(err)
	}
	l.Poke(id)
	l.Unlock()
	for range 50 {
		for seen := turns.Load(); turns.Load() == seen; {
			runtime.Gosched() // until the loop is in its next turn
		}
		l.Lock()
		if inside != 0 {
			t.Error("the lock was got in the middle of a turn")
		}
		l.Unlock()
	}
	if s := l.Stats(); s.Yields == 0 {
		t.Errorf("50 locks beside turns of 0.2 ms and the loop never stepped back: %+v", s)
	}
	l.Close()
}

// openFiles counts this process's descriptors of the kinds that loops make.
func openFiles(t *testing.T) (n int) {
	t.Helper()
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dir {
		if s, err := os.Readlink("/proc/self/fd/" + d.Name()); err == nil && strings.HasPrefix(s, "anon_inode:[event") {
			n++
		}
	}
	return n
}

func TestNothingLeaks(t *testing.T) {
	pair(t) // the runtime's own poller is made now, not in between
	fds, goroutines := openFiles(t), runtime.NumGoroutine()
	for range 3 {
		g, err := NewGroup()
		if err != nil {
			t.Fatal(err)
		}
		var loops []*Loop
		for range 40 {
			l := newLoop(t, g, Config{}, nil)
			l.Lock()
			l.SetTimer(&Timer{F: func(int64) {}}, g.Clock()+int64(time.Hour))
			l.Unlock()
			loops = append(loops, l)
		}
		for _, l := range loops {
			awaitParked(t, l)
		}
		if n := openFiles(t) - fds; n != 2+2*40 {
			t.Errorf("%d descriptors for 40 loops, want 82", n)
		}
		for _, l := range loops[:20] {
			l.Close()
		}
		g.mu.Lock()
		if n := len(g.deadlines); n > 20 {
			t.Errorf("%d deadlines of 20 loops", n)
		}
		g.mu.Unlock()
		for range 10 { // these take the places of the closed ones
			newLoop(t, g, Config{}, nil)
		}
		g.Close() // closes the rest
		g.Close()
		for _, l := range loops {
			l.Close()
		}
		if _, err := g.NewLoop(Config{}, &handler{}); !errors.Is(err, ErrClosed) {
			t.Errorf("NewLoop in a closed group: %v", err)
		}
	}
	if n := openFiles(t); n != fds {
		t.Errorf("%d descriptors before, %d after", fds, n)
	}
	// A goroutine that closed its channel may not have ended yet.
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > goroutines; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines before, %d after", goroutines, runtime.NumGoroutine())
		}
	}
}

// TestThreadsAreBounded has more loops under load than may wait in threads of their own.
func TestThreadsAreBounded(t *testing.T) {
	const loops = maxBlocking + 20
	g := newGroup(t)
	var all []*Loop
	var wg sync.WaitGroup
	for range loops {
		l := newLoop(t, g, Config{BlockFor: time.Hour}, nil)
		all = append(all, l)
		fd, f := pair(t)
		addEcho(t, l, fd)
		wg.Go(func() {
			for range 20 {
				roundTrip(t, f, []byte{1})
			}
		})
	}
	wg.Wait()
	inThread, parkedLoops := 0, 0
	for _, l := range all {
		awaitAsleep(t, l)
		if l.state.Load() == blocked {
			inThread++
		} else {
			parkedLoops++
		}
	}
	if inThread > maxBlocking || inThread == 0 || int(g.blocking.Load()) != inThread {
		t.Errorf("%d loops wait in their threads (%d counted), %d are parked; the bound is %d", inThread, g.blocking.Load(), parkedLoops, maxBlocking)
	}
}

// TestPanics has each kind of callback panic: each is reported with a stack, and the loop lives.
func TestPanics(t *testing.T) {
	g := newGroup(t)
	type report struct {
		v     any
		who   Pollable
		stack string
	}
	reports := make(chan report, 10)
	var l *Loop
	boom := ""
	turns := make(chan struct{}, 100)
	l = newLoop(t, g, Config{Panic: func(v any, stack []byte) {
		reports <- report{v, l.Current(), string(stack)}
	}}, &handler{
		woken: func() {
			if boom == "woken" {
				panic("woken")
			}
		},
		endTurn: func() {
			if boom == "endTurn" {
				boom = ""
				panic("endTurn")
			}
			turns <- struct{}{}
		},
	})
	defer l.Close()
	fd, f := pair(t)
	addEcho(t, l, fd)
	fdBad, fBad := pair(t)
	fBad.Write([]byte("x"))
	bad := &panicker{}
	l.Lock()
	id, err := l.Add(fdBad, bad, Readable)
	if err != nil {
		t.Fatal(err)
	}
	l.Unlock()
	expect := func(v string, who Pollable) {
		t.Helper()
		select {
		case r := <-reports:
			if r.v != v || r.who != who || !strings.Contains(r.stack, "evloop.TestPanics") && who == nil {
				t.Errorf("reported %v of %v, want %v of %v; stack:\n%s", r.v, r.who, v, who, r.stack)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("the panic of %s was not reported", v)
		}
	}
	expect("ready", bad)
	await(t, "EndTurn after a panic", turns)
	roundTrip(t, f, []byte("alive"))
	l.Lock()
	if err := l.Remove(id); !errors.Is(err, ErrNotAdded) {
		t.Errorf("who panicked is still in the loop: %v", err)
	}
	boom = "woken"
	l.Unlock()
	l.Wake()
	expect("woken", nil)
	roundTrip(t, f, []byte("alive"))
	l.Lock()
	boom = ""
	l.SetTimer(&Timer{F: func(int64) { panic("timer") }}, 0)
	l.Unlock()
	expect("timer", nil)
	l.Lock()
	boom = "endTurn"
	l.Unlock()
	l.Wake()
	expect("endTurn", nil)
	roundTrip(t, f, []byte("alive"))
	if s := l.Stats(); s.Panics != 4 {
		t.Errorf("%d panics counted, want 4", s.Panics)
	}
}

type panicker struct{}

func (*panicker) Ready(Events) bool { panic("ready") }

// TestServedWhileParked has a parked loop's rare events and timers served without its goroutine, and a
// loop woken when they come in quick succession.
func TestServedWhileParked(t *testing.T) {
	g := newGroup(t)
	l := newLoop(t, g, Config{BlockFor: 1}, nil) // everything is rare
	fd, f := pair(t)
	addEcho(t, l, fd)
	fired := make(chan struct{}, 1)
	timer := &Timer{F: func(int64) { fired <- struct{}{} }}
	awaitParked(t, l)
	before := l.Stats()
	for range 20 {
		roundTrip(t, f, []byte("rare"))
		awaitParked(t, l)
	}
	l.Lock()
	l.SetTimer(timer, g.Clock()+1e7)
	l.Unlock()
	await(t, "the timer", fired)
	awaitParked(t, l)
	s := l.Stats()
	if s.Served-before.Served < 20 || s.Work-before.Work != 20 {
		t.Errorf("20 requests and a timer: %+v, before: %+v", s, before)
	}
	l.Close()

	l = newLoop(t, g, Config{BlockFor: time.Hour}, nil) // everything is quick
	fd, f = pair(t)
	addEcho(t, l, fd)
	for range 20 {
		roundTrip(t, f, []byte("quick"))
	}
	if s := l.Stats(); s.Served != 0 {
		t.Errorf("a loop under load was served by the parking thread: %+v", s)
	}
	l.Close()
}

// TestServedBesideTheLock has a parked loop's event wait for the admin plane without holding up the
// parking thread: another loop is served meanwhile.
func TestServedBesideTheLock(t *testing.T) {
	g := newGroup(t)
	a := newLoop(t, g, Config{BlockFor: -1}, nil)
	b := newLoop(t, g, Config{BlockFor: -1}, nil)
	fdA, fA := pair(t)
	fdB, fB := pair(t)
	addEcho(t, a, fdA)
	addEcho(t, b, fdB)
	awaitParked(t, a)
	awaitParked(t, b)
	a.Lock()
	fA.Write([]byte("x"))
	for range 10 {
		roundTrip(t, fB, []byte("beside"))
	}
	a.Unlock()
	var c [1]byte
	if _, err := fA.Read(c[:]); err != nil || c[0] != 'x' {
		t.Errorf("after the lock: %q, %v", c, err)
	}
}

// TestServedPanics has a callback panic in the turn that the parking thread runs.
func TestServedPanics(t *testing.T) {
	g := newGroup(t)
	caught := make(chan struct{}, 1)
	l := newLoop(t, g, Config{BlockFor: 1, Panic: func(any, []byte) { caught <- struct{}{} }}, nil)
	fd, f := pair(t)
	addEcho(t, l, fd)
	fdBad, fBad := pair(t)
	l.Lock()
	if _, err := l.Add(fdBad, &panicker{}, Readable); err != nil {
		t.Fatal(err)
	}
	l.Unlock()
	awaitParked(t, l)
	fBad.Write([]byte("x"))
	await(t, "the panic", caught)
	roundTrip(t, f, []byte("alive"))
	l.Close()
}

// TestServedHasMore has a descriptor of a parked loop with more to do than one turn, of which epoll knows
// nothing.
func TestServedHasMore(t *testing.T) {
	g := newGroup(t)
	l := newLoop(t, g, Config{BlockFor: -1}, nil)
	fd, f := pair(t)
	left := 0
	l.Lock()
	_, err := l.Add(fd, ready(func(Events) bool {
		var b [1]byte
		if n, _ := unix.Read(fd, b[:]); n == 1 {
			left = 5
		}
		if left == 1 {
			unix.Write(fd, b[:])
		}
		left = max(left-1, 0)
		return left > 0
	}), Readable)
	l.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	f.SetDeadline(time.Now().Add(10 * time.Second))
	for range 10 {
		awaitParked(t, l)
		roundTrip(t, f, []byte{0})
	}
	l.Close()
}
