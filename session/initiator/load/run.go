package load

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/session/initiator"
)

// Run does what c says. Errors of single commands are in the Report; the error is what kept the run from being done or from
// coming to its end (then the Report, if there is one, holds what was measured up to there). It ends early, and
// without an error, when ctx does: the Report's Seconds tell.
func Run(ctx context.Context, c Config) (*Report, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	queues, blocks, block, err := open(ctx, &c)
	defer func() {
		for _, q := range queues {
			if q != nil {
				q.Close()
			}
		}
	}()
	if err != nil {
		return nil, err
	}
	volume := int64(blocks) * int64(block)
	r, err := c.region(volume, block)
	if err != nil {
		return nil, err
	}
	rep := &Report{
		Target: c.Options.TargetName, LUN: c.LUN.String(), BlockSize: c.BlockSize, Depth: c.Depth, Rate: c.Rate, ReadPercent: c.ReadPercent,
		Sequential: c.Sequential, Connections: c.Connections, Threads: c.Threads, Volume: volume, Region: r.size, Params: queues[0].Params(),
	}
	if c.Fill {
		if err := fill(ctx, &c, r, queues[0], rep); err != nil || rep.Errors > 0 || ctx.Err() != nil {
			return rep, err
		}
	} else if c.Verify > 0 {
		if err := filled(&c, r, queues[0]); err != nil {
			return rep, err
		}
	}
	if c.Duration > 0 {
		if err := measure(ctx, &c, r, queues, rep); err != nil {
			return rep, err
		}
	}
	for _, q := range queues {
		// All figures are in. A target that closes the connection instead of answering the logout is a peer's fault to overlook.
		if err := q.Logout(c.Stall); err != nil && !errors.Is(err, initiator.ErrClosed) && !c.Options.Lenient {
			return rep, fmt.Errorf("logout: %w", err)
		}
	}
	return rep, nil
}

// region returns the part of a volume of so many bytes that c uses.
func (c *Config) region(volume int64, block int) (region, error) {
	r := region{offset: c.Offset, size: c.Size, block: block}
	if r.offset%int64(block) != 0 || c.BlockSize%block != 0 {
		return r, fmt.Errorf("region offset %d and block size %d are not both multiples of the volume's block, %d", r.offset, c.BlockSize, block)
	}
	if r.size == 0 {
		r.size = volume - r.offset
	}
	if r.offset > volume || r.size > volume-r.offset {
		return r, fmt.Errorf("region of %d bytes at %d is beyond the volume's %d", r.size, r.offset, volume)
	}
	if r.size < int64(c.BlockSize) {
		return r, fmt.Errorf("region of %d bytes is smaller than one command", r.size)
	}
	r.size -= r.size % int64(block)
	return r, nil
}

// loginsAtOnce bounds how many sessions are opened side by side.
const loginsAtOnce = 32

