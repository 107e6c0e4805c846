package initiator_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/initiator/internal/faketarget"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// patience bounds what a test waits for; nothing takes that long.
const patience = 20 * time.Second

// params are what a test negotiates, from the defaults.
func params(change func(p *initiator.Params)) initiator.Params {
	p := initiator.DefaultOffer()
	p.MaxXmitDataSegmentLength = 8192
	p.MaxOutstandingR2T = 1
	if change != nil {
		change(&p)
	}
	return p
}

// serve starts a connection of ft for each dial over a pipe and returns options for it. The test fails if the fake found the
// initiator wrong.
func serve(t *testing.T, ft *faketarget.Target) initiator.Options {
	t.Helper()
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	offer := ft.Params
	return initiator.Options{
		Portal: "pipe", TargetName: "iqn.2026-11.example:fake", Offer: &offer, Wait: patience,
		Dial: func(context.Context, string) (net.Conn, error) {
			near, far := net.Pipe()
			wg.Add(1)
			go func() {
				defer wg.Done()
				if err := ft.Serve(far); err != nil {
					t.Errorf("the fake target: %v", err)
				}
			}()
			return near, nil
		},
	}
}

func login(t *testing.T, ft *faketarget.Target) (*initiator.Session, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	s, err := initiator.Login(ctx, serve(t, ft))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, ctx
}

func content(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*5+i>>8) + seed
	}
	return b
}

// shapes are the negotiations under which data must come through whole.
var shapes = map[string]func(p *initiator.Params){
	"as offered": nil,
	"R2T for all": func(p *initiator.Params) {
		p.InitialR2T, p.ImmediateData = true, false
		p.MaxBurstLength, p.FirstBurstLength = 4096, 512
	},
	"unsolicited alone": func(p *initiator.Params) { p.ImmediateData = false; p.FirstBurstLength = 5000 },
	"short segments":    func(p *initiator.Params) { p.MaxRecvDataSegmentLength, p.MaxXmitDataSegmentLength = 515, 517 },
	"digests":           func(p *initiator.Params) { p.HeaderDigest, p.DataDigest = true, true },
	"digests and padding": func(p *initiator.Params) {
		p.HeaderDigest, p.DataDigest = true, true
		p.MaxRecvDataSegmentLength, p.MaxXmitDataSegmentLength = 1021, 1022
	},
}

func TestSessionCarriesData(t *testing.T) {
	for name, change := range shapes {
		t.Run(name, func(t *testing.T) {
			ft := faketarget.New(1<<20, params(change))
			ft.Window = 3
			s, ctx := login(t, ft)
			var wg sync.WaitGroup
			for g := range 4 {
				wg.Add(1)
				go func() {
					defer wg.Done()
					for i, blocks := range []uint32{1, 7, 40, 120} {
						lba := uint64(g*512 + i*128)
						data := content(int(blocks)*512, byte(g*16+i))
						var cdb [16]byte
						initiator.PutWrite(&cdb, lba, blocks)
						r, err := s.Command(ctx, sam.NewLUN(1), cdb[:], data, 0)
						if err != nil || r.Err() != nil {
							t.Errorf("write of %d blocks: %v, %v", blocks, err, r.Err())
							return
						}
						initiator.PutRead(&cdb, lba, blocks)
						r, err = s.Command(ctx, sam.NewLUN(1), cdb[:], nil, len(data))
						if err != nil || r.Err() != nil || !bytes.Equal(r.Data, data) {
							t.Errorf("read of %d blocks: %v, %v, %d bytes", blocks, err, r.Err(), len(r.Data))
							return
						}
					}
				}()
			}
			wg.Wait()
			if err := s.Logout(ctx); err != nil {
				t.Errorf("logout: %v", err)
			}
		})
	}
}

func TestSessionReportsStatusAndResidual(t *testing.T) {
	s, ctx := login(t, faketarget.New(1<<20, params(nil)))
	r, err := s.Command(ctx, sam.NewLUN(1), []byte{0xff}, nil, 0)
	var se *initiator.StatusError
	if err != nil || !errors.As(r.Err(), &se) || se.Status != sam.CheckCondition || !strings.HasPrefix(se.Error(), "CHECK CONDITION, sense 5h/20h/00h: ILLEGAL REQUEST") {
		t.Errorf("unknown opcode: %v, %v", err, r.Err())
	}
	r, err = s.Command(ctx, sam.NewLUN(1), initiator.Inquiry(255), nil, 255)
	if err != nil || r.Underflow != 255-36 || len(r.Data) != 36 || string(r.Data[8:13]) != "LUNAR" {
		t.Errorf("INQUIRY: %v, underflow %d, %d bytes", err, r.Underflow, len(r.Data))
	}
	r, err = s.Command(ctx, sam.NewLUN(1), initiator.Inquiry(36), nil, 8)
	if err != nil || r.Overflow != 28 || len(r.Data) != 8 {
		t.Errorf("INQUIRY with too little room: %v, overflow %d, %d bytes", err, r.Overflow, len(r.Data))
	}
}

