package target

import (
	"unsafe"

	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/pdu"
	"github.com/lunar-iscsi/lunar/target/evloop"
	"golang.org/x/sys/unix"
)

// arenaSize is how much output is built in one piece: a full window of 4 KiB reads and their headers, twice. A loop keeps
// spareArenas of them beside the present one: as many as flushBytes of output take.
const (
	arenaSize   = 1 << 20
	spareArenas = 3
)

// An arena is memory in which headers, and data that a store read straight to its place, follow each other as they go
// out. It is reused from the start as soon as nothing in it waits to be sent.
type arena struct {
	b       []byte
	pos     int
	refs    int  // queued PDUs that lie in it
	charged bool // to the budget
}

// room returns the current arena with n free bytes.
func (l *loop) room(n int) *arena {
	a := l.arena
	if a != nil {
		if a.refs == 0 {
			a.pos = 0
		}
		if len(a.b)-a.pos >= n {
			return a
		}
	}
	if n := len(l.spares) - 1; n >= 0 {
		a = l.spares[n]
		l.spares = l.spares[:n]
		a.pos = 0
	} else {
		a = l.newArena()
	}
	l.arena = a
	return a
}

// release says that a queued PDU no longer needs a.
func (l *loop) release(a *arena) {
	a.refs--
	if a.refs == 0 && a != l.arena {
		l.retire(a)
	}
}

// An outPDU is one PDU that waits to be sent: a header in an arena, and its data either right behind it or in a
// buffer of its own.
type outPDU struct {
	a    *arena
	head []byte      // from the header on, what lies contiguously in the arena
	data []byte      // elsewhere, to go out ahead of the last bytes of head if those are its digest; the pad comes from zeroes
	buf  *evloop.Buf // of data; released when the PDU has been sent
	own  *evloop.Buf // of heads that keepSmall moved; likewise
	copy bool        // counted in outQueue.copied
}

func (p *outPDU) size() int { return len(p.head) + pdu.Pad(len(p.data)) }

// zeroes is what pads are made of.
var zeroes [4]byte

// An outQueue is a connection's stream of PDUs.
type outQueue struct {
	q       []outPDU // the loop's while nothing is queued: an idle connection keeps none
	head    int      // of q
	sent    int      // bytes of q[head] that are sent
	stamped int      // of q, from head on
	bytes   int      // unsent
	charged int      // of the budget, for the memory of a long q
	copied  struct { // of these, what is not Data-In that lies where the store put it: a flood of requests that cost nothing
		pdus, bytes int
	}
}

func (o *outQueue) len() int { return len(o.q) - o.head }

// keepQueues is how many queues' memory a loop keeps for reuse, and keepQueue how many PDUs the longest of them has.
const (
	keepQueues = 64
	keepQueue  = 1024
)

// getQueue returns memory for a queue.
func (l *loop) getQueue() []outPDU {
	n := len(l.queues) - 1
	if n < 0 {
		return nil
	}
	q := l.queues[n]
	l.queues = l.queues[:n]
	return q
}

// putQueue takes back the memory of a queue whose PDUs are dropped.
func (l *loop) putQueue(q []outPDU) {
	if cap(q) <= keepQueue && len(l.queues) < keepQueues {
		l.queues = append(l.queues, q[:0])
	}
}

// push appends p; an urgent PDU goes ahead of what has no sequence number yet.
func (o *outQueue) push(p outPDU, urgent bool) {
	n := p.size()
	o.bytes += n
	if p.copy {
		o.copied.pdus++
		o.copied.bytes += n
	}
	o.q = append(o.q, p)
	if urgent {
		at := o.head + o.stamped
		copy(o.q[at+1:], o.q[at:len(o.q)-1])
		o.q[at] = p
	}
}

