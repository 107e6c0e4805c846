package pdu

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/lunar-iscsi/lunar/scsi/sam"
)

func TestCheck(t *testing.T) {
	command := func(f func(h *Header, c *SCSICommand)) *Header {
		h := &Header{0: byte(OpSCSICommand)}
		c := (*SCSICommand)(h)
		c.SetFlags(true, false, true, sam.Simple)
		c.SetEDTL(512)
		f(h, c)
		return h
	}
	other := func(op Opcode, f func(h *Header)) *Header {
		h := &Header{0: byte(op), 1: flagFinal}
		f(h)
		return h
	}
	for _, c := range []struct {
		name string
		h    *Header
		want *Fault
	}{
		{"good write", command(func(h *Header, c *SCSICommand) { h.SetDataLen(512) }), nil},
		{"unsolicited data to come", command(func(h *Header, c *SCSICommand) { c.SetFlags(false, false, true, sam.Simple) }), nil},
		{"reserved tag", command(func(h *Header, c *SCSICommand) { h.SetITT(NoTag) }), faultTag},
		{"attribute 5", command(func(h *Header, c *SCSICommand) { h[1] |= 5 }), faultAttr},
		{"data of a read", command(func(h *Header, c *SCSICommand) { c.SetFlags(true, true, false, 0); h.SetDataLen(4) }), faultReadData},
		{"data beyond EDTL", command(func(h *Header, c *SCSICommand) { h.SetDataLen(513) }), faultImmediate},
		{"read without F", command(func(h *Header, c *SCSICommand) { c.SetFlags(false, true, false, 0) }), faultNotFinal},
		{"opcode 07h", other(0x07, func(*Header) {}), faultOpcode},
		{"vendor opcode 1Ch", other(0x1c, func(*Header) {}), faultOpcode},
		{"a target's opcode", other(OpR2T, func(*Header) {}), faultOpcode},
		{"AHS in a NOP-Out", other(OpNOPOut, func(h *Header) { h.SetAHSLen(1020) }), faultAHS},
		{"NOP-Out without F", other(OpNOPOut, func(h *Header) { h[1] = 0 }), faultNotFinal},
		{"NOP-Out without tag, not immediate", other(OpNOPOut, func(h *Header) { h.SetITT(NoTag) }), faultNOPTag},
		{"NOP-Out without tag, immediate", other(OpNOPOut, func(h *Header) { h.SetITT(NoTag); h[0] |= flagImmed }), nil},
		{"TMF with data", other(OpTaskMgmtReq, func(h *Header) { h.SetDataLen(1) }), faultNoData},
		{"TMF without bit 7", other(OpTaskMgmtReq, func(h *Header) { h[1] = 1 }), faultNotFinal},
		{"TMF with reserved tag", other(OpTaskMgmtReq, func(h *Header) { h.SetITT(NoTag) }), faultTag},
		{"logout for reason 3", other(OpLogoutReq, func(h *Header) { (*LogoutReq)(h).SetReason(3) }), faultReason},
		{"logout for reason 2", other(OpLogoutReq, func(h *Header) { (*LogoutReq)(h).SetReason(2) }), nil},
		{"text, F and C", other(OpTextReq, func(h *Header) { (*TextReq)(h).SetFlags(true, true) }), faultContinue},
		{"text with reserved tag", other(OpTextReq, func(h *Header) { h.SetITT(NoTag) }), faultTag},
		{"login, T and C", other(OpLoginReq, func(h *Header) { (*LoginReq)(h).SetFlags(true, true, 0, 1) }), faultContinue},
		{"Data-Out at the end of 4 GiB", other(OpDataOut, func(h *Header) { h.put32(40, 0xfffffe00); h.SetDataLen(512) }), nil},
		{"Data-Out over the end of 4 GiB", other(OpDataOut, func(h *Header) { h.put32(40, 0xfffffe00); h.SetDataLen(513) }), faultDataEnd},
		{"Data-Out with reserved tag", other(OpDataOut, func(h *Header) { h.SetITT(NoTag) }), faultTag},
		{"SNACK type 4", other(OpSNACK, func(h *Header) { h[1] |= 4 }), faultSNACK},
		{"SNACK with data", other(OpSNACK, func(h *Header) { h.SetDataLen(4) }), faultNoData},
		{"SNACK without F", other(OpSNACK, func(h *Header) { h[1] = 0 }), faultNotFinal},
	} {
		if got := Check(c.h); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestAHS(t *testing.T) {
	ext := make([]byte, MaxCDB-16)
	for i := range ext {
		ext[i] = byte(i)
	}
	for n := 1; n <= len(ext); n++ {
		b := AppendBidiLen(AppendExtCDB(nil, ext[:n]), 0x01020304)
		a, f := ParseAHS(b)
		if f != nil || len(b)%4 != 0 || !bytes.Equal(a.ExtCDB, ext[:n]) || !a.Bidi || a.BidiLen != 0x01020304 {
			t.Fatalf("%d bytes: %+v, %v", n, a, f)
		}
	}
	for name, s := range map[string]string{
		"no room for the lead":            "000502",
		"length 0":                        "00000100",
		"beyond the end":                  "0006 02 00 00000001",
		"pad beyond the end":              "0002 01 00",
		"two bidi lengths":                "0005020000000001 0005020000000001",
		"two extended CDBs":               "0002010001000000 0002010001000000",
		"bidi of 6":                       "0006020000000001 00000000",
		"bidi of 4":                       "0004020000000001",
		"extended CDB of nothing":         "00010100",
		"type 0":                          "00050000 00000000",
		"type 3 after a good one":         "0005020000000001 0005030000000001",
		"extended CDB longer than 260":    "00f60100" + strings.Repeat("00", 248),
		"length that wraps if it is 16 b": "fffd0100",
	} {
		if a, f := ParseAHS(unhex(t, s)); f != faultAHS {
			t.Errorf("%s: %+v, %v", name, a, f)
		}
	}
}

// TestDigest has the examples of RFC 7143 appendix A.4, in the order of the wire.
func TestDigest(t *testing.T) {
	up, down := make([]byte, 32), make([]byte, 32)
	for i := range up {
		up[i], down[i] = byte(i), byte(31-i)
	}
	read10 := unhex(t, "01c0000000000000 0000000000000000 1400000000000400 0000001400000018 2800000000000000 0200000000000000")
	for _, c := range []struct {
		name string
		in   []byte
		want string
	}{
		{"zeros", make([]byte, 32), "aa36918a"},
		{"ones", bytes.Repeat([]byte{0xff}, 32), "43aba862"},
		{"counting up", up, "4e79dd46"},
		{"counting down", down, "5cdb3f11"},
		{"a READ(10)", read10, "563a96d9"},
	} {
		var got [DigestLen]byte
		PutDigest(got[:], Digest(c.in))
		if want := unhex(t, c.want); !bytes.Equal(got[:], want) {
			t.Errorf("%s: %x, want %x", c.name, got, want)
		}
		if DigestAt(got[:]) != Digest(c.in) {
			t.Errorf("%s: DigestAt", c.name)
		}
		if UpdateDigest(Digest(c.in[:5]), c.in[5:]) != Digest(c.in) {
			t.Errorf("%s: UpdateDigest", c.name)
		}
	}
	for n := range 9 {
		padded := append(bytes.Repeat([]byte{7}, n), make([]byte, Pad(n)-n)...)
		if DataDigest(padded[:n]) != Digest(padded) {
			t.Errorf("DataDigest of %d bytes leaves the pad out", n)
		}
	}
}

func TestKeys(t *testing.T) {
	list := AppendKey(nil, "InitiatorName", "iqn.2001-04.com.example:a")
	list = append(list, 0, 0)
	list = AppendKey(list, "X-com.example.key", "")
	list = AppendKey(list, "iSCSIProtocolLevel", "a=b")
	var got []string
	for k, err := range Keys(list) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, k.Name+"="+k.Value)
	}
	want := "InitiatorName=iqn.2001-04.com.example:a|X-com.example.key=|iSCSIProtocolLevel=a=b"
	if s := strings.Join(got, "|"); s != want {
		t.Errorf("got %s\nwant %s", s, want)
	}
	long := strings.Repeat("v", MaxValueLen)
	name63 := "N" + strings.Repeat("a", MaxKeyName-1)
	for _, c := range []struct {
		name, list string
		want       error
	}{
		{"empty", "", nil},
		{"NULs alone", "\x00\x00\x00", nil},
		{"name of 63", name63 + "=v\x00", nil},
		{"name of 64", name63 + "a=v\x00", ErrKeyName},
		{"no name", "=v\x00", ErrKeyName},
		{"lower case", "authMethod=None\x00", ErrKeyName},
		{"blank in a name", "Auth Method=None\x00", ErrKeyName},
		{"no equals", "AuthMethod\x00", ErrNoEquals},
		{"no NUL", "AuthMethod=None", ErrUnterminated},
		{"no NUL after a good one", "AuthMethod=None\x00A=", ErrUnterminated},
		{"value of 255", "A=" + long + "\x00", nil},
		{"value of 256", "A=" + long + "v\x00", ErrValueLen},
		{"list of long values", "A=" + long + "," + long + "\x00", nil},
		{"list with a value too long", "A=" + long + "," + long + "v\x00", ErrValueLen},
		{"long hex", "A=0x" + strings.Repeat("0", 2048) + "\x00", nil},
		{"long base64", "A=0B" + strings.Repeat("A", 1368) + "\x00", nil},
		{"hex beyond every limit", "A=0x" + strings.Repeat("0", 8192) + "\x00", ErrValueLen},
	} {
		var err error
		for _, e := range Keys([]byte(c.list)) {
			err = e
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	for k, err := range Keys([]byte("A=1\x00B=2\x00")) {
		if err != nil || k != (Key{"A", "1"}) {
			t.Errorf("%v, %v", k, err)
		}
		break
	}
}

func TestDescribeHidesSecrets(t *testing.T) {
	h := &Header{0: byte(OpLoginReq)}
	for _, c := range []struct{ data, want string }{
		{"CHAP_N=joe\x00CHAP_R=0xdeadbeef\x00", "keys=[CHAP_N=joe CHAP_R=(10 bytes)]"},
		{"CHAP_I=1\x00CHAP_C=0bSECRETSECRET==\x00", "keys=[CHAP_I=1 CHAP_C=(16 bytes)]"},
		{"deadbeef\x00CHAP_N=joe\x00", "keys=[(8 bytes) CHAP_N=joe]"},        // the rest of a CHAP_R
		{"Secretsecret==\x00CHAP_N=joe\x00", "keys=[(14 bytes) CHAP_N=joe]"}, // the same in base64
		{"_R=0xdeadbeef\x00", "keys=[(13 bytes)]"},
		{"CHAP_R=0xdead", "keys=[CHAP_R=(6 bytes)]"},
	} {
		h.SetDataLen(len(c.data))
		if got := Describe(h, nil, []byte(c.data)); !strings.HasSuffix(got, c.want) {
			t.Errorf("%q:\n got %s\nwant %s", c.data, got, c.want)
		}
	}
}

func TestDescribeEscapes(t *testing.T) {
	h := &Header{0: byte(OpTextReq)}
	data := []byte("SendTargets=\x1b[2Ja b\n\\\x7f\xc3\xa4\x00\n=1\x00")
	h.SetDataLen(len(data))
	const want = `keys=[SendTargets=\x1b[2Ja\x20b\x0a\x5c\x7f\xc3\xa4 \x0a=1]`
	if got := Describe(h, nil, data); !strings.HasSuffix(got, want) {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestDescribeIsBounded(t *testing.T) {
	var data []byte
	for range 1000 {
		data = AppendKey(data, "TargetName", "iqn.2001-04.com.example:disk")
	}
	h := &Header{0: byte(OpTextResp)}
	h.SetDataLen(len(data))
	got := Describe(h, nil, data)
	if len(got) > maxDescribed+200 || !strings.Contains(got, " bytes more)]") {
		t.Errorf("%d bytes ending in %s", len(got), got[len(got)-40:])
	}
}

func FuzzHeader(f *testing.F) {
	for _, v := range vectors {
		f.Add(unhex(f, v.wire), unhex(f, v.ahs), unhex(f, v.data))
	}
	f.Fuzz(func(t *testing.T, header, ahs, data []byte) {
		if len(header) < HeaderLen {
			return
		}
		h := HeaderAt(header)
		s := Describe(h, ahs, data)
		for i := range len(s) {
			if s[i] < ' ' || s[i] >= utf8.RuneSelf || s[i] == 0x7f {
				t.Fatalf("byte %02x in %q", s[i], s)
			}
		}
		if fault := Check(h); fault != nil && (fault.Reason == 0 || fault.Text == "") {
			t.Errorf("fault %+v", fault)
		}
		if n := h.WireLen(); n < HeaderLen || n > HeaderLen+1020+1<<24 || n%4 != 0 {
			t.Errorf("wire length %d", n)
		}
		if a, fault := ParseAHS(ahs); fault == nil {
			var again []byte
			if a.ExtCDB != nil {
				again = AppendExtCDB(again, a.ExtCDB)
			}
			if a.Bidi {
				again = AppendBidiLen(again, a.BidiLen)
			}
			if len(again) != len(ahs) {
				t.Errorf("AHS of %d bytes came back as %d", len(ahs), len(again))
			}
		}
	})
}

func FuzzKeys(f *testing.F) {
	f.Add([]byte("InitiatorName=iqn.2001-04.com.example:a\x00SessionType=Discovery\x00"))
	f.Add([]byte("CHAP_C=0x00ff\x00\x00\x00iSCSIProtocolLevel=1"))
	f.Add([]byte("=\x00A\x00"))
	f.Fuzz(func(t *testing.T, list []byte) {
		var again []byte
		for k, err := range Keys(list) {
			if err != nil {
				return
			}
			again = AppendKey(again, k.Name, k.Value)
		}
		n := 0
		for k, err := range Keys(again) {
			if err != nil {
				t.Fatalf("%q came back as %q: %v", list, again, err)
			}
			n += len(k.Name) + len(k.Value) + 2
		}
		if n != len(again) {
			t.Errorf("%d bytes of %d", n, len(again))
		}
	})
}
