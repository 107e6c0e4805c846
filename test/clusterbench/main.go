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
	"slices"
	"strings"
	"syscall"

	"github.com/lunar-iscsi/lunar/test/gauge"
)

// The goals.
const (
	goalShare = 0.9  // of the driver's own IOPS, on reads at depth 32
	goalCPU   = 0.75 // of tgtd-rbd's processor time for a read of 4 KiB, at depth 32
	goalNBD   = 2.5  // times the file driver's processor time
)

// options are the command line.
type options struct {
	rounds           int
	seconds          float64
	rows             string
	size             int64 // bytes of every volume
	lunard, lunarctl string
	out              string
}

// A work is what a row does.
type work struct {
	name  string
	block int
	write bool
	depth int
}

func works(engine string) (all []work) {
	for _, block := range []int{4 << 10, 64 << 10} {
		for _, write := range []bool{false, true} {
			for _, depth := range []int{1, 32} {
				op := "read"
				if write {
					op = "write"
				}
				all = append(all, work{fmt.Sprintf("%s %dk %s, depth %d", engine, block>>10, op, depth), block, write, depth})
			}
		}
	}
	return all
}

// A sample is one subject's figures of one round.
type sample struct{ iops, cpu float64 } // processor time in µs an I/O

// A subject is one way to the data.
type subject struct {
	name    string
	measure func(ctx context.Context, w *work, seconds float64) (sample, error)
}

func main() {
	runtime.LockOSThread() // the servers are tied to the thread that starts them: they must not outlive us, nor die before
	o := options{size: 128 << 20}
	flag.IntVar(&o.rounds, "rounds", 5, "interleaved rounds")
	flag.Float64Var(&o.seconds, "seconds", 2, "`seconds` of each subject in a round")
	flag.StringVar(&o.rows, "rows", "rbd,nbd", "which `engines`, by commas")
	flag.StringVar(&o.lunard, "lunard", "", "lunard `binary` with the rbd driver (default: build it)")
	flag.StringVar(&o.lunarctl, "lunarctl", "", "lunarctl `binary` (default: build it)")
	flag.StringVar(&o.out, "out", "", "Markdown `file` to write too")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, "clusterbench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options) (err error) {
	if o.rounds < 1 || o.seconds <= 0 {
		return errors.New("all numbers must be above 0")
	}
	dir, err := os.MkdirTemp("/dev/shm", "clusterbench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		return err
	}
	if err := gauge.Build(ctx, filepath.Join(dir, "bin"), &o.lunard, &o.lunarctl); err != nil {
		return err
	}
	t := &gauge.Table{}
	for engine := range strings.SplitSeq(o.rows, ",") {
		if err = o.engine(ctx, engine, dir, t); err != nil {
			break
		}
	}
	return t.Report(err, o.out, "In front of a block cluster",
		fmt.Sprintf("%d interleaved rounds of %.3g s: IOPS, and processor time in µs an I/O of lunard, tgtd or, for the driver alone, this program; medians", o.rounds, o.seconds))
}

// engine measures the rows of one engine.
func (o *options) engine(ctx context.Context, engine, dir string, t *gauge.Table) error {
	switch engine {
	case "rbd":
		r, err := startRBD(ctx, o, dir)
		if err == nil {
			err = o.table(ctx, t, works("RBD"), r.subjects, rbdGoals)
		}
		return errors.Join(err, r.stop())
	case "nbd":
		r, err := startNBD(ctx, o, dir)
		if err == nil {
			err = o.table(ctx, t, works("NBD"), r.subjects, nbdGoals)
		}
		return errors.Join(err, r.stop())
	}
	return fmt.Errorf("--rows: %q: want rbd or nbd", engine)
}

// table measures every row on every subject, interleaved.
func (o *options) table(ctx context.Context, t *gauge.Table, rows []work, subjects []subject, goals func(t *gauge.Table, w *work, m map[string]sample)) error {
	for i := range rows {
		w := &rows[i]
		all := map[string][]sample{}
		for round := range o.rounds + 1 {
			for k := range subjects {
				s := subjects[(k+round)%len(subjects)] // nobody is always first
				seconds := o.seconds
				if round == 0 {
					seconds = min(seconds, .5) // not counted: it faults memory in and lets a server make its threads
				}
				x, err := s.measure(ctx, w, seconds)
				if err != nil {
					return fmt.Errorf("%s: %s: %w", w.name, s.name, err)
				}
				if round != 0 {
					all[s.name] = append(all[s.name], x)
					fmt.Fprintf(os.Stderr, "  %d/%d %-26s %-20s %9.0f IOPS %8.2f µs/IO\n", round, o.rounds, w.name, s.name, x.iops, x.cpu)
				}
			}
		}
		medians := map[string]sample{}
		for _, s := range subjects {
			m := sample{median(all[s.name], func(x sample) float64 { return x.iops }), median(all[s.name], func(x sample) float64 { return x.cpu })}
			medians[s.name] = m
			t.Add(w.name+": "+s.name, fmt.Sprintf("%.0f IOPS, %.2f µs", m.iops, m.cpu))
		}
		goals(t, w, medians)
	}
	return nil
}

func median(all []sample, of func(sample) float64) float64 {
	var v []float64
	for _, x := range all {
		v = append(v, of(x))
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func rbdGoals(t *gauge.Table, w *work, m map[string]sample) {
	own, peer, direct := m[lunarName], m[tgtdName], m[driverName]
	if share := own.iops / direct.iops; w.depth == 32 && !w.write {
		t.Goal(w.name+": IOPS of the driver's own", fmt.Sprintf("%.2f", share), fmt.Sprintf("≥ %.2f", goalShare), share >= goalShare)
	}
	if peer.cpu == 0 {
		return // there is no tgtd
	}
	ratio := own.cpu / peer.cpu
	what, figure := w.name+": CPU of tgtd's", fmt.Sprintf("%.2f", ratio)
	if w.depth == 32 && !w.write && w.block == 4<<10 {
		t.Goal(what, figure, fmt.Sprintf("≤ %.2f", goalCPU), ratio <= goalCPU)
	} else {
		t.Add(what, figure)
	}
}

func nbdGoals(t *gauge.Table, w *work, m map[string]sample) {
	ratio := m[lunarName].cpu / m[fileName].cpu
	what, figure := w.name+": CPU of the file driver's", fmt.Sprintf("%.2f", ratio)
	if w.depth == 32 && w.block == 4<<10 {
		t.Goal(what, figure, fmt.Sprintf("≤ %.1f", goalNBD), ratio <= goalNBD)
	} else {
		t.Add(what, figure)
	}
	if share := m[lunarName].iops / m[driverName].iops; w.depth == 32 && !w.write {
		t.Add(w.name+": IOPS of the driver's own", fmt.Sprintf("%.2f", share))
	}
}
