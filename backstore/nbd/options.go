package nbd

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
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
	maxPiece      = 1 << 62  // the same with extended headers, which leaves room to add to it
	slowZero      = 1 << 20  // bytes of one write zeroes that the server does by writing them: see conn.piece
	maxStatus     = 16 << 20 // bytes of one answer to a block status request; nbdkit's and QEMU's longest are half of it
	maxAsks       = 64       // block status requests for one Allocation before what is left counts as mapped
	maxExports    = 4096     // that are listed
	maxResends    = 5        // times that one request is sent again before it is held to be what kills the server
)

// Defaults and time limits.
const (
	defaultPort     = "10809"
	defaultConns    = 4
	defaultInFlight = 256
	defaultOffline  = 30 * time.Second // the option offline_after

	connectTime   = 10 * time.Second // to connect
	handshakeTime = 10 * time.Second // for the handshake after that
	extraTime     = 2 * time.Second  // for connections beyond the first: some servers take just one and let others hang

	backoffMin  = 100 * time.Millisecond // first pause between attempts to reconnect; doubled up to
	backoffMax  = 2 * time.Second
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
	scheme       string
	network      string // "tcp" or "unix"
	addr         string
	export       string
	tls          bool
	tlsDir       string // certificates; empty: the system's authorities, and no certificate of ours
	tlsHost      string // whose certificate is wanted; empty: of any name
	tlsBlind     bool   // any certificate will do
	readOnly     bool
	shared       bool
	safe         bool // restart=safe
	conns        int
	inFlight     int
	offlineAfter time.Duration // 0: never
	minPause     time.Duration // between attempts to reconnect
	maxPause     time.Duration
}

func badURI(format string, a ...any) error {
	return &backstore.Error{Class: backstore.ClassUnsupported, Op: "open", Cause: fmt.Errorf(format, a...)}
}

// place is where a URI (the NBD project's "uri.md") says that the server is, and whether it speaks TLS.
func place(u *backstore.URI) (c config, err error) {
	c.scheme, c.export = u.Scheme, strings.TrimPrefix(u.Path, "/")
	plain, local := strings.CutSuffix(u.Scheme, "+unix")
	c.tls = plain == "nbds"
	if len(c.export) > maxExportName {
		return c, badURI("the export's name is longer than %d bytes", maxExportName)
	}
	host, err := url.PathUnescape(u.Host)
	if err != nil {
		return c, badURI("%s: %v", u.Shown(), err)
	}
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		return c, badURI("%s: the user name %q: %s", u.Shown(), host[:i], noPSK)
	}
	socket, hasSocket := u.Peek("socket")
	switch {
	case local && host != "":
		return c, badURI("%s: a unix socket has no host: write %s:///EXPORT?socket=PATH", u.Shown(), u.Scheme)
	case local && socket == "":
		return c, badURI("%s: the option socket=PATH is missing", u.Shown())
	case local:
		c.network, c.addr = "unix", socket
		if socket[0] == 0 {
			c.addr = "@" + socket[1:] // what Go calls a socket in the abstract namespace
		}
		return c, nil
	case hasSocket:
		return c, badURI("%s: the option socket belongs to %s+unix", u.Shown(), u.Scheme)
	}
	c.network = "tcp"
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"), defaultPort
		var ae *net.AddrError
		if !errors.As(err, &ae) || ae.Err != "missing port in address" {
			return c, badURI("%s: %v", u.Shown(), err)
		}
	}
	if port == "" {
		port = defaultPort
	}
	if name == "" {
		return c, badURI("%s: the host is missing: write %s://HOST[:PORT]/EXPORT", u.Shown(), u.Scheme)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return c, badURI("%s: %q is no port", u.Shown(), port)
	}
	c.addr = net.JoinHostPort(strings.ToLower(name), port)
	if c.tls {
		c.tlsHost, _, _ = strings.Cut(name, "%") // a zone is no part of a certificate
	}
	return c, nil
}

