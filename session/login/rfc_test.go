package login

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A fact is what RFC 7143 section 13 says of one key.
type fact struct {
	name    string
	unset   string   // its value when nobody speaks of it; "" for keys without one
	leading bool     // "LO": only in the login of a session's first connection
	normal  bool     // irrelevant in a discovery session
	bad     []string // values that it cannot have
	pairs   []pair
}

// A pair is what an offer comes to with a target that would like own; "" for no answer.
type pair struct{ offer, own, answer string }

// facts are typed from the RFC, not from the table of this package.
var facts = []fact{
	{name: "HeaderDigest", unset: "None", bad: []string{"", "crc32c", "CRC16", "Yes"},
		pairs: []pair{{"CRC32C,None", "CRC32C", "CRC32C"}, {"None,CRC32C", "CRC32C", "None"}, {"CRC32C,None", "None", "None"}, {"CRC32C", "None", Reject}}},
	{name: "DataDigest", unset: "None", bad: []string{"", "crc32c", "CRC16", "Yes"},
		pairs: []pair{{"CRC32C,None", "CRC32C", "CRC32C"}, {"None,CRC32C", "CRC32C", "None"}, {"CRC32C,None", "None", "None"}, {"CRC32C", "None", Reject}}},
	{name: "MaxConnections", unset: "1", leading: true, normal: true, bad: []string{"0", "65536", "one"},
		pairs: []pair{{"1", "4", "1"}, {"65535", "4", "4"}}},
	{name: "InitialR2T", unset: "Yes", leading: true, normal: true, bad: []string{"", "yes", "1", "True"},
		pairs: []pair{{"Yes", "No", "Yes"}, {"No", "Yes", "Yes"}, {"No", "No", "No"}, {"Yes", "Yes", "Yes"}}},
	{name: "ImmediateData", unset: "Yes", leading: true, normal: true, bad: []string{"", "yes", "1", "True"},
		pairs: []pair{{"Yes", "No", "No"}, {"No", "Yes", "No"}, {"No", "No", "No"}, {"Yes", "Yes", "Yes"}}},
	{name: "MaxRecvDataSegmentLength", unset: "8192", bad: []string{"511", "16777216", "-1", ""},
		pairs: []pair{{"512", "65536", ""}, {"16777215", "512", ""}}},
	{name: "MaxBurstLength", unset: "262144", leading: true, normal: true, bad: []string{"511", "16777216"},
		pairs: []pair{{"512", "65536", "512"}, {"16777215", "65536", "65536"}}},
	{name: "FirstBurstLength", unset: "65536", leading: true, normal: true, bad: []string{"511", "16777216"},
		pairs: []pair{{"512", "65536", "512"}, {"16777215", "65536", "65536"}}},
	{name: "DefaultTime2Wait", unset: "2", leading: true, bad: []string{"3601", "-1"},
		pairs: []pair{{"0", "5", "5"}, {"3600", "5", "3600"}}},
	{name: "DefaultTime2Retain", unset: "20", leading: true, bad: []string{"3601", "-1"},
		pairs: []pair{{"0", "5", "0"}, {"3600", "5", "5"}}},
	{name: "MaxOutstandingR2T", unset: "1", leading: true, normal: true, bad: []string{"0", "65536"},
		pairs: []pair{{"1", "8", "1"}, {"65535", "8", "8"}}},
	{name: "DataPDUInOrder", unset: "Yes", leading: true, normal: true, bad: []string{"", "yes"},
		pairs: []pair{{"Yes", "No", "Yes"}, {"No", "Yes", "Yes"}, {"No", "No", "No"}}},
	{name: "DataSequenceInOrder", unset: "Yes", leading: true, normal: true, bad: []string{"", "yes"},
		pairs: []pair{{"Yes", "No", "Yes"}, {"No", "Yes", "Yes"}, {"No", "No", "No"}}},
	{name: "ErrorRecoveryLevel", unset: "0", leading: true, bad: []string{"3", "-1"},
		pairs: []pair{{"2", "0", "0"}, {"0", "2", "0"}, {"2", "1", "1"}}},
	{name: "TaskReporting", unset: "RFC3720", leading: true, normal: true, bad: []string{"", "rfc3720", "FastAbort2"},
		pairs: []pair{{"FastAbort,ResponseFence,RFC3720", "ResponseFence", "ResponseFence"}, {"RFC3720,ResponseFence", "ResponseFence", "RFC3720"}}},
	{name: "iSCSIProtocolLevel", unset: "1", leading: true, normal: true, bad: []string{"32", "-1"},
		pairs: []pair{{"1", "2", "1"}, {"31", "2", "2"}}},
	{name: "IFMarker", leading: false, pairs: []pair{{"Yes", "", "No"}, {"No", "", "No"}}},
	{name: "OFMarker", leading: false, pairs: []pair{{"Yes", "", "No"}, {"No", "", "No"}}},
	{name: "IFMarkInt", leading: false, pairs: []pair{{"2048~8192", "", Reject}}},
	{name: "OFMarkInt", leading: false, pairs: []pair{{"2048~8192", "", Reject}}},
}

