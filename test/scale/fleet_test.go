package main

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A fakeTarget takes every login and pings each session once.
type fakeTarget struct {
	t      *testing.T
	refuse int // connections to drop at first

	mu    sync.Mutex
	conns []*initiator.Conn // guarded by mu
	names map[string]bool   // guarded by mu: of initiators
	wg    sync.WaitGroup
	pongs chan struct{}
}

func (ft *fakeTarget) accept(l net.Listener) {
	defer ft.wg.Done()
	for n := 0; ; n++ {
		nc, err := l.Accept()
		if err != nil {
			return // closed: the test is over
		}
		if n < ft.refuse {
			_ = nc.Close() // that is the refusal
			continue
		}
		c := initiator.NewConn(nc)
		c.Timeout = time.Minute
		ft.mu.Lock()
		ft.conns = append(ft.conns, c)
		ft.mu.Unlock()
		ft.wg.Go(func() { ft.serve(c) })
	}
}

func (ft *fakeTarget) serve(c *initiator.Conn) {
	defer func() { _ = c.Close() }()
	for {
		p, err := c.Recv()
		if err != nil {
			return
		}
		switch p.Opcode() {
		case pdu.OpLoginReq:
			ft.login(c, p)
		case pdu.OpNOPOut:
			if p.ITT() != pdu.NoTag || p.TTT() != 7 {
				ft.t.Errorf("NOP-Out with tags %08x and %08x", p.ITT(), p.TTT())
			}
			ft.pongs <- struct{}{}
		}
	}
}

// login agrees to everything, and after the last step pings.
func (ft *fakeTarget) login(c *initiator.Conn, p *initiator.PDU) {
	req := (*pdu.LoginReq)(&p.Header)
	if keys, err := initiator.ParseKeys(p.Data); err == nil {
		if name, ok := keys.Get("InitiatorName"); ok {
			ft.mu.Lock()
			ft.names[name] = true
			ft.mu.Unlock()
		}
	}
	var h pdu.Header
	(*pdu.LoginResp)(&h).Init(p.ITT(), req.ISID(), 1, 0, true, false, req.CSG(), req.NSG(), 0)
	if err := c.Send(&h, nil); err != nil {
		ft.t.Error(err)
	}
	if req.NSG() == pdu.FullFeaturePhase {
		(*pdu.NOPIn)(&h).Init(0, pdu.NoTag, 7, 0)
		if err := c.Send(&h, nil); err != nil {
			ft.t.Error(err)
		}
	}
}

// drop closes every connection from this side.
func (ft *fakeTarget) drop() {
	ft.mu.Lock()
	defer ft.mu.Unlock()
	for _, c := range ft.conns {
		_ = c.Close()
	}
	ft.conns = nil
}

// TestFleet: sessions come up although some are refused at first, answer pings, notice that they were dropped, and come
// back.
func TestFleet(t *testing.T) {
	const sessions, refused = 20, 5
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ft := &fakeTarget{t: t, refuse: refused, names: map[string]bool{}, pongs: make(chan struct{}, 2*sessions)}
	ft.wg.Add(1)
	go ft.accept(l)
	f := &fleet{portal: l.Addr().String(), sessions: sessions, targets: 3, retry: time.Millisecond}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	for round := range 2 {
		if _, err := f.login(ctx); err != nil {
			t.Fatal(err)
		}
		if got := f.up.Load(); got != sessions {
			t.Fatalf("%d sessions are up, want %d", got, sessions)
		}
		for range sessions {
			select {
			case <-ft.pongs:
			case <-ctx.Done():
				t.Fatal("pings are not answered")
			}
		}
		if got := f.retries.Load(); got != int64(refused*(1-round)) {
			t.Errorf("round %d: %d logins were tried again, %d were refused", round, got, refused*(1-round))
		}
		ft.drop()
		f.alive.Wait()
		if got := f.lost.Load(); got != sessions {
			t.Errorf("round %d: %d sessions saw their end, want %d", round, got, sessions)
		}
		f.close()
	}
	if len(ft.names) != sessions {
		t.Errorf("%d names of initiators, want %d", len(ft.names), sessions)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	ft.wg.Wait()
}

// TestLoginGivesUp: without a target the error tells how many are up and why not.
func TestLoginGivesUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	f := &fleet{portal: l.Addr().String(), sessions: 3, targets: 1, retry: time.Millisecond}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := f.login(ctx); err == nil {
		t.Fatal("sessions log in where nobody listens")
	}
}
