package hostile

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
	"github.com/lunar-iscsi/lunar/target"
)

// A textReq is a Text Request: its flags and tags, and what it carries.
type textReq struct {
	final, cont bool
	itt, ttt    uint32
	data        string
}

// text sends r and returns the answer.
func text(c *initiator.Conn, r textReq) (*initiator.PDU, *pdu.Header, error) {
	h := c.Request(pdu.OpTextReq, true)
	(*pdu.TextReq)(h).SetFlags(r.final, r.cont)
	h.SetITT(r.itt)
	h.SetTTT(r.ttt)
	if err := c.Send(h, []byte(r.data)); err != nil {
		return nil, nil, err
	}
	p, err := c.Recv()
	return p, h, err
}

// unknown returns n keys that nobody knows.
func unknown(n int) string {
	var keys strings.Builder
	for i := range n {
		fmt.Fprintf(&keys, "X-%d=\x00", i)
	}
	return keys.String()
}

// What one negotiation may not be: each kind is rejected by a Reject that shows the request, at the very request that is one too many, and counted
// as what it is; the connection goes on and negotiates.
func TestBadText(t *testing.T) {
	const textBytes, textRequests = 64 << 10, 256
	over := func(c *session.Counters) *uint64 { return &c.TextsOver }
	astray := func(c *session.Counters) *uint64 { return &c.TextsAstray }
	bad := func(c *session.Counters) *uint64 { return &c.TextsBad }
	// always repeats one request, with the tag that the last answer gave.
	always := func(r textReq) func(int, textReq) textReq {
		return func(_ int, next textReq) textReq {
			r.itt, r.ttt = next.itt, next.ttt
			return r
		}
	}
	keys := func(data string) func(int, textReq) textReq { return always(textReq{final: true, data: data}) }
	f := newField(t, target.Config{Limit: session.Limits{TextBytes: textBytes, TextRequests: textRequests}})
	c := f.peer(initiator.Key{Name: "MaxRecvDataSegmentLength", Value: "512"})
	for _, kind := range []struct {
		name   string
		counts func(*session.Counters) *uint64
		taken  int // requests of it that are answered by Text Responses
		req    func(i int, next textReq) textReq
	}{
		{"too long", over, textBytes / 4000, always(textReq{cont: true, data: strings.Repeat("x", 4000)})},
		{"too long by one byte", over, textBytes / 4096, always(textReq{cont: true, data: strings.Repeat("x", 4096)})},
		{"too long at once", over, 0, always(textReq{cont: true, data: strings.Repeat("x", textBytes+1)})},
		{"too many requests", over, textRequests, always(textReq{cont: true, data: "x"})},
		{"too many requests of whole keys", over, textRequests, func(i int, next textReq) textReq {
			return textReq{itt: next.itt, ttt: next.ttt, data: fmt.Sprintf("X-%d=\x00", i)}
		}},
		{"too many requests of nothing", over, textRequests, always(textReq{})},
		{"nothing that goes on", astray, 0, always(textReq{cont: true})},
		{"nothing that goes on later", astray, 1, func(i int, next textReq) textReq {
			return textReq{cont: true, itt: next.itt, ttt: next.ttt, data: strings.Repeat("x", 1-i)}
		}},
		{"goes on and is final", astray, 0, always(textReq{final: true, cont: true, data: "X-a=\x00"})},
		{"a tag that was never given", astray, 0, func(_ int, next textReq) textReq {
			return textReq{final: true, itt: next.itt, ttt: 1 << 20, data: "X-a=\x00"}
		}},
		{"the tag of another task", astray, 1, func(i int, next textReq) textReq {
			return textReq{cont: true, itt: next.itt + uint32(i), ttt: next.ttt, data: "x"}
		}},
		{"an old tag", astray, 2, func(i int, next textReq) textReq {
			return textReq{cont: true, itt: next.itt, ttt: next.ttt - uint32(i/2), data: "x"}
		}},
		{"no task tag", astray, 0, func(_ int, next textReq) textReq {
			return textReq{final: true, itt: pdu.NoTag, ttt: pdu.NoTag, data: "X-a=\x00"}
		}},
		{"keys while an answer is fetched", astray, 1, keys(unknown(100))},
		{"no list of keys", bad, 0, keys("broken")},
		{"no name", bad, 0, keys("=x\x00")},
		{"a name that is too long", bad, 0, keys(strings.Repeat("x", 64) + "=\x00")},
		{"a value that is too long", bad, 0, keys("X-a=" + strings.Repeat("x", 8193) + "\x00")},
		{"a key twice", bad, 0, keys("MaxRecvDataSegmentLength=512\x00MaxRecvDataSegmentLength=512\x00")},
		{"broken in two", bad, 1, func(i int, next textReq) textReq {
			return textReq{final: i == 1, cont: i == 0, itt: next.itt, ttt: next.ttt, data: "bro"}
		}},
		{"SendTargets and another key", bad, 0, keys("SendTargets=\x00X-a=\x00")},
		{"another's targets", bad, 0, keys("SendTargets=iqn.2026-11.io.lunar:another\x00")},
	} {
		want := f.s.Stats().Commands
		next, taken := textReq{itt: c.NextITT(), ttt: pdu.NoTag}, 0
		c.NextITT() // nobody else's
		for ; ; taken++ {
			p, h, err := text(c, kind.req(taken, next))
			if err != nil {
				t.Fatalf("%s: %v", kind.name, err)
			}
			want.Texts++
			if p.Opcode() == pdu.OpReject {
				if r := (*pdu.Reject)(&p.Header).Reason(); r != pdu.RejectProtocol || len(p.Data) != pdu.HeaderLen || pdu.Opcode(p.Data[0]&0x3f) != pdu.OpTextReq || !bytes.Equal(p.Data[16:20], h[16:20]) {
					t.Errorf("%s: rejected with reason %02x and % x", kind.name, byte(r), p.Data)
				}
				break
			}
			if p.Opcode() != pdu.OpTextResp || taken == kind.taken {
				t.Fatalf("%s: request %d is answered by %v", kind.name, taken, p.Opcode())
			}
			next.ttt = p.TTT()
		}
		if taken != kind.taken {
			t.Errorf("%s: %d requests are answered, want %d", kind.name, taken, kind.taken)
		}
		want.Rejects++
		*kind.counts(&want)++
		got := f.s.Stats().Commands
		for i, counter := range []func(*session.Counters) *uint64{over, astray, bad, func(c *session.Counters) *uint64 { return &c.Texts }, func(c *session.Counters) *uint64 { return &c.Rejects }} {
			if *counter(&got) != *counter(&want) {
				t.Errorf("%s: of over, astray, bad, texts and rejects number %d is %d, want %d", kind.name, i, *counter(&got), *counter(&want))
			}
		}
		if p, _, err := text(c, textReq{final: true, itt: c.NextITT(), ttt: pdu.NoTag, data: "X-a=\x00"}); err != nil || p.Opcode() != pdu.OpTextResp || string(p.Data) != "X-a=NotUnderstood\x00" {
			t.Fatalf("%s: the next negotiation: %v, %q", kind.name, err, p.Data)
		}
	}
}

