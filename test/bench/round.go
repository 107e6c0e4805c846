package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// warmSeconds is the uncounted load before the first round: it faults memory in and lets a server make its threads.
const warmSeconds = 0.5

// A line is one subject of a row under way.
type line struct {
	subject subject
	server  *server
	sum     summary

	failures int // rounds
}

// measure runs one row: it starts every server, runs the rounds interleaved, and stops them. A subject that fails keeps
// its line, with the reason.
func (b *bench) measure(ctx context.Context, r *row) ([]summary, error) {
	var lines []*line
	defer func() {
		for _, l := range lines {
			if l.server != nil {
				l.server.stop()
			}
		}
	}()
	sets := 0
	for _, s := range b.subjects(r) {
		set := 0
		if s.alone {
			sets++
			set = sets
		}
		l := &line{subject: s, sum: summary{name: s.name(), kind: s.kind}}
		lines = append(lines, l)
		if l.server, l.sum.err = b.prepare(ctx, r, s, set); l.sum.err == nil {
			l.sum.about, l.sum.note = l.server.about, l.server.note
			_, l.sum.err = b.sample(ctx, r, l, warmSeconds, 0)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	rounds := b.rounds
	if r.rounds > rounds {
		rounds = r.rounds
	}
	for n := range rounds {
		for i := range lines {
			l := lines[(i+n)%len(lines)] // nobody is always first
			if l.sum.err != nil {
				continue
			}
			x, err := b.sample(ctx, r, l, b.seconds, n+1)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err != nil {
				l.fail(n+1, rounds, err)
				continue
			}
			l.sum.samples = append(l.sum.samples, x)
			fmt.Fprintf(os.Stderr, "  %d/%d %-24s %9.0f IOPS %8.2f µs/IO  p99 %8.0f µs\n", n+1, rounds, l.sum.name, x.IOPS, x.CPU, x.P99)
		}
	}
	var sums []summary
	for _, l := range lines {
		if l.sum.err == nil {
			l.sum.summarize()
		}
		sums = append(sums, l.sum)
	}
	return sums, nil
}

// fail notes a failed round. Of lunar one is too many; a peer keeps its other rounds until half of all have failed.
func (l *line) fail(round, rounds int, err error) {
	err = fmt.Errorf("round %d: %w", round, err)
	l.failures++
	if l.subject.kind == lunar || 2*l.failures >= rounds {
		l.sum.err = err
		return
	}
	if l.sum.note != "" {
		l.sum.note += "; "
	}
	l.sum.note += oneLine(err)
}

// subjects are the row's, with the servers that the user named, without those that the user left out.
func (b *bench) subjects(r *row) (s []subject) {
	all := r.subjects
	if r.medium == memory && len(r.goals) > 0 {
		for _, name := range b.otherNames {
			all = append(all[:len(all):len(all)], subject{kind: name})
		}
	}
	for _, x := range all {
		if len(b.only) == 0 || b.only[x.kind] {
			s = append(s, x)
		}
	}
	return s
}

// prepare starts the server of a subject over files of the set.
func (b *bench) prepare(ctx context.Context, r *row, s subject, set int) (*server, error) {
	if err := b.missing[s.kind]; err != nil {
		return nil, err
	}
	files, err := b.volumes.get(r.medium, set, r.targetsOf(s), s.alone && s.targets > 0)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.dir, s.kind+"-")
	if err != nil {
		return nil, err
	}
	u := &setup{dir: dir, files: files, defaults: s.defaults, direct: r.medium == diskDirect, digests: s.digests, stall: s.stall, args: s.args}
	if r.pinned {
		u.pin = serverCPU()
	}
	return b.start(ctx, s.kind, u)
}

// Client and server of a pinned row run on processors of their own, where there are two.
func serverCPU() string {
	if runtime.NumCPU() < 2 {
		return ""
	}
	return "1"
}

func clientCPU() string {
	if runtime.NumCPU() < 2 {
		return ""
	}
	return "0"
}

// sample runs one round of one subject.
func (b *bench) sample(ctx context.Context, r *row, l *line, seconds float64, seed int) (x sample, err error) {
	c := &client{load: r.load, lenient: l.subject.kind != lunar, digests: l.subject.digests, defaults: l.subject.defaults,
		seconds: seconds, seed: seed + 1}
	if r.pinned {
		c.pin = clientCPU()
	}
	if l.server.stalled != nil {
		end := b.disturb(ctx, c, *l.server.stalled)
		defer func() { err = errors.Join(err, end()) }()
	}
	before, err := l.server.cpu()
	if err != nil {
		return sample{}, errors.Join(err, l.server.ended())
	}
	x, err = b.run(ctx, c, l.server.ends)
	if err != nil {
		return sample{}, errors.Join(err, l.server.ended())
	}
	after, err := l.server.cpu()
	if err != nil {
		return sample{}, errors.Join(err, l.server.ended())
	}
	if x.Commands == 0 {
		return sample{}, errors.New("no command ended")
	}
	if l.subject.digests && (x.Params == nil || !x.Params.HeaderDigest || !x.Params.DataDigest) {
		return sample{}, errors.New("the server does not agree to digests")
	}
	x.CPU = float64(after-before) / float64(time.Microsecond) / float64(x.Commands)
	return x, nil
}

// ended tells of processes of the server that are gone, nil if none is.
func (s *server) ended() error {
	for _, p := range s.procs {
		select {
		case <-p.Ended:
			return p.Failed()
		default:
		}
	}
	return nil
}

// stallSeen is how long the slowest command on the stalling LUN must have taken for a round to count. Its store stands still
// for 200 ms of each 500; a round cuts one stall in two at worst.
const stallSeen = 50_000 // µs

// disturb puts the stalling LUN under load as long as the round lasts. The returned function waits for the end and tells
// whether there were stalls at all.
func (b *bench) disturb(ctx context.Context, c *client, e endpoint) (end func() error) {
	other := *c
	other.load = workload{block: 4 << 10, depth: 8}
	var x sample
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		x, err = b.run(ctx, &other, []endpoint{e})
	}()
	return func() error {
		<-done
		if err == nil && x.Max < stallSeen {
			err = fmt.Errorf("no command took longer than %.0f µs", x.Max)
		}
		if err != nil {
			return fmt.Errorf("the stalling LUN: %w", err)
		}
		return nil
	}
}

// oneLine makes an error fit a table.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
