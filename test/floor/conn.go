package main

import (
	"encoding/binary"
	"syscall"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// Sizes of a connection's buffers. Receiving and answering stop being one call each below about a MiB.
const (
	inLen   = 1 << 20
	outHigh = 4 << 20 // answers beyond this wait until the socket took some
	outLen  = 12 << 20
	maxData = 256 << 10 // MaxRecvDataSegmentLength that is declared, and the longest Data-In
	window  = 255
)

// A conn is one session's one connection.
type conn struct {
	fd       int
	ep       int
	disk     disk
	interest uint32 // epoll events asked for

	in      []byte
	inN     int // bytes received and not yet handled
	out     []byte
	outN    int // bytes answered
	outSent int // of those, handed to the socket

	statSN, expCmdSN uint32
	firstBurst       int // negotiated; data beyond it is asked for by R2T
	maxBurst         int
	unsolicited      bool // InitialR2T=No
	writes           []write
}

// A write is a WRITE whose data has not all come.
type write struct {
	lun         sam.LUN
	itt         uint32
	base        uint64 // byte of the disk where it begins
	want, got   int
	burst, r2ts int // end of the burst that is under way; R2Ts sent
}

func newConn(ep, fd int, d disk) *conn {
	return &conn{fd: fd, ep: ep, disk: d, interest: syscall.EPOLLIN, in: make([]byte, inLen), out: make([]byte, outLen)}
}

func (c *conn) close() { _ = syscall.Close(c.fd) } // whatever it says, the descriptor is gone

// ready handles what epoll reported; false ends the connection.
func (c *conn) ready(events uint32) bool {
	if events&syscall.EPOLLOUT != 0 && (!c.flush() || !c.answer()) {
		return false
	}
	if events&^uint32(syscall.EPOLLOUT) == 0 || c.inN == len(c.in) {
		return true
	}
	n, errno := recv(c.fd, c.in[c.inN:])
	if errno == syscall.EAGAIN || errno == syscall.EINTR {
		return true
	}
	if errno != 0 || n == 0 {
		return false
	}
	c.inN += n
	return c.answer()
}

// answer handles the whole PDUs that have come and sends what they gave. It stops where a PDU is not whole, or
// where the socket is full: then room in the socket brings it back.
func (c *conn) answer() bool {
	for {
		done := 0
		for c.outN < outHigh && c.inN-done >= pdu.HeaderLen {
			h := pdu.HeaderAt(c.in[done:])
			n := h.WireLen()
			if c.inN-done < n {
				break
			}
			from := done + pdu.HeaderLen + h.AHSLen()
			c.handle(h, c.in[from:from+h.DataLen()])
			done += n
		}
		copy(c.in, c.in[done:c.inN])
		c.inN -= done
		full := c.outN >= outHigh
		if !c.flush() {
			return false
		}
		if !full || c.outN > 0 {
			return true
		}
	}
}

// flush sends what there is, and asks epoll for room when the socket is full.
func (c *conn) flush() bool {
	for c.outSent < c.outN {
		n, errno := send(c.fd, c.out[c.outSent:c.outN])
		if errno == syscall.EAGAIN {
			break
		}
		if errno != 0 && errno != syscall.EINTR {
			return false
		}
		if errno == 0 {
			c.outSent += n
		}
	}
	interest := uint32(syscall.EPOLLIN)
	if c.outSent == c.outN {
		c.outSent, c.outN = 0, 0
	} else {
		interest |= syscall.EPOLLOUT
	}
	if interest != c.interest {
		c.interest = interest
		e := syscall.EpollEvent{Events: interest, Fd: int32(c.fd)}
		return syscall.EpollCtl(c.ep, syscall.EPOLL_CTL_MOD, c.fd, &e) == nil
	}
	return true
}

// room returns a zeroed header at the end of the output and n bytes of data segment after it, as they are.
func (c *conn) room(n int) (*pdu.Header, []byte) {
	h := pdu.HeaderAt(c.out[c.outN:])
	*h = pdu.Header{}
	from := c.outN + pdu.HeaderLen
	c.outN = from + pdu.Pad(n)
	return h, c.out[from : from+n]
}

// number sets the sequence numbers of an answer; one with status takes a StatSN.
func (c *conn) number(h *pdu.Header, status bool) {
	if status {
		h.SetStatSN(pdu.SN(c.statSN))
		c.statSN++
	}
	h.SetWindow(pdu.SN(c.expCmdSN), pdu.SN(c.expCmdSN+window))
}

// good answers itt with status GOOD.
func (c *conn) good(itt uint32) {
	h, _ := c.room(0)
	h[0], h[1] = byte(pdu.OpSCSIResponse), flagFinal
	h.SetITT(itt)
	c.number(h, true)
}

// dataIn sends data, at most maxData of it, in one PDU with status.
func (c *conn) dataIn(itt uint32, want int, data []byte) {
	data = data[:min(want, len(data))]
	h, b := c.room(len(data))
	copy(b, data)
	c.dataHeader(h, itt, 0, 0, len(data))
	c.last(h, want-len(data))
}

// read sends want bytes of the disk from off on.
func (c *conn) read(itt uint32, off uint64, want int) {
	for sn, at := uint32(0), 0; at < want; sn++ {
		n := min(want-at, maxData)
		h, b := c.room(n)
		pread(c.disk.fd, b, off+uint64(at))
		c.dataHeader(h, itt, sn, at, n)
		at += n
		if at == want {
			c.last(h, 0)
		} else {
			c.number(h, false)
		}
	}
}

func (c *conn) dataHeader(h *pdu.Header, itt, sn uint32, at, n int) {
	h[0] = byte(pdu.OpDataIn)
	h.SetDataLen(n)
	h.SetITT(itt)
	h.SetTTT(pdu.NoTag)
	binary.BigEndian.PutUint32(h[36:], sn)
	binary.BigEndian.PutUint32(h[40:], uint32(at))
}

// last makes h the Data-In that carries status GOOD, with under bytes fewer than asked for.
func (c *conn) last(h *pdu.Header, under int) {
	h[1] = flagFinal | flagStatus
	if under > 0 {
		h[1] |= pdu.Underflow
		binary.BigEndian.PutUint32(h[44:], uint32(under))
	}
	c.number(h, true)
}

// Bits of byte 1.
const (
	flagFinal  = 0x80
	flagStatus = 0x01
)
