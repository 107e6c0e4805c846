package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/lunar-iscsi/lunar/backstore"
)

var errShutdown = errors.New("the server is shutting down")

// A stage is what a parser's header is, and so what comes behind it.
type stage uint8

const (
	atMagic stage = iota // a simple reply, or as much of a chunk's header
	atChunk              // a chunk's header
	atData               // the same with what its payload begins with, by its type
	atHole
	atError
	atStatus
	atExtent // one descriptor of a block status
)

// A parser is a connection's place in the stream of replies. Between calls it keeps at most a header.
type parser struct {
	structured bool // negotiated
	base       int  // bytes of a chunk's header
	first      int  // bytes of the first header of a reply
	firstStage stage

	hdr   [extChunkSize + mostHead]byte // the header so far
	have  int
	need  int // bytes of it
	stage stage

	slot   uint16 // whose reply or chunk
	last   bool   // the chunk ends the reply
	length uint64 // of the chunk's payload
	dst    []byte // where the payload's rest belongs, in the read's buffer
	text   []byte // of an error chunk, filled to textN
	got    int
}

// begin makes ready for the first reply.
func (p *parser) begin(ex *export) {
	p.structured, p.base, p.first, p.firstStage = ex.structured, chunkSize, simpleSize, atMagic
	if ex.extended { // every reply is then a chunk
		p.base, p.first, p.firstStage = extChunkSize, extChunkSize, atChunk
	}
	p.next()
}

func (p *parser) next() { p.have, p.need, p.stage = 0, p.first, p.firstStage }

// more wants n bytes behind the chunk's header, and says what they are.
func (p *parser) more(n int, s stage) { p.have, p.need, p.stage = p.base, p.base+n, s }

