package journal

import (
	"encoding/binary"
	"hash/crc32"
	"testing"
)

// A newer version is told from damage.
func TestVersion(t *testing.T) {
	h := newHeader()
	binary.LittleEndian.PutUint32(h[8:], version+1)
	binary.LittleEndian.PutUint32(h[12:], crc32.Checksum(h[:12], castagnoli))
	rec, err := newRecord(1, change{All: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, f := read(append(h, rec...)); f == nil || !f.newer {
		t.Errorf("%+v", f)
	}
}

// A record out of order, or one that is not what its checksum says, is damage though every checksum is right.
func TestOrder(t *testing.T) {
	file := func(records ...uint64) []byte {
		b := newHeader()
		for i, seq := range records {
			rec, err := newRecord(seq, change{All: i == 0})
			if err != nil {
				t.Fatal(err)
			}
			b = append(b, rec...)
		}
		return b
	}
	if _, f := read(file(7, 8, 9)); f != nil {
		t.Errorf("%+v", f)
	}
	for _, seqs := range [][]uint64{{7, 9}, {7, 7}, {7, 8, 8}, {7, 6}} {
		if _, f := read(file(seqs...)); f == nil {
			t.Errorf("%v was taken", seqs)
		}
	}
	if _, f := read(newHeader()); f == nil {
		t.Error("a file without a record was taken")
	}
}
