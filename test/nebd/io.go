package nebd

import (
	"fmt"
	"io"

	"github.com/lunar-iscsi/lunar/backstore/curve/brpc"
)

// A Fault is what happens to a request.
type Fault int

// The faults.
const (
	None Fault = iota
	Fail       // the cluster fails it: it is not carried out, and answered with -1 or not at all, as Config.ReturnErrors says
	Lose       // it is carried out and never answered
	Wait       // it is not carried out and not answered while the server lives: a cluster that hangs
)

// Faults says what happens to a Read or Write of size bytes at off. It is called for each, from any goroutine, and may take its time.
type Faults func(method, volume string, off, size int64) Fault

// SetFaults has requests go wrong from now on; nil ends that.
func (s *Server) SetFaults(f Faults) {
	s.mu.Lock()
	s.faults = f
	s.mu.Unlock()
}

// transfer carries out Read and Write.
func (s *Server) transfer(c *brpc.Call) error {
	m, err := parse(c.Message, "", 1, 2, 3)
	if err != nil {
		return err
	}
	off, size := int64(m.number[2]), int64(m.number[3])
	if c.Method == "Write" && int64(len(c.Attachment)) != size {
		c.Reply(answer(kNoOK), nil)
		return nil
	}
	s.mu.Lock()
	e, hangs := s.find(m.number[1])
	if hangs {
		s.mu.Unlock()
		return errNever
	}
	if e == nil {
		s.mu.Unlock()
		c.Reply(answer(kNoOK), nil)
		return nil
	}
	e.busy++
	faults, fault := s.faults, None
	if faults != nil {
		s.mu.Unlock()
		fault = faults(c.Method, e.volume, off, size)
		s.mu.Lock()
	}
	if off%e.block != 0 || size%e.block != 0 {
		s.mu.Unlock()
		s.die(fmt.Sprintf("a %s of %d bytes at %d, in a volume with blocks of %d: double free detected", c.Method, size, off, e.block))
		return errNever
	}
	there := e.file != nil && e.there() // the server may have ended meanwhile
	s.mu.Unlock()
	if size == 0 || !there || fault == Wait {
		return s.lose(e)
	}
	data, ok := s.touch(e, c.Method, off, size, c.Attachment, fault)
	switch {
	case fault == Lose, !ok && !s.cfg.ReturnErrors:
		return s.lose(e)
	case !ok:
		c.Reply(answer(kNoOK), nil)
	default:
		c.Reply(answer(0), data)
	}
	s.mu.Lock()
	e.busy--
	s.cond.Broadcast()
	s.mu.Unlock()
	return nil
}

// Freeze waits for the I/O that is being carried out and keeps more of it waiting, on every volume, until thaw is called: whoever takes a snapshot does so meanwhile.
func (s *Server) Freeze() (thaw func()) {
	s.io.Lock()
	return s.io.Unlock
}

// touch reads or writes the file.
func (s *Server) touch(e *entity, method string, off, size int64, in []byte, fault Fault) (out []byte, ok bool) {
	s.io.RLock()
	defer s.io.RUnlock()
	if s.dead || fault == Fail {
		return nil, false
	}
	// The cluster goes by the volume's length of now, not by that of the open.
	fi, err := e.file.Stat()
	if err != nil || off < 0 || size > fi.Size() || off > fi.Size()-size {
		return nil, false
	}
	if method == "Write" {
		_, err = e.file.WriteAt(in, off)
		return nil, err == nil
	}
	out = make([]byte, size)
	if _, err = e.file.ReadAt(out, off); err == io.EOF {
		err = nil
	}
	return out, err == nil
}

// lose leaves a request without an answer, and its volume with one lock too many.
func (s *Server) lose(e *entity) error {
	s.mu.Lock()
	e.lost++
	s.mu.Unlock()
	return errNever
}

// discard answers Discard, which does nothing unless the cluster is configured for it; whatever is asked for, it says that it was done.
func (s *Server) discard(c *brpc.Call) error {
	if _, err := parse(c.Message, "", 1, 2, 3); err != nil {
		return err
	}
	return s.opened(c)
}
