package target

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultPortalGroup is the tag of a portal that is given none.
const DefaultPortalGroup = 1

// A Portal says where initiators connect and which portal group that belongs to. A portal group is a target port: its tag
// is in TargetPortalGroupTag, in the name of the SCSI port, and is the relative target port identifier that
// VPD page 83h and PERSISTENT RESERVE show (RFC 7143 §4.4.2).
type Portal struct {
	// Addr is what is bound. An unspecified address means every address of its IP version: [::] takes no IPv4, so
	// that 0.0.0.0 can be bound beside it. Port 0 takes a free one.
	Addr netip.AddrPort
	// Group is the target portal group tag, 1 to 65535; 0 means DefaultPortalGroup.
	Group uint16
	// Advertise, HOST:PORT, is what discovery tells initiators instead of the address, for portals behind a
	// translation of addresses. HOST is an IP address (IPv6 in brackets) or a DNS name.
	Advertise string
}

// ParsePortal reads ADDR:PORT[,group=N][,advertise=HOST:PORT], with IPv6 in brackets.
func ParsePortal(s string) (Portal, error) {
	var p Portal
	words := strings.Split(s, ",")
	var err error
	if p.Addr, err = netip.ParseAddrPort(words[0]); err != nil {
		return Portal{}, fmt.Errorf("portal %s: want an IP address and a port, as 192.0.2.1:3260 or [2001:db8::1]:3260", s)
	}
	for _, w := range words[1:] {
		name, value, _ := strings.Cut(w, "=")
		switch name {
		case "group":
			n, err := strconv.ParseUint(value, 10, 16)
			if err != nil || n == 0 {
				return Portal{}, fmt.Errorf("portal %s: group=%s: want 1 to 65535", s, value)
			}
			p.Group = uint16(n)
		case "advertise":
			if p.Advertise = value; value == "" {
				return Portal{}, fmt.Errorf("portal %s: advertise= wants HOST:PORT", s)
			}
		default:
			return Portal{}, fmt.Errorf("portal %s: %q is neither group= nor advertise=", s, w)
		}
	}
	return p, p.check()
}

// check fills the defaults in and says what is wrong.
func (p *Portal) check() error {
	if !p.Addr.IsValid() {
		return errors.New("portal: no address")
	}
	p.Addr = netip.AddrPortFrom(p.Addr.Addr().Unmap(), p.Addr.Port())
	if p.Group == 0 {
		p.Group = DefaultPortalGroup
	}
	if p.Advertise == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(p.Advertise)
	if err != nil {
		return fmt.Errorf("portal %v: advertise=%s: want HOST:PORT, IPv6 in brackets", p.Addr, p.Advertise)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("portal %v: advertise=%s: want a port of 1 to 65535", p.Addr, p.Advertise)
	}
	a, err := netip.ParseAddr(host)
	switch {
	case err != nil && !hostName(host):
		return fmt.Errorf("portal %v: advertise=%s: %q is neither an IP address nor a host name", p.Addr, p.Advertise, host)
	case err == nil && (a.IsUnspecified() || a.Zone() != ""):
		return fmt.Errorf("portal %v: advertise=%s: no other host can connect to %s", p.Addr, p.Advertise, host)
	}
	return nil
}

// hostName reports whether s can be a DNS name (RFC 1123 §2.1).
func hostName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	return true
}

// A portal is one listening address. All but done is set before it is published, then read-only.
type portal struct {
	s         *Server
	asked     Portal
	addr      netip.AddrPort
	group     uint16
	advertise string
	bound     *binding
	ln        net.Listener  // nil before it listens; guarded by Server.mu until then
	done      chan struct{} // closed when accept has ended; nil before it began; guarded by Server.mu
}

// A way is how a connection came in: the portal, the portal's address as the initiator reached it, and the initiator's.
type way struct {
	portal *portal
	local  netip.AddrPort
	from   netip.Addr
}

// told returns what discovery says of p to an initiator that came in by w; false: nothing that it could use.
func (p *portal) told(w way) (string, bool) {
	if p.advertise != "" {
		return p.advertise, true
	}
	a, local := p.addr.Addr(), w.local.Addr()
	if a.IsUnspecified() {
		if a.Is4() != local.Is4() {
			return "", false // which address of the other IP version leads here is not known
		}
		a = local
	}
	switch {
	case a.IsLoopback() && !local.IsLoopback():
		return "", false
	case a.Is6() && a.IsLinkLocalUnicast() && a != local:
		return "", false // it means something only on its own link
	}
	// A zone is this host's name for the link (RFC 4007 §11.2): the other one has its own.
	return netip.AddrPortFrom(a.WithZone(""), p.addr.Port()).String(), true
}

// Listen is ListenPortal for the text that ParsePortal reads.
func (s *Server) Listen(portal string) (netip.AddrPort, error) {
	p, err := ParsePortal(portal)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return s.ListenPortal(p)
}