// A long list of keys that nobody knows is answered key by key, in pieces that the initiator takes.
func TestLongText(t *testing.T) {
	const n = 3000
	f := newField(t, target.Config{})
	c := f.peer(initiator.Key{Name: "MaxRecvDataSegmentLength", Value: "512"})
	r, in, got := textReq{itt: c.NextITT(), ttt: pdu.NoTag}, unknown(n), ""
	for {
		part := in[:min(len(in), 8192)]
		in = in[len(part):]
		r.final, r.cont, r.data = len(in) == 0, len(in) != 0, part
		p, _, err := text(c, r)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Data) > 512 || p.Opcode() != pdu.OpTextResp {
			t.Fatalf("%v of %d bytes to one that takes 512", p.Opcode(), len(p.Data))
		}
		got += string(p.Data)
		if r.ttt = p.TTT(); p.Final() {
			break
		}
	}
	var want []string
	for i := range n {
		want = append(want, fmt.Sprintf("X-%d=NotUnderstood", i))
	}
	if list := strings.Split(strings.TrimSuffix(got, "\x00"), "\x00"); !slices.Equal(list, want) {
		t.Errorf("%d answers in %d bytes: %.200q", len(list), len(got), got)
	}
	// Answers that are never fetched are the budget's, all of which is there again when the server has closed.
	in = unknown(n)
	in = in[:strings.LastIndexByte(in[:20000], 0)+1]
	for range 20 {
		p := f.peer(initiator.Key{Name: "MaxRecvDataSegmentLength", Value: "512"})
		if _, _, err := text(p, textReq{final: true, itt: p.NextITT(), ttt: pdu.NoTag, data: in}); err != nil {
			t.Fatal(err)
		}
	}
	f.goOn()
}
