package evloop

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAllocs counts what the whole process allocates while a loop answers, in each way of waiting,
// together with a timer set and a Wake for each answer.
func TestAllocs(t *testing.T) {
	for name, cfg := range map[string]Config{
		"park":  {BlockFor: -1},
		"block": {BlockFor: time.Hour},
		"spin":  {Spin: 50 * time.Microsecond},
		"panic": {Panic: func(v any, _ []byte) { panic(v) }},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t)
			l := newLoop(t, g, cfg, nil)
			fd, f := pair(t)
			addEcho(t, l, fd)
			timer := &Timer{F: func(int64) {}}
			peer := int(f.Fd()) // blocking from here on: raw calls that Go's poller does not see
			defer unix.Shutdown(peer, unix.SHUT_RDWR)
			var buf [8]byte
			answer := func() {
				l.Lock()
				l.SetTimer(timer, g.Clock()+int64(time.Hour))
				l.Unlock()
				l.Wake()
				unix.Write(peer, buf[:])
				if n, err := unix.Read(peer, buf[:]); n != len(buf) {
					t.Fatalf("read %d, %v", n, err)
				}
			}
			for range 100 {
				answer() // the queue, the heap and the runtime's own caches grow
			}
			if n := testing.AllocsPerRun(2000, answer); n != 0 {
				t.Errorf("%v allocations an answer", n)
			}
			if n := l.Stats().Descriptors; n != 1 {
				t.Errorf("%d descriptors, want 1: the connection is gone", n)
			}
		})
	}
}

// BenchmarkTurn is a turn of a loop with one descriptor that always has more: what the loop itself costs.
func BenchmarkTurn(b *testing.B) {
	g := newGroup(b)
	l := newLoop(b, g, Config{}, nil)
	fd, _ := pair(b)
	n, done := 0, make(chan struct{})
	l.Lock()
	id, err := l.Add(fd, ready(func(Events) bool {
		l.Spend(1)
		if n++; n == b.N {
			close(done)
		}
		return n < b.N
	}), Readable)
	if err != nil {
		b.Fatal(err)
	}
	l.Poke(id)
	l.Unlock()
	<-done
	l.Close()
}

// BenchmarkSpend is the call that each PDU makes.
func BenchmarkSpend(b *testing.B) {
	l := &Loop{g: &Group{base: time.Now()}, cfg: Config{MaxTurnWork: 1 << 62}, turnEnd: forever, lookAt: clockEvery}
	for b.Loop() {
		l.Spend(1)
	}
}

// BenchmarkTimer moves a timer among a hundred, as each PDU of a session does with its keepalive.
func BenchmarkTimer(b *testing.B) {
	var h timerHeap
	timers := make([]Timer, 100)
	for i := range timers {
		h.set(&timers[i], int64(i))
	}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		i++
		h.set(&timers[i%100], int64(100+i))
	}
}

// BenchmarkWake is a wake-up of a loop that is awake already.
func BenchmarkWake(b *testing.B) {
	l := &Loop{}
	for b.Loop() {
		l.Wake()
	}
}
