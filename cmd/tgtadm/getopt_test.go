package main

import (
	"fmt"
	"slices"
	"testing"
)

func TestGetopt(t *testing.T) {
	for _, c := range []struct {
		args    []string
		inOrder bool
		want    string // options found, then words, then the error
	}{
		{[]string{"--tid", "1", "--tid=2", "-t3", "-t", "4"}, false, "t(1) t(2) t(3) t(4) []"},
		{[]string{"a", "-d", "b", "--", "-d", "c"}, false, "d() [a b -d c]"},
		{[]string{"-d", "a", "-d"}, true, "d() [a -d]"},
		{[]string{"-dFx", "-O", "--", "-F", "-d"}, false, "d() F(x) O(--) F(-d) []"},
		{[]string{"--force", "--outgoing", "--forc"}, false, "F() O() F() []"},
		{[]string{"--targ=a=b", "--tid="}, false, "T(a=b) t() []"},
		{[]string{"-t"}, false, "[] tgtadm: option requires an argument -- 't'"},
		{[]string{"--lun"}, false, "[] tgtadm: option '--lun' requires an argument"},
		{[]string{"--help=x"}, false, "[] tgtadm: option '--help' doesn't allow an argument"},
		{[]string{"--b"}, false, "[] tgtadm: option '--b' is ambiguous; possibilities: '--backing-store' '--bstype' '--bsopts' '--bsoflags' '--blocksize' '--bus'"},
		{[]string{"-d", "--x=1", "-d"}, false, "d() [] tgtadm: unrecognized option '--x=1'"},
		{[]string{"-dx"}, false, "d() [] tgtadm: invalid option -- 'x'"},
		{[]string{"-"}, false, "[-]"},
	} {
		g := &getopt{program: "tgtadm", options: options, inOrder: c.inOrder, args: slices.Clone(c.args)}
		got := ""
		var err error
		for {
			var f found
			var ok bool
			if f, ok, err = g.next(); !ok {
				break
			}
			got += fmt.Sprintf("%c(%s) ", f.short, f.arg)
		}
		got += fmt.Sprintf("%s", g.words)
		if err != nil {
			got += " " + err.Error()
		}
		if got != c.want {
			t.Errorf("%q: %s, want %s", c.args, got, c.want)
		}
	}
}

func TestNumber(t *testing.T) {
	for _, c := range []struct {
		text string
		of   numberType
		want string
	}{
		{"1", cInt, "1"}, {"1:", cInt, "1"}, {"0x1f", cInt, "31"}, {"017", cInt, "15"}, {"08", cInt, "0"}, {"0x", cInt, "0"}, {" \v+7 ", cInt, "7"},
		{"2147483647", cInt, "2147483647"}, {"2147483648", cInt, "out of range"}, {"-2147483648", cInt, "out of range"}, {"-1", cInt, "invalid"},
		{"32767", cShort, "32767"}, {"32768", cShort, "out of range"}, {"4294967295", cUint32, "4294967295"}, {"4294967296", cUint32, "out of range"},
		{"18446744073709551614", cUint64, "18446744073709551614"}, {"18446744073709551615", cUint64, "invalid"}, {"-2", cUint64, "18446744073709551614"},
		{"99999999999999999999", cUint64, "invalid"}, {"", cInt, "invalid"}, {"x", cInt, "invalid"}, {"-", cInt, "invalid"}, {"- 1", cInt, "invalid"},
	} {
		n, err := number(c.text, c.of)
		got := fmt.Sprint(n)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("number(%q, %v) = %s, want %s", c.text, c.of, got, c.want)
		}
	}
}
