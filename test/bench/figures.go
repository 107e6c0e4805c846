package main

import (
	"slices"

	"github.com/lunar-iscsi/lunar/session/initiator"
)

// A sample is one subject's figures of one round.
type sample struct {
	IOPS     float64 `json:"iops"`
	MBps     float64 `json:"mbps"`
	CPU      float64 `json:"server_us_per_io"`
	Client   float64 `json:"client_us_per_io"`
	P50      float64 `json:"p50_us"`
	P99      float64 `json:"p99_us"`
	P999     float64 `json:"p999_us"`
	Max      float64 `json:"max_us"`
	Verified uint64  `json:"verified_reads"`
	Commands uint64  `json:"commands"`

	Params *initiator.Params `json:"negotiated,omitempty"` // nil: the client does not tell
}

// A spread is a median over rounds with the least and the greatest value.
type spread struct {
	median, low, high float64
}

func spreadOf(samples []sample, field func(*sample) float64) spread {
	v := make([]float64, len(samples))
	for i := range samples {
		v[i] = field(&samples[i])
	}
	slices.Sort(v)
	n := len(v)
	return spread{median: (v[(n-1)/2] + v[n/2]) / 2, low: v[0], high: v[n-1]}
}

// percent is half the range in percent of the median.
func (s spread) percent() float64 {
	if s.median == 0 {
		return 0
	}
	return (s.high - s.low) / 2 / s.median * 100
}

// A summary is one subject's line of a row.
type summary struct {
	name, kind string
	about      string // what exactly was run
	err        error  // there are no figures, and why
	note       string
	params     *initiator.Params
	samples    []sample
	verified   uint64

	iops, mbps, cpu, client, p50, p99, p999 spread
}

// summarize fills in the medians from the samples, of which there is at least one.
func (s *summary) summarize() {
	of := func(f func(*sample) float64) spread { return spreadOf(s.samples, f) }
	s.iops = of(func(x *sample) float64 { return x.IOPS })
	s.mbps = of(func(x *sample) float64 { return x.MBps })
	s.cpu = of(func(x *sample) float64 { return x.CPU })
	s.client = of(func(x *sample) float64 { return x.Client })
	s.p50 = of(func(x *sample) float64 { return x.P50 })
	s.p99 = of(func(x *sample) float64 { return x.P99 })
	s.p999 = of(func(x *sample) float64 { return x.P999 })
	for i := range s.samples {
		s.verified += s.samples[i].Verified
	}
	s.params = s.samples[0].Params
}
