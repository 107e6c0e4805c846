package initiator

import (
	"fmt"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// Stamp gives h what every request carries and the Conn counts: CmdSN (used up unless h is immediate), ExpStatSN and, where h has
// none, the next Initiator Task Tag. Data-Out has no CmdSN, and its tag must be set.
func (c *Conn) Stamp(h *pdu.Header) {
	h.SetExpStatSN(c.ExpStatSN)
	if h.Opcode() == pdu.OpDataOut || h.Opcode() == pdu.OpSNACK {
		return
	}
	if h.ITT() == 0 {
		h.SetITT(c.NextITT())
	}
	h.SetCmdSN(c.CmdSN)
	if !h.Immediate() {
		c.CmdSN++
	}
}

// NextITT returns a new Initiator Task Tag.
func (c *Conn) NextITT() uint32 {
	t := c.ITT
	c.ITT++
	if c.ITT == pdu.NoTag {
		c.ITT = 1
	}
	return t
}

// Request returns a stamped request with nothing but its opcode, F bit and, where asked, I bit set.
func (c *Conn) Request(op pdu.Opcode, immediate bool) *pdu.Header {
	h := new(pdu.Header)
	h[0] = byte(op)
	if immediate {
		h[0] |= 0x40
	}
	h[1] = 0x80
	c.Stamp(h)
	return h
}

// CommandHeader returns a stamped SCSI Command, simple, with the F bit. cdb is at most 16 bytes (longer ones go on in an AHS: see
// SendAHS). edtl is the Expected Data Transfer Length in bytes.
func (c *Conn) CommandHeader(lun sam.LUN, cdb []byte, read, write bool, edtl uint32) *pdu.Header {
	h := c.Request(pdu.OpSCSICommand, false)
	cmd := (*pdu.SCSICommand)(h)
	cmd.SetFlags(true, read, write, sam.Simple)
	cmd.SetEDTL(edtl)
	h.SetLUN(lun)
	copy(cmd.CDB(), cdb)
	return h
}

// ReadCommand sends a command that reads and collects its Data-In up to the status: one task alone on the connection. NOP-In that ask for an
// answer are answered.
func (c *Conn) ReadCommand(lun sam.LUN, cdb []byte, edtl uint32) (Result, error) {
	h := c.CommandHeader(lun, cdb, edtl > 0, false, edtl)
	if err := c.Send(h, nil); err != nil {
		return Result{}, err
	}
	return c.Finish(h.ITT())
}

// WriteCommand sends a command with all its data immediate, whatever was negotiated, and waits for its status.
func (c *Conn) WriteCommand(lun sam.LUN, cdb, data []byte) (Result, error) {
	h := c.CommandHeader(lun, cdb, false, true, uint32(len(data)))
	if err := c.Send(h, data); err != nil {
		return Result{}, err
	}
	return c.Finish(h.ITT())
}

// Finish reads Data-In and the status of the task itt, the only one on the connection.
func (c *Conn) Finish(itt uint32) (Result, error) {
	var r Result
	for {
		p, err := c.Recv()
		if err != nil {
			return r, err
		}
		switch op := p.Opcode(); {
		case op == pdu.OpNOPIn && p.ITT() == pdu.NoTag:
			if p.TTT() != pdu.NoTag {
				if err := c.Pong(p); err != nil {
					return r, err
				}
			}
		case op == pdu.OpDataIn && p.ITT() == itt:
			d := (*pdu.DataIn)(&p.Header)
			end := int(d.Offset()) + len(p.Data)
			if end > len(r.Data) {
				r.Data = append(r.Data, make([]byte, end-len(r.Data))...)
			}
			copy(r.Data[d.Offset():], p.Data)
			if d.HasStatus() {
				r.Status = d.Status()
				r.setResidual(d.Residual(), d.ResidualCount())
				return r, nil
			}
		case op == pdu.OpSCSIResponse && p.ITT() == itt:
			s := (*pdu.SCSIResponse)(&p.Header)
			r.Response, r.Status = s.Response(), s.Status()
			r.setResidual(s.Residual(), s.ResidualCount())
			r.Sense, err = senseOf(p.Data)
			return r, err
		default:
			return r, fmt.Errorf("task %08x: got %v for tag %08x", itt, op, p.ITT())
		}
	}
}

// DataOut sends one Data-Out of a task.
func (c *Conn) DataOut(lun sam.LUN, itt, ttt uint32, sn pdu.SN, offset uint32, data []byte, final bool) error {
	var h pdu.Header
	(*pdu.DataOut)(&h).Init(lun, itt, ttt, sn, offset, len(data), final)
	c.Stamp(&h)
	return c.Send(&h, data)
}

// Pong answers a NOP-In that carries a Target Transfer Tag (RFC 7143 §11.18: tag and LUN are copied, no data).
func (c *Conn) Pong(p *PDU) error {
	var h pdu.Header
	(*pdu.NOPOut)(&h).Init(p.LUN(), pdu.NoTag, p.TTT(), true, 0)
	c.Stamp(&h)
	return c.Send(&h, nil)
}

// Ping sends an immediate NOP-Out with data and returns the target's NOP-In.
func (c *Conn) Ping(data []byte) (*PDU, error) {
	var h pdu.Header
	(*pdu.NOPOut)(&h).Init(0, c.NextITT(), pdu.NoTag, true, len(data))
	c.Stamp(&h)
	if err := c.Send(&h, data); err != nil {
		return nil, err
	}
	return c.Expect(pdu.OpNOPIn)
}

// TMF sends an immediate task management function and returns its response. refITT is the Referenced Task
// Tag (pdu.NoTag but for ABORT TASK, QUERY TASK and TASK REASSIGN), refCmdSN that task's CmdSN.
func (c *Conn) TMF(f sam.TMF, lun sam.LUN, refITT uint32, refCmdSN pdu.SN) (pdu.TMFResponse, error) {
	h := c.Request(pdu.OpTaskMgmtReq, true)
	t := (*pdu.TaskMgmtReq)(h)
	t.SetFunction(f)
	t.SetRefTag(refITT)
	t.SetRefCmdSN(refCmdSN)
	h.SetLUN(lun)
	if err := c.Send(h, nil); err != nil {
		return 0, err
	}
	p, err := c.Expect(pdu.OpTaskMgmtResp)
	if err != nil {
		return 0, err
	}
	return (*pdu.TaskMgmtResp)(&p.Header).Response(), nil
}

// Logout sends a Logout Request for this connection's CID and returns the response code. It leaves the connection
// open: the target closes it.
func (c *Conn) Logout(reason uint8) (uint8, error) {
	h := c.Request(pdu.OpLogoutReq, true)
	l := (*pdu.LogoutReq)(h)
	l.SetReason(reason)
	l.SetCID(c.CID)
	if err := c.Send(h, nil); err != nil {
		return 0, err
	}
	p, err := c.Expect(pdu.OpLogoutResp)
	if err != nil {
		return 0, err
	}
	return (*pdu.LogoutResp)(&p.Header).Response(), nil
}

// Text sends a key list by Text Requests, split over several PDUs where it is longer than MaxText, and
// returns the target's whole answer, which may be split too (RFC 7143 §11.10, §11.11).
func (c *Conn) Text(keys Keys) (Keys, error) {
	itt, ttt := c.NextITT(), pdu.NoTag
	parts := splitText(keys.Encode(), c.MaxText)
	var answer []byte
	for {
		last := len(parts) <= 1
		h := new(pdu.Header)
		h[0] = byte(pdu.OpTextReq) | 0x40
		(*pdu.TextReq)(h).SetFlags(last, !last)
		h.SetITT(itt)
		h.SetTTT(ttt)
		c.Stamp(h)
		var data []byte
		if len(parts) > 0 {
			data, parts = parts[0], parts[1:]
		}
		if err := c.Send(h, data); err != nil {
			return nil, err
		}
		p, err := c.Expect(pdu.OpTextResp)
		if err != nil {
			return nil, err
		}
		if len(answer)+len(p.Data) > maxTextAnswer {
			return nil, fmt.Errorf("a text answer of more than %d bytes", maxTextAnswer)
		}
		answer = append(answer, p.Data...)
		r := (*pdu.TextResp)(&p.Header)
		ttt = p.TTT()
		if len(parts) == 0 && p.Final() && !r.Continue() {
			return ParseKeys(answer)
		}
		if ttt == pdu.NoTag {
			return nil, fmt.Errorf("a text answer that goes on without a Target Transfer Tag")
		}
	}
}

// maxTextAnswer bounds the key list that we collect from a target.
const maxTextAnswer = 16 << 20

// splitText cuts b into segments of at most n bytes (0: the 8192 of RFC 7143 §13.12).
func splitText(b []byte, n int) [][]byte {
	if n <= 0 {
		n = 8192
	}
	var parts [][]byte
	for len(b) > n {
		parts = append(parts, b[:n])
		b = b[n:]
	}
	return append(parts, b)
}
