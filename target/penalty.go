package target

import (
	"net/netip"
	"sync"
	"time"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A penalty slows the guessing of secrets down: the answer to a login that failed to authenticate waits, the longer the
// more have failed from its address. A login that succeeds never waits, so that initiators behind one address do not
// suffer for each other, and whoever waits counts as logging in until then, whether he listens or not, so that
// Config.MaxLogins and MaxLoginsPerIP bound the guesses in a given time. The initiator's name does not count: a guesser would
// change it.
type penalty struct {
	max time.Duration // the longest wait; 0 or less: none

	mu    sync.Mutex
	by    map[netip.Prefix]failures // guarded by mu
	swept int64                     // guarded by mu: when what is forgotten was last looked for
}

// failures are what is remembered of an address.
type failures struct {
	n    int
	last int64 // ns
}

const (
	// penaltyDoublings is how often the wait doubles until it is the longest.
	penaltyDoublings = 4
	// penaltyMemory is how long, in ns, an address is remembered after its last failure.
	penaltyMemory = 300e9
	// penaltyAddresses is how many are remembered. To those beyond, failures from that many places at once being an attack,
	// the longest wait applies.
	penaltyAddresses = 4096
	// penaltySweep is how often, in ns, a full table is searched for what can be forgotten.
	penaltySweep = 1e9
)

func (p *penalty) init(max time.Duration) {
	p.max, p.by = max, map[netip.Prefix]failures{}
}

// failed notes a failure from ip at now, in ns, and returns how long its answer is to wait.
func (p *penalty) failed(ip netip.Addr, now int64) time.Duration {
	if p.max <= 0 {
		return 0
	}
	// Who has an IPv6 address has its 64 bits of interface identifier.
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	net := netip.PrefixFrom(ip.WithZone(""), bits).Masked()
	p.mu.Lock()
	defer p.mu.Unlock()
	f, known := p.by[net]
	if !known && len(p.by) >= penaltyAddresses && !p.sweep(now) {
		return p.max
	}
	if now-f.last > penaltyMemory {
		f.n = 0
	}
	wait := p.max >> max(penaltyDoublings-f.n, 0)
	p.by[net] = failures{min(f.n+1, penaltyDoublings), now}
	return wait
}

// sweep forgets what is old and reports whether that has made room.
func (p *penalty) sweep(now int64) bool {
	if now-p.swept < penaltySweep {
		return false
	}
	p.swept = now
	for net, f := range p.by {
		if now-f.last > penaltyMemory {
			delete(p.by, net)
		}
	}
	return len(p.by) < penaltyAddresses
}

// atone waits, where the login failed to authenticate, before its answer goes out.
func (g *greeter) atone(status pdu.LoginStatus) {
	if status != pdu.AuthenticationFailed {
		return
	}
	wait := g.s.penalty.failed(g.from.Addr(), g.s.group.Clock())
	if wait == 0 {
		return
	}
	g.s.count.slowed.Add(1)
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-g.s.closing:
	}
	g.nc.SetDeadline(time.Now().Add(answerTime))
}

// answerTime is how long an initiator may take to take the answer to a login that is over.
const answerTime = 2 * time.Second
