package target

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/session/login"
)

func TestParseAddress(t *testing.T) {
	for _, c := range []struct{ in, text, in1, out1 string }{
		// in, as it is written back, and an address inside and one outside.
		{"ALL", "ALL", "192.0.2.1", ""},
		{"ALL", "ALL", "2001:db8::1", ""},
		{"192.0.2.7", "192.0.2.7", "192.0.2.7", "192.0.2.8"},
		{"192.0.2.7/32", "192.0.2.7", "192.0.2.7", "192.0.2.6"},
		{"0.0.0.0/0", "0.0.0.0/0", "255.255.255.255", "::1"},
		{"192.0.2.7/0", "0.0.0.0/0", "1.2.3.4", "2001:db8::1"},
		{"127.0.0.1/8", "127.0.0.0/8", "127.255.255.255", "128.0.0.0"},
		{"127.0.0.0/8", "127.0.0.0/8", "127.0.0.1", "126.255.255.255"},
		{"192.0.2.128/25", "192.0.2.128/25", "192.0.2.255", "192.0.2.127"},
		{"192.0.2.130/31", "192.0.2.130/31", "192.0.2.131", "192.0.2.132"},
		{"192.0.2.0/24", "192.0.2.0/24", "::ffff:192.0.2.9", "::ffff:192.0.3.9"},
		{"::ffff:192.0.2.7", "192.0.2.7", "192.0.2.7", "192.0.2.8"},
		{"[::ffff:192.0.2.7]/120", "192.0.2.0/24", "192.0.2.200", "192.0.3.0"},
		{"::ffff:0:0/96", "0.0.0.0/0", "192.0.2.200", "::1"},
		{"2001:db8::1", "[2001:db8::1]", "2001:db8::1", "2001:db8::2"},
		{"[2001:db8::1]", "[2001:db8::1]", "2001:db8::1", "192.0.2.1"},
		{"[2001:db8::1]/128", "[2001:db8::1]", "2001:db8::1", "2001:db8::"},
		{"[2001:db8::77]/32", "[2001:db8::]/32", "2001:db8:ffff::1", "2001:db9::1"},
		{"2001:db8::/33", "[2001:db8::]/33", "2001:db8:7fff::1", "2001:db8:8000::1"},
		{"::/0", "[::]/0", "fe80::1%eth0", "192.0.2.1"},
		{"fe80::/10", "[fe80::]/10", "fe80::1%eth1", "fec0::1"},
		{"fe80::1", "[fe80::1]", "fe80::1%eth0", "fe80::2%eth0"},
	} {
		a, err := ParseAddress(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if a.IsZero() || a.String() != c.text {
			t.Errorf("%s: %v, want %s", c.in, a, c.text)
		}
		if !a.Contains(netip.MustParseAddr(c.in1)) {
			t.Errorf("%s does not hold %s", c.in, c.in1)
		}
		if c.out1 != "" && a.Contains(netip.MustParseAddr(c.out1)) {
			t.Errorf("%s holds %s", c.in, c.out1)
		}
		if a.Contains(netip.Addr{}) {
			t.Errorf("%s holds no address", c.in)
		}
	}
	for in, want := range map[string]string{
		"": "want ALL", "all": "want ALL", "not-an-address": "want ALL", "192.0.2": "want ALL", "192.0.2.256": "want ALL", "192.0.2.01": "want ALL",
		" 192.0.2.1": "want ALL", "192.0.2.1,iqn.x": "want ALL", "[192.0.2.1]": "want ALL", "192.0.2.1:3260": "want ALL", "ALL/0": "want ALL", "/8": "want ALL",
		"[2001:db8::1": "not closed", "[": "not closed", "2001:db8::1]": "want ALL",
		"192.0.2.1/33": "0 to 32", "192.0.2.1/": "0 to 32", "192.0.2.1/+8": "0 to 32", "192.0.2.1/08": "0 to 32", "192.0.2.1/-1": "0 to 32", "192.0.2.1/8/8": "0 to 32",
		"192.0.2.1/255.255.255.0": "0 to 32", "192.0.2.1/ 8": "0 to 32", "::1/129": "0 to 128", "::1/256": "0 to 128",
		"fe80::1%eth0": "zone", "[fe80::1%eth0]/64": "zone", "::ffff:192.0.2.1/95": "96 or more",
	} {
		if a, err := ParseAddress(in); err == nil || !strings.Contains(err.Error(), want) || !a.IsZero() {
			t.Errorf("%q: %v, %v, want %q", in, a, err, want)
		}
	}
}

// A network is compared bit by bit with what netip knows nothing of: the text of the bits.
func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"ALL", "192.0.2.77/24", "[2001:db8::]/32", "::ffff:192.0.2.1/120", "fe80::1%eth0", "1.2.3.4/032", "[::]"} {
		f.Add(s, "192.0.2.1")
	}
	bits := func(a netip.Addr) string {
		var b strings.Builder
		for _, c := range a.Unmap().AsSlice() {
			fmt.Fprintf(&b, "%08b", c)
		}
		return b.String()
	}
	f.Fuzz(func(t *testing.T, text, ip string) {
		a, err := ParseAddress(text)
		if err != nil {
			if !a.IsZero() {
				t.Errorf("%q: an error, and %v", text, a)
			}
			return
		}
		back, err := ParseAddress(a.String())
		if err != nil || back != a {
			t.Errorf("%q is %v, which is %v, %v", text, a, back, err)
		}
		who, err := netip.ParseAddr(ip)
		if err != nil {
			return
		}
		want := text == "ALL"
		if !want {
			host, length, network := strings.Cut(strings.NewReplacer("[", "", "]", "").Replace(text), "/")
			of := netip.MustParseAddr(host)
			net := bits(of)
			if network {
				var n int
				fmt.Sscan(length, &n)
				if of.Is4In6() {
					n -= 96
				}
				net = net[:n]
			}
			want = of.Unmap().Is4() == who.Unmap().Is4() && strings.HasPrefix(bits(who), net)
		}
		if got := a.Contains(who); got != want {
			t.Errorf("%q holds %s: %v", text, ip, got)
		}
	})
}

