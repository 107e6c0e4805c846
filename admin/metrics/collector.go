package metrics

import (
	"encoding/hex"
	"fmt"
	"runtime"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/target"
	"github.com/prometheus/client_golang/prometheus"
)

// A Source is what is asked at a scrape: an admin.Service.
type Source interface {
	Targets(live bool) []admin.TargetState
	System() admin.SystemState
}

// DefaultMaxSessions is how many sessions have series of their own.
const DefaultMaxSessions = 1000

// Config bounds what a collector shows.
type Config struct {
	// MaxSessions is how many sessions have series of their own, target by target and the oldest first; 0: DefaultMaxSessions; negative:
	// none. Of the others the metrics of LUNs and targets tell.
	MaxSessions int
}

// A Collector is a prometheus.Collector of what the daemon counts. It may be used from any goroutine.
type Collector struct {
	src   Source
	max   int
	descs [metricCount]*prometheus.Desc
}

// NewCollector returns a collector that asks src at each scrape.
func NewCollector(src Source, cfg Config) *Collector {
	if cfg.MaxSessions == 0 {
		cfg.MaxSessions = DefaultMaxSessions
	}
	return &Collector{src: src, max: max(cfg.MaxSessions, 0), descs: descs()}
}

// Describe is prometheus.Collector's.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect is prometheus.Collector's.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	s := scrape{c: c, ch: ch, loops: map[string]bool{}}
	list := c.src.Targets(true)
	s.system(c.src.System(), len(list))
	for i := range list {
		s.target(&list[i])
	}
	s.put(sessionsHidden, float64(s.hidden))
}

// A scrape is one walk through all that there is.
type scrape struct {
	c      *Collector
	ch     chan<- prometheus.Metric
	loops  map[string]bool // that were shown
	shown  int             // sessions
	hidden int
}

// put shows one value. A label is text of peers or of people: it is made valid.
func (s *scrape) put(which int, v float64, labels ...string) {
	for i := range labels {
		labels[i] = strings.ToValidUTF8(labels[i], "\uFFFD")
	}
	m, err := prometheus.NewConstMetric(s.c.descs[which], table[which].kind, v, labels...)
	if err != nil {
		m = prometheus.NewInvalidMetric(s.c.descs[which], err)
	}
	s.ch <- m
}

func (s *scrape) count(which int, n uint64, labels ...string) { s.put(which, float64(n), labels...) }

func (s *scrape) flag(which int, on bool, labels ...string) {
	v := 0.0
	if on {
		v = 1
	}
	s.put(which, v, labels...)
}

func (s *scrape) counts(which int, by map[string]uint64, labels ...string) {
	for name, n := range by {
		s.count(which, n, append(labels[:len(labels):len(labels)], name)...)
	}
}

func (s *scrape) system(sys admin.SystemState, n int) {
	st := &sys.Stats
	s.put(buildInfo, 1, sys.Version, runtime.Version())
	s.put(startTime, float64(sys.Started.UnixMilli())/1e3)
	s.put(targets, float64(n))
	s.put(sessions, float64(st.Sessions))
	s.put(loggingIn, float64(st.LoggingIn))
	s.count(connectionsAccepted, st.Accepted)
	s.count(connectionsTurnedAway, st.TurnedAway)
	s.counts(connectionsDropped, st.Drops)
	s.count(logins, st.Logins)
	s.counts(loginsFailed, st.LoginsLost)
	s.count(loginsSlowed, st.Slowed)
	s.count(discoveries, st.Discoveries)
	s.count(reinstatements, st.Reinstated)
	s.counts(sessionsEnded, st.Ended)
	s.counts(sessionEvents, events(&st.Commands))
	s.put(bufferBytes, float64(st.BufferBytes))
	s.put(bufferLimit, float64(st.BufferLimit))
	s.put(orphans, float64(st.Orphans))
	s.count(taskSetFull, st.TaskSetFull)
	s.count(panics, st.Panics)
	s.count(linesSuppressed, st.NotLogged)
}

// events are the counters of sessions that are no count of commands and bytes.
func events(c *session.Counters) map[string]uint64 {
	return map[string]uint64{
		"out_of_window": c.OutOfWindow, "held": c.Held, "late_data": c.LateData, "data_error": c.DataErrors, "data_digest": c.DataDigests,
		"header_digest": c.HeaderDigests, "reject": c.Rejects, "task_aborted": c.Aborted, "task_management": c.Functions, "ping": c.Pings,
		"text": c.Texts, "text_too_long": c.TextsOver, "text_astray": c.TextsAstray, "text_bad": c.TextsBad, "ping_timeout": c.PingTimeouts,
	}
}

