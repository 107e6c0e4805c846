package faulty

import (
	"math/big"
	"strings"
	"testing"
	"unicode"

	"github.com/lunar-iscsi/lunar/backstore"
)

// FuzzRules reads texts of rules. What is refused is refused with a line that can be printed; what is taken says the same when it is
// written down again, and strikes as often, and where, as its conditions say.
func FuzzRules(f *testing.F) {
	for _, s := range []string{"read error=medium every=100", "write delay=200ms", "write hang off=1M len=4K count=1", "stall=200ms every=1s", "any pending",
		"flush error=nospace fua after=3; caw wouldblock\nzeroes,error=busy,every=2,count=7,after=1", "hang off=7E len=8E", "any", "read hang hang", "delay=-1s", "every=0 hang"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := parse(text)
		if err != nil {
			if strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Fatalf("%q is refused with %q", text, err)
			}
			return
		}
		var lines []string
		for _, r := range rules {
			lines = append(lines, r.text)
		}
		again, err := parse(strings.Join(lines, "\n"))
		if err != nil || len(again) != len(rules) {
			t.Fatalf("%q: %d rules, and %d read again: %v", text, len(rules), len(again), err)
		}
		for i, r := range rules {
			if *r != *again[i] {
				t.Fatalf("%q: %+v, and read again %+v", text, *r, *again[i])
			}
			checkRule(t, r)
		}
	})
}

// checkRule sends requests past r and counts what it does to them.
func checkRule(t *testing.T, r *rule) {
	var seen, hits uint64
	for i := range int64(24) {
		q := &backstore.Request{Op: backstore.Op(1 + i%7), Off: i / 3 * 4096, Len: 4096 * (1 + i%2)}
		if i%5 == 0 {
			q.Flags = backstore.FUA
		}
		ranged := r.off != 0 || r.length != 0
		if ranged && q.Op == backstore.Flush {
			q.Off, q.Len = 0, 0
		}
		want := (r.op == 0 || r.op == q.Op) && (!r.fua || q.Flags&backstore.FUA != 0)
		if ranged {
			want = want && q.Op != backstore.Flush && overlap(q.Off, q.Len, r.off, r.length)
		}
		if r.fits(q) != want {
			t.Fatalf("%q fits %v at %d+%d: %v", r.text, q.Op, q.Off, q.Len, !want)
		}
		if !want {
			continue
		}
		seen++
		strike := seen > r.after && (r.every == 0 || (seen-r.after)%r.every == 0) && (r.count == 0 || hits < r.count)
		if r.strikes() != strike {
			t.Fatalf("%q strikes the request number %d: %v", r.text, seen, !strike)
		}
		if strike {
			hits++
		}
	}
}

// overlap reports whether two ranges have a byte in common; length 0 of the second: all that follows.
func overlap(off, n, from, length int64) bool {
	end := new(big.Int).Add(big.NewInt(from), big.NewInt(length))
	return off+n > from && (length == 0 || big.NewInt(off).Cmp(end) < 0)
}
