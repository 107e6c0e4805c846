package brpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// A Client is one connection. Calls run beside each other; one that its caller has given up on does not hold up others. It does not reconnect:
// once the connection is lost every call says so, and another Client is dialled. All methods may be called from any goroutine.
type Client struct {
	conn net.Conn
	gone chan struct{} // closed with the connection

	sending sync.Mutex // held while a frame is written
	buf     []byte     // guarded by sending

	mu      sync.Mutex // guards what follows
	last    int64      // correlation id
	waiting map[int64]chan answer
	err     error // why the connection ended
}

type answer struct {
	message, attachment []byte
	err                 error
}

// ErrLost is what a call ends with whose connection is lost before its answer has come: whether it was carried out is not known.
var ErrLost = errors.New("the connection is lost")

// maxWaiting bounds the calls of one client that wait for an answer.
const maxWaiting = 1024

// Dial connects to a server. network is "tcp" or "unix".
func Dial(ctx context.Context, network, address string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return NewClient(conn), nil
}

// NewClient makes a client of a connection, which is its own from now on.
func NewClient(conn net.Conn) *Client {
	c := &Client{conn: conn, gone: make(chan struct{}), waiting: make(map[int64]chan answer)}
	go c.receive()
	return c
}

// Close ends the connection, and every call that waits with ErrLost.
func (c *Client) Close() {
	c.lose(net.ErrClosed)
	<-c.gone
}

// Gone is closed when the connection has ended and nothing of the client runs any more.
func (c *Client) Gone() <-chan struct{} { return c.gone }

// Call asks for a method and waits for its answer, within ctx. Message and attachment are the caller's again on return; what is returned is the caller's. An
// error is an *Error, wraps ErrLost, or is that of ctx: then the answer is dropped when it comes.
func (c *Client) Call(ctx context.Context, service, method string, message, attachment []byte) (answerMessage, answerAttachment []byte, err error) {
	ch := make(chan answer, 1)
	c.mu.Lock()
	if c.err != nil {
		err = c.err
	} else if len(c.waiting) >= maxWaiting {
		err = fmt.Errorf("%d calls wait for an answer", maxWaiting)
	}
	if err != nil {
		c.mu.Unlock()
		return nil, nil, fmt.Errorf("%s: %w", method, err)
	}
	c.last++
	id := c.last
	c.waiting[id] = ch
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()
	if err := c.send(ctx, service, method, id, message, attachment); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", method, err)
	}
	select {
	case a := <-ch:
		if a.err != nil {
			return nil, nil, fmt.Errorf("%s: %w", method, a.err)
		}
		return a.message, a.attachment, nil
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("%s: no answer: %w", method, ctx.Err())
	}
}

// send writes a frame. A connection that has taken part of one when ctx ends is of no use any more.
func (c *Client) send(ctx context.Context, service, method string, id int64, message, attachment []byte) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetWriteDeadline(time.Unix(1, 0)) })
	c.buf = AppendRequest(c.buf[:0], service, method, id, id, message, len(attachment))
	frame := net.Buffers{c.buf, attachment}
	_, err := frame.WriteTo(c.conn)
	if !stop() && err == nil {
		err = ctx.Err() // the deadline may be set any moment now: nobody else may write here
	}
	if cap(c.buf) > maxKept {
		c.buf = nil
	}
	if err != nil {
		c.lose(err)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	return nil
}

// maxKept bounds the buffer that a client keeps for its next frame.
const maxKept = 64 << 10

// lose ends the connection, for the first reason that it is given.
func (c *Client) lose(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = fmt.Errorf("%w: %w", ErrLost, err)
	}
	c.mu.Unlock()
	_ = c.conn.Close() // a second close fails, and does nothing
}

// receive hands answers to who waits for them until the connection ends.
func (c *Client) receive() {
	defer close(c.gone)
	var err error
	for err == nil {
		err = c.one()
	}
	c.lose(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, ch := range c.waiting {
		ch <- answer{err: c.err}
		delete(c.waiting, id)
	}
}

// one reads one answer.
func (c *Client) one() error {
	f, err := readFrame(c.conn)
	if err != nil {
		return err
	}
	m := &f.Meta
	if m.IsRequest {
		return errors.New("the server sent a request")
	}
	if m.Attachment < 0 || m.Attachment > int64(len(f.rest)) {
		return fmt.Errorf("an attachment of %d bytes in a frame that has %d", m.Attachment, len(f.rest))
	}
	a := answer{message: f.rest[:len(f.rest)-int(m.Attachment)], attachment: f.rest[len(f.rest)-int(m.Attachment):]}
	switch {
	case m.Code != 0:
		a = answer{err: &Error{m.Code, string(m.Text)}}
	case m.Compress != 0:
		a = answer{err: fmt.Errorf("the answer is compressed (type %d), which was not asked for", m.Compress)}
	}
	c.mu.Lock()
	ch := c.waiting[m.CorrelationID]
	delete(c.waiting, m.CorrelationID)
	c.mu.Unlock()
	if ch != nil { // else its caller has given up
		ch <- a
	}
	return nil
}

// A frame is one that was read: its meta, and message and attachment as one piece.
type frame struct {
	Meta
	rest []byte
}

// firstPiece is how much is set aside for a frame whose bytes have not come yet; a peer that announces more sends it first.
const firstPiece = 64 << 10

// readFrame reads a frame. An end of file before its first byte is io.EOF.
func readFrame(r io.Reader) (*frame, error) {
	var h [HeaderSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	size, metaSize, err := ParseHeader(h[:])
	if err != nil {
		return nil, err
	}
	body := make([]byte, 0, min(size, firstPiece))
	for len(body) < size {
		n := min(size-len(body), max(len(body), firstPiece))
		body = append(body, make([]byte, n)...)
		if _, err := io.ReadFull(r, body[len(body)-n:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	f := &frame{rest: body[metaSize:]}
	if err := ParseMeta(body[:metaSize], &f.Meta); err != nil {
		return nil, err
	}
	return f, nil
}
