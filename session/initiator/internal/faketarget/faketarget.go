package faketarget

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// BlockSize is the disk's.
const BlockSize = 512

// A Target says how the fake behaves. Set it before Serve; connections may share it.
type Target struct {
	Mu   sync.Mutex
	Disk []byte // guarded by Mu

	Answer  initiator.Keys // to the operational keys; what the test negotiates
	Params  initiator.Params
	Window  uint32 // commands at once; 64
	Targets []initiator.Target

	// Attentions is how many commands of each session get a unit attention first.
	Attentions int
	// Command is called with each SCSI Command; if it returns true the command is left to it.
	Command func(s *Session, p *initiator.PDU) bool
}

// A Session is one connection's state. It belongs to the goroutine of Serve.
type Session struct {
	T *Target
	C *initiator.Conn

	statSN   pdu.SN
	expCmdSN pdu.SN
	started  bool
	ttt      uint32
	left     int              // unit attentions
	held     []*initiator.PDU // received and not handled yet
}

// New returns a target with a disk of so many bytes whose parameters are p.
func New(size int, p initiator.Params) *Target {
	yes := map[bool]string{true: "Yes", false: "No"}
	digest := map[bool]string{true: "CRC32C", false: "None"}
	number := func(n uint32) string { return fmt.Sprint(n) }
	var k initiator.Keys
	for _, kv := range [][2]string{
		{"HeaderDigest", digest[p.HeaderDigest]}, {"DataDigest", digest[p.DataDigest]},
		{"InitialR2T", yes[p.InitialR2T]}, {"ImmediateData", yes[p.ImmediateData]},
		{"MaxBurstLength", number(p.MaxBurstLength)}, {"FirstBurstLength", number(p.FirstBurstLength)},
		{"MaxRecvDataSegmentLength", number(p.MaxXmitDataSegmentLength)}, {"MaxOutstandingR2T", number(uint32(p.MaxOutstandingR2T))},
	} {
		k = k.With(kv[0], kv[1])
	}
	return &Target{Disk: make([]byte, size), Answer: k, Params: p, Window: 64}
}

// Serve serves one connection until it ends; the error is what the initiator did wrong, nil for an end in good order.
func (t *Target) Serve(nc net.Conn) error {
	defer nc.Close()
	s := &Session{T: t, C: initiator.NewConn(nc), statSN: 1, ttt: 100, left: t.Attentions}
	s.C.MaxRecv = 1 << 24
	for {
		p, err := s.pick(func(*initiator.PDU) bool { return true })
		if err == nil {
			err = s.handle(p)
		}
		if gone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if p.Opcode() == pdu.OpLogoutReq {
			return nil
		}
	}
}

