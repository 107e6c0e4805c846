package target

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// An Address says from where an initiator may connect. The zero value says nothing about it: a Rule then does not ask.
type Address struct {
	all    bool
	prefix netip.Prefix // masked; of an IPv4 address never in its IPv6 form
}

// AllAddresses is every address of either IP version, what ParseAddress reads of ALL.
func AllAddresses() Address { return Address{all: true} }

// ParseAddress reads ALL, an IP address, or a network as 192.0.2.0/24 or 2001:db8::/32. IPv6 may be in brackets, the length behind
// them. Host bits do not count: 192.0.2.77/24 is 192.0.2.0/24. An IPv4 address in its IPv6 form (::ffff:192.0.2.1) is the IPv4 address.
func ParseAddress(s string) (Address, error) {
	if s == "ALL" {
		return AllAddresses(), nil
	}
	host, length, network := strings.Cut(s, "/")
	bracketed := strings.HasPrefix(host, "[")
	if bracketed {
		if !strings.HasSuffix(host, "]") {
			return Address{}, fmt.Errorf("address %q: a bracket is not closed", s)
		}
		host = host[1 : len(host)-1]
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil || bracketed && ip.Is4():
		return Address{}, fmt.Errorf("address %q: want ALL, an IP address, or a network as 192.0.2.0/24 or [2001:db8::]/32", s)
	case ip.Zone() != "":
		// It would not mean the same after the next start, nor to anybody else.
		return Address{}, fmt.Errorf("address %q: a zone is this host's own name for a link, leave it out", s)
	}
	bits := ip.BitLen()
	if network {
		// Digits alone: ParseUint would take a sign, and a leading 0 may be meant as octal.
		n, err := strconv.ParseUint(length, 10, 8)
		if err != nil || int(n) > bits || len(length) > 1 && length[0] == '0' || length[0] < '0' || length[0] > '9' {
			return Address{}, fmt.Errorf("address %q: want a length of 0 to %d behind the slash", s, bits)
		}
		bits = int(n)
	}
	a, ok := newAddress(ip, bits)
	if !ok {
		return Address{}, fmt.Errorf("address %q: a network of IPv4 addresses in their IPv6 form has a length of 96 or more", s)
	}
	return a, nil
}

// newAddress masks ip; false: it holds IPv4 addresses in their IPv6 form and others.
func newAddress(ip netip.Addr, bits int) (Address, bool) {
	ip = ip.WithZone("")
	if ip.Is4In6() {
		if bits < 96 {
			return Address{}, false
		}
		ip, bits = ip.Unmap(), bits-96
	}
	p, err := ip.Prefix(bits)
	return Address{prefix: p}, err == nil
}

// IsZero reports whether a says nothing.
func (a Address) IsZero() bool { return a == Address{} }

// Contains reports whether ip is one of a's. Zones do not count.
func (a Address) Contains(ip netip.Addr) bool {
	return a.all && ip.IsValid() || a.prefix.Contains(ip.Unmap().WithZone(""))
}

// String is what ParseAddress reads; of the zero value it is empty.
func (a Address) String() string {
	switch {
	case a.all:
		return "ALL"
	case !a.prefix.IsValid():
		return ""
	}
	ip, length := a.prefix.Addr().String(), ""
	if a.prefix.Addr().Is6() {
		ip = "[" + ip + "]"
	}
	if !a.prefix.IsSingleIP() {
		length = "/" + strconv.Itoa(a.prefix.Bits())
	}
	return ip + length
}
