package target

import (
	"fmt"
	"io"
	"net/netip"
	"unsafe"

	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/pdu"
	"github.com/lunar-iscsi/lunar/target/evloop"
	"golang.org/x/sys/unix"
)

// A conn is one connection in full feature phase. It belongs to its loop.
type conn struct {
	l    *loop
	se   *sess
	c    *session.Conn
	id   evloop.ID
	fd   int
	name string // "initiator@address", for logs
	way  way    // how the initiator came in

	rest     []byte // bytes that are not handled yet; nil while idle
	bulk     bool   // the last PDU had a large data segment: the next one probably has, too
	whole    bool   // of rest: it holds whole PDUs, left over when a turn was used up
	isDirty  bool   // in loop.dirty
	blocked  bool   // the socket takes no more at the moment
	dead     bool
	hd       uint8 // bytes of header digest behind each header: 0 or pdu.DigestLen
	dd       uint8 // bytes of data digest behind each data segment: likewise
	in       incoming
	out      outQueue
	waiting  []*record // reads that wait until there is less to send
	taken    int64     // when it last took something
	stall    evloop.Timer
	closeWhy string // close when everything is sent
	closeEnd ending // likewise
	from     netip.AddrPort
	count    ConnCounters
}

// An incoming is a PDU with a large data segment that is received straight into its place.
type incoming struct {
	header pdu.Header
	ahs    []byte                       // copied: it is rare
	dst    []byte                       // the data segment
	got    int                          // bytes of dst, then of tail
	total  int                          // data segment with pad and digest; 0: none is under way
	buf    *evloop.Buf                  // dst's, unless that is a task's
	task   *record                      // whose buffer dst lies in
	crc    uint32                       // of what has come of dst
	tail   [maxPad + pdu.DigestLen]byte // pad and digest
	lost   bool                         // no buffer could be had: dst is scratch
}

// maxPad is the longest pad of a segment.
const maxPad = 3

// Ready is evloop.Pollable's.
func (c *conn) Ready(ev evloop.Events) (more bool) {
	if ev&evloop.Writable != 0 {
		c.flush()
	}
	if c.dead || ev&(evloop.Readable|evloop.HangUp) == 0 {
		return false
	}
	if c.in.total == 0 {
		return c.receive()
	}
	// While one large PDU follows the other their answers go out together: each that goes alone wakes the initiator.
	for again := true; again; {
		more, again = c.receiveInto()
	}
	return more
}

// receive reads as much as there is into the slab, behind what is left from before, and handles what is whole.
func (c *conn) receive() (more bool) {
	slab := c.l.slab
	have := 0
	if c.rest != nil {
		have = copy(slab, c.rest)
	}
	if c.whole {
		c.setWhole(false)
		return c.handleAll(slab[:have])
	}
	if c.bulk || c.l.left > leftMax {
		slab = slab[:have+bulkPeek]
	}
	n, err := recv(c.fd, slab[have:])
	if !c.received(n, err) {
		return false
	}
	return c.handleAll(slab[:have+n]) || have+n == len(slab) && !c.dead
}

// received looks at what a read came to and reports whether there is anything to handle.
func (c *conn) received(n int, err error) bool {
	switch {
	case err == unix.EAGAIN:
		return false
	case err != nil:
		c.lost(endBroken, "receiving: "+err.Error())
		return false
	case n == 0:
		c.lost(endClosed, io.EOF.Error())
		return false
	}
	c.count.RxBytes += uint64(n)
	return true
}

// handleAll handles the whole PDUs in b and keeps the rest. True: the turn was used up before b was.
func (c *conn) handleAll(b []byte) (more bool) {
	for !c.dead && len(b) >= pdu.HeaderLen {
		h := pdu.HeaderAt(b)
		head := pdu.HeaderLen + h.AHSLen()
		data := head + int(c.hd)
		if c.hd != 0 {
			// Before anything in the header is believed, but how far it goes.
			if len(b) < data {
				break
			}
			if pdu.Digest(b[:head]) != pdu.DigestAt(b[head:]) {
				c.damagedHeader()
				return false
			}
		}
		if err := c.c.CheckHeader(h); err != nil {
			c.drop(dropHeader, err.Error())
			return false
		}
		end := data + pdu.Pad(h.DataLen())
		wire := end
		if end != data {
			wire += int(c.dd)
		}
		if len(b) < wire {
			if h.DataLen() >= placeMin && len(b) >= data {
				c.begin(h, b, wire-data)
				b = nil
			}
			break
		}
		damaged := wire != end && pdu.Digest(b[data:end]) != pdu.DigestAt(b[end:])
		c.handle(h, b[pdu.HeaderLen:head], b[data:data+h.DataLen()], damaged)
		b = b[wire:]
		if c.l.ev.Spend(1) && len(b) != 0 {
			more = true
			break
		}
	}
	if c.dead {
		return false
	}
	c.bulk = c.in.total != 0
	c.setRest(b)
	c.setWhole(more)
	return more
}

