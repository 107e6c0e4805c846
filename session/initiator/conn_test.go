package initiator_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// pair returns two ends of a pipe.
func pair(t *testing.T) (near, far *initiator.Conn) {
	a, b := net.Pipe()
	near, far = initiator.NewConn(a), initiator.NewConn(b)
	near.Timeout, far.Timeout = patience, patience
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

func TestConnRoundTrip(t *testing.T) {
	for _, digests := range []bool{false, true} {
		for _, n := range []int{0, 1, 4, 8191} {
			near, far := pair(t)
			near.HeaderDigest, near.DataDigest, far.HeaderDigest, far.DataDigest = digests, digests, digests, digests
			h := near.CommandHeader(sam.NewLUN(2), initiator.TestUnitReady(), false, n > 0, uint32(n))
			ahs := []byte{0, 5, 1, 0, 9, 9, 9, 9}
			sent := make(chan error, 1)
			go func() { sent <- near.SendAHS(h, ahs, content(n, 1)) }()
			p, err := far.Recv()
			if err := errors.Join(err, <-sent); err != nil {
				t.Fatal(err)
			}
			if p.Header != *h || !bytes.Equal(p.AHS, ahs) || !bytes.Equal(p.Data, content(n, 1)) || p.CmdSN() != 1 || near.CmdSN != 2 {
				t.Errorf("digests %v, %d bytes: %x %x, %d bytes; next CmdSN %d", digests, n, p.Header, p.AHS, len(p.Data), near.CmdSN)
			}
		}
	}
}

func TestConnFindsDamage(t *testing.T) {
	var h pdu.Header
	(*pdu.NOPIn)(&h).Init(0, 1, pdu.NoTag, 5)
	for at := range initiator.Frame(&h, nil, []byte("hello"), true, true) {
		if at >= 4 && at < 8 {
			continue // a length: the stream has no end that we would find
		}
		wire := initiator.Frame(&h, nil, []byte("hello"), true, true)
		wire[at] ^= 0x10
		near, far := pair(t)
		near.HeaderDigest, near.DataDigest = true, true
		go far.SendBytes(wire)
		if _, err := near.Recv(); err == nil || !strings.Contains(err.Error(), "digest") {
			t.Errorf("byte %d changed: %v", at, err)
		}
	}
}

func TestConnBounds(t *testing.T) {
	near, far := pair(t)
	var h pdu.Header
	(*pdu.NOPIn)(&h).Init(0, 1, pdu.NoTag, 1000)
	near.MaxRecv = 999
	go far.SendBytes(h[:])
	if _, err := near.Recv(); err == nil || !strings.Contains(err.Error(), "we declared 999") {
		t.Errorf("a segment too long: %v", err)
	}
	near.Timeout = time.Nanosecond
	if _, err := near.Recv(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nothing to receive: %v", err)
	}
	near.Timeout = patience
	go func() {
		far.SendBytes(h[:20])
		far.Close()
	}()
	if _, err := near.Recv(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("closed within a PDU: %v", err)
	}
}

// TestConnEOF is over TCP, since a pipe has an error of its own for a deadline after the end.
func TestConnEOF(t *testing.T) {
	l := listen(t)
	closed := make(chan error, 1)
	go func() {
		nc, err := l.Accept()
		if err == nil {
			err = nc.Close()
		}
		closed <- err
	}()
	c, err := initiator.Dial(context.Background(), l.Addr().String())
	if err := errors.Join(err, <-closed); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Recv(); err != io.EOF {
		t.Errorf("closed between PDUs: %v", err)
	}
}

// listen returns a listener on the loopback.
func listen(t testing.TB) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestConnNumbers: ExpStatSN follows the PDUs that use a StatSN up, and only these.
func TestConnNumbers(t *testing.T) {
	near, far := pair(t)
	status := new(pdu.Header)
	(*pdu.SCSIResponse)(status).Init(1, sam.Good, 0, 0)
	data := new(pdu.Header)
	(*pdu.DataIn)(data).Init(1, 0, 0, 0, false)
	nop, r2t := new(pdu.Header), new(pdu.Header)
	(*pdu.NOPIn)(nop).Init(0, pdu.NoTag, 3, 0)
	(*pdu.R2T)(r2t).Init(0, 1, 3, 0, 0, 1)
	for i, c := range []struct {
		h    *pdu.Header
		sn   pdu.SN
		want pdu.SN
	}{{status, 41, 42}, {data, 90, 42}, {nop, 90, 42}, {r2t, 90, 42}, {status, 42, 43}} {
		c.h.SetStatSN(c.sn)
		c.h.SetWindow(7, 9)
		go far.Send(c.h, nil)
		if _, err := near.Recv(); err != nil || near.ExpStatSN != c.want || near.ExpCmdSN != 7 || near.MaxCmdSN != 9 {
			t.Errorf("%d: %v, ExpStatSN %d, want %d; window %d-%d", i, err, near.ExpStatSN, c.want, near.ExpCmdSN, near.MaxCmdSN)
		}
	}
	imm := near.Request(pdu.OpNOPOut, true)
	next := near.Request(pdu.OpNOPOut, false)
	if imm.CmdSN() != 1 || next.CmdSN() != 1 || near.CmdSN != 2 || next.ExpStatSN() != 43 || imm.ITT() == next.ITT() {
		t.Errorf("immediate %x, then %x, next CmdSN %d", *imm, *next, near.CmdSN)
	}
}

// TestLoginInPieces: a key list longer than a PDU goes out with the C bit, and one that comes so is put together; the
// target may hold a stage for a round.
func TestLoginInPieces(t *testing.T) {
	near, far := pair(t)
	near.MaxText = 64
	far.MaxText = 64
	var long initiator.Keys
	for i := range 20 {
		long = append(long, initiator.Key{Name: fmt.Sprintf("X-example.%d", i), Value: "value"})
	}
	ended := make(chan error, 1)
	go func() { ended <- pieces(far, long) }()
	got, err := near.Login(initiator.SecurityKeys("iqn.2026-11.example:me", "iqn.2026-11.example:you"), long)
	if err := errors.Join(err, <-ended); err != nil {
		t.Fatal(err)
	}
	if got.String() != long.String() || near.TSIH != 9 || near.CmdSN != 1 {
		t.Errorf("answer %v, TSIH %d, next CmdSN %d", got, near.TSIH, near.CmdSN)
	}
}

// pieces plays a target that asks for the rest of each list, echoes the operational keys in pieces, and lets go of the stage in a last round.
func pieces(c *initiator.Conn, want initiator.Keys) error {
	var list []byte
	answer := [][]byte{}
	echoed := false
	for {
		p, err := c.Expect(pdu.OpLoginReq)
		if err != nil {
			return err
		}
		r := (*pdu.LoginReq)(&p.Header)
		if len(p.Data) > 64 || r.Continue() && r.Transit() {
			return fmt.Errorf("%d bytes of keys in one PDU, C %v, T %v", len(p.Data), r.Continue(), r.Transit())
		}
		list = append(list, p.Data...)
		var out []byte
		transit, cont := false, false
		switch {
		case r.Continue():
		case r.CSG() == pdu.SecurityNegotiation:
			transit, list = true, nil
		case len(answer) == 0 && !echoed:
			if k, err := initiator.ParseKeys(list); err != nil || k.String() != want.String() {
				return fmt.Errorf("the keys came as %v, %v", k, err)
			}
			echoed = true
			for b := want.Encode(); len(b) > 0; b = b[min(50, len(b)):] {
				answer = append(answer, b[:min(50, len(b))])
			}
			fallthrough
		case len(answer) > 0:
			out, answer = answer[0], answer[1:]
			cont = len(answer) > 0
		default:
			transit = true
		}
		var h pdu.Header
		(*pdu.LoginResp)(&h).Init(p.ITT(), r.ISID(), 9, pdu.LoginSuccess, transit, cont, r.CSG(), r.NSG(), len(out))
		if err := c.Send(&h, out); err != nil || transit && r.CSG() == pdu.OperationalStage {
			return err
		}
	}
}

func TestCDBs(t *testing.T) {
	for _, c := range []struct {
		lba    uint64
		blocks uint32
		want   string
	}{
		{0x01020304, 0x0506, "28000102030400050600000000000000"},
		{0xffffffff, 1, "2800ffffffff00000100000000000000"},
		{0xffffffff, 2, "880000000000ffffffff000000020000"},
		{1 << 32, 1, "88000000000100000000000000010000"},
		{0, 0x10000, "88000000000000000000000100000000"},
	} {
		var cdb [16]byte
		initiator.PutRead(&cdb, c.lba, c.blocks)
		if got := fmt.Sprintf("%x", cdb); got != c.want {
			t.Errorf("READ %d+%d: %s, want %s", c.lba, c.blocks, got, c.want)
		}
	}
}
