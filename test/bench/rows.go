package main

import "fmt"

// A workload is what the client does to one LUN.
type workload struct {
	block      int     // bytes of one command
	depth      int     // commands in flight a session
	rate       float64 // open loop: commands a second in all
	reads      int     // percent
	sequential bool
	sessions   int // 0: 1
	fua        int // percent of the writes
	flushEvery int // writes between two flushes; 0: none
	initialR2T bool
	firstBurst int // bytes; 0: 256 KiB
	tool       clientTool
}

// A clientTool is the program that makes the load.
type clientTool int

const (
	lunarctl  clientTool = iota
	iscsiPerf            // libiscsi's, for the cross-check: reads only, no latency
)

// The kinds of server.
const (
	lunar = "lunar"
	tgtd  = "tgtd"
	istgt = "istgt"
	gotgt = "gotgt"
	floor = "floor"
)

// A subject is one line of a row: a server set up in some way, under the row's load.
type subject struct {
	label    string
	kind     string
	defaults bool // its own defaults instead of the values common to all
	targets  int  // 0: the row's
	digests  bool
	stall    bool     // a second LUN, whose store stalls, is under load too
	args     []string // more for lunard
	alone    bool     // has files of its own, since another server of its kind is in the row
}

func (s subject) name() string {
	if s.label != "" {
		return s.label
	}
	return s.kind
}

// A row is one case that is measured.
type row struct {
	name     string
	title    string
	load     workload
	targets  int // each with one LUN and a client of its own; 0: 1
	subjects []subject
	medium   medium
	pinned   bool // client and servers on processors of their own
	rounds   int  // 0: as asked for
	goals    []goal
}

func (r *row) targetsOf(s subject) int { return max(1, r.targets, s.targets) }

// kinds makes plain subjects.
func kinds(names ...string) (s []subject) {
	for _, n := range names {
		s = append(s, subject{kind: n})
	}
	return s
}

func everyone() []subject { return kinds(lunar, tgtd, istgt, gotgt, floor) }

func withDefaults(subjects []subject) []subject {
	for i := range subjects {
		subjects[i].defaults = true
	}
	return subjects
}

// Loads that several rows share.
func read4k(depth int) workload  { return workload{block: 4 << 10, depth: depth, reads: 100} }
func write4k(depth int) workload { return workload{block: 4 << 10, depth: depth} }
func read16k() workload          { return workload{block: 16 << 10, depth: 128, reads: 100} }
func stream(reads int) workload {
	return workload{block: 256 << 10, depth: 8, reads: reads, sequential: true}
}

func throughR2T(block, depth int) workload {
	return workload{block: block, depth: depth, sequential: true, initialR2T: true, firstBurst: 64 << 10}
}

// tail is the goal of every row on p99.
func tail(goals ...goal) []goal {
	return append(goals, atMost(p99, 1.5, floor), atMost(p99, 1, tgtd))
}

