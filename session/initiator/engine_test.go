package initiator

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// sentPDU is one PDU that the engine put into its stream.
type sentPDU struct {
	h    pdu.Header
	data []byte
}

// drain takes what the engine has to send, as the kernel would, and cuts it into PDUs.
func drain(t *testing.T, e *engine) []sentPDU {
	t.Helper()
	var b []byte
	for e.out.left > 0 {
		v := bytesOf(e.out.unsent()[0])
		n := min(len(v), 1000) // in odd pieces, so that entries are cut
		b = append(b, v[:n]...)
		e.given(n)
	}
	var out []sentPDU
	for len(b) > 0 {
		h := *pdu.HeaderAt(b)
		out = append(out, sentPDU{h, b[pdu.HeaderLen : pdu.HeaderLen+h.DataLen()]})
		b = b[h.WireLen():]
	}
	return out
}

func testEngine(change func(p *Params), o Options) *engine {
	p := DefaultOffer()
	p.MaxXmitDataSegmentLength = 8192
	p.MaxOutstandingR2T = 1
	if change != nil {
		change(&p)
	}
	return newEngine(&Conn{CmdSN: 10, ExpCmdSN: 10, MaxCmdSN: 13, ExpStatSN: 5}, &o, p, 8)
}

// answer gives the engine one PDU, completing StatSN and window as a target would.
func answer(e *engine, h *pdu.Header, data []byte) error {
	h.SetDataLen(len(data))
	n, err := e.feed(Frame(h, nil, data, e.p.HeaderDigest, e.p.DataDigest))
	if err == nil && n != h.WireLen() {
		panic("a PDU was not taken whole")
	}
	return err
}

func response(itt uint32, statSN, exp, most pdu.SN, expDataSN pdu.SN) *pdu.Header {
	var r pdu.SCSIResponse
	r.Init(itt, sam.Good, 0, 0)
	r.SetExpDataSN(expDataSN)
	r.H().SetStatSN(statSN)
	r.H().SetWindow(exp, most)
	return r.H()
}

func r2t(itt, ttt uint32, sn, statSN pdu.SN, offset, n uint32) *pdu.Header {
	var r pdu.R2T
	r.Init(sam.NewLUN(3), itt, ttt, sn, offset, n)
	r.H().SetStatSN(statSN)
	r.H().SetWindow(11, 20)
	return r.H()
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

func TestWriteSplitsItsData(t *testing.T) {
	type part struct{ offset, n int }
	for _, c := range []struct {
		name   string
		change func(p *Params)
		size   int
		imm    int
		unsol  []part
		final  bool // F bit of the command
	}{
		{"small and immediate", nil, 700, 700, nil, true},
		{"immediate and unsolicited", func(p *Params) { p.FirstBurstLength = 20000 }, 30000, 8192, []part{{8192, 8192}, {16384, 3616}}, false},
		{"unsolicited alone", func(p *Params) { p.ImmediateData = false; p.FirstBurstLength = 8193 }, 10000, 0, []part{{0, 8192}, {8192, 1}}, false},
		{"immediate alone", func(p *Params) { p.InitialR2T = true }, 30000, 8192, nil, true},
		{"nothing but R2T", func(p *Params) { p.InitialR2T, p.ImmediateData = true, false }, 30000, 0, nil, true},
		{"first burst ends the immediate data", func(p *Params) { p.InitialR2T = true; p.FirstBurstLength = 512 }, 30000, 512, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := testEngine(c.change, Options{})
			data := pattern(c.size)
			e.submit(&IO{LUN: sam.NewLUN(3), Out: data})
			got := drain(t, e)
			if len(got) != 1+len(c.unsol) {
				t.Fatalf("%d PDUs, want %d", len(got), 1+len(c.unsol))
			}
			cmd := (*pdu.SCSICommand)(&got[0].h)
			if !cmd.Write() || cmd.Read() || cmd.EDTL() != uint32(c.size) || cmd.H().Final() != c.final || cmd.H().CmdSN() != 10 || cmd.H().ExpStatSN() != 5 || cmd.H().LUN() != sam.NewLUN(3) {
				t.Errorf("command %x", got[0].h)
			}
			if !bytes.Equal(got[0].data, data[:c.imm]) {
				t.Errorf("%d bytes immediate, want %d", len(got[0].data), c.imm)
			}
			for i, want := range c.unsol {
				d := (*pdu.DataOut)(&got[1+i].h)
				if int(d.Offset()) != want.offset || d.DataSN() != pdu.SN(i) || d.H().TTT() != pdu.NoTag || d.H().ITT() != cmd.H().ITT() || d.H().Final() != (i == len(c.unsol)-1) {
					t.Errorf("Data-Out %d: %x", i, got[1+i].h)
				}
				if !bytes.Equal(got[1+i].data, data[want.offset:want.offset+want.n]) {
					t.Errorf("Data-Out %d carries something else", i)
				}
			}
		})
	}
}

