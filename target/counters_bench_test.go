package target

import (
	"testing"

	"github.com/lunar-iscsi/lunar/backstore/null"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// What counting costs a READ that ends in the turn in which it came: begin, end, PDUs, and its part of the turn's end.
func BenchmarkCounting(b *testing.B) {
	r := newRig(b, Config{}, "")
	r.login(1)
	l := r.tg.l
	l.ev.Lock()
	defer l.ev.Unlock()
	var se *sess
	for _, se = range r.tg.sessions {
	}
	c := se.s.Conns()[0].Ref.(*conn)
	t := &session.Task{Read: true, EDTL: 4096, LUN: lun1}
	copy(t.CDB[:], read10(0, 8))
	rec := &record{task: t, conn: c, ln: se.lookup(lun1)}
	res := session.Result{Data: make([]byte, 4096), Moved: 4096}
	var cmd, in pdu.Header
	cmd[0], in[0] = byte(pdu.OpSCSICommand), byte(pdu.OpDataIn)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c.countRx(&cmd)
		l.commandBegun(rec)
		l.commandEnded(rec, &res)
		c.countTx(&in, 4096)
		if i%32 == 31 {
			l.endTimes()
		}
	}
}

// A READ of 4 KiB at depth 32 over the loopback, client and all: to compare builds with.
func BenchmarkRead4K(b *testing.B) {
	r := newRig(b, Config{}, "")
	st, err := null.New(1<<30, false)
	if err != nil {
		b.Fatal(err)
	}
	if err := r.tg.AddDisk(2, st, scsi.DiskConfig{Identity: "null"}); err != nil {
		b.Fatal(err)
	}
	o := r.options(1)
	o.Depth = 32
	q, err := initiator.OpenQueue(r.ctx(), o)
	if err != nil {
		b.Fatal(err)
	}
	defer q.Close()
	ios := make([]initiator.IO, 32)
	for i := range ios {
		io := &ios[i]
		io.LUN, io.InLen, io.In = sam.NewLUN(2), 4096, make([]byte, 4096)
		initiator.PutRead(&io.CDB, uint64(i)*8, 8)
	}
	b.ReportAllocs()
	done := 0
	for i := range ios {
		q.Submit(&ios[i])
	}
	for b.Loop() {
		for done == 0 {
			ended, err := q.Wait(testWait)
			if err != nil {
				b.Fatal(err)
			}
			done = len(ended)
			for _, io := range ended {
				q.Submit(io)
			}
		}
		done--
	}
}

// How long the loop's lock is held to tell of infoHold sessions, of two LUNs.
func BenchmarkInfo(b *testing.B) {
	r := newRig(b, Config{}, "")
	for i := range infoHold {
		r.login(byte(i))
	}
	b.ReportAllocs()
	for b.Loop() {
		r.tg.Info()
	}
}
