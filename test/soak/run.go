package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/daemon"
)

// A config is what the command line says.
type config struct {
	seed       uint64
	time       time.Duration
	initiators int
	targets    int
	restart    time.Duration // about how long lunard runs before it is asked to end or killed; 0: the whole time
	hang       bool
	dir        string // of the volumes
	progress   time.Duration
	uri        func(*volume) string // see volume.other
}

// counts are of the whole run.
type counts struct {
	commands, logins, reinstated, cuts, aborts, resets, slow, orphans, reservations, drains, kills atomic.Int64
}

// A run is one soak.
type run struct {
	config
	out    io.Writer
	binary string
	layout *layout
	counts counts

	mu sync.Mutex
	d  *daemon.Daemon // guarded by mu
}

// drainTime is lunard's --drain-timeout: initiators log out as soon as their commands have ended, and those that hang never do.
const drainTime = 2 * time.Second

// soak does one whole run and returns the first violation.
func soak(ctx context.Context, c config, out io.Writer) error {
	r := &run{config: c, out: out}
	var err error
	if r.binary, err = daemon.Build(); err != nil {
		return err
	}
	r.layout = newLayout(c.seed, c.dir, c.targets, directWorks(c.dir), c.hang)
	for _, v := range r.layout.volumes {
		v.other = c.uri
	}
	// A daemon that nobody uses but for one login is what the one at the end is held against.
	before, err := r.baseline(ctx)
	if err != nil {
		return err
	}
	if err := r.launch("127.0.0.1:0"); err != nil {
		return err
	}
	defer func() { _ = r.daemon().End(syscall.SIGKILL, -1) }() // says that it has ended already, where all went well
	if err := r.load(ctx); err != nil {
		return fmt.Errorf("%w\nlunard's log ends:\n%s", err, tail(r.daemon().Log()))
	}
	return r.finish(ctx, before)
}

// directWorks reports whether files below dir can be opened with O_DIRECT.
func directWorks(dir string) bool {
	f, err := os.OpenFile(filepath.Join(dir, "probe"), os.O_CREATE|os.O_RDWR|unix.O_DIRECT, 0o600)
	if err != nil {
		return false
	}
	defer os.Remove(f.Name())
	return f.Close() == nil
}

func (r *run) daemon() *daemon.Daemon {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.d
}

// portal is where lunard is reached, also after it was started again.
func (r *run) portal() string { return r.daemon().Addr }

func (r *run) launch(addr string) error {
	args := append(r.layout.args(), fmt.Sprintf("--drain-timeout=%v", drainTime), "--state-dir="+filepath.Join(r.dir, "state"))
	d, err := daemon.Launch(r.binary, addr, args...)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.d = d
	r.mu.Unlock()
	return nil
}

// load runs the initiators, and what is done to lunard meanwhile.
func (r *run) load(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.time, errTime)
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var first atomic.Pointer[error]
	fail := func(err error) {
		if err != nil && first.CompareAndSwap(nil, &err) {
			stop(err)
		}
	}
	var wg sync.WaitGroup
	for i := range r.initiators {
		id := uint32(i)
		t := i % r.targets
		w := &worker{id: id, run: r, target: t, disks: r.layout.targets[t], plan: newPlan(r.seed, id, r.layout.targets[t], r.initiators),
			offers: rand.New(rand.NewPCG(r.seed, 1<<32|uint64(id)))}
		wg.Go(func() { fail(w.work(ctx)) })
	}
	wg.Go(func() { fail(r.restarts(ctx)) })
	wg.Go(func() { r.report(ctx) })
	wg.Wait()
	if err := first.Load(); err != nil {
		return *err
	}
	return nil
}

var errTime = errors.New("the time is over")