// queue puts one PDU that the session asked for into the stream. For a Data-In of r whose data the store read to its place,
// only the header remains to be filled in.
func (c *conn) queue(act *session.Action, r *record) {
	if c.dead {
		return
	}
	l := c.l
	p := outPDU{}
	n := len(act.Data)
	at := pdu.HeaderLen + int(c.hd)
	dd := int(c.dd)
	if n == 0 {
		dd = 0
	}
	switch {
	case r != nil && r.place != nil && n == len(r.cmd.Data) && n != 0 && unsafe.SliceData(act.Data) == unsafe.SliceData(r.place[at:]):
		p.a = r.placeIn
		p.head = r.place[:at+pdu.Pad(n)+dd]
		p.fill(act, at, dd)
		r.place = nil
	case r != nil && r.buf != nil && act.Kind == session.SendData:
		p.a = l.room(at + dd)
		p.head = p.a.b[p.a.pos : p.a.pos+at+dd]
		p.a.pos += at + dd
		copy(p.head, act.Header[:])
		p.data = act.Data
		if dd != 0 {
			pdu.PutDigest(p.head[at:], pdu.DataDigest(p.data))
		}
		if (*pdu.DataIn)(&act.Header).HasStatus() {
			p.buf, r.buf = r.buf, nil // the last Data-In takes the buffer with it
			if r.ln.unit != nil {
				p.buf.Discharge(&r.ln.unit.share)
			}
		}
	default:
		// The data is the session's, or lies in a command that is about to be used again.
		end := at + pdu.Pad(n) + dd
		if end > arenaSize {
			c.drop(dropFault, "a response that is too long")
			return
		}
		p.a = l.room(end)
		p.head = p.a.b[p.a.pos : p.a.pos+end]
		p.a.pos += end
		copy(p.head[at:], act.Data)
		p.fill(act, at, dd)
		pdu.HeaderAt(p.head).SetDataLen(n)
		p.copy = true
	}
	c.countTx(&act.Header, n)
	p.a.refs++
	if c.out.q == nil {
		c.out.q = l.getQueue()
	}
	c.out.push(p, act.Kind == session.SendUrgent)
	if cap(c.out.q) > keepQueue && !l.chargeQueue(&c.out) {
		c.drop(dropUnread, "it does not read: no memory for the responses that wait for it")
		return
	}
	if o := &c.out.copied; o.pdus > l.s.cfg.MaxQueuedPDUs || o.bytes > l.s.cfg.MaxBacklog+arenaSize || c.blocked && o.bytes > shortUnread && l.short() {
		c.drop(dropUnread, "it does not read: too many responses wait for it")
		return
	}
	c.mark()
}

// fill completes a head whose data is in place, at bytes from its start: header, pad, and digest of dd bytes. The header's own digest
// has to wait for its StatSN.
func (p *outPDU) fill(act *session.Action, at, dd int) {
	copy(p.head, act.Header[:])
	end := len(p.head) - dd
	clear(p.head[at+len(act.Data) : end])
	if dd != 0 {
		pdu.PutDigest(p.head[end:], pdu.Digest(p.head[at:end]))
	}
}

// mark puts c on the list of those that have something to send.
func (c *conn) mark() {
	if !c.isDirty {
		c.isDirty = true
		c.l.dirty = append(c.l.dirty, c)
	}
}

// maxVec is how many pieces one system call sends.
const maxVec = 64

// flush sends what waits, as far as the socket takes it.
func (c *conn) flush() {
	for !c.dead && c.out.len() > 0 {
		n, want, err := c.sendBatch()
		if err == unix.EAGAIN {
			c.keepSmall()
			c.wantWrite(true)
			return
		}
		if err != nil {
			c.lost(endBroken, "sending: "+err.Error())
			return
		}
		c.count.TxBytes += uint64(n)
		c.out.advance(c.l, n)
		c.taken = c.l.ev.Now()
		if n < want {
			continue // the next try finds EAGAIN, or room that has come meanwhile
		}
	}
	if c.dead {
		return
	}
	c.wantWrite(false)
	if c.closeWhy != "" {
		c.lost(c.closeEnd, c.closeWhy)
		return
	}
	c.resume()
}

// sendBatch sends up to maxVec pieces with one system call. Sequence numbers are given here, where a PDU takes its final
// place in the stream.
func (c *conn) sendBatch() (n, want int, err error) {
	o := &c.out
	vec := c.l.vec[:0]
	skip := o.sent
	for i := o.head; i < len(o.q) && len(vec) < maxVec-3; i++ {
		p := &o.q[i]
		if i-o.head >= o.stamped {
			c.stamp(p)
			o.stamped++
		}
		if len(p.data) == 0 {
			vec = appendVec(vec, p.head, &skip, &want)
			continue
		}
		at := len(p.head) - int(c.dd)
		vec = appendVec(vec, p.head[:at], &skip, &want)
		vec = appendVec(vec, p.data, &skip, &want)
		if pad := pdu.Pad(len(p.data)) - len(p.data); pad != 0 {
			vec = appendVec(vec, zeroes[:pad], &skip, &want)
		}
		if c.dd != 0 {
			vec = appendVec(vec, p.head[at:], &skip, &want)
		}
	}
	n, err = sendVec(c.fd, vec)
	return n, want, err
}

