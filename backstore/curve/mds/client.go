package mds

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/lunar-iscsi/lunar/backstore/curve/brpc"
)

// Service is its full name.
const Service = "curve.mds.CurveFSService"

// Root is the one owner whose calls are signed; everything is his.
const Root = "root"

// Time limits.
const (
	dialTime = 2 * time.Second  // to connect to one server
	callTime = 20 * time.Second // for one answer
	// patience is how long a leader is looked for: another takes over within seconds of the end of its session.
	patience = 15 * time.Second
	pause    = 200 * time.Millisecond // between two rounds of looking
)

// maxAddresses bounds the servers of one cluster.
const maxAddresses = 16

// Config says where a cluster's metadata servers are.
type Config struct {
	Addresses []string // host:port; see ParseAddresses
	Password  string   // root's; empty: nothing is done as root
	// Patience is how long a leader is looked for (15 s).
	Patience time.Duration
}

// ParseAddresses takes a list "host:port,host:port" apart.
func ParseAddresses(s string) ([]string, error) {
	list := strings.Split(s, ",")
	if len(list) > maxAddresses {
		return nil, fmt.Errorf("%d addresses; want at most %d", len(list), maxAddresses)
	}
	for _, a := range list {
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("%q: want HOST:PORT[,HOST:PORT…]", a)
		}
	}
	return list, nil
}

// A Client asks one cluster. Its methods may be called from any goroutine.
type Client struct {
	cfg Config

	mu   sync.Mutex
	conn *brpc.Client // to the leader, as far as known
	at   int          // its place in cfg.Addresses
}

// New makes a client; nothing is connected before the first call.
func New(cfg Config) *Client {
	if cfg.Patience == 0 {
		cfg.Patience = patience
	}
	return &Client{cfg: cfg}
}

// Close ends the connection.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// CanRoot reports whether root's password is known.
func (c *Client) CanRoot() bool { return c.cfg.Password != "" }

var (
	// ErrAway: no server has answered.
	ErrAway = errors.New("no metadata server answers")
	// ErrUnknown: the call was sent, and whether it was carried out is not known.
	ErrUnknown = errors.New("no answer came; it may have been carried out")
	// ErrPassword: the call needs root's password.
	ErrPassword = errors.New("this is for root only, whose password is not given")
)

// leader returns a connection to try, and drops the one that failed.
func (c *Client) leader(ctx context.Context, failed *brpc.Client) (*brpc.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil && c.conn != failed {
		select {
		case <-c.conn.Gone():
		default:
			return c.conn, nil
		}
	}
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
		c.at++
	}
	var errs []error
	for range c.cfg.Addresses {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		address := c.cfg.Addresses[c.at%len(c.cfg.Addresses)]
		dctx, cancel := context.WithTimeout(ctx, dialTime)
		conn, err := brpc.Dial(dctx, "tcp", address)
		cancel()
		if err == nil {
			c.conn = conn
			return conn, nil
		}
		errs = append(errs, err)
		c.at++
	}
	return nil, errors.Join(errs...)
}

// call has a method carried out by whoever leads. again: it may be sent twice.
func (c *Client) call(ctx context.Context, method string, message []byte, again bool) ([]byte, error) {
	if len(c.cfg.Addresses) == 0 {
		return nil, fmt.Errorf("%s: %w: none is known", method, ErrAway)
	}
	look, cancel := context.WithTimeout(ctx, c.cfg.Patience)
	defer cancel()
	var failed *brpc.Client
	for {
		conn, err := c.leader(look, failed)
		if err == nil {
			cctx, cancel := context.WithTimeout(ctx, callTime)
			var answer []byte
			answer, _, err = conn.Call(cctx, Service, method, message, nil)
			cancel()
			if err == nil {
				return answer, nil
			}
			failed = conn
			var rpc *brpc.Error
			switch {
			case ctx.Err() != nil && !again:
				return nil, fmt.Errorf("%s: %w: %w", method, ErrUnknown, context.Cause(ctx))
			case ctx.Err() != nil:
				return nil, context.Cause(ctx)
			case errors.As(err, &rpc) && !rpc.Stopping() && rpc.Code != brpc.ENoService && rpc.Code != brpc.ENoMethod:
				return nil, err // the leader's answer
			case errors.As(err, &rpc): // it stops, or does not lead
			case !again:
				return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
			}
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-look.Done():
			t.Stop()
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, fmt.Errorf("%s: %w at %s within %v: %w", method, ErrAway, strings.Join(c.cfg.Addresses, ","), c.cfg.Patience, err)
		}
	}
}

// A message is a protobuf message in the making.
type message []byte

func (m *message) str(num protowire.Number, s string) {
	*m = protowire.AppendString(protowire.AppendTag(*m, num, protowire.BytesType), s)
}

func (m *message) num(num protowire.Number, v uint64) {
	*m = protowire.AppendVarint(protowire.AppendTag(*m, num, protowire.VarintType), v)
}

// Sign is the signature of a call by owner at date, in microseconds.
func Sign(password, owner string, date uint64) string {
	h := hmac.New(sha256.New, []byte(password))
	fmt.Fprintf(h, "%d:%s", date, owner)
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// who says who asks, and when; root signs.
func (c *Client) who(m *message, owner string, ownerField, signatureField, dateField protowire.Number) error {
	date := uint64(time.Now().UnixMicro())
	m.str(ownerField, owner)
	m.num(dateField, date)
	if owner == Root {
		if c.cfg.Password == "" {
			return ErrPassword
		}
		m.str(signatureField, Sign(c.cfg.Password, owner, date))
	}
	return nil
}