// open logs all sessions in, each under an ISID of its own, and has each ready for commands. It returns those that it
// opened, whatever became of the others, and what the first says of the volume.
func open(ctx context.Context, c *Config) (queues []*initiator.Queue, blocks uint64, block int, err error) {
	var random [3]byte
	crand.Read(random[:])
	type outcome struct {
		i      int
		q      *initiator.Queue
		blocks uint64
		block  int
		err    error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	next := make(chan int)
	ends := make(chan outcome)
	for range min(loginsAtOnce, c.Connections) {
		go func() {
			for i := range next {
				o := c.Options
				o.Depth = max(c.Depth, fillDepth)
				if o.Slab == 0 {
					o.Slab = min(o.Depth*c.BlockSize, initiator.DefaultSlab)
				}
				// RFC 7143 §11.12.5: type 10b, random; the qualifier tells the sessions of this run apart.
				o.ISID = [6]byte{0x80, random[0], random[1], random[2], byte(i >> 8), byte(i)}
				e := outcome{i: i}
				if e.q, e.err = initiator.OpenQueue(ctx, o); e.err == nil {
					e.blocks, e.block, e.err = capacity(e.q, c)
				}
				ends <- e
			}
		}()
	}
	go func() {
		defer close(next)
		for i := range c.Connections {
			next <- i
		}
	}()
	queues = make([]*initiator.Queue, c.Connections)
	for range c.Connections {
		e := <-ends
		queues[e.i] = e.q
		if e.err != nil && err == nil {
			err = e.err
			cancel() // the others end soon
		}
		if e.i == 0 {
			blocks, block = e.blocks, e.block
		}
	}
	return queues, blocks, block, err
}

// fill writes the pattern to the region.
func fill(ctx context.Context, c *Config, r region, q *initiator.Queue, rep *Report) error {
	size := int64(fillSize - fillSize%r.block)
	if size == 0 {
		size = int64(r.block)
	}
	ios := make([]initiator.IO, fillDepth)
	idle := make([]*initiator.IO, 0, fillDepth)
	for i := range ios {
		buf := make([]byte, size)
		Fill(buf, 0)
		ios[i].In, ios[i].Out, ios[i].LUN = nil, buf, c.LUN
		idle = append(idle, &ios[i])
	}
	begin := time.Now()
	report := begin
	var at, reported int64
	ended := int64(0)
	for at < r.size || len(idle) < fillDepth {
		for len(idle) > 0 && at < r.size && ctx.Err() == nil && rep.Errors == 0 {
			io := idle[len(idle)-1]
			idle = idle[:len(idle)-1]
			n := min(size, r.size-at)
			io.Out = io.Out[:n]
			Stamp(io.Out, r.offset+at)
			initiator.PutWrite(&io.CDB, uint64(r.offset+at)/uint64(r.block), uint32(n)/uint32(r.block))
			at += n
			q.Submit(io)
		}
		if len(idle) == fillDepth {
			break // stopped
		}
		done, err := q.Wait(c.Stall)
		if err != nil {
			return fmt.Errorf("fill: %w", err)
		}
		if len(done) == 0 {
			return fmt.Errorf("fill: no write has ended for %v", c.Stall)
		}
		for _, io := range done {
			idle = append(idle, io)
			if err := io.Failure(); err != nil {
				rep.Errors++
				if rep.FirstError == "" {
					rep.FirstError = "fill: " + err.Error()
				}
				continue
			}
			ended += int64(len(io.Out))
		}
		if since := time.Since(report); c.Progress != nil && since >= time.Second {
			mbps := float64(ended-reported) / since.Seconds() / 1e6
			c.Progress(Progress{Phase: "fill", Elapsed: time.Since(begin), MBps: mbps, IOPS: mbps * 1e6 / float64(size), Errors: rep.Errors, Done: float64(ended) / float64(r.size)})
			report, reported = time.Now(), ended
		}
	}
	rep.Filled = ended
	rep.FillMBps = float64(ended) / time.Since(begin).Seconds() / 1e6
	return nil
}

// filled looks whether the region holds the pattern where it begins and where it ends.
func filled(c *Config, r region, q *initiator.Queue) error {
	n := max(r.block, blockSize)
	io := &initiator.IO{LUN: c.LUN, In: make([]byte, n), InLen: uint32(n)}
	for _, at := range []int64{r.offset, r.offset + r.size - int64(n)} {
		initiator.PutRead(&io.CDB, uint64(at)/uint64(r.block), uint32(n/r.block))
		if err := q.Do(io, c.Stall); err != nil {
			return err
		}
		if err := io.Failure(); err != nil {
			return fmt.Errorf("read at %d: %w", at, err)
		}
		if err := Check(io.In, at); err != nil {
			return fmt.Errorf("the region does not hold the pattern, so reads cannot be verified (fill it first): %w", err)
		}
	}
	return nil
}

// measure runs the load.
func measure(ctx context.Context, c *Config, r region, queues []*initiator.Queue, rep *Report) error {
	sh := new(shared)
	workers := make([]*worker, c.Threads)
	for i := range workers {
		lo, hi := len(queues)*i/c.Threads, len(queues)*(i+1)/c.Threads
		w, err := newWorker(c, sh, r, queues[lo:hi], lo)
		if err != nil {
			return err
		}
		workers[i] = w
	}
	errs := make([]error, len(workers))
	failed := make(chan struct{}, len(workers))
	var wg sync.WaitGroup
	for i, w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if errs[i] = w.run(); errs[i] != nil {
				sh.stop.Store(true)
				failed <- struct{}{}
			}
		}()
	}
	alive := phase(ctx, c, sh, "warm-up", c.Warmup, failed)
	sh.measure.Store(true)
	before, u0 := snapshot(sh), usage()
	if alive {
		phase(ctx, c, sh, "run", c.Duration, failed)
	}
	after, u1 := snapshot(sh), usage()
	sh.stop.Store(true)
	wg.Wait()

	ios := float64(after.ios - before.ios)
	rep.Seconds = after.at.Sub(before.at).Seconds()
	rep.IOPS = ios / rep.Seconds
	rep.MBps = float64(after.bytes-before.bytes) / rep.Seconds / 1e6
	if ios > 0 {
		rep.ClientUser = float64(u1.user-u0.user) / 1e3 / ios
		rep.ClientSys = float64(u1.sys-u0.sys) / 1e3 / ios
	}
	all, read, write := new(Histogram), new(Histogram), new(Histogram)
	for _, w := range workers {
		read.Merge(&w.read)
		write.Merge(&w.write)
		rep.Verified += w.verified
		rep.Errors += w.errors
		rep.Attentions += w.attentions
		if rep.FirstError == "" {
			rep.FirstError = w.firstError
		}
	}
	all.Merge(read)
	all.Merge(write)
	rep.Latency, rep.Read, rep.Write = latency(all), latency(read), latency(write)
	return errors.Join(errs...)
}

// phase lets the load run for d, telling of progress, and reports whether to go on.
func phase(ctx context.Context, c *Config, sh *shared, name string, d time.Duration, failed <-chan struct{}) bool {
	end := time.NewTimer(d)
	defer end.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	begin, last := time.Now(), snapshot(sh)
	for {
		select {
		case <-ctx.Done():
			return false
		case <-failed:
			return false
		case <-end.C:
			return true
		case <-tick.C:
		}
		if c.Progress == nil {
			continue
		}
		now := snapshot(sh)
		s := now.at.Sub(last.at).Seconds()
		c.Progress(Progress{
			Phase: name, Elapsed: now.at.Sub(begin), Total: d, Errors: sh.errors.Load(), Done: min(1, now.at.Sub(begin).Seconds()/d.Seconds()),
			IOPS: float64(now.ios-last.ios) / s, MBps: float64(now.bytes-last.bytes) / s / 1e6,
		})
		last = now
	}
}

type counts struct {
	at         time.Time
	ios, bytes uint64
}

func snapshot(sh *shared) counts { return counts{time.Now(), sh.ios.Load(), sh.bytes.Load()} }

type cpu struct{ user, sys time.Duration }

// usage returns the CPU time of this process.
func usage() cpu {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return cpu{}
	}
	return cpu{time.Duration(u.Utime.Nano()), time.Duration(u.Stime.Nano())}
}
