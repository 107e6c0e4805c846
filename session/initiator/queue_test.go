package initiator_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/initiator/internal/faketarget"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// serveTCP is serve over the loopback, for Queues.
func serveTCP(t *testing.T, ft *faketarget.Target) initiator.Options {
	t.Helper()
	l := listen(t)
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				if err := ft.Serve(nc); err != nil {
					t.Errorf("the fake target: %v", err)
				}
			}()
		}
	}()
	offer := ft.Params
	return initiator.Options{Portal: l.Addr().String(), TargetName: "iqn.2026-11.example:fake", Offer: &offer, Wait: patience}
}

func open(t *testing.T, o initiator.Options) *initiator.Queue {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	q, err := initiator.OpenQueue(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	return q
}

// collect waits until so many IOs have ended.
func collect(t *testing.T, q *initiator.Queue, n int) {
	t.Helper()
	for n > 0 {
		ended, err := q.Wait(patience)
		if err != nil {
			t.Fatalf("%d commands short: %v", n, err)
		}
		if len(ended) == 0 {
			t.Fatalf("nothing ended in %v, %d commands short", patience, n)
		}
		for _, io := range ended {
			if err := io.Failure(); err != nil {
				t.Errorf("command %d: %v", io.Tag, err)
			}
		}
		n -= len(ended)
	}
}

func TestQueueCarriesData(t *testing.T) {
	for name, change := range shapes {
		t.Run(name, func(t *testing.T) {
			ft := faketarget.New(4<<20, params(change))
			ft.Window = 5
			o := serveTCP(t, ft)
			o.Depth = 4
			q := open(t, o)
			const n, size = 12, 100 * 512
			ios := make([]initiator.IO, n)
			for i := range ios {
				ios[i] = initiator.IO{LUN: sam.NewLUN(1), Tag: uint64(i), Out: content(size, byte(i))}
				initiator.PutWrite(&ios[i].CDB, uint64(i)*100, 100)
				q.Submit(&ios[i])
			}
			collect(t, q, n)
			for i := range ios {
				ios[i].Out, ios[i].In, ios[i].InLen = nil, make([]byte, size), size
				initiator.PutRead(&ios[i].CDB, uint64(i)*100, 100)
				q.Submit(&ios[i])
			}
			collect(t, q, n)
			for i := range ios {
				if !bytes.Equal(ios[i].In, content(size, byte(i))) {
					t.Errorf("read %d returned something else", i)
				}
			}
			if q.InFlight() != 0 {
				t.Errorf("%d in flight at the end", q.InFlight())
			}
			if err := q.Logout(patience); err != nil {
				t.Errorf("logout: %v", err)
			}
			if _, err := q.Wait(0); err != initiator.ErrClosed {
				t.Errorf("after logout: %v", err)
			}
		})
	}
}

// TestQueueLongWrites sends more than the sockets hold to a target that takes it in one after another.
func TestQueueLongWrites(t *testing.T) {
	ft := faketarget.New(64<<20, params(func(p *initiator.Params) {
		p.MaxXmitDataSegmentLength = 1 << 20
		p.MaxBurstLength, p.FirstBurstLength = 8<<20, 8<<20
	}))
	q := open(t, serveTCP(t, ft))
	const n, size = 4, 8 << 20
	ios := make([]initiator.IO, n)
	for i := range ios {
		ios[i] = initiator.IO{LUN: sam.NewLUN(1), Out: content(size, byte(i))}
		initiator.PutWrite(&ios[i].CDB, uint64(i)*size/512, size/512)
		q.Submit(&ios[i])
	}
	collect(t, q, n)
	ft.Mu.Lock()
	defer ft.Mu.Unlock()
	for i := range ios {
		if !bytes.Equal(ft.Disk[i*size:(i+1)*size], ios[i].Out) {
			t.Errorf("write %d arrived as something else", i)
		}
	}
}

// TestQueueTimeouts: a wait ends when it should, short (poll) or long (blocking receive).
func TestQueueTimeouts(t *testing.T) {
	ft := faketarget.New(1<<20, params(nil))
	ft.Command = func(*faketarget.Session, *initiator.PDU) bool { return true }
	q := open(t, serveTCP(t, ft))
	q.Submit(&initiator.IO{})
	for _, d := range []time.Duration{0, time.Millisecond, 120 * time.Millisecond} {
		begin := time.Now()
		ended, err := q.Wait(d)
		if took := time.Since(begin); len(ended) != 0 || err != nil || took < d {
			t.Errorf("waiting %v for a silent target took %v: %d ended, %v", d, took, len(ended), err)
		}
	}
	io := &initiator.IO{}
	if err := q.Do(io, time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a command without an answer: %v", err)
	}
	if err := q.Logout(time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("logout with commands in flight: %v", err)
	}
}

// TestQueueFails: the end of the session ends every IO, in flight, in line or new.
func TestQueueFails(t *testing.T) {
	ft := faketarget.New(1<<20, params(nil))
	ft.Window = 2
	seen := 0
	ft.Command = func(s *faketarget.Session, p *initiator.PDU) bool {
		if seen++; seen == 2 {
			s.C.Close()
		}
		return true
	}
	q := open(t, serveTCP(t, ft))
	ios := make([]initiator.IO, 3)
	for i := range ios {
		q.Submit(&ios[i])
	}
	ended, err := q.Wait(patience)
	if len(ended) != 3 || !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, os.ErrClosed) {
		t.Fatalf("%d ended, %v", len(ended), err)
	}
	late := &initiator.IO{}
	q.Submit(late)
	if ended, err2 := q.Wait(0); len(ended) != 1 || err2 != err || late.Err != err {
		t.Errorf("a new command: %d ended, %v, its own error %v", len(ended), err2, late.Err)
	}
}

