package main

import (
	"errors"
	"testing"
)

// sums makes summaries with medians: name, CPU, IOPS, p99.
func sums(rows ...summary) []summary { return rows }

func figures(name string, c, i, p float64) summary {
	return summary{name: name, kind: name, cpu: spread{median: c}, iops: spread{median: i}, p99: spread{median: p}}
}

func TestJudge(t *testing.T) {
	failed := summary{name: tgtd, kind: tgtd, err: errors.New("gone")}
	for _, c := range []struct {
		name  string
		goal  goal
		sums  []summary
		word  string
		ratio float64
		load  workload
	}{
		{"at most, met on the edge", atMost(cpu, 1.5, floor), sums(figures(lunar, 6, 10, 1), figures(floor, 4, 40, 1)), met, 1.5, workload{}},
		{"at most, not met", atMost(cpu, 1.25, floor), sums(figures(lunar, 6, 10, 1), figures(floor, 4, 40, 1)), notMet, 1.5, workload{}},
		{"at least, met", atLeast(iops, 2, tgtd), sums(figures(lunar, 6, 20, 1), figures(tgtd, 9, 10, 1), figures(floor, 4, 40, 1)), met, 2, workload{}},
		{"at least, not met", atLeast(iops, 2.5, tgtd), sums(figures(lunar, 6, 20, 1), figures(tgtd, 9, 10, 1), figures(floor, 4, 40, 1)), notMet, 2, workload{}},
		{"throughput against a peer where the client is at its end", atLeast(iops, 2.5, tgtd),
			sums(figures(lunar, 6, 20, 1), figures(tgtd, 9, 10, 1), figures(floor, 4, 29, 1)), clientBound, 2, workload{}},
		{"CPU counts where the client is at its end", atMost(cpu, 1.25, floor), sums(figures(lunar, 6, 20, 1), figures(floor, 4, 29, 1)), notMet, 1.5, workload{}},
		{"throughput against the floor counts as well", atLeast(iops, 0.9, floor), sums(figures(lunar, 6, 20, 1), figures(floor, 4, 25, 1)), notMet, 0.8, workload{}},
		{"the best peer is the least CPU of peers", atMost(cpu, 0.7, bestPeer),
			sums(figures(lunar, 6, 20, 1), figures(floor, 1, 40, 1), figures(tgtd, 12, 10, 1), figures(istgt, 10, 9, 1)), met, 0.6, workload{}},
		{"a peer that failed is not the best", atMost(cpu, 0.7, bestPeer), sums(figures(lunar, 6, 20, 1), failed, figures(istgt, 10, 9, 1)), met, 0.6, workload{}},
		{"no peer at all", atMost(cpu, 0.7, bestPeer), sums(figures(lunar, 6, 20, 1), failed), "open: no figure of best peer", 0, workload{}},
		{"no lunar", atMost(cpu, 1.3, floor), sums(figures(floor, 4, 40, 1)), "open: no figure of lunar", 0, workload{}},
		{"a client that tells no latency", atMost(p99, 1.5, floor), sums(figures(lunar, 6, 20, 0), figures(floor, 4, 40, 0)), "open: the client does not tell", 0, workload{}},
		{"the best point has the most", atLeast(iops, 0.9, bestPoint).of("b"), sums(figures("a", 1, 40, 1), figures("b", 1, 30, 1)), notMet, 0.75, workload{}},
		{"an open loop is not bound by its client", atLeast(iops, 2.5, tgtd),
			sums(figures(lunar, 6, 20, 1), figures(tgtd, 9, 10, 1), figures(floor, 4, 20, 1)), notMet, 2, workload{rate: 20000}},
		{"of another subject", atMost(p99, 2, undisturbed).of(stalled), sums(figures(undisturbed, 1, 1, 100), figures(stalled, 1, 1, 300)), notMet, 3, workload{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := judge(&row{load: c.load, goals: []goal{c.goal}}, c.sums)
			if len(v) != 1 || v[0].Word != c.word || v[0].Ratio != c.ratio {
				t.Errorf("judged %+v, want %s with ratio %v", v, c.word, c.ratio)
			}
		})
	}
}

// TestGoalsNameSubjects: a goal about a subject that its row does not have could never be met nor missed.
func TestGoalsNameSubjects(t *testing.T) {
	names := map[string]bool{}
	for _, r := range allRows() {
		if names[r.name] {
			t.Errorf("two rows are called %s", r.name)
		}
		names[r.name] = true
		subjects := map[string]bool{bestPeer: true, bestPoint: true}
		for _, s := range r.subjects {
			if subjects[s.name()] {
				t.Errorf("%s has two subjects called %s", r.name, s.name())
			}
			subjects[s.name()] = true
			if starters[s.kind] == nil {
				t.Errorf("%s: nothing starts %q", r.name, s.kind)
			}
		}
		for _, g := range r.goals {
			if !subjects[g.subject] || !subjects[g.against] {
				t.Errorf("%s: goal %q of %q is about subjects that the row does not have", r.name, g, g.subject)
			}
		}
	}
}

func TestSpread(t *testing.T) {
	samples := []sample{{IOPS: 30}, {IOPS: 10}, {IOPS: 20}}
	field := func(s *sample) float64 { return s.IOPS }
	if s := spreadOf(samples, field); s.median != 20 || s.percent() != 50 {
		t.Errorf("of 10, 20, 30: %+v, half the range %v %%", s, s.percent())
	}
	if s := spreadOf(append(samples, sample{IOPS: 40}), field); s.median != 25 {
		t.Errorf("of 10, 20, 30, 40: median %v", s.median)
	}
	if samples[0].IOPS != 30 {
		t.Error("the samples were put in another order")
	}
}

// TestFailedRounds: a peer survives a failed round, which is then named; lunar does not.
func TestFailedRounds(t *testing.T) {
	peer := line{subject: subject{kind: istgt}}
	peer.fail(3, 5, errors.New("lost\nit"))
	peer.fail(4, 5, errors.New("again"))
	if peer.sum.err != nil || peer.sum.note != "round 3: lost it; round 4: again" {
		t.Errorf("after two rounds of five: error %v, note %q", peer.sum.err, peer.sum.note)
	}
	if peer.fail(5, 5, errors.New("and again")); peer.sum.err == nil {
		t.Error("figures although three rounds of five failed")
	}
	own := line{subject: subject{kind: lunar}}
	if own.fail(1, 5, errors.New("lost it")); own.sum.err == nil {
		t.Error("figures of lunar although a round failed")
	}
}
