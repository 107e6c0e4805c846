package hostile

import (
	"bytes"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/target"
)

// GOOD is answered for what was done: no command that changes or compares the medium ends with it where the store fails, nor where the data
// is other than what it compares with, and then nothing was changed.
func TestGoodIsEarned(t *testing.T) {
	f := newField(t, target.Config{})
	c := f.peer()
	there := bytes.Repeat([]byte("as it was before"), 8*512/16)
	other := bytes.Repeat([]byte("something other "), 8*512/16)
	if r, err := c.WriteCommand(bad, write10(0, 8), there); err != nil || r.Err() != nil {
		t.Fatal(err, r.Err())
	}
	ten := func(op, flags byte, blocks byte) []byte { return []byte{op, flags, 0, 0, 0, 0, 0, 0, blocks, 0} }
	sixteen := func(op, flags byte, blocks byte) []byte { return []byte{op, flags, 13: blocks, 15: 0} }
	caw := append(bytes.Clone(other), there...)
	unmap := append([]byte{0, 22, 0, 16, 0, 0, 0, 0}, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0)
	for _, q := range []struct {
		b       []byte
		data    []byte
		compare bool // fails for its data alone
	}{
		{ten(cdb.Write10, 0, 8), other, false}, {ten(cdb.Write10, cdb.FUA, 8), other, false}, {sixteen(cdb.WriteVerify16, 2, 8), other, false},
		{ten(cdb.WriteSame10, 0, 8), other[:512], false}, {sixteen(cdb.WriteSame16, 1, 8), nil, false}, {sixteen(cdb.OrWrite16, 0, 8), other, false},
		{sixteen(cdb.CompareAndWrite, 0, 8), caw, true}, {ten(cdb.Verify10, 2, 8), other, true}, {ten(cdb.Verify10, 6, 8), other[:512], true},
		{ten(cdb.Unmap, 0, 24), unmap, false}, {ten(cdb.Read10, 0, 8), nil, false},
	} {
		for _, rules := range []string{"any error=medium", "any error=transport", "any error=nospace", "any error=busy"} {
			if q.compare {
				rules = ""
			}
			if err := f.store.Set(rules); err != nil {
				t.Fatal(err)
			}
			var r initiator.Result
			var err error
			if q.b[0] == cdb.Read10 {
				r, err = c.ReadCommand(bad, q.b, 4096)
			} else {
				r, err = c.WriteCommand(bad, q.b, q.data)
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.Status == sam.Good || len(r.Data) != 0 {
				t.Errorf("%s with %q: %v and %d bytes", cdb.Describe(q.b), rules, r.Status, len(r.Data))
			}
			if err := f.store.Set(""); err != nil {
				t.Fatal(err)
			}
			if r, err := c.ReadCommand(bad, read10(0, 8), 4096); err != nil || !bytes.Equal(r.Data, there) {
				t.Fatalf("%s with %q: the medium is changed, or %v", cdb.Describe(q.b), rules, err)
			}
		}
	}
	f.moved("responses", func(st target.Stats) uint64 { return st.Commands.Responses }, 80)
}
