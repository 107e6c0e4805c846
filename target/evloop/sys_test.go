package evloop

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPollWait has both ways of waiting in epoll end by time and by an event, none of them early.
func TestPollWait(t *testing.T) {
	var ts timespec64
	for name, wait := range map[string]func(int, []unix.EpollEvent, int64) int{
		"pwait2":       func(fd int, evs []unix.EpollEvent, d int64) int { return pollWait(fd, evs, d, &ts) },
		"milliseconds": pollWaitMs,
	} {
		t.Run(name, func(t *testing.T) {
			epfd, wakefd, err := newPoller()
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(epfd)
			defer unix.Close(wakefd)
			evs := make([]unix.EpollEvent, 4)
			const d = 1500 * time.Microsecond
			// A signal of the runtime's may end a wait early: then it is not the time that is tested.
			for start := time.Now(); ; start = time.Now() {
				if n := wait(epfd, evs, int64(d)); n != 0 {
					t.Fatalf("%d events of nothing", n)
				}
				if time.Since(start) >= d {
					break
				}
			}
			signalEventfd(wakefd)
			if n := wait(epfd, evs, forever); n != 1 || eventID(&evs[0]) != 0 {
				t.Errorf("%d events of one write, %+v", n, evs[0])
			}
			if n := wait(epfd, evs, 0); n != 0 {
				t.Errorf("a write was reported twice: %d", n)
			}
			signalEventfd(wakefd)
			if n := pollNow(epfd, evs); n != 1 {
				t.Errorf("%d events of a second write", n)
			}
		})
	}
}

func TestRecommendedProcs(t *testing.T) {
	n := runtime.NumCPU()
	if got := RecommendedProcs(0); got != n+2 {
		t.Errorf("no hot loops on %d CPUs: %d", n, got)
	}
	if got := RecommendedProcs(n + 5); got != n+7 {
		t.Errorf("%d hot loops: %d", n+5, got)
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	if got := SetProcs(n + 1); got != n+3 || runtime.GOMAXPROCS(0) != n+3 {
		t.Errorf("SetProcs(%d) gave %d, is %d", n+1, got, runtime.GOMAXPROCS(0))
	}
	if got := SetProcs(0); got != n+3 {
		t.Errorf("SetProcs lowered it to %d", got)
	}
}

// TestSpin has a loop that polls before it waits hear of everything: events, wake-ups, timers, and who
// waits for the lock.
func TestSpin(t *testing.T) {
	g := newGroup(t)
	woken := make(chan struct{}, 1)
	l := newLoop(t, g, Config{Spin: time.Hour, BlockFor: time.Hour}, &handler{woken: func() { woken <- struct{}{} }})
	fd, f := pair(t)
	addEcho(t, l, fd)
	fired := make(chan struct{}, 1)
	timer := &Timer{F: func(int64) { fired <- struct{}{} }}
	for range 20 {
		roundTrip(t, f, []byte("spin"))
		l.Wake()
		await(t, "Woken", woken)
		l.Lock()
		l.SetTimer(timer, g.Clock()+1e5)
		l.Unlock()
		await(t, "the timer", fired)
	}
	l.Close()
}