// offer makes a login of a key=value in the operational stage with a target that would like own, and returns the answer to the
// key and what it comes to.
func offer(t *testing.T, own Params, typ SessionType, tsih uint16, name, value string) (answer string, answered bool, p Params) {
	t.Helper()
	cfg := Defaults()
	cfg.Params = own
	n := NewNegotiator(&cfg, &book{targets: map[string]bookEntry{"iqn.2001-04.com.example:a": {}}}, new(counting), 1)
	h := &pdu.Header{0: 0x40 | byte(pdu.OpLoginReq)}
	r := (*pdu.LoginReq)(h)
	r.SetFlags(true, false, pdu.OperationalStage, pdu.FullFeaturePhase)
	r.SetTSIH(tsih)
	data := pdu.AppendKey(nil, "InitiatorName", "iqn.2001-04.com.example:host")
	data = pdu.AppendKey(data, "SessionType", typ.String())
	data = pdu.AppendKey(data, "TargetName", "iqn.2001-04.com.example:a")
	data = pdu.AppendKey(data, name, value)
	h.SetDataLen(len(data))
	resp := n.Received(h, data)
	if !resp.Final {
		t.Fatalf("%s=%s: %v", name, value, resp.Err)
	}
	for k, err := range pdu.Keys(resp.Data) {
		if err != nil {
			t.Fatal(err)
		}
		// What the target declares of itself is no answer.
		if k.Name == name && name != "MaxRecvDataSegmentLength" || k.Name == name && k.Value == Reject {
			answer, answered = k.Value, true
		}
	}
	return answer, answered, n.Result().Params
}

// value returns the text of a key in p, which is that of the other side for MaxRecvDataSegmentLength.
func value(t *testing.T, p Params, name string) string {
	t.Helper()
	r := &table[byName[name]]
	if r.kind == declaredNumber {
		return fmt.Sprint(p.MaxXmitDataSegmentLength)
	}
	return r.format(r.get(&p))
}

// wanting returns wishes with one key set to text.
func wanting(t *testing.T, name, text string) Params {
	t.Helper()
	p := Defaults().Params
	p.FirstBurstLength, p.MaxBurstLength = 1<<24-1, 1<<24-1
	if text == "" {
		return p
	}
	r := &table[byName[name]]
	v, ok := r.parse(text)
	if !ok {
		t.Fatalf("%s=%s is no wish", name, text)
	}
	r.set(&p, v)
	return p
}

