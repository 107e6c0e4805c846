package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A discard, a write zeroes or an allocation query is sent in pieces, one after another, where one request on the wire cannot be as long, and in
// more of them where that is kinder to whoever shares the server.

// piece is how much of a slot's request the connection's next request is for: from sl.off.
//
// Zeroes that the server makes fast (NBD_CMD_FLAG_FAST_ZERO) are one piece. Those that it has to write itself are still better written there
// than sent to it, but as pieces: a server that works off a connection's requests in order would let everybody else wait for a
// long one. The flag tells which is which, and costs a round trip where the answer is no.
func (c *conn) piece(sl *slot) int64 {
	limit := int64(maxZero)
	if c.extended {
		limit = maxPiece
	}
	if sl.cmd == cmdWriteZeroes && sl.slow {
		limit = slowZero - sl.off%slowZero // up to the next multiple, which keeps to every block that a server may have
	}
	return min(sl.req.Off+sl.req.Len-sl.off, limit)
}

// tryFast tells whether a slot's write zeroes is sent with the demand to be fast.
func (c *conn) tryFast(sl *slot) bool {
	return c.fastZero && !sl.slow && sl.cmd == cmdWriteZeroes && sl.n > slowZero
}

// told is how far an allocation query has come.
type told struct {
	from int   // Extents that the caller had there
	end  int64 // how far they reach, in the volume
	cur  int64 // where the next descriptor of this answer begins
	here bool  // this answer's chunk has come
	asks uint8
}

// again makes slot i ready to be sent anew, when it is not known what of its answer had come.
func (s *Store) again(i uint16) {
	if sl := &s.slots[i]; sl.cmd == cmdBlockStatus {
		r, t := sl.req, &s.told[i]
		r.Extents = r.Extents[:t.from]
		sl.off, t.end, t.here = r.Off, r.Off, false
	}
}

// statusHead begins a block status chunk (NBD, "Structured reply types": NBD_REPLY_TYPE_BLOCK_STATUS). The sum of its descriptors' lengths may
// be less than what was asked for, or more.
func (c *conn) statusHead(context uint32) error {
	sl, t := &c.s.slots[c.slot], &c.s.told[c.slot]
	if context != c.context || t.here {
		return fmt.Errorf("a block status of context %d, which was not agreed on or has come already", context)
	}
	t.here, t.cur = true, sl.off
	c.length -= uint64(c.need - c.base)
	c.more(c.extentSize(), atExtent)
	return nil
}

func (c *conn) extentSize() int {
	if binary.BigEndian.Uint16(c.hdr[6:]) == chunkStatusExt {
		return extentSize2
	}
	return extentSize
}

// statusExtent takes a descriptor, whose 4 or 8 bytes of length and as many of flags are in b.
func (c *conn) statusExtent(b []byte) error {
	size := c.extentSize()
	n, flags := uint64(binary.BigEndian.Uint32(b)), uint64(binary.BigEndian.Uint32(b[4:]))
	if size == extentSize2 {
		n, flags = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	}
	if n == 0 {
		return errors.New("a block status of no bytes")
	}
	c.s.told[c.slot].describe(c.s.slots[c.slot].req, n, flags)
	if c.length -= uint64(size); c.length == 0 {
		c.chunkEnd()
	} else {
		c.more(size, atExtent)
	}
	return nil
}

// describe adds the next n bytes of an answer to r to what is known, as far as it is asked for and there is room.
//
// A hole is deallocated; that it reads as zeroes as well nobody is told, since Info.DiscardZeroes is off. A range that reads as
// zeroes and is no hole is mapped: anchored would promise that space is reserved for it, and the flag's absence only says that the server does not
// know it to be a hole.
func (t *told) describe(r *backstore.Request, n, flags uint64) {
	end := r.Off + r.Len
	to := end
	if n < uint64(end-t.cur) {
		to = t.cur + int64(n)
	}
	t.cur = to
	if to <= t.end {
		return // known from the answer before
	}
	state := backstore.Mapped
	if flags&stateHole != 0 {
		state = backstore.Deallocated
	}
	k := len(r.Extents)
	switch {
	case k > t.from && r.Extents[k-1].State == state:
		r.Extents[k-1].Len += to - t.end
	case k < cap(r.Extents):
		r.Extents = append(r.Extents, backstore.Extent{Off: t.end, Len: to - t.end, State: state})
	default:
		return // what follows cannot be told without a gap, unless it were of the last one's state
	}
	t.end = to
}

var (
	errMore     = errors.New("there is more to ask")
	errNoStatus = errors.New("the server ended its reply without the block status")
)

// described deals with a whole answer to an allocation query: it ends the request, or asks for the rest (errMore).
func (s *Store) described(i uint16) error {
	sl := &s.slots[i]
	r, t := sl.req, &s.told[i]
	if !t.here {
		return &backstore.Error{Class: backstore.ClassTransport, Op: r.Op.String(), Off: r.Off, Cause: errNoStatus}
	}
	end := r.Off + r.Len
	if t.end == end || len(r.Extents) == cap(r.Extents) {
		return nil
	}
	if t.asks++; t.asks >= maxAsks {
		t.cur = t.end
		t.describe(r, uint64(end-t.end), 0) // what is not known may hold data
		return nil
	}
	t.here = false
	sl.off = t.end &^ int64(s.info.BlockSize-1)
	s.assign(i)
	return errMore
}
