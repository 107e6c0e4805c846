package target

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A digestPair says which digests a connection has.
type digestPair struct{ header, data bool }

var digestPairs = []digestPair{{false, false}, {true, false}, {false, true}, {true, true}}

func (p digestPair) String() string {
	return fmt.Sprintf("header %s, data %s", crc32c(p.header), crc32c(p.data))
}

func crc32c(on bool) string {
	if on {
		return "CRC32C"
	}
	return "None"
}

// rawDigests is rawLogin with digests and more keys.
func (r *rig) rawDigests(n byte, p digestPair, keys ...initiator.Key) *initiator.Conn {
	r.t.Helper()
	c := r.connect(n)
	all := append(initiator.Keys{
		{Name: "HeaderDigest", Value: crc32c(p.header)}, {Name: "DataDigest", Value: crc32c(p.data)},
		{Name: "InitialR2T", Value: "No"}, {Name: "FirstBurstLength", Value: "262144"}, {Name: "MaxOutstandingR2T", Value: "8"},
	}, keys...)
	if _, ok := all.Get("MaxRecvDataSegmentLength"); !ok {
		all = all.With("MaxRecvDataSegmentLength", "262144")
	}
	answer, err := c.Login(initiator.SecurityKeys("iqn.2026-11.io.lunar:raw", testTarget), all)
	if err != nil {
		r.t.Fatal(err)
	}
	if h, _ := answer.Get("HeaderDigest"); h != crc32c(p.header) {
		r.t.Fatalf("HeaderDigest=%s, want %s", h, crc32c(p.header))
	}
	if d, _ := answer.Get("DataDigest"); d != crc32c(p.data) {
		r.t.Fatalf("DataDigest=%s, want %s", d, crc32c(p.data))
	}
	c.HeaderDigest, c.DataDigest = p.header, p.data
	r.attend(c)
	return c
}

