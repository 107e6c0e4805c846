package longhorn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/longhorn/internal/rpc"
)

// statusPoll is how often long work of the sync agents is looked after.
const statusPoll = 100 * time.Millisecond

// deleteSnapshot marks a snapshot as removed in every replica and has their sync agents join its file with the next one.
func deleteSnapshot(ctx context.Context, u *backstore.URI, name string, p backstore.Progress) error {
	const op = "delete snapshot"
	return controlled(ctx, u, op, func(c *config, cl *rpc.Client, _ rpc.Volume) error {
		if _, err := c.find(ctx, cl, op, name); err != nil {
			return err
		}
		list, err := c.complete(ctx, cl, op)
		if err != nil {
			return err
		}
		for _, r := range list {
			rc, err := rpc.Dial(r.Address, c.volume)
			if err != nil {
				return c.failed(op, err)
			}
			err = rc.MarkRemoved(ctx, name)
			rc.Close()
			if err != nil {
				return c.failed(op, err)
			}
		}
		return c.onAgents(ctx, op, list, p, (*rpc.Client).Purge, (*rpc.Client).PurgeStatus)
	})
}

// onAgents begins work with the sync agent of each replica and waits until all have ended it.
func (c *config) onAgents(ctx context.Context, op string, list []rpc.Replica, p backstore.Progress,
	begin func(*rpc.Client, context.Context) error, status func(*rpc.Client, context.Context) (rpc.Status, error)) error {
	percent := make([]int, len(list))
	var mu sync.Mutex
	report := func(i, n int) {
		mu.Lock()
		defer mu.Unlock()
		percent[i] = max(percent[i], min(n, 100))
		sum := 0
		for _, k := range percent {
			sum += k
		}
		p.Report(int64(sum), int64(100*len(list)))
	}
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, r := range list {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := onAgent(ctx, r, c.volume, func(n int) { report(i, n) }, begin, status); err != nil {
				errs[i] = fmt.Errorf("the replica at %s: %w", r.Address, err)
			}
		}()
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			if ctx.Err() != nil {
				return opError(op, backstore.ClassCancelled, "%w; the replicas go on with it by themselves", ctx.Err())
			}
			return c.failed(op, errors.Join(errs...))
		}
	}
	return nil
}

