package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A table is what is printed.
type table struct {
	rows   [][4]string // what, figure, goal, verdict
	failed int
}

func (t *table) add(what, figure string) { t.rows = append(t.rows, [4]string{what, figure}) }

func (t *table) goal(what, figure, goal string, met bool) {
	word := "met"
	if !met {
		word = "not met"
		t.failed++
	}
	t.rows = append(t.rows, [4]string{what, figure, goal, word})
}

func (t *table) text(w *strings.Builder) {
	for _, r := range t.rows {
		fmt.Fprintf(w, "%-56s %-40s %-10s %s\n", r[0], r[1], r[2], r[3])
	}
}

func (t *table) markdown(w *strings.Builder, o *options) {
	fmt.Fprintf(w, "# Administration under load\n\n%.0f calls a second, six of ten saved, on a target under 4 KiB reads of depth 32; %d interleaved rounds of 2 × %.0f s\n\n%s, %d processors, %s\n\n| | | goal | |\n|---|---|---|---|\n",
		o.rate, o.rounds, o.seconds, time.Now().Format("2006-01-02 15:04"), runtime.NumCPU(), runtime.Version())
	for _, r := range t.rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(r[:], " | "))
	}
}

// quantile returns the smallest value that q of all do not exceed; 0 of none.
func quantile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	all = slices.Clone(all)
	slices.Sort(all)
	return all[min(int(q*float64(len(all))), len(all)-1)]
}

func median(all []float64) float64 {
	all = slices.Clone(all)
	slices.Sort(all)
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

func millis(d time.Duration) float64 { return float64(d) / 1e6 }

func latencies(all []time.Duration) string {
	return fmt.Sprintf("%.2f, %.2f, %.2f ms", millis(quantile(all, .5)), millis(quantile(all, .99)), millis(quantile(all, 1)))
}

func spread(all []float64, unit string) string {
	return fmt.Sprintf("%.2f (%.2f to %.2f) %s", median(all), slices.Min(all), slices.Max(all), unit)
}
