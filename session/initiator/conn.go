package initiator

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// Bounds of a Conn, each the default of the field of that name.
const (
	// DefaultTimeout bounds one Recv or Send.
	DefaultTimeout = 5 * time.Second
	// DefaultMaxRecv is the data segment we take: what we declare as MaxRecvDataSegmentLength.
	DefaultMaxRecv = 256 << 10
)

// A PDU is one PDU as it was received. Data is without pad; AHS and Data are the receiver's own memory.
type PDU struct {
	pdu.Header
	AHS  []byte
	Data []byte
}

// A Conn is one connection at the level of PDUs. It sends what it is given and checks nothing but lengths and
// digests of what it reads; the numbers it keeps are fields, to be read or set between calls. One goroutine at a time
// may send and one receive; the fields belong to whichever of the two the test gives them to.
type Conn struct {
	NC net.Conn

	CmdSN     pdu.SN // the next command's
	ExpStatSN pdu.SN // the next response's; follows every response that carries a StatSN of its own
	ExpCmdSN  pdu.SN // as last received
	MaxCmdSN  pdu.SN // as last received

	ISID [6]byte
	TSIH uint16
	CID  uint16
	ITT  uint32 // the next Initiator Task Tag that the request builders give

	// Timeout bounds each Recv and Send; 0 means DefaultTimeout.
	Timeout time.Duration
	// MaxRecv is the longest data segment that Recv takes; 0 means DefaultMaxRecv.
	MaxRecv int
	// HeaderDigest and DataDigest turn CRC32C on for both directions (RFC 7143 §13.1).
	HeaderDigest, DataDigest bool
	// MaxText splits key lists into PDUs of at most that many bytes; 0 means 8192, the default
	// MaxRecvDataSegmentLength (RFC 7143 §13.12).
	MaxText int
}

// Dial connects to a portal, host:port.
func Dial(ctx context.Context, portal string) (*Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", portal)
	if err != nil {
		return nil, err
	}
	return NewConn(nc), nil
}

// NewConn returns a Conn over nc, which it then owns. CmdSN starts at 1, ITT at 1.
func NewConn(nc net.Conn) *Conn {
	return &Conn{NC: nc, CmdSN: 1, ITT: 1, ISID: [6]byte{0x80, 0, 0, 0, 0, 1}}
}

// Close closes the connection without a word to the target.
func (c *Conn) Close() error { return c.NC.Close() }

func (c *Conn) timeout() time.Duration {
	if c.Timeout > 0 {
		return c.Timeout
	}
	return DefaultTimeout
}

// Send sets h's DataSegmentLength to that of data and sends the PDU, padded and with the digests in force.
// Nothing else of h is changed: see Stamp. Neither h nor data is kept.
func (c *Conn) Send(h *pdu.Header, data []byte) error { return c.SendAHS(h, nil, data) }

// SendAHS is Send with additional header segments, whose length must be a multiple of four up to 1020.
func (c *Conn) SendAHS(h *pdu.Header, ahs, data []byte) error {
	if len(ahs)%4 != 0 || len(ahs) > 1020 {
		return fmt.Errorf("AHS of %d bytes", len(ahs))
	}
	h[4] = byte(len(ahs) / 4)
	h.SetDataLen(len(data))
	return c.SendBytes(Frame(h, ahs, data, c.HeaderDigest, c.DataDigest))
}

// Frame returns a PDU as it goes over the wire: header, AHS, digest, data, pad, digest. The lengths in h
// are used as they stand, so that a test may have them lie.
func Frame(h *pdu.Header, ahs, data []byte, headerDigest, dataDigest bool) []byte {
	b := make([]byte, 0, pdu.HeaderLen+len(ahs)+pdu.Pad(len(data))+2*pdu.DigestLen)
	b = append(b, h[:]...)
	b = append(b, ahs...)
	if headerDigest {
		b = pdu.AppendDigest(b, pdu.Digest(b))
	}
	if len(data) > 0 {
		at := len(b)
		b = append(b, data...)
		b = append(b, make([]byte, pdu.Pad(len(data))-len(data))...)
		if dataDigest {
			b = pdu.AppendDigest(b, pdu.Digest(b[at:]))
		}
	}
	return b
}