// setWhole says whether rest holds whole PDUs. What all connections have of them is bounded: see leftMax.
func (c *conn) setWhole(on bool) {
	if on {
		c.l.left += len(c.rest)
	} else if c.whole {
		c.l.left -= len(c.rest)
	}
	c.whole = on
}

// setRest keeps a copy of b, what is not handled yet, until more comes. The memory is not the budget's: a connection that
// cannot even keep the start of a PDU would be lost, and what it is at most is bounded: see restSize, and slabSize for a turn that ended early.
func (c *conn) setRest(b []byte) {
	switch {
	case len(b) == 0:
		if c.rest != nil {
			c.l.putRest(c.rest)
			c.rest = nil
		}
		return
	case cap(c.rest) < len(b):
		if c.rest != nil {
			c.l.putRest(c.rest)
		}
		c.rest = c.l.getRest(len(b))
	}
	c.rest = c.rest[:len(b)]
	copy(c.rest, b)
}

// getRest returns memory for n bytes.
func (l *loop) getRest(n int) []byte {
	if n > restSize {
		return make([]byte, n)
	}
	if last := len(l.rests) - 1; last >= 0 {
		b := l.rests[last]
		l.rests[last] = nil
		l.rests = l.rests[:last]
		return b
	}
	return make([]byte, restSize)
}

func (l *loop) putRest(b []byte) {
	if cap(b) == restSize && len(l.rests) < keepRests {
		l.rests = append(l.rests, b[:restSize])
	}
}

// handle takes one whole PDU. damaged: its data digest is wrong.
func (c *conn) handle(h *pdu.Header, ahs, data []byte, damaged bool) {
	l := c.l
	if t := l.s.cfg.Trace.PDU; t != nil {
		t(c.name, "rx", pdu.Describe(h, ahs, data))
	}
	c.countRx(h)
	if damaged {
		c.damaged(h, ahs, data)
	} else {
		l.perform(c.se.s.Received(c.c, l.ev.Now(), h, ahs, data, l.takeActs()))
	}
	if c.se.s.Waiting() {
		c.se.arm()
	}
	if c.se.s.Kept()|c.se.kept != 0 {
		c.keepKept()
	}
	if c.out.bytes >= flushBytes && !c.blocked && !c.dead {
		c.flush()
	}
}

// begin starts to receive a PDU with a large data segment into its place: b is what has come of it, total the length of the
// segment with pad and digest.
func (c *conn) begin(h *pdu.Header, b []byte, total int) {
	in := &c.in
	*in = incoming{header: *h, total: total}
	if n := h.AHSLen(); n != 0 {
		in.ahs = append(in.ahs, b[pdu.HeaderLen:pdu.HeaderLen+n]...)
	}
	n := h.DataLen()
	l := c.l
	if h.Opcode() == pdu.OpSCSICommand {
		// The rest of a write's data is going to be collected behind its immediate data.
		if w := (*pdu.SCSICommand)(h); w.Write() && w.EDTL() <= evloop.MaxBuf {
			n = max(n, int(w.EDTL()))
		}
	}
	dst, task, wanted := c.se.s.Place(c.c, h)
	switch {
	case dst != nil:
		in.dst, in.task = dst, task.Ref.(*record)
		in.task.placing++
	case wanted:
		if in.buf = l.lend(c.se, n); in.buf != nil {
			in.dst = in.buf.B[:h.DataLen()]
			break
		}
		if h.Opcode() != pdu.OpSCSICommand {
			c.drop(dropNoMemory, fmt.Sprintf("no memory for %v of %d bytes", h.Opcode(), n))
			return
		}
		fallthrough
	default:
		// The data is read and dropped; the command that it belongs to is answered TASK SET FULL, or was answered.
		if len(l.scratch) < n {
			l.scratch = make([]byte, max(n, c.c.MaxDataSegment()))
		}
		in.dst, in.lost = l.scratch[:h.DataLen()], true
	}
	part := b[pdu.HeaderLen+h.AHSLen()+int(c.hd):]
	in.got = len(part)
	have := copy(in.dst, part)
	copy(in.tail[:], part[have:])
	if c.dd != 0 {
		in.crc = pdu.Digest(in.dst[:have])
	}
}