// gone reports whether err says no more than that the initiator closed the connection, which it may do at any time.
func gone(err error) bool {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (s *Session) handle(p *initiator.PDU) error {
	if s.started && !p.Immediate() && p.Opcode() != pdu.OpDataOut {
		if p.CmdSN() != s.expCmdSN {
			return fmt.Errorf("%v with CmdSN %d, want %d", p.Opcode(), p.CmdSN(), s.expCmdSN)
		}
		s.expCmdSN++
	}
	if s.started && s.statSN.Before(p.ExpStatSN()) {
		return fmt.Errorf("%v with ExpStatSN %d, ours is %d", p.Opcode(), p.ExpStatSN(), s.statSN)
	}
	switch p.Opcode() {
	case pdu.OpLoginReq:
		return s.login(p)
	case pdu.OpTextReq:
		return s.text(p)
	case pdu.OpNOPOut:
		if p.ITT() == pdu.NoTag {
			return nil
		}
		var h pdu.Header
		(*pdu.NOPIn)(&h).Init(p.LUN(), p.ITT(), pdu.NoTag, len(p.Data))
		return s.Send(&h, p.Data)
	case pdu.OpTaskMgmtReq:
		var h pdu.Header
		(*pdu.TaskMgmtResp)(&h).Init(p.ITT(), pdu.FunctionComplete)
		return s.Send(&h, nil)
	case pdu.OpLogoutReq:
		var h pdu.Header
		(*pdu.LogoutResp)(&h).Init(p.ITT(), pdu.LogoutSuccess, 2, 0)
		return s.Send(&h, nil)
	case pdu.OpSCSICommand:
		if s.T.Command != nil && s.T.Command(s, p) {
			return nil
		}
		return s.command(p)
	}
	return fmt.Errorf("unexpected %v", p.Opcode())
}

// Send completes h with StatSN and window and sends it.
func (s *Session) Send(h *pdu.Header, data []byte) error {
	carries := true
	switch h.Opcode() {
	case pdu.OpR2T:
		carries = false
		h.SetStatSN(s.statSN)
	case pdu.OpDataIn:
		carries = (*pdu.DataIn)(h).HasStatus()
	case pdu.OpNOPIn:
		carries = h.ITT() != pdu.NoTag
		h.SetStatSN(s.statSN)
	}
	if carries {
		h.SetStatSN(s.statSN)
		s.statSN++
	}
	h.SetWindow(s.expCmdSN, s.expCmdSN+pdu.SN(s.T.Window)-1)
	return s.C.Send(h, data)
}

func (s *Session) login(p *initiator.PDU) error {
	r := (*pdu.LoginReq)(&p.Header)
	s.expCmdSN = p.CmdSN()
	keys, err := initiator.ParseKeys(p.Data)
	if err != nil {
		return err
	}
	var answer initiator.Keys
	if r.CSG() == pdu.SecurityNegotiation {
		answer = answer.With("AuthMethod", "None")
	} else {
		for _, k := range s.T.Answer {
			if _, asked := keys.Get(k.Name); asked {
				answer = append(answer, k)
			}
		}
	}
	data := answer.Encode()
	var h pdu.Header
	(*pdu.LoginResp)(&h).Init(p.ITT(), r.ISID(), 7, pdu.LoginSuccess, r.Transit(), false, r.CSG(), r.NSG(), len(data))
	if err := s.Send(&h, data); err != nil {
		return err
	}
	if r.Transit() && r.NSG() == pdu.FullFeaturePhase {
		s.started = true
		s.C.HeaderDigest, s.C.DataDigest = s.T.Params.HeaderDigest, s.T.Params.DataDigest
	}
	return nil
}

func (s *Session) text(p *initiator.PDU) error {
	var k initiator.Keys
	for _, t := range s.T.Targets {
		k = append(k, initiator.Key{Name: "TargetName", Value: t.Name})
		for _, a := range t.Addresses {
			k = append(k, initiator.Key{Name: "TargetAddress", Value: a})
		}
	}
	// In pieces of 100 bytes, so that continuation is used.
	data := k.Encode()
	const piece = 100
	for {
		n := min(piece, len(data))
		last := n == len(data)
		ttt := pdu.NoTag
		if !last {
			s.ttt++
			ttt = s.ttt
		}
		var h pdu.Header
		(*pdu.TextResp)(&h).Init(p.ITT(), ttt, n, last, !last)
		if err := s.Send(&h, data[:n]); err != nil || last {
			return err
		}
		data = data[n:]
		var err error
		if p, err = s.C.Expect(pdu.OpTextReq); err != nil {
			return err
		}
		if p.TTT() != ttt || len(p.Data) > 0 {
			return fmt.Errorf("text continuation with tag %x and %d bytes, want %x and none", p.TTT(), len(p.Data), ttt)
		}
	}
}

// Status ends a command without data.
func (s *Session) Status(itt uint32, status sam.Status, sense []byte, expDataSN pdu.SN) error {
	var h pdu.Header
	(*pdu.SCSIResponse)(&h).Init(itt, status, 0, 0)
	(*pdu.SCSIResponse)(&h).SetExpDataSN(expDataSN)
	var data []byte
	if len(sense) > 0 {
		data = append(binary.BigEndian.AppendUint16(nil, uint16(len(sense))), sense...)
	}
	return s.Send(&h, data)
}

// Sense returns fixed-format sense data.
func Sense(key, asc, ascq byte) []byte {
	b := make([]byte, 18)
	b[0], b[2], b[7], b[12], b[13] = 0x70, key, 10, asc, ascq
	return b
}

func (s *Session) command(p *initiator.PDU) error {
	if s.left > 0 {
		s.left--
		return s.Status(p.ITT(), sam.CheckCondition, Sense(6, 0x29, 0), 0)
	}
	c := (*pdu.SCSICommand)(&p.Header)
	b := c.CDB()
	lba, blocks := uint64(binary.BigEndian.Uint32(b[2:])), uint32(binary.BigEndian.Uint16(b[7:]))
	if b[0] >= 0x88 {
		lba, blocks = binary.BigEndian.Uint64(b[2:]), binary.BigEndian.Uint32(b[10:])
	}
	from, n := lba*BlockSize, uint64(blocks)*BlockSize
	switch b[0] {
	case 0x00, 0x35:
		return s.Status(p.ITT(), sam.Good, nil, 0)
	case 0x12:
		data := make([]byte, 36)
		copy(data[8:], "LUNAR   FAKE")
		return s.DataIn(p, data)
	case 0x9e:
		data := make([]byte, 32)
		binary.BigEndian.PutUint64(data, uint64(len(s.T.Disk)/BlockSize-1))
		binary.BigEndian.PutUint32(data[8:], BlockSize)
		return s.DataIn(p, data)
	case 0x28, 0x88, 0x2a, 0x8a:
		if from+n > uint64(len(s.T.Disk)) {
			return s.Status(p.ITT(), sam.CheckCondition, Sense(5, 0x21, 0), 0)
		}
	default:
		return s.Status(p.ITT(), sam.CheckCondition, Sense(5, 0x20, 0), 0)
	}
	if c.Read() {
		s.T.Mu.Lock()
		data := append([]byte(nil), s.T.Disk[from:from+n]...)
		s.T.Mu.Unlock()
		return s.DataIn(p, data)
	}
	data, r2ts, err := s.dataOut(p, int(n))
	if err != nil {
		return err
	}
	s.T.Mu.Lock()
	copy(s.T.Disk[from:], data)
	s.T.Mu.Unlock()
	return s.Status(p.ITT(), sam.Good, nil, r2ts)
}

// DataIn sends data and GOOD, as far as the initiator expects it, in PDUs of what the initiator takes and sequences of MaxBurstLength.
func (s *Session) DataIn(p *initiator.PDU, data []byte) error {
	edtl := (*pdu.SCSICommand)(&p.Header).EDTL()
	var residual byte
	var count uint32
	switch n := uint32(len(data)); {
	case n < edtl:
		residual, count = pdu.Underflow, edtl-n
	case n > edtl:
		residual, count = pdu.Overflow, n-edtl
		data = data[:edtl]
	}
	burst := 0
	for sn, at := pdu.SN(0), 0; ; sn++ {
		n := min(len(data)-at, int(s.T.Params.MaxRecvDataSegmentLength), int(s.T.Params.MaxBurstLength)-burst)
		last := at+n == len(data)
		burst += n
		var h pdu.Header
		(*pdu.DataIn)(&h).Init(p.ITT(), sn, uint32(at), n, last || burst == int(s.T.Params.MaxBurstLength))
		if last {
			(*pdu.DataIn)(&h).SetStatus(sam.Good, residual, count)
		}
		if burst == int(s.T.Params.MaxBurstLength) {
			burst = 0
		}
		if err := s.Send(&h, data[at:at+n]); err != nil || last {
			return err
		}
		at += n
	}
}

// dataOut collects the data of a write: what came with the command, the unsolicited part, then one R2T after another.
func (s *Session) dataOut(p *initiator.PDU, n int) (data []byte, r2ts pdu.SN, err error) {
	pr := &s.T.Params
	if edtl := (*pdu.SCSICommand)(&p.Header).EDTL(); int(edtl) != n {
		return nil, 0, fmt.Errorf("a write of %d bytes with Expected Data Transfer Length %d", n, edtl)
	}
	if len(p.Data) > 0 && !pr.ImmediateData || len(p.Data) > int(min(pr.FirstBurstLength, pr.MaxXmitDataSegmentLength)) {
		return nil, 0, fmt.Errorf("%d bytes of immediate data", len(p.Data))
	}
	data = append(data, p.Data...)
	if want := min(n, int(pr.FirstBurstLength)); !p.Final() {
		if pr.InitialR2T {
			return nil, 0, fmt.Errorf("a command without the F bit with InitialR2T=Yes")
		}
		if data, err = s.sequence(p.ITT(), pdu.NoTag, data, want); err != nil {
			return nil, 0, err
		}
	} else if !pr.InitialR2T && len(data) < want {
		return nil, 0, fmt.Errorf("only %d bytes unsolicited, could be %d", len(data), want)
	}
	for len(data) < n {
		s.ttt++
		k := min(n-len(data), int(pr.MaxBurstLength))
		var h pdu.Header
		(*pdu.R2T)(&h).Init(p.LUN(), p.ITT(), s.ttt, r2ts, uint32(len(data)), uint32(k))
		if err := s.Send(&h, nil); err != nil {
			return nil, 0, err
		}
		r2ts++
		if data, err = s.sequence(p.ITT(), s.ttt, data, len(data)+k); err != nil {
			return nil, 0, err
		}
	}
	return data, r2ts, nil
}

// pick returns the first PDU that matches, keeping those before it for later.
func (s *Session) pick(match func(*initiator.PDU) bool) (*initiator.PDU, error) {
	for i, p := range s.held {
		if match(p) {
			s.held = append(s.held[:i], s.held[i+1:]...)
			return p, nil
		}
	}
	for {
		p, err := s.C.Recv()
		if err != nil || match(p) {
			return p, err
		}
		s.held = append(s.held, p)
	}
}

// sequence collects one sequence of Data-Out, up to the F bit.
func (s *Session) sequence(itt, ttt uint32, data []byte, want int) ([]byte, error) {
	for sn := pdu.SN(0); ; {
		p, err := s.pick(func(p *initiator.PDU) bool { return p.Opcode() == pdu.OpDataOut && p.ITT() == itt })
		if err != nil {
			return nil, err
		}
		d := (*pdu.DataOut)(&p.Header)
		if p.ITT() != itt || p.TTT() != ttt || d.DataSN() != sn || int(d.Offset()) != len(data) || len(p.Data) > int(s.T.Params.MaxXmitDataSegmentLength) {
			return nil, fmt.Errorf("Data-Out for %x/%x with DataSN %d at %d of %d bytes; want %x/%x, %d, %d", p.ITT(), p.TTT(), d.DataSN(), d.Offset(), len(p.Data), itt, ttt, sn, len(data))
		}
		sn++
		data = append(data, p.Data...)
		if p.Final() {
			if len(data) != want {
				return nil, fmt.Errorf("a sequence up to byte %d, want %d", len(data), want)
			}
			return data, nil
		}
	}
}
