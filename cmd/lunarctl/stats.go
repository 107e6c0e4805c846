package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

// minInterval is the shortest time between two samples: each asks every target's loop.
const minInterval = 100 * time.Millisecond

func newStats(c *cli) *cobra.Command {
	var watch, server bool
	var interval time.Duration
	var times int
	cmd := &cobra.Command{
		Use: "stats [TARGET]", Short: "Show what the LUNs do, and how long it takes", Args: cobra.MaximumNArgs(1), ValidArgsFunction: c.complete(c.targetNames),
		Long: `Shows commands, bytes, errors and latencies of one target's LUNs, or of all, since they are there. With --watch a table each --interval,
of what happened in it: commands and bytes a second. --server-totals shows what the whole daemon has counted: logins, drops, misbehaviour.

With --json the counters, which only grow; with --watch a line for each sample.`,
		Example: `  lunarctl stats
  lunarctl stats iqn.2026-11.io.lunar:disk --watch
  lunarctl stats --watch --interval 5s --times 12
  lunarctl stats --server-totals --json | jq .drops`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case interval < minInterval:
				return fmt.Errorf("--interval %v is below %v", interval, minInterval)
			case times < 0:
				return fmt.Errorf("--times %d is negative", times)
			case server && (watch || len(args) > 0):
				return fmt.Errorf("--server-totals goes with neither a target nor --watch")
			}
			if server {
				return c.call(cmd, func(ctx context.Context, d *daemon) error {
					r, err := d.stats.GetServerStats(ctx, &api.GetServerStatsRequest{})
					if err != nil {
						return err
					}
					return c.show(cmd, r.GetStats(), func(w io.Writer) error { return writeServerStats(w, r.GetStats()) })
				})
			}
			if watch {
				return c.stream(cmd, cmd.Context(), func(ctx context.Context, d *daemon) error { return c.watchStats(ctx, cmd, d, args, interval, times) })
			}
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				s, err := d.sample(ctx, args)
				if err != nil {
					return err
				}
				return c.show(cmd, s.list, func(w io.Writer) error { return writeTotals(w, s) })
			})
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.BoolVar(&watch, "watch", false, "go on until interrupted, with rates")
	fs.DurationVar(&interval, "interval", time.Second, "time between two samples of --watch")
	fs.IntVar(&times, "times", 0, "end --watch after so many samples; 0: never")
	fs.BoolVar(&server, "server-totals", false, "what the whole daemon has counted")
	must(cmd.RegisterFlagCompletionFunc("interval", cobra.NoFileCompletions))
	must(cmd.RegisterFlagCompletionFunc("times", cobra.NoFileCompletions))
	return cmd
}

// A sample is what targets count at one moment.
type sample struct {
	at   time.Time
	list []*api.GetTargetStatsResponse
}

// sample asks for one target, or for all.
func (d *daemon) sample(ctx context.Context, args []string) (*sample, error) {
	s := &sample{at: time.Now()}
	if len(args) == 1 {
		r, err := d.stats.GetTargetStats(ctx, &api.GetTargetStatsRequest{Target: ref(args[0])})
		if err != nil {
			return nil, err
		}
		s.list = append(s.list, r)
		return s, nil
	}
	list, err := d.listTargets(ctx, true)
	for _, t := range list {
		s.list = append(s.list, &api.GetTargetStatsResponse{Tid: t.GetSpec().GetTid(), Name: t.GetSpec().GetName(), Live: t.GetLive()})
	}
	return s, err
}

func writeTotals(w io.Writer, s *sample) error {
	t := newTable(w, "TID", "TARGET", "LUN", "READS", "READ", "WRITES", "WRITTEN", "OTHERS", "ERRORS", "UNDER WAY", "READ MEAN", "READ P99", "WRITE MEAN", "WRITE P99")
	for _, x := range s.list {
		for _, l := range x.GetLive().GetLuns() {
			st := l.GetStats()
			t.row(x.GetTid(), x.GetName(), l.GetLun(), st.GetReads(), size(int64(st.GetReadBytes())), st.GetWrites(), size(int64(st.GetWriteBytes())), st.GetOthers(), st.GetErrors(), l.GetQueued(),
				mean(l.GetReadLatency()), quantile(l.GetReadLatency(), .99), mean(l.GetWriteLatency()), quantile(l.GetWriteLatency(), .99))
		}
	}
	return t.end()
}

