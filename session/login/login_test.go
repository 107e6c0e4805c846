package login

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// TestTable holds what the rest of the package takes for granted about the table.
func TestTable(t *testing.T) {
	if len(table) > 64 {
		t.Fatalf("%d rows do not fit the set seen", len(table))
	}
	defaults := RFCDefaults()
	for i := range table {
		r := &table[i]
		if byName[r.name] != i {
			t.Errorf("%s stands twice", r.name)
		}
		negotiated := r.kind.numeric() || r.kind.boolean() || r.kind == list && r.name != "AuthMethod"
		if negotiated != (r.get != nil) || negotiated != (r.set != nil) {
			t.Errorf("%s: kind %d, field %v", r.name, r.kind, r.get != nil)
		}
		if r.kind.numeric() && (r.max == 0 || r.min > r.max) {
			t.Errorf("%s: %d-%d", r.name, r.min, r.max)
		}
		if r.get == nil {
			continue
		}
		if v, ok := r.parse(r.format(r.get(&defaults))); !ok || v != r.get(&defaults) {
			t.Errorf("%s: its default comes back as %d, %v", r.name, v, ok)
		}
		var p Params
		r.set(&p, 1)
		if r.get(&p) != 1 {
			t.Errorf("%s: set 1, got %d", r.name, r.get(&p))
		}
		for j := range table {
			if other := &table[j]; other.get != nil && other.get(&p) != 0 && other.name != r.name {
				t.Errorf("%s sets %s", r.name, other.name)
			}
		}
	}
}

func TestDefaultsAreLegal(t *testing.T) {
	cfg := Defaults()
	if err := cfg.Params.Check(); err != nil {
		t.Error(err)
	}
	p := RFCDefaults()
	if err := p.Check(); err != nil {
		t.Error(err)
	}
	if p.FirstBurstLength = p.MaxBurstLength + 1; p.Check() == nil {
		t.Error("FirstBurstLength beyond MaxBurstLength passes")
	}
	p = RFCDefaults()
	if p.MaxRecvDataSegmentLength = 511; p.Check() == nil || !strings.Contains(p.Check().Error(), "MaxRecvDataSegmentLength=511") {
		t.Errorf("segments of 511 bytes: %v", p.Check())
	}
}

// MUST 7143 §4.2.7.1: a name has at most 223 bytes
//
// MUST NOT 7143 §4.2.7.2: no white space and no punctuation but '-', '.' and ':' is in a name ('_' is let through: see there)
//
// MUST 7143 §4.2.7.3: a name is of type iqn., eui. or naa.
//
// MUST 7143 §4.2.7.5: behind eui. stand 16 hexadecimal digits
//
// MUST 7143 §4.2.7.6: behind naa. stand 16 or 32 hexadecimal digits
func TestNormalizeName(t *testing.T) {
	for in, want := range map[string]string{
		"iqn.2001-04.com.example:Disk.1":        "iqn.2001-04.com.example:disk.1",
		"IQN.2001-04.COM.EXAMPLE":               "iqn.2001-04.com.example",
		"iqn.2001-04.com.example:a_b":           "iqn.2001-04.com.example:a_b",
		"iqn.2001-04.com.example:h\u00c4user":   "iqn.2001-04.com.example:h\u00e4user",
		"iqn.2001-04.com.example:e\u0301":       "iqn.2001-04.com.example:e\u0301",
		"eui.02004567A425678D":                  "eui.02004567a425678d",
		"naa.52004567BA64678D":                  "naa.52004567ba64678d",
		"naa.62004567BA64678D0123456789ABCDEF":  "naa.62004567ba64678d0123456789abcdef",
		"":                                      "",
		"disk":                                  "",
		"iqn.":                                  "",
		"iqn.2001-4.com.example":                "iqn.2001-4.com.example",
		"iqn..com.example":                      "",
		"iqn.:a":                                "",
		"iqn.2001-04.com.example:a b":           "",
		"iqn.2001-04.com.example:a,b":           "",
		"iqn.2001-04.com.example:a\x00":         "",
		"iqn.2001-04.com.example:a\xff":         "",
		"iqn.2001-04.com.example:a\u200b":       "",
		"eui.02004567A425678":                   "",
		"eui.02004567A425678G":                  "",
		"eui.02004567A425678D0":                 "",
		"naa.52004567BA64678D0":                 "",
		"naa.62004567BA64678D0123456789ABCDEF0": "",
	} {
		got, err := NormalizeName(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", in, got, err, want)
		}
	}
	const head = "iqn.2001-04.com.example:"
	longest := head + strings.Repeat("a", MaxNameLen-len(head))
	if _, err := NormalizeName(longest); err != nil {
		t.Errorf("name of %d bytes: %v", len(longest), err)
	}
	if _, err := NormalizeName(longest + "a"); err == nil {
		t.Errorf("name of %d bytes passes", len(longest)+1)
	}
}

