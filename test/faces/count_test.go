package faces

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
)

// A flow is commands that carry data one way: those sent and those that have ended, with the bytes that they mean to transfer.
type flow struct{ sentBytes, sent, endedBytes, ended uint64 }

// A sum is commands of one kind that have ended: how many, how many not GOOD, and bytes of those that did.
type sum struct{ commands, failed, bytes uint64 }

// A tally is what an initiator counts by itself of its commands to one LUN.
type tally struct {
	in, out flow
	ops     map[string]*sum // read, write, other
	errors  uint64
}

func newTally() *tally { return &tally{ops: map[string]*sum{"read": {}, "write": {}, "other": {}}} }

// add adds what o counted.
func (y *tally) add(o *tally) {
	for op, s := range o.ops {
		y.ops[op].commands += s.commands
		y.ops[op].failed += s.failed
		y.ops[op].bytes += s.bytes
	}
	y.errors += o.errors
}

// A client is an initiator that counts, its commands and the octets that pass over its connection.
type client struct {
	p      *place
	s      *initiator.Session
	n      byte
	target string
	tid    int
	disks  []uint16          // that it works on
	luns   map[uint16]*tally // these, and the controller

	rx, tx   atomic.Uint64 // octets that it has received, and sent
	commands uint64
}

// A countingConn counts octets.
type countingConn struct {
	net.Conn
	c *client
}

func (n *countingConn) Read(b []byte) (int, error) {
	k, err := n.Conn.Read(b)
	n.c.rx.Add(uint64(k))
	return k, err
}

func (n *countingConn) Write(b []byte) (int, error) {
	k, err := n.Conn.Write(b)
	n.c.tx.Add(uint64(k))
	return k, err
}

func (p *place) client(n byte, tid int, target string, disks ...uint16) *client {
	p.Helper()
	c := &client{p: p, n: n, target: target, tid: tid, disks: disks, luns: map[uint16]*tally{0: newTally()}}
	for _, lun := range disks {
		c.luns[lun] = newTally()
	}
	c.s = p.login(n, target, func(o *initiator.Options) {
		o.Dial = func(ctx context.Context, portal string) (net.Conn, error) {
			var d net.Dialer
			nc, err := d.DialContext(ctx, "tcp", portal)
			return &countingConn{nc, c}, err
		}
		offer := initiator.DefaultOffer()
		offer.FirstBurstLength, offer.MaxRecvDataSegmentLength = 4096, 8192 // so that there are R2Ts, and several Data-In
		offer.HeaderDigest, offer.DataDigest = n%2 == 0, n%2 == 0
		o.Offer = &offer
	})
	return c
}

// do sends a command and counts it.
func (c *client) do(lun uint16, op string, b, out []byte, in int) {
	c.p.Helper()
	y := c.luns[lun]
	res, err := c.s.Command(c.p.ctx(), sam.NewLUN(lun), b, out, in)
	if err != nil {
		c.p.Fatal(err)
	}
	c.commands++
	s := y.ops[op]
	s.commands++
	good := res.Status == sam.Good
	if !good {
		s.failed++
		y.errors++
	} else if op != "other" {
		s.bytes += uint64(len(out) + len(res.Data))
	}
	count := func(f *flow, n int) {
		f.sent, f.sentBytes, f.ended = f.sent+1, f.sentBytes+uint64(n), f.ended+1
		f.endedBytes += uint64(n)
	}
	if in != 0 {
		count(&y.in, in)
	} else if len(out) != 0 {
		count(&y.out, len(out))
	}
}

// work does so many commands of all kinds.
func (c *client) work(rnd *rand.Rand, commands int) {
	c.p.Helper()
	for range commands {
		lun := c.disks[rnd.IntN(len(c.disks))]
		lba, n := rnd.Uint64N(4096), uint32(1+rnd.IntN(200))
		data := make([]byte, n*512)
		switch rnd.IntN(10) {
		default:
			b := cdb.Transfer(cdb.Write10, lba, n, 0)
			c.do(lun, "write", b[:10], data, 0)
		case 0, 1, 2, 3:
			b := cdb.Transfer(cdb.Read10, lba, n, 0)
			c.do(lun, "read", b[:10], nil, len(data))
		case 4:
			b := cdb.Transfer(cdb.Read10, 1<<30, n, 0) // beyond the end
			c.do(lun, "read", b[:10], nil, len(data))
		case 5:
			b := cdb.Transfer(cdb.Write10, 1<<30, n, 0)
			c.do(lun, "write", b[:10], data, 0)
		case 6:
			c.do(lun, "other", initiator.TestUnitReady(), nil, 0)
		case 7:
			c.do(lun, "other", initiator.Inquiry(96), nil, 96)
			c.do(lun, "other", initiator.ReadCapacity16(32), nil, 32)
			c.do(0, "other", initiator.ReportLUNs(256), nil, 256)
		}
	}
}

