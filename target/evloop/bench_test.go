package evloop

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// server answers requests: one read and one write for as many as there are.
type server struct {
	l    *Loop
	id   ID
	fd   int
	part int
	in   []byte
	out  []byte
	rest []byte // of out, that the socket did not take
}

func (s *server) flush() {
	for len(s.rest) > 0 {
		n, err := unix.Write(s.fd, s.rest)
		if err == unix.EAGAIN {
			s.l.Modify(s.id, Writable)
			return
		}
		if err != nil {
			s.l.Remove(s.id)
			return
		}
		s.rest = s.rest[n:]
	}
}

func (s *server) Ready(ev Events) bool {
	if len(s.rest) > 0 {
		if s.flush(); len(s.rest) > 0 {
			return false
		}
		s.l.Modify(s.id, Readable)
	}
	n, err := unix.Read(s.fd, s.in)
	if err == unix.EAGAIN {
		return false
	}
	if err != nil || n == 0 {
		s.l.Remove(s.id)
		return false
	}
	s.part += n
	reqs := s.part / reqLen
	s.part %= reqLen
	over := s.l.Spend(reqs)
	s.rest = s.out[:reqs*respLen]
	s.flush()
	return over
}

// serve makes a loop with a listening socket whose connections it answers.
func serve(b *testing.B, g *Group, cfg Config) (*Loop, string) {
	b.Helper()
	l := newLoop(b, g, cfg, nil)
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fd := take(b, l, c, func(fd int) (Pollable, *ID) {
				s := &server{l: l, fd: fd, in: make([]byte, 4*depth*reqLen), out: make([]byte, 4*depth*respLen)}
				return s, &s.id
			})
			b.Cleanup(func() { unix.Close(fd) })
		}
	}()
	return l, ln.Addr().String()
}

// take moves a connection from package net to the loop.
func take(b *testing.B, l *Loop, c net.Conn, owner func(fd int) (Pollable, *ID)) (fd int) {
	rc, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		b.Error(err)
	}
	rc.Control(func(p uintptr) { fd, err = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 0) })
	c.Close()
	if err != nil {
		b.Error(err)
	}
	p, id := owner(fd)
	l.Lock()
	defer l.Unlock()
	if *id, err = l.Add(fd, p, Readable); err != nil {
		b.Error(err)
	}
	return fd
}

// start runs a client; stop ends it and returns the rest of what it printed.
func start(b *testing.B, args ...string) (stop func() []byte) {
	b.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), clientEnv+"="+strings.Join(args, " "))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	return func() []byte {
		if args[0] != "ping" && args[0] != "probe" {
			in.Close()
		}
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
		return []byte(out.String())
	}
}

func quantile(d []time.Duration, q float64) float64 {
	slices.Sort(d)
	return float64(d[min(int(q*float64(len(d))), len(d)-1)]) / 1e3
}

// BenchmarkWaiting reports, beside 0 to 3 hot loops: how long a call of the admin plane waits for a hot
// loop's lock; the round trip of an admin call through Go's network poller that takes this lock; and the
// first I/O of a parked loop. One operation is one sample of each, so use -benchtime 500x or more.
func BenchmarkWaiting(b *testing.B) {
	for _, hot := range []int{0, 1, 2, 3} {
		for _, procs := range []int{runtime.NumCPU(), RecommendedProcs(hot)} {
			b.Run(fmt.Sprintf("hot=%d/procs=%d", hot, procs), func(b *testing.B) { benchWaiting(b, hot, procs) })
		}
	}
}

