package target

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// An oddStore is a store with a Submit and a Kick of its own.
type oddStore struct {
	backstore.Store
	submit func(*backstore.Request) backstore.Outcome
	kick   func()
}

func (s *oddStore) Submit(r *backstore.Request) backstore.Outcome { return s.submit(r) }
func (s *oddStore) Kick()                                         { s.kick() }

// A lines collects what a server logs.
type lines struct {
	mu   sync.Mutex
	text []string
}

func (l *lines) Debug(string, ...any) {}
func (l *lines) Info(string, ...any)  {}
func (l *lines) Warn(msg string, kv ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range kv {
		if s, ok := v.(string); ok {
			msg += " " + s
		}
	}
	l.text = append(l.text, msg)
}

func (l *lines) has(what string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(strings.Join(l.text, "\n"), what)
}

// A store whose code panics costs the connection whose command it had, and takes its logical unit offline; nothing else.
func TestPanics(t *testing.T) {
	for name, odd := range map[string]func(*oddStore, *backstore.Request) backstore.Outcome{
		"in Submit": func(*oddStore, *backstore.Request) backstore.Outcome { panic("the store is broken") },
		"in Kick": func(s *oddStore, q *backstore.Request) backstore.Outcome {
			s.kick = func() {
				s.kick = func() {}
				q.C.Complete(q)
				panic("the store is broken")
			}
			return backstore.Pending
		},
	} {
		t.Run(name, func(t *testing.T) {
			log := &lines{}
			r := newRig(t, Config{Logger: log}, "")
			st := &oddStore{Store: newStore(t, ""), kick: func() {}}
			st.submit = func(q *backstore.Request) backstore.Outcome {
				if q.Op == backstore.Write {
					return odd(st, q)
				}
				return st.Store.Submit(q)
			}
			if err := r.tg.AddDisk(2, st, scsi.DiskConfig{Identity: "broken"}); err != nil {
				t.Fatal(err)
			}
			other, victim := r.login(1), r.login(2)
			lun2 := sam.NewLUN(2)
			r.readyAt(other, lun2)
			r.readyAt(victim, lun2)
			hung, err := victim.Start(lun2, write10(0, 8), block('a', 8), 0)
			if err != nil {
				t.Fatal(err)
			}
			r.write(other, 0, block('b', 8)) // once at least, however soon the other is done
			for i := 0; r.s.Panics() == 0 && i < 10000; i++ {
				r.write(other, 0, block('b', 8))
			}
			if name == "in Submit" {
				if _, err := hung.Wait(r.ctx()); err == nil {
					t.Error("the connection whose command it was lives")
				}
			}
			if !log.has("the store is broken") {
				t.Error("nothing about it in the log")
			}
			if got := r.read(other, 0, 8); !bytes.Equal(got, block('b', 8)) {
				t.Error("another unit's data")
			}
			res, err := other.Command(r.ctx(), lun2, read10(0, 1), nil, 512)
			if key, _, _, _ := initiator.SenseFields(res.Sense); err != nil || key != 2 {
				t.Error("the broken unit is not offline:", err, res.Status, key)
			}
			r.ready(r.login(2))
		})
	}
}

// readyAt takes the unit attentions that wait for s at lun.
func (r *rig) readyAt(s *initiator.Session, lun sam.LUN) {
	r.t.Helper()
	for range 4 {
		if res, err := s.Command(r.ctx(), lun, initiator.TestUnitReady(), nil, 0); err != nil {
			r.t.Fatal(err)
		} else if res.Status == sam.Good {
			return
		}
	}
}

// Parameter data lies in the command, which the next one uses again: each of several answers that go out together has its own.
func TestParameterDataTogether(t *testing.T) {
	r := newRig(t, Config{}, "")
	c := r.rawLogin(1)
	var all []byte
	const n = 8
	want := map[uint32]byte{}
	for i := range n {
		page := []byte{0x00, 0x80, 0x83, 0xb0}[i%4]
		h := c.CommandHeader(lun1, []byte{0x12, 1, page, 0, 255, 0}, true, false, 255)
		want[h.ITT()] = page
		all = append(all, initiator.Frame(h, nil, nil, false, false)...)
	}
	if err := c.SendBytes(all); err != nil {
		t.Fatal(err)
	}
	for range n {
		p, err := c.Expect(pdu.OpDataIn)
		if err != nil {
			t.Fatal(err)
		}
		if page := want[p.ITT()]; p.Data[1] != page {
			t.Errorf("page %02x answered with page %02x", page, p.Data[1])
		}
	}
}

