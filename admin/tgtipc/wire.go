package tgtipc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strconv"
)

// Sizes of the protocol, in bytes.
const (
	HeaderSize   = 120
	ResponseSize = 8
	// MaxPayload is the longest payload, its NUL included, that a tgtd reads; a longer one closes the connection.
	MaxPayload = 8192
	// MaxReason bounds the text of a refusal, its NUL included.
	MaxReason = 4096
)

// WantReason in Header.Pack asks for the reason of an error: see the package.
const WantReason uint32 = 0x726e756c

// NoLUN is Header.LUN and NoTID Header.TID where none is named.
const (
	NoLUN = ^uint64(0)
	NoTID = int32(-1)
)

// A Mode is what a request is about.
type Mode uint32

// The modes. ModeDevice is tgtadm's logicalunit.
const (
	ModeSystem Mode = iota
	ModeTarget
	ModeDevice
	ModePortal
	ModeLLD
	ModeSession
	ModeConnection
	ModeAccount
)

// An Op is what is to be done.
type Op uint32

// The operations.
const (
	OpNew Op = iota
	OpDelete
	OpShow
	OpBind
	OpUnbind
	OpUpdate
	OpStats
	OpStart
	OpStop
)

// The values of Header.DeviceType.
const (
	DeviceDisk        uint32 = 0
	DeviceTape        uint32 = 1
	DeviceCD          uint32 = 5
	DeviceChanger     uint32 = 8
	DeviceOSD         uint32 = 0x11
	DevicePassthrough uint32 = 0xff
)

// The values of Header.Direction.
const (
	Incoming uint32 = 0
	Outgoing uint32 = 1
)

func (m Mode) String() string {
	return word(uint32(m), "system", "target", "logicalunit", "portal", "lld", "session", "connection", "account")
}

func (o Op) String() string {
	return word(uint32(o), "new", "delete", "show", "bind", "unbind", "update", "stat", "start", "stop")
}

func word(n uint32, words ...string) string {
	if n < uint32(len(words)) {
		return words[n]
	}
	return strconv.Itoa(int(n))
}

// A Header is the fixed part of a request.
type Header struct {
	Mode       Mode
	Op         Op
	LLD        string // driver, at most 63 bytes; empty: iscsi
	Len        uint32 // bytes of header and payload; Append computes it
	TID        int32  // NoTID: all targets or, of accounts, discovery
	SID        uint64
	LUN        uint64 // NoLUN: none
	CID        uint32
	Host       uint32
	DeviceType uint32
	Direction  uint32 // of an account: Incoming or Outgoing
	Pack       uint32 // 0, or WantReason
	Force      uint32 // not 0: yes
}

// Offsets of the header's fields. Nothing is padded, on any architecture.
const (
	offMode   = 0
	offOp     = 4
	offLLD    = 8
	lenLLD    = 64
	offLen    = 72
	offTID    = 76
	offSID    = 80
	offLUN    = 88
	offCID    = 96
	offHost   = 100
	offType   = 104
	offDir    = 108
	offPack   = 112
	offForce  = 116
	offErr    = 0 // of a response
	offErrLen = 4
)

// Append appends a request to b: the header with its length and, where payload is not empty, the payload with a NUL.
func (h *Header) Append(b []byte, payload string) []byte {
	var raw [HeaderSize]byte
	ne := binary.NativeEndian
	ne.PutUint32(raw[offMode:], uint32(h.Mode))
	ne.PutUint32(raw[offOp:], uint32(h.Op))
	copy(raw[offLLD:offLLD+lenLLD], h.LLD)
	n := HeaderSize
	if payload != "" {
		n += len(payload) + 1
	}
	ne.PutUint32(raw[offLen:], uint32(n))
	ne.PutUint32(raw[offTID:], uint32(h.TID))
	ne.PutUint64(raw[offSID:], h.SID)
	ne.PutUint64(raw[offLUN:], h.LUN)
	ne.PutUint32(raw[offCID:], h.CID)
	ne.PutUint32(raw[offHost:], h.Host)
	ne.PutUint32(raw[offType:], h.DeviceType)
	ne.PutUint32(raw[offDir:], h.Direction)
	ne.PutUint32(raw[offPack:], h.Pack)
	ne.PutUint32(raw[offForce:], h.Force)
	b = append(b, raw[:]...)
	if payload != "" {
		b = append(append(b, payload...), 0)
	}
	return b
}