func TestR2TIsAnswered(t *testing.T) {
	e := testEngine(func(p *Params) { p.InitialR2T, p.ImmediateData = true, false; p.MaxBurstLength = 20000 }, Options{})
	data := pattern(30000)
	io := &IO{LUN: sam.NewLUN(3), Out: data}
	e.submit(io)
	itt := drain(t, e)[0].h.ITT()
	var sent []byte
	for i, part := range []struct{ offset, n uint32 }{{0, 20000}, {20000, 10000}} {
		if err := answer(e, r2t(itt, uint32(70+i), pdu.SN(i), 5, part.offset, part.n), nil); err != nil {
			t.Fatal(err)
		}
		for k, p := range drain(t, e) {
			d := (*pdu.DataOut)(&p.h)
			if p.h.TTT() != uint32(70+i) || d.DataSN() != pdu.SN(k) || int(d.Offset()) != len(sent) || p.h.LUN() != sam.NewLUN(3) {
				t.Errorf("Data-Out %x", p.h)
			}
			sent = append(sent, p.data...)
		}
	}
	if !bytes.Equal(sent, data) {
		t.Errorf("%d bytes sent are not what was to be written", len(sent))
	}
	if err := answer(e, response(itt, 5, 11, 20, 2), nil); err != nil {
		t.Fatal(err)
	}
	if len(e.done) != 1 || e.done[0] != io || !io.OK() {
		t.Errorf("ended: %v, %v", e.done, io.Failure())
	}
}

// TestWindow: no command goes beyond MaxCmdSN; those that wait go out in order when it grows.
func TestWindow(t *testing.T) {
	e := testEngine(nil, Options{})
	ios := make([]IO, 7)
	for i := range ios {
		ios[i].Tag = uint64(i)
		e.submit(&ios[i])
	}
	got := drain(t, e)
	if len(got) != 4 || got[3].h.CmdSN() != 13 {
		t.Fatalf("%d commands within a window of 4", len(got))
	}
	// A MaxCmdSN before ExpCmdSN - 1 is ignored, and so is one that goes back.
	for i, w := range [][2]pdu.SN{{99, 50}, {11, 12}} {
		if err := answer(e, response(got[i].h.ITT(), 5+pdu.SN(i), w[0], w[1], 0), nil); err != nil {
			t.Fatal(err)
		}
		if more := drain(t, e); len(more) != 0 {
			t.Fatalf("%d commands after ExpCmdSN %d, MaxCmdSN %d", len(more), w[0], w[1])
		}
	}
	if e.expCmdSN != 11 || e.maxCmdSN != 13 {
		t.Fatalf("window %d-%d, want 11-13", e.expCmdSN, e.maxCmdSN)
	}
	if err := answer(e, response(got[2].h.ITT(), 7, 13, 15, 0), nil); err != nil {
		t.Fatal(err)
	}
	more := drain(t, e)
	if len(more) != 2 || more[0].h.CmdSN() != 14 || more[1].h.CmdSN() != 15 || more[0].h.ExpStatSN() != 8 {
		t.Fatalf("after MaxCmdSN 15: %x", more)
	}
	if e.cmdSN != 16 || e.first != &ios[6] {
		t.Errorf("next CmdSN %d, first in line %v", e.cmdSN, e.first)
	}
}

// TestSlots: with the window open, no more than depth commands are in flight.
func TestSlots(t *testing.T) {
	e := testEngine(nil, Options{})
	e.maxCmdSN = 1000
	ios := make([]IO, 12)
	for i := range ios {
		e.submit(&ios[i])
	}
	got := drain(t, e)
	if len(got) != 8 {
		t.Fatalf("%d commands in flight, depth is 8", len(got))
	}
	if err := answer(e, response(got[0].h.ITT(), 5, 11, 1000, 0), nil); err != nil {
		t.Fatal(err)
	}
	if more := drain(t, e); len(more) != 1 || more[0].h.ITT() == got[0].h.ITT() {
		t.Errorf("after one ended: %x", more)
	}
}

