package hostile

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
	"github.com/lunar-iscsi/lunar/target"
	"github.com/lunar-iscsi/lunar/test/daemon"
)

// A crowd is many connections from one address, other than that of everybody else.
type crowd struct {
	*testing.T
	addr  string
	conns []*initiator.Conn
}

func newCrowd(t *testing.T, addr string) *crowd {
	c := &crowd{T: t, addr: addr}
	t.Cleanup(c.leave)
	return c
}

// dial adds a connection.
func (c *crowd) dial() *initiator.Conn {
	c.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: patience}
	nc, err := d.Dial("tcp4", c.addr)
	if err != nil {
		c.Fatal(err)
	}
	conn := initiator.NewConn(nc)
	conn.Timeout = patience
	c.conns = append(c.conns, conn)
	return conn
}

func (c *crowd) leave() {
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

// neverLogIn has n connections come that never log in: one half says nothing, the other a part of a login. The gate takes as many as it may
// from one address; others log in meanwhile.
func neverLogIn(t *testing.T, n, perAddress int, timeout time.Duration) {
	f := newField(t, target.Config{MaxLogins: 2 * perAddress, MaxLoginsPerIP: perAddress, LoginTimeout: timeout})
	c := newCrowd(t, f.addr.String())
	for i := range n {
		conn := c.dial()
		if i%2 == 1 {
			h := conn.LoginHeader(conn.NextITT(), true, false, pdu.SecurityNegotiation, pdu.OperationalStage)
			h.SetDataLen(200)
			_ = conn.SendBytes(h[:]) // it may be turned away already
		}
		if i%100 == 0 {
			f.peer()
		}
		if in := f.s.Stats().LoggingIn; in > perAddress+1 {
			t.Fatalf("%d connections are logging in, and %d may from one address", in, perAddress)
		}
	}
	f.peer()
	f.moved("turned away", func(st target.Stats) uint64 { return st.TurnedAway }, uint64(n-2*perAddress))
	f.refused("timeout", uint64(perAddress))
	f.until("the gate is free", func(st target.Stats) bool { return st.LoggingIn == 0 })
	c.leave()
}

func TestNeverLogIn(t *testing.T) { neverLogIn(t, 200, 60, time.Second) }

// resident returns what a process has in memory, in bytes.
func resident(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(b, []byte("VmRSS:"))
	line, _, _ := bytes.Cut(rest, []byte("kB"))
	kb, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// greedy has n peers each take from a lunard what a peer can: reads that they do not read, writes whose data they hold back, requests behind a
// CmdSN that never comes, text. What lunard has in memory stays in the order of its budget, and two others go on; what takes memory may be
// answered TASK SET FULL until those that hold it are dropped, and is then asked for again as any initiator does.
func greedy(t *testing.T, n int) {
	const volume, memory = 16 << 20, 64 << 20
	d := daemon.Start(t, daemon.Export("disk", "mem:?size="+strconv.Itoa(volume)), "--buffer-bytes="+strconv.Itoa(memory), "--send-timeout=2s", "--data-timeout=2s")
	name := daemon.Prefix + "disk"
	var others []*worker
	for i := range 2 {
		w := startWorker(t, d.Addr, name, uint32(i))
		w.retries.Store(true)
		others = append(others, w)
	}
	c := newCrowd(t, d.Addr)
	most := resident(t, d.PID())
	for i := range n {
		conn := c.dial()
		keys := initiator.Keys{{Name: "MaxRecvDataSegmentLength", Value: "262144"}, {Name: "FirstBurstLength", Value: "65536"}, {Name: "MaxBurstLength", Value: "1048576"}}
		if _, err := conn.Login(initiator.SecurityKeys(fmt.Sprintf("iqn.2026-11.io.lunar:greedy-%d", i), name), keys); err != nil {
			t.Fatal(err)
		}
		for k := 0; k < 100; k++ {
			h, data := conn.CommandHeader(good, read10(0, 2048), true, false, 1<<20), []byte(nil)
			switch i % 6 {
			case 1:
				h = rewrite(h, conn, write10(0, 8192))
			case 2:
				if k == 0 {
					conn.CmdSN++
				}
				h, data = nop(conn, 8192, false), make([]byte, 8192)
			case 3:
				h = conn.Request(pdu.OpTextReq, true)
				(*pdu.TextReq)(h).SetFlags(false, true)
				h.SetTTT(pdu.NoTag)
				data = bytes.Repeat([]byte("a=\x00"), 2000)
			case 5: // requests that cost nothing, more at a time than a turn handles
				if conn.SendBytes(bytes.Repeat(initiator.Frame(nop(conn, 0, true), nil, nil, false, false), 5000)) != nil {
					k = 100
				}
				k += 33
				continue
			case 4: // small ones, which go out of what all connections share
				h = conn.CommandHeader(good, read10(0, 100), true, false, 51200)
			}
			if !send(conn, h, data) {
				break
			}
		}
		if i%16 == 0 {
			most = max(most, resident(t, d.PID()))
			for _, w := range others {
				if err := w.more(1); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, w := range others {
		if err := w.more(20); err != nil {
			t.Fatal(err)
		}
	}
	most = max(most, resident(t, d.PID()))
	t.Logf("%d greedy peers: %d MiB resident at most, of which the volume has %d and the budget %d; %d and %d commands were answered TASK SET FULL",
		n, most>>20, volume>>20, int64(memory)>>20, others[0].full.Load(), others[1].full.Load())
	// What is kept is the volume and the budget; the collector lets garbage grow to as much again. Beyond that a session has its own state,
	// the start of a PDU and what text it may keep without asking, and the process its code, stacks and what the collector has not given back yet.
	if limit := int64(2*(volume+memory) + n*32<<10 + 48<<20); most > limit {
		t.Errorf("%d MiB resident, want at most %d", most>>20, limit>>20)
	}
	c.leave()
	for _, w := range others {
		if err := w.more(20); err != nil {
			t.Fatal(err)
		}
		if err := w.end(); err != nil {
			t.Fatal(err)
		}
	}
	d.Stop(t)
}

// rewrite makes a write of what was going to be a read.
func rewrite(h *pdu.Header, c *initiator.Conn, b []byte) *pdu.Header {
	c.CmdSN--
	return c.CommandHeader(h.LUN(), b, false, true, 4<<20)
}

func TestGreedy(t *testing.T) { greedy(t, 60) }

// Names from the wire reach the log and the traces as text of one line, without what a terminal would obey.
func TestLogsAreText(t *testing.T) {
	d := daemon.Start(t, daemon.Export("disk", "mem:?size=8M"), "--log-level=debug", "--trace=pdu,scsi,io")
	name := daemon.Prefix + "disk"
	evil := "x\r\nlevel=error msg=\"all is lost\"\x1b[2J\x1b]0;owned\x07\x08\x7f\u009b\u202e\xff\xfe\x80y"
	for _, keys := range []initiator.Keys{
		initiator.SecurityKeys(evil, name), initiator.SecurityKeys("iqn.2026-11.io.lunar:"+evil, name), initiator.SecurityKeys("iqn.2026-11.io.lunar:a", evil),
		initiator.SecurityKeys("iqn.2026-11.io.lunar:a", name).With("InitiatorAlias", evil), initiator.SecurityKeys("iqn.2026-11.io.lunar:a", name).With(evil, evil),
		initiator.SecurityKeys("iqn.2026-11.io.lunar:a", name).With("AuthMethod", evil), initiator.SecurityKeys("iqn.2026-11.io.lunar:a", name).With("SessionType", evil),
	} {
		c, err := initiator.Dial(context.Background(), d.Addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Login(keys, initiator.Keys{{Name: "X-" + evil, Value: evil}}) // refused or not
		_, _ = c.Text(initiator.Keys{{Name: "SendTargets", Value: evil}})
		_ = c.SendBytes([]byte(evil))
		c.Close()
	}
	w := startWorker(t, d.Addr, name, 0)
	if err := w.more(1); err != nil {
		t.Fatal(err)
	}
	if err := w.end(); err != nil {
		t.Fatal(err)
	}
	d.Stop(t)
	if n := strings.Count(d.Log(), "owned"); n < 12 {
		t.Errorf("only %d lines tell of it: nothing was shown", n)
	}
	for i, line := range bytes.Split([]byte(d.Log()), []byte("\n")) {
		if bytes.HasPrefix(line, []byte("level=error")) {
			t.Fatalf("line %d is the peer's: %q", i, line)
		}
		for _, r := range string(line) {
			if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u202e' || r == '\ufffd' {
				t.Fatalf("line %d has %U: %q", i, r, line)
			}
		}
	}
}
