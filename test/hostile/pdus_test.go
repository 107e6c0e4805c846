package hostile

import (
	"bytes"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
	"github.com/lunar-iscsi/lunar/target"
)

const mrdsl = 256 << 10 // what the target declares

// A data segment may be as long as was declared and no longer, in whatever PDU.
func TestSegmentLengths(t *testing.T) {
	f := newField(t, target.Config{})
	dropped := uint64(0)
	for _, op := range []pdu.Opcode{pdu.OpNOPOut, pdu.OpSCSICommand, pdu.OpTaskMgmtReq, pdu.OpTextReq, pdu.OpDataOut, pdu.OpLogoutReq, 0x1c, 0x3f} {
		for _, n := range []int{mrdsl + 1, 1 << 20, 1<<24 - 1} {
			c := f.peer()
			h := c.Request(op, true)
			h.SetDataLen(n)
			if err := c.SendBytes(h[:]); err != nil {
				t.Fatal(err)
			}
			f.closed(c)
			dropped++
		}
	}
	f.dropped("bad_header", dropped)
	c := f.peer()
	for _, n := range []int{0, 1, 3, 4, 48, 8191, 8192, 16<<10 - 1, 16 << 10, 16<<10 + 1, mrdsl - 1, mrdsl} {
		data := bytes.Repeat([]byte{byte(n + 1)}, n)
		if err := c.Send(nop(c, n, true), data); err != nil {
			t.Fatal(err)
		}
		p, err := c.Expect(pdu.OpNOPIn)
		if err != nil || !bytes.Equal(p.Data, data) {
			t.Fatalf("NOP-Out of %d bytes: %v, %d bytes come back", n, err, len(p.Data))
		}
		if pad := p.Data[len(p.Data):pdu.Pad(len(p.Data))]; !bytes.Equal(pad, make([]byte, len(pad))) {
			t.Fatalf("NOP-In of %d bytes is padded with % x", n, pad)
		}
	}
}

// Every length of immediate data, at every boundary, against every length that the command says.
func TestImmediateLengths(t *testing.T) {
	f := newField(t, target.Config{})
	const first = 65536 // FirstBurstLength
	c := f.peer()
	ended := 0
	for _, blocks := range []uint16{0, 1, 8, 128, 129} {
		for _, n := range []int{0, 1, 3, 4, 48, 511, 512, 513, 4096, first - 1, first, first + 1, mrdsl - 1, mrdsl} {
			for _, edtl := range []uint32{0, 1, uint32(n), uint32(blocks) * 512, 1<<32 - 1} {
				h := c.CommandHeader(bad, write10(0, blocks), false, true, edtl)
				if err := c.Send(h, make([]byte, n)); err != nil {
					t.Fatal(err)
				}
				r, ok := f.finish(c, h.ITT())
				if !ok {
					c = f.peer()
					continue
				}
				ended++
				want := int(blocks) * 512
				if r.Status == sam.Good && (n > first || n > int(edtl)) {
					t.Errorf("%d blocks, EDTL %d, %d bytes immediate: GOOD", blocks, edtl, n)
				}
				if n == want && edtl == uint32(n) && n <= first && blocks != 0 && r.Status != sam.Good {
					t.Errorf("%d blocks, all immediate: %v", blocks, r.Err())
				}
			}
		}
	}
	if ended < 200 {
		t.Errorf("only %d commands were answered", ended)
	}
	f.moved("commands", func(st target.Stats) uint64 { return st.Commands.Commands }, 200)
}