// feed takes the next bytes of the stream. An error means that the server broke the protocol.
func (c *conn) feed(p []byte) error {
	for len(p) > 0 {
		switch {
		case len(c.dst) > 0:
			n := copy(c.dst, p)
			p = p[n:]
			c.placed(n)
		case c.text != nil:
			n := copy(c.text[c.got:], p)
			p = p[n:]
			if c.got += n; c.got == len(c.text) {
				if err := c.errorEnd(); err != nil {
					return err
				}
			}
		default:
			n := copy(c.hdr[c.have:c.need], p)
			p = p[n:]
			if c.have += n; c.have == c.need {
				if err := c.header(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// placed notes that n bytes of payload have arrived at their place.
func (c *conn) placed(n int) {
	if c.dst = c.dst[n:]; len(c.dst) == 0 {
		c.dst = nil
		c.chunkEnd()
	}
}

// header deals with a complete header of c.need bytes; one that says that more of it follows only raises need.
func (c *conn) header() error {
	be := binary.BigEndian
	switch c.stage {
	case atMagic:
		switch magic := be.Uint32(c.hdr[:]); {
		case magic == magicSimple:
			return c.simple(be.Uint32(c.hdr[4:]), be.Uint64(c.hdr[8:]))
		case magic == magicStructured && c.structured:
			c.need, c.stage = chunkSize, atChunk
		default:
			return fmt.Errorf("a reply with magic %#x", magic)
		}
	case atChunk:
		if !c.extended {
			c.length = uint64(be.Uint32(c.hdr[16:]))
			return c.chunk(be.Uint16(c.hdr[6:]), c.length)
		}
		if magic := be.Uint32(c.hdr[:]); magic != magicExtReply {
			return fmt.Errorf("a reply with magic %#x although extended headers were agreed on", magic)
		}
		c.length = be.Uint64(c.hdr[24:])
		return c.chunk(be.Uint16(c.hdr[6:]), c.length)
	case atData:
		dst, err := c.target(be.Uint64(c.hdr[c.base:]), c.length-dataHead)
		if err != nil {
			return err
		}
		c.dst = dst
	case atHole:
		dst, err := c.target(be.Uint64(c.hdr[c.base:]), uint64(be.Uint32(c.hdr[c.base+8:])))
		if err != nil {
			return err
		}
		clear(dst)
		c.chunkEnd()
	case atError:
		return c.errorHead(be.Uint16(c.hdr[6:]), c.length)
	case atStatus:
		return c.statusHead(be.Uint32(c.hdr[c.base:]))
	case atExtent:
		return c.statusExtent(c.hdr[c.base:])
	}
	return nil
}

// find looks a cookie up.
func (c *conn) find(cookie uint64) (*slot, error) {
	i := cookie & 0xffff
	if i >= uint64(len(c.s.slots)) {
		return nil, fmt.Errorf("a reply to cookie %#x, which nobody sent", cookie)
	}
	sl := &c.s.slots[i]
	// Zero is the cookie of a free slot. One that is not wholly sent cannot be answered yet.
	if cookie == 0 || sl.cookie != cookie || sl.c != c || !sl.sent {
		return nil, fmt.Errorf("a reply to cookie %#x, which is not waiting for one here", cookie)
	}
	c.slot = uint16(i)
	return sl, nil
}

// simple deals with a simple reply (NBD, "Simple reply message").
func (c *conn) simple(errno uint32, cookie uint64) error {
	sl, err := c.find(cookie)
	if err != nil {
		return err
	}
	c.last = true
	if errno != 0 {
		sl.errno = errno
		c.chunkEnd()
		return nil
	}
	if sl.cmd != cmdRead {
		c.chunkEnd()
		return nil
	}
	if c.structured {
		return errors.New("a simple reply to a read although structured replies were agreed on")
	}
	if err := sl.arrived(0, sl.req.Len); err != nil {
		return err
	}
	c.dst = sl.req.Buf
	return nil
}

// chunk begins a chunk of a structured reply (NBD, "Structured reply types").
func (c *conn) chunk(typ uint16, length uint64) error {
	sl, err := c.find(binary.BigEndian.Uint64(c.hdr[8:]))
	if err != nil {
		return err
	}
	if c.extended {
		if off := binary.BigEndian.Uint64(c.hdr[16:]); off != uint64(sl.off) {
			return fmt.Errorf("a chunk of a reply for byte %d to a request for byte %d", off, sl.off)
		}
	}
	c.last = binary.BigEndian.Uint16(c.hdr[4:])&chunkDone != 0
	isRead := sl.cmd == cmdRead
	switch {
	case typ == chunkNone && length == 0 && c.last:
		c.chunkEnd()
	case typ == chunkData && isRead && length > dataHead:
		c.more(dataHead, atData)
	case typ == chunkHole && isRead && length == holeHead:
		c.more(holeHead, atHole)
	case typ == chunkStatus && sl.cmd == cmdBlockStatus && length <= maxStatus && length > statusHead && (length-statusHead)%extentSize == 0:
		c.more(statusHead, atStatus)
	case typ == chunkStatusExt && sl.cmd == cmdBlockStatus && c.extended && length <= maxStatus && length > statusHead2 && (length-statusHead2)%extentSize2 == 0:
		c.more(statusHead2, atStatus)
	case typ&chunkErrorBit != 0 && length >= errorHead && length <= maxErrorChunk && (typ != chunkErrorAtOff || length >= errorHead+8):
		c.more(errorHead, atError)
	default:
		return fmt.Errorf("a chunk of type %d with %d bytes in reply to command %d", typ, length, sl.cmd)
	}
	return nil
}

// target is where n bytes at off of the volume belong in the read's buffer.
func (c *conn) target(off, n uint64) ([]byte, error) {
	sl := &c.s.slots[c.slot]
	r := sl.req
	// off and n come from the server: nothing here may wrap.
	if n == 0 || n > uint64(r.Len) || off < uint64(r.Off) || off-uint64(r.Off) > uint64(r.Len)-n {
		return nil, fmt.Errorf("a chunk of %d bytes at %d in reply to a read of %d at %d", n, off, r.Len, r.Off)
	}
	from := int64(off) - r.Off
	if err := sl.arrived(from, int64(n)); err != nil {
		return nil, err
	}
	return r.Buf[from : from+int64(n)], nil
}

// errorHead notes an error chunk's number and makes room for its text and fields.
func (c *conn) errorHead(typ uint16, length uint64) error {
	sl := &c.s.slots[c.slot]
	errno, textLen := binary.BigEndian.Uint32(c.hdr[c.base:]), uint32(binary.BigEndian.Uint16(c.hdr[c.base+4:]))
	rest := uint32(length) - errorHead // at most maxErrorChunk
	fields := uint32(0)
	if typ == chunkErrorAtOff {
		fields = 8
	}
	if errno == 0 || textLen > rest-fields {
		return fmt.Errorf("an error chunk with number %d and %d bytes of text in %d", errno, textLen, length)
	}
	if sl.errno == 0 {
		sl.errno = errno // the first is the cause
	}
	if rest == 0 {
		c.chunkEnd()
		return nil
	}
	c.text, c.got = make([]byte, rest), 0
	return nil
}

// errorEnd reads what an error chunk says beyond its number.
func (c *conn) errorEnd() error {
	sl := &c.s.slots[c.slot]
	n := int(binary.BigEndian.Uint16(c.hdr[c.base+4:]))
	if sl.text == "" {
		sl.text = printable(c.text[:n])
	}
	if binary.BigEndian.Uint16(c.hdr[6:]) == chunkErrorAtOff {
		off := binary.BigEndian.Uint64(c.text[n:])
		if r := sl.req; off < uint64(r.Off) || off-uint64(r.Off) >= uint64(max(r.Len, 1)) {
			return fmt.Errorf("an error at byte %d in reply to a request of %d at %d", off, r.Len, r.Off)
		}
		if sl.errOff == 0 {
			sl.errOff = int64(off)
		}
	}
	c.text = nil
	c.chunkEnd()
	return nil
}

// chunkEnd makes ready for the next header and ends the request with its last chunk.
func (c *conn) chunkEnd() {
	c.next()
	if c.last {
		c.finish(c.slot)
	}
}

// finish ends a slot's sending: everything that the server has to say to it is there.
func (c *conn) finish(i uint16) {
	s, sl := c.s, &c.s.slots[i]
	r := sl.req
	c.gone(sl)
	if s.mixed {
		s.vouch(c, sl.cookie>>16)
	}
	fua := r.Flags&backstore.FUA != 0
	switch {
	case sl.errno == nbdESHUTDOWN && sl.resends < maxResends:
		// Refused, so it can be sent again anywhere else.
		sl.resends++
		c.retired()
		s.again(i)
		s.assign(i)
		return
	case sl.errno != 0:
		if sl.errno == nbdENOTSUP && c.tryFast(sl) {
			sl.slow = true
			s.assign(i)
			return
		}
		off := max(sl.errOff, r.Off)
		err := &backstore.Error{Class: classOf(sl.errno), Op: r.Op.String(), Off: off, Cause: &ServerError{Errno: sl.errno, Text: sl.text}}
		if sl.cmd == cmdFlush || fua && sl.cmd != cmdRead && !refused(sl.errno) {
			s.fail(err)
		}
		s.end(i, err)
		return
	case sl.cmd == cmdFlush:
		if s.failed != nil {
			s.end(i, s.failedError(r))
			return
		}
		if s.suspect && c.era > s.askEra {
			s.assign(i) // a successor cannot vouch for what was written before it
			return
		}
		s.flushed(sl.mark)
		if r.Op == backstore.Read { // a FUA read's second part
			sl.cmd, sl.off, sl.n = cmdRead, r.Off, r.Len
			s.assign(i)
			return
		}
	case sl.cmd == cmdRead:
		if len(sl.cover) != 1 || sl.cover[0] != (span{0, r.Len}) {
			s.end(i, &backstore.Error{Class: backstore.ClassTransport, Op: r.Op.String(), Off: r.Off, Cause: errShort})
			return
		}
	case sl.cmd == cmdBlockStatus:
		if err := s.described(i); err != errMore {
			s.end(i, err)
		}
		return
	case !fua:
		s.acked++
	}
	if sl.n < r.Len && (sl.cmd == cmdTrim || sl.cmd == cmdWriteZeroes) && sl.off+sl.n < r.Off+r.Len {
		sl.off += sl.n
		s.assign(i)
		return
	}
	s.end(i, nil)
}

var errShort = errors.New("the server ended its reply without all of the data")

// gone takes a sending off the connection's counts.
func (c *conn) gone(sl *slot) {
	c.inflight--
	if sl.cmd == cmdRead {
		c.reads--
		c.readBytes -= sl.req.Len
	}
}

// retired stops the use of a connection whose server wants to shut down; what was not sent goes elsewhere.
func (c *conn) retired() {
	if c.retire {
		return
	}
	c.retire = true
	q := c.sendq
	c.sendq, c.sendBytes = backstore.Queue{}, 0
	for r := q.Pop(); r != nil; r = q.Pop() {
		sl := &c.s.slots[r.Slot]
		if c.headSent > 0 && c.sendq.Head() == nil { // begun, so the rest must follow
			c.sendq.Push(r)
			if sl.cmd == cmdWrite {
				c.sendBytes = len(r.Buf)
			}
			continue
		}
		c.gone(sl)
		c.s.assign(uint16(r.Slot))
	}
}

// A span is a piece of a read, in bytes from its start.
type span struct{ from, to int64 }

// arrived notes that a piece has come, and refuses one of which a byte had come before.
func (sl *slot) arrived(from, n int64) error {
	to := from + n
	c := sl.cover
	if k := len(c); k == 0 || c[k-1].to < from {
		if k >= maxSpans {
			return fmt.Errorf("a read answered in more than %d separate pieces", maxSpans)
		}
		sl.cover = append(c, span{from, to})
		return nil
	} else if c[k-1].to == from { // the usual case: one piece after another
		c[k-1].to = to
		return nil
	}
	// i is the first piece that ends at or behind from.
	i, _ := slices.BinarySearchFunc(c, from, func(s span, from int64) int {
		if s.to < from {
			return -1
		}
		return 1
	})
	joins := c[i].to == from
	next := i
	if joins {
		next++
	}
	if next < len(c) && c[next].from < to || !joins && c[i].from < to && c[i].to > from {
		return fmt.Errorf("the bytes %d to %d of a read came twice", from, to)
	}
	meets := next < len(c) && c[next].from == to
	switch {
	case joins && meets:
		c[i].to = c[next].to
		sl.cover = slices.Delete(c, next, next+1)
	case joins:
		c[i].to = to
	case meets:
		c[next].from = from
	case len(c) >= maxSpans:
		return fmt.Errorf("a read answered in more than %d separate pieces", maxSpans)
	default:
		sl.cover = slices.Insert(c, i, span{from, to})
	}
	return nil
}
