package target

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// A portal is one listening address.
type portal struct {
	s    *Server
	addr netip.AddrPort
	ln   net.Listener
	done chan struct{} // closed when accept has ended; nil before it began
}

// Listen binds a portal to addr, HOST:PORT with an IP address (IPv6 in brackets); port 0 takes a free one. It returns the
// address. Initiators are served from Serve on; on a server that serves already, at once.
func (s *Server) Listen(addr string) (netip.AddrPort, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("portal %s: %w", addr, err)
	}
	p := &portal{s: s, ln: ln}
	p.addr = addrPort(ln.Addr())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		ln.Close()
		return netip.AddrPort{}, ErrClosed
	}
	s.portals = append(s.portals, p)
	t := *s.table.Load()
	t.portals = append(append([]netip.AddrPort(nil), t.portals...), p.addr)
	s.table.Store(&t)
	if s.serving {
		p.open()
	}
	return p.addr, nil
}

// Serve lets initiators in on every portal: call it when the targets are there. It does not block.
func (s *Server) Serve() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.serving || s.closed {
		return
	}
	s.serving = true
	for _, p := range s.portals {
		p.open()
	}
}

func (p *portal) open() {
	p.done = make(chan struct{})
	go p.accept()
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
		if !p.s.gate.enter(from.Addr(), nc) {
			p.s.count.turnedAway.Add(1)
			p.s.log.Debug("connection refused: too many logins at once", "from", from)
			nc.Close()
			continue
		}
		p.s.logins.Add(1)
		go func() {
			defer p.s.logins.Done()
			defer p.s.gate.leave(from.Addr(), nc)
			p.s.serveLogin(nc, from)
		}()
	}
}

func (p *portal) close() {
	p.ln.Close()
	if p.done != nil {
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
