package tgtipc

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/admin/internal/tgtvolume"
	"github.com/lunar-iscsi/lunar/admin/spec"
)

const defaultPort = 3260

func (c *call) portal(ctx context.Context) (string, error) {
	switch c.Op {
	case OpShow:
		var b strings.Builder
		for _, p := range slices.Backward(c.svc.Portals()) {
			fmt.Fprintf(&b, "Portal: %s,%d\n", p.Bound, max(p.Spec.Group, 1))
		}
		return b.String(), nil
	case OpNew:
		return "", c.newPortals(ctx)
	case OpDelete:
		return "", c.deletePortals(ctx)
	}
	return "", c.notThere(ErrInvalidRequest)
}

// Portals are what a list of portal=…, nop_interval= and nop_count= says.
type Portals struct {
	Addrs    []string // [HOST][:PORT]
	Interval int      // of pings, seconds; -1: not said
	Count    int      // of pings without answer; -1: not said
}

// ParsePortals reads such a list; words that it does not know are left out, as tgtd does. Both tgtadm's --param and tgtd's --iscsi are one.
func ParsePortals(list string) (Portals, error) {
	p := Portals{Interval: -1, Count: -1}
	for _, kv := range tokens(list) {
		k, v, _ := strings.Cut(kv, "=")
		switch k {
		case "portal":
			p.Addrs = append(p.Addrs, v)
		case "nop_interval", "nop_count":
			n := tgtvolume.Decimal(v)
			if n < 0 || n > spec.MaxNop {
				return p, fmt.Errorf("%s=%s: want a number of 0 to %d", k, v, spec.MaxNop)
			}
			if k == "nop_interval" {
				p.Interval = int(n)
			} else {
				p.Count = int(n)
			}
		}
	}
	return p, nil
}

// System returns the edit that makes what is said of pings the default of targets that come later; nil: nothing is said.
func (p *Portals) System() func(*spec.System) error {
	if p.Interval < 0 && p.Count < 0 {
		return nil
	}
	return func(s *spec.System) error {
		if p.Interval >= 0 {
			s.NopInterval = p.Interval
		}
		if p.Count >= 0 {
			s.NopCount = p.Count
		}
		return nil
	}
}

// ResolvePortal returns the addresses of [HOST][:PORT]: IPv6 in brackets, a name's every address, both wildcards where only a port is given
// (as tgtd's manual has it; tgtd itself takes no notice of such a portal), none of an empty text.
func ResolvePortal(ctx context.Context, s string) ([]netip.AddrPort, error) {
	return resolve(ctx, s, lookup)
}

// lookup asks the system for a name's addresses.
func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// resolve is ResolvePortal with another source of addresses.
func resolve(ctx context.Context, s string, lookup func(context.Context, string) ([]netip.Addr, error)) ([]netip.AddrPort, error) {
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.Contains(s[i:], "]") && (strings.HasPrefix(s, "[") || strings.Count(s, ":") == 1) {
		host, port = s[:i], s[i+1:]
	}
	n := uint64(defaultPort)
	if port != "" {
		var err error
		if n, err = strconv.ParseUint(port, 10, 16); err != nil {
			return nil, fmt.Errorf("portal %q: %q is no port", s, port)
		}
	}
	if host == "" {
		if port == "" {
			return nil, nil
		}
		// The order in which tgtd makes its own.
		return []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(n)), netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(n))}, nil
	}
	if in, ok := strings.CutPrefix(host, "["); ok {
		if in, ok = strings.CutSuffix(in, "]"); !ok {
			return nil, fmt.Errorf("portal %q: a bracket is not closed", s)
		}
		host = in
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(a.Unmap(), uint16(n))}, nil
	}
	addrs, err := lookup(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("portal %q: %w", s, err)
	}
	var out []netip.AddrPort
	for _, a := range addrs {
		if ap := netip.AddrPortFrom(a.Unmap(), uint16(n)); !slices.Contains(out, ap) {
			out = append(out, ap)
		}
	}
	return out, nil
}

// portals reads the request's list.
func (c *call) portals() (Portals, error) {
	i := strings.Index(c.payload, "portal=")
	if i < 0 {
		return Portals{}, refuse(ErrInvalidRequest, "no portal is named: portal= is missing")
	}
	p, err := ParsePortals(c.payload[i:])
	if err != nil {
		return p, refuse(ErrInvalidRequest, "%v", err)
	}
	return p, nil
}

// newPortals opens all portals of the list or, where one cannot be opened, none.
func (c *call) newPortals(ctx context.Context) (err error) {
	p, err := c.portals()
	if err != nil {
		return err
	}
	var opened []netip.AddrPort
	defer func() {
		if err == nil {
			return
		}
		for _, a := range slices.Backward(opened) {
			if rerr := c.svc.RemovePortal(context.WithoutCancel(ctx), a); rerr != nil {
				c.log.Warn("management: a portal that was just opened could not be closed again", "portal", a, "error", rerr)
			}
		}
	}()
	for _, s := range p.Addrs {
		addrs, err := resolve(ctx, s, c.lookup)
		if err != nil {
			return refuse(ErrInvalidRequest, "%v", err)
		}
		var failed error
		n := 0
		for _, a := range addrs {
			st, err := c.svc.AddPortal(ctx, spec.Portal{Address: a.String()})
			if err != nil {
				failed = err
				c.log.Warn("management: portal not opened", "portal", a, "error", err)
				continue
			}
			n++
			opened = append(opened, st.Bound)
		}
		if n == 0 && failed != nil { // of a name's addresses some may not be this machine's
			return failed
		}
	}
	if edit := p.System(); edit != nil {
		return c.svc.EditSystem(ctx, edit)
	}
	return nil
}

// deletePortals closes portals, which are named by the address that they have: names are not looked up.
func (c *call) deletePortals(ctx context.Context) error {
	p, err := c.portals()
	if err != nil {
		return err
	}
	for _, s := range p.Addrs {
		addr, err := netip.ParseAddrPort(s)
		if err != nil {
			// Without a port, or a bare wildcard.
			addrs, rerr := resolve(ctx, s, c.lookup)
			switch {
			case rerr != nil:
				return refuse(ErrInvalidRequest, "%v", rerr)
			case strings.HasPrefix(s, ":"):
				if err := c.deleteAny(ctx, addrs); err != nil {
					return err
				}
				continue
			case len(addrs) == 0:
				continue
			}
			if _, err := netip.ParseAddr(strings.Trim(s, "[]")); err != nil {
				return refuse(ErrInvalidRequest, "portal %q: a portal is closed by its address, as it is shown", s)
			}
			addr = addrs[0]
		}
		if err := c.svc.RemovePortal(ctx, netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())); err != nil {
			return err
		}
	}
	return nil
}

// deleteAny closes those of addrs that are open; it fails when none is.
func (c *call) deleteAny(ctx context.Context, addrs []netip.AddrPort) error {
	var last error
	done := false
	for _, a := range addrs {
		if err := c.svc.RemovePortal(ctx, a); err != nil {
			last = err
		} else {
			done = true
		}
	}
	if done {
		return nil
	}
	return last
}

// Number reads a number of tgt's command lines, of base 10, or 8 or 16 by its beginning; what follows it does not count.
func Number(s string) (n int64, ok bool) {
	n, _, ok = tgtvolume.Number(s)
	return n, ok
}
