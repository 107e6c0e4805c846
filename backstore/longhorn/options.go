package longhorn

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// Limits on what a URI may ask for and what an engine may send.
const (
	maxName     = 255      // bytes of a volume's name
	maxSocket   = 107      // bytes of a unix socket's path (sun_path)
	maxInFlight = 1024     // the option inflight: the engine's own queue of answers has so many places
	maxText     = 1024     // bytes of an engine's message that are kept
	maxMessage  = 64 << 10 // bytes of a message that are taken at all
	maxResends  = 5        // times that one request is sent again before it is held to be what kills the engine
)

// What every volume is.
const (
	// sector is the unit in which the engine keeps its volumes. It takes any range, but what is not in whole sectors it reads, changes and
	// writes, without a lock while a replica is being rebuilt: neighbours in one sector would lose each other's bytes. So none is sent.
	sector      = 4096
	maxTransfer = 4 << 20   // bytes of one read or write; the engine holds it several times over in memory
	maxDiscard  = 128 << 20 // bytes of one unmap: all other requests of the volume wait for it
)

// Defaults and time limits.
const (
	socketDir       = "/var/run" // where the engine makes its sockets
	defaultInFlight = 256

	dialTime  = 10 * time.Second       // to connect and to be told the size
	askTime   = 500 * time.Millisecond // for an answer that can be done without
	callTime  = 3 * time.Minute        // of a call on the engine's gRPC API, as its own tools have it
	shortCall = 10 * time.Second       // of one that only asks

	backoffMin  = 50 * time.Millisecond // first pause between attempts to reconnect, and to ask for replicas; doubled up to
	backoffMax  = 2 * time.Second
	stableAfter = 10 * time.Second // a connection that lived so long is reconnected without a pause
	silentAfter = 10 * time.Second // without an answer the engine is asked whether it lives, and the log told
	growTime    = 30 * time.Second // that an engine which is growing may take until it knows of its new size
)

// A config is what a URI says.
type config struct {
	volume   string // empty: only the socket is known
	socket   string
	engine   string // host:port of the engine's gRPC API; empty: not known
	size     int64  // 0: not given
	readOnly bool
	shared   bool
	inFlight int
	offline  time.Duration // 0: never
	minPause time.Duration
	maxPause time.Duration
	grow     time.Duration
	silent   time.Duration
	ask      time.Duration
}

var optionNames = []string{"socket", "engine", "size", "inflight", "offline_after", "readonly", "shared", "request_timeout"}

func badURI(format string, a ...any) error {
	return &backstore.Error{Class: backstore.ClassUnsupported, Op: "open", Cause: fmt.Errorf(format, a...)}
}

