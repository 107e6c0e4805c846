package session

import (
	"encoding/binary"
	"fmt"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// sessionSeeds are inputs that reach what is far from the start: transfers with R2Ts, functions that wait for them, gaps, text in pieces.
func sessionSeeds() [][]byte {
	const write, read = 0x04, 0x02
	cmd := func(flags, itt, edtl byte) []byte { return []byte{0, flags, itt, edtl, 0} }
	join := func(parts ...[]byte) (b []byte) {
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	now := func(flags, itt, edtl byte) []byte { return []byte{0, flags, itt, edtl, 0xa0} }
	data, half := []byte{4, 0, 9, 1}, []byte{4, 0, 3, 1}
	seeds := [][]byte{
		join([]byte{0x42, 0}, cmd(read, 1, 12), []byte{2, 12, 0, 3}, cmd(read, 2, 8), []byte{2, 8, 1}, []byte{7, 0, 3}),
		join([]byte{0x96, 0}, cmd(write, 1, 12), []byte{2, 12}, data, data, data, []byte{0, 3}, cmd(write, 2, 14), []byte{2, 14}, data, []byte{9, 2, 1, 1, 0}, data, data, data),
		join([]byte{0x02, 8}, cmd(write|1, 3, 10), []byte{2, 10}, []byte{4, 0xc0, 6, 6, 3, 0}, []byte{4, 0xc1, 6, 8, 3, 1}, data),
		join([]byte{0x42, 0}, []byte{11, 1 | 1<<3, 0}, []byte{0, 4, 0}, []byte{11, 5, 0}, []byte{11, 2 | 2<<3, 0}, []byte{11, 5 | 3<<3, 0}),
		join([]byte{0x42, 0}, []byte{10, 0, 9, 0xc2}, []byte{10, 0, 9, 0xc1}, []byte{8, 20}, []byte{9, 0, 1, 1, 0xa0}, []byte{10, 0, 4, 0}, []byte{10, 0, 4, 0}),
		join([]byte{0x42, 0}, cmd(read, 1, 12), []byte{2, 12, 1}, cmd(read, 2, 12), []byte{2, 12, 1}, []byte{9, 3, 0, 0, 0xa0, 1}, []byte{12, 0}, []byte{7, 1}, []byte{7, 0}, []byte{13, 0, 9, 0}),
		join([]byte{0x42, 0x0f}, []byte{11, 1 | 1<<3, 0}, []byte{0, 4, 0}, []byte{13, 0, 9, 0}),
		join([]byte{0x42, 0}, []byte{14}, []byte{8, 4}, []byte{8, 4}),
		join([]byte{0x42, 0}, []byte{8, 61}, []byte{10, 0, 0xff, 0xa0}, []byte{8, 61}, []byte{8, 20}, []byte{10, 0, 5, 0}, []byte{8, 40}),
		join([]byte{0x42, 0}, cmd(write, 1, 12), []byte{2, 12}, []byte{8, 59}, data[:0], []byte{8, 2}),
		// A write of which one byte is missing; one that comes by halves; one of which the immediate data is a part.
		join([]byte{0x22, 0}, cmd(write, 1, 11), []byte{2, 11}, data, data, []byte{0, 3}),
		join([]byte{0x22, 0}, cmd(write, 1, 12), []byte{2, 12}, half, half, data, []byte{0, 3}),
		join([]byte{0x2a, 0}, []byte{0, write | 0x10, 1, 12, 7, 0}, []byte{2, 12}, data, data, []byte{0, 3}),
		// Immediate commands and functions, answered at once and later.
		join([]byte{0x42, 0}, now(read, 1, 7), []byte{2, 7, 0, 3}, now(read, 2, 7), []byte{2, 7, 1}, []byte{9, 2, 0, 0, 0xa0, 0, 0}, []byte{7, 0}, now(read, 3, 7), []byte{2, 7, 0, 3}),
		// A function whose time is over before it is carried out; one whose task ends after it was carried out, and one before.
		join([]byte{0x42, 0}, []byte{9, 2, 0, 0, 0, 1}, []byte{8, 31}, []byte{12, 0}),
		join([]byte{0x42, 0}, cmd(read, 1, 7), []byte{2, 7, 1}, []byte{9, 2, 0, 0, 0, 1, 0, 0}, []byte{7, 0}),
		join([]byte{0x42, 0}, cmd(read, 1, 7), []byte{2, 7, 1}, []byte{9, 2, 0, 0, 0, 1, 1}, []byte{7, 0}, []byte{12, 0}),
	}
	var h pdu.Header
	h[0] = byte(pdu.OpSNACK)
	binary.BigEndian.PutUint32(h[16:], 5)
	return append(seeds, join([]byte{0x42, 0, 15}, h[:], []byte(fmt.Sprint(seeds))))
}