// finish answers R2Ts of the one task on c with what they ask for and returns its status; false: the connection is gone.
func (f *field) finish(c *initiator.Conn, itt uint32) (initiator.Result, bool) {
	for {
		p, err := c.Recv()
		if err != nil {
			return initiator.Result{}, false
		}
		switch p.Opcode() {
		case pdu.OpR2T:
			r := (*pdu.R2T)(&p.Header)
			if r.Len() > 1<<20 {
				f.Fatalf("R2T for %d bytes", r.Len())
			}
			for off := uint32(0); off < r.Len(); {
				n := min(r.Len()-off, 65536)
				if c.DataOut(p.LUN(), itt, p.TTT(), pdu.SN(off/65536), r.Offset()+off, make([]byte, n), off+n == r.Len()) != nil {
					return initiator.Result{}, false
				}
				off += n
			}
		case pdu.OpSCSIResponse:
			s := (*pdu.SCSIResponse)(&p.Header)
			return initiator.Result{Response: s.Response(), Status: s.Status()}, true
		case pdu.OpReject:
			return initiator.Result{Status: sam.CheckCondition}, true
		case pdu.OpNOPIn:
		default:
			f.Fatalf("%v for a write", p.Opcode())
		}
	}
}

// Data-Out that is not what was asked for or announced ends its command with an error, and nothing of it is written.
func TestDataOutLies(t *testing.T) {
	f := newField(t, target.Config{})
	const burst = 1 << 20
	faults := uint64(0)
	for name, lie := range map[string]struct {
		off, n int
		sn     pdu.SN
		final  bool
	}{
		"one byte short": {0, burst - 1, 0, true}, "one byte long": {0, burst + 1, 0, true}, "a gap": {512, 512, 0, false}, "backwards": {-512, 512, 0, false},
		"the last DataSN": {0, 512, 1<<32 - 1, false}, "the last offset": {-1, 1, 0, true}, "wraps": {-1, 4096, 0, true}, "nothing": {0, 0, 0, true},
		"far outside": {1 << 30, 512, 0, true},
	} {
		c := f.peer()
		h := c.CommandHeader(bad, write10(0, 4096), false, true, 2<<20)
		if err := c.Send(h, nil); err != nil {
			t.Fatal(err)
		}
		p, err := c.Expect(pdu.OpR2T)
		if err != nil {
			t.Fatal(err)
		}
		other, err := c.Expect(pdu.OpR2T)
		if err != nil {
			t.Fatal(err)
		}
		sent := 0
		for sn := pdu.SN(0); ; sn++ {
			n := min(lie.n-sent, mrdsl)
			last := sent+n >= lie.n
			if c.DataOut(bad, h.ITT(), p.TTT(), lie.sn+sn, uint32(lie.off+sent), bytes.Repeat([]byte{0xee}, n), last && lie.final) != nil {
				t.Fatalf("%s: the connection is gone", name)
			}
			if sent += n; last {
				break
			}
		}
		// The rest of what is out, so that the answer may come.
		if !lie.final {
			_ = c.DataOut(bad, h.ITT(), p.TTT(), lie.sn+1, 0, nil, true)
		}
		for off := range 4 {
			n := burst / 4
			_ = c.DataOut(bad, h.ITT(), other.TTT(), pdu.SN(off), (*pdu.R2T)(&other.Header).Offset()+uint32(off*n), make([]byte, n), off == 3)
		}
		r, ok := f.finish(c, h.ITT())
		if !ok || r.Status != sam.CheckCondition {
			t.Errorf("%s: %v, answered: %v", name, r.Status, ok)
		}
		faults++
		if got, err := c.ReadCommand(bad, read10(0, 128), 65536); err != nil || bytes.Contains(got.Data, []byte{0xee}) {
			t.Errorf("%s: it was written: %v", name, err)
		}
	}
	f.moved("faults in data", func(st target.Stats) uint64 { return st.Commands.DataErrors }, faults)
	c := f.peer()
	for i := range 1000 {
		if err := c.DataOut(bad, uint32(i)*7919, uint32(i)*104729, 0, uint32(i)<<20, make([]byte, i), i%2 == 0); err != nil {
			t.Fatal(err)
		}
	}
	f.moved("late data", func(st target.Stats) uint64 { return st.Commands.LateData }, 1000)
	f.alive(c)
}

