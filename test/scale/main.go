package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/session/initiator/load"
	"github.com/lunar-iscsi/lunar/test/gauge"
)

// The goals.
const (
	goalMemory = 512 << 20        // bytes resident
	goalCPU    = 2.0              // percent of one processor, idle
	goalBack   = 30 * time.Second // all sessions back after a restart
	spareFDs   = 128              // descriptors of ours besides the sessions
	loginLimit = 3 * time.Minute  // how long we wait for all to log in
)

// options are the command line.
type options struct {
	targets, sessions int
	idle, busy        float64
	lunard, lunarctl  string
	out               string
}

func main() {
	runtime.LockOSThread() // the daemon is tied to the thread that starts it: it must not outlive us, nor die before
	var o options
	flag.IntVar(&o.targets, "targets", 1000, "targets of one lunard")
	flag.IntVar(&o.sessions, "sessions", 10000, "sessions in all")
	flag.Float64Var(&o.idle, "idle", 60, "`seconds` over which the idle daemon's processor time is taken")
	flag.Float64Var(&o.busy, "busy", 5, "`seconds` of load on one target")
	flag.StringVar(&o.lunard, "lunard", "", "lunard `binary` (default: build it)")
	flag.StringVar(&o.lunarctl, "lunarctl", "", "lunarctl `binary` (default: build it)")
	flag.StringVar(&o.out, "out", "", "Markdown `file` to write too")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options) (err error) {
	if o.targets < 1 || o.sessions < 1 || o.idle <= 0 || o.busy <= 0 {
		return errors.New("all numbers must be above 0")
	}
	limit, err := raiseLimit(uint64(o.sessions + spareFDs))
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "lunar-scale-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := gauge.Build(ctx, dir, &o.lunard, &o.lunarctl); err != nil {
		return err
	}
	t := &gauge.Table{}
	t.Add("descriptors that a process may have", fmt.Sprint(limit))
	err = measure(ctx, o, dir, t)
	return t.Report(err, o.out, fmt.Sprintf("%d targets and %d sessions in one lunard", o.targets, o.sessions), "")
}

// raiseLimit raises the limit on descriptors as far as it goes, for us and the processes that we start.
func raiseLimit(need uint64) (uint64, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, err
	}
	l.Cur = l.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("raise the limit on descriptors to %d: %w", l.Max, err)
	}
	if l.Max < need {
		return 0, fmt.Errorf("this machine allows a process %d descriptors (ulimit -Hn), %d are needed: take fewer --sessions", l.Max, need)
	}
	return l.Max, nil
}

// measure fills the table.
func measure(ctx context.Context, o *options, dir string, t *gauge.Table) error {
	portal, err := gauge.FreeAddress()
	if err != nil {
		return err
	}
	d, took, err := startDaemon(ctx, o.lunard, dir, portal, o.targets)
	if err != nil {
		return err
	}
	defer func() { d.Kill() }()
	t.Add(fmt.Sprintf("start with %d targets until the portal listens", o.targets), ms(took))
	empty, err := d.footprint()
	if err != nil {
		return err
	}
	t.Add("resident, threads, descriptors without a session", empty.String())
	alone, err := busy(ctx, o, portal)
	if err != nil {
		return err
	}

	f := &fleet{portal: portal, sessions: o.sessions, targets: o.targets, retry: retryAfter}
	defer f.close()
	if took, err = f.loginWithin(ctx); err != nil {
		return err
	}
	t.Goal(fmt.Sprintf("%d sessions log in at once", o.sessions), ms(took), "≤ "+goalBack.String(), took <= goalBack)
	retries(t, f)
	if err := idle(ctx, o, d, f, t); err != nil {
		return err
	}
	beside, err := busy(ctx, o, portal)
	if err != nil {
		return err
	}
	t.Add("one busy target, 4 KiB reads, depth 8, alone", latencies(alone))
	t.Add("the same beside all idle sessions", latencies(beside))

	d.Kill()
	f.close()
	if d, took, err = startDaemon(ctx, o.lunard, dir, portal, o.targets); err != nil {
		return err
	}
	t.Add("start again after the daemon was killed", ms(took))
	if took, err = f.loginWithin(ctx); err != nil {
		return err
	}
	t.Goal("all sessions are back", ms(took), "≤ "+goalBack.String(), took <= goalBack)
	retries(t, f)
	return nil
}

func (f *fleet) loginWithin(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, loginLimit)
	defer cancel()
	return f.login(ctx)
}

// idle takes the daemon's footprint and processor time while nothing but keepalive happens.
func idle(ctx context.Context, o *options, d *daemon, f *fleet, t *gauge.Table) error {
	before, err := d.footprint()
	if err != nil {
		return err
	}
	pings := f.pings.Load()
	start := time.Now()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-d.Ended:
		return d.Failed()
	case <-time.After(time.Duration(o.idle * float64(time.Second))):
	}
	after, err := d.footprint()
	if err != nil {
		return err
	}
	share := float64(after.cpu-before.cpu) / float64(time.Since(start)) * 100
	t.Goal("memory resident", mib(after.rss), "≤ "+mib(goalMemory), after.rss <= goalMemory)
	t.Add("memory resident at most", mib(after.peak))
	t.Goal("threads", fmt.Sprint(after.threads), fmt.Sprintf("fewer than targets (%d)", o.targets), after.threads < int64(max(o.targets, 64)))
	t.Add("descriptors", fmt.Sprint(after.descriptors))
	t.Goal(fmt.Sprintf("processor time, idle for %.0f s", o.idle), fmt.Sprintf("%.2f %% of a processor", share), fmt.Sprintf("≤ %.0f %%", goalCPU), share <= goalCPU)
	pinged := f.pings.Load() - pings
	t.Goal("pings answered meanwhile", fmt.Sprint(pinged), fmt.Sprintf("≥ %d: keepalive is on", o.sessions), pinged >= int64(o.sessions))
	t.Goal("sessions lost", fmt.Sprint(f.lost.Load()), "0", f.lost.Load() == 0)
	return nil
}

// busy puts the first target under load.
func busy(ctx context.Context, o *options, portal string) (*load.Report, error) {
	return gauge.Load(ctx, o.lunarctl, portal, iqn(0), busyLUN, 8, o.busy)
}

// retries notes how many logins had to be tried again, and why the first of them.
func retries(t *gauge.Table, f *fleet) {
	if n := f.retries.Load(); n > 0 {
		t.Add(fmt.Sprintf("  tries after a refusal, each %v later", f.retry), fmt.Sprintf("%d (%v)", n, f.first()))
	}
}

func (f footprint) String() string {
	return fmt.Sprintf("%s, %d, %d", mib(f.rss), f.threads, f.descriptors)
}

func latencies(r *load.Report) string {
	return fmt.Sprintf("%.0f IOPS, p50 %.0f, p99 %.0f, p99.9 %.0f µs", r.IOPS, r.Latency.P50, r.Latency.P99, r.Latency.P999)
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func ms(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }
