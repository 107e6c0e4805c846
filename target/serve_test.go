package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore/mem"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// Data of every size and way of transfer comes back as it was written, on a store that ends at once and on one that never does.
func TestTransfers(t *testing.T) {
	for _, rules := range []string{"", "any pending"} {
		for _, c := range []struct {
			name string
			set  func(*initiator.Params)
		}{
			{"immediate", func(*initiator.Params) {}},
			{"unsolicited", func(p *initiator.Params) { p.ImmediateData = false }},
			{"solicited", func(p *initiator.Params) { p.ImmediateData, p.InitialR2T = false, true }},
			{"small pieces", func(p *initiator.Params) {
				p.FirstBurstLength, p.MaxBurstLength, p.MaxRecvDataSegmentLength = 8192, 16384, 4096
			}},
		} {
			t.Run(fmt.Sprintf("%s %s", c.name, rules), func(t *testing.T) {
				r := newRig(t, Config{}, rules)
				o := r.options(1)
				p := initiator.DefaultOffer()
				c.set(&p)
				o.Offer = &p
				s, err := initiator.Login(r.ctx(), o)
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				r.ready(s)
				for i, blocks := range []int{1, 3, 8, 31, 128, 129, 512, 700, 2048, 4096} {
					data := pattern(i, blocks)
					r.write(s, uint32(i*16), data)
					if got := r.read(s, uint32(i*16), blocks); !bytes.Equal(got, data) {
						t.Fatalf("%d blocks come back otherwise", blocks)
					}
				}
			})
		}
	}
}

func pattern(seed, blocks int) []byte {
	b := make([]byte, blocks*512)
	for i := range b {
		b[i] = byte(i*7 + i>>9*13 + seed)
	}
	return b
}

// insist sends a command until it is not ended by a unit attention.
func insist(ctx context.Context, s *initiator.Session, cdb, out []byte, in int) (initiator.Result, error) {
	for {
		res, err := s.Command(ctx, lun1, cdb, out, in)
		if err != nil {
			return res, err
		}
		if key, _, _, ok := initiator.SenseFields(res.Sense); !ok || key != 6 {
			return res, nil
		}
	}
}