func (r *rig) connect(n byte) *initiator.Conn {
	r.t.Helper()
	c, err := initiator.Dial(r.ctx(), r.addr.String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	c.ISID = [6]byte{0x80, 0, 0, 0, 0, n}
	c.Timeout = testWait
	return c
}

// attend takes the unit attentions that wait for c.
func (r *rig) attend(c *initiator.Conn) {
	r.t.Helper()
	for range 4 {
		res, err := c.ReadCommand(lun1, initiator.TestUnitReady(), 0)
		if err != nil {
			r.t.Fatal(err)
		}
		if res.Status == sam.Good {
			return
		}
	}
	r.t.Fatal("the disk does not become ready")
}

// counters returns what tells the counters of the session of initiator port n, also when that is over.
func (r *rig) counters(n byte) func() session.Counters {
	r.t.Helper()
	l := r.tg.l
	l.ev.Lock()
	defer l.ev.Unlock()
	for _, se := range r.tg.sessions {
		if se.s.Nexus.ISID[5] == n {
			return func() session.Counters {
				l.ev.Lock()
				defer l.ev.Unlock()
				return se.s.Counters
			}
		}
	}
	r.t.Fatal("no such session")
	return nil
}

// lent returns how many bytes of buffers are with commands.
func (r *rig) lent() int {
	l := r.tg.l
	l.ev.Lock()
	defer l.ev.Unlock()
	return l.pool.Lent()
}

// Data of every size and way of transfer comes back as it was written, with each pair of digests, on a store that ends at once and on
// one that never does; the initiator checks every digest.
//
// MUST 7143 §13.1: CRC32C and None can be negotiated for headers and for data
//
// MUST 7143 §13.1: a digest that was agreed upon is in every PDU of the full feature phase
func TestDigestTransfers(t *testing.T) {
	for _, pair := range digestPairs {
		for _, rules := range []string{"", "any pending"} {
			for name, set := range map[string]func(*initiator.Params){
				"immediate":   func(*initiator.Params) {},
				"unsolicited": func(p *initiator.Params) { p.ImmediateData = false },
				"solicited":   func(p *initiator.Params) { p.ImmediateData, p.InitialR2T = false, true },
				"small pieces": func(p *initiator.Params) {
					p.FirstBurstLength, p.MaxBurstLength, p.MaxRecvDataSegmentLength = 8192, 16384, 4099
				},
			} {
				t.Run(fmt.Sprintf("%v, %s %s", pair, name, rules), func(t *testing.T) {
					r := newRig(t, Config{}, rules)
					o := r.options(1)
					p := initiator.DefaultOffer()
					set(&p)
					p.HeaderDigest, p.DataDigest = pair.header, pair.data
					o.Offer = &p
					s, err := initiator.Login(r.ctx(), o)
					if err != nil {
						t.Fatal(err)
					}
					defer s.Close()
					if got := s.Params(); got.HeaderDigest != pair.header || got.DataDigest != pair.data {
						t.Fatalf("negotiated %+v", got)
					}
					r.ready(s)
					for i, blocks := range []int{1, 3, 8, 33, 128, 129, 700, 4096} {
						data := pattern(i, blocks)
						r.write(s, uint32(i*16), data)
						if got := r.read(s, uint32(i*16), blocks); !bytes.Equal(got, data) {
							t.Fatalf("%d blocks come back otherwise", blocks)
						}
					}
					for n := range 9 {
						ping := pattern(n, 1)[:n]
						if got, err := s.Ping(r.ctx(), ping); err != nil || !bytes.Equal(got, ping) {
							t.Fatalf("ping with %d bytes: %x, %v", n, got, err)
						}
					}
					if err := s.Logout(r.ctx()); err != nil {
						t.Fatal(err)
					}
				})
			}
		}
	}
}

// Every kind of PDU that a target sends has the digests: Conn checks them.
//
// MUST 7143 §13.1: a digest that was agreed upon is in every PDU of the full feature phase
//
// SHOULD 7143 §13.1: a pad is zeros, and covered by the digest
func TestDigestsOfEveryAnswer(t *testing.T) {
	for _, pair := range digestPairs {
		t.Run(pair.String(), func(t *testing.T) {
			r := newRig(t, Config{}, "")
			// 1027 bytes a PDU: most Data-In have a pad.
			c := r.rawDigests(1, pair, initiator.Key{Name: "MaxRecvDataSegmentLength", Value: "1027"})
			c.MaxRecv = 1027
			must := func(what string, err error) {
				t.Helper()
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			for n := range 9 {
				p, err := c.Ping(pattern(n, 1)[:n])
				must("NOP-In", err)
				if !bytes.Equal(p.Data, pattern(n, 1)[:n]) {
					t.Fatalf("a NOP-In of %d bytes echoes %x", n, p.Data)
				}
			}
			data := pattern(1, 130)
			res, err := c.WriteCommand(lun1, write10(0, 130), data)
			must("SCSI Response", err)
			must("write", res.Err())
			res, err = c.ReadCommand(lun1, read10(0, 130), uint32(len(data)))
			must("Data-In from a buffer", err)
			if !bytes.Equal(res.Data, data) {
				t.Fatal("130 blocks come back otherwise")
			}
			res, err = c.ReadCommand(lun1, read10(0, 2), 1024)
			must("Data-In in place", err)
			if !bytes.Equal(res.Data, data[:1024]) {
				t.Fatal("two blocks come back otherwise")
			}
			for n := uint32(509); n <= 512; n++ { // cut short: a copy with a pad
				res, err = c.ReadCommand(lun1, read10(0, 1), n)
				must("Data-In cut short", err)
				if !bytes.Equal(res.Data, data[:n]) {
					t.Fatalf("%d bytes come back otherwise", n)
				}
			}
			res, err = c.ReadCommand(lun1, read10(1<<30, 1), 512)
			must("SCSI Response with sense", err)
			if key, asc, _, _ := initiator.SenseFields(res.Sense); key != 5 || asc != 0x21 {
				t.Fatalf("sense %x", res.Sense)
			}
			h := c.CommandHeader(lun1, write10(0, 8), false, true, 4096)
			must("a write without data", c.Send(h, nil))
			p, err := c.Expect(pdu.OpR2T)
			must("R2T", err)
			must("Data-Out", c.DataOut(lun1, h.ITT(), p.TTT(), 0, 0, data[:4096], true))
			res, err = c.Finish(h.ITT())
			must("SCSI Response", err)
			must("write through R2T", res.Err())
			answer, err := c.Text(initiator.Keys{{Name: "SendTargets", Value: ""}})
			must("Text Response", err)
			if name, _ := answer.Get("TargetName"); name != testTarget {
				t.Fatalf("SendTargets answers %v", answer)
			}
			resp, err := c.TMF(sam.LogicalUnitReset, lun1, pdu.NoTag, 0)
			must("Task Management Response", err)
			if resp != pdu.FunctionComplete {
				t.Fatalf("response %v", resp)
			}
			must("SNACK", c.Send(c.Request(pdu.OpSNACK, false), nil))
			_, err = c.Expect(pdu.OpReject)
			must("Reject", err)
			ctx, cancel := context.WithCancel(r.ctx())
			drained := make(chan error)
			go func() { drained <- r.s.Drain(ctx) }()
			_, err = c.Expect(pdu.OpAsync)
			cancel()
			<-drained
			must("Asynchronous Message", err)
		})
	}
	t.Run("logout", func(t *testing.T) {
		r := newRig(t, Config{}, "")
		c := r.rawDigests(1, digestPair{true, true})
		if code, err := c.Logout(pdu.LogoutCloseSession); err != nil || code != pdu.LogoutSuccess {
			t.Fatal(code, err)
		}
	})
}

// Digests begin behind the last Login Response (RFC 7143 §13.1), also for what the initiator sends before it has it.
func TestDigestsBeginWithFullFeature(t *testing.T) {
	for _, pair := range digestPairs {
		r := newRig(t, Config{}, "")
		c := r.connect(1)
		itt := c.NextITT()
		if _, _, err := c.LoginStep(itt, true, pdu.SecurityNegotiation, pdu.OperationalStage, initiator.SecurityKeys("iqn.2026-11.io.lunar:raw", testTarget)); err != nil {
			t.Fatal(err)
		}
		keys := initiator.Keys{{Name: "HeaderDigest", Value: crc32c(pair.header)}, {Name: "DataDigest", Value: crc32c(pair.data)}}.Encode()
		h := c.LoginHeader(itt, true, false, pdu.OperationalStage, pdu.FullFeaturePhase)
		h.SetDataLen(len(keys))
		ping := new(pdu.Header)
		(*pdu.NOPOut)(ping).Init(0, c.NextITT(), pdu.NoTag, true, 5)
		ping.SetCmdSN(c.CmdSN)
		wire := append(initiator.Frame(h, nil, keys, false, false), initiator.Frame(ping, nil, []byte("early"), pair.header, pair.data)...)
		if err := c.SendBytes(wire); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Expect(pdu.OpLoginResp); err != nil {
			t.Fatalf("%v: %v", pair, err)
		}
		c.HeaderDigest, c.DataDigest = pair.header, pair.data
		if p, err := c.Expect(pdu.OpNOPIn); err != nil || string(p.Data) != "early" {
			t.Fatalf("%v: %v", pair, err)
		}
	}
}

// Discovery works with digests, and with answers that go on over several PDUs; damage costs it what it costs others.
func TestDigestsInDiscovery(t *testing.T) {
	r := newRig(t, Config{}, "")
	for i := range 300 {
		if _, err := r.s.AddTarget(fmt.Sprintf("%s-%03d-with-a-name-long-enough-to-fill-several-responses", testTarget, i), TargetConfig{LoopOf: r.tg}); err != nil {
			t.Fatal(err)
		}
	}
	for _, pair := range digestPairs {
		p := initiator.DefaultOffer()
		p.HeaderDigest, p.DataDigest = pair.header, pair.data
		list, err := initiator.Discover(r.ctx(), initiator.Options{Portal: r.addr.String(), Offer: &p})
		if err != nil || len(list) != 301 {
			t.Fatalf("%v: %d targets, %v", pair, len(list), err)
		}
		c := r.connect(1)
		if _, err := c.Login(initiator.SecurityKeys("iqn.2026-11.io.lunar:raw", ""), initiator.Keys{
			{Name: "HeaderDigest", Value: crc32c(pair.header)}, {Name: "DataDigest", Value: crc32c(pair.data)}}); err != nil {
			t.Fatal(err)
		}
		c.HeaderDigest, c.DataDigest = pair.header, pair.data
		text := func() []byte {
			h := c.Request(pdu.OpTextReq, true)
			h.SetTTT(pdu.NoTag)
			keys := initiator.Keys{{Name: "SendTargets", Value: testTarget}}.Encode()
			h.SetDataLen(len(keys))
			return initiator.Frame(h, nil, keys, pair.header, pair.data)
		}
		if pair.data {
			wire := text()
			wire[len(wire)-1] ^= 0x10
			if err := c.SendBytes(wire); err != nil {
				t.Fatal(err)
			}
			if p, err := c.Expect(pdu.OpReject); err != nil || (*pdu.Reject)(&p.Header).Reason() != pdu.RejectDataDigest {
				t.Fatalf("%v: %v", pair, err)
			}
		}
		// An AHS that has no place here does no harm.
		h := c.Request(pdu.OpNOPOut, true)
		h.SetTTT(pdu.NoTag)
		if err := c.SendAHS(h, make([]byte, 8), []byte("abc")); err != nil {
			t.Fatal(err)
		}
		if p, err := c.Expect(pdu.OpNOPIn); err != nil || string(p.Data) != "abc" {
			t.Fatalf("%v: %v", pair, err)
		}
		if err := c.SendBytes(text()); err != nil {
			t.Fatal(err)
		}
		if p, err := c.Expect(pdu.OpTextResp); err != nil || !strings.Contains(string(p.Data), testTarget) {
			t.Fatalf("%v: %v", pair, err)
		}
		if pair.header {
			wire := text()
			wire[20] ^= 1
			if err := c.SendBytes(wire); err != nil {
				t.Fatal(err)
			}
			if p, err := c.Recv(); err == nil {
				t.Fatalf("%v: %v in answer to a damaged header", pair, p.Opcode())
			}
		}
	}
}

// The initiator's order decides, unless a digest is required or not allowed.
//
// MUST 7143 §6.2.1: of a list the first value that the acceptor supports is chosen
func TestDigestPolicy(t *testing.T) {
	for _, c := range []struct {
		policy, offer, answer string
	}{
		{"allow", "CRC32C,None", "CRC32C"}, {"allow", "None,CRC32C", "None"}, {"allow", "CRC32C", "CRC32C"}, {"allow", "None", "None"},
		{"require", "CRC32C,None", "CRC32C"}, {"require", "None,CRC32C", "CRC32C"}, {"require", "None", ""},
		{"none", "CRC32C,None", "None"}, {"none", "None", "None"}, {"none", "CRC32C", "Reject"},
	} {
		cfg := Config{Login: login.Defaults()}
		l := &cfg.Login
		l.RequireHeaderDigest, l.RequireDataDigest = c.policy == "require", c.policy == "require"
		l.Params.HeaderDigest, l.Params.DataDigest = c.policy != "none", c.policy != "none"
		r := newRig(t, cfg, "")
		for _, target := range []string{testTarget, ""} {
			conn := r.connect(1)
			answer, err := conn.Login(initiator.SecurityKeys("iqn.2026-11.io.lunar:raw", target),
				initiator.Keys{{Name: "HeaderDigest", Value: c.offer}, {Name: "DataDigest", Value: c.offer}})
			if c.answer == "" {
				if err == nil {
					t.Errorf("%+v, target %q: let in", c, target)
				}
				continue
			}
			h, _ := answer.Get("HeaderDigest")
			d, _ := answer.Get("DataDigest")
			if err != nil || h != c.answer || d != c.answer {
				t.Errorf("%+v, target %q: header %s, data %s, %v", c, target, h, d, err)
			}
		}
	}
	l := login.Defaults()
	l.RequireDataDigest, l.Params.DataDigest = true, false
	if s, err := NewServer(Config{Login: l}); err == nil {
		s.Close()
		t.Error("a server that requires what it does not offer")
	}
}

// A connection that takes the place of another (RFC 7143 §6.3.4) has what it negotiated itself, not what that had.
func TestDigestsOfAReinstatedConnection(t *testing.T) {
	r := newRig(t, Config{}, "")
	first := r.rawDigests(1, digestPair{true, true})
	for i, pair := range append(digestPairs, digestPairs...) {
		c := r.connect(1)
		c.TSIH = first.TSIH
		c.CmdSN = first.CmdSN
		size := 512 << (i % 3)
		if _, err := c.Login(initiator.SecurityKeys("iqn.2026-11.io.lunar:raw", testTarget), initiator.Keys{
			{Name: "HeaderDigest", Value: crc32c(pair.header)}, {Name: "DataDigest", Value: crc32c(pair.data)},
			{Name: "MaxRecvDataSegmentLength", Value: fmt.Sprint(size)}}); err != nil {
			t.Fatal(err)
		}
		c.HeaderDigest, c.DataDigest, c.MaxRecv = pair.header, pair.data, size
		if p, err := c.Ping([]byte("new")); err != nil || string(p.Data) != "new" {
			t.Fatalf("%v: %v", pair, err)
		}
		// Conn takes no Data-In that is longer than what this connection declared.
		if res, err := c.ReadCommand(lun1, read10(0, 8), 4096); err != nil || len(res.Data) != 4096 {
			t.Fatalf("%v, segments of %d bytes: %d bytes, %v", pair, size, len(res.Data), err)
		}
		first.CmdSN = c.CmdSN
	}
}

// What lay in the memory of a pad before is nobody's business.
//
// SHOULD 7143 §13.1: a pad is zeros, and covered by the digest
func TestPadsAreZeros(t *testing.T) {
	for _, pair := range digestPairs {
		r := newRig(t, Config{}, "")
		c := r.rawDigests(1, pair)
		for range 4 {
			if _, err := c.Ping(bytes.Repeat([]byte{0xff}, 64)); err != nil {
				t.Fatal(err)
			}
		}
		h := c.Request(pdu.OpNOPOut, true)
		h.SetTTT(pdu.NoTag)
		if err := c.Send(h, []byte{0xff}); err != nil {
			t.Fatal(err)
		}
		head := pdu.HeaderLen
		if pair.header {
			head += pdu.DigestLen
		}
		b := make([]byte, head+4)
		if _, err := io.ReadFull(c.NC, b); err != nil || !bytes.Equal(b[head:], []byte{0xff, 0, 0, 0}) {
			t.Fatalf("%v: data and pad %x, %v", pair, b[head:], err)
		}
	}
}
