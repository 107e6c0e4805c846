package hostile

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore/faulty"
	"github.com/lunar-iscsi/lunar/backstore/mem"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
	"github.com/lunar-iscsi/lunar/target"
)

const (
	targetName = "iqn.2026-11.io.lunar:hostile"
	diskSize   = 32 << 20
	// patience bounds what a test waits for, never what it expects to be quick.
	patience = 60 * time.Second
	budget   = 64 << 20
)

var (
	good = sam.NewLUN(1) // the others'
	bad  = sam.NewLUN(2) // whose store does what a case says
)

// A field is a server with a target, two disks, and two initiators at work on the first.
type field struct {
	*testing.T
	s      *target.Server
	tg     *target.Target
	store  *faulty.Store // behind bad
	addr   netip.AddrPort
	log    *lines
	others []*worker
	before target.Stats
	peers  int
}

func newField(t *testing.T, cfg target.Config) *field {
	t.Helper()
	was := resources(t)
	f := &field{T: t, log: &lines{}}
	cfg.Logger, cfg.BufferBytes = f.log, budget
	var err error
	if f.s, err = target.NewServer(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.end(was) })
	if f.tg, err = f.s.AddTarget(targetName, target.TargetConfig{}); err != nil {
		t.Fatal(err)
	}
	f.store = newStore(t)
	for lun, st := range map[uint16]*faulty.Store{1: newStore(t), 2: f.store} {
		if err := f.tg.AddDisk(lun, st, scsi.DiskConfig{Identity: fmt.Sprint("disk", lun)}); err != nil {
			t.Fatal(err)
		}
	}
	if f.addr, err = f.s.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if err := f.s.Serve(); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if len(cfg.Auth.Incoming) != 0 {
			break // our initiator has no CHAP
		}
		f.others = append(f.others, startWorker(t, f.addr.String(), targetName, uint32(i)))
	}
	f.goOn()
	f.before = f.s.Stats()
	return f
}

func newStore(t *testing.T) *faulty.Store {
	t.Helper()
	m, err := mem.New(mem.Config{Size: diskSize, BlockSize: 512})
	if err != nil {
		t.Fatal(err)
	}
	st, err := faulty.New(m, "")
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// end checks what has to hold after every case.
func (f *field) end(was census) {
	f.Helper()
	f.goOn()
	for _, w := range f.others {
		if err := w.end(); err != nil {
			f.Error("another initiator:", err)
		}
	}
	st := f.s.Stats()
	if st.Panics != 0 {
		f.Errorf("%d panics:\n%s", st.Panics, f.log)
	}
	if st.BufferBytes > budget {
		f.Errorf("%d bytes of a budget of %d", st.BufferBytes, int64(budget))
	}
	if n := f.log.count(); n > 2000 {
		f.Errorf("%d lines in the log", n)
	}
	f.store.Release()
	if err := f.s.Close(); err != nil {
		f.Error("closing:", err)
	}
	if left := f.s.Stats().BufferBytes; left != 0 {
		f.Errorf("%d bytes of the budget are never given back", left)
	}
	leaks(f.T, was)
}

// goOn waits until each of the others has done some more rounds.
func (f *field) goOn() {
	f.Helper()
	for _, w := range f.others {
		if err := w.more(3); err != nil {
			f.Fatal("another initiator: ", err)
		}
	}
}

// until waits for cond to hold of the counters, while the others go on.
func (f *field) until(what string, cond func(target.Stats) bool) {
	f.Helper()
	for end := time.Now().Add(patience); ; {
		st := f.s.Stats()
		if cond(st) {
			return
		}
		if time.Now().After(end) {
			f.Fatalf("%s: it does not come; commands %+v; drops %v", what, st.Commands, st.Drops)
		}
		f.goOn()
	}
}

// moved waits until a counter is larger than before the case by n.
func (f *field) moved(what string, of func(target.Stats) uint64, n uint64) {
	f.Helper()
	f.until(what, func(st target.Stats) bool { return of(st) >= of(f.before)+n })
}

func (f *field) dropped(reason string, n uint64) {
	f.Helper()
	f.moved("dropped for "+reason, func(st target.Stats) uint64 { return st.Drops[reason] }, n)
}

func (f *field) refused(reason string, n uint64) {
	f.Helper()
	f.moved("login refused for "+reason, func(st target.Stats) uint64 { return st.LoginsLost[reason] }, n)
}

func (f *field) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	f.Cleanup(cancel)
	return ctx
}

