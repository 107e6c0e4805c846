package target

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/lunar-iscsi/lunar/session/login"
)

// Access says who may use a target, and how: whom one of its rules admits. Without rules it admits nobody.
type Access struct {
	// Rules are looked at in order: the first that admits an initiator says what it may do.
	Rules []Rule
	// ExactNames compares the names of initiators as they come, byte by byte, as tgt does: case counts, and * and ? are
	// characters like others. Otherwise they are compared normalised (RFC 7143 §4.2.7.2).
	ExactNames bool
}

// A Rule admits initiators. It wants everything that it names, and has to name something.
type Rule struct {
	// Initiator is an iSCSI name; * stands for any text and ? for one character, but with Access.ExactNames. Empty: any name.
	Initiator string
	// Address is where the initiator connects from. The zero value: anywhere.
	Address Address
	// NoReset refuses what ends the tasks of other initiators: TARGET WARM RESET, TARGET COLD RESET, LOGICAL UNIT RESET
	// and CLEAR TASK SET.
	NoReset bool
	// ReadOnly refuses what would change a medium, or what others may do with it: every kind of write, MODE SELECT, loading and ejecting, RESERVE and
	// PERSISTENT RESERVE OUT end WRITE PROTECTED.
	ReadOnly bool
}

// MaxRules is how many rules one target may have, and how many masks. What a login looks at is bounded by it.
const MaxRules = 16384

// rights are what an initiator may do with a target that it may use.
type rights struct{ noReset, readOnly bool }

// An acl is an Access that is ready for use. It is read-only.
type acl struct {
	rules []Rule
	names nameIndex
}

func newACL(a *Access) (*acl, error) {
	if a == nil {
		return nil, nil
	}
	if len(a.Rules) > MaxRules {
		return nil, fmt.Errorf("%d access rules, at most %d are allowed", len(a.Rules), MaxRules)
	}
	patterns := make([]string, len(a.Rules))
	for i, r := range a.Rules {
		if r.Initiator == "" && r.Address.IsZero() {
			return nil, fmt.Errorf("access rule %d names neither an initiator nor an address", i+1)
		}
		if patterns[i] = r.Initiator; r.Initiator == "" {
			patterns[i] = anyName
		}
	}
	names, err := newNameIndex(patterns, a.ExactNames)
	if err != nil {
		return nil, fmt.Errorf("access rule: %w", err)
	}
	return &acl{rules: a.Rules, names: names}, nil
}

// admits returns what the first rule that admits i at ip lets it do; false: none does. Without an acl everybody may do everything.
func (a *acl) admits(i login.Initiator, ip netip.Addr) (rights, bool) {
	if a == nil {
		return rights{}, true
	}
	n := a.names.first(i, func(n int) bool { at := a.rules[n].Address; return at.IsZero() || at.Contains(ip) })
	if n < 0 {
		return rights{}, false
	}
	return rights{noReset: a.rules[n].NoReset, readOnly: a.rules[n].ReadOnly}, true
}

// anyName is a pattern that every name fits, with exact names too.
const anyName = ""

// A nameIndex finds the first of many patterns that a name fits, without looking at those that are other plain names: a target may
// have thousands of rules of one initiator each.
type nameIndex struct {
	exact bool
	plain map[string][]int // ascending
	globs []glob           // ascending at
}

type glob struct {
	at      int
	pattern string // anyName, or with wildcards
}

// maxPattern bounds the length of a pattern: that of the longest name, with some wildcards.
const maxPattern = 2 * login.MaxNameLen

func newNameIndex(patterns []string, exact bool) (nameIndex, error) {
	x := nameIndex{exact: exact, plain: map[string][]int{}}
	for i, p := range patterns {
		switch {
		case len(p) > maxPattern:
			return nameIndex{}, fmt.Errorf("an initiator name of %d bytes, at most %d are allowed", len(p), maxPattern)
		case !utf8.ValidString(p):
			return nameIndex{}, fmt.Errorf("initiator name %q is not UTF-8", p)
		case p == anyName:
			x.globs = append(x.globs, glob{i, p})
			continue
		}
		if !exact {
			if p = strings.ToLower(p); strings.ContainsAny(p, "*?") {
				x.globs = append(x.globs, glob{i, p})
				continue
			}
		}
		x.plain[p] = append(x.plain[p], i)
	}
	return x, nil
}

// first returns the number of the first pattern that i's name fits and that also pleases; -1: none.
func (x *nameIndex) first(i login.Initiator, also func(n int) bool) int {
	name := i.Name
	if x.exact {
		name = i.Sent
	}
	plain := slices.IndexFunc(x.plain[name], also)
	if plain >= 0 {
		plain = x.plain[name][plain]
	}
	for _, g := range x.globs {
		if plain >= 0 && g.at > plain {
			break
		}
		if (g.pattern == anyName || globFits(g.pattern, name)) && also(g.at) {
			return g.at
		}
	}
	return plain
}

// globFits reports whether s fits a pattern with * for any text and ? for one character. It takes a time of at most the product of
// the two lengths, whatever the pattern.
func globFits(pattern, s string) bool {
	p, at := 0, 0
	star, mark := -1, 0 // the last *, and where what it stands for ends so far
	for at < len(s) {
		if p < len(pattern) {
			switch c := pattern[p]; {
			case c == '*':
				star, mark = p, at
				p++
				continue
			case c == '?':
				_, n := utf8.DecodeRuneInString(s[at:])
				p, at = p+1, at+n
				continue
			case c == s[at]:
				p, at = p+1, at+1
				continue
			}
		}
		if star < 0 {
			return false
		}
		// The last * takes one character more: what an earlier one stands for needs no other try.
		_, n := utf8.DecodeRuneInString(s[mark:])
		mark += n
		p, at = star+1, mark
	}
	return strings.Trim(pattern[p:], "*") == ""
}

var errNotAdmitted = errors.New("its access rules admit neither this name nor this address")