// receiveInto goes on with such a PDU: what is missing of it to its place, the start of what follows into the slab. again: it is
// complete, the next such PDU has begun, and the turn is not used up.
func (c *conn) receiveInto() (more, again bool) {
	in := &c.in
	slab := c.l.slab[:bulkPeek]
	vec := c.l.vec[:0]
	missing := in.total - in.got
	have := min(in.got, len(in.dst))
	if left := in.dst[have:]; len(left) != 0 {
		vec = append(vec, unix.Iovec{Base: &left[0], Len: uint64(len(left))})
	}
	if n := in.total - max(in.got, len(in.dst)); n != 0 {
		vec = append(vec, unix.Iovec{Base: &in.tail[in.total-len(in.dst)-n], Len: uint64(n)})
	}
	vec = append(vec, unix.Iovec{Base: &slab[0], Len: uint64(len(slab))})
	n, err := recvVec(c.fd, vec)
	if !c.received(n, err) {
		return false, false
	}
	spent := c.l.ev.Spend(1) // also where the PDU is not complete, so that the loop looks again before it asks epoll
	in.got += min(n, missing)
	if c.dd != 0 {
		// As it comes: it is in the cache, and scratch is anybody's between two reads.
		in.crc = pdu.UpdateDigest(in.crc, in.dst[have:min(in.got, len(in.dst))])
	}
	if in.got < in.total {
		return false, false
	}
	c.finish()
	if c.dead || n == missing {
		return false, false
	}
	more = c.handleAll(slab[:n-missing]) || n-missing == len(slab) && !c.dead
	return more, c.in.total != 0 && !spent && !c.dead
}

// finish hands over the PDU that is complete now.
func (c *conn) finish() {
	l := c.l
	damaged := c.dd != 0 && c.in.damaged()
	in := c.in
	c.in = incoming{}
	l.gift, l.overBudget = in.buf, in.lost
	if in.task != nil && !in.task.aborted {
		in.task.placing--
		in.task = nil
	}
	l.header = in.header // what is handed on by reference would not lie on the stack
	c.handle(&l.header, in.ahs, in.dst, damaged)
	if l.gift != nil {
		l.pool.Put(l.gift)
	}
	l.gift, l.overBudget = nil, false
	if in.task != nil {
		l.unplace(in.task) // aborted meanwhile: its buffer was kept for what was still coming
	}
}

// drop gives the connection up for something that its initiator did, or did not do: that is counted and logged.
func (c *conn) drop(r dropReason, why string) {
	if c.dead {
		return
	}
	c.l.s.count.drops[r].Add(1)
	c.l.s.notes.info(noteDropped, "connection dropped", "conn", c.name, "why", why)
	c.lost(droppedFor(r), why)
}

// lost ends the connection, and with it at error recovery level 0 the session.
func (c *conn) lost(end ending, why string) {
	if c.dead {
		return
	}
	c.dead = true
	l := c.l
	l.s.log.Debug("connection closed", "conn", c.name, "why", why)
	l.ev.Remove(c.id)
	l.ev.StopTimer(&c.stall)
	unix.Close(c.fd)
	c.fd = -1
	for i := c.out.head; i < len(c.out.q); i++ {
		l.drop(&c.out.q[i])
	}
	if c.out.q != nil {
		l.putQueue(c.out.q)
		c.out.q = nil
		l.chargeQueue(&c.out)
	}
	c.out = outQueue{}
	c.setWhole(false)
	c.setRest(nil)
	if c.in.buf != nil {
		l.pool.Put(c.in.buf)
	}
	if t := c.in.task; t != nil {
		l.unplace(t)
	}
	c.in = incoming{}
	l.s.budget.Give(len(c.waiting) * waitingBytes)
	c.waiting = nil
	acts, last := c.se.s.ConnLost(c.c, l.takeActs())
	l.perform(acts)
	if last && !c.se.keep {
		l.endSession(c.se, end, why)
	}
}

// recv reads from a non-blocking socket. Raw: it cannot sleep.
func recv(fd int, b []byte) (int, error) {
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
		switch e {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, e
		}
	}
}

func recvVec(fd int, vec []unix.Iovec) (int, error) {
	for {
		n, _, e := unix.RawSyscall(unix.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(vec))), uintptr(len(vec)))
		switch e {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, e
		}
	}
}

func (c *conn) String() string { return fmt.Sprintf("connection %d of %s", c.c.CID, c.name) }
