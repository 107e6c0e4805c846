package session

import (
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// newTranscript returns a session to be driven by lines, for tests that are no file.
func newTranscript(t *testing.T, options string) *transcript {
	t.Helper()
	x := &transcript{t: t, tasks: map[uint32]*Task{}, imm: map[uint32][]byte{}}
	x.play(options)
	return x
}

// play does what the lines say, and returns what the session asks for.
func (x *transcript) play(lines ...string) string {
	x.t.Helper()
	var out strings.Builder
	for _, line := range lines {
		acts, err := x.do(line)
		if err != nil {
			x.t.Fatalf("%s: %v", line, err)
		}
		x.describe(&out, acts)
	}
	return out.String()
}

// request makes the PDU of a line without giving it to the session.
func (x *transcript) request(line string) (*pdu.Header, []byte) {
	x.t.Helper()
	words := strings.Fields(line)
	a := args{}
	for _, w := range words[1:] {
		k, v, _ := strings.Cut(w, "=")
		a[k] = v
	}
	h, data, err := x.pdu(words, a, a.num("itt", pdu.NoTag))
	if err != nil {
		x.t.Fatalf("%s: %v", line, err)
	}
	h.SetDataLen(len(data))
	return h, data
}

// A span is bytes of a header that are reserved, from first to last; in the first of them only the bits of mask.
type span struct {
	first, last int
	mask        byte
}

// TestReservedFieldsAreIgnored sends each request as it should be and with every reserved bit set: the session asks for the same.
//
// MUST 7143 §11: bits that are not defined and reserved fields are ignored on receipt
func TestReservedFieldsAreIgnored(t *testing.T) {
	const allBits = 0xff
	for _, c := range []struct {
		name, request string
		before        []string
		reserved      []span
	}{
		{name: "SCSI Command", request: "cmd itt=9 r edtl=512 cdb=28",
			reserved: []span{{0, 0, 0x80}, {1, 1, 0x18}, {2, 3, allBits}}},
		{name: "Task Management Request", request: "tmf itt=9 fn=2 I",
			reserved: []span{{0, 0, 0x80}, {2, 3, allBits}, {20, 23, allBits}, {32, 47, allBits}}},
		{name: "Task Management Request for a task", request: "tmf itt=9 fn=1 ref=1 refsn=1 I",
			before:   []string{"background", "cmd itt=1 r edtl=512 cdb=28"},
			reserved: []span{{0, 0, 0x80}, {2, 3, allBits}, {36, 47, allBits}}},
		{name: "SCSI Data-Out", request: "data itt=1 ttt=1 sn=0 off=0 len=4096 f",
			before:   []string{"cmd itt=1 w edtl=4096 cdb=2a", "begun itt=1 want=4096"},
			reserved: []span{{0, 0, 0xc0}, {1, 1, 0x7f}, {2, 3, allBits}, {24, 27, allBits}, {32, 35, allBits}, {44, 47, allBits}}},
		{name: "Text Request", request: "text itt=9 X-com.example.a=1",
			reserved: []span{{0, 0, 0x80}, {1, 1, 0x3f}, {2, 3, allBits}, {8, 15, allBits}, {32, 47, allBits}}},
		{name: "Logout Request", request: "logout itt=9",
			reserved: []span{{0, 0, 0x80}, {2, 3, allBits}, {8, 15, allBits}, {20, 23, allBits}, {32, 47, allBits}}},
		{name: "NOP-Out", request: "nop itt=9 len=7",
			reserved: []span{{0, 0, 0x80}, {1, 1, 0x7f}, {2, 3, allBits}, {8, 15, allBits}, {32, 47, allBits}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var told [2]string
			for i := range told {
				x := newTranscript(t, "session")
				x.play(c.before...)
				h, data := x.request(c.request)
				if i == 1 {
					for _, s := range c.reserved {
						h[s.first] |= s.mask
						for b := s.first + 1; b <= s.last; b++ {
							h[b] = 0xff
						}
					}
				}
				var out strings.Builder
				x.describe(&out, x.s.Received(x.c, x.now, h, nil, data, nil))
				told[i] = out.String()
			}
			if told[0] != told[1] || told[0] == "" {
				t.Errorf("as it should be:\n%swith the reserved bits set:\n%s", told[0], told[1])
			}
		})
	}
}

// TestLongCommand sends a CDB that goes on in an additional header segment, and a bidirectional read length: nothing that
// is served here has either, which the command is told; the session goes on.
//
// MUST 7143 §11.2.2: a command with additional header segments that are not supported ends with CHECK CONDITION
func TestLongCommand(t *testing.T) {
	for name, ahs := range map[string][]byte{
		"extended CDB":  pdu.AppendExtCDB(nil, make([]byte, 16)),
		"bidirectional": pdu.AppendBidiLen(nil, 512),
		"unknown type":  {0, 5, 0x3f, 0, 0, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			x := newTranscript(t, "session")
			h, _ := x.request("cmd itt=1 r edtl=512 cdb=7f")
			h.SetAHSLen(len(ahs))
			var out strings.Builder
			x.describe(&out, x.s.Received(x.c, x.now, h, ahs, nil, nil))
			if !strings.Contains(out.String(), "status=CHECK CONDITION") || !strings.Contains(out.String(), "sense=5/24/00") {
				t.Errorf("%s", out.String())
			}
			if s := x.play("nop itt=2"); !strings.Contains(s, "NOP-In itt=2") {
				t.Errorf("afterwards: %s", s)
			}
		})
	}
}
