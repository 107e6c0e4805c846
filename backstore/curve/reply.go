package curve

import (
	"errors"
	"fmt"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/curve/brpc"
)

// The most that is kept of an answer besides its data.
const (
	maxMeta    = 4096 // with the text of an error
	maxMessage = 4096
)

// The parts of an answer.
const (
	partHeader = iota
	partMeta
	partMessage
	partData // of which as much as is known to have a place goes there, and the rest nowhere
)

// A parser is a connection's place in the stream of answers.
type parser struct {
	part int
	buf  [brpc.HeaderSize + maxMeta + maxMessage]byte // the answer so far, without its data
	have int
	need int // bytes of buf with which the part is complete
	meta int // bytes of the meta
	rest int // bytes of message and data

	slot uint16 // whose answer
	code int32  // of brpc
	err  error  // why the request failed, once that is known
	data int    // bytes of data to come, without those that dst takes
	dst  []byte // where the data's rest belongs, in the read's buffer
}

// feed takes the next bytes of the stream. An error means that the server broke the protocol.
func (c *conn) feed(p []byte) error {
	for {
		switch {
		case c.part == partData:
			n := copy(c.dst, p)
			if len(c.dst) == 0 {
				n = min(c.data, len(p))
			}
			if n == 0 {
				return nil
			}
			p = p[n:]
			if err := c.placed(n); err != nil {
				return err
			}
		case c.have < c.need:
			if len(p) == 0 {
				return nil
			}
			n := copy(c.buf[c.have:c.need], p)
			p = p[n:]
			c.have += n
		default:
			if err := c.complete(); err != nil {
				return err
			}
		}
	}
}

// placed notes that n bytes of data have come.
func (c *conn) placed(n int) error {
	if len(c.dst) > 0 {
		c.dst = c.dst[n:]
	} else {
		c.data -= n
	}
	if len(c.dst) == 0 && c.data == 0 {
		c.finish()
	}
	return nil
}

// complete deals with a part of an answer that is there.
func (c *conn) complete() (err error) {
	switch c.part {
	case partHeader:
		if c.rest, c.meta, err = brpc.ParseHeader(c.buf[:brpc.HeaderSize]); err != nil {
			return err
		}
		if c.meta > maxMeta {
			return fmt.Errorf("a meta of %d bytes", c.meta)
		}
		c.rest -= c.meta
		c.part, c.need = partMeta, c.need+c.meta
	case partMeta:
		return c.metaEnd()
	case partMessage:
		return c.messageEnd()
	}
	return nil
}

// metaEnd finds out whose answer it is.
func (c *conn) metaEnd() error {
	var m brpc.Meta
	if err := brpc.ParseMeta(c.buf[brpc.HeaderSize:c.need], &m); err != nil {
		return err
	}
	if m.IsRequest {
		return errors.New("it sent a request")
	}
	sl, err := c.find(uint64(m.CorrelationID))
	if err != nil {
		return err
	}
	c.slot, c.code, c.err = uint16(sl.req.Slot), m.Code, nil
	if m.Code != 0 {
		c.err = &brpc.Error{Code: m.Code, Text: string(m.Text)}
		c.data = c.rest // there should be none
		c.dataBegins()
		return nil
	}
	message := int64(c.rest) - m.Attachment
	switch {
	case m.Attachment < 0 || message < 0:
		return fmt.Errorf("%d bytes of data in a frame with %d", m.Attachment, c.rest)
	case message > maxMessage:
		return fmt.Errorf("a message of %d bytes", message)
	case m.Compress != 0:
		return fmt.Errorf("an answer that is compressed (%d)", m.Compress)
	}
	c.data = int(m.Attachment)
	c.part, c.need = partMessage, c.need+int(message)
	return nil
}

// find looks a correlation id up.
func (c *conn) find(cookie uint64) (*slot, error) {
	i := cookie & 0xffff
	if i >= uint64(len(c.s.slots)) {
		return nil, fmt.Errorf("an answer to call %#x, which nobody made", cookie)
	}
	sl := &c.s.slots[i]
	// Zero is what a free slot has. A request that is not wholly sent cannot be answered yet.
	if cookie == 0 || sl.cookie != cookie || sl.c != c || !sl.sent {
		return nil, fmt.Errorf("an answer to call %#x, which does not wait for one here", cookie)
	}
	return sl, nil
}

// messageEnd finds out how the request ended, and where its data belongs.
func (c *conn) messageEnd() error {
	code, err := parseCode(c.buf[brpc.HeaderSize+c.meta : c.need])
	if err != nil {
		return err
	}
	r := c.s.slots[c.slot].req
	switch {
	case code != 0:
		c.err = errFailed
	case r.Op != backstore.Read:
	case int64(c.data) != r.Len:
		c.err = fmt.Errorf("nebd-server answered with %d bytes of %d", c.data, r.Len)
	default:
		c.dst, c.data = r.Buf, 0
	}
	c.dataBegins()
	return nil
}

func (c *conn) dataBegins() {
	c.part = partData
	if len(c.dst) == 0 && c.data == 0 {
		c.finish()
	}
}

// finish ends the request that was answered, or has it sent again.
func (c *conn) finish() {
	c.part, c.have, c.need, c.dst = partHeader, 0, brpc.HeaderSize, nil
	s, i, err := c.s, c.slot, c.err
	c.err = nil
	r := s.slots[i].req
	if r.Op == backstore.Read {
		c.reads--
		c.readBytes -= r.Len
	}
	switch {
	case err == nil:
		s.end(i, nil)
	case c.code != 0 && retried(c.code):
		s.later(i, err)
	case c.code != 0:
		s.end(i, &backstore.Error{Class: backstore.ClassInternal, Op: r.Op.String(), Off: r.Off, Cause: err})
	default:
		// The cluster has failed the request for good: nothing of it is tried any more.
		s.end(i, &backstore.Error{Class: backstore.ClassMedium, Op: r.Op.String(), Off: r.Off, Cause: err})
	}
}

// later lets a request that the server has not taken wait, with all that come after it: it is about to end (ELOGOFF), or too busy.
func (s *Store) later(i uint16, why error) {
	if !s.held {
		s.held = true
		if !s.c.told { // once: it may say so for long, with requests that it does not answer
			s.c.told = true
			s.remark("%v; requests wait", why)
		}
		s.again = time.AfterFunc(retryPause, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if !s.released {
				s.held = false
				s.wakeUp()
			}
		})
	}
	s.assign(i)
}