// A length near 2^32 sets nothing aside: neither where the CDB agrees with it nor where it does not.
func TestHugeExpectedLength(t *testing.T) {
	f := newField(t, target.Config{})
	c := f.peer()
	huge := func(op byte, lba uint64, blocks uint32) []byte {
		b := make([]byte, 16)
		b[0] = op
		for i := range 8 {
			b[2+i] = byte(lba >> (56 - 8*i))
		}
		for i := range 4 {
			b[10+i] = byte(blocks >> (24 - 8*i))
		}
		return b
	}
	for _, edtl := range []uint32{1<<32 - 1, 1<<32 - 512, 1 << 31, 1<<31 - 1, 1<<24 + 1} {
		for _, b := range [][]byte{write10(0, 8), write10(0, 65535), huge(cdb.Write16, 0, 1<<32-1), huge(cdb.Write16, 1<<64-1, 1), huge(cdb.Write16, 1<<63, 1<<31), huge(cdb.Write16, 0, 1<<23+1)} {
			h := c.CommandHeader(bad, b, false, true, edtl)
			if err := c.Send(h, make([]byte, 4096)); err != nil {
				t.Fatal(err)
			}
			if _, ok := f.finish(c, h.ITT()); !ok {
				t.Fatal("the connection is gone")
			}
		}
		for _, b := range [][]byte{read10(0, 8), read10(0, 65535), huge(cdb.Read16, 0, 1<<32-1), huge(cdb.Read16, 1<<64-1, 1<<31)} {
			h := c.CommandHeader(bad, b, true, false, edtl)
			if err := c.Send(h, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Finish(h.ITT()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if used := f.s.Stats().BufferBytes; used > budget/2 {
		t.Errorf("%d bytes are kept", used)
	}
	f.moved("commands", func(st target.Stats) uint64 { return st.Commands.Responses }, 50)
}

// Additional header segments of every length, on every request: what is not known is refused, what is too long costs its sender nothing
// but that.
func TestAdditionalHeaders(t *testing.T) {
	f := newField(t, target.Config{})
	c := f.peer()
	for _, words := range []int{1, 2, 64, 254, 255} {
		for fill := range 3 {
			ahs := bytes.Repeat([]byte{[]byte{0, 0xff, 1}[fill]}, words*4)
			for _, n := range []int{0, 1, 4096, 16 << 10, mrdsl} {
				h := c.CommandHeader(bad, write10(0, uint16(n/512)), false, true, uint32(n))
				if err := c.SendAHS(h, ahs, make([]byte, n)); err != nil {
					t.Fatal(err)
				}
				if r, ok := f.finish(c, h.ITT()); !ok || r.Status != sam.CheckCondition {
					t.Fatalf("%d words: %v, answered: %v", words, r.Status, ok)
				}
				ping := nop(c, n, true)
				if err := c.SendAHS(ping, ahs, make([]byte, n)); err != nil {
					t.Fatal(err)
				}
				if _, err := c.Recv(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	f.alive(c)
}

// Numbers far outside the window, and each number again: dropped without a word. A gap ends the connection, after so long or with so much
// behind it.
func TestCommandNumbers(t *testing.T) {
	f := newField(t, target.Config{Limit: session.Limits{GapTime: int64(time.Second), HeldBytes: 256 << 10}})
	c := f.peer()
	at := c.CmdSN
	dropped := uint64(0)
	for _, d := range []pdu.SN{1 << 31, 1<<31 - 1, 1<<31 + 1, 1 << 16, 1<<32 - 1, 1<<32 - 2, 128, 129} {
		c.CmdSN = at + d
		if err := c.Send(c.CommandHeader(bad, write10(0, 8), false, true, 4096), make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
		dropped++
	}
	c.CmdSN = at
	f.alive(c)
	f.moved("outside the window", func(st target.Stats) uint64 { return st.Commands.OutOfWindow }, dropped)
	for range 100 {
		c.CmdSN = at + 5
		if err := c.Send(nop(c, 100, false), make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	f.moved("duplicates", func(st target.Stats) uint64 { return st.Commands.OutOfWindow }, dropped+99)
	f.closed(c)
	f.dropped("cmdsn_gap", 1)
	c = f.peer()
	c.CmdSN++
	for send(c, nop(c, 64<<10, false), make([]byte, 64<<10)) {
		if c.CmdSN-at > 100 {
			break
		}
	}
	f.closed(c)
	f.dropped("held_too_much", 1)
	// The other way around within a window: all of it is done, in its order.
	c = f.peer()
	first := c.CmdSN
	for i := range 64 {
		c.CmdSN = first + pdu.SN(63-i)
		if err := c.Send(c.CommandHeader(bad, write10(uint32(i), 1), false, true, 512), make([]byte, 512)); err != nil {
			t.Fatal(err)
		}
	}
	for range 64 {
		if p, err := c.Expect(pdu.OpSCSIResponse); err != nil || (*pdu.SCSIResponse)(&p.Header).Status() != sam.Good {
			t.Fatal(err)
		}
	}
}

// A response to what failed carries sense and nothing else, and pads are zero: nothing of another's data leaks.
func TestNoOldBytes(t *testing.T) {
	f := newField(t, target.Config{})
	secret := bytes.Repeat([]byte("SECRET! "), 64<<10/8)
	c := f.peer()
	h := c.CommandHeader(bad, write10(0, 128), false, true, 65536)
	if err := c.Send(h, secret); err != nil {
		t.Fatal(err)
	}
	if r, ok := f.finish(c, h.ITT()); !ok || r.Status != sam.Good {
		t.Fatal(r.Err())
	}
	if err := f.store.Set("read error=medium off=16M"); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if r, err := c.ReadCommand(bad, read10(0, 128), 65536); err != nil || !bytes.Equal(r.Data, secret) {
			t.Fatal("read: ", err)
		}
		for _, q := range []struct {
			b    []byte
			edtl uint32
		}{
			{read10(16<<20/512, 128), 65536}, {read10(16<<20/512, 1024), 524288}, {read10(diskSize/512, 1), 512}, {read10(16<<20/512-64, 128), 65536},
			{initiator.Inquiry(5), 65535}, {initiator.InquiryVPD(0x83, 7), 65535}, {initiator.ReadCapacity16(3), 4096}, {initiator.ReportLUNs(18), 65536},
			{[]byte{cdb.ModeSense6, 0, 0x3f, 0, 255, 0}, 3}, {[]byte{cdb.RequestSense, 0, 0, 0, 252, 0}, 9}, {[]byte{0xc1, 0, 0, 0, 0, 0}, 65536},
		} {
			h := c.CommandHeader(bad, q.b, true, false, q.edtl)
			if err := c.Send(h, nil); err != nil {
				t.Fatal(err)
			}
			for over := false; !over; {
				p, err := c.Recv()
				if err != nil {
					t.Fatal(err)
				}
				if all := p.Data[:pdu.Pad(len(p.Data))]; bytes.Contains(all, []byte("SECR")) || !bytes.Equal(all[len(p.Data):], make([]byte, len(all)-len(p.Data))) {
					t.Fatalf("% x: %v with % x", q.b, p.Opcode(), all)
				}
				over = p.Opcode() == pdu.OpSCSIResponse || p.Opcode() == pdu.OpDataIn && (*pdu.DataIn)(&p.Header).HasStatus()
				if p.Opcode() == pdu.OpDataIn && q.b[0] == cdb.Read10 {
					t.Fatalf("% x: data of a READ that fails", q.b)
				}
			}
		}
	}
	f.moved("responses", func(st target.Stats) uint64 { return st.Commands.Responses }, 48)
}
