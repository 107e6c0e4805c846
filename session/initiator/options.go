package initiator

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// DefaultInitiatorName is who we say we are where Options name nobody.
const DefaultInitiatorName = "iqn.2026-11.io.github.lunar-iscsi:initiator"

// DefaultDepth is how many commands a session keeps in flight where Options say nothing.
const DefaultDepth = 128

// Options say where a session goes to and what it asks for. The zero value of each field but Portal means a default.
type Options struct {
	Portal        string // host:port
	TargetName    string // "" with Discover
	InitiatorName string // DefaultInitiatorName
	// InitiatorAlias is what people call this initiator; "": none is sent.
	InitiatorAlias string
	ISID           [6]byte
	CHAP           *CHAP // nil: AuthMethod=None

	Offer *Params       // DefaultOffer
	Extra Keys          // operational keys to send after those of Offer
	Depth int           // commands in flight, further ones wait; DefaultDepth
	Slab  int           // bytes of the receive buffer, MinSlab or more; DefaultSlab
	Wait  time.Duration // bounds dialling and each step of the login; DefaultTimeout

	// Lenient overlooks what no initiator at error recovery level 0 acts on: ExpDataSN, the order of StatSN, an ExpCmdSN that
	// counts an immediate request, and Data-In sequences beyond MaxBurstLength; and it leaves the keys out that came after
	// RFC 3720. For comparing peers that get these wrong.
	Lenient bool
	// OnAsync is told of SCSI events and of tasks that are being terminated, from the session's own goroutine; it must not call the session.
	OnAsync func(*PDU)
	// Dial replaces the TCP connection, for tests.
	Dial func(ctx context.Context, portal string) (net.Conn, error)
}

func (o *Options) depth() int {
	if o.Depth > 0 {
		return o.Depth
	}
	return DefaultDepth
}

func (o *Options) slab() int {
	if o.Slab > 0 {
		return max(o.Slab, MinSlab)
	}
	return DefaultSlab
}

// connect dials and logs in.
func (o *Options) connect(ctx context.Context) (*Conn, Params, error) {
	wait := o.Wait
	if wait <= 0 {
		wait = DefaultTimeout
	}
	dctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var c *Conn
	if o.Dial != nil {
		nc, err := o.Dial(dctx, o.Portal)
		if err != nil {
			return nil, Params{}, err
		}
		c = NewConn(nc)
	} else {
		var err error
		if c, err = Dial(dctx, o.Portal); err != nil {
			return nil, Params{}, err
		}
	}
	c.Timeout = wait
	stop := context.AfterFunc(ctx, func() { c.NC.Close() })
	p, err := o.login(c)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, p, fmt.Errorf("%s at %s: %w", o.name(), o.Portal, err)
	}
	return c, p, nil
}

func (o *Options) name() string {
	if o.TargetName == "" {
		return "discovery"
	}
	return o.TargetName
}

func (o *Options) login(c *Conn) (Params, error) {
	if o.ISID != [6]byte{} {
		c.ISID = o.ISID
	}
	initiator := o.InitiatorName
	if initiator == "" {
		initiator = DefaultInitiatorName
	}
	offer := DefaultOffer()
	if o.Offer != nil {
		offer = *o.Offer
	}
	c.MaxRecv = int(offer.MaxRecvDataSegmentLength)
	itt := c.NextITT()
	keys := SecurityKeys(initiator, o.TargetName)
	if o.InitiatorAlias != "" {
		keys = keys.With("InitiatorAlias", o.InitiatorAlias)
	}
	var err error
	if o.CHAP != nil {
		err = o.CHAP.login(c, itt, keys)
	} else {
		err = c.loginStage(itt, stageSecurity, keys, func(Keys) (Keys, error) { return nil, nil })
	}
	if err != nil {
		return offer, err
	}
	t := login.Normal
	if o.TargetName == "" {
		t = login.Discovery
	}
	p, err := negotiate(c, offer, t, o.Extra, itt, o.Lenient)
	if err != nil {
		return p, err
	}
	c.HeaderDigest, c.DataDigest = p.HeaderDigest, p.DataDigest
	c.MaxText = int(p.MaxXmitDataSegmentLength)
	return p, nil
}

// A Target is one target that discovery found.
type Target struct {
	Name      string
	Addresses []string // host:port,portal-group-tag, in the target's order
}

// Discover lists the targets that a portal shows us (SendTargets=All, RFC 7143 appendix C). o.TargetName is ignored.
func Discover(ctx context.Context, o Options) ([]Target, error) {
	o.TargetName = ""
	c, _, err := o.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	keys, err := c.Text(Keys{{Name: "SendTargets", Value: "All"}})
	if err != nil {
		return nil, fmt.Errorf("discovery at %s: %w", o.Portal, err)
	}
	var found []Target
	for _, k := range keys {
		switch k.Name {
		case "TargetName":
			found = append(found, Target{Name: k.Value})
		case "TargetAddress":
			if len(found) == 0 {
				return nil, fmt.Errorf("discovery at %s: a TargetAddress before any TargetName", o.Portal)
			}
			t := &found[len(found)-1]
			t.Addresses = append(t.Addresses, k.Value)
		}
	}
	if _, err := c.Logout(pdu.LogoutCloseSession); err != nil {
		return found, fmt.Errorf("discovery at %s: %w", o.Portal, err)
	}
	return found, nil
}