func (c *client) name() string { return fmt.Sprintf("%sinitiator%d", iqn, c.n) }

// tsih asks lunarctl for the sessions: handles by initiator.
func (p *place) tsih() map[string]int {
	p.Helper()
	var sessions []struct {
		TSIH      int    `json:"tsih"`
		Initiator string `json:"initiator"`
	}
	p.jsonOf(&sessions, "session", "list")
	out := map[string]int{}
	for _, s := range sessions {
		out[s.Initiator] = s.TSIH
	}
	return out
}

// rows reads a table of numbers of tgtadm's: by their first columns, the rest.
func rows(p *place, text, header string, keys int) map[string][]uint64 {
	p.Helper()
	out := map[string][]uint64{}
	in := false
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case strings.TrimSpace(line) == header:
			in = true
			continue
		case len(f) == 0:
			in = false
		}
		if !in {
			continue
		}
		var values []uint64
		for _, x := range f[keys:] {
			var n uint64
			if _, err := fmt.Sscan(x, &n); err != nil {
				p.Fatalf("%q in\n%s", x, text)
			}
			values = append(values, n)
		}
		out[strings.Join(f[:keys], " ")] = values
	}
	return out
}

const (
	statHeader = "tgt lun sid rd_subm(bytes,cmds) rd_done(bytes,cmds) wr_subm(bytes,cmds) wr_done(bytes,cmds) errs"
	connHeader = "sid cid rxdata_octets txdata_octets dataout_pdus datain_pdus cmd_pdus rsp_pdus"
)

// A lunStats is a LUN of `lunarctl stats --json`.
type lunStats struct {
	LUN        uint16 `json:"lun"`
	Controller bool   `json:"controller"`
	Stats      struct {
		Reads            uint64 `json:"reads"`
		ReadBytes        uint64 `json:"read_bytes"`
		ReadsFailed      uint64 `json:"reads_failed"`
		Writes           uint64 `json:"writes"`
		WriteBytes       uint64 `json:"write_bytes"`
		WritesFailed     uint64 `json:"writes_failed"`
		Others           uint64 `json:"others"`
		Errors           uint64 `json:"errors"`
		ReadBytesFailed  uint64 `json:"read_bytes_failed"`
		WriteBytesFailed uint64 `json:"write_bytes_failed"`
	} `json:"stats"`
	Queued int `json:"queued"`
}

type targetStats struct {
	TID  int    `json:"tid"`
	Name string `json:"name"`
	Live struct {
		Sessions int        `json:"sessions"`
		LUNs     []lunStats `json:"luns"`
	} `json:"live"`
}

// agree holds every face against what clients have counted, those that have left included.
func (p *place) agree(when string, all []*client) {
	p.Helper()
	total := map[string]*tally{} // by "TID LUN"
	there := map[string]bool{}
	live, commands := map[int]int{}, map[string]uint64{}
	for _, c := range all {
		there[fmt.Sprint(c.tid)] = true
		commands[c.target] += c.commands
		if c.s.Err() == nil {
			live[c.tid]++
		}
		for lun, y := range c.luns {
			key := fmt.Sprint(c.tid, lun)
			if total[key] == nil {
				total[key] = newTally()
			}
			total[key].add(y)
		}
	}
	p.statAgrees(when, all)
	// lunarctl
	var list []targetStats
	p.jsonOf(&list, "stats")
	names := map[string]string{}
	for _, t := range list {
		if t.Live.Sessions != live[t.TID] {
			p.Errorf("%s: lunarctl stats: %d sessions of target %d, want %d", when, t.Live.Sessions, t.TID, live[t.TID])
		}
		for _, l := range t.Live.LUNs {
			key := fmt.Sprint(t.TID, l.LUN)
			names[key] = fmt.Sprintf(`lun="%d",op="%%s",target="%s"`, l.LUN, t.Name)
			y := total[key]
			if y == nil {
				y = newTally()
			}
			r, w, o, s := y.ops["read"], y.ops["write"], y.ops["other"], &l.Stats
			got := [...]uint64{s.Reads, s.ReadsFailed, s.ReadBytes, s.Writes, s.WritesFailed, s.WriteBytes, s.Others, s.Errors}
			want := [...]uint64{r.commands - r.failed, r.failed, r.bytes, w.commands - w.failed, w.failed, w.bytes, o.commands, y.errors}
			if got != want || l.Queued != 0 {
				p.Errorf("%s: lunarctl stats of target %d LUN %d: %v, want %v; %d under way", when, t.TID, l.LUN, got, want, l.Queued)
			}
		}
	}
	// Prometheus
	m := p.metrics()
	series := func(name, labels string, want uint64) {
		p.Helper()
		if got, ok := m[name+"{"+labels+"}"]; !ok || got != float64(want) {
			p.Errorf("%s: %s{%s} is %v (there: %v), want %d", when, name, labels, got, ok, want)
		}
	}
	for key, y := range total {
		var errors float64
		for op, s := range y.ops {
			labels := fmt.Sprintf(names[key], op)
			if op != "other" && strings.HasSuffix(key, " 0") {
				continue // the controller has no medium
			}
			series("lunar_lun_commands_total", labels, s.commands)
			series("lunar_lun_commands_failed_total", labels, s.failed)
			if op != "other" {
				series("lunar_lun_bytes_total", labels, s.bytes)
				series("lunar_lun_command_duration_seconds_count", labels, s.commands)
			}
		}
		_, end, _ := strings.Cut(names[key], `op="%s",`)
		for k, v := range m {
			begin, _, _ := strings.Cut(names[key], ",")
			if strings.HasPrefix(k, "lunar_lun_errors_total{"+begin+",") && strings.HasSuffix(k, end+"}") {
				errors += v
			}
		}
		if errors != float64(y.errors) {
			p.Errorf("%s: %v errors by sense, want %d", when, errors, y.errors)
		}
	}
	for target, n := range commands {
		series("lunar_target_commands_total", fmt.Sprintf(`target="%s"`, target), n)
	}
}

