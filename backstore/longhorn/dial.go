package longhorn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

// far is where no volume reaches: the engine's error for a read there tells how large the volume is.
const far = 1 << 62

// dial connects, learns the volume's size in bytes and reads its last sector, which an engine without replicas cannot. The
// descriptor is a non-blocking socket that the caller owns, with nothing read beyond the answers. Errors are *backstore.Error.
//
// An engine that starts its frontend for tgt has tgtadm open the volume, and answers nothing until that has ended. So with size= the engine
// is asked, but not waited for: what it does not tell soon is as the URI says.
func dial(ctx context.Context, c *config) (fd int, size int64, err error) {
	if c.size == 0 {
		return shake(ctx, c, true)
	}
	return c.soon(ctx, c.size, true)
}

// reconnect is dial for an engine that is back: whether it has replicas is found out by what is sent next. While it does not tell its size it has the
// one that it had.
func reconnect(ctx context.Context, c *config, size int64) (fd int, now int64, err error) {
	return c.soon(ctx, size, false)
}

// soon is shake, but that an engine which does not answer soon is taken to have size bytes.
func (c *config) soon(ctx context.Context, size int64, read bool) (int, int64, error) {
	brief, cancel := context.WithTimeout(ctx, c.ask)
	defer cancel()
	fd, now, err := shake(brief, c, read)
	if err == nil || brief.Err() == nil || ctx.Err() != nil {
		return fd, now, err
	}
	// On a connection that was asked, an answer may yet come.
	err = converseConn(ctx, c, func(nc net.Conn, _ asker) (err error) {
		fd, err = duplicate(nc)
		return err
	})
	return fd, size, err
}

// connect is dial for a question: how large the volume is.
func connect(ctx context.Context, c *config) (fd int, size int64, err error) {
	return shake(ctx, c, false)
}

func shake(ctx context.Context, c *config, read bool) (fd int, size int64, err error) {
	fd = -1
	err = converseConn(ctx, c, func(nc net.Conn, ask asker) error {
		h, text, err := ask(header{magic: magic, seq: 1, typ: typeRead, off: far, size: sector})
		if err != nil {
			return err
		}
		if h.typ == typeResponse {
			return &backstore.Error{Class: backstore.ClassInternal, Op: "open", Cause: errors.New("the engine reads beyond every end")}
		}
		if size, err = c.sizeOf(ctx, text); err != nil {
			return err
		}
		if read && size >= sector {
			h, text, err := ask(header{magic: magic, seq: 2, typ: typeRead, off: size&^(sector-1) - sector, size: sector})
			switch {
			case err != nil:
				return err
			case h.typ != typeResponse:
				return offline(&EngineError{Text: text})
			}
		}
		if fd, err = duplicate(nc); err != nil {
			return &backstore.Error{Class: backstore.ClassInternal, Op: "open", Cause: err}
		}
		return nil
	})
	return fd, size, err
}

// sizeOf is the volume's size: as the engine's error for what lies beyond it says, else as its gRPC API, else as the URI.
func (c *config) sizeOf(ctx context.Context, text string) (int64, error) {
	if size, told := beyondSize(text); told {
		return size, nil
	}
	if c.engine != "" {
		v, err := volumeGet(ctx, c, "open")
		return v.Size, err
	}
	if c.size > 0 {
		return c.size, nil
	}
	return 0, badURI("the engine of %s does not tell the volume's size (%q): give engine=HOST:PORT or size=BYTES", c.shown(), text)
}

// An asker sends one message and returns its answer; of what follows the answer's header, a text is returned.
type asker func(h header) (header, string, error)

// converse connects, within ctx and a limit of its own, for a few questions.
func converse(ctx context.Context, c *config, talk func(ask asker) error) error {
	return converseConn(ctx, c, func(_ net.Conn, ask asker) error { return talk(ask) })
}

func converseConn(ctx context.Context, c *config, talk func(nc net.Conn, ask asker) error) error {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			err = fmt.Errorf("no engine listens on %s: is %s attached to this machine, with a frontend? (%w)", c.socket, c.shown(), err)
		}
		return offline(err)
	}
	defer func() { _ = nc.Close() }() // what is used on is a duplicate
	defer context.AfterFunc(ctx, func() {
		_ = nc.SetDeadline(time.Unix(1, 0)) // what is under way ends; an error says that it has ended
	})()
	err = talk(nc, func(h header) (header, string, error) { return ask(nc, h) })
	var be *backstore.Error
	if err != nil && !errors.As(err, &be) {
		err = offline(err)
	}
	return err
}

func offline(err error) error {
	return &backstore.Error{Class: backstore.ClassOffline, Op: "open", Cause: err}
}

// ask sends one message and reads its answer; of what follows the header, a text is returned.
func ask(nc net.Conn, h header) (header, string, error) {
	var b [headerSize]byte
	h.put(&b)
	if _, err := nc.Write(b[:]); err != nil {
		return h, "", err
	}
	if _, err := io.ReadFull(nc, b[:]); err != nil {
		return h, "", fmt.Errorf("no answer from the engine: %w", err)
	}
	var a header
	if err := a.get(&b); err != nil {
		return a, "", err
	}
	if a.typ != typeClose && a.seq != h.seq || a.length > maxMessage {
		return a, "", fmt.Errorf("the engine broke the protocol: an answer to number %d with %d bytes, instead of %d", a.seq, a.length, h.seq)
	}
	text := make([]byte, a.length)
	if _, err := io.ReadFull(nc, text); err != nil {
		return a, "", fmt.Errorf("half an answer from the engine: %w", err)
	}
	switch a.typ {
	case typeClose:
		return a, "", errShutdown
	case typeResponse:
		if a.length != h.size {
			return a, "", fmt.Errorf("the engine broke the protocol: %d bytes in answer to a read of %d", a.length, h.size)
		}
		return a, "", nil
	}
	return a, string(text[:min(len(text), maxText)]), nil
}

// duplicate returns a descriptor of its own for nc's socket, non-blocking.
func duplicate(nc net.Conn) (int, error) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return -1, errors.New("a connection without a descriptor")
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, dup := -1, error(nil)
	err = rc.Control(func(s uintptr) { fd, dup = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0) })
	if err == nil {
		err = dup
	}
	return fd, err
}
