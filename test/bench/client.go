package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/lunar-iscsi/lunar/session/initiator/load"
	"github.com/lunar-iscsi/lunar/test/deps"
)

// clientGrace is how much longer than its load a client may take.
const clientGrace = 30 * time.Second

// saidTail is how much of what a client wrote an error shows, in bytes.
const saidTail = 600

// verifyOneIn is how many reads the client takes for each whose content it checks.
const verifyOneIn = 64

// A client is one run of load: what it does, for how long, where.
type client struct {
	load     workload
	lenient  bool // overlook numbers that initiators do not read: for peers
	digests  bool
	defaults bool // leave every value to the server
	pin      string
	seconds  float64
	seed     int
}

// args are those of lunarctl. There is no uncounted warm-up: the server's processor time is taken over the whole run and
// divided by the commands of the whole run.
func (c *client) args(e endpoint) []string {
	w := &c.load
	a := []string{
		"bench", "--json", "--progress=false", "--warmup", "0", "--seconds", fmt.Sprint(c.seconds), "--seed", strconv.Itoa(c.seed),
		"--bs", strconv.Itoa(w.block), "--read-percent", strconv.Itoa(w.reads), "--connections", strconv.Itoa(max(1, w.sessions)),
	}
	if w.reads > 0 {
		a = append(a, "--verify="+strconv.Itoa(verifyOneIn))
	}
	if !c.defaults {
		a = append(a, "--max-outstanding-r2t", "1") // tgtd's most
	}
	if w.depth > 0 {
		a = append(a, "--depth", strconv.Itoa(w.depth))
	}
	if w.rate > 0 {
		a = append(a, "--rate", fmt.Sprint(w.rate))
	}
	if w.fua > 0 {
		a = append(a, "--fua-percent", strconv.Itoa(w.fua))
	}
	if w.flushEvery > 0 {
		a = append(a, "--flush-every", strconv.Itoa(w.flushEvery))
	}
	if w.firstBurst > 0 {
		a = append(a, "--first-burst", strconv.Itoa(w.firstBurst))
	}
	for _, f := range []struct {
		name string
		on   bool
	}{
		{"--sequential", w.sequential}, {"--initial-r2t", w.initialR2T}, {"--lenient", c.lenient},
		{"--header-digest", c.digests}, {"--data-digest", c.digests},
	} {
		if f.on {
			a = append(a, f.name)
		}
	}
	return append(a, e.url())
}

// run puts every endpoint under load at once, each by a client of its own, and adds up.
func (b *bench) run(ctx context.Context, c *client, ends []endpoint) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(c.seconds*float64(time.Second))+clientGrace)
	defer cancel()
	parts, errs := make([]sample, len(ends)), make([]error, len(ends))
	var wg sync.WaitGroup
	for i := range ends {
		wg.Go(func() {
			if c.load.tool == iscsiPerf {
				parts[i], errs[i] = c.perf(ctx, ends[i])
			} else {
				parts[i], errs[i] = c.lunarctl(ctx, b.lunarctl, ends[i])
			}
		})
	}
	wg.Wait()
	return total(parts), errors.Join(errs...)
}

// total adds up what ran at once. The quantiles of the whole are not to be had from those of the parts: the greatest stands
// for them, which does not flatter.
func total(parts []sample) (t sample) {
	for i := range parts {
		p := &parts[i]
		t.IOPS += p.IOPS
		t.MBps += p.MBps
		t.Client += p.Client * float64(p.Commands)
		t.Commands += p.Commands
		t.Verified += p.Verified
		t.P50, t.P99, t.P999, t.Max = max(t.P50, p.P50), max(t.P99, p.P99), max(t.P999, p.P999), max(t.Max, p.Max)
		t.Params = p.Params
	}
	if t.Commands > 0 {
		t.Client /= float64(t.Commands)
	}
	return t
}

// lunarctl runs one `lunarctl bench --json`.
func (c *client) lunarctl(ctx context.Context, program string, e endpoint) (sample, error) {
	out, err := c.exec(ctx, nil, program, c.args(e)...)
	if err != nil {
		return sample{}, err
	}
	var r load.Report
	if err := json.Unmarshal(out, &r); err != nil {
		return sample{}, fmt.Errorf("lunarctl's report: %w", err)
	}
	if r.Read.Count >= uint64(verifyOneIn*r.Threads) && r.Verified == 0 {
		return sample{}, errors.New("lunarctl checked no read")
	}
	return sample{
		IOPS: r.IOPS, MBps: r.MBps, Client: r.ClientUser + r.ClientSys, P50: r.Latency.P50, P99: r.Latency.P99, P999: r.Latency.P999, Max: r.Latency.Max,
		Verified: r.Verified, Commands: r.Latency.Count, Params: &r.Params,
	}, nil
}

var perfAverage = regexp.MustCompile(`iops average (\d+)`)

// perf runs one iscsi-perf, which tells its average and nothing else.
func (c *client) perf(ctx context.Context, e endpoint) (sample, error) {
	tool, ok := deps.Lookup("iscsi-perf")
	if !ok {
		return sample{}, fmt.Errorf("iscsi-perf: %w", errNotFound)
	}
	seconds := max(1, int(c.seconds))
	out, err := c.exec(ctx, tool.Env(), tool.Path, "-m", strconv.Itoa(c.load.depth), "-b", strconv.Itoa(c.load.block/512),
		"-t", strconv.Itoa(seconds), "-r", e.url())
	if err != nil {
		return sample{}, err
	}
	all := perfAverage.FindAllSubmatch(out, -1)
	if all == nil {
		return sample{}, fmt.Errorf("iscsi-perf: no average in %q", out)
	}
	n, err := strconv.ParseFloat(string(all[len(all)-1][1]), 64)
	return sample{IOPS: n, MBps: n * float64(c.load.block) / 1e6, Commands: uint64(n * float64(seconds))}, err
}

// exec runs a client's program, on its processors, and returns what it writes.
func (c *client) exec(ctx context.Context, env []string, program string, args ...string) ([]byte, error) {
	if c.pin != "" {
		args = append([]string{"-c", c.pin, program}, args...)
		program = "taskset"
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt at the terminal is ours to pass on
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		msg := bytes.TrimSpace(errOut.Bytes())
		return nil, fmt.Errorf("client: %w: %s", err, msg[:min(len(msg), saidTail)])
	}
	return out, nil
}
