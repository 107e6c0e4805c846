package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

// An export is what the handshake tells of a volume.
type export struct {
	size       uint64
	flags      uint16 // transmission flags
	structured bool
	blocks     bool // min, preferred and payload were given
	min        uint32
	preferred  uint32
	payload    uint32
}

// dial connects and shakes hands. The descriptor is a non-blocking socket that the caller owns, with nothing
// read beyond the handshake. Errors are *backstore.Error.
func dial(ctx context.Context, c *config, limit time.Duration) (fd int, ex *export, err error) {
	ctx, cancel := context.WithTimeout(ctx, min(limit, connectTime)+min(limit, handshakeTime))
	defer cancel()
	d := net.Dialer{Timeout: min(limit, connectTime), KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: keepIdle, Interval: keepInterval, Count: keepCount}}
	nc, err := d.DialContext(ctx, c.network, c.addr)
	if err != nil {
		return -1, nil, &backstore.Error{Class: backstore.ClassOffline, Op: "open", Cause: err}
	}
	defer func() { _ = nc.Close() }() // what is used is a duplicate
	if err := nc.SetDeadline(time.Now().Add(min(limit, handshakeTime))); err != nil {
		return -1, nil, &backstore.Error{Class: backstore.ClassInternal, Op: "open", Cause: err}
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) }) // fails only once nc is closed
	defer stop()
	if ex, err = handshake(nc, c.export); err != nil {
		var be *backstore.Error
		if !errors.As(err, &be) {
			err = &backstore.Error{Class: backstore.ClassTransport, Op: "open", Cause: fmt.Errorf("handshake with %s: %w", c.addr, err)}
		}
		return -1, nil, err
	}
	sc, err := nc.(syscall.Conn).SyscallConn()
	if err != nil {
		return -1, nil, &backstore.Error{Class: backstore.ClassInternal, Op: "open", Cause: err}
	}
	// A duplicate: closing the net.Conn then takes the socket out of the runtime's poller and leaves the
	// description, with its O_NONBLOCK, alone.
	cerr := sc.Control(func(s uintptr) {
		if fd, err = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0); err == nil && c.network == "tcp" {
			err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
		}
	})
	if err = errors.Join(cerr, err); err != nil {
		return -1, nil, &backstore.Error{Class: backstore.ClassInternal, Op: "open", Cause: err}
	}
	return fd, ex, nil
}