// TestKeys holds section 13's table of keys: default, range, result function, session type and phase of each.
//
// MUST 7143 §13: each key of this document is understood
//
// MUST 7143 §13.1: HeaderDigest and DataDigest are lists of CRC32C and None, default None
//
// MUST 7143 §13.2: MaxConnections is 1 to 65535, default 1; the smaller counts; leading login only, irrelevant in discovery
//
// MUST 7143 §13.10: InitialR2T is Yes unless both sides say No, default Yes; leading login only, irrelevant in discovery
//
// MUST 7143 §13.11: ImmediateData is Yes only when both sides say so, default Yes; leading login only, irrelevant in discovery
//
// MUST 7143 §13.12: MaxRecvDataSegmentLength is 512 to 2^24-1, default 8192; each side declares its own, in login or later
//
// MUST 7143 §13.13: MaxBurstLength is 512 to 2^24-1, default 262144; the smaller counts; leading login only, irrelevant in discovery
//
// MUST 7143 §13.14: FirstBurstLength is 512 to 2^24-1, default 65536; the smaller counts; leading login only, irrelevant in discovery
//
// MUST 7143 §13.15: DefaultTime2Wait is 0 to 3600 seconds, default 2; the greater counts; leading login only
//
// MUST 7143 §13.16: DefaultTime2Retain is 0 to 3600 seconds, default 20; the smaller counts; leading login only
//
// MUST 7143 §13.17: MaxOutstandingR2T is 1 to 65535, default 1; the smaller counts; leading login only, irrelevant in discovery
//
// MUST 7143 §13.18: DataPDUInOrder is Yes unless both sides say No, default Yes; leading login only, irrelevant in discovery
//
// MUST 7143 §13.19: DataSequenceInOrder is Yes unless both sides say No, default Yes; leading login only, irrelevant in discovery
//
// MUST 7143 §13.20: ErrorRecoveryLevel is 0 to 2, default 0; the smaller counts; leading login only
//
// MUST 7143 §13.23: TaskReporting is a list of RFC3720, ResponseFence and FastAbort, default RFC3720; leading login only, irrelevant
// in discovery
//
// MUST 7143 §13.24: iSCSIProtocolLevel is 0 to 31, default 1; the smaller counts; leading login only, irrelevant in discovery
//
// REQUIRED 7143 §6.2.2: numbers, and booleans that the offer does not decide, are answered with what they come to
//
// MUST 7143 §6.2: after Reject a key keeps the value that it had
func TestKeys(t *testing.T) {
	for _, f := range facts {
		t.Run(f.name, func(t *testing.T) {
			if f.unset != "" {
				if got := value(t, RFCDefaults(), f.name); got != f.unset {
					t.Errorf("the default is %s, want %s", got, f.unset)
				}
			}
			for _, bad := range f.bad {
				answer, _, p := offer(t, wanting(t, f.name, ""), Normal, 0, f.name, bad)
				if got := value(t, p, f.name); answer != Reject || got != f.unset {
					t.Errorf("%s=%q is answered %q and comes to %s", f.name, bad, answer, got)
				}
			}
			for _, c := range f.pairs {
				answer, answered, p := offer(t, wanting(t, f.name, c.own), Normal, 0, f.name, c.offer)
				if answer != c.answer || answered != (c.answer != "") {
					t.Errorf("%s=%s with %s is answered %q, want %q", f.name, c.offer, c.own, answer, c.answer)
				}
				want := c.answer
				switch {
				case f.unset == "":
					continue
				case want == "":
					want = c.offer
				case want == Reject:
					want = f.unset
				}
				if got := value(t, p, f.name); got != want {
					t.Errorf("%s=%s with %s comes to %s, want %s", f.name, c.offer, c.own, got, want)
				}
			}
			first := f.pairs[0]
			if answer, _, _ := offer(t, wanting(t, f.name, first.own), Discovery, 0, f.name, first.offer); (answer == Irrelevant) != f.normal || answer == NotUnderstood {
				t.Errorf("in discovery it is answered %q", answer)
			}
			if answer, _, _ := offer(t, wanting(t, f.name, first.own), Normal, 7, f.name, first.offer); f.leading && answer != Reject || !f.leading && answer != first.answer {
				t.Errorf("in a second connection's login it is answered %q", answer)
			}
			var later Text
			got, err := later.Answer(nil, pdu.Key{Name: f.name, Value: first.offer})
			want := f.name + "=Reject\x00"
			if f.name == "MaxRecvDataSegmentLength" {
				want = ""
			}
			if err != nil || string(got) != want {
				t.Errorf("after the login it is answered %q, %v", got, err)
			}
		})
	}
	for i := range table {
		if r := &table[i]; r.get != nil && !slices.ContainsFunc(facts, func(f fact) bool { return f.name == r.name }) {
			t.Errorf("nothing is said of %s", r.name)
		}
	}
}

