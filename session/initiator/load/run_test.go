package load

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/initiator/internal/faketarget"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

const diskSize = 2<<20 + 512 // not a whole number of fill's writes

// serve returns a disk, made ready by setup, served over the loopback and a Config for a short run on it.
func serve(t *testing.T, setup func(ft *faketarget.Target)) (*faketarget.Target, Config) {
	t.Helper()
	p := initiator.DefaultOffer()
	p.MaxXmitDataSegmentLength = 256 << 10
	p.MaxOutstandingR2T = 1
	ft := faketarget.New(diskSize, p)
	if setup != nil {
		setup(ft)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				if err := ft.Serve(nc); err != nil && !t.Failed() {
					t.Errorf("the fake target: %v", err)
				}
			}()
		}
	}()
	return ft, Config{
		Options: initiator.Options{Portal: l.Addr().String(), TargetName: "iqn.2026-11.example:fake"},
		LUN:     sam.NewLUN(1), BlockSize: 4096, Depth: 8, ReadPercent: 100, Duration: 50 * time.Millisecond, Warmup: 10 * time.Millisecond,
	}
}

func TestFillThenVerify(t *testing.T) {
	ft, c := serve(t, func(ft *faketarget.Target) { ft.Attentions = 3 }) // a new nexus starts with some
	c.Fill, c.Verify, c.ReadPercent = true, 1, 70
	r, err := Run(context.Background(), c)
	if err != nil || r.Errors != 0 {
		t.Fatalf("%v, report %+v", err, r)
	}
	if r.Filled != diskSize || r.Volume != diskSize || r.Verified == 0 || r.IOPS < 0 || r.Latency.Count != r.Read.Count+r.Write.Count {
		t.Errorf("report %+v", r)
	}
	ft.Mu.Lock()
	defer ft.Mu.Unlock()
	if err := Check(ft.Disk, 0); err != nil {
		t.Errorf("the disk at the end: %v", err)
	}
}

func TestKindsOfLoad(t *testing.T) {
	var commands atomic.Int64
	ft, base := serve(t, func(ft *faketarget.Target) {
		Fill(ft.Disk, 0)
		ft.Command = func(*faketarget.Session, *initiator.PDU) bool { commands.Add(1); return false }
	})
	for name, change := range map[string]func(c *Config){
		"sequential":             func(c *Config) { c.Sequential = true },
		"sequential writes":      func(c *Config) { c.Sequential, c.ReadPercent, c.Connections = true, 0, 2 },
		"many on one thread":     func(c *Config) { c.Connections, c.Threads = 5, 1 },
		"many on two threads":    func(c *Config) { c.Connections, c.Threads, c.ReadPercent = 5, 2, 50 },
		"open loop":              func(c *Config) { c.Rate = 4000 },
		"open loop, many":        func(c *Config) { c.Rate, c.Connections, c.Threads = 4000, 3, 1 },
		"one block":              func(c *Config) { c.BlockSize, c.Depth = 512, 1 },
		"more than a PDU's data": func(c *Config) { c.BlockSize, c.Depth = 768<<10, 2 },
		"a part of the volume":   func(c *Config) { c.Offset, c.Size, c.ReadPercent = 1<<20, 64<<10, 50 },
	} {
		t.Run(name, func(t *testing.T) {
			c := base
			c.Verify = 1
			change(&c)
			before := commands.Load()
			r, err := Run(context.Background(), c)
			if err != nil || r.Errors != 0 {
				t.Fatalf("%v, report %+v", err, r)
			}
			// How much of it was within the measured time is the machine's business; that something was done is not.
			if n := commands.Load() - before; n < int64(c.Connections+c.Depth) {
				t.Errorf("%d commands in all", n)
			}
			if r.Verified == 0 && c.ReadPercent > 0 {
				t.Error("nothing was verified")
			}
		})
	}
	ft.Mu.Lock()
	defer ft.Mu.Unlock()
	if err := Check(ft.Disk, 0); err != nil {
		t.Errorf("the disk at the end: %v", err)
	}
}

