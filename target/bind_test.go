package target

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
)

// Whoever connects before Serve is refused, and tries again; an address that is taken is refused at once, and one that somebody takes before
// Serve then.
func TestBoundPortalsDoNotListen(t *testing.T) {
	s, err := NewServer(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	addr, err := s.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("tcp", addr.String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatal("before Serve:", err)
	}
	if _, err := s.ListenPortal(Portal{Addr: addr}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Error("twice, before it listens:", err)
	}
	if err := s.Serve(); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal("after Serve:", err)
	}
	c.Close()
	if _, err := s.ListenPortal(Portal{Addr: addr}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Error("twice:", err)
	}
	if n := len(s.Portals()); n != 1 {
		t.Errorf("%d portals", n)
	}
}

func TestServeNamesThePortal(t *testing.T) {
	b, err := bind(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	s, err := NewServer(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.ListenPortal(Portal{Addr: b.addr}); err != nil {
		t.Fatal("both are bound, neither listens:", err)
	}
	ln, err := b.listen()
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := s.Serve(); !errors.Is(err, syscall.EADDRINUSE) {
		t.Error(err)
	}
}
