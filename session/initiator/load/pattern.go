package load

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// The pattern: what byte stands where on a filled volume follows from its offset alone, so that any read can be checked and any write leaves
// the volume filled. Each line of 64 bytes starts with eight that name the line's place on the volume; the 56 after them depend on the place in
// the 512-byte block. So a buffer that holds the pattern of some place takes that of another by one store a line.
const (
	lineSize  = 64
	blockSize = 512
	lineStep  = 0x9e3779b97f4a7c15 // odd: no two lines of a volume have the same name
	lineSeed  = 0x6c756e61722d6c62
)

// body is the pattern of one block but for the names.
var body = func() (b [blockSize]byte) {
	x := uint64(lineSeed)
	for i := 0; i < blockSize; i += 8 {
		// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
		x += lineStep
		z := (x ^ x>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint64(b[i:], z^z>>31)
	}
	return b
}()

func lineName(offset int64) uint64 { return uint64(offset/lineSize)*lineStep + lineSeed }

// Fill writes the pattern of the volume's bytes from offset on into b. Both offset and len(b) are multiples of 512.
func Fill(b []byte, offset int64) {
	for i := 0; i < len(b); i += blockSize {
		copy(b[i:], body[:])
	}
	Stamp(b, offset)
}

// Stamp makes b, which Fill filled for any offset, hold the pattern of this one.
func Stamp(b []byte, offset int64) {
	name := lineName(offset)
	for len(b) >= lineSize {
		binary.LittleEndian.PutUint64(b, name)
		name += lineStep
		b = b[lineSize:]
	}
}

// Check compares b with the pattern of the volume's bytes from offset on, and returns a *MismatchError for the first line that differs.
func Check(b []byte, offset int64) error {
	name := lineName(offset)
	for i := 0; i+lineSize <= len(b); i += lineSize {
		line := b[i : i+lineSize]
		at := i % blockSize
		got := binary.LittleEndian.Uint64(line)
		if got != name || !bytes.Equal(line[8:], body[at+8:at+lineSize]) {
			return &MismatchError{Offset: offset + int64(i), Want: name, Got: got}
		}
		name += lineStep
	}
	return nil
}

// A MismatchError is content that is not the pattern's.
type MismatchError struct {
	Offset    int64  // on the volume, of the first line of 64 bytes that differs
	Want, Got uint64 // that line's first eight bytes, little-endian
}

func (e *MismatchError) Error() string {
	s := fmt.Sprintf("content mismatch at byte %d: the line starts with %016x, want %016x", e.Offset, e.Got, e.Want)
	if n := (e.Got - lineSeed) * lineStepInverse; n < 1<<57 { // a name, if it stands for an offset below 2^63
		s += fmt.Sprintf(" (that is the name of byte %d)", n*lineSize)
	}
	return s
}

// lineStepInverse undoes the multiplication by lineStep modulo 2^64.
const lineStepInverse = 0xf1de83e19937733d
