package nebd

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/lunar-iscsi/lunar/backstore/curve/brpc"
)

// The services.
const (
	fileService      = "nebd.client.NebdFileService"
	heartbeatService = "nebd.client.NebdHeartbeatService"
)

// kNoOK is how whatever has failed is answered.
const kNoOK = -1

// answer makes the message of an answer: its retCode, and what follows.
func answer(code int, more ...byte) []byte {
	b := protowire.AppendTag(nil, 1, protowire.VarintType)
	return append(protowire.AppendVarint(b, uint64(int64(code))), more...)
}

func number(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

// A message is what a call may have, whichever it is.
type message struct {
	number [5]uint64 // by field
	text   [4][]byte // by field
	more   [][]byte  // field 3 of KeepAlive
	has    [5]bool
}

var errMessage = errors.New("missing required fields")

// parse reads a message and sees to it that the required fields are there: numbers, or texts where texts has their field.
func parse(b []byte, texts string, required ...protowire.Number) (m message, err error) {
	err = brpc.Fields(b, func(f brpc.Field) error {
		if f.Number > 4 {
			return nil
		}
		isText := strings.ContainsRune(texts, rune('0'+f.Number))
		if isText != (f.Type == protowire.BytesType) {
			return errMessage
		}
		m.has[f.Number] = true
		if !isText {
			m.number[f.Number] = f.Value
		} else if f.Number == 3 {
			m.more = append(m.more, f.Bytes)
		} else if f.Number < 4 {
			m.text[f.Number] = f.Bytes
		}
		return nil
	})
	for _, n := range required {
		if err == nil && !m.has[n] {
			err = errMessage
		}
	}
	return m, err
}

// handle takes a call. What may take long runs on, and others are taken meanwhile.
func (s *Server) handle(c *brpc.Call) {
	service := c.Service
	if !strings.Contains(service, ".") {
		service = "nebd.client." + service
		if service != fileService && service != heartbeatService {
			c.Fail(brpc.ENoService, fmt.Sprintf("[E%d]Fail to find service=%s", brpc.ENoService, c.Service))
			return
		}
	}
	do := map[string]func(*brpc.Call) error{
		fileService + "/OpenFile": s.openFile, fileService + "/CloseFile": s.closeFile,
		fileService + "/Read": s.transfer, fileService + "/Write": s.transfer, fileService + "/Discard": s.discard,
		fileService + "/ResizeFile": s.resizeFile, fileService + "/Flush": s.opened, fileService + "/InvalidateCache": s.opened,
		fileService + "/GetInfo": s.getInfo, heartbeatService + "/KeepAlive": s.keepAlive,
	}[service+"/"+c.Method]
	if do == nil {
		c.Fail(brpc.ENoMethod, fmt.Sprintf("[127.0.0.1:0][E%d]Fail to find method=%s/%s", brpc.ENoMethod, c.Service, c.Method))
		return
	}
	if !s.begin() {
		c.Fail(brpc.ELogOff, "Server is stopping")
		return
	}
	go func() {
		err := do(c)
		switch {
		case errors.Is(err, errNever):
			return // for ever: it counts as being answered, so that Stop does not end
		case err != nil:
			c.Fail(brpc.ERequest, err.Error())
		}
		s.end()
	}()
}

// errNever: there is no answer.
var errNever = errors.New("never answered")

func (s *Server) openFile(c *brpc.Call) error {
	m, err := parse(c.Message, "12", 1)
	if err != nil {
		return err
	}
	if m.has[2] {
		if _, err := parse(m.text[2], "", 1); err != nil {
			return err
		}
	}
	name, f := string(m.text[1]), flags(m.text[2])
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.byName[name]
	switch {
	case e != nil && e.file != nil && e.flags != f:
		c.Reply(answer(kNoOK), nil)
		return nil
	case e != nil && e.file != nil:
		c.Reply(answer(0, number(nil, 3, uint64(e.fd))...), nil)
		return nil
	case e == nil:
		e = &entity{name: name}
	}
	if e.open(s.cfg.Pool, f) != nil {
		c.Reply(answer(kNoOK), nil)
		return nil
	}
	if e.fd == 0 {
		s.lastFd++
		e.fd = s.lastFd
		s.byName[name], s.byFd[e.fd] = e, e
	}
	if s.save() != nil {
		c.Reply(answer(kNoOK), nil)
		return nil
	}
	c.Reply(answer(0, number(nil, 3, uint64(e.fd))...), nil)
	return nil
}

func (s *Server) closeFile(c *brpc.Call) error {
	m, err := parse(c.Message, "", 1)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.byFd[int32(m.number[1])]
	if e == nil {
		c.Reply(answer(0), nil)
		return nil
	}
	e.closing = true
	for e.busy > 0 && !s.ended {
		s.cond.Wait()
	}
	if s.ended {
		return errNever
	}
	e.shut()
	delete(s.byName, e.name)
	delete(s.byFd, e.fd)
	if s.save() != nil {
		c.Reply(answer(kNoOK), nil)
		return nil
	}
	c.Reply(answer(0), nil)
	return nil
}

// find returns the open entity of a descriptor, opened again if it was closed for want of heartbeats. hangs: it is being closed, and there is no answer.
// Called with mu held.
func (s *Server) find(fd uint64) (e *entity, hangs bool) {
	e = s.byFd[int32(fd)]
	if e == nil {
		return nil, false
	}
	if e.closing {
		return nil, true
	}
	if e.file == nil {
		if e.open(s.cfg.Pool, e.flags) != nil || s.save() != nil {
			return nil, false
		}
	}
	return e, false
}

// opened answers Flush and InvalidateCache, which do nothing.
func (s *Server) opened(c *brpc.Call) error {
	m, err := parse(c.Message, "", 1)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e, hangs := s.find(m.number[1])
	switch {
	case hangs:
		return errNever
	case e == nil:
		c.Reply(answer(kNoOK), nil)
	default:
		c.Reply(answer(0), nil)
	}
	return nil
}

func (s *Server) getInfo(c *brpc.Call) error {
	m, err := parse(c.Message, "", 1)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e, hangs := s.find(m.number[1])
	if hangs {
		return errNever
	}
	if e == nil {
		c.Reply(answer(kNoOK), nil)
		return nil
	}
	// objSize and objNums are memory that nobody has set.
	info := number(number(number(nil, 1, uint64(e.size)), 2, 1<<45+rand.Uint64N(1<<45)), 3, 1<<45+rand.Uint64N(1<<45))
	info = number(info, 4, uint64(e.block))
	c.Reply(answer(0, protowire.AppendBytes(protowire.AppendTag(nil, 3, protowire.BytesType), info)...), nil)
	return nil
}

func (s *Server) resizeFile(c *brpc.Call) error {
	m, err := parse(c.Message, "", 1, 2)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e, hangs := s.find(m.number[1])
	if hangs {
		return errNever
	}
	code := kNoOK
	if e != nil {
		if v, err := s.cfg.Pool.Stat(e.volume); err == nil {
			size := int64(m.number[2])
			if size >= v.Size && size <= maxLength && (size-v.Size)%s.cfg.Segment == 0 && s.cfg.Pool.Extend(e.volume, size) == nil {
				code = 0
			}
		}
	}
	c.Reply(answer(code), nil)
	return nil
}

func (s *Server) keepAlive(c *brpc.Call) error {
	m, err := parse(c.Message, "23", 1, 2)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beats++
	code := 0
	for _, b := range m.more {
		i, err := parse(b, "2", 1, 2)
		if err != nil {
			return err
		}
		if e := s.byFd[int32(i.number[1])]; e != nil {
			e.seen = time.Now()
		} else {
			code = kNoOK
		}
	}
	c.Reply(answer(code), nil)
	return nil
}
