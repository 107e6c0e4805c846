package login

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// fuzzBook has one target open to all, one with CHAP both ways, and discovery with CHAP.
func fuzzBook() *book {
	chap := Auth{
		Incoming: []Account{{"joe", []byte("secret-of-joe")}, {"0xjim", []byte("secret-of-jim")}},
		Outgoing: &Account{"lunar", []byte("secret-of-lunar")},
	}
	return &book{
		targets: map[string]bookEntry{
			"iqn.2001-04.com.example:a": {info: TargetInfo{Alias: "open"}},
			"iqn.2001-04.com.example:b": {info: TargetInfo{Auth: chap}},
			"iqn.2001-04.com.example:c": {status: pdu.TargetMovedTemp, info: TargetInfo{Redirect: "192.0.2.1:3260,1"}},
		},
		discovery: bookEntry{info: TargetInfo{Auth: Auth{Incoming: chap.Incoming}}},
	}
}

// Fuzz input is a row of PDUs: flags (byte 1 of the header), whether the PDU is an odd one (another
// opcode, version, ISID, AHS), a length of two bytes, data.
func fuzzPDU(dst []byte, flags, odd byte, data string) []byte {
	dst = append(dst, flags, odd)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(data)))
	return append(dst, data...)
}

const (
	oddOpcode = 1 << iota
	oddVersion
	oddISID
	oddAHS
	oddAnswer // CHAP_N and CHAP_R are computed, with joe's secret
)

// FuzzLogin throws PDUs at a Negotiator. Whatever comes: no panic, a well-formed answer
// within bounds, success only for whom the policy lets in, nothing after the end.
func FuzzLogin(f *testing.F) {
	const host = "InitiatorName=iqn.2001-04.com.example:host\x00"
	cfg := Defaults()
	offer := string(NewOffer(cfg.Params, Normal, true).AppendKeys(nil))
	f.Add(fuzzPDU(nil, 0x87, 0, host+"TargetName=iqn.2001-04.com.example:a\x00"+offer))
	chap := fuzzPDU(nil, 0x81, 0, host+"TargetName=iqn.2001-04.com.example:b\x00AuthMethod=CHAP,None\x00")
	chap = fuzzPDU(chap, 0x00, 0, "CHAP_A=7,5\x00")
	chap = fuzzPDU(chap, 0x81, oddAnswer, "CHAP_I=3\x00CHAP_C=0x0102030405060708\x00")
	f.Add(fuzzPDU(chap, 0x87, 0, "MaxRecvDataSegmentLength=512\x00HeaderDigest=CRC32C\x00"))
	f.Add(fuzzPDU(fuzzPDU(nil, 0x40, 0, "SessionType=Discovery\x00Initiator"), 0x83, 0, "Name=eui.0123456789abcdef\x00AuthMethod=CHAP\x00"))
	f.Add(fuzzPDU(nil, 0x87, 0, host+"TargetName=iqn.2001-04.com.example:c\x00"))
	for _, odd := range []byte{oddOpcode, oddVersion, oddISID, oddAHS} {
		f.Add(fuzzPDU(fuzzPDU(nil, 0x00, 0, host+"TargetName=iqn.2001-04.com.example:a\x00"), 0x81, odd, ""))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		cfg := Defaults()
		n := NewNegotiator(&cfg, fuzzBook(), new(counting), 1)
		g := guard{t: t, n: n}
		for len(in) >= 4 {
			flags, odd, length := in[0], in[1], int(binary.BigEndian.Uint16(in[2:]))
			data := in[4:min(len(in), 4+length)]
			in = in[4+len(data):]
			g.send(flags, odd, data)
		}
	})
}

// A guard feeds a Negotiator and checks what comes back.
type guard struct {
	t         *testing.T
	n         *Negotiator
	alg       uint32
	id        uint32
	challenge []byte
	proved    bool // a right response was sent
	over      bool
	pdus      int
}