// A read may take any number of PDUs: one to an initiator that takes 512 bytes at a time is no flood.
func TestReadInManyPDUs(t *testing.T) {
	r := newRig(t, Config{MaxQueuedPDUs: 64}, "")
	o := r.options(1)
	p := initiator.DefaultOffer()
	p.MaxRecvDataSegmentLength = 512
	o.Offer = &p
	s, err := initiator.Login(r.ctx(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r.ready(s)
	data := pattern(3, 4096)
	r.write(s, 0, data)
	if got := r.read(s, 0, 4096); !bytes.Equal(got, data) {
		t.Fatal("other data")
	}
}

// Reads that wait for an initiator to take what it has asked for are kicked, too, when they go on.
func TestWaitingReadsAreKicked(t *testing.T) {
	r := newRig(t, Config{MaxBacklog: 16 << 10}, "")
	var queue []*backstore.Request
	st := &oddStore{Store: newStore(t, "")}
	st.submit = func(q *backstore.Request) backstore.Outcome {
		if q.Flags&backstore.NoWait != 0 {
			return backstore.WouldBlock
		}
		queue = append(queue, q)
		return backstore.Pending
	}
	st.kick = func() {
		for _, q := range queue {
			if st.Store.Submit(q) == backstore.Done {
				q.C.Complete(q)
			}
		}
		queue = queue[:0]
	}
	if err := r.tg.AddDisk(2, st, scsi.DiskConfig{Identity: "kicked"}); err != nil {
		t.Fatal(err)
	}
	// The first answer is more than may wait, so that the second read waits until it has gone; that happens at the end of the turn.
	c := r.rawLogin(1)
	lun2 := sam.NewLUN(2)
	for _, lun := range []sam.LUN{lun1, lun2} {
		if _, err := c.ReadCommand(lun, initiator.TestUnitReady(), 0); err != nil {
			t.Fatal(err)
		}
	}
	first, second := c.CommandHeader(lun1, read10(0, 64), true, false, 32<<10), c.CommandHeader(lun2, read10(0, 1), true, false, 512)
	if err := c.SendBytes(append(initiator.Frame(first, nil, nil, false, false), initiator.Frame(second, nil, nil, false, false)...)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := c.Expect(pdu.OpDataIn); err != nil {
			t.Fatal(err)
		}
	}
}

// A login request that is too long is refused with a status, not with silence, and what comes of it is not kept.
//
// MUST 7143 §11.13.5: after a Login Response whose status is no success the connection is closed
func TestLoginTooLong(t *testing.T) {
	r := newRig(t, Config{}, "")
	c, err := initiator.Dial(r.ctx(), r.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	h := &pdu.Header{0: byte(pdu.OpLoginReq) | 0x40, 1: 0x87}
	if err := c.Send(h, make([]byte, 600<<10)); err != nil {
		t.Fatal(err)
	}
	p, err := c.Expect(pdu.OpLoginResp)
	if err != nil {
		t.Fatal(err)
	}
	if got := (*pdu.LoginResp)(&p.Header).Status(); got != pdu.InitiatorError {
		t.Fatalf("status %04Xh", uint16(got))
	}
	if _, err := c.Recv(); err != io.EOF {
		t.Fatal("the connection is not closed:", err)
	}
}

// Both ways of writing a LUN's number lead to one nexus, with one set of unit attentions (SAM-5 §4.7.7).
func TestLUNAddressing(t *testing.T) {
	r := newRig(t, Config{}, "")
	s := r.login(1)
	flat := sam.LUN(0x4001 << 48)
	if res, err := s.Command(r.ctx(), flat, initiator.TestUnitReady(), nil, 0); err != nil || res.Status != sam.Good {
		t.Fatal("flat addressing:", err, res.Err())
	}
}

// TestLostWhileAnswering: a connection that is given up while several of its commands have ended and are being answered.
func TestLostWhileAnswering(t *testing.T) {
	const n = 8
	r := newRig(t, Config{MaxQueuedPDUs: 2}, "write hang count=8")
	other, c := r.login(1), r.rawLogin(2)
	c.Timeout = testWait
	if _, err := c.ReadCommand(lun1, initiator.TestUnitReady(), 0); err != nil {
		t.Fatal(err)
	}
	var all []byte
	for i := range n {
		h := c.CommandHeader(lun1, write10(uint32(i*8), 1), false, true, 512)
		h.SetDataLen(512)
		all = append(all, initiator.Frame(h, nil, block('w', 1), false, false)...)
	}
	if err := c.SendBytes(all); err != nil {
		t.Fatal(err)
	}
	if err := r.store.Wait(r.ctx(), n); err != nil {
		t.Fatal(err)
	}
	r.tg.l.ev.Lock() // so that all of them end before the loop looks
	r.store.Release()
	r.tg.l.ev.Unlock()
	for {
		if _, err := c.Recv(); err != nil {
			break
		}
	}
	r.ready(other)
	r.ready(r.login(2))
	if r.s.Panics() != 0 {
		t.Fatal("a fault")
	}
}