// statAgrees holds what Debian's tgtadm shows of each session against what its client has counted; who has left is not there.
func (p *place) statAgrees(when string, all []*client) {
	p.Helper()
	tsih := p.tsih()
	shown := map[string][]uint64{}
	for _, tid := range []int{1, 2} {
		maps.Copy(shown, rows(p, p.adm(fmt.Sprint("--op stat --mode target --tid ", tid)), statHeader, 3))
	}
	n := 0
	for _, c := range all {
		sid, ok := tsih[c.name()]
		if ok != (c.s.Err() == nil) {
			p.Errorf("%s: lunarctl session list: session of initiator %d there: %v", when, c.n, ok)
		}
		if !ok {
			continue
		}
		n++
		for lun, y := range c.luns {
			want := fmt.Sprint([]uint64{y.in.sentBytes, y.in.sent, y.in.endedBytes, y.in.ended, y.out.sentBytes, y.out.sent, y.out.endedBytes, y.out.ended, y.errors})
			if got := fmt.Sprint(shown[fmt.Sprint(c.tid, lun, sid)]); got != want {
				p.Errorf("%s: tgtadm's stat of target %d LUN %d session %d: %s, want %s", when, c.tid, lun, sid, got, want)
			}
		}
		conns := rows(p, p.adm(fmt.Sprintf("--op stat --mode session --tid %d --sid %d", c.tid, sid)), connHeader, 2)
		if row := conns[fmt.Sprint(sid, 0)]; len(row) != 6 || row[0] != c.tx.Load() || row[1] != c.rx.Load() || row[4] != c.commands {
			p.Errorf("%s: tgtadm's stat of the connection of session %d: %v, want %d and %d octets, %d commands", when, sid, row, c.tx.Load(), c.rx.Load(), c.commands)
		}
	}
	if len(tsih) != n {
		p.Errorf("%s: %d sessions, want %d", when, len(tsih), n)
	}
}

// What Debian's tgtadm, lunarctl and Prometheus show agrees with what initiators have counted, to the last command and byte: while their
// sessions are there, and after.
func TestCountsAgree(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	one, two := iqn+"one", iqn+"two"
	p.adm("--op new --mode target --tid 1 -T " + one)
	p.adm("--op new --mode logicalunit --tid 1 --lun 1 -b " + p.file("disk", 8<<20))
	p.adm("--op bind --mode target --tid 1 -I ALL")
	p.ctl("target", "add", two, "--lun=3=mem:?size=8M", "--lun=5=file://"+p.path("other")+"?size=4M", "--address=127.0.0.0/8")
	rnd := rand.New(rand.NewPCG(4, 2))
	all := []*client{p.client(1, 1, one, 1), p.client(2, 1, one, 1), p.client(3, 2, two, 3, 5)}
	p.agree("before", all)
	for round := range 3 {
		for _, c := range all {
			c.work(rnd, 40)
		}
		p.agree(fmt.Sprint("round ", round), all)
	}
	if err := all[1].s.Logout(p.ctx()); err != nil {
		t.Fatal(err)
	}
	p.agree("after a logout", all)
	p.ctl("session", "close", two, fmt.Sprint(p.tsih()[all[2].name()]))
	for all[2].s.Err() == nil {
		_, _ = all[2].s.Ping(p.ctx(), nil) // fails once the end has come
	}
	all[0].work(rnd, 10)
	p.agree("after a session was closed", all)
}
