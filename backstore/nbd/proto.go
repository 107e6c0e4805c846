package nbd

import (
	"encoding/binary"
	"fmt"

	"github.com/lunar-iscsi/lunar/backstore"
)

// The protocol's numbers (NBD, "Values").
const (
	magicInit       = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption     = 0x49484156454f5054 // "IHAVEOPT"
	magicOldstyle   = 0x00420281861253   // what follows NBDMAGIC in the oldstyle handshake
	magicOptReply   = 0x3e889045565a9
	magicRequest    = 0x25609513
	magicSimple     = 0x67446698
	magicStructured = 0x668e33ef

	// With extended headers.
	magicExtRequest = 0x21e41c71
	magicExtReply   = 0x6e8a278c

	// Handshake flags, the server's and the client's.
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1

	optAbort      = 2
	optList       = 3
	optStartTLS   = 5
	optInfo       = 6
	optGo         = 7
	optStructured = 8
	optSetContext = 10
	optExtended   = 11

	repAck    = 1
	repServer = 2
	repInfo   = 3
	repMeta   = 4
	repError  = 1 << 31 // set in every error
	errUnsup  = repError + 1
	errPolicy = repError + 2
	errInval  = repError + 3
	errPlatf  = repError + 4
	errTLS    = repError + 5
	errUnkn   = repError + 6
	errShut   = repError + 7
	errBlkReq = repError + 8
	errTooBig = repError + 9

	infoExport    = 0
	infoBlockSize = 3

	// Transmission flags.
	tfHasFlags    = 1 << 0
	tfReadOnly    = 1 << 1
	tfFlush       = 1 << 2
	tfFUA         = 1 << 3
	tfRotational  = 1 << 4
	tfTrim        = 1 << 5
	tfWriteZeroes = 1 << 6
	tfMultiConn   = 1 << 8
	tfFastZero    = 1 << 11

	cmdRead        = 0
	cmdWrite       = 1
	cmdDisc        = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdWriteZeroes = 6
	cmdBlockStatus = 7

	cfFUA      = 1 << 0
	cfNoHole   = 1 << 1
	cfReqOne   = 1 << 3
	cfFastZero = 1 << 4
	cfPayload  = 1 << 5

	chunkDone       = 1 << 0 // a flag
	chunkNone       = 0
	chunkData       = 1
	chunkHole       = 2
	chunkStatus     = 5
	chunkStatusExt  = 6
	chunkErrorBit   = 1 << 15 // set in the type of every error chunk
	chunkError      = chunkErrorBit + 1
	chunkErrorAtOff = chunkErrorBit + 2

	requestSize    = 28 // bytes of a request's header
	extRequestSize = 32
	simpleSize     = 16
	chunkSize      = 20
	extChunkSize   = 32

	// Bytes behind a chunk's header that say how to read the rest of its payload.
	dataHead    = 8  // OFFSET_DATA: the offset
	holeHead    = 12 // OFFSET_HOLE: offset and length
	errorHead   = 6  // an error chunk: number and length of the message
	statusHead  = 4  // BLOCK_STATUS: the context
	extentSize  = 8  // one of its descriptors: length and flags
	statusHead2 = 8  // BLOCK_STATUS_EXT: context and number of descriptors
	extentSize2 = 16
	mostHead    = 16

	// The flags of base:allocation.
	contextName = "base:allocation"
	stateHole   = 1 << 0

	nbdEPERM     = 1
	nbdEIO       = 5
	nbdENOMEM    = 12
	nbdEINVAL    = 22
	nbdENOSPC    = 28
	nbdEOVERFLOW = 75
	nbdENOTSUP   = 95
	nbdESHUTDOWN = 108
)

// putRequest writes a request's header (NBD, "Request message") to b.
func putRequest(b *[requestSize]byte, flags, cmd uint16, cookie uint64, off int64, n uint32) {
	binary.BigEndian.PutUint32(b[0:], magicRequest)
	binary.BigEndian.PutUint16(b[4:], flags)
	binary.BigEndian.PutUint16(b[6:], cmd)
	binary.BigEndian.PutUint64(b[8:], cookie)
	binary.BigEndian.PutUint64(b[16:], uint64(off))
	binary.BigEndian.PutUint32(b[24:], n)
}

// putExtended is putRequest where extended headers were agreed on.
func putExtended(b *[extRequestSize]byte, flags, cmd uint16, cookie uint64, off, n int64) {
	if cmd == cmdWrite {
		flags |= cfPayload // the length is that of data that follow
	}
	binary.BigEndian.PutUint32(b[0:], magicExtRequest)
	binary.BigEndian.PutUint16(b[4:], flags)
	binary.BigEndian.PutUint16(b[6:], cmd)
	binary.BigEndian.PutUint64(b[8:], cookie)
	binary.BigEndian.PutUint64(b[16:], uint64(off))
	binary.BigEndian.PutUint64(b[24:], uint64(n))
}

// goodbye is NBD_CMD_DISC.
func goodbye(extended bool) []byte {
	if extended {
		var b [extRequestSize]byte
		putExtended(&b, 0, cmdDisc, 0, 0, 0)
		return b[:]
	}
	var b [requestSize]byte
	putRequest(&b, 0, cmdDisc, 0, 0, 0)
	return b[:]
}

// errors by number (NBD, "Error values").
var wireErrors = map[uint32]struct {
	name  string
	class backstore.Class
}{
	nbdEPERM:     {"EPERM", backstore.ClassReadOnly},
	nbdEIO:       {"EIO", backstore.ClassMedium},
	nbdENOMEM:    {"ENOMEM", backstore.ClassBusy},
	nbdEINVAL:    {"EINVAL", backstore.ClassRange},
	nbdENOSPC:    {"ENOSPC", backstore.ClassNoSpace},
	nbdEOVERFLOW: {"EOVERFLOW", backstore.ClassRange},
	nbdENOTSUP:   {"ENOTSUP", backstore.ClassUnsupported},
	nbdESHUTDOWN: {"ESHUTDOWN", backstore.ClassOffline},
}

// A ServerError is the cause of a request's error that the server answered.
type ServerError struct {
	Errno uint32 // the protocol's error number
	Text  string // what the server said to it, printable; may be empty
}

func (e *ServerError) Error() string {
	s := fmt.Sprintf("error %d", e.Errno)
	if w, ok := wireErrors[e.Errno]; ok {
		s = w.name
	}
	s = "the server answered " + s
	if e.Text != "" {
		s += ": " + e.Text
	}
	return s
}

// classOf sorts an error number; an unknown one is a medium error, which promises least.
func classOf(errno uint32) backstore.Class {
	if w, ok := wireErrors[errno]; ok {
		return w.class
	}
	return backstore.ClassMedium
}

// refused tells whether the error says that the server did not begin to carry the request out.
func refused(errno uint32) bool {
	switch errno {
	case nbdEPERM, nbdEINVAL, nbdEOVERFLOW, nbdENOTSUP, nbdESHUTDOWN:
		return true
	}
	return false
}

// printable makes a server's text fit for a log: no control characters, at most maxText bytes.
func printable(b []byte) string {
	b = b[:min(len(b), maxText)]
	out := make([]rune, 0, len(b))
	for _, r := range string(b) {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			r = '?'
		}
		out = append(out, r)
	}
	return string(out)
}