// dial returns a connection that has not logged in.
func (f *field) dial() *initiator.Conn {
	f.Helper()
	c, err := initiator.Dial(f.ctx(), f.addr.String())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { c.Close() })
	c.Timeout = patience
	return c
}

// peer returns a connection in full-feature phase, of an initiator port of its own, past the unit attentions of both disks. keys go before
// those that every peer offers.
func (f *field) peer(keys ...initiator.Key) *initiator.Conn {
	f.Helper()
	f.peers++
	c := f.dial()
	f.login(c, fmt.Sprintf("iqn.2026-11.io.lunar:peer-%d", f.peers), keys...)
	for _, lun := range []sam.LUN{good, bad} {
		if _, err := c.ReadCommand(lun, initiator.TestUnitReady(), 0); err != nil {
			f.Fatal(err)
		}
	}
	return c
}

func (f *field) login(c *initiator.Conn, name string, keys ...initiator.Key) {
	f.Helper()
	offer := initiator.Keys{{Name: "MaxRecvDataSegmentLength", Value: "262144"}, {Name: "InitialR2T", Value: "No"}, {Name: "MaxBurstLength", Value: "1048576"},
		{Name: "FirstBurstLength", Value: "65536"}, {Name: "MaxOutstandingR2T", Value: "4"}}
	for _, k := range keys {
		offer = offer.With(k.Name, k.Value)
	}
	if _, err := c.Login(initiator.SecurityKeys(name, targetName), offer); err != nil {
		f.Fatal(err)
	}
}

// send sends what a case wants to, whatever becomes of it: the target may have closed the connection.
func send(c *initiator.Conn, h *pdu.Header, data []byte) bool { return c.Send(h, data) == nil }

// alive pings on c and waits for the answer, past whatever else is still to come.
func (f *field) alive(c *initiator.Conn) {
	f.Helper()
	h := nop(c, 0, true)
	if err := c.Send(h, nil); err != nil {
		f.Fatal("the connection is gone: ", err)
	}
	for {
		p, err := c.Recv()
		if err != nil {
			f.Fatal("the connection is gone: ", err)
		}
		if p.Opcode() == pdu.OpNOPIn && p.ITT() == h.ITT() {
			return
		}
	}
}

// closed waits for the target to close c.
func (f *field) closed(c *initiator.Conn) {
	f.Helper()
	for {
		if _, err := c.Recv(); err != nil {
			if os.IsTimeout(err) {
				f.Fatal("the connection is not closed")
			}
			return
		}
	}
}

// nop returns a NOP-Out for n bytes.
func nop(c *initiator.Conn, n int, immediate bool) *pdu.Header {
	var h pdu.Header
	(*pdu.NOPOut)(&h).Init(0, c.NextITT(), pdu.NoTag, immediate, n)
	h.SetCmdSN(c.CmdSN)
	if !immediate {
		c.CmdSN++
	}
	h.SetExpStatSN(c.ExpStatSN)
	return &h
}

func write10(lba uint32, blocks uint16) []byte {
	var b [16]byte
	initiator.PutWrite(&b, uint64(lba), uint32(blocks))
	return b[:10]
}

func read10(lba uint32, blocks uint16) []byte {
	var b [16]byte
	initiator.PutRead(&b, uint64(lba), uint32(blocks))
	return b[:10]
}

// A lines collects what a server logs.
type lines struct {
	mu   sync.Mutex
	text []string
}

func (l *lines) Debug(string, ...any)       {}
func (l *lines) Info(msg string, kv ...any) { l.add(msg, kv) }
func (l *lines) Warn(msg string, kv ...any) { l.add(msg, kv) }

func (l *lines) add(msg string, kv []any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, msg+" "+fmt.Sprint(kv...))
}

func (l *lines) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.text)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.text, "\n")
}

// A census counts what could leak.
type census struct{ goroutines, files int }

func resources(t testing.TB) census {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return census{runtime.NumGoroutine(), len(fds)}
}

// leaks fails t unless what was counted before is all that is left, soon.
func leaks(t testing.TB, before census) {
	t.Helper()
	var now census
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); runtime.Gosched() {
		if now = resources(t); now.goroutines <= before.goroutines && now.files <= before.files {
			return
		}
	}
	buf := make([]byte, 1<<16)
	t.Errorf("left over: %+v, before %+v\n%s", now, before, buf[:runtime.Stack(buf, true)])
}
