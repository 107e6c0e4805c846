package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// The header of a request on tgt's management socket, in the machine's byte order, as far as it is needed here.
const (
	headerSize = 120
	replySize  = 8
	noLUN      = ^uint64(0)

	modeTarget, modeUnit                      = 1, 2
	opNew, opDelete, opShow, opUpdate, opStat = 0, 1, 2, 5, 6
	opBind, opUnbind                          = 3, 4
	callTimeout                               = 30 * time.Second
	mostReply                                 = 1 << 20
)

// A call is one request.
type call struct {
	name     string
	mode, op uint32
	tid      int32
	lun      uint64
	payload  string
}

// do makes the call on a connection of its own, as tgtadm does, and returns the text of the answer.
func (c *call) do(ctx context.Context, socket string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline() // it has one
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	h := make([]byte, headerSize, headerSize+len(c.payload)+1)
	put := binary.NativeEndian.PutUint32
	put(h[0:], c.mode)
	put(h[4:], c.op)
	copy(h[8:], "iscsi")
	put(h[76:], uint32(c.tid))
	binary.NativeEndian.PutUint64(h[88:], c.lun)
	if c.payload != "" {
		h = append(append(h, c.payload...), 0)
	}
	put(h[72:], uint32(len(h)))
	if _, err := conn.Write(h); err != nil {
		return "", err
	}
	var r [replySize]byte
	if _, err := io.ReadFull(conn, r[:]); err != nil {
		return "", fmt.Errorf("%s: %w", c.name, err)
	}
	if n := binary.NativeEndian.Uint32(r[0:]); n != 0 {
		return "", fmt.Errorf("%s: refused with number %d", c.name, n)
	}
	n := binary.NativeEndian.Uint32(r[4:])
	if n < replySize || n > mostReply {
		return "", fmt.Errorf("%s: an answer of %d bytes", c.name, n)
	}
	text := make([]byte, n-replySize)
	if _, err := io.ReadFull(conn, text); err != nil {
		return "", fmt.Errorf("%s: %w", c.name, err)
	}
	return string(bytes.TrimRight(text, "\x00")), nil
}

// spareLUN is put there and taken away again by the calls; spareRule likewise.
const (
	spareLUN  = 9
	spareRule = "initiator-address=192.0.2.7"
)

// mix returns call number n of an endless row on target tid: of ten, four show or count, six change something and are saved.
func mix(tid int32, n int) call {
	switch n % 10 {
	case 0, 5:
		return call{name: "show", mode: modeTarget, op: opShow, tid: -1, lun: noLUN}
	case 1:
		return call{name: "bind", mode: modeTarget, op: opBind, tid: tid, lun: noLUN, payload: spareRule}
	case 2:
		return call{name: "new LUN", mode: modeUnit, op: opNew, tid: tid, lun: spareLUN, payload: "path=null,bstype=null"}
	case 3, 8:
		return call{name: "stat", mode: modeTarget, op: opStat, tid: tid, lun: noLUN}
	case 4, 9:
		return call{name: "set", mode: modeTarget, op: opUpdate, tid: tid, lun: noLUN, payload: fmt.Sprintf("MaxOutstandingR2T=%d", 1+n%7)}
	case 6:
		return call{name: "unbind", mode: modeTarget, op: opUnbind, tid: tid, lun: noLUN, payload: spareRule}
	default:
		return call{name: "delete LUN", mode: modeUnit, op: opDelete, tid: tid, lun: spareLUN}
	}
}