// With digests agreed upon the load makes and checks them, and the report says so.
func TestDigests(t *testing.T) {
	ft, c := serve(t, func(ft *faketarget.Target) {
		Fill(ft.Disk, 0)
		ft.Params.HeaderDigest, ft.Params.DataDigest = true, true
		ft.Answer = ft.Answer.With("HeaderDigest", "CRC32C").With("DataDigest", "CRC32C")
	})
	offer := initiator.DefaultOffer()
	offer.HeaderDigest, offer.DataDigest = true, true
	c.Options.Offer = &offer
	c.ReadPercent, c.Verify = 50, 1
	r, err := Run(context.Background(), c)
	if err != nil || r.Errors != 0 || r.Verified == 0 {
		t.Fatalf("%v, report %+v", err, r)
	}
	if !r.Params.HeaderDigest || !r.Params.DataDigest {
		t.Errorf("negotiated %+v", r.Params)
	}
	ft.Mu.Lock()
	defer ft.Mu.Unlock()
	if err := Check(ft.Disk, 0); err != nil {
		t.Errorf("the disk at the end: %v", err)
	}
}

// TestDurableMix: FUA comes on its share of the writes, and after each so many of these a SYNCHRONIZE CACHE, which counts as a write
// without bytes.
func TestDurableMix(t *testing.T) {
	var writes, fua, flushes atomic.Int64
	count := func(s *faketarget.Session, p *initiator.PDU) bool {
		switch b := (*pdu.SCSICommand)(&p.Header).CDB(); b[0] {
		case 0x2a:
			writes.Add(1)
			if b[1]&0x08 != 0 {
				fua.Add(1)
			}
		case 0x35:
			if n := flushes.Add(1); writes.Load() != 5*n {
				t.Errorf("flush %d comes after %d writes", n, writes.Load())
			}
		}
		return false
	}
	_, c := serve(t, func(ft *faketarget.Target) { ft.Command = count })
	c.Depth, c.ReadPercent, c.FUAPercent, c.FlushEvery = 1, 0, 30, 5
	r, err := Run(context.Background(), c)
	if err != nil || r.Errors != 0 {
		t.Fatalf("%v, report %+v", err, r)
	}
	w, f := writes.Load(), fua.Load()
	if w == 0 || flushes.Load() != (w-1)/5 && flushes.Load() != w/5 {
		t.Errorf("%d flushes among %d writes", flushes.Load(), w)
	}
	if w >= 200 && (f < w*20/100 || f > w*40/100) {
		t.Errorf("FUA on %d of %d writes, want 30 %%", f, w)
	}
	if r.IOPS > 0 && r.MBps >= r.IOPS*float64(c.BlockSize)/1e6 {
		t.Errorf("%v MB/s of %v commands a second: flushes move no bytes", r.MBps, r.IOPS)
	}
}

func TestWrongContentIsFound(t *testing.T) {
	ft, c := serve(t, nil)
	c.Verify = 1
	if _, err := Run(context.Background(), c); err == nil || !strings.Contains(err.Error(), "does not hold the pattern") {
		t.Errorf("a volume that was not filled: %v", err)
	}
	ft.Mu.Lock()
	Fill(ft.Disk, 0)
	Stamp(ft.Disk[8192:8704], 512)
	ft.Mu.Unlock()
	c.Sequential, c.Size = true, 64<<10 // sure to come by
	r, err := Run(context.Background(), c)
	if err != nil || r.Errors == 0 || !strings.Contains(r.FirstError, "content mismatch at byte 8192: ") || !strings.Contains(r.FirstError, "the name of byte 512)") {
		t.Errorf("%v, %d errors, first %q", err, r.Errors, r.FirstError)
	}
}

func TestFailuresAreCounted(t *testing.T) {
	var n atomic.Int64
	command := func(s *faketarget.Session, p *initiator.PDU) bool {
		if cdb := (*pdu.SCSICommand)(&p.Header).CDB(); cdb[0] != 0x28 || n.Add(1) > 3 {
			return false
		}
		if err := s.Status(p.ITT(), sam.CheckCondition, faketarget.Sense(3, 0x11, 0), 0); err != nil {
			t.Error(err)
		}
		return true
	}
	_, c := serve(t, func(ft *faketarget.Target) { ft.Command = command })
	r, err := Run(context.Background(), c)
	if err != nil || r.Errors != 3 || !strings.HasPrefix(r.FirstError, "CHECK CONDITION, sense 3h/11h/00h: MEDIUM ERROR") {
		t.Errorf("%v, %d errors, first %q", err, r.Errors, r.FirstError)
	}
}