// FuzzGlob holds the matching of names against regular expressions.
func FuzzGlob(f *testing.F) {
	for _, s := range [][2]string{{"iqn.*:a?", "iqn.2026-11.io.lunar:ab"}, {"*", ""}, {"**a", "aaa"}, {"a*a*a", "aa"}, {"?", "ü"}, {"*?", "üa"}, {"", "x"}, {"a*b*c", "abcbc"}, {"*ab*ab", "abab"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 40 || len(s) > 200 {
			return // regexp's patience
		}
		model, err := regexp.Compile(`(?s)\A` + strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(pattern)) + `\z`)
		if err != nil || strings.ToValidUTF8(pattern, "") != pattern || strings.ToValidUTF8(s, "") != s {
			return // neither is a name
		}
		if got := globFits(pattern, s); got != model.MatchString(s) {
			t.Errorf("%q fits %q: %v", s, pattern, got)
		}
	})
}

// The index finds what going through all patterns finds, whatever stands before what.
func TestNameIndex(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	word := func(letters string) string {
		var b strings.Builder
		for range 1 + rnd.IntN(4) {
			b.WriteByte(letters[rnd.IntN(len(letters))])
		}
		return b.String()
	}
	for range 2000 {
		patterns := make([]string, rnd.IntN(12))
		for i := range patterns {
			if patterns[i] = word("aAb*?"); rnd.IntN(8) == 0 {
				patterns[i] = anyName
			}
		}
		deaf := rnd.Uint32() // the patterns that something else is wrong with
		sent := word("aAb")
		who := login.Initiator{Name: strings.ToLower(sent), Sent: sent}
		for _, exact := range []bool{false, true} {
			x, err := newNameIndex(patterns, exact)
			if err != nil {
				t.Fatal(err)
			}
			want := -1
			for i := len(patterns) - 1; i >= 0; i-- {
				fits := globFits(strings.ToLower(patterns[i]), who.Name)
				if exact {
					fits = patterns[i] == sent
				}
				if (fits || patterns[i] == anyName) && deaf>>i&1 == 0 {
					want = i
				}
			}
			if got := x.first(who, func(n int) bool { return deaf>>n&1 == 0 }); got != want {
				t.Fatalf("%q in %q (exact: %v, deaf: %b): %d, want %d", sent, patterns, exact, deaf, got, want)
			}
		}
	}
}

// What one rule names must all hold; of several rules one is enough, and the first that admits says what may be done.
func TestRules(t *testing.T) {
	at := func(s string) Address {
		a, err := ParseAddress(s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	rules := []Rule{
		{Initiator: "iqn.2026-11.example:ro", Address: at("192.0.2.0/24"), ReadOnly: true},
		{Initiator: "iqn.2026-11.example:*", Address: at("192.0.2.0/24"), NoReset: true},
		{Initiator: "iqn.2026-11.EXAMPLE:Host-?"},
		{Address: at("[2001:db8::]/64")},
	}
	for _, c := range []struct {
		name, addr string
		exact      bool
		want       string
	}{
		{"iqn.2026-11.example:ro", "192.0.2.9", false, "{false true}"},
		{"iqn.2026-11.example:ro", "192.0.3.9", false, "no"},
		{"iqn.2026-11.example:ro", "2001:db8::5", false, "{false false}"},
		{"iqn.2026-11.example:rw", "192.0.2.9", false, "{true false}"},
		{"IQN.2026-11.Example:RO", "192.0.2.9", false, "{false true}"},
		{"IQN.2026-11.Example:RO", "192.0.2.9", true, "no"},
		{"iqn.2026-11.example:ro", "192.0.2.9", true, "{false true}"},
		{"iqn.2026-11.example:rw", "192.0.2.9", true, "no"}, // a star is a star
		{"iqn.2026-11.example:*", "192.0.2.9", true, "{true false}"},
		{"iqn.2026-11.example:host-1", "198.51.100.1", false, "{false false}"},
		{"iqn.2026-11.example:host-12", "198.51.100.1", false, "no"},
		{"iqn.2026-11.example:host-", "198.51.100.1", false, "no"},
		{"iqn.1999-01.org.other", "2001:db8::5", false, "{false false}"},
		{"iqn.1999-01.org.other", "2001:db8:0:1::5", false, "no"},
	} {
		a, err := newACL(&Access{Rules: rules, ExactNames: c.exact})
		if err != nil {
			t.Fatal(err)
		}
		may, ok := a.admits(login.Initiator{Name: strings.ToLower(c.name), Sent: c.name}, netip.MustParseAddr(c.addr))
		got := fmt.Sprint(may)
		if !ok {
			got = "no"
		}
		if got != c.want {
			t.Errorf("%s at %s (exact: %v): %s, want %s", c.name, c.addr, c.exact, got, c.want)
		}
	}
	who := login.Initiator{Name: "iqn.x", Sent: "iqn.x"}
	if _, ok := (*acl)(nil).admits(who, netip.Addr{}); !ok {
		t.Error("without rules at all somebody is refused")
	}
	none, err := newACL(&Access{})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := none.admits(who, netip.MustParseAddr("192.0.2.1")); ok {
		t.Error("an empty list of rules admits somebody")
	}
}
