package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// hasShort reports whether a mapping of this type can be written as one value instead: see short.
func hasShort(t reflect.Type) bool {
	switch t {
	case reflect.TypeFor[spec.Rule](), reflect.TypeFor[spec.Portal](), reflect.TypeFor[spec.MappedLUN]():
		return true
	}
	return false
}

// short reads what people write for a mapping most of whose keys are defaults: a portal's address, whom a rule admits, a LUN under
// its own number. It returns false where p has no short form.
func (d *decoder) short(n ast.Node, p any, key string) bool {
	switch p := p.(type) {
	case *spec.Portal:
		p.Address, _ = d.text(n, key)
	case *spec.MappedLUN:
		s, _ := d.text(n, key)
		x, err := parseInt(s, 0)
		if err != nil || x < 0 || x > 65535 {
			d.errorf(n, key, "%q: want the number of a LUN, or as: and lun:", s)
			return true
		}
		p.As, p.LUN = uint16(x), uint16(x)
	case *spec.Rule:
		s, ok := d.text(n, key)
		if !ok {
			return true
		}
		r, err := parseRule(s)
		if err != nil {
			d.errorf(n, key, "%v", err)
		}
		*p = r
	default:
		return false
	}
	return true
}

// parseRule reads the short form of a rule. What it says is decided by its first characters, so that no text could be both:
// names begin with the type of an iSCSI name, or are a pattern that begins with a wildcard.
func parseRule(s string) (spec.Rule, error) {
	if isAddress(s) {
		return spec.Rule{Address: s}, nil
	}
	lower := strings.ToLower(s)
	for _, p := range [...]string{"iqn.", "eui.", "naa.", "*", "?"} {
		if strings.HasPrefix(lower, p) {
			return spec.Rule{Initiator: s}, nil
		}
	}
	return spec.Rule{}, fmt.Errorf("%q is neither ALL, an address, a network (192.0.2.0/24, [2001:db8::]/32) nor an initiator's name (iqn.…, with * and ? as wildcards)", s)
}

// isAddress reports whether s is ALL, an IP address or a network, in one of tgt's forms.
func isAddress(s string) bool {
	if s == "ALL" {
		return true
	}
	host, bits, net := strings.Cut(s, "/")
	if in, ok := strings.CutPrefix(host, "["); ok {
		if host, ok = strings.CutSuffix(in, "]"); !ok || !strings.Contains(host, ":") {
			return false
		}
	}
	if net {
		_, err := netip.ParsePrefix(host + "/" + bits)
		return err == nil
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}

// shortRule is the short form of a rule; false where it has none.
func shortRule(r spec.Rule) (string, bool) {
	s := r.Initiator + r.Address
	back, err := parseRule(s)
	return s, err == nil && back == r
}
