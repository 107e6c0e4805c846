package initiator

import (
	"errors"
	"fmt"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// maxTasks bounds the tasks in flight of one session; further ones wait in line. Slots are 16 bits of the tag.
const maxTasks = 4096

// Errors that end a session.
var (
	// ErrLogoutRequested: the target asked for logout; what was in flight has ended, what waited was not sent.
	ErrLogoutRequested = errors.New("the target asked for logout")
	// ErrAborted is the end of a task that a task management function took away.
	ErrAborted = errors.New("aborted by a task management function")
	// ErrClosed: the session was closed or logged out from this side.
	ErrClosed = errors.New("session closed")
)

// A ViolationError says what of the standard the target broke. Minor ones are those that Options.Lenient overlooks.
type ViolationError struct {
	Text  string
	Minor bool
}

func (e *ViolationError) Error() string { return "protocol violation by the target: " + e.Text }

func violation(format string, args ...any) error {
	return &ViolationError{Text: fmt.Sprintf(format, args...)}
}

// minor is violation for what e may be told to overlook.
func (e *engine) minor(format string, args ...any) error {
	if e.lenient {
		return nil
	}
	return &ViolationError{Text: fmt.Sprintf(format, args...), Minor: true}
}

// A RejectError is a Reject that the target sent.
type RejectError struct {
	Reason pdu.RejectReason
	Of     pdu.Opcode // the rejected PDU's
}

func (e *RejectError) Error() string {
	return fmt.Sprintf("the target rejected our %v with reason %02Xh", e.Of, uint8(e.Reason))
}

// An IO is one command, from its submission to its end. The caller owns it before and after; in between it belongs to the
// session, together with the memory of Out and In. It may be used again, without being reset.
type IO struct {
	// The request.
	LUN   sam.LUN
	CDB   [16]byte
	Attr  sam.TaskAttribute
	Out   []byte // write data; its length is the Expected Data Transfer Length
	InLen uint32 // Expected Data Transfer Length of a command that reads; with it Out must be empty
	In    []byte // where read data goes; what is beyond its end is counted and dropped, so nil drops all
	Tag   uint64 // the caller's own

	// How it ended.
	Err                 error // ErrAborted, or what ended the session; otherwise nil and the rest counts
	Response            uint8
	Status              sam.Status
	Underflow, Overflow uint32
	Sense               []byte // valid until the IO is used again
	Got                 uint32 // bytes read

	next    *IO
	kind    pdu.Opcode // SCSI Command once it is sent, or what req is
	req     pdu.Header // a request other than a command
	ping    []byte     // its data
	reply   *PDU       // and its answer
	ended   chan struct{}
	ref     *IO // what an ABORT TASK is about
	itt     uint32
	cmdSN   pdu.SN
	dataSN  pdu.SN // the next Data-In's DataSN or R2T's R2TSN
	edtl    uint32
	burst   uint32 // bytes of Data-In since the last F bit
	offered uint32 // bytes of Out that are sent or in the stream
	r2ts    uint16 // R2Ts that came in while batch stood
	batch   uint64
	active  bool
}

// OK reports whether the command completed with GOOD.
func (io *IO) OK() bool {
	return io.Err == nil && io.Response == pdu.CommandCompleted && io.Status == sam.Good
}

// Failure returns nil for a command that completed with GOOD, otherwise why it did not.
func (io *IO) Failure() error {
	if io.Err != nil {
		return io.Err
	}
	r := io.result()
	return r.Err()
}

func (io *IO) result() Result {
	return Result{Response: io.Response, Status: io.Status, Sense: io.Sense, Underflow: io.Underflow, Overflow: io.Overflow}
}

// An engine is a session's state without I/O: what goes in is commands and received bytes, what comes out is
// the stream to send and the list of ended IOs. One goroutine at a time may use it.
type engine struct {
	p Params

	cmdSN     pdu.SN // the next command's
	expCmdSN  pdu.SN
	maxCmdSN  pdu.SN
	expStatSN pdu.SN

	slots []slot
	free  []uint16
	first *IO // waiting for window or slot, in order
	last  *IO

	h     pdu.Header // the PDU that is being made
	out   stream
	batch uint64 // counts what was given to the kernel: see IO.batch
	done  []*IO
	rx    receiver

	longest int // data segment that the receive buffer has room for, of PDUs other than Data-In

	active  int        // IOs in flight
	replies int        // requests other than commands that were answered
	onAsync func(*PDU) // told of asynchronous messages that are SCSI events or about tasks
	leaving bool       // the target asked for logout
	logout  *IO        // our answer to that, once sent
	lenient bool       // see Options.Lenient
}

type slot struct {
	io  *IO
	gen uint16
}

func newEngine(c *Conn, o *Options, p Params, depth int) *engine {
	depth = min(max(depth, 1), maxTasks)
	e := &engine{
		p: p, cmdSN: c.CmdSN, expCmdSN: c.ExpCmdSN, maxCmdSN: c.MaxCmdSN, expStatSN: c.ExpStatSN,
		slots: make([]slot, depth+controlSlots), free: make([]uint16, 0, depth+controlSlots),
		done: make([]*IO, 0, depth), longest: o.slab() - slabHeaders, onAsync: o.OnAsync, lenient: o.Lenient,
	}
	for i := len(e.slots) - 1; i >= 0; i-- {
		e.free = append(e.free, uint16(i))
	}
	e.out.limit = copyBelow
	return e
}

// controlSlots are kept from commands, for NOP, task management and logout.
const controlSlots = 16

// submit sends io, or lets it wait behind the command window.
func (e *engine) submit(io *IO) {
	io.Err, io.Response, io.Status, io.Underflow, io.Overflow, io.Got = nil, 0, 0, 0, 0, 0
	io.Sense = io.Sense[:0]
	io.next, io.kind = nil, 0
	if e.last != nil {
		e.last.next = io
	} else {
		e.first = io
	}
	e.last = io
	e.push()
}

// push sends what the window and the free slots allow (RFC 7143 §4.2.2.1: a command's CmdSN is at most MaxCmdSN).
func (e *engine) push() {
	for e.first != nil && len(e.free) > controlSlots && !e.maxCmdSN.Before(e.cmdSN) && !e.leaving {
		io := e.first
		if e.first = io.next; e.first == nil {
			e.last = nil
		}
		io.next = nil
		e.begin(io)
	}
}

// tag gives io a slot and a tag that no other task of the session had in the last 2^15 uses of the slot.
func (e *engine) tag(io *IO) {
	i := e.free[len(e.free)-1]
	e.free = e.free[:len(e.free)-1]
	s := &e.slots[i]
	s.gen = (s.gen + 1) & 0x7fff // never the reserved tag
	s.io = io
	io.itt = uint32(s.gen)<<16 | uint32(i)
	io.active = true
	e.active++
}

func (e *engine) find(itt uint32) *IO {
	i := itt & 0xffff
	if int(i) >= len(e.slots) {
		return nil
	}
	if io := e.slots[i].io; io != nil && io.itt == itt {
		return io
	}
	return nil
}

func (e *engine) finish(io *IO) {
	i := io.itt & 0xffff
	e.slots[i].io = nil
	e.free = append(e.free, uint16(i))
	io.active = false
	io.ref = nil
	e.active--
	if io.kind == pdu.OpSCSICommand || io.ended != nil {
		e.done = append(e.done, io)
	}
}

// begin puts the command, its immediate and its unsolicited data into the stream (RFC 7143 §4.2.5.2, §13.10, §13.11).
func (e *engine) begin(io *IO) {
	e.tag(io)
	io.kind = pdu.OpSCSICommand
	io.dataSN, io.burst, io.offered, io.r2ts = 0, 0, 0, 0
	io.cmdSN = e.cmdSN
	e.cmdSN++
	write := len(io.Out) > 0
	io.edtl = io.InLen
	var immediate, unsolicited uint32
	if write {
		io.edtl = uint32(len(io.Out))
		if !e.p.InitialR2T {
			unsolicited = min(io.edtl, e.p.FirstBurstLength)
		}
		if e.p.ImmediateData {
			immediate = min(io.edtl, e.p.FirstBurstLength, e.p.MaxXmitDataSegmentLength)
		}
	}
	h := &e.h
	*h = pdu.Header{0: byte(pdu.OpSCSICommand)}
	c := (*pdu.SCSICommand)(h)
	c.SetFlags(unsolicited <= immediate, io.InLen > 0, write, io.Attr)
	c.SetEDTL(io.edtl)
	h.SetLUN(io.LUN)
	h.SetITT(io.itt)
	h.SetCmdSN(io.cmdSN)
	copy(c.CDB(), io.CDB[:])
	e.put(io.Out[:immediate])
	io.offered = immediate
	if unsolicited > immediate {
		e.dataOut(io, io.LUN, pdu.NoTag, unsolicited-immediate)
	}
}

// dataOut puts one sequence of n bytes from where the last ended, DataSN from 0 (RFC 7143 §11.7.5).
func (e *engine) dataOut(io *IO, lun sam.LUN, ttt uint32, n uint32) {
	for sn := pdu.SN(0); n > 0; sn++ {
		k := min(n, e.p.MaxXmitDataSegmentLength)
		n -= k
		(*pdu.DataOut)(&e.h).Init(lun, io.itt, ttt, sn, io.offered, int(k), n == 0)
		e.put(io.Out[io.offered : io.offered+k])
		io.offered += k
	}
}

// control sends a request other than a command, immediate.
func (e *engine) control(io *IO) error {
	if len(e.free) == 0 {
		return fmt.Errorf("more than %d requests beside the commands", controlSlots)
	}
	e.tag(io)
	io.kind = io.req.Opcode()
	io.cmdSN = e.cmdSN
	e.h = io.req
	e.h.SetITT(io.itt)
	e.h.SetCmdSN(e.cmdSN)
	e.put(io.ping)
	return nil
}

// put puts one PDU, whose header is in e.h, into the stream.
func (e *engine) put(data []byte) {
	h := &e.h
	h.SetExpStatSN(e.expStatSN)
	h.SetDataLen(len(data))
	if e.p.HeaderDigest {
		b := e.out.reserve(pdu.HeaderLen + pdu.DigestLen)
		copy(b, h[:])
		pdu.PutDigest(b[pdu.HeaderLen:], pdu.Digest(h[:]))
	} else {
		copy(e.out.reserve(pdu.HeaderLen), h[:])
	}
	if len(data) == 0 {
		return
	}
	e.out.data(data)
	if pad := pdu.Pad(len(data)) - len(data); pad > 0 {
		clear(e.out.reserve(pad))
	}
	if e.p.DataDigest {
		pdu.PutDigest(e.out.reserve(pdu.DigestLen), pdu.DataDigest(data))
	}
}

// given notes that n bytes of the stream went to the kernel.
func (e *engine) given(n int) {
	e.batch++
	e.out.take(n)
}

// depart ends what waits once the target asked for logout, and sends the Logout Request when nothing is in flight.
func (e *engine) depart() error {
	for io := e.first; io != nil; {
		next := io.next
		io.Err, io.next = ErrLogoutRequested, nil
		e.done = append(e.done, io)
		io = next
	}
	e.first, e.last = nil, nil
	if e.active > 0 || e.logout != nil {
		return nil
	}
	e.logout = newLogout(pdu.LogoutCloseSession)
	return e.control(e.logout)
}

// fail ends every IO with err.
func (e *engine) fail(err error) {
	for i := range e.slots {
		if io := e.slots[i].io; io != nil {
			io.Err = err
			e.finish(io)
		}
	}
	for io := e.first; io != nil; {
		next := io.next
		io.Err, io.next = err, nil
		e.done = append(e.done, io)
		io = next
	}
	e.first, e.last = nil, nil
}

func newLogout(reason uint8) *IO {
	io := new(IO)
	io.req[0] = byte(pdu.OpLogoutReq) | 0x40
	(*pdu.LogoutReq)(&io.req).SetReason(reason)
	return io
}