// TestCHAPResponse has hashes over 2Ah, "secret-of-joe", 01h to 10h, made with another
// implementation (CPython's hashlib).
//
// MUST 7143 §12.1.3: a CHAP response is the hash over identifier, secret and challenge (RFC 1994)
func TestCHAPResponse(t *testing.T) {
	challenge := make([]byte, 16)
	for i := range challenge {
		challenge[i] = byte(i + 1)
	}
	for a, want := range map[CHAPAlgorithm]string{
		CHAPMD5:     "abfc0815e60b4ed645999d81bdef256a",
		CHAPSHA1:    "e9761003bf8570a78ebe5cb9c05029057a078840",
		CHAPSHA256:  "5b50cc8ddac324564a9abea5a89aebd0cd294bc914b8e656e9ca06b9daab2961",
		CHAPSHA3256: "048a66cbc4edaa33ca93c8982d58e0bb5b5d8099387f4c7a3b9deb700c6b4f0d",
		0:           "",
		9:           "",
	} {
		got := CHAPResponse(a, 0x2a, []byte("secret-of-joe"), challenge)
		if hex.EncodeToString(got) != want || len(got) != a.Size() {
			t.Errorf("%v: %x, want %s; size %d", a, got, want, a.Size())
		}
	}
}

// MUST 7143 §6.1: a text value has at most 255 bytes, a binary one at most 1024, encoded in hex or base64
func TestParseBinary(t *testing.T) {
	for in, want := range map[string]string{
		"0x00ff": "00ff", "0XaBc": "0abc", "0x0": "00", "0bAP8=": "00ff", "0B/+8=": "ffef",
		"": "bad", "0x": "bad", "0b": "bad", "0x0g": "bad", "0x00ff0g": "bad", "0bAP8=AP8": "bad", "0bA": "bad", "0bAP8": "bad", "0bAP9=": "bad", "00ff": "bad", "1x00": "bad", "0b====": "bad",
		"0x" + strings.Repeat("00", pdu.MaxBinaryLen+1): "bad",
		"0x" + strings.Repeat("00", pdu.MaxBinaryLen):   strings.Repeat("00", pdu.MaxBinaryLen),
	} {
		got, err := ParseBinary(in)
		if s := hex.EncodeToString(got); want == "bad" && err == nil || want != "bad" && s != want {
			t.Errorf("%.20q: %.20s, %v, want %.20s", in, s, err, want)
		}
		if err == nil {
			if again, err := ParseBinary(FormatBinary(got)); err != nil || !bytes.Equal(again, got) {
				t.Errorf("%.20q does not come back", in)
			}
		}
	}
}

func TestAccountHidesSecret(t *testing.T) {
	a := Account{"joe", []byte("secret-of-joe")}
	auth := Auth{Incoming: []Account{a}, Outgoing: &a}
	for _, s := range []string{fmt.Sprint(a), fmt.Sprintf("%v %+v %#v %s %q", a, a, a, a, a), fmt.Sprintf("%+v %#v", auth, auth.Incoming)} {
		if strings.Contains(s, "secret") || strings.Contains(s, "115 101 99") || strings.Contains(s, "0x73") {
			t.Error(s)
		}
	}
}

func TestRefuse(t *testing.T) {
	cfg := Defaults()
	n := NewNegotiator(&cfg, new(book), new(counting), 1)
	h := &pdu.Header{0: 0x40 | byte(pdu.OpLoginReq)}
	(*pdu.LoginReq)(h).SetFlags(true, false, pdu.SecurityNegotiation, pdu.FullFeaturePhase)
	h.SetITT(9)
	data := []byte("InitiatorName=iqn.2001-04.com.example:host\x00SessionType=Discovery\x00")
	h.SetDataLen(len(data))
	if r := n.Received(h, data); !r.Final {
		t.Fatal(r.Err)
	}
	r := n.Refuse(pdu.SessionDoesNotExist, errors.New("no such session"))
	const want = "Login Response itt=9 statsn=0 expcmdsn=0 maxcmdsn=0 csg=security isid=000000000000 tsih=0 status=020A (session does not exist)"
	if got := pdu.Describe(&r.Header, nil, r.Data); got != want || r.Final || r.Err == nil || r.Status != pdu.SessionDoesNotExist {
		t.Errorf("got %s\nwant %s\n%+v", got, want, r)
	}
}

