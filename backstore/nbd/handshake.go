package nbd

import (
	"context"
	"crypto/tls"
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
	extended   bool   // headers, which bring structured replies with them
	alloc      bool   // base:allocation was agreed on
	context    uint32 // its number
	blocks     bool   // min, preferred and payload were given
	min        uint32
	preferred  uint32
	payload    uint32
}

// A link is a connection whose handshake is done, with nothing read beyond that.
type link struct {
	ex  *export
	fd  int       // a non-blocking socket; -1 while TLS is not carried
	nc  net.Conn  // the connection below TLS; nil without
	tls *tls.Conn // nil without
	tun *tunnel   // once it is carried
}

// dial connects and shakes hands. The link is the caller's. Errors are *backstore.Error.
func dial(ctx context.Context, c *config, limit time.Duration) (*link, error) {
	l := &link{fd: -1}
	nc, err := connect(ctx, c, limit, func(nc net.Conn) (err error) {
		l.ex, l.tls, err = handshake(nc, c)
		return err
	})
	if err != nil {
		return nil, err
	}
	if l.tls != nil {
		l.nc = nc
		return l, nil
	}
	defer func() { _ = nc.Close() }() // what is used is a duplicate
	sc, err := nc.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, &backstore.Error{Class: backstore.ClassInternal, Op: "open", Cause: err}
	}
	// A duplicate: closing the net.Conn then takes the socket out of the runtime's poller and leaves the
	// description, with its O_NONBLOCK, alone.
	cerr := sc.Control(func(s uintptr) { l.fd, err = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(cerr, err); err != nil {
		return nil, &backstore.Error{Class: backstore.ClassInternal, Op: "open", Cause: err}
	}
	return l, nil
}

// connect connects and calls talk, whose reads and writes end with ctx and the limits. The answer has no deadline.
func connect(ctx context.Context, c *config, limit time.Duration, talk func(net.Conn) error) (net.Conn, error) {
	bad := func(err error) (net.Conn, error) {
		return nil, &backstore.Error{Class: backstore.ClassInternal, Op: "open", Cause: err}
	}
	ctx, cancel := context.WithTimeout(ctx, min(limit, connectTime)+min(limit, handshakeTime))
	defer cancel()
	d := net.Dialer{Timeout: min(limit, connectTime), KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: keepIdle, Interval: keepInterval, Count: keepCount}}
	nc, err := d.DialContext(ctx, c.network, c.addr)
	if err != nil {
		return nil, &backstore.Error{Class: backstore.ClassOffline, Op: "open", Cause: err}
	}
	good := false
	defer func() {
		if !good {
			_ = nc.Close() // given up
		}
	}()
	if c.network == "tcp" {
		sc, err := nc.(syscall.Conn).SyscallConn()
		if err != nil {
			return bad(err)
		}
		cerr := sc.Control(func(s uintptr) {
			err = unix.SetsockoptInt(int(s), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
		})
		if err = errors.Join(cerr, err); err != nil {
			return bad(err)
		}
	}
	if err := nc.SetDeadline(time.Now().Add(min(limit, handshakeTime))); err != nil {
		return bad(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) }) // fails only once nc is closed
	defer stop()
	if err := talk(nc); err != nil {
		var be *backstore.Error
		if !errors.As(err, &be) {
			err = &backstore.Error{Class: backstore.ClassTransport, Op: "open", Cause: fmt.Errorf("handshake with %s: %w", c.addr, err)}
		}
		return nil, err
	}
	if !stop() {
		return nil, &backstore.Error{Class: backstore.ClassOffline, Op: "open", Cause: context.Cause(ctx)}
	}
	if err := nc.SetDeadline(time.Time{}); err != nil {
		return bad(err)
	}
	good = true
	return nc, nil
}

// handshake runs the fixed newstyle handshake (NBD, "Newstyle negotiation") up to the transmission phase, which is within the answered
// TLS connection, if there is one.
func handshake(nc net.Conn, c *config) (*export, *tls.Conn, error) {
	if err := greet(nc); err != nil {
		return nil, nil, err
	}
	if !c.tls {
		ex, err := agree(nc, c.export)
		return ex, nil, err
	}
	tc, err := startTLS(nc, c)
	if err != nil {
		return nil, nil, err
	}
	ex, err := agree(talker{tc}, c.export)
	return ex, tc, err
}

