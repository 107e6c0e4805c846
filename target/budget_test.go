package target

import (
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// With no memory for its data a command is answered TASK SET FULL, its data is read and dropped, and nobody loses a
// connection or a byte. However the data comes: in the command's own PDU, unsolicited behind it, or by R2T.
func TestBudget(t *testing.T) {
	const blocks, each = 128, 128 * 512
	for name, set := range map[string]func(*initiator.Params){
		"immediate":   func(*initiator.Params) {},
		"unsolicited": func(p *initiator.Params) { p.ImmediateData, p.MaxRecvDataSegmentLength = false, 32<<10 },
		"solicited":   func(p *initiator.Params) { p.ImmediateData, p.InitialR2T = false, true },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{BufferBytes: 512 << 10}, "")
			o := r.options(1)
			p := initiator.DefaultOffer()
			set(&p)
			o.Offer = &p
			s, err := initiator.Login(r.ctx(), o)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			r.ready(s)
			other := r.login(2)
			if err := r.store.Set("write hang len=1G"); err != nil {
				t.Fatal(err)
			}
			var tasks []*initiator.Task
			for i := range 32 {
				task, err := s.Start(lun1, write10(uint32(i*blocks), blocks), pattern(i, blocks), 0)
				if err != nil {
					t.Fatal(err)
				}
				tasks = append(tasks, task)
			}
			// What there was memory for hangs; the rest is answered meanwhile.
			for _, task := range tasks[16:] {
				res, err := task.Wait(r.ctx())
				if err != nil || res.Status != sam.TaskSetFull {
					t.Fatalf("%v, %v; want TASK SET FULL", res.Status, err)
				}
			}
			if used := r.s.budget.Used(); used > 512<<10 {
				t.Fatalf("%d bytes are kept, more than the budget", used)
			}
			if _, err := other.Ping(r.ctx(), nil); err != nil {
				t.Fatal(err)
			}
			if err := r.store.Set(""); err != nil {
				t.Fatal(err)
			}
			r.store.Release()
			for i, task := range tasks[:16] {
				res, err := task.Wait(r.ctx())
				if err != nil {
					t.Fatal(err)
				}
				want := pattern(i, blocks)
				if res.Status != sam.Good {
					want = make([]byte, each) // refused: nothing of it may be there
				}
				if got := r.read(other, uint32(i*blocks), blocks); string(got) != string(want) {
					t.Fatalf("write %d, answered %v: other data", i, res.Status)
				}
			}
			r.write(s, 0, pattern(99, blocks))
		})
	}
}

// What a session keeps by itself is the budget's, too: requests ahead of a CmdSN gap here. It is given back with the session, and who
// finds none is dropped.
func TestKept(t *testing.T) {
	const each, n = 12 << 10, 16
	r := newRig(t, Config{BufferBytes: 512 << 10, MaxBacklog: 1 << 10}, "")
	hold := func(port byte) *initiator.Conn {
		c := r.rawLogin(port)
		for range n {
			c.CmdSN++ // the first leaves a gap
			var h pdu.Header
			(*pdu.NOPOut)(&h).Init(0, c.NextITT(), pdu.NoTag, false, each)
			h.SetCmdSN(c.CmdSN)
			if c.Send(&h, make([]byte, each)) != nil {
				break // it was dropped already
			}
		}
		return c
	}
	used := func(want func(int64) bool) {
		t.Helper()
		for end := time.Now().Add(testWait); !want(r.s.budget.Used()); {
			if time.Now().After(end) {
				t.Fatalf("%d bytes are charged", r.s.budget.Used())
			}
			runtime.Gosched()
		}
	}
	first := hold(1)
	used(func(b int64) bool { return b >= n*each-keptFree })
	hold(2)
	used(func(b int64) bool { return b >= 2*(n*each-keptFree) })
	third := hold(3)
	if _, err := third.Recv(); err == nil || os.IsTimeout(err) {
		t.Error("it is kept though there is no memory")
	}
	if got := r.s.Stats().Drops["no_memory"]; got != 1 {
		t.Errorf("%d are counted", got)
	}
	before := r.s.budget.Used()
	first.Close()
	used(func(b int64) bool { return b <= before-n*each+keptFree })
}