// ListenPortal binds a portal, which ClosePortal closes, and returns its address. It listens from Serve on, so that whoever comes before all
// is there is refused and tries again; on a server that serves already, at once.
func (s *Server) ListenPortal(cfg Portal) (netip.AddrPort, error) {
	if err := cfg.check(); err != nil {
		return netip.AddrPort{}, err
	}
	b, err := bind(cfg.Addr)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("portal %v: %w", cfg.Addr, err)
	}
	p := &portal{s: s, bound: b, asked: cfg, addr: b.addr, group: cfg.Group, advertise: cfg.Advertise}
	t, err := s.addPortal(p)
	if err != nil {
		b.close()
		return netip.AddrPort{}, err
	}
	t.syncPorts()
	return p.addr, nil
}

// addPortal publishes p and returns the table that has it.
func (s *Server) addPortal(p *portal) (*table, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	if slices.ContainsFunc(s.portals, func(o *portal) bool { return o.addr == p.addr }) {
		return nil, fmt.Errorf("portal %v: %w", p.addr, unix.EADDRINUSE) // the kernel says so only when one listens
	}
	if s.serving {
		if err := p.open(); err != nil {
			return nil, err
		}
	}
	s.portals = append(s.portals, p)
	t := *s.table.Load()
	t.portals = append(slices.Clip(t.portals), p)
	s.table.Store(&t)
	return &t, nil
}

// Serve lets initiators in on every portal: call it when the targets are there. It does not block. An error names a portal that another
// program has begun to listen on since it was bound; the others are served then.
func (s *Server) Serve() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if s.serving {
		return nil
	}
	s.serving = true
	var errs []error
	for _, p := range s.portals {
		errs = append(errs, p.open())
	}
	return errors.Join(errs...)
}

func (p *portal) open() error {
	ln, err := p.bound.listen()
	if err != nil {
		return fmt.Errorf("portal %v: %w", p.addr, err)
	}
	p.ln, p.done = ln, make(chan struct{})
	go p.accept()
	return nil
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// acceptRetry is how long a portal waits after accept failed for want of descriptors or memory.
const acceptRetry = 50 * time.Millisecond

func (p *portal) accept() {
	defer close(p.done)
	for {
		nc, err := p.ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			p.s.log.Warn("accept failed; trying again", "portal", p.addr, "error", err)
			time.Sleep(acceptRetry)
			continue
		}
		from := addrPort(nc.RemoteAddr())
		p.s.count.accepted.Add(1)
		if p.s.refusing.Load() {
			p.s.count.turnedAway.Add(1)
			nc.Close()
			continue
		}
		if !p.s.gate.enter(from.Addr(), nc) {
			p.s.count.turnedAway.Add(1)
			p.s.log.Debug("connection refused: too many logins at once", "from", from)
			p.guest(&p.s.lobby, nc, from, p.s.turnAway)
			continue
		}
		p.host(&p.s.gate, nc, from, p.s.serveLogin)
	}
}

// guest is host for a connection that g may have no room for: it is closed then.
func (p *portal) guest(g *loginGate, nc net.Conn, from netip.AddrPort, serve func(net.Conn, *portal, netip.AddrPort)) {
	if !g.enter(from.Addr(), nc) {
		nc.Close()
		return
	}
	p.host(g, nc, from, serve)
}

// host serves a connection that has entered g, on a goroutine of its own.
func (p *portal) host(g *loginGate, nc net.Conn, from netip.AddrPort, serve func(net.Conn, *portal, netip.AddrPort)) {
	p.s.logins.Add(1)
	go func() {
		defer p.s.logins.Done()
		defer g.leave(from.Addr(), nc)
		serve(nc, p, from)
	}()
}

func (p *portal) close() {
	p.bound.close()
	if p.ln != nil {
		p.ln.Close()
		<-p.done
	}
}

// A loginGate bounds the connections that have not reached a loop: all together and per address, wide enough for many
// initiators behind one address.
type loginGate struct {
	max, perIP int

	mu   sync.Mutex
	all  map[net.Conn]struct{}
	byIP map[netip.Addr]int
	shut bool
}

func (g *loginGate) init(max, perIP int) {
	g.max, g.perIP = max, perIP
	g.all, g.byIP = map[net.Conn]struct{}{}, map[netip.Addr]int{}
}

func (g *loginGate) enter(ip netip.Addr, nc net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut || len(g.all) >= g.max || g.byIP[ip] >= g.perIP {
		return false
	}
	g.all[nc] = struct{}{}
	g.byIP[ip]++
	return true
}

func (g *loginGate) leave(ip netip.Addr, nc net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.all, nc)
	if g.byIP[ip]--; g.byIP[ip] <= 0 {
		delete(g.byIP, ip)
	}
}

// inside is how many connections are in login or discovery.
func (g *loginGate) inside() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.all)
}

// closeAll cuts off every login and lets no more in.
func (g *loginGate) closeAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
	for nc := range g.all {
		nc.Close()
	}
}