// greet reads the server's greeting and answers it.
func greet(rw io.ReadWriter) error {
	var b [18]byte
	if _, err := io.ReadFull(rw, b[:16]); err != nil {
		return fmt.Errorf("no greeting: %w", err)
	}
	if binary.BigEndian.Uint64(b[:]) != magicInit {
		return errors.New("this is no NBD server")
	}
	switch binary.BigEndian.Uint64(b[8:]) {
	case magicOption:
	case magicOldstyle:
		return errors.New("the server speaks only the oldstyle protocol")
	default:
		return errors.New("this is no NBD server")
	}
	if _, err := io.ReadFull(rw, b[16:]); err != nil {
		return fmt.Errorf("no greeting: %w", err)
	}
	flags := binary.BigEndian.Uint16(b[16:])
	if flags&flagFixedNewstyle == 0 {
		return errors.New("the server does not speak the fixed newstyle protocol")
	}
	var answer [4]byte
	binary.BigEndian.PutUint32(answer[:], uint32(flags&(flagFixedNewstyle|flagNoZeroes)))
	_, err := rw.Write(answer[:])
	return err
}

// agree negotiates what both sides can do and enters the transmission phase.
func agree(rw io.ReadWriter, name string) (*export, error) {
	ex := &export{}
	// A server that does not know an option answers an error, and goes on without.
	rep, _, err := option(rw, optExtended, nil, nil)
	if err != nil {
		return nil, err
	}
	ex.extended, ex.structured = rep == repAck, rep == repAck
	if !ex.extended {
		if rep, _, err = option(rw, optStructured, nil, nil); err != nil {
			return nil, err
		}
		ex.structured = rep == repAck
	}
	if ex.structured {
		if err := ex.allocation(rw, name); err != nil {
			return nil, err
		}
	}
	return ex, ex.ask(rw, optGo, name)
}

// allocation asks for base:allocation (NBD, "Metadata querying").
func (ex *export) allocation(rw io.ReadWriter, name string) error {
	data := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	data = append(data, name...)
	data = binary.BigEndian.AppendUint32(data, 1)
	data = binary.BigEndian.AppendUint32(data, uint32(len(contextName)))
	data = append(data, contextName...)
	found := false
	rep, _, err := option(rw, optSetContext, data, func(typ uint32, body []byte) error {
		if typ != repMeta || len(body) < 4 || string(body[4:]) != contextName || found {
			return fmt.Errorf("an answer of type %d that names no context that was asked for", typ)
		}
		ex.context, found = binary.BigEndian.Uint32(body), true
		return nil
	})
	ex.alloc = found && rep == repAck
	return err
}

// ask asks for an export by NBD_OPT_INFO or NBD_OPT_GO, block sizes included.
func (ex *export) ask(rw io.ReadWriter, opt uint32, name string) error {
	data := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	data = append(data, name...)
	data = binary.BigEndian.AppendUint16(data, 1)
	data = binary.BigEndian.AppendUint16(data, infoBlockSize)
	seen := false
	rep, text, err := option(rw, opt, data, func(rep uint32, info []byte) error {
		if rep != repInfo {
			return fmt.Errorf("an answer of type %d to option %d", rep, opt)
		}
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
		return err
	}
	if rep != repAck {
		return refusal(rep, name, text)
	}
	if !seen {
		return errors.New("the server did not tell the export's size")
	}
	return ex.check()
}

// option sends one option and reads its answers up to the last: repAck or an error reply's type with its text. more takes those before it.
func option(rw io.ReadWriter, opt uint32, data []byte, more func(rep uint32, body []byte) error) (rep uint32, text string, err error) {
	return optionOf(rw, opt, data, maxOptReplies, more)
}

func optionOf(rw io.ReadWriter, opt uint32, data []byte, most int, more func(rep uint32, body []byte) error) (rep uint32, text string, err error) {
	msg := binary.BigEndian.AppendUint64(nil, magicOption)
	msg = binary.BigEndian.AppendUint32(msg, opt)
	msg = binary.BigEndian.AppendUint32(msg, uint32(len(data)))
	if _, err := rw.Write(append(msg, data...)); err != nil {
		return 0, "", err
	}
	for range most {
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
		case more == nil:
			return 0, "", fmt.Errorf("an answer of type %d to option %d", rep, opt)
		}
		if err := more(rep, body); err != nil {
			return 0, "", err
		}
	}
	return 0, "", fmt.Errorf("more than %d answers to option %d", most, opt)
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
		class, why = backstore.ClassUnsupported, "the server demands TLS: name the volume with nbds: or nbds+unix:"
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
	if ex.alloc {
		i.Caps |= backstore.CapAllocation
	}
	if ex.extended {
		i.MaxDiscard = 0
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
	case ex.alloc && !now.alloc:
		return errors.New("the export no longer tells what is allocated")
	case now.blocks != ex.blocks || now.min > ex.min || now.payload < ex.payload:
		return errors.New("the export now has other block sizes")
	}
	return nil
}
