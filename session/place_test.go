package session

import (
	"fmt"
	"strings"
	"testing"
	"unsafe"
)

// MUST NOT 7143 §11.7.7: no PDU has more data than the receiver declared (MaxRecvDataSegmentLength): that costs the connection, before any of
// it is looked at
func TestCheckHeader(t *testing.T) {
	x := newTranscript(t, "session mrdsl=4096")
	for _, line := range []string{"data itt=1 ttt=1 sn=0 off=0 len=%d", "cmd itt=1 w edtl=8192 imm=%d cdb=2a", "nop itt=1 len=%d"} {
		h, _ := x.request(fmt.Sprintf(line, 4096))
		if err := x.c.CheckHeader(h); err != nil {
			t.Errorf("%v", err)
		}
		h, _ = x.request(fmt.Sprintf(line, 4097))
		if err := x.c.CheckHeader(h); err == nil || !strings.Contains(err.Error(), "4097 bytes; 4096 were declared") {
			t.Errorf("%v with 4097 bytes: %v", h.Opcode(), err)
		}
	}
}

// TestPlace asks where the data of a PDU belongs that is about to be received: only what is in order has a place.
func TestPlace(t *testing.T) {
	setUp := []string{"cmd itt=1 w edtl=16384 cdb=2a", "begun itt=1 want=12288",
		"cmd itt=2 w nof edtl=8192 imm=1024 cdb=2a", "begun itt=2 want=8192"}
	for name, c := range map[string]struct {
		pdu    string
		at     int // in the buffer of task, -1: nowhere
		task   uint32
		wanted bool
	}{
		"the first of an R2T":           {"data itt=1 ttt=1 sn=0 off=0 len=4096", 0, 1, true},
		"the last of an R2T":            {"data itt=1 ttt=1 sn=0 off=0 len=8192 f", 0, 1, true},
		"more than the R2T":             {"data itt=1 ttt=1 sn=0 off=0 len=12288 f", -1, 0, true},
		"another offset":                {"data itt=1 ttt=1 sn=0 off=4096 len=4096", -1, 0, true},
		"another number":                {"data itt=1 ttt=1 sn=1 off=0 len=4096", -1, 0, true},
		"a tag that is not out":         {"data itt=1 ttt=9 sn=0 off=0 len=4096", -1, 0, true},
		"unsolicited, where none is to": {"data itt=1 sn=0 off=0 len=4096", -1, 0, true},
		"beyond the buffer":             {"data itt=1 ttt=1 sn=0 off=0 len=16384", -1, 0, true},
		"unsolicited":                   {"data itt=2 sn=0 off=1024 len=4096", 1024, 2, true},
		"unsolicited, another offset":   {"data itt=2 sn=0 off=0 len=4096", -1, 0, true},
		"unsolicited, another number":   {"data itt=2 sn=1 off=1024 len=4096", -1, 0, true},
		"of no task":                    {"data itt=3 sn=0 off=0 len=4096", -1, 0, false},
		"no Data-Out":                   {"nop itt=3 len=512", -1, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			x := newTranscript(t, "session first=8192")
			x.play(setUp...)
			h, data := x.request(c.pdu)
			dst, task, wanted := x.s.Place(x.c, h)
			if wanted != c.wanted || (dst != nil) != (c.at >= 0) || (task != nil) != (c.at >= 0) {
				t.Fatalf("%d bytes, %v, wanted %v", len(dst), task, wanted)
			}
			if dst == nil {
				return
			}
			if task.ITT != c.task || len(dst) != len(data) || unsafe.SliceData(dst) != &task.Buf[c.at] {
				t.Errorf("%d bytes of task %d", len(dst), task.ITT)
			}
		})
	}
	x := newTranscript(t, "session")
	x.play("cmd itt=1 w edtl=4096 cdb=2a", "begun itt=1 want=4096", "data itt=1 ttt=1 sn=0 off=0 len=4096 f")
	h, _ := x.request("data itt=1 ttt=1 sn=1 off=0 len=4096 f")
	if dst, _, wanted := x.s.Place(x.c, h); dst != nil || wanted {
		t.Error("data of a command that is being carried out has a place")
	}
}
