package metrics

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore/mem"
	"github.com/lunar-iscsi/lunar/backstore/null"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/target"
)

// testWait bounds what a test waits for, never what it expects to be quick.
const testWait = 20 * time.Second

// A server is a Source that asks a target.Server, as the admin service does.
type server struct {
	*target.Server
	list []*target.Target
	addr string
}

func (s *server) System() admin.SystemState {
	return admin.SystemState{Version: "test", Started: time.Now(), Stats: s.Stats()}
}

func (s *server) Targets(bool) (list []admin.TargetState) {
	for i, t := range s.list {
		list = append(list, admin.TargetState{Spec: spec.Target{TID: i + 1, Name: t.Name()}, Live: t.Info()})
	}
	return list
}

func name(i int) string { return fmt.Sprintf("iqn.2026-11.io.lunar:metrics-%04d", i) }

// serve returns a server of so many targets, each with a disk at LUN 1: of memory the first, of nothing the others.
func serve(t testing.TB, targets int) *server {
	t.Helper()
	ts, err := target.NewServer(target.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ts.Close() })
	s := &server{Server: ts}
	for i := range targets {
		tg, err := ts.AddTarget(name(i), target.TargetConfig{})
		if err != nil {
			t.Fatal(err)
		}
		st, err := null.New(1<<30, false)
		if i == 0 {
			st, err = mem.New(mem.Config{Size: 8 << 20, BlockSize: 512})
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := tg.AddDisk(1, st, scsi.DiskConfig{Identity: name(i)}); err != nil {
			t.Fatal(err)
		}
		s.list = append(s.list, tg)
	}
	addr, err := ts.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := ts.Serve(); err != nil {
		t.Fatal(err)
	}
	s.addr = addr.String()
	return s
}

// What an initiator counted of what it did, what Info says and what is shown agree to the last command and byte, while its session is
// there and after.
func TestAgreesWithTheInitiator(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	s := serve(t, 2)
	h := handler(t, NewCollector(s, Config{}), HandlerConfig{NoProcess: true})
	in, err := initiator.Login(ctx, initiator.Options{Portal: s.addr, TargetName: name(0), ISID: [6]byte{0x80, 0, 0, 0, 0, 7}})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	// What the initiator counts.
	type sums struct{ commands, failed, bytes uint64 }
	ops := map[string]*sums{"read": {}, "write": {}, "other": {}}
	errors := map[string]uint64{}
	do := func(op string, cdb, out []byte, n int) {
		t.Helper()
		res, err := in.Command(ctx, sam.NewLUN(1), cdb, out, n)
		if err != nil {
			t.Fatal(err)
		}
		y := ops[op]
		y.commands++
		if res.Status != sam.Good {
			y.failed++
			what := res.Status.String()
			if d, err := sense.Parse(res.Sense); err == nil {
				what = fmt.Sprintf("%x/%02x/%02x", uint8(d.Key), d.Code.ASC(), d.Code.ASCQ())
			}
			errors[what]++
		} else if op != "other" {
			y.bytes += uint64(len(out) + len(res.Data))
		}
	}
	transfer := func(put func(*[16]byte, uint64, uint32), lba uint64, blocks uint32) []byte {
		var b [16]byte
		put(&b, lba, blocks)
		return b[:10]
	}
	do("other", initiator.TestUnitReady(), nil, 0)
	do("other", initiator.Inquiry(96), nil, 96)
	for i := range 37 {
		blocks := uint32(1 + i*i%300)
		do("write", transfer(initiator.PutWrite, uint64(i), blocks), make([]byte, blocks*512), 0)
		do("read", transfer(initiator.PutRead, uint64(i), blocks), nil, int(blocks)*512)
	}
	do("read", transfer(initiator.PutRead, 1<<31, 1), nil, 512)
	do("write", transfer(initiator.PutWrite, 1<<31, 3), make([]byte, 3*512), 0)
	do("other", []byte{0xff, 5: 0}, nil, 0)

	check := func(v map[string]float64, what, of string) {
		t.Helper()
		for op, y := range ops {
			series := func(metric string) float64 {
				return v[fmt.Sprintf(`lunar_%s_%s{%s}`, what, metric, fmt.Sprintf(of, `op="`+op+`",`))]
			}
			got := sums{uint64(series("commands_total")), uint64(series("commands_failed_total")), uint64(series("bytes_total"))}
			if got != *y {
				t.Errorf("%s %s: %+v are shown, the initiator has %+v", what, op, got, *y)
			}
		}
	}
	v := scraped(t, h)
	// The text format has labels in alphabetical order.
	lun := `lun="1",%starget="` + name(0) + `"`
	check(v, "lun", lun)
	check(v, "session", `initiator="iqn.2026-11.io.github.lunar-iscsi:initiator",isid="800000000007",%sportal_group="1",target="`+name(0)+`"`)
	if err := in.Logout(ctx); err != nil {
		t.Fatal(err)
	}
	for s.Sessions() != 0 {
		s.Stats()
	}
	v = scraped(t, h)
	check(v, "lun", lun)
	shown := map[string]uint64{}
	for what := range errors {
		shown[what] = uint64(v[fmt.Sprintf(`lunar_lun_errors_total{lun="1",sense="%s",target="%s"}`, what, name(0))])
	}
	info := s.list[0].Disks()[1]
	if !maps.Equal(shown, errors) || !maps.Equal(info.Errors, errors) {
		t.Errorf("errors: %v are shown, Info has %v, the initiator %v", shown, info.Errors, errors)
	}
	st := info.Stats
	if st.Reads+st.ReadsFailed != ops["read"].commands || st.Writes+st.WritesFailed != ops["write"].commands || st.Others != ops["other"].commands ||
		st.ReadBytes != ops["read"].bytes || st.WriteBytes != ops["write"].bytes {
		t.Errorf("Info has %+v", st)
	}
	for _, op := range []string{"read", "write"} {
		l := fmt.Sprintf(`{lun="1",op="%s",target="%s"`, op, name(0))
		if n := v["lunar_lun_command_duration_seconds_count"+l+"}"]; n != float64(ops[op].commands) || v["lunar_lun_command_duration_seconds_sum"+l+"}"] <= 0 {
			t.Errorf("%v times of %ss", n, op)
		}
		if n := v["lunar_lun_command_duration_seconds_bucket"+`{lun="1",op="`+op+`",target="`+name(0)+`",le="+Inf"}`]; n != float64(ops[op].commands) {
			t.Errorf("%v in the buckets of %ss", n, op)
		}
	}
	if v["lunar_logins_total"] != 1 || v[`lunar_sessions_ended_total{reason="logout"}`] != 1 || v["lunar_sessions"] != 0 || v["lunar_targets"] != 2 {
		t.Errorf("of the server: %v", v)
	}
}