func (s *scrape) target(t *admin.TargetState) {
	l := &t.Live
	name := l.Name
	if name == "" {
		name = t.Spec.Name
	}
	s.put(targetInfo, 1, name, strconv.Itoa(t.Spec.TID), t.Spec.Alias, l.Loop)
	if l.Loop != "" && !s.loops[l.Loop] {
		s.loops[l.Loop] = true
		s.put(loopBusy, l.Busy.Seconds(), l.Loop)
	}
	s.flag(targetReady, l.Ready && !t.Spec.Offline, name)
	s.put(targetSessions, float64(len(l.Sessions)), name)
	s.count(targetCommands, l.Commands.Commands, name)
	s.count(targetResponses, l.Commands.Responses, name)
	s.count(targetReceived, l.Commands.BytesIn, name)
	s.count(targetSent, l.Commands.BytesOut, name)
	s.count(targetAbsent, l.Absent.Others+l.Absent.Reads+l.Absent.ReadsFailed+l.Absent.Writes+l.Absent.WritesFailed, name)
	for i := range l.LUNs {
		s.lun(name, &l.LUNs[i], t.Faults[l.LUNs[i].LUN] != "")
	}
	for i := range l.Sessions {
		if s.shown == s.c.max {
			s.hidden += len(l.Sessions) - i
			break
		}
		s.shown++
		s.session(name, &l.Sessions[i])
	}
}

func (s *scrape) lun(name string, l *target.LUNInfo, away bool) {
	num := strconv.Itoa(int(l.LUN))
	kind, naa := "disk", ""
	if l.Controller {
		kind = "controller"
	}
	if l.NAA != 0 {
		naa = fmt.Sprintf("%016x", l.NAA)
	}
	s.put(lunInfo, 1, name, num, kind, naa, l.Serial)
	s.put(lunQueue, float64(l.Queued), name, num)
	s.operations(lunCommands, lunFailures, lunBytes, &l.Stats, !l.Controller, name, num)
	s.counts(lunErrors, l.Errors, name, num)
	if l.Controller {
		return
	}
	s.put(lunSize, float64(l.Size), name, num)
	s.flag(lunOnline, l.Online, name, num)
	s.flag(lunFailed, l.Failed, name, num)
	s.flag(lunAway, away, name, num)
	s.flag(lunFenced, l.Fenced, name, num)
	s.put(lunWaiting, float64(l.Late.Waiting), name, num)
	s.put(lunOldest, l.Late.Oldest.Seconds(), name, num)
	s.count(lunTimeouts, l.Late.Ended, name, num, "yes")
	s.count(lunTimeouts, l.Late.Total-l.Late.Ended, name, num, "no")
	s.put(lunInDoubt, float64(l.InDoubt), name, num)
	s.histogram(lunDuration, &l.ReadLatency, name, num, "read")
	s.histogram(lunDuration, &l.WriteLatency, name, num, "write")
}

// operations shows commands, failures and bytes by operation; without medium there are no reads and writes.
func (s *scrape) operations(commands, failures, bytes int, st *target.LUNStats, medium bool, labels ...string) {
	by := func(op string) []string { return append(labels[:len(labels):len(labels)], op) }
	s.count(commands, st.Others, by("other")...)
	s.count(failures, st.Errors-st.ReadsFailed-st.WritesFailed, by("other")...)
	if !medium {
		return
	}
	s.count(commands, st.Reads+st.ReadsFailed, by("read")...)
	s.count(commands, st.Writes+st.WritesFailed, by("write")...)
	s.count(failures, st.ReadsFailed, by("read")...)
	s.count(failures, st.WritesFailed, by("write")...)
	s.count(bytes, st.ReadBytes, by("read")...)
	s.count(bytes, st.WriteBytes, by("write")...)
}

// histogram shows h with bounds in seconds.
func (s *scrape) histogram(which int, h *target.Histogram, labels ...string) {
	buckets := make(map[float64]uint64, target.HistogramBuckets-1)
	sum := uint64(0)
	for i := range target.HistogramBuckets - 1 {
		sum += h.Counts[i]
		buckets[target.HistogramBound(i).Seconds()] = sum
	}
	m, err := prometheus.NewConstHistogram(s.c.descs[which], h.Count(), h.Sum.Seconds(), buckets, labels...)
	if err != nil {
		m = prometheus.NewInvalidMetric(s.c.descs[which], err)
	}
	s.ch <- m
}

func (s *scrape) session(name string, i *target.SessionInfo) {
	id := []string{name, i.Initiator, hex.EncodeToString(i.ISID[:]), strconv.Itoa(int(i.Group))}
	peer := ""
	var rx, tx uint64
	for _, c := range i.Conns {
		if peer == "" {
			peer = c.Remote.Addr().String()
		}
		rx += c.Counters.RxBytes
		tx += c.Counters.TxBytes
	}
	s.put(sessionInfo, 1, append(id[:4:4], strconv.Itoa(int(i.TSIH)), i.Alias, i.User, peer)...)
	s.put(sessionStart, float64(i.Since.UnixMilli())/1e3, id...)
	s.put(sessionQueue, float64(i.Queued), id...)
	var all target.LUNStats
	for j := range i.LUNs {
		all.Add(&i.LUNs[j])
	}
	s.operations(sessionCommands, sessionFailures, sessionBytes, &all, true, id...)
	s.count(sessionErrors, all.Errors, id...)
	s.count(sessionReceived, rx, id...)
	s.count(sessionSent, tx, id...)
}