func TestNoRandomNumbers(t *testing.T) {
	cfg := Defaults()
	b := &book{discovery: bookEntry{info: TargetInfo{Auth: Auth{Incoming: []Account{{"joe", []byte("secret-of-joe")}}}}}}
	n := NewNegotiator(&cfg, b, iotest.ErrReader(errors.New("dry")), 1)
	r := send(n, "InitiatorName=iqn.2001-04.com.example:host", "SessionType=Discovery", "AuthMethod=CHAP")
	if r.Status != pdu.LoginSuccess {
		t.Fatal(r.Err)
	}
	if r = send(n, "CHAP_A=7"); r.Status != pdu.TargetError || len(r.Data) != 0 {
		t.Errorf("%v, %v", r.Status, r.Err)
	}
}

// send sends keys in the security stage.
func send(n *Negotiator, keys ...string) Response {
	h := &pdu.Header{0: 0x40 | byte(pdu.OpLoginReq)}
	data := []byte(strings.Join(keys, "\x00") + "\x00")
	h.SetDataLen(len(data))
	return n.Received(h, data)
}

// randomParams returns legal wishes.
func randomParams(r *rand.Rand) Params {
	var p Params
	for i := range table {
		row := &table[i]
		switch {
		case row.get == nil:
		case row.kind.numeric():
			row.set(&p, row.min+r.Uint32N(min(row.max-row.min+1, 1<<r.UintN(25))))
		case row.kind == list:
			row.set(&p, r.Uint32N(uint32(len(row.values))))
		default:
			row.set(&p, r.Uint32N(2))
		}
	}
	p.FirstBurstLength = min(p.FirstBurstLength, p.MaxBurstLength)
	return p
}

// TestBothSidesAgree lets an Offer and a Negotiator with any wishes talk: both must come to
// the same values, within the wishes of both.
//
// MUST 7143 §6.2: what is negotiated follows from what both sides said, and is the same for both
func TestBothSidesAgree(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 3000 {
		cfg := Defaults()
		cfg.Params = randomParams(r)
		want := randomParams(r)
		session := SessionType(r.UintN(2))
		b := &book{targets: map[string]bookEntry{"iqn.2001-04.com.example:a": {}}}
		n := NewNegotiator(&cfg, b, new(counting), 1)
		o := NewOffer(want, session, true)

		data := []byte("InitiatorName=iqn.2001-04.com.example:host\x00SessionType=" + session.String() + "\x00TargetName=iqn.2001-04.com.example:a\x00")
		data = o.AppendKeys(data)
		final := false
		for !final {
			h := &pdu.Header{0: 0x40 | byte(pdu.OpLoginReq)}
			(*pdu.LoginReq)(h).SetFlags(true, false, pdu.OperationalStage, pdu.FullFeaturePhase)
			h.SetDataLen(len(data))
			resp := n.Received(h, data)
			if resp.Status != pdu.LoginSuccess {
				t.Fatalf("round %d: %v", round, resp.Err)
			}
			var reply []byte
			for k, err := range pdu.Keys(resp.Data) {
				if err == nil {
					reply, err = o.Take(reply, k)
				}
				if err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
			}
			if len(reply) != 0 {
				t.Fatalf("round %d: the target offered %q", round, reply)
			}
			data, final = nil, resp.Final
		}
		ours, theirs := n.Result().Params, o.Params()
		if ours.MaxXmitDataSegmentLength != want.MaxRecvDataSegmentLength || theirs.MaxXmitDataSegmentLength != cfg.Params.MaxRecvDataSegmentLength {
			t.Fatalf("round %d: segments of %d and %d", round, ours.MaxXmitDataSegmentLength, theirs.MaxXmitDataSegmentLength)
		}
		theirs.MaxRecvDataSegmentLength, theirs.MaxXmitDataSegmentLength = theirs.MaxXmitDataSegmentLength, theirs.MaxRecvDataSegmentLength
		if ours != theirs {
			t.Fatalf("round %d, %v:\n target    %+v\n initiator %+v", round, session, ours, theirs)
		}
		if session == Normal && (ours.FirstBurstLength > ours.MaxBurstLength || ours.MaxBurstLength > want.MaxBurstLength || ours.MaxOutstandingR2T > cfg.Params.MaxOutstandingR2T ||
			ours.InitialR2T != (want.InitialR2T || cfg.Params.InitialR2T) || ours.ImmediateData != (want.ImmediateData && cfg.Params.ImmediateData) ||
			ours.DefaultTime2Wait != max(want.DefaultTime2Wait, cfg.Params.DefaultTime2Wait) || ours.HeaderDigest != (want.HeaderDigest && cfg.Params.HeaderDigest)) {
			t.Fatalf("round %d: %+v\nof %+v\nand %+v", round, ours, want, cfg.Params)
		}
	}
}

