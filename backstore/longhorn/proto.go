package longhorn

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The frame of the data protocol: a header of 26 bytes, little-endian and without padding, then as many bytes as its last field says.
//
//	0   2  magic, and the version with it
//	2   4  sequence number, which an answer repeats
//	6   4  type
//	10  8  offset, bytes into the volume
//	18  4  size: of a read or an unmap what is asked for, of a write its length, of an answer what was done
//	22  4  bytes that follow
const (
	headerSize = 26
	magic      = 0x1b01
)

// The types of messages.
const (
	typeRead = iota
	typeWrite
	typeResponse
	typeError // what follows is text
	typeEOF   // of a read beyond the end; what follows is what there is before it
	typeClose // the engine ends the connection
	typePing
	typeUnmap
	typeNoSpace // what follows is text
)

// A header is one message's.
type header struct {
	magic  uint16
	seq    uint32
	typ    uint32
	off    int64
	size   uint32
	length uint32
}

func (h *header) put(b *[headerSize]byte) {
	le := binary.LittleEndian
	le.PutUint16(b[0:], h.magic)
	le.PutUint32(b[2:], h.seq)
	le.PutUint32(b[6:], h.typ)
	le.PutUint64(b[10:], uint64(h.off))
	le.PutUint32(b[18:], h.size)
	le.PutUint32(b[22:], h.length)
}

// get reads a header. The engine sends its last message, typeClose, with everything else zero, the magic included.
func (h *header) get(b *[headerSize]byte) error {
	le := binary.LittleEndian
	*h = header{magic: le.Uint16(b[0:]), seq: le.Uint32(b[2:]), typ: le.Uint32(b[6:]), off: int64(le.Uint64(b[10:])), size: le.Uint32(b[18:]), length: le.Uint32(b[22:])}
	switch {
	case h.magic == 0 && h.typ == typeClose && h.length == 0:
		return nil
	case h.magic != magic:
		return fmt.Errorf("a message with magic %#x, want %#x", h.magic, magic)
	case h.typ > typeNoSpace:
		return fmt.Errorf("a message of type %d", h.typ)
	}
	return nil
}

// A sequence number is a slot's index and a count of sendings, so that no two sendings that an engine could confuse have the same.
const (
	slotBits = 12
	slotMask = 1<<slotBits - 1
	pingSlot = slotMask // an index that no slot has
)

var errShutdown = errors.New("the engine ends the connection")