const noPSK = "TLS with pre-shared keys is not there (Go's TLS has none): use certificates"

// key is the same for all URIs that name one volume: TLS or not is another way to the same export.
func key(u *backstore.URI) string {
	c, err := place(u)
	if err != nil {
		return u.Scheme + "\x00" + u.String() // it cannot be opened either
	}
	return "nbd\x00" + c.network + "\x00" + c.addr + "\x00" + c.export
}

func parse(u *backstore.URI, o backstore.Options) (*config, error) {
	c, err := place(u)
	if err != nil {
		return nil, err
	}
	u.Option("socket")
	if err := c.parseTLS(u); err != nil {
		return nil, err
	}
	c.offlineAfter, c.minPause, c.maxPause = defaultOffline, backoffMin, backoffMax
	if c.readOnly, err = u.Bool("readonly", false); err != nil {
		return nil, badURI("%s: %v", u.Shown(), err)
	}
	c.readOnly = c.readOnly || o.ReadOnly
	if c.shared, err = u.Bool("shared", false); err != nil {
		return nil, badURI("%s: %v", u.Shown(), err)
	}
	if c.conns, err = number(u, "connections", defaultConns, maxConns); err != nil {
		return nil, err
	}
	if c.inFlight, err = number(u, "inflight", defaultInFlight, maxInFlight); err != nil {
		return nil, err
	}
	if v, ok := u.Option("offline_after"); ok {
		if secs, err := strconv.Atoi(v); err == nil && secs <= math.MaxInt32 {
			c.offlineAfter = time.Duration(secs) * time.Second
		} else if c.offlineAfter, err = time.ParseDuration(v); err != nil {
			return nil, badURI("%s: option offline_after=%s: want seconds, or a number with a unit (90s, 2m); 0 for never", u.Shown(), v)
		}
		if c.offlineAfter < 0 {
			return nil, badURI("%s: option offline_after=%s: want 0 (never) or more", u.Shown(), v)
		}
	}
	if v, ok := u.Option("restart"); ok {
		if v != "safe" && v != "unsafe" {
			return nil, badURI("%s: option restart=%s: want safe or unsafe", u.Shown(), v)
		}
		c.safe = v == "safe"
	}
	return &c, nil
}

// tlsOptions are those that the URI specification and libnbd have for TLS.
var tlsOptions = [...]string{"tls-certificates", "tls-hostname", "tls-verify-peer", "tls-type", "tls-psk-file"}

func (c *config) parseTLS(u *backstore.URI) error {
	for _, name := range tlsOptions {
		if _, ok := u.Peek(name); ok && !c.tls {
			return badURI("%s: option %s: there is no TLS with %s: write %s", u.Shown(), name, u.Scheme, strings.Replace(u.Scheme, "nbd", "nbds", 1))
		}
	}
	if _, ok := u.Option("tls-psk-file"); ok {
		return badURI("%s: option tls-psk-file: %s", u.Shown(), noPSK)
	}
	switch typ, _ := u.Option("tls-type"); typ {
	case "", "x509":
	case "psk":
		return badURI("%s: option tls-type=psk: %s", u.Shown(), noPSK)
	default:
		return badURI("%s: option tls-type=%s: want x509", u.Shown(), typ)
	}
	c.tlsDir, _ = u.Option("tls-certificates")
	if host, ok := u.Option("tls-hostname"); ok {
		c.tlsHost = host
	}
	verify, err := u.Bool("tls-verify-peer", true)
	if err != nil {
		return badURI("%s: %v", u.Shown(), err)
	}
	c.tlsBlind = !verify
	return nil
}

func number(u *backstore.URI, name string, def, limit int) (int, error) {
	v, ok := u.Option(name)
	if !ok {
		return def, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > limit {
		return 0, badURI("%s: option %s=%s: want 1 to %d", u.Shown(), name, v, limit)
	}
	return n, nil
}