// TestOfferTakesAnswers has answers of targets that are not ours.
func TestOfferTakesAnswers(t *testing.T) {
	for _, c := range []struct {
		answer string
		reply  string // key=value without its NUL
		fails  bool
		value  func(p Params) bool
	}{
		{answer: "MaxBurstLength=65536", value: func(p Params) bool { return p.MaxBurstLength == 65536 && p.FirstBurstLength == 65536 }},
		{answer: "MaxBurstLength=16777215", fails: true}, // more than offered
		{answer: "MaxBurstLength=1", fails: true},
		{answer: "MaxBurstLength=Reject", value: func(p Params) bool { return p.MaxBurstLength == 262144 }},
		{answer: "DefaultTime2Wait=1", fails: true}, // less than offered
		{answer: "DefaultTime2Wait=9", value: func(p Params) bool { return p.DefaultTime2Wait == 9 }},
		{answer: "HeaderDigest=None", value: func(p Params) bool { return !p.HeaderDigest }},
		{answer: "HeaderDigest=CRC32C", value: func(p Params) bool { return p.HeaderDigest }},
		{answer: "HeaderDigest=CRC64", fails: true},
		{answer: "TaskReporting=FastAbort", fails: true}, // not offered
		{answer: "InitialR2T=Yes", value: func(p Params) bool { return p.InitialR2T }},
		{answer: "DataPDUInOrder=No", fails: true}, // OR with our Yes
		{answer: "ImmediateData=maybe", fails: true},
		{answer: "iSCSIProtocolLevel=NotUnderstood", value: func(p Params) bool { return p.ProtocolLevel == 1 }},
		{answer: "MaxRecvDataSegmentLength=65536", value: func(p Params) bool { return p.MaxXmitDataSegmentLength == 65536 }},
		{answer: "MaxRecvDataSegmentLength=100", fails: true},
		{answer: "TargetPortalGroupTag=1"},
		{answer: "AuthMethod=None"},
		{answer: "CHAP_A=5"},
		{answer: "IFMarker=No", reply: "IFMarker=No"}, // the target's own offer
		{answer: "OFMarkInt=2048", reply: "OFMarkInt=Reject"},
		{answer: "X-com.example.key=1", reply: "X-com.example.key=NotUnderstood"},
		{answer: "X-com.example.key=NotUnderstood"},
	} {
		cfg := Defaults()
		cfg.Params.TaskReporting = ReportResponseFence
		o := NewOffer(cfg.Params, Normal, true)
		o.AppendKeys(nil)
		name, value, _ := strings.Cut(c.answer, "=")
		reply, err := o.Take(nil, pdu.Key{Name: name, Value: value})
		if (err != nil) != c.fails || strings.TrimSuffix(string(reply), "\x00") != c.reply || c.value != nil && !c.value(o.Params()) {
			t.Errorf("%s: reply %q, %v, %+v", c.answer, reply, err, o.Params())
		}
		if _, err := o.Take(nil, pdu.Key{Name: name, Value: value}); err == nil && byNameHas(name) {
			t.Errorf("%s is taken twice", c.answer)
		}
	}
	// A key of a session that was not ours to offer is answered from what we want.
	cfg := Defaults()
	o := NewOffer(cfg.Params, Discovery, true)
	o.AppendKeys(nil)
	if reply, err := o.Take(nil, pdu.Key{Name: "MaxBurstLength", Value: "65536"}); err != nil || string(reply) != "MaxBurstLength=Irrelevant\x00" {
		t.Errorf("%q, %v", reply, err)
	}
	o = NewOffer(cfg.Params, Normal, false)
	if s := string(o.AppendKeys(nil)); strings.Contains(s, "MaxBurstLength") || !strings.Contains(s, "HeaderDigest=CRC32C,None\x00") {
		t.Errorf("second connection offers %q", s)
	}
}

