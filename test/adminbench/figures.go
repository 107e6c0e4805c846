package main

import (
	"fmt"
	"slices"
	"time"
)

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
