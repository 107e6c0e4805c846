package main

import (
	"bytes"
	"encoding/binary"
	"strconv"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

func (c *conn) handle(h *pdu.Header, data []byte) {
	op := h.Opcode()
	if !h.Immediate() && op != pdu.OpDataOut {
		c.expCmdSN = uint32(h.CmdSN()) + 1
	}
	switch op {
	case pdu.OpSCSICommand:
		c.command((*pdu.SCSICommand)(h), data)
	case pdu.OpDataOut:
		c.dataOut((*pdu.DataOut)(h), data)
	case pdu.OpNOPOut:
		if h.ITT() != pdu.NoTag {
			c.plain(pdu.OpNOPIn, h)
		}
	case pdu.OpLoginReq:
		c.login((*pdu.LoginReq)(h), data)
	case pdu.OpLogoutReq:
		c.plain(pdu.OpLogoutResp, h)
	}
}

// plain answers a request with an empty PDU.
func (c *conn) plain(op pdu.Opcode, req *pdu.Header) {
	h, _ := c.room(0)
	h[0], h[1] = byte(op), flagFinal
	h.SetITT(req.ITT())
	if op == pdu.OpNOPIn {
		h.SetTTT(pdu.NoTag)
	}
	c.number(h, true)
}

// The opcodes of SPC and SBC that an initiator needs before and during the load.
const (
	opInquiry      = 0x12
	opModeSense6   = 0x1a
	opReadCap10    = 0x25
	opRead10       = 0x28
	opWrite10      = 0x2a
	opRead16       = 0x88
	opWrite16      = 0x8a
	opServiceIn16  = 0x9e // READ CAPACITY(16)
	opReportLUNs   = 0xa0
	opModeSense10  = 0x5a
	peripheralLUN1 = 0x0001 << 48
)

func (c *conn) command(cmd *pdu.SCSICommand, data []byte) {
	h, cdb, want := cmd.H(), cmd.CDB(), int(cmd.EDTL())
	switch cdb[0] {
	case opRead10, opRead16:
		c.read(h.ITT(), offset(cdb), want)
	case opWrite10, opWrite16:
		c.write(h, offset(cdb), want, data)
	case opInquiry:
		c.dataIn(h.ITT(), want, inquiry(cdb))
	case opModeSense6:
		c.dataIn(h.ITT(), want, []byte{3, 0, 0, 0})
	case opModeSense10:
		c.dataIn(h.ITT(), want, []byte{0, 6, 0, 0, 0, 0, 0, 0})
	case opReadCap10:
		r := binary.BigEndian.AppendUint32(nil, uint32(min(c.disk.blocks-1, 1<<32-1)))
		c.dataIn(h.ITT(), want, binary.BigEndian.AppendUint32(r, blockSize))
	case opServiceIn16:
		r := binary.BigEndian.AppendUint64(nil, c.disk.blocks-1)
		c.dataIn(h.ITT(), want, append(binary.BigEndian.AppendUint32(r, blockSize), make([]byte, 20)...))
	case opReportLUNs:
		r := binary.BigEndian.AppendUint64(nil, 16<<32)
		c.dataIn(h.ITT(), want, binary.BigEndian.AppendUint64(append(r, make([]byte, 8)...), peripheralLUN1))
	default:
		c.good(h.ITT())
	}
}

// offset returns the byte where a READ or WRITE of 10 or 16 bytes begins.
func offset(cdb []byte) uint64 {
	if cdb[0] == opRead10 || cdb[0] == opWrite10 {
		return uint64(binary.BigEndian.Uint32(cdb[2:])) * blockSize
	}
	return binary.BigEndian.Uint64(cdb[2:]) * blockSize
}

func inquiry(cdb []byte) []byte {
	if cdb[1]&1 != 0 { // a VPD page: the list of pages has one entry, all others are empty
		r := []byte{0, cdb[2], 0, 0}
		if cdb[2] == 0 {
			r[3] = 1
			r = append(r, 0)
		}
		return r
	}
	r := append(make([]byte, 0, 36), 0, 0, 6, 2, 31, 0, 0, 2)
	return append(r, "LUNAR   FLOOR           1   "...)
}

// write takes a WRITE with its immediate data, and asks for what may not come unasked.
func (c *conn) write(h *pdu.Header, base uint64, want int, data []byte) {
	pwrite(c.disk.fd, data, base)
	if len(data) >= want {
		c.good(h.ITT())
		return
	}
	w := write{lun: h.LUN(), itt: h.ITT(), base: base, want: want, got: len(data), burst: len(data)}
	if c.unsolicited && !h.Final() {
		w.burst = min(want, c.firstBurst)
	} else {
		c.ask(&w)
	}
	c.writes = append(c.writes, w)
}

// ask sends an R2T for the next burst.
func (c *conn) ask(w *write) {
	n := min(w.want-w.got, c.maxBurst)
	h, _ := c.room(0)
	h[0], h[1] = byte(pdu.OpR2T), flagFinal
	h.SetLUN(w.lun)
	h.SetITT(w.itt)
	h.SetTTT(w.itt &^ (1 << 31))
	h.SetStatSN(pdu.SN(c.statSN))
	c.number(h, false)
	binary.BigEndian.PutUint32(h[36:], uint32(w.r2ts))
	binary.BigEndian.PutUint32(h[40:], uint32(w.got))
	binary.BigEndian.PutUint32(h[44:], uint32(n))
	w.r2ts++
	w.burst = w.got + n
}

func (c *conn) dataOut(d *pdu.DataOut, data []byte) {
	itt := d.H().ITT()
	for i := range c.writes {
		w := &c.writes[i]
		if w.itt != itt {
			continue
		}
		pwrite(c.disk.fd, data, w.base+uint64(d.Offset()))
		w.got += len(data)
		switch {
		case w.got >= w.want:
			c.good(itt)
			c.writes[i] = c.writes[len(c.writes)-1]
			c.writes = c.writes[:len(c.writes)-1]
		case w.got >= w.burst:
			c.ask(w)
		}
		return
	}
}

// The keys that the floor declares or answers with its own value.
const (
	ownKeys = "MaxRecvDataSegmentLength=262144\x00MaxConnections=1\x00MaxOutstandingR2T=1\x00ErrorRecoveryLevel=0\x00" +
		"DefaultTime2Wait=2\x00DefaultTime2Retain=0\x00DataPDUInOrder=Yes\x00DataSequenceInOrder=Yes\x00" +
		"HeaderDigest=None\x00DataDigest=None\x00"
	maxBurstLength   = 1 << 20
	firstBurstLength = 256 << 10
)

// login agrees to whatever stage is proposed. Burst lengths are the smaller of both sides', InitialR2T and
// ImmediateData are what the initiator wants.
func (c *conn) login(req *pdu.LoginReq, data []byte) {
	c.expCmdSN = uint32(req.H().CmdSN())
	c.statSN = uint32(req.H().ExpStatSN())
	c.firstBurst, c.maxBurst, c.unsolicited = firstBurstLength, maxBurstLength, true
	answer := []byte("AuthMethod=None\x00TargetPortalGroupTag=1\x00")
	if req.CSG() == pdu.OperationalStage {
		answer = []byte(ownKeys)
		for _, kv := range bytes.Split(data, []byte{0}) {
			key, value, _ := bytes.Cut(kv, []byte{'='})
			answer = c.negotiate(answer, string(key), string(value))
		}
	}
	h, b := c.room(len(answer))
	copy(b, answer)
	clear(c.out[c.outN-(pdu.Pad(len(answer))-len(answer)) : c.outN])
	(*pdu.LoginResp)(h).Init(req.H().ITT(), req.ISID(), 1, 0, req.Transit(), false, req.CSG(), req.NSG(), len(answer))
	c.number(h, true)
}

func (c *conn) negotiate(answer []byte, key, value string) []byte {
	switch key {
	case "InitialR2T":
		c.unsolicited = value == "No"
	case "ImmediateData":
	case "FirstBurstLength", "MaxBurstLength":
		n, err := strconv.Atoi(value)
		if err != nil {
			return answer
		}
		if key == "FirstBurstLength" {
			c.firstBurst = min(c.firstBurst, n)
			n = c.firstBurst
		} else {
			c.maxBurst = min(c.maxBurst, n)
			n = c.maxBurst
		}
		value = strconv.Itoa(n)
	default:
		return answer
	}
	return append(answer, key+"="+value+"\x00"...)
}