// TestLimitsOfText has the longest names and values, and some that are longer.
//
// MUST 7143 §6.1: a key's name has at most 63 bytes, a capital letter or i first, then letters, digits and . - + @ _
//
// MUST 7143 §6.1: a text value has at most 255 bytes, a binary one at most 1024, encoded in hex or base64
//
// MUST 7143 §6.1: names of keys, and their values, are told apart by the case of their letters
func TestLimitsOfText(t *testing.T) {
	for _, c := range []struct {
		key, value string
		answer     string // "" for a login that fails
	}{
		{"X" + strings.Repeat("a", 62), "1", NotUnderstood},
		{"X" + strings.Repeat("a", 63), "1", ""},
		{"X-a.b+c@d_e", "1", NotUnderstood},
		{"X a", "1", ""},
		{"x", "1", ""},
		{"X", strings.Repeat("a", 255), NotUnderstood},
		{"X", strings.Repeat("a", 256), ""},
		{"X", "0x" + strings.Repeat("00", 1024), NotUnderstood},
		{"X", "0b" + strings.Repeat("A", 1364), NotUnderstood},
		{"X", strings.Repeat("a", 255) + "," + strings.Repeat("b", 255), NotUnderstood},
		{"INITIALR2T", "No", NotUnderstood},
		{"InitialR2T", "NO", Reject},
		{"InitialR2T", "No", "No"},
	} {
		cfg := Defaults()
		n := NewNegotiator(&cfg, &book{targets: map[string]bookEntry{"iqn.2001-04.com.example:a": {}}}, new(counting), 1)
		h := &pdu.Header{0: 0x40 | byte(pdu.OpLoginReq)}
		(*pdu.LoginReq)(h).SetFlags(false, false, pdu.OperationalStage, pdu.FullFeaturePhase)
		data := []byte("InitiatorName=iqn.2001-04.com.example:host\x00TargetName=iqn.2001-04.com.example:a\x00")
		data = pdu.AppendKey(data, c.key, c.value)
		h.SetDataLen(len(data))
		resp := n.Received(h, data)
		if c.answer == "" {
			if resp.Status != pdu.InitiatorError {
				t.Errorf("%.70s=%.20s is taken: %v", c.key, c.value, resp.Status)
			}
			continue
		}
		if want := string(pdu.AppendKey(nil, c.key, c.answer)); resp.Status != pdu.LoginSuccess || !strings.Contains(string(resp.Data), want) {
			t.Errorf("%.70s=%.20s: %v, %q, want %q", c.key, c.value, resp.Err, resp.Data, want)
		}
	}
}

// MUST 7143 §11.12.3: NSG is reserved, 0, in a response without T, and the request's in one with it
func TestNextStage(t *testing.T) {
	cfg := Defaults()
	n := NewNegotiator(&cfg, &book{targets: map[string]bookEntry{"iqn.2001-04.com.example:a": {}}}, new(counting), 1)
	data := []byte("InitiatorName=iqn.2001-04.com.example:host\x00TargetName=iqn.2001-04.com.example:a\x00")
	for _, transit := range []bool{false, false, true} {
		h := &pdu.Header{0: 0x40 | byte(pdu.OpLoginReq)}
		(*pdu.LoginReq)(h).SetFlags(transit, false, pdu.OperationalStage, pdu.FullFeaturePhase)
		h.SetDataLen(len(data))
		resp := n.Received(h, data)
		want := byte(pdu.OperationalStage) << 2
		if transit {
			want |= 0x80 | byte(pdu.FullFeaturePhase)
		}
		if got := resp.Header[1]; resp.Err != nil || got != want {
			t.Errorf("T=%v: %v, byte 1 is %02x, want %02x", transit, resp.Err, got, want)
		}
		data = nil
	}
}