// Many commands at once from several sessions, each on blocks of its own, while LUNs come and go: nobody's data is touched.
func TestChangesUnderLoad(t *testing.T) {
	r := newRig(t, Config{}, "write delay=1ms every=7")
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	var clients, admin sync.WaitGroup
	stop := make(chan struct{})
	for n := range 4 {
		s := r.login(byte(n + 1))
		clients.Add(1)
		go func() {
			defer clients.Done()
			for round := range 200 {
				lba := uint32(n*1024 + round%16*8)
				data := pattern(n*1000+round, 8)
				res, err := insist(ctx, s, write10(lba, 8), data, 0)
				if err != nil || !fine(res) {
					t.Error("write:", err, res.Err())
					return
				}
				res, err = insist(ctx, s, read10(lba, 8), nil, 4096)
				if err != nil || !fine(res) || !bytes.Equal(res.Data, data) {
					t.Error("read: other data, or", err)
					return
				}
			}
		}()
	}
	admin.Add(1)
	go func() {
		defer admin.Done()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := r.tg.AddDisk(2, newStore(t, ""), scsi.DiskConfig{Identity: fmt.Sprint("other", i)}); err != nil {
				t.Error(err)
				return
			}
			other, err := r.s.AddTarget(fmt.Sprintf("%s-%d", testTarget, i), TargetConfig{})
			if err != nil {
				t.Error(err)
				return
			}
			if err := r.tg.RemoveLUN(ctx, 2, true); err != nil {
				t.Error(err)
				return
			}
			if err := other.Remove(ctx, false); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	clients.Wait()
	close(stop)
	admin.Wait()
}

// fine reports whether a command went well or was told of a change of LUNs.
func fine(res initiator.Result) bool {
	key, _, _, ok := initiator.SenseFields(res.Sense)
	return res.Status == sam.Good || res.Status == sam.CheckCondition && ok && key == 6
}

// A session that comes back from elsewhere takes the place of the old one, and only its own.
//
// MUST 7143 §6.3.5: the login of a new session by an initiator port that has one ends that one and takes its place
//
// MUST NOT 7143 §4.4.3: no initiator port has two sessions at once with one portal group of a target
func TestReinstatement(t *testing.T) {
	r := newRig(t, Config{}, "")
	first, bystander := r.login(1), r.login(2)
	second := r.login(1)
	if _, err := first.Ping(r.ctx(), nil); err == nil {
		t.Fatal("the old session lives")
	}
	for _, s := range []*initiator.Session{second, bystander} {
		if _, err := s.Ping(r.ctx(), nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.s.Sessions(); n != 2 {
		t.Fatalf("%d sessions, want 2", n)
	}
}

// What does not exist, and what cannot be, is refused with the status that says so.
func TestLoginRefusals(t *testing.T) {
	r := newRig(t, Config{MaxSessions: 1}, "")
	o := r.options(1)
	o.TargetName = "iqn.2026-11.io.lunar:absent"
	wantStatus(t, r, o, pdu.TargetNotFound)
	r.login(1)
	wantStatus(t, r, r.options(2), pdu.OutOfResources)
}

func wantStatus(t *testing.T, r *rig, o initiator.Options, want pdu.LoginStatus) {
	t.Helper()
	s, err := initiator.Login(r.ctx(), o)
	var le *initiator.LoginError
	if err == nil {
		s.Close()
		t.Fatal("let in")
	}
	if !errors.As(err, &le) || le.Status != want {
		t.Fatalf("%v, want status %04Xh", err, uint16(want))
	}
}

// Discovery shows every target with the address that the initiator came by.
func TestDiscovery(t *testing.T) {
	r := newRig(t, Config{}, "")
	for i := range 300 {
		if _, err := r.s.AddTarget(fmt.Sprintf("%s-%03d-with-a-name-long-enough-to-fill-several-responses", testTarget, i), TargetConfig{LoopOf: r.tg}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := initiator.Discover(r.ctx(), initiator.Options{Portal: r.addr.String()})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 301 || list[0].Name != testTarget || len(list[0].Addresses) != 1 || list[0].Addresses[0] != r.addr.String()+",1" {
		t.Fatalf("%d targets, the first %+v", len(list), list[0])
	}
}

// Draining asks for logouts, and cuts off who does not follow when its time is over.
func TestDrain(t *testing.T) {
	r := newRig(t, Config{}, "")
	polite, deaf := r.login(1), r.rawLogin(2)
	go func() {
		for polite.Err() == nil {
			if _, err := polite.Ping(context.Background(), nil); err != nil {
				break
			}
		}
		polite.Close()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if err := r.s.Drain(ctx); err == nil || !strings.Contains(err.Error(), "1 sessions") {
		t.Fatal("draining with a deaf initiator:", err)
	}
	if r.s.Sessions() != 0 {
		t.Fatal("sessions are left")
	}
	p, err := deaf.Expect(pdu.OpAsync)
	if err != nil || (*pdu.Async)(&p.Header).Event() != pdu.AsyncLogout {
		t.Fatal("it was not asked to log out:", err)
	}
}

// rawLogin returns a connection in full feature phase, at the level of PDUs.
func (r *rig) rawLogin(n byte) *initiator.Conn {
	r.t.Helper()
	c, err := initiator.Dial(r.ctx(), r.addr.String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	c.ISID = [6]byte{0x80, 0, 0, 0, 0, n}
	if _, err := c.Login(initiator.SecurityKeys("iqn.2026-11.io.lunar:raw", testTarget), initiator.Keys{{Name: "MaxRecvDataSegmentLength", Value: "262144"}, {Name: "InitialR2T", Value: "No"}}); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// MUST 7143 §11.18: a NOP-Out with a tag is answered with its data, ahead of I/O
//
// A NOP-Out is answered while a store hangs, and ahead of the answers that an initiator has not read.
func TestNOPAheadOfIO(t *testing.T) {
	r := newRig(t, Config{}, "write hang count=1")
	s := r.login(1)
	if _, err := s.Start(lun1, write10(0, 8), block('a', 8), 0); err != nil {
		t.Fatal(err)
	}
	if err := r.store.Wait(r.ctx(), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Ping(r.ctx(), []byte("ping")); err != nil {
		t.Fatal(err)
	}
}

// A LUN that is removed while a store's request is out: the session goes on, the removal says that the store is busy.
func TestRemoveBusyLUN(t *testing.T) {
	r := newRig(t, Config{}, "")
	st := newStore(t, "write hang count=1")
	if err := r.tg.AddDisk(2, st, scsi.DiskConfig{Identity: "busy"}); err != nil {
		t.Fatal(err)
	}
	s := r.login(1)
	if _, err := s.Command(r.ctx(), sam.NewLUN(2), initiator.TestUnitReady(), nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(sam.NewLUN(2), write10(0, 8), block('a', 8), 0); err != nil {
		t.Fatal(err)
	}
	if err := st.Wait(r.ctx(), 1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := r.tg.RemoveLUN(ctx, 2, true); err == nil {
		t.Fatal("a store with a hung request was closed")
	}
	r.ready(s) // it is told that its LUNs are others now
	r.write(s, 0, block('b', 1))
	res, err := s.Command(r.ctx(), sam.NewLUN(2), initiator.TestUnitReady(), nil, 0)
	if key, asc, _, _ := initiator.SenseFields(res.Sense); err != nil || key != 5 || asc != 0x25 {
		t.Fatalf("the removed LUN: %v, %v %x/%x", err, res.Status, key, asc)
	}
	st.Release()
	if err := st.Gone(r.ctx()); err != nil {
		t.Fatal(err)
	}
}

// An unread connection does not grow without bound: reads wait while too much is unsent, NOPs cost the connection in the end.
func TestDeafInitiator(t *testing.T) {
	r := newRig(t, Config{MaxQueuedPDUs: 512, Limit: session.Limits{Window: 64}}, "")
	c := r.rawLogin(1)
	c.Timeout = testWait
	if _, err := c.ReadCommand(lun1, initiator.TestUnitReady(), 0); err != nil {
		t.Fatal(err)
	}
	for range 64 {
		h := c.CommandHeader(lun1, read10(0, 8192), true, false, 4<<20)
		if err := c.Send(h, nil); err != nil {
			t.Fatal(err)
		}
	}
	other := r.login(2)
	r.write(other, 0, block('z', 8))
	if used := r.s.budget.Used(); used > 32<<20 {
		t.Fatalf("%d bytes are kept for an initiator that does not read", used)
	}
	ping := &pdu.Header{}
	for range 100000 {
		(*pdu.NOPOut)(ping).Init(0, c.NextITT(), pdu.NoTag, true, 0)
		ping.SetCmdSN(c.CmdSN)
		if c.Send(ping, nil) != nil {
			break
		}
	}
	for range 1000 {
		if r.s.Sessions() == 1 {
			return
		}
		r.write(other, 0, block('z', 1))
	}
	t.Fatal("a flood of NOPs that nobody reads is still answered")
}

func ExampleServer() {
	srv, err := NewServer(Config{})
	if err != nil {
		panic(err)
	}
	defer srv.Close()
	t, err := srv.AddTarget("iqn.2026-11.io.lunar:example", TargetConfig{})
	if err != nil {
		panic(err)
	}
	disk, err := mem.New(mem.Config{Size: 64 << 20})
	if err != nil {
		panic(err)
	}
	if err := t.AddDisk(1, disk, scsi.DiskConfig{Identity: "example"}); err != nil {
		panic(err)
	}
	if _, err := srv.Listen("127.0.0.1:0"); err != nil {
		panic(err)
	}
	if err := srv.Serve(); err != nil {
		panic(err)
	}
	// until it is time to end: srv.Drain(ctx)
	fmt.Println(t.Name())
	// Output: iqn.2026-11.io.lunar:example
}
