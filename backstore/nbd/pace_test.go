package nbd

import (
	"testing"
	"time"
)

// A server that takes its time is given more connections, one that answers at once is not, and a single slow answer changes nothing.
func TestPace(t *testing.T) {
	var clock time.Time
	now := func() time.Time { return clock }
	var p pace
	ask := func(took time.Duration, beside int, again bool) {
		p.begin(3, beside, now)
		p.begin(4, 100, now) // one at a time
		clock = clock.Add(took)
		p.end(4, false, now)
		p.end(3, again, now)
	}
	for range 100 {
		ask(100*time.Microsecond, 1, false)
	}
	if p.slow() {
		t.Errorf("100 µs are slow: %v", p.mean)
	}
	ask(time.Millisecond, 1, false)
	if p.slow() {
		t.Errorf("one answer after 1 ms makes it slow: %v", p.mean)
	}
	ask(time.Hour, 1, true)
	if p.slow() {
		t.Errorf("a request that was sent again makes it slow: %v", p.mean)
	}
	for range 100 {
		ask(2*time.Millisecond, 16*16, false) // 125 µs for each 16
	}
	if p.slow() {
		t.Errorf("a long queue makes it slow: %v", p.mean)
	}
	for range 100 {
		ask(2*time.Millisecond, 16, false)
	}
	if !p.slow() {
		t.Errorf("2 ms are not slow: %v", p.mean)
	}
}

// What is asked of a fast server stays on one connection as long as its socket takes it; a slow one has requests on all.
func TestSpread(t *testing.T) {
	for _, c := range []struct {
		name string
		mean time.Duration
		want []int
	}{{"fast", 0, []int{40, 0, 0}}, {"slow", time.Second, []int{16, 16, 8}}} {
		t.Run(c.name, func(t *testing.T) {
			s := &Store{conns: make([]*conn, 3)}
			for i := range s.conns {
				s.conns[i] = &conn{s: s, i: i}
			}
			s.pace.mean = c.mean
			for range 40 {
				s.pick(false).inflight++
			}
			for i, n := range c.want {
				if got := s.conns[i].inflight; got != n {
					t.Errorf("connection %d has %d requests, want %d", i, got, n)
				}
			}
			s.cur = nil
			s.conns[0].blocked = true
			if got := s.pick(false); got == s.conns[0] {
				t.Error("a request waits behind a full socket while others are free")
			}
		})
	}
}
