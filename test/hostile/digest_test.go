package hostile

import (
	"bytes"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
	"github.com/lunar-iscsi/lunar/target"
)

// digestPeer is a peer with both digests.
func (f *field) digestPeer() *initiator.Conn {
	f.Helper()
	f.peers++
	c := f.dial()
	c.ISID[5] = byte(f.peers)
	f.login(c, "iqn.2026-11.io.lunar:damages", initiator.Key{Name: "HeaderDigest", Value: "CRC32C"}, initiator.Key{Name: "DataDigest", Value: "CRC32C"})
	c.HeaderDigest, c.DataDigest = true, true
	for range 2 {
		if _, err := c.ReadCommand(bad, initiator.TestUnitReady(), 0); err != nil {
			f.Fatal(err)
		}
	}
	return c
}

// A flood of damaged data, small and large, in every PDU that may have some: each is rejected and counted, nothing of it is
// written, and the log does not grow by it. Damaged headers cost their connections.
func TestDamagedFloods(t *testing.T) {
	f := newField(t, target.Config{})
	c := f.digestPeer()
	const rounds = 300
	rejects, crcErrors, immediate := 0, 0, 0
	done := make(chan struct{})
	reads := *c // its own numbers: those that c sends may be old
	go func() { // as fast as it comes, until everything is answered
		defer close(done)
		for rejects < 4*rounds || crcErrors+immediate < 2*rounds {
			p, err := reads.Recv()
			if err != nil {
				return
			}
			switch {
			case p.Opcode() == pdu.OpReject && (*pdu.Reject)(&p.Header).Reason() == pdu.RejectDataDigest:
				rejects++
			case p.Opcode() == pdu.OpReject && (*pdu.Reject)(&p.Header).Reason() == pdu.RejectImmediate:
				immediate++ // more of these than there may be
			case p.Opcode() == pdu.OpSCSIResponse && bytes.Contains(p.Data, []byte{0x47, 0x05}):
				crcErrors++
			}
		}
	}()
	for i := range rounds {
		for _, n := range []int{512, 40 << 10} {
			h := c.CommandHeader(bad, write10(0, uint16(n/512)), false, true, uint32(n))
			h[0] |= 0x40 // as many as it likes
			c.CmdSN--
			h.SetDataLen(n)
			damaged(c, h, bytes.Repeat([]byte{0xdb}, n))
		}
		ping := nop(c, 100, true)
		ping.SetDataLen(100)
		damaged(c, ping, make([]byte, 100))
		var out pdu.Header
		(*pdu.DataOut)(&out).Init(bad, uint32(i), uint32(i), 0, 0, 20<<10, true)
		damaged(c, &out, make([]byte, 20<<10))
	}
	<-done
	if rejects != 4*rounds || crcErrors == 0 || crcErrors+immediate != 2*rounds {
		t.Errorf("%d PDUs were rejected for their data, %d as immediate, %d commands ended with a CRC error", rejects, immediate, crcErrors)
	}
	f.moved("damaged data", func(st target.Stats) uint64 { return st.Commands.DataDigests }, 4*rounds)
	f.alive(c)
	w := f.peer()
	if r, err := w.ReadCommand(bad, read10(0, 80), 40<<10); err != nil || r.Status != sam.Good || bytes.Contains(r.Data, []byte{0xdb}) {
		t.Errorf("%v, %v: damaged data was written", r.Status, err)
	}
	const cut = 60
	for range cut {
		c := f.digestPeer()
		b := initiator.Frame(nop(c, 0, true), nil, nil, true, true)
		b[16] ^= 1
		if err := c.SendBytes(b); err != nil {
			t.Fatal(err)
		}
		f.closed(c)
	}
	f.dropped("header_digest", cut)
	if n := f.s.Stats().NotLogged; n == 0 {
		t.Error("every one has a line in the log")
	}
}

// damaged sends a PDU whose data digest is wrong, whatever becomes of it.
func damaged(c *initiator.Conn, h *pdu.Header, data []byte) {
	b := initiator.Frame(h, nil, data, true, true)
	b[len(b)-1] ^= 0x80
	_ = c.SendBytes(b) // the target may have closed the connection
}
