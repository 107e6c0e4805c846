package target

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// listenBacklog is how many connections may wait in the kernel to be taken; it cuts this to net.core.somaxconn.
const listenBacklog = 4096

// A binding is an address that is taken and does not listen yet: whoever connects is refused, and tries again.
type binding struct {
	f    *os.File
	addr netip.AddrPort // with a port in place of port 0
}

// bind takes an address. [::] is of IPv6 alone.
func bind(addr netip.AddrPort) (*binding, error) {
	family, sa, err := sockaddr(addr)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "portal "+addr.String())
	b, err := bindSocket(f, fd, family, sa)
	if err != nil {
		f.Close()
		return nil, err
	}
	return b, nil
}

func bindSocket(f *os.File, fd, family int, sa unix.Sockaddr) (*binding, error) {
	// A daemon that starts again takes the address over from connections that linger.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return nil, os.NewSyscallError("setsockopt SO_REUSEADDR", err)
	}
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return nil, os.NewSyscallError("setsockopt IPV6_V6ONLY", err)
		}
	}
	if err := unix.Bind(fd, sa); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	own, err := unix.Getsockname(fd)
	if err != nil {
		return nil, os.NewSyscallError("getsockname", err)
	}
	b := &binding{f: f}
	switch sa := own.(type) {
	case *unix.SockaddrInet4:
		b.addr = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		a := netip.AddrFrom16(sa.Addr)
		if i, err := net.InterfaceByIndex(int(sa.ZoneId)); err == nil {
			a = a.WithZone(i.Name)
		}
		b.addr = netip.AddrPortFrom(a, uint16(sa.Port))
	}
	return b, nil
}

func sockaddr(addr netip.AddrPort) (family int, sa unix.Sockaddr, err error) {
	a := addr.Addr()
	if a.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: a.As4()}, nil
	}
	s := &unix.SockaddrInet6{Port: int(addr.Port()), Addr: a.As16()}
	if zone := a.Zone(); zone != "" {
		n, err := strconv.ParseUint(zone, 10, 32)
		if err != nil {
			i, err := net.InterfaceByName(zone)
			if err != nil {
				return 0, nil, fmt.Errorf("zone %s: %w", zone, err)
			}
			n = uint64(i.Index)
		}
		s.ZoneId = uint32(n)
	}
	return unix.AF_INET6, s, nil
}

// listen lets connections in.
func (b *binding) listen() (net.Listener, error) {
	raw, err := b.f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.Listen(int(fd), listenBacklog) }); err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, os.NewSyscallError("listen", failed)
	}
	return net.FileListener(b.f) // a duplicate
}

func (b *binding) close() { b.f.Close() }