func (c *cli) watchStats(ctx context.Context, cmd *cobra.Command, d *daemon, args []string, interval time.Duration, times int) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var last *sample
	for n := 0; times == 0 || n < times; {
		within, cancel := context.WithTimeout(ctx, c.timeout)
		s, err := d.sample(within, args)
		cancel()
		if ctx.Err() != nil {
			return nil // interrupted: that is how it ends
		}
		if err != nil {
			return err
		}
		switch {
		case c.json:
			err = writeJSON(cmd.OutOrStdout(), object{{"time", s.at.UTC().Format(time.RFC3339Nano)}, {"targets", plainList(s.list)}}, true)
			n++
		case last != nil:
			err = writeRates(cmd.OutOrStdout(), last, s)
			n++
		}
		if err != nil {
			return failed(err)
		}
		last = s
		if times > 0 && n >= times {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

func plainList(list []*api.GetTargetStatsResponse) []any {
	out := []any{}
	for _, x := range list {
		out = append(out, plain(x.ProtoReflect()))
	}
	return out
}

// writeRates writes what happened between two samples.
func writeRates(w io.Writer, a, b *sample) error {
	type key struct {
		tid int32
		lun uint32
	}
	before := map[key]*api.LunLive{}
	for _, x := range a.list {
		for _, l := range x.GetLive().GetLuns() {
			before[key{x.GetTid(), l.GetLun()}] = l
		}
	}
	seconds := max(b.at.Sub(a.at).Seconds(), 1e-3)
	rate := func(now, then uint64) float64 {
		if now < then {
			then = 0 // it is another LUN by now
		}
		return float64(now-then) / seconds
	}
	fmt.Fprintln(w, b.at.Format(time.TimeOnly))
	t := newTable(w, "TID", "TARGET", "LUN", "READS/S", "READ/S", "WRITES/S", "WRITTEN/S", "ERRORS/S", "UNDER WAY", "READ MEAN", "READ P99", "WRITE MEAN", "WRITE P99")
	for _, x := range b.list {
		for _, l := range x.GetLive().GetLuns() {
			old := before[key{x.GetTid(), l.GetLun()}]
			n, o := l.GetStats(), old.GetStats()
			r, wr := between(l.GetReadLatency(), old.GetReadLatency()), between(l.GetWriteLatency(), old.GetWriteLatency())
			t.row(x.GetTid(), x.GetName(), l.GetLun(), count(rate(n.GetReads(), o.GetReads())), size(int64(rate(n.GetReadBytes(), o.GetReadBytes()))),
				count(rate(n.GetWrites(), o.GetWrites())), size(int64(rate(n.GetWriteBytes(), o.GetWriteBytes()))), count(rate(n.GetErrors(), o.GetErrors())), l.GetQueued(),
				mean(r), quantile(r, .99), mean(wr), quantile(wr, .99))
		}
	}
	fmt.Fprintln(t.w)
	return t.end()
}

// total is how many a histogram has counted.
func total(h *api.Histogram) (n uint64) {
	for _, b := range h.GetBuckets() {
		n += b.GetCount()
	}
	return n
}

// mean is for people; empty where nothing was counted.
func mean(h *api.Histogram) string {
	n := total(h)
	if n == 0 {
		return ""
	}
	return span(h.GetSum().AsDuration() / time.Duration(n))
}

// quantile is the bound below which that share of all ended: buckets tell no more.
func quantile(h *api.Histogram, q float64) string {
	n := total(h)
	if n == 0 {
		return ""
	}
	var seen uint64
	for _, b := range h.GetBuckets() {
		seen += b.GetCount()
		if float64(seen) >= q*float64(n) {
			if b.GetLeNs() == 0 {
				break
			}
			return "≤" + span(time.Duration(b.GetLeNs()))
		}
	}
	bounds := h.GetBuckets()
	if len(bounds) < 2 {
		return ""
	}
	return ">" + span(time.Duration(bounds[len(bounds)-2].GetLeNs()))
}

// errorsOf is the errors of a LUN by sense, the most frequent first.
func errorsOf(l *api.LunLive) string {
	keys := slices.SortedFunc(maps.Keys(l.GetErrors()), func(a, b string) int {
		if d := int64(l.GetErrors()[b]) - int64(l.GetErrors()[a]); d != 0 {
			return int(max(min(d, 1), -1))
		}
		return strings.Compare(a, b)
	})
	for i, k := range keys {
		keys[i] = fmt.Sprintf("%s: %d", k, l.GetErrors()[k])
	}
	return strings.Join(keys, ", ")
}

func writeServerStats(w io.Writer, s *api.ServerStats) error {
	f := newFacts(w)
	f.add("Sessions", s.GetSessions())
	f.add("Logging in", s.GetLoggingIn())
	f.add("Buffers", size(s.GetBufferBytes()))
	f.add("Connections accepted", s.GetAccepted())
	f.add("Connections turned away", s.GetTurnedAway())
	f.add("Logins", s.GetLogins())
	f.add("Discoveries", s.GetDiscoveries())
	f.add("Reinstated", s.GetReinstated())
	f.add("Logins slowed down", s.GetSlowed())
	f.add("TASK SET FULL", s.GetTaskSetFull())
	f.add("Faults of lunar", s.GetPanics())
	f.add("Log lines left out", s.GetNotLogged())
	f.add("Commands", s.GetCommands().GetCommands())
	f.add("Bytes in", exactly(int64(s.GetCommands().GetBytesIn())))
	f.add("Bytes out", exactly(int64(s.GetCommands().GetBytesOut())))
	for _, m := range []struct {
		title string
		of    map[string]uint64
	}{{"Login failed", s.GetLoginsLost()}, {"Dropped", s.GetDrops()}, {"Counted", s.GetCommands().GetOthers()}} {
		for _, k := range slices.Sorted(maps.Keys(m.of)) {
			f.when(m.of[k] != 0, m.title+", "+k, m.of[k])
		}
	}
	return f.end()
}

// between is what a histogram has counted since it was another.
func between(now, then *api.Histogram) *api.Histogram {
	if total(now) < total(then) || len(now.GetBuckets()) != len(then.GetBuckets()) {
		return now // it is another LUN by now, or was not there
	}
	h := &api.Histogram{Sum: durationpb.New(now.GetSum().AsDuration() - then.GetSum().AsDuration())}
	for i, b := range now.GetBuckets() {
		h.Buckets = append(h.Buckets, &api.Histogram_Bucket{LeNs: b.GetLeNs(), Count: b.GetCount() - min(b.GetCount(), then.GetBuckets()[i].GetCount())})
	}
	return h
}
