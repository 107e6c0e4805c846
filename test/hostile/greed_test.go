package hostile

import (
	"context"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
	"github.com/lunar-iscsi/lunar/target"
)

const second = int64(time.Second)

// Writes as long as can be whose R2Ts nobody answers: they take no more than one session's share of the memory, and not for ever.
func TestR2TsIgnored(t *testing.T) {
	f := newField(t, target.Config{Limit: session.Limits{DataTimeout: 2 * second}})
	var peers []*initiator.Conn
	for range 3 {
		c := f.peer()
		for range 100 {
			if err := c.Send(c.CommandHeader(bad, write10(0, 8192), false, true, 4<<20), nil); err != nil {
				t.Fatal(err)
			}
		}
		peers = append(peers, c)
	}
	f.moved("TASK SET FULL", func(st target.Stats) uint64 { return st.TaskSetFull }, 3)
	if used := f.s.Stats().BufferBytes; used > budget*3/4+budget/8 {
		t.Errorf("%d bytes are kept for three sessions that ignore R2Ts, of a budget of %d", used, int64(budget))
	}
	// Data that keeps coming is no reason, however slowly.
	slow := f.peer()
	h := slow.CommandHeader(bad, write10(0, 1024), false, true, 512<<10)
	if err := slow.Send(h, nil); err != nil {
		t.Fatal(err)
	}
	r2t, err := slow.Expect(pdu.OpR2T)
	if err != nil {
		t.Fatal(err)
	}
	sn, last := uint32(0), time.Now()
	f.until("the others are dropped", func(st target.Stats) bool {
		if time.Since(last) > 100*time.Millisecond {
			if err := slow.DataOut(bad, h.ITT(), r2t.TTT(), pdu.SN(sn), sn*512, make([]byte, 512), false); err != nil {
				t.Fatal(err)
			}
			sn, last = sn+1, time.Now()
		}
		return st.Drops["data_timeout"] == 3
	})
	for _, c := range peers {
		f.closed(c)
	}
	f.alive(slow)
}

// Unsolicited data that is announced and does not come, and PDUs of which the last byte does not.
func TestDataHeldBack(t *testing.T) {
	f := newField(t, target.Config{Limit: session.Limits{DataTimeout: second, NOPInterval: second, NOPTimeout: second}})
	announced := f.peer()
	for range 64 {
		h := announced.CommandHeader(bad, write10(0, 128), false, true, 65536)
		h[1] &^= 0x80 // more is to come
		if err := announced.Send(h, nil); err != nil {
			t.Fatal(err)
		}
	}
	var partial []*initiator.Conn
	for _, n := range []int{1, 47, 48, 49, 48 + 4096, 48 + 16<<10, 48 + mrdsl - 1} {
		for _, op := range []pdu.Opcode{pdu.OpSCSICommand, pdu.OpNOPOut} {
			c := f.peer()
			h := c.CommandHeader(bad, write10(0, 512), false, true, mrdsl)
			if op == pdu.OpNOPOut {
				h = nop(c, mrdsl, true)
			}
			h.SetDataLen(mrdsl)
			if err := c.SendBytes(initiator.Frame(h, nil, make([]byte, mrdsl), false, false)[:n]); err != nil {
				t.Fatal(err)
			}
			partial = append(partial, c)
		}
	}
	f.closed(announced)
	f.dropped("data_timeout", 1)
	for _, c := range partial {
		f.closed(c)
	}
	f.dropped("ping_timeout", uint64(len(partial)))
}

// One byte a time in full-feature phase costs the others nothing, and is served.
func TestByteByByte(t *testing.T) {
	f := newField(t, target.Config{})
	var peers []*initiator.Conn
	for range 20 {
		peers = append(peers, f.peer())
	}
	for range 2 {
		var all [][]byte
		for _, c := range peers {
			all = append(all, initiator.Frame(nop(c, 5, true), nil, []byte("hello"), false, false))
		}
		for i := range all[0] {
			for k, c := range peers {
				if err := c.SendBytes(all[k][i : i+1]); err != nil {
					t.Fatal(err)
				}
			}
			if i%8 == 0 {
				f.goOn()
			}
		}
		for _, c := range peers {
			if p, err := c.Expect(pdu.OpNOPIn); err != nil || string(p.Data) != "hello" {
				t.Fatal(err)
			}
		}
	}
	f.moved("pings", func(st target.Stats) uint64 { return st.Commands.Pings }, 40)
}