func (g *guard) send(flags, odd byte, data []byte) {
	h := &pdu.Header{0: 0x40 | byte(pdu.OpLoginReq), 1: flags}
	if odd&oddOpcode != 0 {
		h[0] = 0x41
	}
	if odd&oddVersion != 0 {
		h[3] = 1
	}
	if odd&oddISID != 0 {
		h[8] = 0x80
	}
	if odd&oddAHS != 0 {
		h[4] = 255
	}
	if odd&oddAnswer != 0 && g.challenge != nil {
		data = pdu.AppendKey(bytes.Clone(data), "CHAP_N", "joe")
		data = pdu.AppendKey(data, "CHAP_R", FormatBinary(CHAPResponse(CHAPAlgorithm(g.alg), byte(g.id), []byte("secret-of-joe"), g.challenge)))
		g.proved = true
	}
	h.SetDataLen(len(data))
	limit := g.n.MaxDataSegment()
	r := g.n.Received(h, data)
	g.pdus++
	switch {
	case g.over && !r.Drop:
		g.t.Fatal("an answer after the end")
	case r.Drop && r.Err == nil, r.Status != pdu.LoginSuccess && r.Err == nil, r.Final && r.Err != nil:
		g.t.Fatalf("%+v", r)
	case len(data) > limit && r.Status == pdu.LoginSuccess:
		g.t.Fatalf("%d bytes passed a limit of %d", len(data), limit)
	}
	if r.Drop {
		g.over = true
		return
	}
	if r.Header.Opcode() != pdu.OpLoginResp || r.Header.DataLen() != len(r.Data) || len(r.Data) > DefaultMRDSL {
		g.t.Fatalf("response %s", pdu.Describe(&r.Header, nil, r.Data))
	}
	resp := (*pdu.LoginResp)(&r.Header)
	if resp.Transit() && flags&0x80 == 0 || resp.Transit() && resp.Continue() || r.Final != (resp.Transit() && resp.NSG() == pdu.FullFeaturePhase) {
		g.t.Fatalf("flags %02x answered by %s", flags, pdu.Describe(&r.Header, nil, r.Data))
	}
	g.over = r.Final || r.Status != pdu.LoginSuccess
	if g.over != g.n.over || g.pdus > DefaultMaxPDUs && !g.over {
		g.t.Fatalf("over %v after %d PDUs", g.over, g.pdus)
	}
	g.learn(r.Data)
	if r.Final {
		g.check(g.n.Result())
	}
}

func (g *guard) learn(data []byte) {
	for k, err := range pdu.Keys(data) {
		if err != nil {
			return
		}
		switch k.Name {
		case "CHAP_A":
			g.alg, _ = parseNumber(k.Value)
		case "CHAP_I":
			g.id, _ = parseNumber(k.Value)
		case "CHAP_C":
			g.challenge, _ = ParseBinary(k.Value)
		}
	}
}

func (g *guard) check(r Result) {
	if err := r.Params.Check(); err != nil {
		g.t.Fatal(err)
	}
	if r.Params.MaxXmitDataSegmentLength < minSegment || r.Params.MaxXmitDataSegmentLength > maxSegment {
		g.t.Fatalf("segments of %d bytes", r.Params.MaxXmitDataSegmentLength)
	}
	if name, err := NormalizeName(r.InitiatorName); err != nil || name != r.InitiatorName {
		g.t.Fatalf("initiator %q", r.InitiatorName)
	}
	needed := r.Type == Discovery || r.TargetName == "iqn.2001-04.com.example:b"
	if r.TargetName == "iqn.2001-04.com.example:c" || r.Type == Discovery && r.TargetName != "" || r.Type == Normal && r.TargetName == "" {
		g.t.Fatalf("%v session with %q", r.Type, r.TargetName)
	}
	if needed && (r.AuthUser == "" || !g.proved) || !needed && r.AuthUser != "" {
		g.t.Fatalf("user %q of %q", r.AuthUser, r.TargetName)
	}
}
