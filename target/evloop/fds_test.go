package evloop

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// TestStaleEvent has both of two descriptors ready in one batch; the one that is called first removes
// the other and puts a third, which is not ready, into its place.
func TestStaleEvent(t *testing.T) {
	g := newGroup(t)
	done := make(chan struct{})
	l := newLoop(t, g, Config{}, nil)
	fdA, fA := pair(t)
	fdB, fB := pair(t)
	fdC, _ := pair(t)
	fA.Write([]byte("a"))
	fB.Write([]byte("b"))
	var ids [2]ID
	fds := [2]int{fdA, fdB}
	calls := 0
	l.Lock()
	for i := range ids {
		var err error
		ids[i], err = l.Add(fds[i], ready(func(Events) bool {
			calls++
			var b [8]byte
			unix.Read(fds[i], b[:])
			other := ids[1-i]
			if err := l.Remove(other); err != nil {
				t.Errorf("removing the other: %v", err)
			}
			id, err := l.Add(fdC, ready(func(Events) bool {
				t.Error("an event of the removed descriptor reached the one in its place")
				return false
			}), Readable)
			if err != nil || id == other || id.slot() != other.slot() {
				t.Errorf("the third descriptor: id %#x after %#x, %v", id, other, err)
			}
			if err := l.Modify(other, Writable); !errors.Is(err, ErrNotAdded) {
				t.Errorf("Modify of a removed id: %v", err)
			}
			if err := l.Remove(other); !errors.Is(err, ErrNotAdded) {
				t.Errorf("Remove of a removed id: %v", err)
			}
			l.Poke(other)
			return false
		}), Readable)
		if err != nil {
			t.Fatal(err)
		}
	}
	timer := &Timer{F: func(int64) { close(done) }}
	l.SetTimer(timer, g.Clock()+5e6)
	l.Unlock()
	await(t, "the timer", done)
	l.Close()
	if calls != 1 {
		t.Errorf("%d calls, want 1: the first one removed the other", calls)
	}
}

// TestEpollDataWraps has an id come out of epoll as it went in, for extreme places and generations.
func TestEpollDataWraps(t *testing.T) {
	for _, id := range []ID{makeID(0, 1), makeID(1<<31-1, 1<<32-1), makeID(7, 1<<31)} {
		ev := id.event(unix.EPOLLIN)
		if got := eventID(&ev); got != id {
			t.Errorf("id %#x came back as %#x", id, got)
		}
	}
}

func TestWritable(t *testing.T) {
	g := newGroup(t)
	l := newLoop(t, g, Config{}, nil)
	fd, f := pair(t)
	data := make([]byte, 4<<20)
	rest, calls := data, 0
	full := make(chan struct{}, 1)
	var id ID
	p := ready(func(ev Events) bool {
		calls++
		for len(rest) > 0 {
			n, err := unix.Write(fd, rest)
			if err == unix.EAGAIN {
				if ev&Writable == 0 {
					l.Modify(id, Writable)
					full <- struct{}{}
				}
				return false
			}
			if err != nil {
				t.Errorf("write: %v", err)
				rest = nil
				return false
			}
			rest = rest[n:]
		}
		l.Modify(id, Readable)
		return false
	})
	l.Lock()
	var err error
	if id, err = l.Add(fd, p, 0); err != nil {
		t.Fatal(err)
	}
	l.Poke(id)
	l.Unlock()
	await(t, "a full socket", full)
	buf := make([]byte, 64<<10)
	for got := 0; got < len(data); {
		n, err := f.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got += n
	}
	l.Close()
	if calls < 2 {
		t.Errorf("%d calls wrote it all: the socket never was full", calls)
	}
}

func TestHangUp(t *testing.T) {
	g := newGroup(t)
	l := newLoop(t, g, Config{}, nil)
	defer l.Close()
	fd, f := pair(t)
	hung := make(chan struct{})
	var id ID
	p := ready(func(ev Events) bool {
		if ev&HangUp == 0 {
			t.Errorf("event %#x, want HangUp", ev)
		}
		if err := l.Remove(id); err != nil {
			t.Error(err)
		}
		close(hung)
		return false
	})
	l.Lock()
	var err error
	if id, err = l.Add(fd, p, 0); err != nil {
		t.Fatal(err)
	}
	l.Unlock()
	awaitParked(t, l)
	f.Close()
	await(t, "HangUp", hung)
}

