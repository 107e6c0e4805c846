package target

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// rawDiscovery returns a discovery session at the level of PDUs, whose initiator takes recv bytes at a time.
func (r *rig) rawDiscovery(recv int) *initiator.Conn {
	r.t.Helper()
	c, err := initiator.Dial(r.ctx(), r.addr.String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	c.Timeout, c.MaxRecv = testWait, recv
	keys := initiator.Keys{{Name: "MaxRecvDataSegmentLength", Value: fmt.Sprint(recv)}}
	if _, err := c.Login(initiator.SecurityKeys("iqn.2026-11.io.lunar:raw", ""), keys); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// sendTargets is the answer to one key, on one line; "Reject" for that.
func sendTargets(c *initiator.Conn, name, value string) string {
	keys, err := c.Text(initiator.Keys{{Name: name, Value: value}})
	if err != nil {
		if strings.Contains(err.Error(), "Reject, reason 04h") {
			return "Reject"
		}
		return err.Error()
	}
	return keys.String()
}

// MUST 7143 §C: a normal session answers SendTargets with an empty value by its own target, and tells of no other
//
// MUST 7143 §C: a discovery session answers SendTargets with All and with a target's name
//
// MUST 7143 §6.2: a key that is not understood is answered NotUnderstood
//
// What is none of these is rejected, and the session goes on.
func TestSendTargets(t *testing.T) {
	r := newRig(t, Config{}, "")
	if _, err := r.s.AddTarget(testTarget+"-2", TargetConfig{LoopOf: r.tg}); err != nil {
		t.Fatal(err)
	}
	own := fmt.Sprintf("TargetName=%s TargetAddress=%v,1", testTarget, r.addr)
	other := fmt.Sprintf("TargetName=%s-2 TargetAddress=%v,1", testTarget, r.addr)
	normal, discovery := r.rawLogin(1), r.rawDiscovery(8192)
	for _, c := range []struct{ key, value, normal, discovery string }{
		{"SendTargets", "All", own, own + " " + other},
		{"SendTargets", "", own, "Reject"},
		{"SendTargets", testTarget, own, own},
		{"SendTargets", strings.ToUpper(testTarget), own, own},
		{"SendTargets", testTarget + "-2", "Reject", other},
		{"SendTargets", testTarget + "-absent", "Reject", ""},
		{"SendTargets", "all", "Reject", "Reject"},
		{"SendTargets", "Alle", "Reject", "Reject"},
		{"SendTargets", "A", "Reject", "Reject"},
		{"SendTargets", "iqn.", "Reject", "Reject"},
		{"SendTargetsPlease", "All", "SendTargetsPlease=NotUnderstood", "SendTargetsPlease=NotUnderstood"},
		{"sENDtARGETS", "aLL", "Reject", "Reject"},
	} {
		if got := sendTargets(normal, c.key, c.value); got != c.normal {
			t.Errorf("%s=%s in a normal session: %s, want %s", c.key, c.value, got, c.normal)
		}
		if got := sendTargets(discovery, c.key, c.value); got != c.discovery {
			t.Errorf("%s=%s in a discovery session: %s, want %s", c.key, c.value, got, c.discovery)
		}
	}
	if code, err := discovery.Logout(pdu.LogoutCloseSession); err != nil || code != pdu.LogoutSuccess {
		t.Errorf("logout of discovery: %d, %v", code, err)
	}
}

// MUST 7143 §13.12: no Text Response carries more than the initiator's MaxRecvDataSegmentLength; a long answer goes on in
// the next
func TestLongDiscovery(t *testing.T) {
	r := newRig(t, Config{}, "")
	var want strings.Builder
	fmt.Fprintf(&want, "TargetName=%s TargetAddress=%v,1", testTarget, r.addr)
	for i := range 200 {
		name := fmt.Sprintf("%s-%03d", testTarget, i)
		if _, err := r.s.AddTarget(name, TargetConfig{LoopOf: r.tg}); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&want, " TargetName=%s TargetAddress=%v,1", name, r.addr)
	}
	for _, recv := range []int{512, 513, 8192, want.Len() + 1, 1 << 20} {
		// Recv refuses a PDU that is longer than what was declared.
		if got := sendTargets(r.rawDiscovery(recv), "SendTargets", "All"); got != want.String() {
			t.Errorf("%d bytes at a time: %.200s", recv, got)
		}
	}
	// An answer that nobody fetches is given up for the next.
	c := r.rawDiscovery(512)
	h := c.Request(pdu.OpTextReq, true)
	h.SetTTT(pdu.NoTag)
	if err := c.Send(h, initiator.Keys{{Name: "SendTargets", Value: "All"}}.Encode()); err != nil {
		t.Fatal(err)
	}
	if p, err := c.Expect(pdu.OpTextResp); err != nil || !(*pdu.TextResp)(&p.Header).Continue() {
		t.Fatal("a long answer in one piece, or", err)
	}
	if got := sendTargets(c, "SendTargets", "All"); got != want.String() {
		t.Errorf("the second answer: %.200s", got)
	}
}

// A MaxRecvDataSegmentLength that is declared in the full feature phase holds for the Data-In that follow; one of a connection's
// reinstatement, for that connection.
func TestSegmentLengthChanges(t *testing.T) {
	r := newRig(t, Config{}, "")
	r.write(r.login(2), 0, pattern(1, 16))
	c := r.rawLogin(1)
	c.Timeout = testWait
	if _, err := c.ReadCommand(lun1, initiator.TestUnitReady(), 0); err != nil {
		t.Fatal(err)
	}
	read := func(c *initiator.Conn, segment, pieces int) {
		t.Helper()
		c.MaxRecv = segment
		h := c.CommandHeader(lun1, read10(0, 16), true, false, 8192)
		if err := c.Send(h, nil); err != nil {
			t.Fatal(err)
		}
		var data []byte
		n := 0
		for {
			p, err := c.Expect(pdu.OpDataIn)
			if err != nil {
				t.Fatal(err)
			}
			data = append(data, p.Data...)
			n++
			if (*pdu.DataIn)(&p.Header).HasStatus() {
				break
			}
		}
		if n != pieces || !bytes.Equal(data, pattern(1, 16)) {
			t.Errorf("segments of %d bytes: %d Data-In, want %d, or other data", segment, n, pieces)
		}
	}
	read(c, 262144, 1)
	for _, segment := range []int{1000, 8192, 512} {
		if _, err := c.Text(initiator.Keys{{Name: "MaxRecvDataSegmentLength", Value: fmt.Sprint(segment)}}); err != nil {
			t.Fatal(err)
		}
		read(c, segment, (8192+segment-1)/segment)
	}
	again, err := initiator.Dial(r.ctx(), r.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	again.Timeout, again.ISID, again.TSIH, again.CmdSN = testWait, c.ISID, c.TSIH, c.CmdSN
	keys := initiator.Keys{{Name: "MaxRecvDataSegmentLength", Value: "4096"}}
	if _, err := again.Login(initiator.SecurityKeys("iqn.2026-11.io.lunar:raw", testTarget), keys); err != nil {
		t.Fatal(err)
	}
	if again.TSIH != c.TSIH {
		t.Errorf("TSIH %d after %d: no reinstatement", again.TSIH, c.TSIH)
	}
	read(again, 4096, 2)
}

// A text negotiation that never ends costs nothing but itself.
func TestEndlessText(t *testing.T) {
	r := newRig(t, Config{Limit: session.Limits{TextRequests: 8, TextBytes: 4096}}, "")
	for _, data := range [][]byte{nil, []byte("X-com.example.a="), bytes.Repeat([]byte{'a'}, 2000)} {
		c := r.rawLogin(1)
		itt, ttt, rejected := c.NextITT(), pdu.NoTag, false
		for range 9 {
			h := &pdu.Header{0: byte(pdu.OpTextReq) | 0x40}
			(*pdu.TextReq)(h).SetFlags(false, data != nil)
			h.SetITT(itt)
			h.SetTTT(ttt)
			c.Stamp(h)
			if err := c.Send(h, data); err != nil {
				t.Fatal(err)
			}
			p, err := c.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if rejected = p.Opcode() == pdu.OpReject; rejected {
				break
			}
			ttt = p.TTT()
		}
		if !rejected {
			t.Errorf("%d bytes at a time, without end: still answered", len(data))
		}
		if _, err := c.Ping([]byte("there")); err != nil {
			t.Error("after that:", err)
		}
	}
}

// A discovery session takes text, NOPs and its logout, and rejects commands (RFC 7143 §4.3).
func TestDiscoveryTakesNoCommands(t *testing.T) {
	r := newRig(t, Config{}, "")
	c := r.rawDiscovery(8192)
	if _, err := c.Ping([]byte("there")); err != nil {
		t.Fatal(err)
	}
	if err := c.Send(c.CommandHeader(lun1, initiator.TestUnitReady(), false, false, 0), nil); err != nil {
		t.Fatal(err)
	}
	if p, err := c.Expect(pdu.OpReject); err != nil {
		t.Fatal(p, err)
	}
	if got := sendTargets(c, "SendTargets", "All"); !strings.Contains(got, testTarget) {
		t.Error(got)
	}
	if n := r.s.Sessions(); n != 0 {
		t.Errorf("%d normal sessions", n)
	}
}

// A text request of the full feature phase may come in pieces, cut anywhere, and its answer too.
func TestTextInPieces(t *testing.T) {
	r := newRig(t, Config{Limit: session.Limits{TextRequests: 2000}}, "")
	c := r.rawLogin(1)
	c.Timeout = testWait
	if _, err := c.Text(initiator.Keys{{Name: "MaxRecvDataSegmentLength", Value: "512"}}); err != nil {
		t.Fatal(err)
	}
	c.MaxRecv = 512
	var keys initiator.Keys
	for i := range 100 {
		keys = append(keys, initiator.Key{Name: fmt.Sprintf("X-com.example.%02d", i), Value: "1"})
	}
	for _, piece := range []int{1, 10, 511, 8192} {
		c.MaxText = piece
		answer, err := c.Text(keys)
		if err != nil || len(answer) != len(keys) {
			t.Fatalf("%d bytes at a time: %d keys, %v", piece, len(answer), err)
		}
		for i, k := range answer {
			if k.Name != keys[i].Name || k.Value != "NotUnderstood" {
				t.Errorf("%d bytes at a time: %s=%s", piece, k.Name, k.Value)
			}
		}
	}
}