// restarts ends lunard now and then, in good order or not, and starts it again. In the last quarter of the run it does not, so that what leaks has
// time to show.
func (r *run) restarts(ctx context.Context) error {
	if r.restart == 0 {
		return nil
	}
	last := time.Now().Add(r.time * 3 / 4)
	rnd := rand.New(rand.NewPCG(r.seed, 1<<33))
	for kill := rnd.IntN(2) == 0; ; kill = !kill {
		pause := r.restart/2 + time.Duration(rnd.Int64N(int64(r.restart)))
		select {
		case <-ctx.Done():
			return nil
		case <-r.daemon().Done():
			return fmt.Errorf("lunard has ended by itself")
		case <-time.After(pause):
		}
		if time.Now().After(last) {
			continue
		}
		if err := r.again(kill); err != nil {
			return err
		}
	}
}

// again ends lunard and starts it where it was.
func (r *run) again(kill bool) error {
	d := r.daemon()
	if err := r.stop(d, kill); err != nil {
		return err
	}
	// Nothing that it had is done any more.
	for _, v := range r.layout.volumes {
		if err := v.h.SettleAll(); err != nil {
			return err
		}
	}
	return r.launch(d.Addr)
}

func (r *run) stop(d *daemon.Daemon, kill bool) error {
	if kill {
		r.counts.kills.Add(1)
		return d.End(syscall.SIGKILL, -1)
	}
	r.counts.drains.Add(1)
	err := d.End(syscall.SIGTERM, 0)
	if err != nil && r.hang && strayed(d.Log()) {
		err = nil // a store whose requests hang cannot be closed, and lunard says so
	}
	return errors.Join(err, sound(d.Log()))
}

// report says now and then how far it has come.
func (r *run) report(ctx context.Context) {
	if r.progress == 0 {
		return
	}
	tick := time.NewTicker(r.progress)
	defer tick.Stop()
	for start := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			fmt.Fprintf(r.out, "%6.0fs  %s\n", time.Since(start).Seconds(), r.sum())
		}
	}
}

// sum is what was done so far, on one line.
func (r *run) sum() string {
	c := &r.counts
	var blocks, failed, lost, refused, unproven uint64
	for _, v := range r.layout.volumes {
		n := v.h.Counts()
		blocks, failed, lost, refused, unproven = blocks+n.Blocks, failed+n.Failed, lost+n.Lost, refused+n.Refused, unproven+n.Unproven
	}
	return fmt.Sprintf("%d commands, %d blocks checked (%d ambiguous zeroes), writes: %d failed %d lost %d refused; %d logins (%d beside itself), %d cuts, %d aborts (%d slow, %d taken away), "+
		"%d resets, %d reservations; lunard: %d drains, %d kills", c.commands.Load(), blocks, unproven, failed, lost, refused, c.logins.Load(), c.reinstated.Load(), c.cuts.Load(), c.aborts.Load(),
		c.slow.Load(), c.orphans.Load(), c.resets.Load(), c.reservations.Load(), c.drains.Load(), c.kills.Load())
}

// verifyTries is how often a read of the check at the end is repeated: a store that fails now and then answers at last.
const verifyTries = 16

// verifyAll reads every disk whole.
func (r *run) verifyAll(ctx context.Context) error {
	for t, ds := range r.layout.targets {
		s, err := initiator.Login(ctx, initiator.Options{Portal: r.portal(), TargetName: daemon.Prefix + targetName(t)})
		if err != nil {
			return err
		}
		err = r.verifyTarget(ctx, s, ds)
		s.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *run) verifyTarget(ctx context.Context, s *initiator.Session, ds []*disk) error {
	for _, d := range ds {
		n := 32 << 10 / d.blockSize
		for lba := uint64(0); lba < d.blocks; lba += n {
			var b [16]byte
			initiator.PutRead(&b, lba, uint32(n))
			for try := 0; ; try++ {
				o := d.h.Read(uint32(r.initiators), lba, n, "READ of the check at the end")
				res, err := s.Command(ctx, d.lun, b[:10], nil, int(n*d.blockSize))
				if err != nil {
					return err
				}
				if err = res.Err(); err == nil {
					if err := o.Done(res.Data); err != nil {
						return fmt.Errorf("disk %s: %w", d.path, err)
					}
					break
				}
				if failed := o.Failed(); failed != nil || try == verifyTries {
					return fmt.Errorf("disk %s: reading block %d: %w", d.path, lba, errors.Join(err, failed))
				}
			}
		}
	}
	return nil
}
