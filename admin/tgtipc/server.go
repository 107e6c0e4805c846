package tgtipc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/admin"
)

// The defaults of Config's bounds.
const (
	DefaultMaxConns       = 32 // tgtd's backlog; it serves one at a time
	DefaultReadTimeout    = 10 * time.Second
	DefaultRequestTimeout = 5 * time.Minute // a cluster's volume is opened in it, sessions that end are waited for
	DefaultWriteTimeout   = time.Minute     // an answer about thousands of LUNs is megabytes
)

// closeGrace is what is left of ReadTimeout for a client whose request has not come when the server is closed.
const closeGrace = time.Second

// maxPath is how long the path of a socket may be.
const maxPath = 107

// A Logger is told what the daemon's log should know.
type Logger interface {
	Debug(msg string, kv ...any)
	Info(msg string, kv ...any)
	Warn(msg string, kv ...any)
}

// Config is what a Server is made of.
type Config struct {
	Path string // of the socket; ".lock" beside it is the lock: see SocketPath
	// MakeDir makes the folder, as tgtd does its own.
	MakeDir bool
	Logger  Logger

	// Bounds; 0: the default.
	MaxConns       int           // connections being served; others wait in the kernel
	ReadTimeout    time.Duration // for a whole request to arrive
	RequestTimeout time.Duration // for what it asks
	WriteTimeout   time.Duration // for the answer to be taken
}

// A Server is tgt's management socket.
type Server struct {
	cfg   Config
	l     *net.UnixListener
	lock  *os.File
	slots chan struct{}
	base  context.Context // of every request; ends when Close does not wait any longer
	end   context.CancelFunc
	still context.Context // ends when Close begins
	quit  context.CancelFunc

	conns  sync.WaitGroup
	served chan struct{} // closed when Serve has returned, or will not be called any more

	mu     sync.Mutex
	closed bool // guarded by mu
	began  bool // guarded by mu: Serve was called

	svc  admin.Service // set by Serve before the first connection
	face face
}

// ErrLocked: another daemon has the socket.
var ErrLocked = errors.New("in use by another tgtd or lunard")

// Listen takes the lock and makes the socket in place of what an earlier daemon left there. Clients that connect wait for Serve.
func Listen(cfg Config) (*Server, error) {
	if len(cfg.Path) > maxPath {
		return nil, fmt.Errorf("management socket %s: a path of %d bytes, the most is %d", cfg.Path, len(cfg.Path), maxPath)
	}
	cfg.MaxConns = cmp.Or(cfg.MaxConns, DefaultMaxConns)
	cfg.ReadTimeout = cmp.Or(cfg.ReadTimeout, DefaultReadTimeout)
	cfg.RequestTimeout = cmp.Or(cfg.RequestTimeout, DefaultRequestTimeout)
	cfg.WriteTimeout = cmp.Or(cfg.WriteTimeout, DefaultWriteTimeout)
	if cfg.MakeDir {
		if err := os.MkdirAll(filepath.Dir(cfg.Path), 0o755); err != nil {
			return nil, fmt.Errorf("management socket: %w", err)
		}
	}
	lock, err := takeLock(cfg.Path + ".lock")
	if err != nil {
		return nil, err
	}
	// The lock says that whoever made the socket is gone. What is no socket nobody of ours has made.
	if st, err := os.Lstat(cfg.Path); err == nil && st.Mode().Type() != fs.ModeSocket {
		return nil, errors.Join(fmt.Errorf("management socket %s: a file that is no socket is there", cfg.Path), lock.Close())
	}
	if err := os.Remove(cfg.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("management socket: %w", err), lock.Close())
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: cfg.Path, Net: "unix"})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("management socket: %w", err), lock.Close())
	}
	// tgtadm waits for the end of a daemon by connecting until it is refused; where there is no socket it waits for ever.
	l.SetUnlinkOnClose(false)
	// Others would be turned away (serve): with a generous umask they could still fill the log and the places for connections.
	if err := os.Chmod(cfg.Path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("management socket: %w", err), l.Close(), lock.Close())
	}
	s := &Server{cfg: cfg, l: l, lock: lock, slots: make(chan struct{}, cfg.MaxConns), served: make(chan struct{})}
	s.base, s.end = context.WithCancel(context.Background())
	s.still, s.quit = context.WithCancel(s.base)
	return s, nil
}

// takeLock makes and locks the file, as lockf does; the lock is that of the open file, so that it also keeps two servers of one
// process apart.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("management lock %s: a symbolic link is there", path)
	}
	if err != nil {
		return nil, fmt.Errorf("management lock: %w", err)
	}
	fl := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Len: 1}
	for {
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &fl)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case err == nil:
		return f, nil
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES):
		err = fmt.Errorf("management socket: %s is %w; end that one, or choose another control port", path, ErrLocked)
	default:
		err = fmt.Errorf("management lock %s: %w", path, err)
	}
	return nil, errors.Join(err, f.Close())
}

// Path is the path of the socket.
func (s *Server) Path() string { return s.cfg.Path }

// Serve answers requests until Close. It is called once.
func (s *Server) Serve(svc admin.Service) error {
	s.mu.Lock()
	if s.closed || s.began {
		s.mu.Unlock()
		return net.ErrClosed
	}
	s.began = true
	s.mu.Unlock()
	defer close(s.served)
	s.svc = svc
	for {
		s.slots <- struct{}{}
		c, err := s.l.AcceptUnix()
		if err != nil {
			<-s.slots
			if s.isClosed() {
				return nil
			}
			if unreachable(err) {
				return fmt.Errorf("management socket %s: %w", s.cfg.Path, err)
			}
			// Out of descriptors, most likely: whoever holds one of ours gives it back within a bound.
			s.cfg.Logger.Warn("management socket: no connection could be taken", "error", err)
			select {
			case <-s.base.Done():
			case <-time.After(s.cfg.ReadTimeout / 10):
			}
			continue
		}
		s.conns.Add(1)
		go func() {
			defer s.conns.Done()
			defer func() { <-s.slots }()
			defer c.Close()
			s.serve(c)
		}()
	}
}

