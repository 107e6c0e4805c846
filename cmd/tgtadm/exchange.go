package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lunar-iscsi/lunar/admin/tgtipc"
)

const (
	maxSocketPath = 107 // struct sockaddr_un has 108 bytes, one of them the NUL

	// An answer takes as long as the call under way needs, a store on a slow cluster to be opened among others. tgt's own tgtadm
	// waits without bound.
	answerTimeout = 5 * time.Minute
	// After "system delete" the daemon is gone when its socket refuses; it is asked this often, and no longer than answerTimeout.
	gonePoll = 100 * time.Millisecond
)

// An ipcError is what went wrong with the socket, in tgtadm's words, and the status it exits with.
type ipcError struct {
	text   string
	status int
	why    string // what tgtadm does not say; empty when its words say it all
}

func (e *ipcError) Error() string { return "tgtadm: " + e.text }

// A refusedError is the daemon's refusal.
type refusedError struct {
	number tgtipc.Errno
	reason string // lunard's; empty from tgtd
}

func (e *refusedError) Error() string { return "tgtadm: " + e.number.String() }

// socketPath is the path of the socket of a control port.
func socketPath(port uint64) string {
	prefix, ok := os.LookupEnv(tgtipc.PrefixEnv)
	if !ok {
		prefix = tgtipc.DefaultPrefix
	}
	return prefix + "." + strconv.FormatUint(port, 10)
}

// notConnected is the one message for every connection that does not come about: its words are those of the write that then fails,
// and init scripts know its status as "tgtd is not running". Why it did not is ours to add.
func notConnected(why string) *ipcError {
	return &ipcError{"failed to send request hdr to tgt daemon, Transport endpoint is not connected", int(syscall.ENOTCONN), why}
}

func dial(ctx context.Context, path string) (net.Conn, error) {
	if strings.HasPrefix(path, "@") {
		path = "./" + path // a file of that name, as it is for tgtd; not Go's sign for an abstract socket
	}
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}

// exchange sends the command to the daemon and writes its answer's text to out.
func (c *command) exchange(ctx context.Context, out, stderr io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	path := socketPath(c.control)
	if len(path) > maxSocketPath {
		fmt.Fprintf(stderr, "tgtadm: management path too long: %s\n", path)
		return notConnected("")
	}
	conn, err := dial(ctx, path)
	if err != nil {
		return notConnected(unreachable(path, err))
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return broken("failed to send request hdr to tgt daemon", err)
	}
	request := c.request()
	if _, err := conn.Write(request); err != nil {
		return broken("failed to send request hdr to tgt daemon", err)
	}
	if c.debug {
		// 348 is a line of tgt's source, as its 1.0.85 prints it.
		fmt.Fprintf(stderr, "ipc_mgmt_req 348: sent to tgtd %d\n", len(request))
	}
	if err := answer(conn, out, stderr); err != nil {
		return err
	}
	if c.mode == tgtipc.ModeSystem && c.op == tgtipc.OpDelete {
		return gone(ctx, path)
	}
	return nil
}

// answer reads the daemon's answer. A connection that ends without one is success to tgtadm's callers, whatever stands on stderr.
func answer(conn io.Reader, out, stderr io.Writer) error {
	var header [tgtipc.ResponseSize]byte
	switch n, err := io.ReadFull(conn, header[:]); {
	case n == 0 && err == io.EOF:
		fmt.Fprintln(stderr, "tgtadm: tgtd closed the socket")
		return nil
	case errors.Is(err, io.ErrUnexpectedEOF):
		fmt.Fprintln(stderr, "tgtadm: a partial response")
		return nil
	case err != nil:
		return broken("can't get the response", err)
	}
	number := tgtipc.Errno(binary.NativeEndian.Uint32(header[:]))
	rest := int64(binary.NativeEndian.Uint32(header[4:])) - tgtipc.ResponseSize
	text := &untilNUL{Reader: io.LimitReader(conn, max(rest, 0))}
	if number != 0 {
		reason, _ := io.ReadAll(io.LimitReader(text, tgtipc.MaxReason)) // a broken connection takes nothing from the refusal itself
		return &refusedError{number, strings.TrimSpace(string(reason))}
	}
	_, err := io.Copy(out, text)
	if err == nil && text.read < rest && !text.ended {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return broken("failed to read from tgtd", err)
	}
	return nil
}

// untilNUL gives what comes before the first NUL; the rest it reads and drops.
type untilNUL struct {
	io.Reader
	read  int64
	ended bool
}

func (u *untilNUL) Read(b []byte) (int, error) {
	n, err := u.Reader.Read(b)
	u.read += int64(n)
	if u.ended {
		return 0, err
	}
	for i := range n {
		if b[i] == 0 {
			u.ended = true
			return i, err
		}
	}
	return n, err
}

// gone waits until the daemon has ended: its socket refuses, or is not there any more.
func gone(ctx context.Context, path string) error {
	poll := time.NewTicker(gonePoll)
	defer poll.Stop()
	for {
		conn, err := dial(ctx, path)
		switch {
		case err == nil:
			conn.Close()
		case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
			return nil
		}
		select {
		case <-ctx.Done():
			return &ipcError{"tgtd has not ended", int(syscall.ETIMEDOUT), fmt.Sprintf("it took the request, but %s still answers after %v", path, answerTimeout)}
		case <-poll.C:
		}
	}
}

// broken is an error of a connection that was there: its errno is the exit status.
func broken(what string, err error) *ipcError {
	switch errno := syscall.Errno(0); {
	case errors.As(err, &errno):
		return &ipcError{what + ", " + sentence(errno.Error()), int(errno), ""}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &ipcError{what + ", Connection timed out", int(syscall.ETIMEDOUT), fmt.Sprintf("no whole answer within %v", answerTimeout)}
	default:
		return &ipcError{what + ", " + err.Error(), int(syscall.EIO), ""}
	}
}

// sentence begins an errno's text as C does.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// unreachable says why the socket at path cannot be connected to, and what to do.
func unreachable(path string, err error) string {
	switch {
	case errors.Is(err, syscall.ENOENT):
		return path + " does not exist: the daemon is not running, or uses another control port (-C) or TGT_IPC_SOCKET"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nobody listens on " + path + ": the daemon has ended"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return "no permission for " + path + ": tgtadm has to run as the user that the daemon runs as"
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return fmt.Sprintf("cannot connect to %s: %v", path, err)
}