// handshake runs the fixed newstyle handshake (NBD, "Newstyle negotiation") up to the transmission phase.
func handshake(rw io.ReadWriter, name string) (*export, error) {
	var b [18]byte
	if _, err := io.ReadFull(rw, b[:16]); err != nil {
		return nil, fmt.Errorf("no greeting: %w", err)
	}
	if binary.BigEndian.Uint64(b[:]) != magicInit {
		return nil, errors.New("this is no NBD server")
	}
	switch binary.BigEndian.Uint64(b[8:]) {
	case magicOption:
	case magicOldstyle:
		return nil, errors.New("the server speaks only the oldstyle protocol")
	default:
		return nil, errors.New("this is no NBD server")
	}
	if _, err := io.ReadFull(rw, b[16:]); err != nil {
		return nil, fmt.Errorf("no greeting: %w", err)
	}
	flags := binary.BigEndian.Uint16(b[16:])
	if flags&flagFixedNewstyle == 0 {
		return nil, errors.New("the server does not speak the fixed newstyle protocol")
	}
	var answer [4]byte
	binary.BigEndian.PutUint32(answer[:], uint32(flags&(flagFixedNewstyle|flagNoZeroes)))
	if _, err := rw.Write(answer[:]); err != nil {
		return nil, err
	}
	ex := &export{}
	// A server that does not know structured replies answers an error, and goes on with simple ones.
	rep, _, err := option(rw, optStructured, nil, nil)
	if err != nil {
		return nil, err
	}
	ex.structured = rep == repAck

	// NBD_OPT_GO: the name, and which further information is wanted.
	data := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	data = append(data, name...)
	data = binary.BigEndian.AppendUint16(data, 1)
	data = binary.BigEndian.AppendUint16(data, infoBlockSize)
	seen := false
	rep, text, err := option(rw, optGo, data, func(info []byte) error {
		if len(info) < 2 {
			return errors.New("an NBD_REP_INFO without a type")
		}
		switch typ := binary.BigEndian.Uint16(info); {
		case typ == infoExport && len(info) == 12:
			ex.size, ex.flags, seen = binary.BigEndian.Uint64(info[2:]), binary.BigEndian.Uint16(info[10:]), true
		case typ == infoBlockSize && len(info) == 14:
			ex.min, ex.preferred, ex.payload = binary.BigEndian.Uint32(info[2:]), binary.BigEndian.Uint32(info[6:]), binary.BigEndian.Uint32(info[10:])
			ex.blocks = true
		case typ == infoExport || typ == infoBlockSize:
			return fmt.Errorf("an NBD_REP_INFO of type %d with %d bytes", typ, len(info))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if rep != repAck {
		return nil, refusal(rep, name, text)
	}
	if !seen {
		return nil, errors.New("the server did not tell the export's size")
	}
	return ex, ex.check()
}

// option sends one option and reads its answers up to the last: repAck or an error reply's type with its text.
func option(rw io.ReadWriter, opt uint32, data []byte, info func([]byte) error) (rep uint32, text string, err error) {
	msg := binary.BigEndian.AppendUint64(nil, magicOption)
	msg = binary.BigEndian.AppendUint32(msg, opt)
	msg = binary.BigEndian.AppendUint32(msg, uint32(len(data)))
	if _, err := rw.Write(append(msg, data...)); err != nil {
		return 0, "", err
	}
	for range maxOptReplies {
		var h [20]byte
		if _, err := io.ReadFull(rw, h[:]); err != nil {
			return 0, "", fmt.Errorf("no answer to option %d: %w", opt, err)
		}
		n := binary.BigEndian.Uint32(h[16:])
		if binary.BigEndian.Uint64(h[:]) != magicOptReply || binary.BigEndian.Uint32(h[8:]) != opt || n > maxOptReply {
			return 0, "", fmt.Errorf("an answer to option %d that makes no sense", opt)
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(rw, body); err != nil {
			return 0, "", fmt.Errorf("half an answer to option %d: %w", opt, err)
		}
		switch rep = binary.BigEndian.Uint32(h[12:]); {
		case rep == repAck:
			return rep, "", nil
		case rep&repError != 0:
			return rep, printable(body), nil
		case rep == repInfo && info != nil:
			if err := info(body); err != nil {
				return 0, "", err
			}
		default:
			return 0, "", fmt.Errorf("an answer of type %d to option %d", rep, opt)
		}
	}
	return 0, "", fmt.Errorf("more than %d answers to option %d", maxOptReplies, opt)
}

// refusal says in words why the server did not open the export.
func refusal(rep uint32, name, text string) error {
	class, why := backstore.ClassTransport, fmt.Sprintf("the server refused with reply %#x", rep)
	switch rep {
	case errUnkn:
		class, why = backstore.ClassNotFound, fmt.Sprintf("export %q not found on the server", name)
	case errUnsup:
		class, why = backstore.ClassUnsupported, "the server is too old: it does not know NBD_OPT_GO"
	case errPolicy:
		class, why = backstore.ClassUnsupported, "the server's policy forbids it"
	case errInval:
		class, why = backstore.ClassUnsupported, fmt.Sprintf("the server finds the request for export %q invalid", name)
	case errPlatf:
		class, why = backstore.ClassUnsupported, "the server's platform cannot do it"
	case errTLS:
		class, why = backstore.ClassUnsupported, "the server demands TLS, which this driver does not speak"
	case errShut:
		class, why = backstore.ClassOffline, "the server is shutting down"
	case errBlkReq:
		class, why = backstore.ClassUnsupported, "the server demands block sizes that were not agreed on"
	case errTooBig:
		class, why = backstore.ClassUnsupported, "the server finds the request too long"
	}
	if text != "" {
		why += " (it says: " + text + ")"
	}
	return &backstore.Error{Class: class, Op: "open", Cause: errors.New(why)}
}

// check refuses an export that this driver or the protocol cannot mean (NBD, "Block size constraints").
func (ex *export) check() error {
	if ex.size == 0 || ex.size > 1<<63-1 {
		return fmt.Errorf("the export's size of %d bytes is out of range", ex.size)
	}
	if ex.flags&tfHasFlags == 0 {
		return errors.New("the server sent no transmission flags")
	}
	if !ex.blocks {
		return nil
	}
	pow2 := func(n uint32) bool { return n != 0 && n&(n-1) == 0 }
	if !pow2(ex.min) || ex.min > maxBlock || !pow2(ex.preferred) || ex.preferred < max(512, ex.min) ||
		ex.payload < ex.min || (ex.payload != 1<<32-1 && ex.payload%ex.min != 0) {
		return fmt.Errorf("block sizes that make no sense: minimum %d, preferred %d, maximum %d", ex.min, ex.preferred, ex.payload)
	}
	if ex.size < uint64(ex.min) {
		return fmt.Errorf("an export of %d bytes is smaller than its block of %d", ex.size, ex.min)
	}
	return nil
}

// info is what the store says of itself.
func (ex *export) info(c *config) backstore.Info {
	// Without word from the server 512-byte blocks and 32 MiB are what every server takes (NBD, "Block size
	// constraints"); an export of an odd number of bytes keeps its tail only with byte blocks.
	block, preferred, payload := uint32(512), uint32(4096), uint32(maxPayload)
	if ex.blocks {
		block, preferred, payload = ex.min, ex.preferred, min(ex.payload, maxPayload)
	} else if ex.size%512 != 0 {
		block = 1
	}
	i := backstore.Info{
		Driver: c.scheme, Volume: c.addr + "/" + c.export,
		Size: int64(ex.size) &^ int64(block-1), BlockSize: int(block), PhysicalBlock: int(preferred),
		MaxTransfer: int64(payload), MaxInFlight: c.inFlight, MemAlign: 1, MaxDiscard: maxZero,
		ReadOnly:   c.readOnly || ex.flags&tfReadOnly != 0,
		Rotational: ex.flags&tfRotational != 0,
		Coherent:   ex.flags&tfMultiConn != 0,
		Shared:     c.shared,
	}
	if preferred > maxBlock {
		i.PhysicalBlock, i.OptimalIO = max(int(block), 4096), int(preferred)
	}
	if ex.flags&tfFlush != 0 {
		i.Caps |= backstore.CapFlush
		// A FUA read needs FLUSH, so both or nothing.
		if ex.flags&tfFUA != 0 {
			i.Caps |= backstore.CapFUA
		}
	}
	if !i.ReadOnly && ex.flags&tfTrim != 0 {
		i.Caps |= backstore.CapDiscard
	}
	if !i.ReadOnly && ex.flags&tfWriteZeroes != 0 {
		i.Caps |= backstore.CapWriteZeroes
	}
	return i
}

// same tells whether a server that came back offers what the store was opened with.
func (ex *export) same(now *export) error {
	switch {
	case now.size < ex.size:
		return fmt.Errorf("the export now has %d bytes, not %d", now.size, ex.size)
	case now.flags&tfReadOnly&^ex.flags != 0:
		return errors.New("the export is now read-only")
	case ex.flags&^now.flags&(tfFlush|tfFUA|tfTrim|tfWriteZeroes|tfMultiConn) != 0:
		return fmt.Errorf("the export now offers less (flags %#x, they were %#x)", now.flags, ex.flags)
	case now.blocks != ex.blocks || now.min > ex.min || now.payload < ex.payload:
		return errors.New("the export now has other block sizes")
	}
	return nil
}
