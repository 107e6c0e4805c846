package tgtipc

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/test/tgt/sample"
)

func equal(t testing.TB, a, b spec.Document) bool {
	t.Helper()
	x, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(x, y)
}

// partial are requests of which what is right is done though the whole is refused: tgt's rule for lists.
func partial(h *Header) bool {
	return h.Op == OpUpdate && (h.Mode == ModeSystem || h.Mode == ModeDevice)
}

// Whatever comes is answered with a number of tgt's and a reason, and changes nothing where it is refused.
func FuzzRequest(f *testing.F) {
	for _, w := range sample.Wires(f) {
		h, payload := request(f, sample.Words(w.Command))
		f.Add(h.Append(nil, payload))
	}
	for _, b := range sample.Blocks(f, "41-server-errors.txt") {
		h, payload := request(f, sample.Words(b.Command))
		f.Add(h.Append(nil, payload))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, payload, err := readRequest(bytes.NewReader(raw))
		if err != nil {
			return
		}
		r := &rig{fake: newFake()}
		r.doc.Targets = []spec.Target{{TID: 1, Name: "iqn.a", Access: []spec.Rule{{Address: "ALL"}}, Auth: spec.Auth{Incoming: []string{"u"}},
			LUNs: []spec.LUN{{Number: 1, Volume: "null:?size=1T", TgtNaming: true}}}}
		r.doc.Accounts = []spec.Account{{Name: "u", Secret: "p"}}
		before := r.Document()
		text, err := r.do(h, payload)
		after := r.Document()
		if err != nil {
			no := errnoOf(err)
			if no == Success || int(no) >= len(errnoTexts) {
				t.Fatalf("%+v %q: number %d: %v", h, payload, no, err)
			}
			if err.Error() == "" || text != "" {
				t.Fatalf("%+v %q: refused with text %q, reason %q", h, payload, text, err)
			}
			if !partial(&h) && !equal(t, before, after) {
				t.Fatalf("%+v %q: refused (%v), and something changed: %+v", h, payload, err, after)
			}
		} else if h.Op == OpShow || h.Op == OpStats {
			if !equal(t, before, after) {
				t.Fatalf("%+v %q changed something", h, payload)
			}
		}
		h.Pack = WantReason
		no, _, rerr := ReadResponse(bytes.NewReader(respond(&h, text, err)), 0)
		if rerr != nil || (err == nil) != (no == Success) {
			t.Fatalf("the answer is %d, %v; want %v", no, rerr, err)
		}
	})
}
