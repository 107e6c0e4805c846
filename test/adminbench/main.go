package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/lunar-iscsi/lunar/test/gauge"
)

// The goals.
const (
	goalP99    = 10 * time.Millisecond
	goalLoss   = 10.0 // percent of throughput, the median
	goalScrape = time.Second
)

// options are the command line.
type options struct {
	rounds           int
	seconds, rate    float64
	targets          int
	lunard, lunarctl string
	dir, out         string
}

func main() {
	runtime.LockOSThread() // the daemons are tied to the thread that starts them: they must not outlive us, nor die before
	var o options
	flag.IntVar(&o.rounds, "rounds", 10, "interleaved rounds")
	flag.Float64Var(&o.seconds, "seconds", 4, "`seconds` of each half of a round")
	flag.Float64Var(&o.rate, "rate", 100, "calls a second")
	flag.IntVar(&o.targets, "targets", 1000, "targets of the daemon whose metrics are scraped")
	flag.StringVar(&o.lunard, "lunard", "", "lunard `binary` (default: build it)")
	flag.StringVar(&o.lunarctl, "lunarctl", "", "lunarctl `binary` (default: build it)")
	flag.StringVar(&o.dir, "dir", "", "`folder` on a disk for saved state (default: bin/ of the module)")
	flag.StringVar(&o.out, "out", "", "Markdown `file` to write too")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, "adminbench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options) (err error) {
	if o.rounds < 1 || o.seconds <= 0 || o.rate <= 0 || o.targets < 1 {
		return errors.New("all numbers must be above 0")
	}
	if o.dir == "" {
		o.dir = "bin"
		if err := os.MkdirAll(o.dir, 0o755); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp(o.dir, "adminbench-")
	if err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := gauge.Build(ctx, dir, &o.lunard, &o.lunarctl); err != nil {
		return err
	}
	t := &gauge.Table{}
	if err = measure(ctx, o, dir, t); err == nil {
		err = scrapes(ctx, o, dir, t)
	}
	return t.Report(err, o.out, "Administration under load", fmt.Sprintf("%.0f calls a second, six of ten saved, on a target under 4 KiB reads of depth 32; %d interleaved rounds of 2 × %.0f s",
		o.rate, o.rounds, o.seconds))
}

// measure runs the rounds.
func measure(ctx context.Context, o *options, dir string, t *gauge.Table) error {
	busy, err := start(ctx, o.lunard, filepath.Join(dir, "busy"), 1)
	if err != nil {
		return err
	}
	defer busy.Kill()
	idle, err := start(ctx, o.lunard, filepath.Join(dir, "idle"), 1)
	if err != nil {
		return err
	}
	defer idle.Kill()
	var calls, control []time.Duration
	var losses, p99s, controls []float64
	for round := range o.rounds {
		var half [2]half
		for i := range half {
			which := (i + round) % 2 // each half goes first in every other round
			d := idle
			if which == 1 {
				d = busy
			}
			if half[which], err = o.half(ctx, busy.portal, d); err != nil {
				return err
			}
		}
		control, calls = append(control, half[0].took...), append(calls, half[1].took...)
		loss := (1 - half[1].iops/half[0].iops) * 100
		losses = append(losses, loss)
		controls, p99s = append(controls, millis(quantile(half[0].took, .99))), append(p99s, millis(quantile(half[1].took, .99)))
		fmt.Fprintf(os.Stderr, "round %d: idle p99 %.2f ms at %.0f IOPS, busy p99 %.2f ms at %.0f IOPS (%.1f %% less)\n",
			round+1, controls[round], half[0].iops, p99s[round], half[1].iops, loss)
	}
	t.Add("calls on the idle daemon, p50, p99, most", latencies(control))
	t.Add("calls on the busy target, p50, p99, most", latencies(calls))
	t.Add("p99 by round, idle: median (lowest to highest)", spread(controls, "ms"))
	t.Goal("p99 by round, busy: median (lowest to highest)", spread(p99s, "ms"), "< "+goalP99.String(), median(p99s) < millis(goalP99))
	t.Goal("loss of throughput: median (lowest to highest)", spread(losses, "%"), fmt.Sprintf("< %.0f %%", goalLoss), median(losses) < goalLoss)
	return nil
}

// A half is one half of a round.
type half struct {
	iops float64
	took []time.Duration
}

// half puts the busy target under load and makes calls to d meanwhile.
func (o *options) half(ctx context.Context, portal string, d *daemon) (h half, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		iops float64
		err  error
	}
	done := make(chan result, 1)
	go func() {
		iops, err := o.load(ctx, portal)
		done <- result{iops, err}
	}()
	tick := time.NewTicker(time.Duration(float64(time.Second) / o.rate))
	defer tick.Stop()
	for {
		select {
		case r := <-done:
			if r.err == nil && len(h.took) == 0 {
				r.err = errors.New("the load ended before a call was made")
			}
			h.iops = r.iops
			return h, r.err
		case due := <-tick.C: // a call that has to wait for the one before it has begun all the same
			c := mix(1, d.calls)
			d.calls++
			if _, err := c.do(ctx, d.socket); err != nil {
				return h, errors.Join(err, d.Failed())
			}
			h.took = append(h.took, time.Since(due))
		}
	}
}