// Initiators that ask and never read: what waits for them is bounded, and they are dropped, at the latest when they have taken nothing for
// SendTimeout. That they go on sending, answers to pings even, does not help them.
func TestNobodyReads(t *testing.T) {
	f := newField(t, target.Config{SendTimeout: 2 * time.Second})
	for _, w := range f.others {
		// Two at once at one disk can be over what is left to a logical unit while a dozen hold what they were lent.
		w.retries.Store(true)
	}
	var peers []*initiator.Conn
	for i := range 12 {
		c := f.peer()
		blocks := uint16(2048)
		if i%2 == 1 {
			blocks = 100 // these go out of memory that all connections share
		}
		for range 100 {
			if err := c.Send(c.CommandHeader(bad, read10(0, blocks), true, false, uint32(blocks)*512), nil); err != nil {
				t.Fatal(err)
			}
		}
		peers = append(peers, c)
	}
	gone := 0
	f.until("dropped, not reading", func(st target.Stats) bool {
		for _, c := range peers[gone:] {
			send(c, nop(c, 0, true), nil)
		}
		if st.BufferBytes > budget {
			t.Fatalf("%d bytes are kept", st.BufferBytes)
		}
		return st.Drops["unread"] >= 12
	})
	// As fast as it can: too much is waiting before any time has passed.
	f2 := f.s.Stats().Drops["unread"]
	c := f.peer()
	for send(c, nop(c, 1000, true), make([]byte, 1000)) {
		continue
	}
	f.dropped("unread", f2-f.before.Drops["unread"]+1)
}

// Connections whose other end is silent: they are pinged, and dropped.
func TestHalfOpen(t *testing.T) {
	f := newField(t, target.Config{Limit: session.Limits{NOPInterval: second, NOPTimeout: second}})
	for range 50 {
		f.peer()
	}
	f.dropped("ping_timeout", 50)
	f.until("sessions ended", func(st target.Stats) bool { return st.Sessions == len(f.others) })
}

// Floods of whatever is answered by itself: each is read and answered in its turn.
func TestFloods(t *testing.T) {
	const last = 1 << 31 // the tag of what ends a flood
	f := newField(t, target.Config{})
	before := f.s.Stats().Commands
	for name, flood := range map[string]func(c *initiator.Conn, i int) *pdu.Header{
		"NOPs": func(c *initiator.Conn, i int) *pdu.Header { return nop(c, 0, true) },
		"NOPs without an answer": func(c *initiator.Conn, i int) *pdu.Header {
			h := nop(c, 0, true)
			h.SetITT(pdu.NoTag)
			return h
		},
		"functions": func(c *initiator.Conn, i int) *pdu.Header {
			h := c.Request(pdu.OpTaskMgmtReq, true)
			m := (*pdu.TaskMgmtReq)(h)
			m.SetFunction(sam.TMF(i % 32))
			if i%32 == int(sam.TargetWarmReset) || i%32 == int(sam.TargetColdReset) {
				m.SetFunction(sam.AbortTask) // those would rightly end the others' commands
			}
			m.SetRefTag(uint32(i) * 7919)
			m.SetRefCmdSN(pdu.SN(i))
			h.SetLUN(bad)
			return h
		},
		"resets": func(c *initiator.Conn, i int) *pdu.Header {
			h := c.Request(pdu.OpTaskMgmtReq, true)
			(*pdu.TaskMgmtReq)(h).SetFunction(sam.LogicalUnitReset)
			h.SetLUN([]sam.LUN{bad, 0, 1 << 63, sam.NewLUN(16383)}[i%4])
			return h
		},
		"unknown": func(c *initiator.Conn, i int) *pdu.Header { return c.Request(pdu.Opcode(8+i%8), true) },
		"targets": func(c *initiator.Conn, i int) *pdu.Header { return c.Request(pdu.Opcode(0x20+i%32), true) },
		"SNACKs":  func(c *initiator.Conn, i int) *pdu.Header { return c.Request(pdu.OpSNACK, true) },
		"commands": func(c *initiator.Conn, i int) *pdu.Header {
			h := c.CommandHeader(bad, []byte{byte(i), byte(i >> 8), 0, 0, 0, 0}, i%3 == 0, i%5 == 0, uint32(i))
			h[0] |= 0x40
			c.CmdSN--
			return h
		},
	} {
		c := f.peer()
		done := make(chan struct{})
		reads := *c // its own numbers: those that c sends may be old
		go func() { // as fast as it comes, until all has been taken
			defer close(done)
			for {
				if p, err := reads.Recv(); err != nil || p.Opcode() == pdu.OpNOPIn && p.ITT() == last {
					return
				}
			}
		}()
		for i := range 5000 {
			if !send(c, flood(c, i), nil) {
				t.Errorf("%s: the connection is gone after %d", name, i)
				break
			}
		}
		ping := nop(c, 0, true)
		ping.SetITT(last)
		send(c, ping, nil)
		f.goOn()
		<-done
		c.Close()
	}
	now := f.s.Stats().Commands
	if now.Pings < before.Pings+5000 || now.Functions < before.Functions+10000 || now.Rejects < before.Rejects+5000 {
		t.Errorf("counted %+v", now)
	}
}

