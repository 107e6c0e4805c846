package pdu

import (
	"encoding/binary"
	"hash/crc32"
)

// DigestLen is the length of a header or data digest.
const DigestLen = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Digest returns the CRC32C of b (RFC 7143 §13.1).
func Digest(b []byte) uint32 { return crc32.Update(0, castagnoli, b) }

// UpdateDigest returns the CRC32C of what d is the CRC32C of, followed by b.
func UpdateDigest(d uint32, b []byte) uint32 { return crc32.Update(d, castagnoli, b) }

var padding [3]byte

// DataDigest returns the CRC32C of a data segment and its pad of zeros (RFC 7143 §11.2.3:
// the pad is covered).
func DataDigest(data []byte) uint32 {
	return UpdateDigest(Digest(data), padding[:Pad(len(data))-len(data)])
}

// PutDigest writes d to b[0:4] as it goes over the wire: the lowest byte first, which
// is what the bit order of RFC 7143 §13.1 comes to.
func PutDigest(b []byte, d uint32) { binary.LittleEndian.PutUint32(b, d) }

// AppendDigest appends d to b as PutDigest writes it.
func AppendDigest(b []byte, d uint32) []byte { return binary.LittleEndian.AppendUint32(b, d) }

// DigestAt reads the digest in b[0:4].
func DigestAt(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