// A unit attention is no failure: the command is sent again, but not for ever.
func TestAttentionsAreSentAgain(t *testing.T) {
	for most, want := range map[int64]uint64{3: 0, 1 << 40: 1} {
		var n atomic.Int64
		command := func(s *faketarget.Session, p *initiator.PDU) bool {
			if cdb := (*pdu.SCSICommand)(&p.Header).CDB(); cdb[0] != 0x28 || n.Add(1) > most {
				return false
			}
			if err := s.Status(p.ITT(), sam.CheckCondition, faketarget.Sense(6, 0x3f, 0x0e), 0); err != nil {
				t.Error(err)
			}
			return true
		}
		_, c := serve(t, func(ft *faketarget.Target) { ft.Command = command })
		r, err := Run(context.Background(), c)
		if err != nil || min(r.Errors, 1) != want || r.Attentions == 0 || most == 3 && r.Attentions != 3 {
			t.Errorf("%v, %d errors, %d sent again, first %q", err, r.Errors, r.Attentions, r.FirstError)
		}
	}
}

func TestFillStopsAtTheFirstError(t *testing.T) {
	_, c := serve(t, func(ft *faketarget.Target) {
		ft.Command = func(s *faketarget.Session, p *initiator.PDU) bool {
			if cdb := (*pdu.SCSICommand)(&p.Header).CDB(); cdb[0] != 0x2a {
				return false
			}
			if err := s.Status(p.ITT(), sam.CheckCondition, faketarget.Sense(7, 0x27, 0), 0); err != nil {
				t.Error(err)
			}
			return true
		}
	})
	c.Fill, c.Duration = true, 0
	r, err := Run(context.Background(), c)
	if err != nil || r.Errors == 0 || r.Filled != 0 || !strings.HasPrefix(r.FirstError, "fill: CHECK CONDITION, sense 7h/27h/00h: DATA PROTECT") {
		t.Errorf("%v, report %+v", err, r)
	}
}

