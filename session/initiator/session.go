package initiator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// noDeadline takes a connection's deadline away.
var noDeadline time.Time

// A Session is a logged-in normal session with blocking calls, all of which may be used by many goroutines at once. It is made
// for tests and tools; for load there is Queue.
type Session struct {
	nc     net.Conn
	params Params

	mu    sync.Mutex
	e     *engine   // guarded by mu
	wake  sync.Cond // the stream has something to send, or err is set
	err   error     // guarded by mu: the session's end
	spare stream    // the writer's

	wg sync.WaitGroup // reader and writer
}

// Login opens a session.
func Login(ctx context.Context, o Options) (*Session, error) {
	c, p, err := o.connect(ctx)
	if err != nil {
		return nil, err
	}
	// The deadlines of login do not hold for the session.
	if err := errors.Join(c.NC.SetReadDeadline(noDeadline), c.NC.SetWriteDeadline(noDeadline)); err != nil {
		c.Close()
		return nil, err
	}
	s := &Session{nc: c.NC, params: p, e: newEngine(c, &o, p, o.depth())}
	s.wake.L = &s.mu
	// What a task sends is copied, since an answer can come, and the caller can go on, before the writer is done with it.
	s.e.out.limit, s.spare.limit = math.MaxInt, math.MaxInt
	s.wg.Add(2)
	go s.read(make([]byte, o.slab()))
	go s.write()
	return s, nil
}

// Params returns what was negotiated.
func (s *Session) Params() Params { return s.params }

// Err returns why the session ended, nil while it lives.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close drops the connection. What is in flight ends with ErrClosed.
func (s *Session) Close() error {
	s.stop(ErrClosed)
	s.wg.Wait()
	return nil
}

// stop makes err the session's end, unless it has one.
func (s *Session) stop(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = err
	s.e.fail(err)
	s.settle()
	s.nc.Close()
	s.wake.Broadcast()
}

// settle tells those who wait for ended IOs, and the writer.
func (s *Session) settle() {
	for _, io := range s.e.done {
		close(io.ended)
	}
	clear(s.e.done)
	s.e.done = s.e.done[:0]
	if s.e.out.left > 0 {
		s.wake.Signal()
	}
}

func (s *Session) read(slab []byte) {
	defer s.wg.Done()
	n := 0
	for {
		k, err := s.nc.Read(slab[n:])
		if k > 0 {
			n += k
			var used int
			if used, err = s.take(slab[:n]); err == nil {
				n = copy(slab, slab[used:n])
				continue
			}
		}
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("the target closed the connection: %w", io.ErrUnexpectedEOF)
		}
		s.stop(err)
		return
	}
}

func (s *Session) take(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	used, err := s.e.feed(b)
	if err == nil && s.e.leaving {
		if s.e.logout != nil && s.e.logout.reply != nil {
			err = ErrLogoutRequested
		} else {
			err = s.e.depart()
		}
	}
	s.settle()
	return used, err
}

func (s *Session) write() {
	defer s.wg.Done()
	for {
		s.mu.Lock()
		for s.e.out.left == 0 && s.err == nil {
			s.wake.Wait()
		}
		if s.err != nil {
			s.mu.Unlock()
			return
		}
		s.e.out, s.spare = s.spare, s.e.out
		s.e.batch++
		s.mu.Unlock()
		for s.spare.left > 0 {
			b := s.spare.unsent()[0]
			n, err := s.nc.Write(bytesOf(b))
			if err != nil {
				s.stop(err)
				return
			}
			s.spare.take(n)
		}
	}
}

// A Task is a command that was started.
type Task struct {
	s  *Session
	io *IO
}

// Start begins a command and returns at once. dataOut is copied. A command reads or writes, not both: inLen is the Expected
// Data Transfer Length of one that reads, len(dataOut) that of one that writes. cdb is at most 16 bytes.
func (s *Session) Start(lun sam.LUN, cdb, dataOut []byte, inLen int) (*Task, error) {
	io := &IO{LUN: lun, Attr: sam.Simple, InLen: uint32(inLen), ended: make(chan struct{})}
	if len(cdb) > len(io.CDB) || inLen > 0 && len(dataOut) > 0 || inLen < 0 || int64(inLen) > math.MaxUint32 {
		return nil, fmt.Errorf("a command of %d bytes with %d bytes out and %d in is not supported", len(cdb), len(dataOut), inLen)
	}
	copy(io.CDB[:], cdb)
	io.Out = append([]byte(nil), dataOut...)
	io.In = make([]byte, inLen)
	return s.StartIO(io)
}

