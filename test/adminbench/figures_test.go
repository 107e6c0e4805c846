package main

import (
	"testing"
	"time"
)

func TestFigures(t *testing.T) {
	var all []time.Duration
	for i := 100; i > 0; i-- {
		all = append(all, time.Duration(i)*time.Millisecond)
	}
	for q, want := range map[float64]time.Duration{0: 1e6, .5: 51e6, .99: 100e6, 1: 100e6} {
		if got := quantile(all, q); got != want {
			t.Errorf("quantile %v: %v, want %v", q, got, want)
		}
	}
	if got := quantile(nil, .5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median: %v", got)
	}
}

// Ten calls in a row leave a target as it was, so that they can go on for ever.
func TestMixIsARound(t *testing.T) {
	balance := map[string]int{}
	for n := range 1000 {
		balance[mix(1, n).name]++
	}
	if balance["bind"] != balance["unbind"] || balance["new LUN"] != balance["delete LUN"] || balance["set"] == 0 || balance["show"] == 0 || balance["stat"] == 0 {
		t.Error(balance)
	}
}