// parseHeader reads a header.
func parseHeader(raw *[HeaderSize]byte) Header {
	ne := binary.NativeEndian
	lld := raw[offLLD : offLLD+lenLLD-1] // tgtd takes the last byte for the NUL that a long name has pushed out
	if i := bytes.IndexByte(lld, 0); i >= 0 {
		lld = lld[:i]
	}
	return Header{
		Mode: Mode(ne.Uint32(raw[offMode:])), Op: Op(ne.Uint32(raw[offOp:])), LLD: string(lld), Len: ne.Uint32(raw[offLen:]),
		TID: int32(ne.Uint32(raw[offTID:])), SID: ne.Uint64(raw[offSID:]), LUN: ne.Uint64(raw[offLUN:]), CID: ne.Uint32(raw[offCID:]),
		Host: ne.Uint32(raw[offHost:]), DeviceType: ne.Uint32(raw[offType:]), Direction: ne.Uint32(raw[offDir:]),
		Pack: ne.Uint32(raw[offPack:]), Force: ne.Uint32(raw[offForce:]),
	}
}

// appendResponse appends a response to b: number, length and, where text is not empty, the text with a NUL.
func appendResponse(b []byte, err Errno, text string) []byte {
	n := ResponseSize
	if text != "" {
		n += len(text) + 1
	}
	b = binary.NativeEndian.AppendUint32(b, uint32(err))
	b = binary.NativeEndian.AppendUint32(b, uint32(n))
	if text != "" {
		b = append(append(b, text...), 0)
	}
	return b
}

// ReadResponse reads a response: the daemon's error number and the text up to its NUL, which with an error is the reason (see the
// package). A text above limit bytes is an error; limit 0: there is none. An end before the first byte is io.EOF, one within it
// io.ErrUnexpectedEOF.
func ReadResponse(r io.Reader, limit int) (Errno, string, error) {
	var head [ResponseSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, "", err
	}
	no, n := Errno(binary.NativeEndian.Uint32(head[offErr:])), binary.NativeEndian.Uint32(head[offErrLen:])
	if n < ResponseSize {
		return no, "", fmt.Errorf("a response of %d bytes; the least is %d", n, ResponseSize)
	}
	n -= ResponseSize
	if limit > 0 && int64(n) > int64(limit) {
		return no, "", fmt.Errorf("a response with %d bytes of text; the most is %d", n, limit)
	}
	var text bytes.Buffer // grows with what comes, not with what is announced
	if got, err := io.CopyN(&text, r, int64(n)); err != nil {
		return no, "", fmt.Errorf("a response ended after %d of %d bytes of text: %w", got, n, io.ErrUnexpectedEOF)
	}
	before, _, _ := bytes.Cut(text.Bytes(), []byte{0})
	return no, string(before), nil
}

// DefaultPrefix is what tgt's sockets are called before their number.
const DefaultPrefix = "/var/run/tgtd/socket"

// PrefixEnv is the environment variable that says another prefix.
const PrefixEnv = "TGT_IPC_SOCKET"

// MaxPort is the highest control port.
const MaxPort = 32767

// SocketPath is the path of the socket of a control port, and whether the environment said so.
func SocketPath(port int) (path string, fromEnv bool) {
	prefix := os.Getenv(PrefixEnv)
	if fromEnv = prefix != ""; !fromEnv {
		prefix = DefaultPrefix
	}
	return prefix + "." + strconv.Itoa(port), fromEnv
}
