package main

import "fmt"

// A figure is what a goal is about.
type figure int

const (
	cpu  figure = iota // server's processor time an I/O
	iops               // I/Os a second
	p99                // latency
)

func (f figure) String() string { return [...]string{"CPU", "IOPS", "p99"}[f] }

func (f figure) of(s *summary) float64 {
	switch f {
	case cpu:
		return s.cpu.median
	case iops:
		return s.iops.median
	}
	return s.p99.median
}

// What a goal is held against besides a subject: the peer with the least of the figure, the subject with the most of it.
const (
	bestPeer  = "best peer"
	bestPoint = "best point"
)

// A goal bounds the ratio of one subject's figure to another's.
type goal struct {
	figure  figure
	least   bool // at least factor, else at most
	factor  float64
	subject string // whose; lunar by default
	against string // a subject's name or bestPeer
}

func atMost(f figure, factor float64, against string) goal {
	return goal{figure: f, factor: factor, subject: lunar, against: against}
}

func atLeast(f figure, factor float64, against string) goal {
	g := atMost(f, factor, against)
	g.least = true
	return g
}

// of makes the goal that of another subject.
func (g goal) of(subject string) goal {
	g.subject = subject
	return g
}

func (g goal) String() string {
	sign := "≤"
	if g.least {
		sign = "≥"
	}
	who := ""
	if g.subject != lunar {
		who = g.subject + ": "
	}
	return fmt.Sprintf("%s%s %s %.4g × %s", who, g.figure, sign, g.factor, g.against)
}

// A verdict is a goal judged.
type verdict struct {
	Goal  string  `json:"goal"`
	Ratio float64 `json:"ratio,omitempty"`
	Word  string  `json:"verdict"` // met, not met, client-bound, or why it is open
}

// The words of a verdict.
const (
	met         = "met"
	notMet      = "not met"
	clientBound = "client-bound"
)

// drivesFaster is how much faster than lunar the client must drive the floor for a comparison of throughput to count.
const drivesFaster = 1.5

// judge judges a row's goals.
func judge(r *row, sums []summary) []verdict {
	bound := isClientBound(r, sums)
	var v []verdict
	for _, g := range r.goals {
		v = append(v, g.judge(sums, bound))
	}
	return v
}

func (g goal) judge(sums []summary, bound bool) verdict {
	v := verdict{Goal: g.String()}
	own, other := find(sums, g.subject), g.measure(sums)
	switch {
	case own == nil:
		v.Word = "open: no figure of " + g.subject
		return v
	case other == nil:
		v.Word = "open: no figure of " + g.against
		return v
	}
	a, b := g.figure.of(own), g.figure.of(other)
	if a <= 0 || b <= 0 {
		v.Word = "open: the client does not tell"
		return v
	}
	v.Ratio = a / b
	switch {
	case g.least && v.Ratio >= g.factor, !g.least && v.Ratio <= g.factor:
		v.Word = met
	case bound && g.figure == iops && g.against != floor:
		v.Word = clientBound
	default:
		v.Word = notMet
	}
	return v
}

// measure is the subject that the goal is held against, nil if it gave no figure.
func (g goal) measure(sums []summary) *summary {
	var better func(a, b *summary) bool
	switch g.against {
	case bestPeer:
		better = func(a, b *summary) bool { return g.figure.of(a) < g.figure.of(b) }
	case bestPoint:
		better = func(a, b *summary) bool { return g.figure.of(a) > g.figure.of(b) }
	default:
		return find(sums, g.against)
	}
	var best *summary
	for i := range sums {
		s := &sums[i]
		in := g.against == bestPoint || s.kind == tgtd || s.kind == istgt || s.kind == gotgt
		if in && s.err == nil && (best == nil || better(s, best)) {
			best = s
		}
	}
	return best
}

// isClientBound reports whether the client cannot drive the floor enough faster than lunar. Where the client does not try
// to go as fast as it can, in an open loop or with one command at a time, the question does not arise.
func isClientBound(r *row, sums []summary) bool {
	if r.load.rate > 0 || r.load.depth == 1 {
		return false
	}
	l, f := find(sums, lunar), find(sums, floor)
	return l != nil && f != nil && f.iops.median < drivesFaster*l.iops.median
}

// find returns the subject's summary, nil if it has none or an error.
func find(sums []summary, name string) *summary {
	for i := range sums {
		if sums[i].name == name && sums[i].err == nil {
			return &sums[i]
		}
	}
	return nil
}