// A thousand targets are scraped while some of their loops are fully loaded; how long it takes is said, not asserted.
func TestThousandTargets(t *testing.T) {
	s := serve(t, 1000)
	h := handler(t, NewCollector(s, Config{}), HandlerConfig{})
	scrape := func() (time.Duration, int) {
		w := httptest.NewRecorder()
		began := time.Now()
		h.ServeHTTP(w, httptest.NewRequest("GET", Path, nil))
		if w.Code != http.StatusOK {
			t.Fatal(w.Code, w.Body)
		}
		return time.Since(began), w.Body.Len()
	}
	median := func() (time.Duration, int) {
		var times []time.Duration
		n := 0
		for range 5 {
			var d time.Duration
			d, n = scrape()
			times = append(times, d)
		}
		slices.Sort(times)
		return times[len(times)/2], n
	}
	d, n := median()
	t.Logf("1,000 idle targets: %v, %d bytes", d, n)

	stop := make(chan struct{})
	done := make(chan error)
	const hot = 2
	for i := range hot {
		go func() { done <- s.load(i+1, stop) }()
	}
	for s.Sessions() != hot {
		s.Stats()
	}
	d, n = median()
	t.Logf("%d of them under load: %v, %d bytes", hot, d, n)
	close(stop)
	for range hot {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	v := scraped(t, h)
	if got := v[`lunar_lun_size_bytes{lun="1",target="`+name(999)+`"}`]; got != 1<<30 || v["lunar_targets"] != 1000 {
		t.Errorf("the last target's disk has %v bytes", got)
	}
	for i := range hot {
		if got := v[`lunar_lun_commands_total{lun="1",op="read",target="`+name(i+1)+`"}`]; got == 0 {
			t.Errorf("target %d was not under load", i+1)
		}
	}
}

// load reads from target i, 32 commands deep, until stop.
func (s *server) load(i int, stop chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	q, err := initiator.OpenQueue(ctx, initiator.Options{Portal: s.addr, TargetName: name(i), Depth: 32})
	if err != nil {
		return err
	}
	defer q.Close()
	ios := make([]initiator.IO, 32)
	for i := range ios {
		ios[i].LUN, ios[i].InLen = sam.NewLUN(1), 4096
		initiator.PutRead(&ios[i].CDB, uint64(i)*8, 8)
		q.Submit(&ios[i])
	}
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		ended, err := q.Wait(testWait)
		if err != nil {
			return err
		}
		for _, io := range ended {
			q.Submit(io)
		}
	}
}

func BenchmarkScrape(b *testing.B) {
	s := serve(b, 1000)
	h := handler(b, NewCollector(s, Config{}), HandlerConfig{})
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", Path, nil))
	}
}
