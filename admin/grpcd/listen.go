package grpcd

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultSocket is where a daemon of root's listens.
const DefaultSocket = "/run/lunar/lunard.sock"

// DefaultPath is where this user's daemon listens, and where lunarctl looks: DefaultSocket, but for users other than root who have a
// folder for such things a place in that.
func DefaultPath() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); os.Geteuid() != 0 && filepath.IsAbs(dir) {
		return filepath.Join(dir, "lunar", "lunard.sock")
	}
	return DefaultSocket
}

// ErrInUse says that another daemon, or something else, listens on a socket.
var ErrInUse = errors.New("somebody listens on it already")

// CheckAddress says whether Listen would understand an address.
func CheckAddress(address string) error {
	_, err := parse(address)
	return err
}

// Modes of the socket and, where it has to be made, of its folder.
const (
	defaultMode = 0o600
	folderMode  = 0o755
)

// dialTimeout bounds the question whether somebody listens on a socket that is there.
const dialTimeout = 2 * time.Second

// A Listener is an address that Listen has opened.
type Listener struct {
	net.Listener
	tcp  bool
	lock *os.File // of a unix socket: held while it is ours
}

// String is where it listens, as Listen takes it: with the port that port 0 has become.
func (l *Listener) String() string {
	if l.tcp {
		return "tcp:" + l.Addr().String()
	}
	return "unix:" + l.Addr().String()
}

// Close stops listening, and removes the socket.
func (l *Listener) Close() error {
	err := l.Listener.Close()
	if l.lock != nil {
		l.lock.Close()
	}
	return err
}

// Listen opens an address: unix:PATH[,mode=OCTAL] or tcp:ADDR:PORT. The caller closes it, or hands it to Serve.
//
// A socket that a daemon which has ended left behind is replaced; where somebody still listens on it, that is an error. An exclusive lock on
// PATH.lock, held as long as the listener is, keeps two daemons from replacing each other's. A TCP address is
// opened here, but Serve takes it only with TLS.
func Listen(address string) (*Listener, error) {
	a, err := parse(address)
	if err != nil {
		return nil, err
	}
	if a.path == "" {
		l, err := net.Listen("tcp", a.tcp.String())
		if err != nil {
			return nil, fmt.Errorf("admin address %q: %w", address, err)
		}
		return &Listener{Listener: l, tcp: true}, nil
	}
	l, err := listenUnix(a.path, a.mode)
	if err != nil {
		return nil, fmt.Errorf("admin socket %s: %w", a.path, err)
	}
	return l, nil
}

// An address is what Listen takes: a path with its mode, or an address of TCP.
type address struct {
	path string
	mode fs.FileMode
	tcp  netip.AddrPort
}

func parse(s string) (a address, err error) {
	kind, rest, ok := strings.Cut(s, ":")
	switch {
	case ok && kind == "unix":
		if a.path, a.mode, err = parseUnix(rest); err != nil {
			return a, fmt.Errorf("admin address %q: %w", s, err)
		}
		return a, nil
	case ok && kind == "tcp":
		if a.tcp, err = netip.ParseAddrPort(rest); err != nil {
			return a, fmt.Errorf("admin address %q: want tcp:ADDR:PORT, ADDR an IP address, IPv6 in brackets", s)
		}
		return a, nil
	}
	return a, fmt.Errorf("admin address %q: want unix:PATH[,mode=OCTAL] or tcp:ADDR:PORT", s)
}

// parseUnix reads PATH[,mode=OCTAL].
func parseUnix(s string) (path string, mode fs.FileMode, err error) {
	path, option, has := strings.Cut(s, ",")
	mode = defaultMode
	if has {
		v, ok := strings.CutPrefix(option, "mode=")
		n, err := strconv.ParseUint(v, 8, 32)
		if !ok || err != nil || n > 0o777 {
			return "", 0, fmt.Errorf("%q is not mode=OCTAL, such as mode=0660", option)
		}
		if n&0o006 != 0 {
			return "", 0, fmt.Errorf("mode %#o would let every user of this machine administer the daemon", n)
		}
		mode = fs.FileMode(n)
	}
	switch {
	case !filepath.IsAbs(path):
		return "", 0, errors.New("the path has to begin with /")
	case len(path) > maxPath:
		return "", 0, fmt.Errorf("the path has %d bytes, the system's limit is %d", len(path), maxPath)
	}
	return path, mode, nil
}

// maxPath is what sun_path holds, with its terminating zero.
const maxPath = len(unix.RawSockaddrUnix{}.Path) - 1

func listenUnix(path string, mode fs.FileMode) (_ *Listener, err error) {
	if err := os.MkdirAll(filepath.Dir(path), folderMode); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, fmt.Errorf("another daemon has locked %s.lock: %w", path, err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// The socket is made under another name, and gets its own when its mode is right: nobody can connect in between. The name that the
	// listener knows is the first one, so it must not be what Close removes.
	making := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%d.new", os.Getpid()))
	if len(making) > maxPath {
		return nil, fmt.Errorf("the path %s has %d bytes, the system's limit is %d", making, len(making), maxPath)
	}
	os.Remove(making)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: making, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	defer func() {
		if err != nil {
			l.Close()
			os.Remove(making)
		}
	}()
	if err := os.Chmod(making, mode); err != nil {
		return nil, err
	}
	if err := os.Rename(making, path); err != nil {
		return nil, err
	}
	return &Listener{Listener: &named{UnixListener: l, path: path}, lock: lock}, nil
}

// removeStale removes a socket that nobody listens on.
func removeStale(path string) error {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case fi.Mode().Type() != fs.ModeSocket:
		return errors.New("the file is there and is no socket")
	}
	c, err := net.DialTimeout("unix", path, dialTimeout)
	if err == nil {
		c.Close()
		return ErrInUse
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("it is there, and whether somebody listens on it cannot be told: %w", err)
	}
	return os.Remove(path)
}

// named is a unix listener under the name that its socket was given last.
type named struct {
	*net.UnixListener
	path string
}

func (n *named) Addr() net.Addr { return &net.UnixAddr{Name: n.path, Net: "unix"} }

// Close removes the socket first: who connects from then on is told that nobody is there, rather than left waiting.
func (n *named) Close() error {
	os.Remove(n.path)
	return n.UnixListener.Close()
}
