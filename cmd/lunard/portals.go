package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/target"
)

// defaultPortals are bound where no --portal is given, as far as the machine has the IP version.
var defaultPortals = [...]string{"0.0.0.0:3260", "[::]:3260"}

// A portals is every --portal and --bind.
type portals struct {
	list     []spec.Portal
	optional bool                // the defaults: what the machine cannot have is left out
	groups   map[string][]uint16 // of the targets that --bind names
}

// parsePortals checks what can be checked before anything is bound.
func parsePortals(args, binds []string, exports []export) (portals, error) {
	p := portals{optional: len(args) == 0, groups: map[string][]uint16{}}
	if p.optional {
		args = defaultPortals[:]
	}
	for _, arg := range args {
		one, err := target.ParsePortal(arg)
		if err != nil {
			return p, usageError{fmt.Errorf("--portal: %w", err)}
		}
		p.list = append(p.list, spec.Portal{Address: one.Addr.String(), Group: one.Group, Advertise: one.Advertise})
	}
	for _, arg := range binds {
		if err := p.bind(arg, exports); err != nil {
			return p, usageError{fmt.Errorf("--bind %s: %w", arg, err)}
		}
	}
	return p, nil
}

// bind reads one --bind.
func (p *portals) bind(arg string, exports []export) error {
	iqn, tags, ok := strings.Cut(arg, "=")
	if !ok {
		return errors.New("want IQN=GROUP[,GROUP…], for example iqn.2026-11.io.lunar:disk=1,2")
	}
	name, err := login.NormalizeName(iqn)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(exports, func(e export) bool { return e.target == name }) {
		return fmt.Errorf("no --export has target %s", name)
	}
	for tag := range strings.SplitSeq(tags, ",") {
		n, err := strconv.ParseUint(tag, 10, 16)
		if err != nil || n == 0 {
			return fmt.Errorf("%q is no portal group: want 1 to 65535", tag)
		}
		if !slices.ContainsFunc(p.list, func(o spec.Portal) bool { return o.Group == uint16(n) }) {
			return fmt.Errorf("no --portal has group=%d, so nobody would reach the target by it", n)
		}
		p.groups[name] = append(p.groups[name], uint16(n))
	}
	return nil
}

func texts(list []netip.AddrPort) (out []string) {
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}
