package nbd

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// Limits on what a URI may ask for and what a server may send.
const (
	maxExportName = 4096 // bytes (NBD, "Protocol phases": the longest string)
	maxText       = 1024 // bytes of a server's message that are kept
	maxOptReply   = 64 << 10
	maxOptReplies = 64      // answers to one option before the server is given up
	maxErrorChunk = 8 << 10 // bytes of an error chunk: 4 KiB of text and some fields
	maxSpans      = 1024    // separate pieces of one read before the server is given up
	maxBlock      = 64 << 10
	maxPayload    = 32 << 20 // bytes of one read or write (NBD, "Block size constraints": what every server takes)
	maxZero       = 1 << 30  // bytes of one trim or write zeroes; the wire's limit is 2^32-1
	maxInFlight   = 4096     // the option inflight
	maxConns      = 16       // the option connections
	maxResends    = 5        // times that one request is sent again before it is held to be what kills the server
)

// Defaults and time limits.
const (
	defaultPort     = "10809"
	defaultConns    = 4
	defaultInFlight = 256
	defaultTimeout  = 30 * time.Second // the option timeout

	connectTime   = 10 * time.Second // to connect
	handshakeTime = 10 * time.Second // for the handshake after that
	extraTime     = 2 * time.Second  // for connections beyond the first: some servers take just one and let others hang

	backoffMin  = 100 * time.Millisecond // first pause between attempts to reconnect; doubled up to
	backoffMax  = 5 * time.Second
	stableAfter = 10 * time.Second // a connection that lived so long is reconnected without a pause

	// A dead host is noticed after about 30 s when idle, 60 s with data on the way. Longer than a server may be
	// silent while its engine recovers: TCP's answers come from its kernel.
	keepIdle     = 15 * time.Second
	keepInterval = 5 * time.Second
	keepCount    = 3
	userTimeout  = 60 * time.Second
)

// A config is what a URI says.
type config struct {
	scheme   string
	network  string // "tcp" or "unix"
	addr     string
	export   string
	readOnly bool
	shared   bool
	safe     bool // restart=safe
	conns    int
	inFlight int
	timeout  time.Duration
	minPause time.Duration // between attempts to reconnect
	maxPause time.Duration
}

func badURI(format string, a ...any) error {
	return &backstore.Error{Class: backstore.ClassUnsupported, Op: "open", Cause: fmt.Errorf(format, a...)}
}

func parse(u *backstore.URI, o backstore.Options) (*config, error) {
	c := &config{scheme: u.Scheme, conns: defaultConns, inFlight: defaultInFlight, timeout: defaultTimeout,
		minPause: backoffMin, maxPause: backoffMax}
	c.export = strings.TrimPrefix(u.Path, "/")
	if len(c.export) > maxExportName {
		return nil, badURI("the export's name is longer than %d bytes", maxExportName)
	}
	socket, hasSocket := u.Option("socket")
	switch {
	case u.Scheme == "nbd+unix":
		c.network, c.addr = "unix", socket
		if u.Host != "" {
			return nil, badURI("%s: a unix socket has no host: write nbd+unix:///EXPORT?socket=PATH", u)
		}
		if socket == "" {
			return nil, badURI("%s: the option socket=PATH is missing", u)
		}
	case u.Host == "":
		return nil, badURI("%s: the host is missing: write nbd://HOST[:PORT]/EXPORT", u)
	case hasSocket:
		return nil, badURI("%s: the option socket belongs to nbd+unix", u)
	default:
		c.network = "tcp"
		host, port, err := net.SplitHostPort(u.Host)
		if err != nil {
			host, port = strings.Trim(u.Host, "[]"), defaultPort
			var ae *net.AddrError
			if !errors.As(err, &ae) || ae.Err != "missing port in address" {
				return nil, badURI("%s: %v", u, err)
			}
		}
		c.addr = net.JoinHostPort(host, port)
	}
	var err error
	if c.readOnly, err = u.Bool("readonly", false); err != nil {
		return nil, badURI("%s: %v", u, err)
	}
	c.readOnly = c.readOnly || o.ReadOnly
	if c.shared, err = u.Bool("shared", false); err != nil {
		return nil, badURI("%s: %v", u, err)
	}
	if c.conns, err = number(u, "connections", defaultConns, maxConns); err != nil {
		return nil, err
	}
	if c.inFlight, err = number(u, "inflight", defaultInFlight, maxInFlight); err != nil {
		return nil, err
	}
	if v, ok := u.Option("timeout"); ok {
		if secs, err := strconv.Atoi(v); err == nil {
			c.timeout = time.Duration(secs) * time.Second
		} else if c.timeout, err = time.ParseDuration(v); err != nil {
			return nil, badURI("%s: option timeout=%s: want seconds, or a number with a unit (90s, 2m)", u, v)
		}
		if c.timeout <= 0 {
			return nil, badURI("%s: option timeout=%s: want more than 0", u, v)
		}
	}
	if v, ok := u.Option("restart"); ok {
		if v != "safe" && v != "unsafe" {
			return nil, badURI("%s: option restart=%s: want safe or unsafe", u, v)
		}
		c.safe = v == "safe"
	}
	return c, nil
}

func number(u *backstore.URI, name string, def, limit int) (int, error) {
	v, ok := u.Option(name)
	if !ok {
		return def, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > limit {
		return 0, badURI("%s: option %s=%s: want 1 to %d", u, name, v, limit)
	}
	return n, nil
}
