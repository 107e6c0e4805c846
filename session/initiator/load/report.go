package load

import (
	"fmt"
	"io"
	"time"

	"github.com/lunar-iscsi/lunar/session/initiator"
)

// A Latency is the distribution of one kind of command's times, in microseconds.
type Latency struct {
	Count uint64  `json:"count"`
	Mean  float64 `json:"mean_us"`
	P50   float64 `json:"p50_us"`
	P99   float64 `json:"p99_us"`
	P999  float64 `json:"p999_us"`
	Max   float64 `json:"max_us"`
}

func latency(h *Histogram) Latency {
	us := func(d time.Duration) float64 { return float64(d) / 1e3 }
	return Latency{
		Count: h.Count(), Mean: us(h.Mean()), P50: us(h.Quantile(.5)), P99: us(h.Quantile(.99)), P999: us(h.Quantile(.999)), Max: us(h.Max()),
	}
}

// A Report is what a run came to.
type Report struct {
	Target      string  `json:"target"`
	LUN         string  `json:"lun"`
	BlockSize   int     `json:"block_size"`
	Depth       int     `json:"depth"`
	Rate        float64 `json:"rate,omitempty"` // asked for; 0: closed loop
	ReadPercent int     `json:"read_percent"`
	Sequential  bool    `json:"sequential"`
	Connections int     `json:"connections"`
	Threads     int     `json:"threads"`
	Volume      int64   `json:"volume_bytes"`
	Region      int64   `json:"region_bytes"`

	Params     initiator.Params `json:"negotiated"`
	Filled     int64            `json:"filled_bytes"`
	FillMBps   float64          `json:"fill_mbps"`
	Seconds    float64          `json:"seconds"`
	IOPS       float64          `json:"iops"`
	MBps       float64          `json:"mbps"` // 10^6 bytes a second
	Latency    Latency          `json:"latency"`
	Read       Latency          `json:"read"`
	Write      Latency          `json:"write"`
	Verified   uint64           `json:"verified_reads"`
	Errors     uint64           `json:"errors"` // commands that did not end with GOOD, or read something else than the pattern
	FirstError string           `json:"first_error,omitempty"`
	Attentions uint64           `json:"attentions"` // commands that were sent again after a unit attention
	ClientUser float64          `json:"client_user_us_per_io"`
	ClientSys  float64          `json:"client_sys_us_per_io"`
}

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) error {
	_, err := io.WriteString(w, r.text())
	return err
}

func (r *Report) text() string {
	order, loop := "random", fmt.Sprintf("depth %d", r.Depth)
	if r.Sequential {
		order = "sequential"
	}
	if r.Rate > 0 {
		loop = fmt.Sprintf("%.0f a second (at most %d at once)", r.Rate, r.Depth)
	}
	s := fmt.Sprintf("target:      %s LUN %s, region %s of %s\n", r.Target, r.LUN, size(r.Region), size(r.Volume))
	s += fmt.Sprintf("negotiated:  %s\n", initiator.FormatParams(&r.Params))
	if r.Filled > 0 {
		s += fmt.Sprintf("fill:        %s at %.1f MB/s\n", size(r.Filled), r.FillMBps)
	}
	if r.Seconds > 0 {
		s += fmt.Sprintf("load:        %s %s, %d%% reads, %s, %d connections on %d threads, %.1f s\n",
			order, size(int64(r.BlockSize)), r.ReadPercent, loop, r.Connections, r.Threads, r.Seconds)
		s += fmt.Sprintf("throughput:  %.0f IOPS, %.1f MB/s\n", r.IOPS, r.MBps)
		s += "latency µs:      count       mean        p50        p99      p99.9        max\n"
		for _, l := range []struct {
			name string
			l    *Latency
		}{{"all", &r.Latency}, {"read", &r.Read}, {"write", &r.Write}} {
			if l.l.Count > 0 && l.l.Count != r.Latency.Count || l.name == "all" {
				s += fmt.Sprintf("  %-9s %10d %10.1f %10.1f %10.1f %10.1f %10.1f\n", l.name, l.l.Count, l.l.Mean, l.l.P50, l.l.P99, l.l.P999, l.l.Max)
			}
		}
		s += fmt.Sprintf("client CPU:  %.2f µs per I/O (%.2f user, %.2f system)\n", r.ClientUser+r.ClientSys, r.ClientUser, r.ClientSys)
	}
	if r.Verified > 0 {
		s += fmt.Sprintf("verified:    %d reads\n", r.Verified)
	}
	if r.Attentions != 0 {
		s += fmt.Sprintf("attentions:  %d commands sent again\n", r.Attentions)
	}
	s += fmt.Sprintf("errors:      %d\n", r.Errors)
	if r.FirstError != "" {
		s += fmt.Sprintf("first error: %s\n", r.FirstError)
	}
	return s
}

// size writes n bytes with a binary unit where that is exact.
func size(n int64) string {
	for i, unit := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if one := int64(1) << (40 - 10*i); n >= one && n%one == 0 {
			return fmt.Sprintf("%d %s", n/one, unit)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}