func dataIn(itt uint32, sn pdu.SN, offset uint32, final bool) *pdu.Header {
	var d pdu.DataIn
	d.Init(itt, sn, offset, 0, final)
	d.H().SetWindow(11, 20)
	return d.H()
}

func withStatus(h *pdu.Header, statSN pdu.SN, residual byte, count uint32) *pdu.Header {
	(*pdu.DataIn)(h).SetStatus(sam.Good, residual, count)
	h.SetStatSN(statSN)
	return h
}

// TestReadInPieces feeds a read's Data-In byte by byte: what is inside a data segment is taken as it comes.
func TestReadInPieces(t *testing.T) {
	for _, digests := range []bool{false, true} {
		e := testEngine(func(p *Params) { p.HeaderDigest, p.DataDigest = digests, digests }, Options{})
		io := &IO{InLen: 1001, In: make([]byte, 900)} // what is beyond In is counted and dropped
		e.submit(io)
		data := pattern(1001)
		h1 := dataIn(io.itt, 0, 0, false)
		h1.SetDataLen(600)
		wire := Frame(h1, nil, data[:600], digests, digests)
		h2 := withStatus(dataIn(io.itt, 1, 600, true), 5, 0, 0)
		h2.SetDataLen(401)
		wire = append(wire, Frame(h2, nil, data[600:], digests, digests)...)
		var kept []byte
		for i, b := range wire {
			kept = append(kept, b)
			n, err := e.feed(kept)
			if err != nil {
				t.Fatalf("digests %v, byte %d: %v", digests, i, err)
			}
			kept = kept[n:]
			if len(e.done) > 0 && i != len(wire)-1 {
				t.Fatalf("ended after byte %d of %d", i, len(wire))
			}
		}
		if len(kept) > 0 || len(e.done) != 1 || !io.OK() || io.Got != 1001 || !bytes.Equal(io.In, data[:900]) {
			t.Errorf("digests %v: %d bytes left, ended %d, %v, got %d", digests, len(kept), len(e.done), io.Failure(), io.Got)
		}
	}
}

func TestResiduals(t *testing.T) {
	e := testEngine(nil, Options{})
	under := &IO{InLen: 100}
	over := &IO{InLen: 50}
	e.submit(under)
	e.submit(over)
	if err := answer(e, withStatus(dataIn(under.itt, 0, 0, true), 5, pdu.Underflow, 64), pattern(36)); err != nil {
		t.Fatal(err)
	}
	if err := answer(e, withStatus(dataIn(over.itt, 0, 0, true), 6, pdu.Overflow, 14), pattern(50)); err != nil {
		t.Fatal(err)
	}
	if under.Underflow != 64 || under.Overflow != 0 || over.Overflow != 14 || over.Underflow != 0 {
		t.Errorf("residuals %d, %d and %d, %d", under.Underflow, under.Overflow, over.Underflow, over.Overflow)
	}
}