// TestRunsThatFail: a run that cannot go on says why, and soon.
func TestRunsThatFail(t *testing.T) {
	silent := func(s *faketarget.Session, p *initiator.PDU) bool {
		return (*pdu.SCSICommand)(&p.Header).CDB()[0] == 0x28
	}
	for name, c := range map[string]struct {
		target func(ft *faketarget.Target)
		config func(c *Config)
		want   string
	}{
		"stall": {
			func(ft *faketarget.Target) { ft.Command = silent },
			func(c *Config) { c.Stall, c.Duration = 30*time.Millisecond, time.Minute },
			"no command has ended for 30ms with 8 in flight",
		},
		"endless attention": {func(ft *faketarget.Target) { ft.Attentions = 1000 }, nil, "TEST UNIT READY of LUN 1: CHECK CONDITION, sense 6h/29h/00h"},
		"beyond the end":    {nil, func(c *Config) { c.Offset, c.Size = 1<<20, 2<<20 }, "beyond the volume"},
		"smaller than one":  {nil, func(c *Config) { c.Size = 512 }, "smaller than one command"},
		"nobody there":      {nil, func(c *Config) { c.Options.Portal, c.Connections = "127.0.0.1:1", 40 }, "connection refused"},
		"connection dropped": {func(ft *faketarget.Target) {
			ft.Command = func(s *faketarget.Session, p *initiator.PDU) bool { return silent(s, p) && s.C.Close() == nil }
		}, nil, "connection"},
	} {
		t.Run(name, func(t *testing.T) {
			_, cfg := serve(t, c.target)
			if c.config != nil {
				c.config(&cfg)
			}
			if _, err := Run(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestRunEndsWithContext(t *testing.T) {
	_, c := serve(t, nil)
	c.Duration = time.Hour
	ctx, cancel := context.WithCancel(context.Background())
	calls := 0
	c.Progress = func(p Progress) { // the first is a second in
		if calls++; p.Phase == "run" {
			cancel()
		}
	}
	r, err := Run(ctx, c)
	if err != nil || r.Latency.Count == 0 || r.Seconds > 1000 || calls == 0 {
		t.Errorf("%v, %v s, %d commands", err, r.Seconds, r.Latency.Count)
	}
}

// TestOpenLoopCountsWaiting: while the target holds one answer back, commands that should have started keep waiting, and that
// is part of their latency. A closed loop would show one long command.
func TestOpenLoopCountsWaiting(t *testing.T) {
	var n atomic.Int64
	const pause = 60 * time.Millisecond
	command := func(s *faketarget.Session, p *initiator.PDU) bool {
		if (*pdu.SCSICommand)(&p.Header).CDB()[0] == 0x28 && n.Add(1) == 100 {
			<-time.After(pause)
		}
		return false
	}
	_, c := serve(t, func(ft *faketarget.Target) { ft.Command = command })
	c.Rate, c.Depth, c.Warmup, c.Duration = 2000, 1, 0, 400*time.Millisecond
	r, err := Run(context.Background(), c)
	if err != nil || r.Errors != 0 {
		t.Fatalf("%v, report %+v", err, r)
	}
	// Some 120 of about 800 commands were due in the pause.
	if r.Latency.P99 < float64(pause/2)/1e3 {
		t.Errorf("p99 %v µs of %d commands after a pause of %v", r.Latency.P99, r.Latency.Count, pause)
	}
}

func TestArrivals(t *testing.T) {
	c := Config{Rate: 1000, Connections: 4, Depth: 1, BlockSize: 512, Seed: 3}
	w, err := newWorker(&c, new(shared), region{size: 1 << 20, block: 512}, make([]*initiator.Queue, 1), 0)
	if err != nil {
		t.Fatal(err)
	}
	// One of four connections: a quarter of the arrivals. In a Poisson process the deviation of a gap is its mean.
	const n = 50000
	var sum, squares float64
	for range n {
		g := float64(w.arrival())
		sum += g
		squares += g * g
	}
	mean := sum / n
	variance := squares/n - mean*mean
	if mean < 3.9e6 || mean > 4.1e6 || variance < .9*mean*mean || variance > 1.1*mean*mean {
		t.Errorf("gaps of mean %.0f ns, variance %.3g", mean, variance)
	}
}

func TestConfigCheck(t *testing.T) {
	good := Config{BlockSize: 4096, Duration: time.Second, ReadPercent: 50}
	c := good
	if err := c.Check(); err != nil || c.Depth != 1 || c.Connections != 1 || c.Threads != 1 || c.Stall != DefaultStall {
		t.Errorf("%v, completed to %+v", err, c)
	}
	for want, change := range map[string]func(c *Config){
		"block size 1000":   func(c *Config) { c.BlockSize = 1000 },
		"block size 0":      func(c *Config) { c.BlockSize = 0 },
		"depth 5000":        func(c *Config) { c.Depth = 5000 },
		"rate -1":           func(c *Config) { c.Rate = -1 },
		"FUA percentage -1": func(c *Config) { c.FUAPercent = -1 },
		"a flush every -1":  func(c *Config) { c.FlushEvery = -1 },
		"read percentage":   func(c *Config) { c.ReadPercent = 101 },
		"-1 connections":    func(c *Config) { c.Connections = -1 },
		"2 threads":         func(c *Config) { c.Threads = 2 },
		"verify -1":         func(c *Config) { c.Verify = -1 },
		"is negative":       func(c *Config) { c.Offset = -1 },
		"does nothing":      func(c *Config) { c.Duration = 0 },
		"a run of -1s":      func(c *Config) { c.Duration = -time.Second },
		"block size 1 is n": func(c *Config) { c.BlockSize = 1 },
	} {
		c := good
		change(&c)
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestReport(t *testing.T) {
	r := Report{
		Target: "iqn.x", LUN: "1", BlockSize: 4096, Depth: 32, ReadPercent: 70, Connections: 2, Threads: 1, Volume: 1 << 30, Region: 3 << 20, Params: initiator.DefaultOffer(),
		Seconds: 2, IOPS: 1234.4, MBps: 5.06, Latency: Latency{Count: 30, P99: 7.5}, Read: Latency{Count: 20}, Write: Latency{Count: 10}, Errors: 2, FirstError: "BUSY",
		ClientUser: 1, ClientSys: 2.5, Verified: 3,
	}
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"iqn.x LUN 1, region 3 MiB of 1 GiB", "FirstBurstLength=262144", "random 4 KiB, 70% reads, depth 32, 2 connections on 1 threads", "1234 IOPS, 5.1 MB/s",
		"3.50 µs per I/O", "verified:    3 reads", "errors:      2\nfirst error: BUSY\n", "\n  read  ", "\n  write ",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	j, err := json.Marshal(&r)
	if err != nil || !strings.Contains(string(j), `"p99_us":7.5`) || !strings.Contains(string(j), `"MaxBurstLength":1048576`) {
		t.Errorf("%v, %s", err, j)
	}
	if err := r.WriteText(brokenWriter{}); err != errBroken {
		t.Errorf("a writer that fails: %v", err)
	}
}

var errBroken = errors.New("broken")

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }
