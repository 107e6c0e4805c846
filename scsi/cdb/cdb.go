package cdb

import (
	"encoding/binary"
	"fmt"
)

// MaxLen is the length of the longest fixed-size CDB in bytes, and of the buffer that builders return.
const MaxLen = 16

// Len returns the length in bytes that the group code of an operation code gives (SPC-4 §4.2.5.1), or 0
// for the variable length and vendor specific groups.
func Len(op byte) int {
	switch op >> 5 {
	case 0:
		return 6
	case 1, 2:
		return 10
	case 4:
		return 16
	case 5:
		return 12
	}
	return 0
}

// The bits of byte 1 of READ and WRITE (10), (12) and (16) (SBC-3).
const (
	FUA       = 0x08
	DPO       = 0x10
	protect   = 0xe0
	blocks256 = 256 // what a TRANSFER LENGTH of zero means in a 6-byte CDB
)

// Range returns the LOGICAL BLOCK ADDRESS and TRANSFER LENGTH (in blocks) of a CDB of the READ and
// WRITE layout: (6), (10), (12) or (16) by its group code. A zero length in a 6-byte CDB is returned as
// the 256 that it means (SBC-3, READ(6)).
func Range(b []byte) (lba uint64, blocks uint32) {
	switch b[0] >> 5 {
	case 0:
		lba = uint64(binary.BigEndian.Uint32(b) & 0x1fffff)
		blocks = uint32(b[4])
		if blocks == 0 {
			blocks = blocks256
		}
	case 1, 2:
		lba = uint64(binary.BigEndian.Uint32(b[2:]))
		blocks = uint32(binary.BigEndian.Uint16(b[7:]))
	case 4:
		lba = binary.BigEndian.Uint64(b[2:])
		blocks = binary.BigEndian.Uint32(b[10:])
	case 5:
		lba = uint64(binary.BigEndian.Uint32(b[2:]))
		blocks = binary.BigEndian.Uint32(b[6:])
	}
	return lba, blocks
}

// Protect returns the RDPROTECT or WRPROTECT field of a 10, 12 or 16-byte READ or WRITE.
func Protect(b []byte) uint8 { return b[1] >> 5 }

// Control returns the CONTROL byte of a CDB of a fixed length (SAM-5 §5.2).
func Control(b []byte) byte { return b[Len(b[0])-1] }

// NACA is the bit of the CONTROL byte that asks for an auto contingent allegiance.
const NACA = 0x04

// ServiceAction returns the SERVICE ACTION field of byte 1.
func ServiceAction(b []byte) byte { return b[1] & 0x1f }

// Transfer builds a CDB of the READ and WRITE layout. The caller keeps lba and blocks within what the
// operation code's size holds; flags is FUA and DPO.
func Transfer(op byte, lba uint64, blocks uint32, flags byte) (b [MaxLen]byte) {
	switch op >> 5 {
	case 0:
		binary.BigEndian.PutUint32(b[:], uint32(lba)&0x1fffff)
		b[4] = byte(blocks)
	case 1, 2:
		binary.BigEndian.PutUint32(b[2:], uint32(lba))
		binary.BigEndian.PutUint16(b[7:], uint16(blocks))
	case 4:
		binary.BigEndian.PutUint64(b[2:], lba)
		binary.BigEndian.PutUint32(b[10:], blocks)
	case 5:
		binary.BigEndian.PutUint32(b[2:], uint32(lba))
		binary.BigEndian.PutUint32(b[6:], blocks)
	}
	b[0] = op
	b[1] |= flags
	return b
}

// Describe returns a CDB in a line for people: its name, and its range and flags where it has them.
func Describe(b []byte) string {
	if len(b) == 0 {
		return "empty CDB"
	}
	s := Name(b)
	k := lookup(b)
	if k == nil || len(b) < Len(b[0]) {
		return s
	}
	switch k.layout {
	case transfer:
		lba, n := Range(b)
		s = fmt.Sprintf("%s lba %d blocks %d", s, lba, n)
		if b[0]>>5 != 0 {
			if b[1]&FUA != 0 {
				s += " fua"
			}
			if b[1]&DPO != 0 {
				s += " dpo"
			}
			if b[1]&protect != 0 {
				s += fmt.Sprintf(" protect %d", Protect(b))
			}
		}
	case span:
		lba, n := Range(b)
		s = fmt.Sprintf("%s lba %d blocks %d", s, lba, n)
	case page:
		if b[0] == Inquiry && b[1]&1 != 0 {
			s += fmt.Sprintf(" vpd %02Xh", b[2])
		} else if b[0] != Inquiry {
			s += fmt.Sprintf(" page %02Xh/%02Xh", b[2]&0x3f, b[3])
		}
	}
	return s
}