// TestViolations gives the engine one wrong PDU each. A read of 1000 bytes and a write of 30000 are in flight, the write's first 8192
// bytes sent; the next StatSN is 5.
func TestViolations(t *testing.T) {
	const none = "" // no violation: the case shows that its neighbours differ in the one thing
	for _, c := range []struct {
		name  string
		want  string
		minor bool
		pdus  func(r, w uint32) []sentPDU
	}{
		{"read in order", none, false, func(r, w uint32) []sentPDU {
			return []sentPDU{{*dataIn(r, 0, 0, false), pattern(500)}, {*withStatus(dataIn(r, 1, 500, true), 5, 0, 0), pattern(500)}}
		}},
		{"DataSN", "DataSN 1, want 0", false, func(r, w uint32) []sentPDU { return []sentPDU{{*dataIn(r, 1, 0, false), pattern(500)}} }},
		{"offset", "offset 4, want 0", false, func(r, w uint32) []sentPDU { return []sentPDU{{*dataIn(r, 0, 4, false), pattern(500)}} }},
		{"too long", "up to byte 1001", false, func(r, w uint32) []sentPDU { return []sentPDU{{*dataIn(r, 0, 0, false), pattern(1001)}} }},
		{"short and GOOD", "only 999 of 1000", false, func(r, w uint32) []sentPDU {
			return []sentPDU{{*withStatus(dataIn(r, 0, 0, true), 5, 0, 0), pattern(999)}}
		}},
		{"wrong underflow", "underflow of 2 with 999", false, func(r, w uint32) []sentPDU {
			return []sentPDU{{*withStatus(dataIn(r, 0, 0, true), 5, pdu.Underflow, 2), pattern(999)}}
		}},
		{"both residuals", "underflow and overflow", false, func(r, w uint32) []sentPDU {
			return []sentPDU{{*withStatus(dataIn(r, 0, 0, true), 5, pdu.Underflow|pdu.Overflow, 1), pattern(999)}}
		}},
		{"StatSN skipped", "StatSN 6, want 5", true, func(r, w uint32) []sentPDU {
			return []sentPDU{{*withStatus(dataIn(r, 0, 0, true), 6, 0, 0), pattern(1000)}}
		}},
		{"A bit", "A bit", false, func(r, w uint32) []sentPDU {
			h := dataIn(r, 0, 0, false)
			h[1] |= 0x40
			return []sentPDU{{*h, pattern(500)}}
		}},
		{"Data-In for a write", "does not read", false, func(r, w uint32) []sentPDU { return []sentPDU{{*dataIn(w, 0, 0, false), pattern(4)}} }},
		{"unknown tag", "unknown tag", false, func(r, w uint32) []sentPDU { return []sentPDU{{*dataIn(r+1<<16, 0, 0, false), pattern(4)}} }},
		{"answered twice", "unknown tag", false, func(r, w uint32) []sentPDU {
			return []sentPDU{{*withStatus(dataIn(r, 0, 0, true), 5, 0, 0), pattern(1000)}, {*response(r, 6, 11, 20, 1), nil}}
		}},
		{"ExpCmdSN ahead", "ExpCmdSN 13, our next CmdSN is 12", true, func(r, w uint32) []sentPDU {
			h := dataIn(r, 0, 0, false)
			h.SetWindow(13, 20)
			return []sentPDU{{*h, pattern(500)}}
		}},
		{"CHECK CONDITION in Data-In", "CHECK CONDITION in a Data-In", false, func(r, w uint32) []sentPDU {
			h := withStatus(dataIn(r, 0, 0, true), 5, 0, 0)
			h[3] = byte(sam.CheckCondition)
			return []sentPDU{{*h, pattern(1000)}}
		}},
		{"CHECK CONDITION without sense", "without sense", false, func(r, w uint32) []sentPDU {
			h := response(r, 5, 11, 20, 0)
			h[3] = byte(sam.CheckCondition)
			return []sentPDU{{*h, nil}}
		}},
		{"sense length", "SenseLength 9", false, func(r, w uint32) []sentPDU {
			h := response(r, 5, 11, 20, 0)
			h[3] = byte(sam.CheckCondition)
			return []sentPDU{{*h, []byte{0, 9, 0x70}}}
		}},
		{"write acknowledged too early", "only 8192 of 30000", false, func(r, w uint32) []sentPDU { return []sentPDU{{*response(w, 5, 11, 20, 0), nil}} }},
		{"R2T in order", none, false, func(r, w uint32) []sentPDU { return []sentPDU{{*r2t(w, 1, 0, 5, 8192, 16384), nil}} }},
		{"R2TSN", "R2TSN 1, want 0", false, func(r, w uint32) []sentPDU { return []sentPDU{{*r2t(w, 1, 1, 5, 8192, 16384), nil}} }},
		{"R2T for what was sent", "offset 0, want 8192", false, func(r, w uint32) []sentPDU { return []sentPDU{{*r2t(w, 1, 0, 5, 0, 16384), nil}} }},
		{"R2T beyond the end", "up to byte 30001", false, func(r, w uint32) []sentPDU { return []sentPDU{{*r2t(w, 1, 0, 5, 8192, 21809), nil}} }},
		{"R2T beyond a burst", "MaxBurstLength", false, func(r, w uint32) []sentPDU { return []sentPDU{{*r2t(w, 1, 0, 5, 8192, 1<<20+1), nil}} }},
		{"R2T for nothing", "R2T for 0 bytes", false, func(r, w uint32) []sentPDU { return []sentPDU{{*r2t(w, 1, 0, 5, 8192, 0), nil}} }},
		{"R2T with the reserved tag", "reserved Target Transfer Tag", false, func(r, w uint32) []sentPDU { return []sentPDU{{*r2t(w, pdu.NoTag, 0, 5, 8192, 512), nil}} }},
		{"two R2Ts at once", "2 R2Ts at once", false, func(r, w uint32) []sentPDU {
			return []sentPDU{{*r2t(w, 1, 0, 5, 8192, 512), nil}, {*r2t(w, 2, 1, 5, 8704, 512), nil}}
		}},
		{"R2T for a read", "does not write", false, func(r, w uint32) []sentPDU { return []sentPDU{{*r2t(r, 1, 0, 5, 0, 512), nil}} }},
		{"R2T's StatSN", "the next one is 5", true, func(r, w uint32) []sentPDU { return []sentPDU{{*r2t(w, 1, 0, 4, 8192, 512), nil}} }},
		{"ExpDataSN", "ExpDataSN 1 after 0", true, func(r, w uint32) []sentPDU {
			h := response(r, 5, 11, 20, 1)
			(*pdu.SCSIResponse)(h).Init(r, sam.Busy, 0, 0)
			(*pdu.SCSIResponse)(h).SetExpDataSN(1)
			h.SetStatSN(5)
			h.SetWindow(11, 20)
			return []sentPDU{{*h, nil}}
		}},
		{"an initiator's opcode", "no place here", false, func(r, w uint32) []sentPDU {
			h := response(r, 5, 11, 20, 0)
			h[0] = byte(pdu.OpNOPOut)
			return []sentPDU{{*h, nil}}
		}},
		{"segment beyond what we declared", "MaxRecvDataSegmentLength is 262144", false, func(r, w uint32) []sentPDU {
			return []sentPDU{{*dataIn(r, 0, 0, false), pattern(262145)}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, lenient := range []bool{false, true} {
				e := testEngine(func(p *Params) { p.InitialR2T = true }, Options{Lenient: lenient})
				read, write := &IO{InLen: 1000}, &IO{LUN: sam.NewLUN(3), Out: pattern(30000)}
				e.submit(read)
				e.submit(write)
				drain(t, e)
				var err error
				for _, p := range c.pdus(read.itt, write.itt) {
					if err == nil {
						err = answer(e, &p.h, p.data)
					}
				}
				if c.want == none || c.minor && lenient {
					if err != nil {
						t.Errorf("lenient %v: %v", lenient, err)
					}
					continue
				}
				var v *ViolationError
				if !errors.As(err, &v) || !strings.Contains(v.Text, c.want) || v.Minor != c.minor {
					t.Errorf("lenient %v: %v, want a violation with %q", lenient, err, c.want)
				}
			}
		})
	}
}

func TestMaxBurstOfReads(t *testing.T) {
	for _, lenient := range []bool{false, true} {
		e := testEngine(func(p *Params) { p.MaxBurstLength = 1000 }, Options{Lenient: lenient})
		io := &IO{InLen: 3000}
		e.submit(io)
		if err := answer(e, dataIn(io.itt, 0, 0, true), pattern(1000)); err != nil {
			t.Fatal(err)
		}
		err := answer(e, dataIn(io.itt, 1, 1000, false), pattern(1001))
		if (err == nil) != lenient {
			t.Errorf("lenient %v: 1001 bytes without the F bit: %v", lenient, err)
		}
	}
}

func TestDigestsAreChecked(t *testing.T) {
	for _, flip := range []int{3, 50, 60, 1053} { // header, its digest, data, its digest
		e := testEngine(func(p *Params) { p.HeaderDigest, p.DataDigest = true, true }, Options{})
		io := &IO{InLen: 1000}
		e.submit(io)
		h := withStatus(dataIn(io.itt, 0, 0, true), 5, 0, 0)
		h.SetDataLen(1000)
		wire := Frame(h, nil, pattern(1000), true, true)
		wire[flip] ^= 1
		if _, err := e.feed(wire); err == nil || !strings.Contains(err.Error(), "digest") {
			t.Errorf("byte %d changed: %v", flip, err)
		}
	}
}

// TestNOPInIsAnswered: tag and LUN are copied, the CmdSN is not used up (RFC 7143 §11.18, §11.19).
func TestNOPInIsAnswered(t *testing.T) {
	e := testEngine(nil, Options{})
	for _, ttt := range []uint32{77, pdu.NoTag} {
		var n pdu.NOPIn
		n.Init(sam.NewLUN(9), pdu.NoTag, ttt, 0)
		n.H().SetStatSN(5)
		n.H().SetWindow(10, 20)
		if err := answer(e, n.H(), nil); err != nil {
			t.Fatal(err)
		}
		got := drain(t, e)
		if ttt == pdu.NoTag {
			if len(got) != 0 {
				t.Errorf("a NOP-In that asks for nothing was answered: %x", got)
			}
			continue
		}
		if len(got) != 1 || got[0].h.Opcode() != pdu.OpNOPOut || !got[0].h.Immediate() || got[0].h.TTT() != 77 || got[0].h.ITT() != pdu.NoTag || got[0].h.LUN() != sam.NewLUN(9) || got[0].h.CmdSN() != 10 {
			t.Errorf("answer %x", got)
		}
	}
	if e.cmdSN != 10 || e.expStatSN != 5 {
		t.Errorf("CmdSN %d, ExpStatSN %d after NOPs, want 10 and 5", e.cmdSN, e.expStatSN)
	}
}

// TestResetTakesTasks: a completed LOGICAL UNIT RESET ends what was sent to that LU before it, and only that.
func TestResetTakesTasks(t *testing.T) {
	e := testEngine(nil, Options{})
	before, other, after := &IO{LUN: sam.NewLUN(1)}, &IO{LUN: sam.NewLUN(2)}, &IO{LUN: sam.NewLUN(1)}
	e.submit(before)
	e.submit(other)
	tmf := new(IO)
	tmf.req[0] = byte(pdu.OpTaskMgmtReq) | 0x40
	(*pdu.TaskMgmtReq)(&tmf.req).SetFunction(sam.LogicalUnitReset)
	tmf.req.SetLUN(sam.NewLUN(1))
	if err := e.control(tmf); err != nil {
		t.Fatal(err)
	}
	e.submit(after)
	var r pdu.TaskMgmtResp
	r.Init(tmf.itt, pdu.FunctionComplete)
	r.H().SetStatSN(5)
	r.H().SetWindow(11, 20)
	if err := answer(e, r.H(), nil); err != nil {
		t.Fatal(err)
	}
	if before.Err != ErrAborted || before.active || !other.active || !after.active {
		t.Errorf("before %v, other in flight %v, after in flight %v", before.Err, other.active, after.active)
	}
}

// TestEngineDoesNotAllocate: writes of both kinds, a read and their answers, once memory has grown to the batch.
func TestEngineDoesNotAllocate(t *testing.T) {
	e := testEngine(func(p *Params) { p.MaxXmitDataSegmentLength = 65536 }, Options{})
	small, large, read := &IO{Out: pattern(512)}, &IO{Out: pattern(65536)}, &IO{InLen: 4096, In: make([]byte, 4096)}
	data := pattern(4096)
	rsp, din := response(0, 0, 0, 0, 0), withStatus(dataIn(0, 0, 0, true), 0, 0, 0)
	din.SetDataLen(len(data))
	wire := make([]byte, 0, 8192)
	exp := pdu.SN(10)
	if n := testing.AllocsPerRun(100, func() {
		stat := e.expStatSN
		exp += 3
		for _, io := range []*IO{small, large, read} {
			e.submit(io)
		}
		e.given(e.out.left)
		wire = wire[:0]
		for i, io := range []*IO{small, large, read} {
			h := rsp
			if io == read {
				h = din
			}
			h.SetITT(io.itt)
			h.SetStatSN(stat + pdu.SN(i))
			h.SetWindow(exp, exp+8)
			wire = append(wire, h[:]...)
		}
		wire = append(wire, data...)
		if n, err := e.feed(wire); err != nil || n != len(wire) || len(e.done) != 3 {
			t.Fatalf("%d of %d bytes, %d ended, %v", n, len(wire), len(e.done), err)
		}
		e.done = e.done[:0]
	}); n != 0 {
		t.Errorf("%v allocations for three commands", n)
	}
}