// allRows are what `make bench` measures, in this order.
func allRows() []row {
	open := workload{block: 4 << 10, rate: 20000, reads: 70}
	eight := read4k(16)
	eight.sessions = 8
	perf := read4k(32)
	perf.tool = iscsiPerf
	rows := []row{
		{name: "read4k-32", title: "4 KiB random read, depth 32", load: read4k(32), subjects: everyone(),
			goals: tail(atMost(cpu, 1.3, floor), atLeast(iops, 2.5, tgtd))},
		{name: "write4k-32", title: "4 KiB random write, depth 32", load: write4k(32), subjects: everyone(),
			goals: tail(atMost(cpu, 1.3, floor), atLeast(iops, 1.6, tgtd))},
		{name: "read4k-1", title: "4 KiB random read, depth 1, client and server pinned apart", load: read4k(1), pinned: true, rounds: 10,
			subjects: append(everyone(), subject{kind: lunar, label: "lunar, --spin 50µs", args: []string{"--spin", "50us"}, alone: true}),
			goals:    tail(atLeast(iops, 0.9, floor), atMost(cpu, 1.3, floor))},
		{name: "open-20k", title: "open loop: 20,000 I/Os a second, 4 KiB, 70 % reads, Poisson arrivals", load: open, subjects: everyone(),
			goals: tail(atMost(cpu, 1.3, floor))},
		{name: "read16k-128", title: "16 KiB random read, depth 128", load: read16k(), subjects: everyone(),
			goals: tail(atMost(cpu, 1.3, floor))},
		{name: "read16k-128x3", title: "16 KiB random read, depth 128, on three targets at once", load: read16k(), targets: 3, subjects: everyone(),
			goals: tail(atLeast(iops, 2.5, tgtd), atMost(cpu, 1.3, floor))},
		{name: "seqread256k-8", title: "256 KiB sequential read, depth 8", load: stream(100), subjects: everyone(),
			goals: tail(atMost(cpu, 1.15, floor))},
		{name: "seqwrite256k-8", title: "256 KiB sequential write, depth 8, data immediate or unsolicited", load: stream(0), subjects: everyone(),
			goals: tail(atMost(cpu, 1.3, floor))},
		{name: "r2t-256k", title: "256 KiB sequential write through R2T, depth 8 (InitialR2T=Yes, FirstBurstLength 64 KiB)", load: throughR2T(256<<10, 8),
			subjects: everyone(), goals: tail(atMost(cpu, 0.7, bestPeer))},
		{name: "r2t-1m", title: "1 MiB sequential write through R2T, depth 4 (InitialR2T=Yes, FirstBurstLength 64 KiB)", load: throughR2T(1<<20, 4),
			subjects: everyone(), goals: tail(atMost(cpu, 0.7, bestPeer))},
	}
	rows = append(rows, digestRows()...)
	return append(rows,
		row{name: "stall", title: "4 KiB random read, depth 32, while another LUN of the target stalls 200 ms at a time", load: read4k(32),
			subjects: []subject{{kind: lunar, label: undisturbed}, {kind: lunar, label: stalled, stall: true, alone: true}},
			goals:    []goal{atMost(p99, 2, undisturbed).of(stalled)}},
		row{name: "read4k-32-own", title: "4 KiB random read, depth 32, every server's own defaults", load: read4k(32),
			subjects: withDefaults(everyone())},
		row{name: "write4k-32-own", title: "4 KiB random write, depth 32, every server's own defaults", load: write4k(32),
			subjects: withDefaults(everyone())},
		row{name: "seqread256k-8-own", title: "256 KiB sequential read, depth 8, every server's own defaults", load: stream(100),
			subjects: withDefaults(everyone())},
		row{name: "seqwrite256k-8-own", title: "256 KiB sequential write, depth 8, every server's own defaults", load: stream(0),
			subjects: withDefaults(everyone())},
		row{name: "disk-read4k", title: "4 KiB random read, depth 32, on the disk's file system, page cache warm", load: read4k(32), medium: disk,
			subjects: everyone()},
		row{name: "disk-write4k", title: "4 KiB random write, depth 32, on the disk's file system, page cache warm", load: write4k(32), medium: disk,
			subjects: everyone()},
		row{name: "direct-read4k", title: "4 KiB random read, depth 32, on the disk with O_DIRECT", load: read4k(32), medium: diskDirect,
			subjects: kinds(lunar, tgtd)},
		row{name: "direct-write4k", title: "4 KiB random write, depth 32, on the disk with O_DIRECT", load: write4k(32), medium: diskDirect,
			subjects: kinds(lunar, tgtd)},
		row{name: "fua-mix", title: "4 KiB random, 70 % reads, depth 32; one write in ten has FUA, a flush every 64 writes; on the disk's file system",
			load: workload{block: 4 << 10, depth: 32, reads: 70, fua: 10, flushEvery: 64}, medium: disk, subjects: kinds(lunar, tgtd, istgt, gotgt)},
		row{name: "sessions-8", title: "4 KiB random read, one target, eight sessions of depth 16", load: eight, subjects: everyone()},
		row{name: "targets", title: "4 KiB random read, 1 to 64 targets at once, each with a session of depth 32", load: read4k(32),
			subjects: ladder(1, 2, 4, 8, 16, 32, 64), goals: level(4, 8, 16, 32, 64)},
		row{name: "crosscheck", title: "4 KiB random read, depth 32, with libiscsi's iscsi-perf as the client", load: perf, subjects: everyone(),
			goals: []goal{atMost(cpu, 1.3, floor), atLeast(iops, 2.5, tgtd)}},
	)
}

// The labels of subjects that goals name.
const (
	undisturbed = "lunar, undisturbed"
	stalled     = "lunar, other LUN stalls"
	plain       = "lunar, no digests"
	digested    = "lunar, CRC32C"
)

// digestRows are the first four with header and data digests, beside lunar without: the goal is on what digests cost.
func digestRows() []row {
	rows := []row{
		{name: "digest-read4k-32", title: "4 KiB random read, depth 32", load: read4k(32)},
		{name: "digest-write4k-32", title: "4 KiB random write, depth 32", load: write4k(32)},
		{name: "digest-read4k-1", title: "4 KiB random read, depth 1, client and server pinned apart", load: read4k(1), pinned: true, rounds: 10},
		{name: "digest-open-20k", title: "open loop: 20,000 I/Os a second, 4 KiB, 70 % reads", load: workload{block: 4 << 10, rate: 20000, reads: 70}},
	}
	for i := range rows {
		r := &rows[i]
		r.title += ", CRC32C header and data digests"
		r.subjects = []subject{
			{kind: lunar, label: plain}, {kind: lunar, label: digested, digests: true, alone: true},
			{kind: tgtd, label: "tgtd, CRC32C", digests: true}, {kind: istgt, label: "istgt, CRC32C", digests: true},
		}
		r.goals = []goal{atMost(cpu, 1.5, plain).of(digested)}
	}
	return rows
}

// ladder is lunar with rising numbers of targets.
func ladder(targets ...int) (s []subject) {
	for _, n := range targets {
		s = append(s, subject{kind: lunar, label: rung(n), targets: n, alone: true})
	}
	return s
}

func rung(targets int) string { return fmt.Sprintf("lunar, targets: %d", targets) }

// level are the ladder's goals: from where every processor is busy, no rung is far below the best.
func level(targets ...int) (g []goal) {
	for _, n := range targets {
		g = append(g, atLeast(iops, 0.9, bestPoint).of(rung(n)))
	}
	return g
}