// stamp makes p's header final.
func (c *conn) stamp(p *outPDU) {
	h := pdu.HeaderAt(p.head)
	c.c.Stamp(h)
	at := pdu.HeaderLen
	if c.hd != 0 {
		pdu.PutDigest(p.head[at:], pdu.Digest(h[:]))
		at += int(c.hd)
	}
	if t := c.l.s.cfg.Trace.PDU; t != nil {
		data := p.data
		if data == nil {
			data = p.head[at:][:h.DataLen()]
		}
		t(c.name, "tx", pdu.Describe(h, nil, data))
	}
}

// appendVec adds b, less the skip bytes that are sent already, to vec; what lies right behind the last piece
// lengthens that.
func appendVec(vec []unix.Iovec, b []byte, skip, want *int) []unix.Iovec {
	if *skip >= len(b) {
		*skip -= len(b)
		return vec
	}
	b = b[*skip:]
	*skip = 0
	*want += len(b)
	if n := len(vec); n > 0 {
		last := &vec[n-1]
		// As numbers: a pointer past the end of its memory is none, and the runtime may stop the process for it.
		if uintptr(unsafe.Pointer(last.Base))+uintptr(last.Len) == uintptr(unsafe.Pointer(unsafe.SliceData(b))) {
			last.Len += uint64(len(b))
			return vec
		}
	}
	return append(vec, unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))})
}

// sendVec sends vec on a non-blocking socket. Raw: it cannot sleep.
func sendVec(fd int, vec []unix.Iovec) (int, error) {
	for {
		var n uintptr
		var e unix.Errno
		if len(vec) == 1 {
			n, _, e = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(vec[0].Base)), uintptr(vec[0].Len), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
		} else {
			msg := unix.Msghdr{Iov: unsafe.SliceData(vec), Iovlen: uint64(len(vec))}
			n, _, e = unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		}
		switch e {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, e
		}
	}
}

// advance forgets n sent bytes.
func (o *outQueue) advance(l *loop, n int) {
	o.bytes -= n
	o.sent += n
	for o.head < len(o.q) {
		p := &o.q[o.head]
		size := p.size()
		if o.sent < size {
			break
		}
		o.sent -= size
		if p.copy {
			o.copied.pdus--
			o.copied.bytes -= size
		}
		l.drop(p)
		o.head++
		o.stamped--
	}
	if o.head == len(o.q) {
		l.putQueue(o.q)
		o.q, o.head = nil, 0
		l.chargeQueue(o)
	}
}

// drop releases what a queued PDU holds.
func (l *loop) drop(p *outPDU) {
	if p.a != nil {
		l.release(p.a)
	}
	if p.buf != nil {
		l.pool.Put(p.buf)
	}
	if p.own != nil {
		l.pool.Put(p.own)
	}
	*p = outPDU{}
}

// keepSmall moves what a slow connection keeps of the loop's present arena to a buffer of its own, if it is little, so that the arena
// is not pinned by it.
func (c *conn) keepSmall() {
	o := &c.out
	only := c.l.arena
	n := 0
	for i := o.head; i < len(o.q); i++ {
		if p := &o.q[i]; p.a == only {
			n += len(p.head)
		}
	}
	if only == nil || n == 0 || n > arenaSize/4 {
		return
	}
	b := c.l.pool.Get(n)
	if b == nil {
		return
	}
	at := 0
	var last *outPDU
	for i := o.head; i < len(o.q); i++ {
		p := &o.q[i]
		if p.a != only {
			continue
		}
		at += copy(b.B[at:], p.head)
		p.head = b.B[at-len(p.head) : at]
		c.l.release(p.a)
		p.a = nil
		last = p
	}
	last.own = b
}

// wantWrite asks the loop to tell when the socket takes more, or no longer.
func (c *conn) wantWrite(on bool) {
	if c.blocked == on {
		return
	}
	c.blocked = on
	ev := evloop.Readable
	if on {
		c.taken = c.l.ev.Now()
		if !c.stall.Set() {
			c.l.ev.SetTimer(&c.stall, c.taken+int64(c.l.s.cfg.SendTimeout))
		}
		ev |= evloop.Writable
	}
	if err := c.l.ev.Modify(c.id, ev); err != nil {
		c.lost(endBroken, err.Error())
	}
}