// onAgent begins work with one sync agent; begin returns at once or when it has ended.
func onAgent(ctx context.Context, r rpc.Replica, volume string, report func(int),
	begin func(*rpc.Client, context.Context) error, status func(*rpc.Client, context.Context) (rpc.Status, error)) error {
	addr, err := rpc.AgentOf(r.Address)
	if err != nil {
		return err
	}
	cl, err := rpc.Dial(addr, volume)
	if err != nil {
		return err
	}
	defer cl.Close()
	begun := make(chan error, 1)
	go func() { begun <- begin(cl, ctx) }()
	tick := time.NewTicker(statusPoll)
	defer tick.Stop()
	for ended := false; ; {
		select {
		case err := <-begun:
			if err != nil {
				return err
			}
			ended = true
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		s, err := status(cl, ctx)
		if err != nil {
			if ended {
				return err
			}
			continue // begin tells
		}
		if ended && !s.Running {
			if s.Error != "" {
				return errors.New(s.Error)
			}
			report(100)
			return nil
		}
		if s.Running {
			report(s.Percent)
		}
	}
}

// quiesced runs f while the volume's frontend is down, if it is one that can be put up again from here and nobody uses it. keep: when f fails it stays
// down, since what the volume has then is not to be used.
func (c *config) quiesced(ctx context.Context, cl *rpc.Client, op string, v rpc.Volume, keep bool, f func() error) error {
	if v.Frontend == "" || v.FrontendState != "up" {
		return f()
	}
	if v.Frontend != "socket" {
		return opError(op, backstore.ClassBusy, "the frontend %q of %s is up: attach the volume in maintenance mode, without a frontend", v.Frontend, c.shown())
	}
	if err := c.unused(ctx, op); err != nil {
		return err
	}
	if err := cl.StopFrontend(ctx); err != nil {
		return c.failed(op, err)
	}
	err := f()
	if err != nil && keep {
		return fmt.Errorf("%w; the frontend %q of %s is left down", err, v.Frontend, c.shown())
	}
	// Whatever became of it, and of ctx: the volume is to be there again.
	again, cancel := context.WithTimeout(context.WithoutCancel(ctx), shortCall)
	defer cancel()
	if up := cl.StartFrontend(again, v.Frontend); up != nil {
		return errors.Join(err, opError(op, backstore.ClassOffline, "the frontend %q of %s was shut down and does not start again: %w", v.Frontend, c.shown(), up))
	}
	return errors.Join(err, c.listens(again, op))
}

// listens waits until the frontend takes connections, which it does a moment after it was started.
func (c *config) listens(ctx context.Context, op string) error {
	tick := time.NewTicker(statusPoll / 10)
	defer tick.Stop()
	for {
		var d net.Dialer
		nc, err := d.DialContext(ctx, "unix", c.socket)
		if err == nil {
			return nc.Close()
		}
		select {
		case <-ctx.Done():
			return opError(op, backstore.ClassOffline, "the frontend of %s is not back: %w", c.shown(), err)
		case <-tick.C:
		}
	}
}

// rollback reverts to a snapshot, which an engine does only while its frontend is down.
func rollback(ctx context.Context, u *backstore.URI, name string, p backstore.Progress) error {
	const op = "rollback"
	return controlled(ctx, u, op, func(c *config, cl *rpc.Client, v rpc.Volume) error {
		if _, err := c.find(ctx, cl, op, name); err != nil {
			return err
		}
		return c.quiesced(ctx, cl, op, v, false, func() error {
			ctx, cancel := context.WithTimeout(ctx, callTime)
			defer cancel()
			if err := cl.Revert(ctx, name); err != nil {
				return c.failed(op, err)
			}
			p.Report(1, 1)
			return nil
		})
	})
}

// resize grows a volume that is open nowhere: see resize.go for which engines can.
func resize(ctx context.Context, u *backstore.URI, size int64, _ bool, p backstore.Progress) error {
	const op = "resize"
	return controlled(ctx, u, op, func(c *config, cl *rpc.Client, v rpc.Volume) error {
		switch {
		case size <= 0 || size%sector != 0:
			return opError(op, backstore.ClassRange, "%d bytes is no positive multiple of %d", size, sector)
		case size == v.Size:
			return nil
		case size < v.Size:
			return opError(op, backstore.ClassUnsupported, "from %d to %d bytes: a Longhorn volume cannot shrink", v.Size, size)
		case v.Frontend != "":
			return opError(op, backstore.ClassUnsupported, "the engine of %s has the frontend %q, with which it cannot grow from here: have Longhorn expand the volume", c.shown(), v.Frontend)
		}
		if _, err := cl.Expand(ctx, size); err != nil {
			return c.failed(op, err)
		}
		tick := time.NewTicker(statusPoll)
		defer tick.Stop()
		for {
			now, err := c.volumeOf(ctx, cl, op)
			switch {
			case err != nil:
				return err
			case now.Expanding:
			case now.Size == size:
				p.Report(size, size)
				return nil
			default:
				return opError(op, backstore.ClassInternal, "the engine of %s still has %d bytes: %s", c.shown(), now.Size, now.ExpansionError)
			}
			select {
			case <-ctx.Done():
				return opError(op, backstore.ClassCancelled, "%w; the engine goes on with it by itself", ctx.Err())
			case <-tick.C:
			}
		}
	})
}

// clone copies a snapshot into a volume that exists, of the same size and empty: the volume itself is made by Longhorn's manager. Where it fails some of the
// replicas may have the copy and others not, or still be at it: then the volume stays down.
func clone(ctx context.Context, u *backstore.URI, name string, to *backstore.URI, p backstore.Progress) error {
	const op = "clone"
	own, taken := name == "", false
	err := controlled(ctx, u, op, func(from *config, fcl *rpc.Client, fv rpc.Volume) error {
		return controlled(ctx, to, op, func(c *config, cl *rpc.Client, v rpc.Volume) error {
			if c.engine == from.engine {
				return opError(op, backstore.ClassBusy, "%s and %s have one engine", from.shown(), c.shown())
			}
			if v.Size != fv.Size {
				return opError(op, backstore.ClassRange, "%s has %d bytes and %s %d: a clone has as many as what it is made of", from.shown(), fv.Size, c.shown(), v.Size)
			}
			list, err := c.complete(ctx, cl, op)
			if err != nil {
				return err
			}
			if err := c.empty(ctx, op, list); err != nil {
				return err
			}
			source, err := from.replicas(ctx, fcl, op)
			if err != nil {
				return err
			}
			if own {
				name = cloneName(c, time.Now())
				if err := from.snapshot(ctx, name, nil); err != nil {
					return err
				}
				taken = true
			} else if _, err := from.find(ctx, fcl, op, name); err != nil {
				return err
			}
			return c.quiesced(ctx, cl, op, v, true, func() error {
				return c.fillFrom(ctx, op, list, rpc.CloneRequest{From: source[0].Address, Volume: from.volume, Snapshot: name}, p)
			})
		})
	})
	switch {
	case !taken:
	case err != nil && ctx.Err() != nil:
		err = fmt.Errorf("%w; the snapshot %s that was taken for it is left, since they read it", err, name)
	default: // nothing is copied any more, so what it was made of may go
		if gone := deleteSnapshot(context.WithoutCancel(ctx), u, name, nil); gone != nil && backstore.ClassOf(gone) != backstore.ClassNotFound {
			err = errors.Join(err, fmt.Errorf("the snapshot %s that was taken for it is left: %w", name, gone))
		}
	}
	return err
}

// cloneName is what the snapshot for a clone is called that is made of a volume's present contents.
func cloneName(to *config, now time.Time) string {
	return fmt.Sprintf("clone-%s-%d", strings.Trim(to.shown(), "/"), now.Unix())
}

// fillFrom has each replica copy the snapshot.
func (c *config) fillFrom(ctx context.Context, op string, list []rpc.Replica, r rpc.CloneRequest, p backstore.Progress) error {
	for _, to := range list {
		host, _, err := net.SplitHostPort(to.Address)
		if err != nil {
			return opError(op, backstore.ClassInternal, "%w", err)
		}
		r := r
		r.ToHost = host
		err = c.onAgents(ctx, op, []rpc.Replica{to}, p,
			func(cl *rpc.Client, ctx context.Context) error { return cl.Clone(ctx, r) }, (*rpc.Client).CloneStatus)
		if err != nil {
			return err
		}
	}
	return nil
}

// empty is an error where a replica has been written to.
func (c *config) empty(ctx context.Context, op string, list []rpc.Replica) error {
	for _, r := range list {
		ch, err := c.chainOf(ctx, r)
		if err != nil {
			return c.failed(op, err)
		}
		for file, d := range ch.Disks {
			if _, is := snapName(file); is || d.Size > 0 {
				return opError(op, backstore.ClassUnsupported, "a clone wants a volume that was never written, and %s is not empty: its replica at %s has %s with %d bytes", c.shown(), r.Address, file, d.Size)
			}
		}
	}
	return nil
}