// StartIO is Start for a request that the caller made, for other attributes and buffers. It and its buffers belong to the session until the task ended.
func (s *Session) StartIO(io *IO) (*Task, error) {
	io.ended = make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	if s.e.leaving {
		return nil, ErrLogoutRequested
	}
	s.e.submit(io)
	s.settle()
	return &Task{s, io}, nil
}

// Tag returns the Initiator Task Tag and CmdSN, and whether the command was sent: it may wait behind the command window.
func (t *Task) Tag() (itt uint32, cmdSN pdu.SN, sent bool) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	return t.io.itt, t.io.cmdSN, t.io.kind != 0
}

// Done is closed when the task has ended.
func (t *Task) Done() <-chan struct{} { return t.io.ended }

// Wait waits until the task has ended. The error is ErrAborted, ctx's, or what ended the session; a status other than
// GOOD is in the Result and no error. When ctx ends the task goes on: abort it, or leave it.
func (t *Task) Wait(ctx context.Context) (Result, error) {
	select {
	case <-t.io.ended:
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
	if t.io.Err != nil {
		return Result{}, t.io.Err
	}
	r := t.io.result()
	r.Data = t.io.In[:min(int(t.io.Got), len(t.io.In))]
	return r, nil
}

// Command starts a command and waits for its end: see Start and Wait.
func (s *Session) Command(ctx context.Context, lun sam.LUN, cdb, dataOut []byte, inLen int) (Result, error) {
	t, err := s.Start(lun, cdb, dataOut, inLen)
	if err != nil {
		return Result{}, err
	}
	return t.Wait(ctx)
}

// exchange sends a request other than a command and waits for its answer.
func (s *Session) exchange(ctx context.Context, io *IO) (*PDU, error) {
	io.ended = make(chan struct{})
	s.mu.Lock()
	err := s.err
	if err == nil {
		err = s.e.control(io)
	}
	if err == nil {
		s.settle()
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case <-io.ended:
		return io.reply, io.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TaskManagement sends a task management function and returns its response. task is the one that ABORT TASK and
// QUERY TASK are about, nil otherwise. Tasks that a function takes away end with ErrAborted.
func (s *Session) TaskManagement(ctx context.Context, f sam.TMF, lun sam.LUN, task *Task) (pdu.TMFResponse, error) {
	io := new(IO)
	io.req[0] = byte(pdu.OpTaskMgmtReq) | 0x40
	io.req.SetLUN(lun)
	r := (*pdu.TaskMgmtReq)(&io.req)
	r.SetFunction(f)
	r.SetRefTag(pdu.NoTag)
	if task != nil {
		itt, cmdSN, sent := task.Tag()
		if !sent {
			return 0, fmt.Errorf("the task was not sent yet")
		}
		r.SetRefTag(itt)
		r.SetRefCmdSN(cmdSN)
		io.ref = task.io
	}
	p, err := s.exchange(ctx, io)
	if err != nil {
		return 0, err
	}
	return (*pdu.TaskMgmtResp)(&p.Header).Response(), nil
}

// Ping sends a NOP-Out with data and returns the data of the target's NOP-In.
func (s *Session) Ping(ctx context.Context, data []byte) ([]byte, error) {
	io := &IO{ping: append([]byte(nil), data...)}
	(*pdu.NOPOut)(&io.req).Init(0, 0, pdu.NoTag, true, len(data))
	p, err := s.exchange(ctx, io)
	if err != nil {
		return nil, err
	}
	return p.Data, nil
}

// Logout closes the session in good order and then the connection. Tasks in flight end with an error.
func (s *Session) Logout(ctx context.Context) error {
	lo := newLogout(pdu.LogoutCloseSession)
	_, err := s.exchange(ctx, lo)
	if err == nil {
		err = logoutError(lo)
	}
	return errors.Join(err, s.Close())
}