// A store that is silent keeps those who wait for it, and its unit's share of the memory, whatever its initiators do: come back with new
// sessions and more writes, abort, reset, or go away in the midst of it. The disk beside it is served.
func TestSilentStore(t *testing.T) {
	f := newField(t, target.Config{Limit: session.Limits{TMFTimeout: second}})
	if err := f.store.Set("any hang"); err != nil {
		t.Fatal(err)
	}
	full := false
	for round := range 12 {
		c := f.dial()
		f.login(c, "iqn.2026-11.io.lunar:comes-back") // and ends its own session
		for i := range 40 {
			b, read := write10(uint32(i*512), 512), i%4 != 3
			if read {
				b = read10(uint32(i*512), 512)
			}
			if err := c.Send(c.CommandHeader(bad, b, read, !read, 256<<10), nil); err != nil {
				t.Fatal(err)
			}
		}
		switch round % 3 {
		case 0:
			h := c.Request(pdu.OpTaskMgmtReq, true)
			(*pdu.TaskMgmtReq)(h).SetFunction(sam.LogicalUnitReset)
			h.SetLUN(bad)
			send(c, h, nil)
		case 1:
			f.finish(c, 0xffff0000+uint32(round)) // it answers what R2Ts come until there is a status
		}
		f.alive(c)
		full = full || f.s.Stats().TaskSetFull > f.before.TaskSetFull
		if used := f.s.Stats().BufferBytes; used > budget*5/8 {
			t.Fatalf("round %d: %d bytes are kept", round, used)
		}
	}
	if !full {
		t.Error("none was answered TASK SET FULL: the store may have all the memory")
	}
	f.moved("aborted", func(st target.Stats) uint64 { return st.Commands.Aborted }, 100)
	f.goOn()
	f.store.Release()
	f.goOn()
	if err := f.store.Set("any delay=20ms"); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		c := f.peer()
		for range 64 {
			if err := c.Send(c.CommandHeader(bad, read10(0, 256), true, false, 128<<10), nil); err != nil {
				t.Fatal(err)
			}
		}
		f.goOn()
	}
}

// What a store still has when its initiator, its task or its LUN is gone ends without harm, whichever goes first.
func TestGoneMeanwhile(t *testing.T) {
	f := newField(t, target.Config{Limit: session.Limits{TMFTimeout: second}})
	for round := range 16 {
		st := newStore(t)
		if err := st.Set("any hang"); err != nil {
			t.Fatal(err)
		}
		if err := f.tg.AddDisk(3, st, scsi.DiskConfig{Identity: "gone"}); err != nil {
			t.Fatal(err)
		}
		lun := sam.NewLUN(3)
		c := f.peer()
		if _, err := c.ReadCommand(lun, initiator.TestUnitReady(), 0); err != nil {
			t.Fatal(err)
		}
		var tags []uint32
		for i := range 8 {
			var h *pdu.Header
			var data []byte
			switch i % 4 {
			case 0:
				h, data = c.CommandHeader(lun, write10(uint32(i*8), 8), false, true, 4096), make([]byte, 4096)
			case 1:
				h = c.CommandHeader(lun, read10(uint32(i*8), 8), true, false, 4096)
			case 2:
				h = c.CommandHeader(lun, write10(0, 1024), false, true, 512<<10) // its R2Ts are out
			case 3:
				h = c.CommandHeader(lun, initiator.SynchronizeCache10(), false, false, 0)
			}
			if err := c.Send(h, data); err != nil {
				t.Fatal(err)
			}
			tags = append(tags, h.ITT())
		}
		if err := st.Wait(f.ctx(), 2); err != nil {
			t.Fatal(err)
		}
		abort := func() {
			for _, itt := range tags {
				h := c.Request(pdu.OpTaskMgmtReq, true)
				m := (*pdu.TaskMgmtReq)(h)
				m.SetFunction(sam.AbortTask)
				m.SetRefTag(itt)
				h.SetLUN(lun)
				send(c, h, nil)
			}
			f.alive(c)
		}
		remove := func() {
			ctx, cancel := context.WithCancel(f.ctx())
			cancel() // nobody waits
			if err := f.tg.RemoveLUN(ctx, 3, true); err == nil && st.Held() != 0 {
				t.Fatal("a store with requests out was closed")
			}
		}
		steps := []func(){abort, remove, func() { c.Close() }, func() { st.Release() }}
		order := [][]int{{0, 1, 2, 3}, {2, 1, 3}, {1, 0, 2, 3}, {3, 2, 1}, {0, 2, 3, 1}, {2, 3, 1}, {1, 2, 3}, {0, 3, 1, 2}}
		for _, k := range order[round%len(order)] {
			steps[k]()
		}
		if err := st.Set(""); err != nil {
			t.Fatal(err)
		}
		st.Release()
		f.goOn()
	}
	f.moved("aborted", func(st target.Stats) uint64 { return st.Commands.Aborted }, 16)
}