// unreachable tells an error after which accepting cannot go on.
func unreachable(err error) bool { return errors.Is(err, net.ErrClosed) || errors.Is(err, unix.EINVAL) }

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// Close takes no more connections, waits for what was asked to be answered, and lets go of the lock; the socket's file stays. When
// ctx ends first what goes on is cancelled, and still waited for.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	began := s.began
	s.mu.Unlock()
	err := s.l.Close()
	s.quit()
	stop := context.AfterFunc(ctx, s.end)
	if began {
		<-s.served
	}
	s.conns.Wait()
	stop()
	s.end()
	return errors.Join(err, s.lock.Close())
}

// serve reads one request, does it and answers.
func (s *Server) serve(c *net.UnixConn) {
	stop := context.AfterFunc(s.base, func() { _ = c.SetDeadline(time.Unix(1, 0)) }) // fails only on a closed connection
	defer stop()
	peer, err := peerOf(c)
	switch {
	case err != nil:
		s.cfg.Logger.Warn("management connection closed: its peer is not known", "error", err)
		return
	case int(peer.Uid) != os.Getuid() || int(peer.Gid) != os.Getgid():
		// tgtd's rule, which knows no exception for root.
		s.cfg.Logger.Warn("management connection refused: only the daemon's own user and group may manage it",
			"uid", peer.Uid, "gid", peer.Gid, "pid", peer.Pid, "want_uid", os.Getuid(), "want_gid", os.Getgid())
		return
	}
	if err := c.SetReadDeadline(time.Now().Add(s.cfg.ReadTimeout)); err != nil {
		return // closed
	}
	hurry := context.AfterFunc(s.still, func() { _ = c.SetReadDeadline(time.Now().Add(closeGrace)) })
	h, payload, err := readRequest(c)
	hurry()
	if err != nil {
		if !errors.Is(err, io.EOF) { // a client that only looked whether somebody is there
			s.cfg.Logger.Warn("management request dropped", "uid", peer.Uid, "pid", peer.Pid, "error", err)
		}
		return
	}
	text, err := s.answer(&h, payload, peer)
	if err := c.SetWriteDeadline(time.Now().Add(s.cfg.WriteTimeout)); err != nil {
		return // closed
	}
	if _, err := c.Write(respond(&h, text, err)); err != nil {
		s.cfg.Logger.Warn("management answer not taken", "mode", h.Mode, "op", h.Op, "uid", peer.Uid, "pid", peer.Pid, "error", err)
	}
}

// answer does what a request asks. A fault in it costs this request only.
func (s *Server) answer(h *Header, payload string, peer *unix.Ucred) (text string, err error) {
	ctx, cancel := context.WithTimeout(s.base, s.cfg.RequestTimeout)
	defer cancel()
	ctx = admin.WithCaller(ctx, admin.Caller{Face: "tgt", UID: int(peer.Uid), PID: int(peer.Pid)})
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Logger.Warn("management request failed: a fault of lunar's", "mode", h.Mode, "op", h.Op, "panic", p, "stack", string(debug.Stack()))
			text, err = "", refuse(ErrUnknown, "a fault of lunar's; the log has more")
		}
	}()
	c := call{Header: h, payload: payload, svc: s.svc, face: &s.face, log: s.cfg.Logger, lookup: lookup}
	text, err = c.do(ctx)
	if err != nil {
		s.cfg.Logger.Warn("management request refused", "mode", h.Mode, "op", h.Op, "tid", h.TID, "lun", lunText(h.LUN), "uid", peer.Uid,
			"answer", errnoOf(err), "reason", err)
	}
	return text, err
}

// respond makes the bytes of an answer.
func respond(h *Header, text string, err error) []byte {
	if err == nil {
		return appendResponse(make([]byte, 0, ResponseSize+len(text)+1), Success, text)
	}
	reason := ""
	if h.Pack == WantReason {
		reason = oneLine(err.Error(), MaxReason-1)
	}
	return appendResponse(nil, errnoOf(err), reason)
}

// readRequest reads header and payload, whose NUL is dropped with what follows it.
func readRequest(r io.Reader) (Header, string, error) {
	var raw [HeaderSize]byte
	if n, err := io.ReadFull(r, raw[:]); err != nil {
		if n == 0 && errors.Is(err, io.EOF) {
			return Header{}, "", err
		}
		return Header{}, "", fmt.Errorf("%d of the %d bytes of its header came: %w", n, HeaderSize, noEOF(err))
	}
	h := parseHeader(&raw)
	switch {
	case h.Len < HeaderSize:
		return h, "", fmt.Errorf("its length is %d, less than the header's %d", h.Len, HeaderSize)
	case h.Len > HeaderSize+MaxPayload:
		return h, "", fmt.Errorf("%d bytes of payload, the most is %d", h.Len-HeaderSize, MaxPayload)
	}
	b := make([]byte, h.Len-HeaderSize)
	if n, err := io.ReadFull(r, b); err != nil {
		return h, "", fmt.Errorf("%d of the %d bytes of its payload came: %w", n, len(b), noEOF(err))
	}
	return h, cString(b), nil
}

// noEOF is err, but that an end is one in the midst of something.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func peerOf(c *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
		return nil, cerr
	}
	return cred, err
}
