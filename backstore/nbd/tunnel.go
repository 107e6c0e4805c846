package nbd

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

// With TLS the store's socket is one end of a socket pair, and a tunnel carries what passes through it. So all that the store does with a
// socket (whole batches in one call, payloads at their place, epoll, a full socket) is the same, and the plain path knows nothing of it. What
// a tunnel holds is bounded: a buffer a direction, and what the kernel gives a socket pair.

const (
	tunnelBuffer = 64 << 10
	// linger is how long a connection that was given up may take to get its last bytes out.
	linger = time.Second
)

// A tunnel is two goroutines between a socket pair and a TLS connection. They end with either side.
type tunnel struct {
	near *os.File // the store has the other end
	nc   net.Conn // below tls
	tls  io.ReadWriteCloser
	unix bool

	// Set before near is closed, and so before the store can see that.
	proven atomic.Bool // the server's end of the connection is gone
	err    error       // why the server's side ended
	ended  atomic.Bool // err is there
}

// carry makes a link with TLS one with a socket: to be called once, by whoever then waits on wg.
func (l *link) carry(wg *sync.WaitGroup) error {
	if l.tls == nil {
		return nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return &backstore.Error{Class: backstore.ClassInternal, Op: "open", Cause: os.NewSyscallError("socketpair", err)}
	}
	_, local := l.nc.(*net.UnixConn)
	t := &tunnel{near: os.NewFile(uintptr(pair[1]), "nbd"), nc: l.nc, tls: l.tls, unix: local}
	l.fd, l.tun = pair[0], t
	wg.Add(2)
	go func() {
		defer wg.Done()
		t.up()
	}()
	go func() {
		defer wg.Done()
		t.down()
	}()
	return nil
}

// close gives a link up that no store has.
func (l *link) close() {
	switch {
	case l.tun != nil:
		closeFd(l.fd)
		l.tun.stop()
	case l.tls != nil:
		_ = l.nc.Close() // nothing is on its way
	default:
		closeFd(l.fd)
	}
}

// leave says good-bye and closes a link that no store has.
func (l *link) leave() {
	if l.tls != nil && l.tun == nil {
		_ = l.nc.SetDeadline(time.Now().Add(linger)) // fails only once it is closed
		_, _ = l.tls.Write(goodbye(l.ex.extended))   // a courtesy
		_ = l.tls.Close()
		return
	}
	disconnect(l.fd, l.ex.extended)
	l.close()
}

// up carries the store's requests to the server.
func (t *tunnel) up() {
	buf := make([]byte, tunnelBuffer)
	for {
		n, err := t.near.Read(buf)
		if n > 0 {
			if _, err := t.tls.Write(buf[:n]); err != nil {
				// What the server has still to say is read; that it is gone shows there.
				_ = t.nc.SetReadDeadline(time.Now().Add(linger))
				return
			}
		}
		if err != nil { // the store has closed its end, or down ours
			_ = t.tls.Close()
			return
		}
	}
}

// down carries the server's answers to the store, and ends the tunnel with the connection.
func (t *tunnel) down() {
	buf := make([]byte, tunnelBuffer)
	for {
		n, err := t.tls.Read(buf)
		if n > 0 {
			if _, werr := t.near.Write(buf[:n]); werr != nil {
				err = errors.Join(err, werr)
			}
		}
		if err != nil {
			// An end in the middle of a record is what a killed server leaves behind.
			gone := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || t.unix && errors.Is(err, unix.ECONNRESET)
			t.proven.Store(gone)
			t.err = err
			t.ended.Store(true)
			_ = t.near.Close() // up then ends; both are given up
			_ = t.tls.Close()
			return
		}
	}
}

// stop ends the tunnel within linger, when the store has closed its end: what is on its way may still go out.
func (t *tunnel) stop() {
	// Not by a deadline alone: to say good-bye TLS sets a longer one of its own.
	time.AfterFunc(linger, func() { _ = t.nc.Close() }) // fails when it is closed already, as it mostly is
}

// cause is why the tunnel ended, if it did, else err.
func (t *tunnel) cause(err error) error {
	if t.ended.Load() {
		return t.err
	}
	return err
}
