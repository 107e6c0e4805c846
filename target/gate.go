package target

import (
	"net"
	"net/netip"
	"sync"
)

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

// closeAll cuts off every login and lets no more in.
func (g *loginGate) closeAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
	for nc := range g.all {
		nc.Close()
	}
}