// parse reads a URI: longhorn:VOLUME, or longhorn:/PATH/TO/SOCKET as Longhorn gives it to its own tgtd.
func parse(u *backstore.URI, o backstore.Options) (*config, error) {
	c := &config{inFlight: defaultInFlight, minPause: backoffMin, maxPause: backoffMax, grow: growTime, silent: silentAfter, ask: askTime}
	socket, given := u.Option("socket")
	switch {
	case u.Host != "":
		return nil, badURI("%s: Longhorn's data socket is on this machine: write longhorn:VOLUME?engine=HOST:PORT", u.Shown())
	case u.Path == "":
		return nil, badURI("the volume's name is missing: write longhorn:VOLUME")
	case strings.HasPrefix(u.Path, "/"):
		if given {
			return nil, badURI("%s: its socket is given twice, as the name and as socket=", u.Shown())
		}
		socket = u.Path
		c.volume = volumeOf(socket)
	case len(u.Path) > maxName || strings.ContainsAny(u.Path, "/\n"):
		return nil, badURI("%s: a volume's name has at most %d bytes and no slash", u.Shown(), maxName)
	default:
		c.volume = u.Path
		if socket == "" {
			socket = socketDir + "/longhorn-" + c.volume + ".sock"
		}
	}
	if c.socket = socket; len(socket) > maxSocket {
		return nil, badURI("%s: the socket's path has %d bytes, a unix socket takes %d", u.Shown(), len(socket), maxSocket)
	}
	if v, ok := u.Option("engine"); ok {
		host, port, err := net.SplitHostPort(v)
		if n, bad := strconv.Atoi(port); err != nil || bad != nil || n < 1 || n > 65535 || host == "" {
			return nil, badURI("%s: option engine=%s: want the HOST:PORT of the engine's gRPC API", u.Shown(), v)
		}
		c.engine = v
	}
	var err error
	if c.size, err = u.Size("size", 0); err != nil {
		return nil, badURI("%s: %v", u.Shown(), err)
	}
	if v, ok := u.Option("inflight"); ok {
		if c.inFlight, err = strconv.Atoi(v); err != nil || c.inFlight < 1 || c.inFlight > maxInFlight {
			return nil, badURI("%s: option inflight=%s: want 1 to %d", u.Shown(), v, maxInFlight)
		}
	}
	if v, ok := u.Option("offline_after"); ok {
		if secs, bad := strconv.Atoi(v); bad == nil {
			c.offline = time.Duration(secs) * time.Second
		} else if c.offline, err = time.ParseDuration(v); err != nil {
			return nil, badURI("%s: option offline_after=%s: want seconds, or a number with a unit (90s, 2m); 0: never", u.Shown(), v)
		}
		if c.offline < 0 {
			return nil, badURI("%s: option offline_after=%s: want 0 (never) or more", u.Shown(), v)
		}
	}
	// Longhorn gives its tgtd a time limit in its bsopts. Here the LUN has one, so it is only looked at.
	if v, ok := u.Option("request_timeout"); ok {
		if n, err := strconv.Atoi(v); err != nil || n < 0 {
			return nil, badURI("%s: option request_timeout=%s: want seconds", u.Shown(), v)
		}
	}
	if c.readOnly, err = u.Bool("readonly", false); err != nil {
		return nil, badURI("%s: %v", u.Shown(), err)
	}
	c.readOnly = c.readOnly || o.ReadOnly
	if c.shared, err = u.Bool("shared", false); err != nil {
		return nil, badURI("%s: %v", u.Shown(), err)
	}
	return c, nil
}

// volumeOf is the volume whose engine makes a socket of that path; empty where the path is not one of those.
func volumeOf(socket string) string {
	base := socket[strings.LastIndexByte(socket, '/')+1:]
	name, ok := strings.CutPrefix(base, "longhorn-")
	if ok {
		name, ok = strings.CutSuffix(name, ".sock")
	}
	if !ok {
		return ""
	}
	return name
}

// shown names the volume for people.
func (c *config) shown() string {
	if c.volume != "" {
		return c.volume
	}
	return c.socket
}

// key tells volumes apart: by their sockets, which is what an engine is.
func key(u *backstore.URI) string {
	socket, _ := u.Peek("socket")
	switch {
	case strings.HasPrefix(u.Path, "/"):
		socket = u.Path
	case socket == "":
		socket = socketDir + "/longhorn-" + u.Path + ".sock"
	}
	return "longhorn\x00" + socket
}

// info is what a volume of size bytes is.
func (c *config) info(size int64) backstore.Info {
	i := backstore.Info{
		Driver: "longhorn", Volume: c.shown(), Size: size &^ (sector - 1), BlockSize: sector, PhysicalBlock: sector, OptimalIO: sector,
		MaxTransfer: maxTransfer, MaxInFlight: c.inFlight, MemAlign: 1,
		ReadOnly: c.readOnly, Coherent: true, Shared: c.shared,
		// No CapFlush and no CapFUA: doc.go says why.
		Caps: backstore.CapDiscard, DiscardGranularity: sector, MaxDiscard: maxDiscard,
	}
	return i
}
