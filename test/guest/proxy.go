package guest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// A Proxy stands between a guest and lunard and cuts their connections when it is told to, as a network that
// fails does.
type Proxy struct {
	Addr string // where initiators log in, 127.0.0.2:PORT or as NewProxyAt was told

	l  net.Listener
	to string

	mu       sync.Mutex
	pairs    map[*pair]struct{} // guarded by mu
	accepted int                // guarded by mu
	down     bool               // guarded by mu; what comes is turned away
	wg       sync.WaitGroup     // its goroutines
}

// A pair is one connection of an initiator and the one to lunard that it became.
type pair struct{ in, out *net.TCPConn }

// NewProxy starts a proxy for lunard's portal; it ends with the test.
func NewProxy(t testing.TB, portal string) *Proxy {
	t.Helper()
	return NewProxyAt(t, Portal, portal)
}

// NewProxyAt is NewProxy with a place for initiators to log in: an address that guests reach, and a port or 0.
func NewProxyAt(t testing.TB, addr, portal string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), l: l, to: portal, pairs: map[*pair]struct{}{}}
	p.wg.Add(1)
	go p.accept()
	t.Cleanup(func() {
		l.Close()
		p.Down()
		p.wg.Wait()
	})
	return p
}

func (p *Proxy) accept() {
	defer p.wg.Done()
	for {
		in, err := p.l.Accept()
		if err != nil {
			return // closed
		}
		p.wg.Add(1)
		go p.serve(in.(*net.TCPConn)) // of a TCP listener
	}
}

func (p *Proxy) serve(in *net.TCPConn) {
	defer p.wg.Done()
	defer in.Close()
	c, err := net.Dial("tcp", p.to)
	if err != nil {
		return // lunard is not there; the initiator sees its connection end
	}
	both := &pair{in: in, out: c.(*net.TCPConn)}
	defer c.Close()
	p.mu.Lock()
	if p.down {
		p.mu.Unlock()
		return
	}
	p.pairs[both] = struct{}{}
	p.accepted++
	p.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(both.out, both.in) // either side's end or a cut ends both
		both.out.Close()
		both.in.Close()
	}()
	_, _ = io.Copy(both.in, both.out)
	both.out.Close()
	both.in.Close()
	<-ended
	p.mu.Lock()
	delete(p.pairs, both)
	p.mu.Unlock()
}

// Cut ends all connections there are, by a reset or in good order (to TCP), in the midst of what they carry, and
// returns how many there were.
func (p *Proxy) Cut(reset bool) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.pairs {
		if reset {
			_ = c.in.SetLinger(0) // fails on a connection that has just ended
			_ = c.out.SetLinger(0)
		}
		c.in.Close()
		c.out.Close()
	}
	return len(p.pairs)
}

// Down cuts all connections, and what comes from then on, until Up.
func (p *Proxy) Down() {
	p.mu.Lock()
	p.down = true
	p.mu.Unlock()
	p.Cut(false)
}

// Up ends Down.
func (p *Proxy) Up() {
	p.mu.Lock()
	p.down = false
	p.mu.Unlock()
}

// Accepted is how many connections have reached lunard so far.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}