// byNameHas reports whether name is an operational key or an obsolete one, which an
// Offer takes once.
func byNameHas(name string) bool {
	i, ok := byName[name]
	return ok && (table[i].get != nil || table[i].kind == obsoleteBool || table[i].kind == obsoleteNumber)
}

// MUST 7143 §6.4: nothing is declared or negotiated twice in one sequence of Text Requests
func TestText(t *testing.T) {
	for _, c := range []struct{ name, value, answer string }{
		{"MaxRecvDataSegmentLength", "65536", ""},
		{"MaxRecvDataSegmentLength", "0x10000", ""},
		{"MaxRecvDataSegmentLength", "1", "MaxRecvDataSegmentLength=Reject\x00"},
		{"MaxRecvDataSegmentLength", "16777216", "MaxRecvDataSegmentLength=Reject\x00"},
		{"InitiatorAlias", "me", ""},
		{"SendTargets", "All", ""},
		{"TargetAlias", "NotUnderstood", ""},
		{"TargetAlias", "disk", "TargetAlias=Reject\x00"},
		{"TargetAddress", "192.0.2.1:3260,1", "TargetAddress=Reject\x00"},
		{"TargetPortalGroupTag", "1", "TargetPortalGroupTag=Reject\x00"},
		{"MaxBurstLength", "65536", "MaxBurstLength=Reject\x00"},
		{"MaxBurstLength", "Irrelevant", ""},
		{"InitiatorName", "iqn.2001-04.com.example:host", "InitiatorName=Reject\x00"},
		{"SessionType", "Discovery", "SessionType=Reject\x00"},
		{"ErrorRecoveryLevel", "2", "ErrorRecoveryLevel=Reject\x00"},
		{"HeaderDigest", "CRC32C,None", "HeaderDigest=Reject\x00"},
		{"AuthMethod", "None", "AuthMethod=Reject\x00"},
		{"IFMarker", "No", "IFMarker=Reject\x00"},
		{"CHAP_A", "5", "CHAP_A=NotUnderstood\x00"},
		{"X-com.example.key", "1", "X-com.example.key=NotUnderstood\x00"},
		{"X-com.example.key", "NotUnderstood", ""},
	} {
		var x Text
		got, err := x.Answer(nil, pdu.Key{Name: c.name, Value: c.value})
		if string(got) != c.answer || err != nil {
			t.Errorf("%s=%s: %q, %v, want %q", c.name, c.value, got, err, c.answer)
		}
		want := 8192
		if c.name == "MaxRecvDataSegmentLength" && c.answer == "" {
			want = 65536
		}
		if got := x.MaxXmit(8192); got != want {
			t.Errorf("%s=%s: segments of %d, want %d", c.name, c.value, got, want)
		}
		if _, err := x.Answer(nil, pdu.Key{Name: c.name, Value: c.value}); (err != nil) != has(c.name) {
			t.Errorf("%s=%s twice: %v", c.name, c.value, err)
		}
	}
}

func has(name string) bool { _, ok := byName[name]; return ok }

// TestReceivedKeepsNothing checks that a Negotiator does not hold on to the caller's memory.
func TestReceivedKeepsNothing(t *testing.T) {
	cfg := Defaults()
	n := NewNegotiator(&cfg, new(book), new(counting), 1)
	list := []byte("InitiatorName=iqn.2001-04.com.example:host\x00SessionType=Discovery\x00InitiatorAlias=me\x00")
	for half := range 2 {
		h := &pdu.Header{0: 0x40 | byte(pdu.OpLoginReq)}
		part := bytes.Clone(list[:40])
		if half == 1 {
			part = bytes.Clone(list[40:])
		}
		(*pdu.LoginReq)(h).SetFlags(half == 1, half == 0, pdu.SecurityNegotiation, pdu.FullFeaturePhase)
		h.SetDataLen(len(part))
		r := n.Received(h, part)
		clear(part)
		*h = pdu.Header{}
		if r.Status != pdu.LoginSuccess || r.Final != (half == 1) {
			t.Fatal(r.Err)
		}
	}
	if r := n.Result(); r.InitiatorName != "iqn.2001-04.com.example:host" || r.InitiatorAlias != "me" || r.Type != Discovery {
		t.Errorf("%+v", r)
	}
}
