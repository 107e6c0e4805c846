package brpc

import (
	"errors"
	"fmt"
	"net"
	"sync"
)

// A Call is a request that a Server has got. It is answered once, with Reply or Fail, from any goroutine, at any time, or never.
type Call struct {
	Service, Method     string
	LogID               int64
	Message, Attachment []byte // the call's own

	id   int64
	conn *serverConn
}

// Reply answers with a message and an attachment, both the caller's again on return. That the connection is gone is no error.
func (c *Call) Reply(message, attachment []byte) {
	c.conn.send(AppendResponse(nil, 0, "", c.id, message, len(attachment)), attachment)
}

// Fail answers with an error of brpc.
func (c *Call) Fail(code int32, text string) {
	c.conn.send(AppendResponse(nil, code, text, c.id, nil, 0), nil)
}

// A Server answers calls, for tests. Handle is called for one call of a connection after the other, in their order, and should not block for longer than that is
// meant. It is set before Serve.
type Server struct {
	Handle func(*Call)

	mu     sync.Mutex
	conns  map[*serverConn]bool // guarded by mu
	closed bool
	wg     sync.WaitGroup // of connections
}

// Serve accepts connections until l is closed, and returns why it ended.
func (s *Server) Serve(l net.Listener) error {
	for {
		nc, err := l.Accept()
		if err != nil {
			return err
		}
		c := &serverConn{Conn: nc}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			_ = nc.Close() // nobody was told of it
			continue
		}
		if s.conns == nil {
			s.conns = make(map[*serverConn]bool)
		}
		s.conns[c] = true
		s.wg.Add(1)
		s.mu.Unlock()
		go func() {
			defer s.wg.Done()
			for s.one(c) == nil {
			}
			_ = c.Close() // the peer sees an end of file, whatever it answers
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		}()
	}
}

// CloseConns ends every connection, and those that are accepted from now on; calls may go on and answer nobody. It waits until Handle is called no more.
func (s *Server) CloseConns() {
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// one reads a request and has it handled.
func (s *Server) one(c *serverConn) error {
	f, err := readFrame(c)
	if err != nil {
		return err
	}
	if !f.IsRequest {
		return errors.New("the client sent a response")
	}
	call := &Call{Service: string(f.Service), Method: string(f.Method), LogID: f.LogID, id: f.CorrelationID, conn: c}
	if f.Attachment < 0 || f.Attachment > int64(len(f.rest)) {
		call.Fail(ERequest, fmt.Sprintf("attachment_size=%d is larger than the payload of %d", f.Attachment, len(f.rest)))
		return nil
	}
	n := len(f.rest) - int(f.Attachment)
	call.Message, call.Attachment = f.rest[:n:n], f.rest[n:]
	s.Handle(call)
	return nil
}

// A serverConn is a connection with the right to write on it.
type serverConn struct {
	net.Conn
	sending sync.Mutex
}

func (c *serverConn) send(head, attachment []byte) {
	c.sending.Lock()
	defer c.sending.Unlock()
	frame := net.Buffers{head, attachment}
	_, _ = frame.WriteTo(c.Conn) // a client that is gone wants no answer
}