func TestAddErrors(t *testing.T) {
	g := newGroup(t)
	l := newLoop(t, g, Config{}, nil)
	defer l.Close()
	fd, _ := pair(t)
	p := ready(func(Events) bool { return false })
	l.Lock()
	defer l.Unlock()
	id, err := l.Add(fd, p, Readable)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Add(fd, p, Readable); !errors.Is(err, unix.EEXIST) {
		t.Errorf("Add of a descriptor that is in: %v", err)
	}
	if _, err := l.Add(-1, p, Readable); !errors.Is(err, unix.EBADF) {
		t.Errorf("Add of no descriptor: %v", err)
	}
	if err := l.Remove(id); err != nil {
		t.Error(err)
	}
	if l.descriptors != 0 {
		t.Errorf("%d descriptors left", l.descriptors)
	}
}

// TestPoke has bytes that came with the descriptor handled, though the socket has none, in each kind of
// sleep.
func TestPoke(t *testing.T) {
	for name, cfg := range map[string]Config{"parked": {BlockFor: -1}, "blocked": {BlockFor: 1e12}} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t)
			l := newLoop(t, g, cfg, nil)
			fd, f := pair(t)
			e := addEcho(t, l, fd)
			called := make(chan struct{}, 1)
			fd2, _ := pair(t)
			l.Lock()
			id, err := l.Add(fd2, ready(func(ev Events) bool {
				if ev != Readable {
					t.Errorf("poked with %#x", ev)
				}
				called <- struct{}{}
				return false
			}), Readable)
			l.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				roundTrip(t, f, []byte("x"))
				roundTrip(t, f, []byte("y")) // soon after: a loop that may block is warm now
				awaitAsleep(t, l)
				l.Lock()
				l.Poke(id)
				l.Unlock()
				await(t, "Ready", called)
			}
			f.Close()
			await(t, "the end of file", e.eof)
			l.Close()
		})
	}
}

// TestGreedy has two descriptors that always have more to do; the third, the timer, Wake and the lock get
// their turn all the same, and no turn exceeds its budget.
func TestGreedy(t *testing.T) {
	g := newGroup(t)
	woken, fired := make(chan struct{}, 1), make(chan struct{}, 1)
	turn, most := 0, 0
	l := newLoop(t, g, Config{MaxTurnWork: 10}, &handler{
		woken:   func() { woken <- struct{}{} },
		endTurn: func() { most = max(most, turn); turn = 0 },
	})
	fd, f := pair(t)
	addEcho(t, l, fd)
	l.Lock()
	for range 2 {
		fd2, _ := pair(t)
		id, err := l.Add(fd2, ready(func(Events) bool {
			for {
				turn++
				if l.Spend(1) {
					return true
				}
			}
		}), Readable)
		if err != nil {
			t.Fatal(err)
		}
		l.Poke(id)
	}
	timer := &Timer{F: func(int64) { fired <- struct{}{} }}
	l.SetTimer(timer, g.Clock()+1e6)
	l.Unlock()
	for range 20 {
		roundTrip(t, f, []byte("in between"))
		l.Wake()
		await(t, "Woken", woken)
		l.Stats()
	}
	await(t, "the timer", fired)
	l.Close()
	if s := l.Stats(); most != 10 || s.Turns < s.Work/11 {
		t.Errorf("the largest turn was of %d units, want 10; %+v", most, s)
	}
}

// TestTurnTime has a turn end by time where the work says nothing.
func TestTurnTime(t *testing.T) {
	g := newGroup(t)
	over := make(chan struct{})
	l := newLoop(t, g, Config{MaxTurnWork: 1 << 30, MaxTurn: 1e5}, nil)
	fd, _ := pair(t)
	once := false
	l.Lock()
	id, err := l.Add(fd, ready(func(Events) bool {
		if once {
			return false
		}
		once = true
		start := g.Clock()
		for !l.Spend(1) {
			if g.Clock()-start > 5e9 {
				t.Error("five seconds and no end of a turn of 0.1 ms")
				break
			}
		}
		close(over)
		return false
	}), Readable)
	if err != nil {
		t.Fatal(err)
	}
	l.Poke(id)
	l.Unlock()
	await(t, "the end of the turn", over)
	l.Close()
}

// TestEventsAddUp has what comes to a descriptor while it waits for its turn told in one call.
func TestEventsAddUp(t *testing.T) {
	g := newGroup(t)
	l := newLoop(t, g, Config{}, nil)
	defer l.Close()
	fd, _ := pair(t)
	got := make(chan Events, 10)
	l.Lock()
	id, err := l.Add(fd, ready(func(ev Events) bool { got <- ev; return false }), 0)
	if err != nil {
		t.Fatal(err)
	}
	l.enqueue(id, Writable)
	l.Poke(id)
	l.Poke(id)
	l.Unlock()
	if ev := <-got; ev != Readable|Writable {
		t.Errorf("told %#x, want Readable and Writable", ev)
	}
	awaitParked(t, l)
	if len(got) != 0 {
		t.Error("called twice for one place in the queue")
	}
}