func TestQueueAsyncLogout(t *testing.T) {
	ft := faketarget.New(1<<20, params(nil))
	ft.Window = 1
	ft.Command = func(s *faketarget.Session, p *initiator.PDU) bool {
		var h pdu.Header
		(*pdu.Async)(&h).Init(0, pdu.AsyncLogout, 0, 0, 0, 10)
		if err := s.Send(&h, nil); err != nil {
			t.Error(err)
		}
		return false
	}
	q := open(t, serveTCP(t, ft))
	sent, waiting := &initiator.IO{}, &initiator.IO{}
	q.Submit(sent)
	q.Submit(waiting)
	var err error
	for err == nil {
		var ended []*initiator.IO
		ended, err = q.Wait(patience)
		if len(ended) == 0 && err == nil {
			t.Fatal("the target's request for logout has no end")
		}
	}
	if err != initiator.ErrLogoutRequested || !sent.OK() || waiting.Err != initiator.ErrLogoutRequested {
		t.Errorf("the session ended with %v, the command in flight with %v, the one in line with %v", err, sent.Failure(), waiting.Err)
	}
}

func TestPoller(t *testing.T) {
	ft := faketarget.New(64<<20, params(func(p *initiator.Params) {
		p.MaxXmitDataSegmentLength = 1 << 20
		p.MaxBurstLength, p.FirstBurstLength = 8<<20, 8<<20
	}))
	o := serveTCP(t, ft)
	p, err := initiator.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	const size = 8 << 20 // more than the sockets hold: the poller must wait for room, too
	ios := make(map[*initiator.Queue]*initiator.IO)
	for i := range 3 {
		q := open(t, o)
		if err := p.Add(q); err != nil {
			t.Fatal(err)
		}
		io := &initiator.IO{Out: content(size, byte(i))}
		initiator.PutWrite(&io.CDB, uint64(i)*size/512, size/512)
		q.Submit(io)
		if err := q.Flush(); err != nil {
			t.Fatal(err)
		}
		ios[q] = io
	}
	for end := time.Now().Add(patience); len(ios) > 0; {
		ready, err := p.Wait(time.Until(end))
		if err != nil || len(ready) == 0 {
			t.Fatalf("%d commands short: %v", len(ios), err)
		}
		for _, q := range ready {
			ended, err := q.Poll()
			if err != nil {
				t.Fatal(err)
			}
			for _, io := range ended {
				if io != ios[q] || !io.OK() {
					t.Errorf("a command of another queue ended, or badly: %v", io.Failure())
				}
				delete(ios, q)
				if err := q.Close(); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if ready, err := p.Wait(0); len(ready) != 0 || err != nil {
		t.Errorf("without queues: %d ready, %v", len(ready), err)
	}
}

// answerReads answers each command of a connection in the full feature phase with 4 KiB, without an allocation, one write for each read.
func answerReads(nc net.Conn, c *initiator.Conn) error {
	const size = 4096
	in, out := make([]byte, 64<<10), make([]byte, 0, 1<<20)
	data := make([]byte, size)
	stat, have := c.ExpStatSN, 0
	for {
		n, err := nc.Read(in[have:])
		if err != nil {
			return nil
		}
		have += n
		out = out[:0]
		used := 0
		for ; have-used >= pdu.HeaderLen; used += pdu.HeaderLen {
			req := pdu.HeaderAt(in[used:])
			at := len(out)
			out = append(append(out, data[:pdu.HeaderLen]...), data...)
			d := (*pdu.DataIn)(pdu.HeaderAt(out[at:]))
			d.Init(req.ITT(), 0, 0, size, true)
			d.SetStatus(sam.Good, 0, 0)
			d.H().SetStatSN(stat)
			d.H().SetWindow(req.CmdSN()+1, req.CmdSN()+64)
			stat++
		}
		have = copy(in, in[used:have])
		if _, err := nc.Write(out); err != nil {
			return nil
		}
	}
}

// TestQueueDoesNotAllocate: reads over a socket, with 16 in flight.
func TestQueueDoesNotAllocate(t *testing.T) {
	q := openAnswerer(t)
	const depth = 16
	ios := make([]initiator.IO, depth)
	round := func() {
		for i := range ios {
			initiator.PutRead(&ios[i].CDB, uint64(i), 8)
			ios[i].InLen = 4096
			q.Submit(&ios[i])
		}
		for n := 0; n < depth; {
			ended, err := q.Wait(patience)
			if err != nil || len(ended) == 0 {
				t.Fatalf("%d of %d ended: %v", n, depth, err)
			}
			n += len(ended)
		}
	}
	round()
	// Whole numbers of allocations a round; what the runtime does in the background does not make one.
	if n := testing.AllocsPerRun(200, round); n != 0 {
		t.Errorf("%v allocations for %d reads", n, depth)
	}
}

// openAnswerer returns a Queue on answerReads.
func openAnswerer(t testing.TB) *initiator.Queue {
	l := listen(t)
	ended := make(chan error, 1)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			ended <- err
			return
		}
		defer nc.Close()
		c := initiator.NewConn(nc)
		for stage := pdu.SecurityNegotiation; stage != pdu.FullFeaturePhase; {
			p, err := c.Recv()
			if err != nil {
				ended <- err
				return
			}
			r := (*pdu.LoginReq)(&p.Header)
			stage = r.NSG()
			var h pdu.Header
			(*pdu.LoginResp)(&h).Init(p.ITT(), r.ISID(), 1, pdu.LoginSuccess, true, false, r.CSG(), r.NSG(), 0)
			h.SetWindow(p.CmdSN(), p.CmdSN()+63)
			h.SetStatSN(c.ExpStatSN)
			c.ExpStatSN = h.StatSN() + 1
			if err := c.Send(&h, nil); err != nil {
				ended <- err
				return
			}
		}
		ended <- answerReads(nc, c)
	}()
	q, err := initiator.OpenQueue(context.Background(), initiator.Options{Portal: l.Addr().String(), TargetName: "iqn.2026-11.example:reads"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		q.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return q
}

// BenchmarkQueueRead4K is the client's share and the answerer's of 4 KiB reads, 32 in flight, over the loopback.
func BenchmarkQueueRead4K(b *testing.B) {
	q := openAnswerer(b)
	const depth = 32
	ios := make([]initiator.IO, depth)
	for i := range ios {
		initiator.PutRead(&ios[i].CDB, uint64(i), 8)
		ios[i].InLen = 4096
	}
	b.SetBytes(4096)
	b.ReportAllocs()
	b.ResetTimer()
	started := 0
	for ; started < min(depth, b.N); started++ {
		q.Submit(&ios[started])
	}
	for n := 0; n < b.N; {
		ended, err := q.Wait(patience)
		if err != nil || len(ended) == 0 {
			b.Fatalf("%d of %d ended: %v", n, b.N, err)
		}
		n += len(ended)
		for _, io := range ended {
			if started < b.N {
				started++
				binary.BigEndian.PutUint32(io.CDB[2:], uint32(started))
				q.Submit(io)
			}
		}
	}
}