func TestSessionPing(t *testing.T) {
	s, ctx := login(t, faketarget.New(1<<20, params(nil)))
	for _, n := range []int{0, 1, 4096} {
		got, err := s.Ping(ctx, content(n, 0))
		if err != nil || !bytes.Equal(got, content(n, 0)) {
			t.Errorf("ping of %d bytes: %v, %d came back", n, err, len(got))
		}
	}
}

// TestAbort: a task that the target never answers is taken away by ABORT TASK, which names its tag and CmdSN.
func TestAbort(t *testing.T) {
	ft := faketarget.New(1<<20, params(nil))
	ft.Command = func(*faketarget.Session, *initiator.PDU) bool { return true }
	s, ctx := login(t, ft)
	task, err := s.Start(sam.NewLUN(1), initiator.TestUnitReady(), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, sent := task.Tag(); !sent {
		t.Error("the task was not sent")
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := task.Wait(short); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting without time: %v", err)
	}
	resp, err := s.TaskManagement(ctx, sam.AbortTask, sam.NewLUN(1), task)
	if err != nil || resp != pdu.FunctionComplete {
		t.Fatalf("ABORT TASK: %v, %v", resp, err)
	}
	if _, err := task.Wait(ctx); err != initiator.ErrAborted {
		t.Errorf("the aborted task: %v", err)
	}
}

// TestEndOfSession: whatever ends the session ends what is in flight, and what comes after.
func TestEndOfSession(t *testing.T) {
	event := func(s *faketarget.Session, e uint8) {
		var h pdu.Header
		(*pdu.Async)(&h).Init(0, e, 0, 1, 2, 3)
		s.Send(&h, nil)
	}
	for _, c := range []struct {
		name string
		do   func(s *faketarget.Session, p *initiator.PDU)
		is   func(err error) bool
	}{
		{"closed", func(s *faketarget.Session, p *initiator.PDU) { s.C.Close() }, func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		{"dropped", func(s *faketarget.Session, p *initiator.PDU) { event(s, pdu.AsyncDropSession) }, func(err error) bool { return errors.As(err, new(*initiator.DroppedError)) }},
		{"rejected", func(s *faketarget.Session, p *initiator.PDU) {
			var h pdu.Header
			(*pdu.Reject)(&h).Init(pdu.RejectProtocol)
			s.Send(&h, p.Header[:])
		}, func(err error) bool {
			var r *initiator.RejectError
			return errors.As(err, &r) && r.Reason == pdu.RejectProtocol && r.Of == pdu.OpSCSICommand
		}},
		{"a violation", func(s *faketarget.Session, p *initiator.PDU) { s.Status(p.ITT()+1, sam.Good, nil, 0) }, func(err error) bool { return errors.As(err, new(*initiator.ViolationError)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			ft := faketarget.New(1<<20, params(nil))
			ft.Command = func(s *faketarget.Session, p *initiator.PDU) bool { c.do(s, p); return true }
			s, ctx := login(t, ft)
			for range 2 {
				if _, err := s.Command(ctx, sam.NewLUN(1), initiator.TestUnitReady(), nil, 0); !c.is(err) {
					t.Errorf("the command ended with %v", err)
				}
			}
			if !c.is(s.Err()) {
				t.Errorf("the session ended with %v", s.Err())
			}
		})
	}
}

// TestAsyncLogout: when the target asks for logout, what is in flight ends first, nothing new is sent, and a Logout Request follows
// (RFC 7143 §11.9.1).
func TestAsyncLogout(t *testing.T) {
	ft := faketarget.New(1<<20, params(nil))
	ft.Command = func(s *faketarget.Session, p *initiator.PDU) bool {
		var h pdu.Header
		(*pdu.Async)(&h).Init(0, pdu.AsyncLogout, 0, 0, 0, 10)
		if err := s.Send(&h, nil); err != nil {
			t.Error(err)
		}
		return false
	}
	s, ctx := login(t, ft)
	r, err := s.Command(ctx, sam.NewLUN(1), initiator.TestUnitReady(), nil, 0)
	if err != nil || r.Err() != nil {
		t.Errorf("the command in flight: %v, %v", err, r.Err())
	}
	if _, err := s.Command(ctx, sam.NewLUN(1), initiator.TestUnitReady(), nil, 0); err != initiator.ErrLogoutRequested {
		t.Errorf("a new command: %v", err)
	}
	s.Close()
	if err := s.Err(); err != initiator.ErrLogoutRequested && err != initiator.ErrClosed {
		t.Errorf("the session ended with %v", err)
	}
}

func TestSCSIEventIsTold(t *testing.T) {
	ft := faketarget.New(1<<20, params(nil))
	ft.Command = func(s *faketarget.Session, p *initiator.PDU) bool {
		var h pdu.Header
		(*pdu.Async)(&h).Init(sam.NewLUN(4), pdu.AsyncSCSIEvent, 0, 0, 0, 0)
		if err := s.Send(&h, []byte{0, 4, 1, 2, 3, 4}); err != nil {
			t.Error(err)
		}
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	o := serve(t, ft)
	told := make(chan *initiator.PDU, 1)
	o.OnAsync = func(p *initiator.PDU) { told <- p }
	s, err := initiator.Login(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Command(ctx, sam.NewLUN(1), initiator.TestUnitReady(), nil, 0); err != nil {
		t.Fatal(err)
	}
	if p := <-told; p.LUN() != sam.NewLUN(4) || len(p.Data) != 6 {
		t.Errorf("told of LUN %v with %d bytes", p.LUN(), len(p.Data))
	}
}

// TestDiscover: the fake answers in pieces of 100 bytes.
func TestDiscover(t *testing.T) {
	ft := faketarget.New(1<<20, params(nil))
	for i := range 9 {
		ft.Targets = append(ft.Targets, initiator.Target{Name: fmt.Sprintf("iqn.2026-11.example:disk%d", i), Addresses: []string{fmt.Sprintf("192.0.2.%d:3260,1", i), "[2001:db8::1]:3260,2"}})
	}
	o := serve(t, ft)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	got, err := initiator.Discover(ctx, o)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(ft.Targets) {
		t.Errorf("%v\nfound %v\nwant  %v", err, got, ft.Targets)
	}
}

func TestLoginRefused(t *testing.T) {
	near, far := net.Pipe()
	go func() {
		c := initiator.NewConn(far)
		p, err := c.Recv()
		if err != nil {
			t.Error(err)
			return
		}
		r := (*pdu.LoginReq)(&p.Header)
		var h pdu.Header
		(*pdu.LoginResp)(&h).Init(p.ITT(), r.ISID(), 0, pdu.TargetNotFound, false, false, 0, 0, 0)
		if err := c.Send(&h, nil); err != nil {
			t.Error(err)
		}
	}()
	_, err := initiator.Login(context.Background(), initiator.Options{
		Portal: "here", TargetName: "iqn.2026-11.example:none", Dial: func(context.Context, string) (net.Conn, error) { return near, nil },
	})
	var le *initiator.LoginError
	if !errors.As(err, &le) || le.Status != pdu.TargetNotFound || !strings.Contains(err.Error(), "iqn.2026-11.example:none at here: login refused with status 0203h (no such target)") {
		t.Errorf("login: %v", err)
	}
}

// TestLoginEndsWithContext: a target that says nothing does not hold a login beyond its context.
func TestLoginEndsWithContext(t *testing.T) {
	near, far := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		c := initiator.NewConn(far)
		if _, err := c.Recv(); err != nil {
			t.Error(err)
		}
		cancel()
	}()
	_, err := initiator.Login(ctx, initiator.Options{
		Portal: "here", TargetName: "iqn.2026-11.example:none", Wait: patience, Dial: func(context.Context, string) (net.Conn, error) { return near, nil },
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("login: %v", err)
	}
}

// TestUnfitAnswer: an answer that our offer does not allow is refused.
func TestUnfitAnswer(t *testing.T) {
	ft := faketarget.New(1<<20, params(nil))
	ft.Answer = ft.Answer.With("MaxBurstLength", "16777215")
	o := serve(t, ft)
	_, err := initiator.Login(context.Background(), o)
	if err == nil || !strings.Contains(err.Error(), "MaxBurstLength") {
		t.Errorf("login: %v", err)
	}
}