func benchWaiting(b *testing.B, hot, procs int) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
	g := newGroup(b)
	idle, idleAddr := serve(b, g, Config{})
	admin := idle
	var loops []*Loop
	args := []string{"load"}
	for range hot {
		l, addr := serve(b, g, Config{})
		loops, args = append(loops, l), append(args, addr)
		admin = l
	}
	adminAddr := serveAdmin(b, admin)
	stopLoad := func() []byte { return nil }
	if hot > 0 {
		stopLoad = start(b, args...)
		for _, l := range loops {
			for l.Stats().Work < 10000 {
				runtime.Gosched()
			}
		}
	}
	cpu, work, t0 := cpuTime(), total(loops).Work, time.Now()

	var wg sync.WaitGroup
	wg.Add(2)
	var first, call []time.Duration
	for _, p := range []struct {
		addr string
		lat  *[]time.Duration
	}{{idleAddr, &first}, {adminAddr, &call}} {
		stop := start(b, "probe", p.addr, strconv.Itoa(b.N))
		go func() {
			defer wg.Done()
			if err := json.Unmarshal(stop(), p.lat); err != nil {
				b.Error(err)
			}
		}()
	}
	lock := make([]time.Duration, b.N)
	plain := make([]time.Duration, b.N)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i := range lock {
		<-tick.C
		t := time.Now()
		admin.Lock()
		lock[i] = time.Since(t)
		admin.Unlock()
		<-tick.C
		t = time.Now()
		admin.mu.Lock() // as a plain mutex: without being counted among those who wait
		plain[i] = time.Since(t)
		admin.mu.Unlock()
	}
	wg.Wait()
	cpu = cpuTime() - cpu
	ops := total(loops).Work - work
	secs := time.Since(t0).Seconds()
	stopLoad()

	b.ReportMetric(0, "ns/op")
	b.ReportMetric(quantile(lock, 0.5), "lock-p50-µs")
	b.ReportMetric(quantile(lock, 0.99), "lock-p99-µs")
	b.ReportMetric(quantile(plain, 0.5), "plain-p50-µs")
	b.ReportMetric(quantile(plain, 0.99), "plain-p99-µs")
	b.ReportMetric(quantile(call, 0.5), "call-p50-µs")
	b.ReportMetric(quantile(call, 0.99), "call-p99-µs")
	b.ReportMetric(quantile(first, 0.5), "first-p50-µs")
	b.ReportMetric(quantile(first, 0.99), "first-p99-µs")
	if hot > 0 {
		b.ReportMetric(float64(ops)/secs, "ops/s")
		b.ReportMetric(float64(cpu)/1e3/float64(ops), "cpu-µs/op")
	}
	for _, l := range append(loops, idle) {
		l.Close()
	}
}

func total(loops []*Loop) (sum LoopStats) {
	for _, l := range loops {
		s := l.Stats()
		sum.Work += s.Work
		sum.Served += s.Served
	}
	return sum
}

// serveAdmin answers requests as an admin server does: through package net, taking the loop's lock.
func serveAdmin(b *testing.B, l *Loop) string {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				req, resp := make([]byte, reqLen), make([]byte, respLen)
				for {
					if _, err := c.Read(req); err != nil {
						return
					}
					l.Lock()
					l.Unlock() //nolint:staticcheck // the call is what is measured
					c.Write(resp)
				}
			}()
		}
	}()
	return ln.Addr().String()
}

func cpuTime() time.Duration {
	var r unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkDepth1 is one request at a time, from another process: the price of going to sleep and being
// woken. Use -benchtime 50000x.
func BenchmarkDepth1(b *testing.B) {
	for _, spin := range []time.Duration{0, 50 * time.Microsecond} {
		b.Run("spin="+spin.String(), func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(RecommendedProcs(1)))
			g := newGroup(b)
			l, addr := serve(b, g, Config{Spin: spin})
			cpu := cpuTime()
			var lat []time.Duration
			if err := json.Unmarshal(start(b, "ping", addr, strconv.Itoa(b.N))(), &lat); err != nil {
				b.Fatal(err)
			}
			cpu = cpuTime() - cpu
			s := l.Stats()
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(quantile(lat, 0.5), "p50-µs")
			b.ReportMetric(quantile(lat, 0.99), "p99-µs")
			b.ReportMetric(float64(cpu)/1e3/float64(b.N), "cpu-µs/op")
			b.ReportMetric(float64(s.Parks)/float64(b.N), "parks/op")
			b.ReportMetric(float64(s.Polls)/float64(b.N), "polls/op")
			l.Close()
		})
	}
}

// BenchmarkSaturatedLock is the lock of a loop that never sleeps, each turn of 0.2 ms, as the admin plane
// takes it and as a plain mutex. One operation is one sample of each; use -benchtime 500x or more.
func BenchmarkSaturatedLock(b *testing.B) {
	for _, hot := range []int{1, 2, 3} {
		b.Run(fmt.Sprintf("hot=%d", hot), func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(RecommendedProcs(hot)))
			g := newGroup(b)
			var l *Loop
			for range hot {
				l = newLoop(b, g, Config{MaxTurnWork: 1 << 30}, nil)
				fd, _ := pair(b)
				l.Lock()
				id, err := l.Add(fd, ready(func(Events) bool {
					for !l.Spend(1) {
					}
					return true
				}), Readable)
				if err != nil {
					b.Fatal(err)
				}
				l.Poke(id)
				l.Unlock()
			}
			lock, plain := make([]time.Duration, b.N), make([]time.Duration, b.N)
			tick := time.NewTicker(2 * time.Millisecond)
			defer tick.Stop()
			for i := range lock {
				<-tick.C
				t := time.Now()
				l.Lock()
				lock[i] = time.Since(t)
				l.Unlock()
				<-tick.C
				t = time.Now()
				l.mu.Lock()
				plain[i] = time.Since(t)
				l.mu.Unlock()
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(quantile(lock, 0.5), "lock-p50-µs")
			b.ReportMetric(quantile(lock, 0.99), "lock-p99-µs")
			b.ReportMetric(quantile(plain, 0.5), "plain-p50-µs")
			b.ReportMetric(quantile(plain, 0.99), "plain-p99-µs")
			g.Close()
		})
	}
}