// SendBytes sends b as it is.
func (c *Conn) SendBytes(b []byte) error {
	if err := c.NC.SetWriteDeadline(time.Now().Add(c.timeout())); err != nil {
		return err
	}
	_, err := c.NC.Write(b)
	return err
}

// Recv reads the next PDU, waiting at most Timeout (the error is then os.ErrDeadlineExceeded), and keeps ExpStatSN, ExpCmdSN
// and MaxCmdSN. A target that closed the connection between PDUs gives io.EOF.
func (c *Conn) Recv() (*PDU, error) {
	if err := c.NC.SetReadDeadline(time.Now().Add(c.timeout())); err != nil {
		return nil, err
	}
	p := new(PDU)
	if _, err := io.ReadFull(c.NC, p.Header[:]); err != nil {
		return nil, err
	}
	maxRecv := c.MaxRecv
	if maxRecv == 0 {
		maxRecv = DefaultMaxRecv
	}
	if p.DataLen() > maxRecv {
		return nil, fmt.Errorf("%v with a data segment of %d bytes, we declared %d", p.Opcode(), p.DataLen(), maxRecv)
	}
	ahs, hd, dd := p.AHSLen(), 0, 0
	if c.HeaderDigest {
		hd = pdu.DigestLen
	}
	if c.DataDigest && p.DataLen() > 0 {
		dd = pdu.DigestLen
	}
	rest := make([]byte, ahs+hd+pdu.Pad(p.DataLen())+dd)
	if _, err := io.ReadFull(c.NC, rest); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if ahs > 0 {
		p.AHS = rest[:ahs]
	}
	if hd > 0 {
		crc := pdu.UpdateDigest(pdu.Digest(p.Header[:]), p.AHS)
		if got := pdu.DigestAt(rest[ahs:]); got != crc {
			return nil, fmt.Errorf("%v with header digest %08x, want %08x", p.Opcode(), got, crc)
		}
	}
	seg := rest[ahs+hd : len(rest)-dd]
	p.Data = seg[:p.DataLen()]
	if dd > 0 {
		crc := pdu.Digest(seg)
		if got := pdu.DigestAt(rest[len(rest)-dd:]); got != crc {
			return nil, fmt.Errorf("%v with data digest %08x, want %08x", p.Opcode(), got, crc)
		}
	}
	c.note(&p.Header)
	return p, nil
}

// note keeps the numbers of a received PDU.
func (c *Conn) note(h *pdu.Header) {
	c.ExpCmdSN, c.MaxCmdSN = h.ExpCmdSN(), h.MaxCmdSN()
	if carriesStatSN(h) {
		c.ExpStatSN = h.StatSN() + 1
	}
}

// carriesStatSN reports whether h uses up a StatSN: R2T and a NOP-In without an Initiator Task Tag only show the next one, and
// Data-In carries one with the S bit only (RFC 7143 §11.7.3, §11.8.3, §11.19.2).
func carriesStatSN(h *pdu.Header) bool {
	switch h.Opcode() {
	case pdu.OpDataIn:
		return (*pdu.DataIn)(h).HasStatus()
	case pdu.OpR2T:
		return false
	case pdu.OpNOPIn:
		return h.ITT() != pdu.NoTag
	}
	return true
}

// Expect reads the next PDU and returns an error if its opcode is not op; the PDU is returned all the same.
func (c *Conn) Expect(op pdu.Opcode) (*PDU, error) {
	p, err := c.Recv()
	if err != nil {
		return nil, fmt.Errorf("waiting for %v: %w", op, err)
	}
	if p.Opcode() == op {
		return p, nil
	}
	if p.Opcode() == pdu.OpReject {
		return p, fmt.Errorf("waiting for %v: Reject, reason %02Xh", op, uint8((*pdu.Reject)(&p.Header).Reason()))
	}
	return p, fmt.Errorf("waiting for %v: got %v", op, p.Opcode())
}
