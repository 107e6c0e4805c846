package longhorn

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A parser is a connection's place in the stream of answers. Between calls it keeps at most a header and the text of one error.
type parser struct {
	hdr  [headerSize]byte // the header so far
	have int
	slot uint16 // whose answer it is
	dst  []byte // where the payload's rest belongs, in the read's buffer
	skip int    // bytes of text to come; of them, what is kept goes to the slot
}

// feed takes the next bytes of the stream. An error means that the engine broke the protocol.
func (c *conn) feed(p []byte) error {
	for len(p) > 0 {
		switch {
		case len(c.dst) > 0:
			n := copy(c.dst, p)
			p = p[n:]
			c.placed(n)
		case c.skip > 0:
			n := min(c.skip, len(p))
			if c.slot != pingSlot {
				sl := &c.s.slots[c.slot]
				sl.text = append(sl.text, p[:min(n, maxText-len(sl.text))]...)
			}
			p = p[n:]
			if c.skip -= n; c.skip == 0 && c.slot != pingSlot {
				c.answered()
			}
		default:
			n := copy(c.hdr[c.have:], p)
			p = p[n:]
			if c.have += n; c.have == headerSize {
				c.have = 0
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
		c.answered()
	}
}

// header deals with a complete header.
func (c *conn) header() error {
	var h header
	if err := h.get(&c.hdr); err != nil {
		return err
	}
	switch h.typ {
	case typeClose:
		// Requests that it has may still be carried out, so the end of the connection does not prove anything while there are some.
		c.retire, c.unproven = true, true
		return nil
	case typePing:
		if h.length != 0 {
			return fmt.Errorf("a ping with %d bytes", h.length)
		}
		c.say(header{magic: magic, seq: h.seq, typ: typeResponse})
		return nil
	case typeRead, typeWrite, typeUnmap:
		return fmt.Errorf("a request of type %d, which only we send", h.typ)
	}
	if h.seq == pingSlot {
		if h.length > maxMessage {
			return fmt.Errorf("an answer to a ping with %d bytes", h.length)
		}
		c.slot, c.skip = pingSlot, int(h.length)
		if c.s.silent {
			c.s.remark("the engine itself answers; it waits for its replicas")
		}
		return nil
	}
	sl, err := c.find(h.seq)
	if err != nil {
		return err
	}
	sl.answer = h.typ
	r := sl.req
	switch {
	case h.typ == typeResponse && sl.typ == typeRead:
		if int64(h.length) != r.Len {
			return fmt.Errorf("%d bytes in answer to a read of %d", h.length, r.Len)
		}
		c.dst = r.Buf
	case h.typ == typeResponse:
		if h.length != 0 {
			return fmt.Errorf("%d bytes in answer to a message of type %d", h.length, sl.typ)
		}
		if sl.typ == typeWrite && int64(h.size) != r.Len {
			// Told of no error, and yet not done.
			sl.answer = typeError
			sl.text = strconv.AppendUint(append(sl.text[:0], "the engine wrote only so many bytes: "...), uint64(h.size), 10)
		}
		c.answered()
	case h.typ == typeEOF && sl.typ == typeRead && int64(h.length) <= r.Len:
		if h.length == 0 {
			c.answered()
		} else {
			c.dst = r.Buf[:h.length]
		}
	case h.length > maxMessage:
		return fmt.Errorf("an answer of type %d with %d bytes", h.typ, h.length)
	case h.length == 0:
		c.answered()
	default:
		c.skip = int(h.length)
	}
	if len(c.dst) > 0 || c.skip > 0 {
		c.slot = uint16(h.seq & slotMask)
	}
	return nil
}

// find looks a sequence number up.
func (c *conn) find(seq uint32) (*slot, error) {
	i := seq & slotMask
	if i >= uint32(len(c.s.slots)) {
		return nil, fmt.Errorf("an answer to number %#x, which nobody sent", seq)
	}
	sl := &c.s.slots[i]
	// Zero is the number of a free slot. One that is not wholly sent cannot be answered yet.
	if seq == 0 || sl.seq != seq || sl.c != c || !sl.sent {
		return nil, fmt.Errorf("an answer to number %#x, which is not waiting for one", seq)
	}
	c.slot = uint16(i)
	return sl, nil
}

// What the engine's texts say; it has no numbers for errors (longhorn-engine 1.12, pkg/controller and pkg/dataconn).
const (
	textBeyond    = "is beyond volume size " // and then the size: nothing was done
	textNoReplica = "no backend available"   // nothing was done
	textTimeout   = "r/w timeout"            // a replica did not answer in time, and may still do what it was asked
	textGrowing   = "while expansion in is progress"
)

// Of these the last replica's connection has ended: its process is gone, or it closed what it had.
var textsGone = [...]string{"connection reset by peer", "broken pipe", "unexpected EOF", "connection refused", "use of closed network connection"}

// replicaGone tells whether an error says that the last replica was lost while it had the request.
func replicaGone(text string) bool {
	for _, t := range textsGone {
		if strings.Contains(text, t) {
			return true
		}
	}
	return text == "EOF" || strings.HasSuffix(text, ": EOF") || strings.Contains(text, ": EOF;")
}

// beyondSize finds the volume's size in the error for what lies beyond it.
func beyondSize(text string) (int64, bool) {
	_, size, ok := strings.Cut(text, textBeyond)
	if !ok {
		return 0, false
	}
	if end := strings.IndexFunc(size, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		size = size[:end]
	}
	n, err := strconv.ParseInt(size, 10, 64)
	return n, err == nil
}

var errShort = errors.New("the engine's volume ends there")

// answered deals with a complete answer to the current slot's request.
func (c *conn) answered() {
	s, i := c.s, c.slot
	sl := &s.slots[i]
	c.inflight--
	if sl.typ == typeRead {
		c.reads--
		c.readBytes -= sl.req.Len
	}
	if sl.answer == typeResponse {
		s.works()
		s.end(i, nil)
		return
	}
	text := string(sl.text)
	fail := func(class backstore.Class, cause error) {
		s.works()
		s.end(i, &backstore.Error{Class: class, Op: sl.req.Op.String(), Off: sl.req.Off, Cause: cause})
	}
	size, beyond := beyondSize(text)
	switch {
	case sl.answer == typeEOF:
		fail(backstore.ClassMedium, errShort)
	case sl.answer == typeNoSpace:
		fail(backstore.ClassNoSpace, &EngineError{Text: text})
	case sl.answer == typeClose || text == "":
		fail(backstore.ClassMedium, &EngineError{Text: fmt.Sprintf("an answer of type %d without a word", sl.answer)})
	case beyond && (sl.beyond.IsZero() || time.Since(sl.beyond) < s.cfg.grow):
		s.works()
		s.postpone(i, size)
	case beyond:
		fail(backstore.ClassRange, &EngineError{Text: text})
	case strings.Contains(text, textNoReplica):
		s.stall(i, text)
	case sl.typ == typeUnmap && strings.Contains(text, textGrowing):
		s.end(i, nil) // a discard may be left undone
	case sl.resends >= maxResends && !sl.doubt && !strings.Contains(text, textTimeout):
		fail(backstore.ClassMedium, &EngineError{Text: text})
	case strings.Contains(text, textTimeout):
		sl.resends = min(sl.resends+1, maxResends)
		sl.doubt = sl.doubt || changes(sl.typ)
		s.stall(i, text)
	case replicaGone(text):
		sl.resends++
		s.stall(i, text)
	default:
		fail(backstore.ClassMedium, &EngineError{Text: text})
	}
}

// An EngineError is what an engine says of a request that failed, the cause of a *backstore.Error.
type EngineError struct{ Text string }

func (e *EngineError) Error() string { return "the engine says: " + strings.ToValidUTF8(e.Text, "?") }

// listen arms the clock that runs while requests are in flight.
func (s *Store) listen() {
	s.timing, s.heard = true, time.Now()
	if s.quiet == nil {
		s.quiet = time.AfterFunc(s.cfg.silent, s.unheard)
	} else {
		s.quiet.Reset(s.cfg.silent)
	}
}

// unheard is called when the clock runs out: with requests in flight and nothing heard, the log is told and the engine asked whether it lives.
func (s *Store) unheard() {
	s.mu.Lock()
	defer s.unlock()
	if s.released || s.inFlight() == 0 {
		s.timing = false
		return
	}
	now := time.Now()
	if c := s.c; c != nil && c.inflight > 0 && now.Sub(s.heard) >= s.cfg.silent {
		if !s.silent {
			s.silent = true
			s.remark("no answer for %v to %d requests", now.Sub(s.heard).Round(time.Second), c.inflight)
		}
		c.say(header{magic: magic, seq: pingSlot, typ: typePing})
		s.sendAll()
	} else if s.silent && now.Sub(s.heard) < s.cfg.silent {
		s.silent = false
		s.remark("the engine answers again")
	}
	s.quiet.Reset(s.cfg.silent)
}
