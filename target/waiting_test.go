package target

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// waiting returns how many reads wait for their connections to take something.
func (r *rig) waiting() (n int) {
	l := r.tg.l
	l.ev.Lock()
	defer l.ev.Unlock()
	for _, se := range r.tg.sessions {
		for _, c := range se.s.Conns() {
			n += len(c.Ref.(*conn).waiting)
		}
	}
	return n
}

// Reads that wait since their initiator takes nothing are the budget's, though they have no data yet, and it has them back however they
// end: answered, aborted, or with their connection. Where there is nothing left a further one is answered TASK SET FULL.
func TestWaitingIsCharged(t *testing.T) {
	const n, blocks = 16, 4096
	for name, end := range map[string]func(t *testing.T, r *rig, c *initiator.Conn, reads []*pdu.Header){
		"answered": func(t *testing.T, _ *rig, c *initiator.Conn, reads []*pdu.Header) {
			for _, h := range reads {
				if res, err := c.Finish(h.ITT()); err != nil || res.Err() != nil {
					t.Fatal(err, res.Err())
				}
			}
		},
		"aborted": func(t *testing.T, r *rig, c *initiator.Conn, reads []*pdu.Header) {
			h := c.Request(pdu.OpTaskMgmtReq, true)
			(*pdu.TaskMgmtReq)(h).SetFunction(sam.AbortTask)
			h.SetLUN(lun1)
			(*pdu.TaskMgmtReq)(h).SetRefTag(reads[n-1].ITT())
			before := r.waiting()
			if err := c.Send(h, nil); err != nil {
				t.Fatal(err)
			}
			r.until("one is aborted", func() bool { return r.waiting() == before-1 })
		},
		"lost": func(_ *testing.T, r *rig, c *initiator.Conn, _ []*pdu.Header) {
			c.Close()
			r.until("the connection is gone", func() bool { return r.waiting() == 0 })
		},
		"full": func(t *testing.T, r *rig, c *initiator.Conn, _ []*pdu.Header) {
			rest := int(r.s.budget.Limit() - r.s.budget.Used())
			if !r.s.budget.Take(rest) {
				t.Fatal("the rest of the budget is not to be had")
			}
			defer r.s.budget.Give(rest)
			before := r.s.Stats().TaskSetFull
			if err := c.Send(c.CommandHeader(lun1, read10(0, blocks), true, false, blocks*512), nil); err != nil {
				t.Fatal(err)
			}
			r.until("it is answered", func() bool { return r.s.Stats().TaskSetFull == before+1 })
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{MaxBacklog: 64 << 10}, "")
			c := r.rawLogin(1)
			c.Timeout = testWait
			if _, err := c.ReadCommand(lun1, initiator.TestUnitReady(), 0); err != nil {
				t.Fatal(err)
			}
			var reads []*pdu.Header
			for range n {
				h := c.CommandHeader(lun1, read10(0, blocks), true, false, blocks*512)
				if err := c.Send(h, nil); err != nil {
					t.Fatal(err)
				}
				reads = append(reads, h)
			}
			r.until("they wait", func() bool { return r.s.Stats().Commands.Commands == n+1 && r.waiting() > n/2 })
			if used, want := int(r.s.budget.Used()), r.lent()+r.waiting()*waitingBytes; used < want {
				t.Errorf("%d bytes are charged, want at least %d", used, want)
			}
			end(t, r, c, reads)
			if err := r.s.Close(); err != nil {
				t.Fatal(err)
			}
			if left := r.s.budget.Used(); left != 0 {
				t.Errorf("%d bytes of the budget are left", left)
			}
		})
	}
}

// Commands that are refused for want of memory cost none: no buffer is made for them first, which would be garbage outside the budget, of
// any size and as fast as commands come.
func TestRefusedTakesNothing(t *testing.T) {
	const n, blocks = 200, 4096
	for name, read := range map[string]bool{"READ": true, "WRITE": false} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{BufferBytes: 8 << 20}, "")
			c := r.rawLogin(1)
			c.Timeout = testWait
			if _, err := c.ReadCommand(lun1, initiator.TestUnitReady(), 0); err != nil {
				t.Fatal(err)
			}
			if err := r.store.Set("read hang"); err != nil {
				t.Fatal(err)
			}
			if err := c.Send(c.CommandHeader(lun1, read10(8192, blocks), true, false, blocks*512), nil); err != nil {
				t.Fatal(err)
			}
			r.until("one has the memory", func() bool { return r.lent() >= blocks*512 })
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range n {
				h := c.CommandHeader(lun1, read10(0, blocks), true, false, blocks*512)
				if !read {
					c.CmdSN--
					h = c.CommandHeader(lun1, write10(0, blocks), false, true, blocks*512)
				}
				if err := c.Send(h, nil); err != nil {
					t.Fatal(err)
				}
				if res, err := c.Finish(h.ITT()); err != nil || res.Status != sam.TaskSetFull {
					t.Fatalf("%v, %v; want TASK SET FULL", res.Status, err)
				}
			}
			runtime.ReadMemStats(&after)
			if made := after.TotalAlloc - before.TotalAlloc; made > n*blocks*512/10 {
				t.Errorf("%d commands that were refused took %d MiB", n, made>>20)
			}
		})
	}
}

// An answer to text that its initiator does not fetch is the budget's while it is kept, beyond what every session may keep.
func TestTextIsCharged(t *testing.T) {
	const n = 2000
	r := newRig(t, Config{}, "")
	c := r.rawDigests(1, digestPair{}, initiator.Key{Name: "MaxRecvDataSegmentLength", Value: "512"})
	var keys []byte
	for i := range n {
		keys = pdu.AppendKey(keys, fmt.Sprint("X-", i), "1")
	}
	h := c.Request(pdu.OpTextReq, true)
	(*pdu.TextReq)(h).SetFlags(true, false)
	h.SetTTT(pdu.NoTag)
	before := r.s.budget.Used()
	if err := c.Send(h, keys); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Expect(pdu.OpTextResp); err != nil {
		t.Fatal(err)
	}
	want := int64(n*len("X-1=NotUnderstood ") - 512 - keptFree)
	r.until("it is charged", func() bool { return r.s.budget.Used() >= before+want })
	c.Close()
	r.until("it is given back", func() bool { return r.s.budget.Used() < want })
}
