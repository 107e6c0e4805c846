package target

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// turnAwayShare is the part of Config.MaxTurnAways that one address may have.
const turnAwayShare = 4

// turnAway answers the login of a connection for which there is no room with status 0301h, on which initiators try again, where a
// bare close would look like a fault. It owns nc. Config.MaxTurnAways bounds how many are told so at once.
func (s *Server) turnAway(nc net.Conn, p *portal, from netip.AddrPort) {
	g := s.greeter(nc, p, from)
	defer nc.Close()
	defer s.survive(from)
	nc.SetDeadline(time.Now().Add(answerTime))
	h, _, err := g.read(maxFirstData)
	if err != nil && !errors.Is(err, errTooLong) || h.Opcode() != pdu.OpLoginReq {
		return
	}
	req := (*pdu.LoginReq)(h)
	var resp pdu.Header
	(*pdu.LoginResp)(&resp).Init(h.ITT(), req.ISID(), req.TSIH(), pdu.ServiceUnavailable, false, false, req.CSG(), 0, 0)
	resp.SetWindow(h.CmdSN(), h.CmdSN())
	g.statSN = h.ExpStatSN()
	if g.write(&resp, nil, true) == nil && err != nil {
		g.linger(h)
	}
}

// maxFirstData is the data segment that a Login Request may have before anything was declared (RFC 7143 §13.12).
const maxFirstData = 8192