// BenchmarkIdle is 1,000 loops with nothing but a timer every 5 s each. One operation is a timer fired:
// use -benchtime 4000x (20 s) or more.
func BenchmarkIdle(b *testing.B) {
	const loops, period = 1000, int64(5 * time.Second)
	for _, spread := range []bool{true, false} {
		name := map[bool]string{true: "spread", false: "aligned"}[spread]
		b.Run(name, func(b *testing.B) {
			rss := procStatus(b, "VmRSS:")
			g := newGroup(b)
			var fired atomic.Int64
			first, last := make(chan struct{}), make(chan struct{})
			begin := g.Clock()
			for i := range loops {
				l := newLoop(b, g, Config{}, nil)
				at := begin + period
				if spread {
					at = begin + int64(i)*period/loops
				}
				timer := &Timer{}
				timer.F = func(int64) {
					at += period
					l.SetTimer(timer, at)
					switch fired.Add(1) {
					case 1:
						close(first)
					case int64(1 + b.N):
						close(last)
					}
				}
				l.Lock()
				l.SetTimer(timer, at)
				l.Unlock()
			}
			runtime.GC()
			<-first
			cpu, t := cpuTime(), time.Now()
			<-last
			cpu, took := cpuTime()-cpu, time.Since(t)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(100*cpu.Seconds()/took.Seconds(), "%core")
			b.ReportMetric(float64(cpu)/1e3/float64(b.N), "cpu-µs/timer")
			b.ReportMetric(float64(procStatus(b, "Threads:")), "threads")
			b.ReportMetric(float64(procStatus(b, "VmRSS:")-rss)/loops, "KiB/loop")
			g.Close()
		})
	}
}

// BenchmarkIdlePings is 500 loops with 4 connections each, which an initiator pings once a second: 2,000
// pings a second, as 10,000 sessions make at open-iscsi's 5 s. One operation is a ping: use -benchtime
// 20000x (10 s) or more.
func BenchmarkIdlePings(b *testing.B) {
	const loops, conns = 500, 4
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(RecommendedProcs(0)))
	g := newGroup(b)
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	stop := start(b, "pings", ln.Addr().String(), strconv.Itoa(loops*conns))
	defer stop()
	var all []*Loop
	var pings atomic.Int64
	first, last := make(chan struct{}), make(chan struct{})
	for range loops {
		l := newLoop(b, g, Config{}, &handler{endTurn: func() {
			switch pings.Add(1) {
			case 2 * loops * conns: // warm
				close(first)
			case int64(2*loops*conns + b.N):
				close(last)
			}
		}})
		all = append(all, l)
		for range conns {
			c, err := ln.Accept()
			if err != nil {
				b.Fatal(err)
			}
			defer unix.Close(take(b, l, c, func(fd int) (Pollable, *ID) {
				e := &echo{l: l, fd: fd, eof: make(chan struct{})}
				return e, &e.id
			}))
		}
	}
	<-first
	cpu, before, t := cpuTime(), total(all), time.Now()
	<-last
	cpu, took, after := cpuTime()-cpu, time.Since(t), total(all)
	n := float64(after.Work - before.Work)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(100*cpu.Seconds()/took.Seconds(), "%core")
	b.ReportMetric(float64(cpu)/1e3/n, "cpu-µs/ping")
	b.ReportMetric(float64(after.Served-before.Served)/n, "served/ping")
	b.ReportMetric(float64(procStatus(b, "Threads:")), "threads")
	for _, l := range all {
		l.Close()
	}
}

// procStatus is a number out of /proc/self/status.
func procStatus(b *testing.B, key string) int {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), key)
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		b.Fatal(err)
	}
	return n
}
