package evloop

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// handler is a Handler of functions.
type handler struct {
	woken   func()
	endTurn func()
}

func (h *handler) Woken() {
	if h.woken != nil {
		h.woken()
	}
}

func (h *handler) EndTurn() {
	if h.endTurn != nil {
		h.endTurn()
	}
}

// ready is a Pollable of a function.
type ready func(Events) bool

func (f ready) Ready(ev Events) bool { return f(ev) }

// echo sends back what it reads.
type echo struct {
	l   *Loop
	id  ID
	fd  int
	buf [4096]byte
	eof chan struct{}
}

func (e *echo) Ready(ev Events) bool {
	for {
		n, err := unix.Read(e.fd, e.buf[:])
		switch {
		case err == unix.EAGAIN:
			return false
		case n <= 0:
			e.l.Remove(e.id)
			close(e.eof)
			return false
		}
		unix.Write(e.fd, e.buf[:n])
		if e.l.Spend(1) {
			return true
		}
	}
}

func newGroup(t testing.TB) *Group {
	t.Helper()
	g, err := NewGroup()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

func newLoop(t testing.TB, g *Group, cfg Config, h Handler) *Loop {
	t.Helper()
	if h == nil {
		h = &handler{}
	}
	l, err := g.NewLoop(cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// pair is a connected pair of sockets: one non-blocking for a loop, one as a file for the test.
func pair(t testing.TB) (fd int, f *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		t.Fatal(err)
	}
	f = os.NewFile(uintptr(fds[1]), "peer")
	t.Cleanup(func() { f.Close(); unix.Close(fds[0]) })
	return fds[0], f
}

func addEcho(t testing.TB, l *Loop, fd int) *echo {
	t.Helper()
	e := &echo{l: l, fd: fd, eof: make(chan struct{})}
	l.Lock()
	defer l.Unlock()
	var err error
	if e.id, err = l.Add(fd, e, Readable); err != nil {
		t.Fatal(err)
	}
	return e
}

func roundTrip(t testing.TB, f *os.File, msg []byte) {
	t.Helper()
	if _, err := f.Write(msg); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(msg))
	if _, err := io.ReadFull(f, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, msg) {
		t.Fatalf("sent %q, came back %q", msg, got)
	}
}

// await waits for a signal, with a deadline that only a failure meets.
func await(t testing.TB, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s did not come", what)
	}
}

func TestEcho(t *testing.T) {
	g := newGroup(t)
	l := newLoop(t, g, Config{}, nil)
	fd, f := pair(t)
	e := addEcho(t, l, fd)
	for i := range 100 {
		if i%10 == 0 {
			awaitParked(t, l)
		}
		roundTrip(t, f, []byte("the quick brown fox"))
	}
	s := l.Stats()
	if s.Work != 100 || s.Parks == 0 || s.Descriptors != 1 {
		t.Errorf("stats after 100 echoes: %+v", s)
	}
	f.Close()
	await(t, "the end of file", e.eof)
	l.Close()
}

func TestWakeIsCoalesced(t *testing.T) {
	var n atomic.Int32
	woken := make(chan struct{}, 100)
	g := newGroup(t)
	l := newLoop(t, g, Config{}, &handler{woken: func() { n.Add(1); woken <- struct{}{} }})
	awaitParked(t, l)
	l.Lock()
	for range 50 {
		l.Wake()
	}
	l.Unlock()
	await(t, "Woken", woken)
	awaitParked(t, l)
	if n.Load() != 1 || l.Stats().Signals != 1 {
		t.Errorf("50 wakes under the lock: Woken %d times, %d signals", n.Load(), l.Stats().Signals)
	}
	l.Wake()
	await(t, "the second Woken", woken)
	l.Close()
	l.Wake() // after Close: nothing
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestAddAfterClose(t *testing.T) {
	g := newGroup(t)
	l := newLoop(t, g, Config{}, nil)
	l.Close()
	fd, _ := pair(t)
	l.Lock()
	_, err := l.Add(fd, ready(func(Events) bool { return false }), Readable)
	l.Unlock()
	if !errors.Is(err, ErrClosed) {
		t.Errorf("Add to a closed loop: %v", err)
	}
}
