package metrics

import (
	"bufio"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/target"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

var rewrite = flag.Bool("rewrite", false, "write docs/metrics.md anew")

// A fake is a Source of what a test says.
type fake struct {
	targets []admin.TargetState
	system  admin.SystemState
	asked   chan struct{} // told of each scrape, if not nil
	answer  chan struct{} // each scrape waits for it, if not nil
}

func (f *fake) System() admin.SystemState { return f.system }

func (f *fake) Targets(live bool) []admin.TargetState {
	if f.asked != nil {
		f.asked <- struct{}{}
	}
	if f.answer != nil {
		<-f.answer
	}
	if !live {
		panic("without what is live")
	}
	return f.targets
}

// full is a source that has something of everything.
func full() *fake {
	stats := target.Stats{Sessions: 3, LoginsLost: map[string]uint64{}, Drops: map[string]uint64{}, Ended: map[string]uint64{}, BufferLimit: 1 << 28}
	for _, n := range target.LoginReasons() {
		stats.LoginsLost[n] = 1
	}
	for _, n := range target.DropReasons() {
		stats.Drops[n] = 2
	}
	for _, n := range target.EndReasons() {
		stats.Ended[n] = 3
	}
	f := &fake{system: admin.SystemState{Version: "1.2", Started: time.Unix(1700000000, 0), Stats: stats}}
	for i := range 2 {
		name := fmt.Sprintf("iqn.2026-11.io.lunar:%d", i)
		disk := target.LUNInfo{LUN: 1, Size: 1 << 30, BlockSize: 512, Online: true, NAA: 0x6000000000000001, Serial: "s",
			Stats:  target.LUNStats{Reads: 1, ReadBytes: 4096, ReadsFailed: 1, Writes: 2, WriteBytes: 512, Others: 3, Errors: 4},
			Errors: map[string]uint64{"5/24/00": 2, "BUSY": 2}}
		disk.ReadLatency.Counts[3], disk.ReadLatency.Sum = 2, 200*time.Microsecond
		info := target.Info{Name: name, Ready: true, Loop: name, Busy: time.Second, Up: time.Minute, LUNs: []target.LUNInfo{{Controller: true}, disk}}
		for n := range 2 {
			info.Sessions = append(info.Sessions, target.SessionInfo{TSIH: uint16(i*2 + n + 1), ISID: [6]byte{5: byte(n)}, Initiator: "iqn.x", Group: 1, Since: time.Unix(1700000001, 0),
				Conns: []target.ConnInfo{{Remote: netip.MustParseAddrPort("192.0.2.1:4000"), Counters: target.ConnCounters{RxBytes: 7}}}, LUNs: []target.LUNStats{disk.Stats}})
		}
		f.targets = append(f.targets, admin.TargetState{Spec: spec.Target{TID: i + 1, Name: name, Alias: "an alias"}, Live: info})
	}
	return f
}

// scraped gets the metrics by HTTP: value by series, as "name{labels}", and how often each name was described.
func scraped(t testing.TB, h http.Handler) map[string]float64 {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", Path, nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	values := map[string]float64{}
	for lines := bufio.NewScanner(w.Body); lines.Scan(); {
		line := lines.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		values[line[:i]] = v
	}
	return values
}

func handler(t testing.TB, c *Collector, cfg HandlerConfig) http.Handler {
	t.Helper()
	h, err := NewHandler(c, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// Names, units and texts are as Prometheus's conventions want them, and every series is consistent.
func TestLint(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(NewCollector(full(), Config{})); err != nil {
		t.Fatal(err)
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// Every metric of the table is shown, and every name that is shown has a row.
func TestTableIsWhatIsShown(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(NewCollector(full(), Config{})); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, f := range families {
		shown[f.GetName()] = true
	}
	for i := range table {
		m := &table[i]
		if m.name == "" || m.help == "" || !strings.HasSuffix(m.help, ".") {
			t.Errorf("row %d is not complete: %+v", i, m)
		}
		if !shown[namespace+m.name] {
			t.Errorf("%s is not shown", m.name)
		}
		if total := strings.HasSuffix(m.name, "_total"); total != (m.kind == counter && !m.hist) {
			t.Errorf("%s is a %s", m.name, m.kindName())
		}
		delete(shown, namespace+m.name)
	}
	if len(shown) != 0 {
		t.Errorf("without a row: %v", shown)
	}
}

// docs/metrics.md has what the collector has.
func TestDocs(t *testing.T) {
	const path = "../../docs/metrics.md"
	want := docs()
	if *rewrite {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/metrics.md is not what the collector shows; write it with: go test ./admin/metrics -run TestDocs -rewrite")
	}
}

// docs is docs/metrics.md.
func docs() string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Metrics

What lunard shows to Prometheus at %s, where it was given an address for that. This page is made from the collector's own table
(`+"`go test ./admin/metrics -run TestDocs -rewrite`"+`); a test holds the two together.

Counters begin at 0 with the daemon, those of a LUN with its disk, those of a session with its login: a rate is what they are
for. A scrape asks each target once, for a moment. Two scrapes at once are served, and
64 connections; further ones are refused. At most %d sessions have series of their own, target by target and the oldest first;
lunar_sessions_without_series says how many have none. An operation is a read (READ), a write (WRITE, WRITE AND VERIFY, WRITE
SAME, ORWRITE, COMPARE AND WRITE), or other: everything else. Beside these there are process_… and go_… of the Prometheus library.

`, Path, DefaultMaxSessions)
	b.WriteString("| metric | kind | labels | |\n|---|---|---|---|\n")
	for i := range table {
		m := &table[i]
		fmt.Fprintf(&b, "| %s%s | %s | %s | %s |\n", namespace, m.name, m.kindName(), strings.Join(m.labels, ", "), m.help)
	}
	b.WriteString("\nThe bounds of the histogram are 16 µs, doubled from each to the next up to " + target.HistogramBound(target.HistogramBuckets-2).String() + ".\n\n")
	list := func(metric string, names []string) {
		fmt.Fprintf(&b, "Reasons of %s%s: %s.\n\n", namespace, metric, strings.Join(names, ", "))
	}
	list(table[loginsFailed].name, target.LoginReasons())
	list(table[connectionsDropped].name, target.DropReasons())
	list(table[sessionsEnded].name, target.EndReasons())
	return strings.TrimSuffix(b.String(), "\n")
}

// What is shown of many sessions is bounded, and says how many it leaves out.
func TestSessionsAreBounded(t *testing.T) {
	for limit, want := range map[int]int{-1: 0, 1: 1, 3: 3, 0: 4, 10: 4} {
		v := scraped(t, handler(t, NewCollector(full(), Config{MaxSessions: limit}), HandlerConfig{NoProcess: true}))
		n := 0
		for series := range v {
			if strings.HasPrefix(series, "lunar_session_start_time_seconds{") {
				n++
			}
		}
		if n != want || v["lunar_sessions_without_series"] != float64(4-want) {
			t.Errorf("limit %d: %d sessions with series, %v without", limit, n, v["lunar_sessions_without_series"])
		}
	}
}

// Text that is not UTF-8 costs nothing but its own look.
func TestLabelsAreMadeValid(t *testing.T) {
	f := full()
	f.targets[0].Live.Sessions[0].Alias = "a\xffb\n\"c"
	v := scraped(t, handler(t, NewCollector(f, Config{}), HandlerConfig{NoProcess: true}))
	for series := range v {
		if strings.Contains(series, `alias="a`+"\uFFFD"+`b\n\"c"`) {
			return
		}
	}
	t.Error("the session is not there")
}

// Scrapes beyond the bound are refused, not queued; one that takes too long is given up.
func TestScrapesAreBounded(t *testing.T) {
	f := full()
	f.asked, f.answer = make(chan struct{}), make(chan struct{})
	h := handler(t, NewCollector(f, Config{}), HandlerConfig{MaxScrapes: 2, Timeout: time.Hour, NoProcess: true})
	get := func(h http.Handler) int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", Path, nil))
		return w.Code
	}
	codes := make(chan int)
	for range 2 {
		go func() { codes <- get(h) }()
		<-f.asked
	}
	if code := get(h); code != http.StatusServiceUnavailable {
		t.Errorf("the third scrape: %d", code)
	}
	close(f.answer)
	for range 2 {
		if code := <-codes; code != http.StatusOK {
			t.Errorf("a scrape: %d", code)
		}
	}
	f.answer = make(chan struct{})
	go func() {
		codes <- get(handler(t, NewCollector(f, Config{}), HandlerConfig{Timeout: time.Nanosecond, NoProcess: true}))
	}()
	<-f.asked
	if code := <-codes; code != http.StatusServiceUnavailable {
		t.Errorf("a scrape that takes too long: %d", code)
	}
	close(f.answer)
}

// Nothing but the metrics is served, and nothing but reading.
func TestHandlerServesNothingElse(t *testing.T) {
	h := handler(t, NewCollector(full(), Config{}), HandlerConfig{})
	for _, c := range []struct {
		method, path string
		code         int
	}{{"GET", Path, 200}, {"HEAD", Path, 200}, {"GET", "/", 404}, {"GET", Path + "/x", 404}, {"POST", Path, 405}, {"DELETE", Path, 405}} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.code {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, w.Code, c.code)
		}
	}
	if _, err := NewHandler(NewCollector(full(), Config{}), HandlerConfig{Timeout: -1}); err == nil {
		t.Error("a negative time-out is taken")
	}
}
