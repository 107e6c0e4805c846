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
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The clients of the benchmarks are this same test binary in processes of their own, so that nothing of
// them runs in the runtime that is measured.
const clientEnv = "LUNAR_EVLOOP_CLIENT"

func TestMain(m *testing.M) {
	if args := os.Getenv(clientEnv); args != "" {
		if err := client(strings.Fields(args)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const (
	reqLen  = 48        // as a SCSI Command PDU
	respLen = 48 + 4096 // as a Data-In PDU of a 4 KiB read
	depth   = 32
)

// client is the main function of a client's process.
func client(args []string) error {
	switch args[0] {
	case "load": // load ADDR…: keeps depth requests in flight at each until its standard input ends
		for _, addr := range args[1:] {
			fd, err := dial(addr)
			if err != nil {
				return err
			}
			go hammer(fd)
		}
		fmt.Println("loaded")
		var b [1]byte
		os.Stdin.Read(b[:])
		return nil
	case "probe": // probe ADDR N: one request every 10 ms, the latencies as JSON
		fd, err := dial(args[1])
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		lat := make([]time.Duration, n)
		buf := make([]byte, respLen)
		for i := range lat {
			unix.Nanosleep(&unix.Timespec{Nsec: 10e6}, nil)
			t := time.Now()
			if err := exchange(fd, buf, 1); err != nil {
				return err
			}
			lat[i] = time.Since(t)
		}
		return json.NewEncoder(os.Stdout).Encode(lat)
	}
	return fmt.Errorf("unknown client %q", args[0])
}

// dial makes a blocking socket that Go's runtime knows nothing of.
func dial(addr string) (int, error) {
	a, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	return fd, unix.Connect(fd, &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte(a.IP.To4())})
}

func exchange(fd int, buf []byte, n int) error {
	if _, err := unix.Write(fd, make([]byte, n*reqLen)); err != nil {
		return err
	}
	for got := 0; got < n*respLen; {
		m, err := unix.Read(fd, buf)
		if err != nil || m == 0 {
			return fmt.Errorf("read: %d, %v", m, err)
		}
		got += m
	}
	return nil
}

// hammer keeps depth requests in flight: for each whole answer a new request.
func hammer(fd int) {
	runtime.LockOSThread()
	buf, req := make([]byte, 256<<10), make([]byte, depth*reqLen)
	owed, part := depth, 0
	for {
		if owed > 0 {
			if _, err := unix.Write(fd, req[:owed*reqLen]); err != nil {
				return
			}
		}
		n, err := unix.Read(fd, buf)
		if err != nil || n <= 0 {
			return
		}
		part += n
		owed = part / respLen
		part %= respLen
	}
}

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
func serve(b *testing.B, g *Group, name string) (*Loop, string) {
	b.Helper()
	l := newLoop(b, g, Config{Name: name}, nil)
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
			rc, _ := c.(*net.TCPConn).SyscallConn()
			fd := -1
			rc.Control(func(p uintptr) { fd, _ = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 0) })
			c.Close()
			s := &server{l: l, fd: fd, in: make([]byte, 4*depth*reqLen), out: make([]byte, 4*depth*respLen)}
			l.Lock()
			s.id, err = l.Add(fd, s, Readable)
			l.Unlock()
			if err != nil {
				b.Error(err)
			}
			b.Cleanup(func() { unix.Close(fd) })
		}
	}()
	return l, ln.Addr().String()
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
		if args[0] == "load" {
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
	idle, idleAddr := serve(b, g, "idle")
	admin := idle
	var loops []*Loop
	args := []string{"load"}
	for i := range hot {
		l, addr := serve(b, g, "hot"+strconv.Itoa(i))
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
	var before, after unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &before)
	work, t0 := totalWork(loops), time.Now()

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
	unix.Getrusage(unix.RUSAGE_SELF, &after)
	ops := totalWork(loops) - work
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
		cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
		b.ReportMetric(float64(ops)/secs, "ops/s")
		b.ReportMetric(float64(cpu)/1e3/float64(ops), "cpu-µs/op")
	}
	for _, l := range append(loops, idle) {
		l.Close()
	}
}

func totalWork(loops []*Loop) (n uint64) {
	for _, l := range loops {
		n += l.Stats().Work
	}
	return n
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
					l.Unlock()
					c.Write(resp)
				}
			}()
		}
	}()
	return ln.Addr().String()
}
