package grpcd

import (
	"time"

	"github.com/lunar-iscsi/lunar/target"
)

// Config is what a Server is made with. A zero field is its default.
type Config struct {
	Logger target.Logger // nil: nothing is logged
	TLS    *TLSFiles     // nil: no TCP

	MaxConns     int           // connections at once, at each address; further ones are closed
	MaxStreams   uint32        // calls at once of one connection; further ones wait
	MaxCalls     int           // calls at once; further ones are refused
	MaxWatchers  int           // of these, event streams
	MaxRecvBytes int           // of one message that is received
	PageBytes    int           // from this size on a list goes on in the next page
	CallTimeout  time.Duration // of a call, where its caller has no earlier deadline
	LongTimeout  time.Duration // of one that may take long: ApplyDocument, DrainTarget
	Handshake    time.Duration // of a new connection
	Ping         time.Duration // silence before a caller is pinged, and how often callers may ping is a fifth of it
	PingTimeout  time.Duration // to answer one
}

// The defaults of Config.
const (
	DefaultMaxConns     = 256
	DefaultMaxStreams   = 64
	DefaultMaxCalls     = 512
	DefaultMaxWatchers  = 64
	DefaultMaxRecvBytes = 16 << 20
	DefaultPageBytes    = 1 << 20
	DefaultCallTimeout  = 2 * time.Minute
	DefaultLongTimeout  = 15 * time.Minute
	DefaultHandshake    = 10 * time.Second
	DefaultPing         = 60 * time.Second
	DefaultPingTimeout  = 20 * time.Second

	// DefaultDrain is how long DrainTarget waits where the call does not say, MaxDrain the longest.
	DefaultDrain = 30 * time.Second
	MaxDrain     = 10 * time.Minute

	maxHeaderBytes = 16 << 10 // of a call's metadata; lunar uses none
)

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = silent{}
	}
	or(&c.MaxConns, DefaultMaxConns)
	or(&c.MaxStreams, DefaultMaxStreams)
	or(&c.MaxCalls, DefaultMaxCalls)
	or(&c.MaxWatchers, DefaultMaxWatchers)
	or(&c.MaxRecvBytes, DefaultMaxRecvBytes)
	or(&c.PageBytes, DefaultPageBytes)
	or(&c.CallTimeout, DefaultCallTimeout)
	or(&c.LongTimeout, DefaultLongTimeout)
	or(&c.Handshake, DefaultHandshake)
	or(&c.Ping, DefaultPing)
	or(&c.PingTimeout, DefaultPingTimeout)
	return c
}

func or[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}

type silent struct{}

func (silent) Debug(string, ...any) {}
func (silent) Info(string, ...any)  {}
func (silent) Warn(string, ...any)  {}
