package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/tgtipc"
	"github.com/lunar-iscsi/lunar/test/deps"
)

// The pieces that random command lines are made of: what scripts write, and what only a slip of the hand does.
var (
	someModes   = []string{"system", "sys", "target", "tgt", "logicalunit", "lu", "portal", "pt", "session", "sess", "connection", "conn", "account", "lld", "nosuch", ""}
	someOps     = []string{"new", "delete", "bind", "unbind", "show", "update", "stat", "start", "stop", "stats"}
	someNumbers = []string{"0", "1", "2", "1:", "0x10", "010", "08", "0x", "0xg", "+3", " 4", "\t5", "-1", "-2", "- 1", "abc", "", "65535", "65536", "32767", "32768",
		"2147483647", "2147483648", "4294967295", "4294967296", "18446744073709551614", "18446744073709551615", "18446744073709551616", "99999999999999999999", "1e3"}
	someTexts = []string{"x", "", "a,b", "a=b", "iqn.2026-01.com.example:disk", "-x", "--", "portal=127.0.0.1:3261", "readonly=1,removable=0", "sync:direct", "é"}
	someTypes = []string{"disk", "tape", "ssc", "cd", "changer", "osd", "pt", "floppy"}
	strays    = []string{"extra", "-", "--", "--nosuch", "--nosuch=1", "-Z", "-;", "-:", "--=x", "--force=1", "--debug=", "---", "-dd", "-é"}
)

// randomLine is a command line: mostly one that makes sense, in any order, with options abbreviated, clustered or repeated.
func randomLine(rnd *rand.Rand) (args []string) {
	pick := func(from []string) string { return from[rnd.IntN(len(from))] }
	var parts [][]string
	add := func(o *option, arg string) {
		switch form := rnd.IntN(6); {
		case form == 0 && o.longArg:
			parts = append(parts, []string{"--" + o.word + "=" + arg})
		case form == 1: // abbreviated, perhaps too much
			word := "--" + o.word[:1+rnd.IntN(len(o.word))]
			parts = append(parts, []string{word})
			if o.longArg {
				parts[len(parts)-1] = append(parts[len(parts)-1], arg)
			}
		case form == 2:
			parts = append(parts, []string{"--" + o.word})
			if o.longArg {
				parts[len(parts)-1] = append(parts[len(parts)-1], arg)
			}
		case form == 3 && o.shortArg:
			parts = append(parts, []string{"-" + string(o.short) + arg})
		case form == 4:
			parts = append(parts, []string{"-d" + string(o.short)})
			if o.shortArg {
				parts[len(parts)-1] = append(parts[len(parts)-1], arg)
			}
		default:
			parts = append(parts, []string{"-" + string(o.short)})
			if o.shortArg {
				parts[len(parts)-1] = append(parts[len(parts)-1], arg)
			}
		}
	}
	byLetter := func(c byte) *option {
		return &options[slices.IndexFunc(options, func(o option) bool { return o.short == c })]
	}
	arg := func(c byte) string {
		switch c {
		case 'm':
			return pick(someModes)
		case 'o':
			return pick(someOps)
		case 't', 'l', 's', 'c', 'H':
			if rnd.IntN(3) != 0 {
				return "1"
			}
			return pick(someNumbers)
		case 'C':
			if rnd.IntN(4) != 0 {
				return "0"
			}
			return pick(someNumbers)
		case 'Y':
			return pick(someTypes)
		case 'B':
			return "none,none"
		}
		return pick(someTexts)
	}
	for _, c := range []byte("mo") {
		if rnd.IntN(30) != 0 {
			add(byLetter(c), arg(c))
		}
	}
	usual := []string{"t", "tl", "tT", "tI", "tQ", "tnv", "nv", "up", "tu", "P", "tlb", "tlbEy", "tlP", "s", "sc", "tsc", ""}
	for _, c := range []byte(pick(usual)) {
		add(byLetter(c), arg(c))
	}
	for rnd.IntN(3) == 0 {
		o := &options[rnd.IntN(len(options))]
		if o.short == 'B' && rnd.IntN(8) != 0 {
			continue
		}
		add(o, arg(o.short))
	}
	if rnd.IntN(12) == 0 {
		parts = append(parts, []string{pick(strays)})
	}
	rnd.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	for _, p := range parts {
		args = append(args, p...)
	}
	if len(args) > 0 && rnd.IntN(20) == 0 {
		args = args[:len(args)-1] // an argument that may be missed
	}
	return args
}

// Random command lines end as with tgt's tgtadm: the same words, the same status, the same bytes sent.
func TestRandomLines(t *testing.T) {
	tool := deps.Find(t, "tgtadm")
	r := record(t)
	const lines = 1500
	seed := [32]byte{4}
	rnd := rand.New(rand.NewChaCha8(seed))
	sent, refused := 0, 0
	for range lines {
		args := randomLine(rnd)
		answer := [][]byte{success(""), success("Target 1: x\n"), success("a\x00b"), answerHeader(uint32(rnd.IntN(27)), 0)}[rnd.IntN(4)]
		do := func(reason uint32, run func(...string) ran) string {
			// A success of "system delete" would have both wait for the end of this daemon.
			for len(r.answers) > 0 {
				<-r.answers
			}
			r.answers <- answerHeader(17, 0)
			first := run(args...)
			requests := r.sent(reason)
			if len(requests) == 0 {
				<-r.answers
				return fmt.Sprintf("%+v", first.plain())
			}
			if n := requests[0][:16]; n != "0000000001000000" {
				r.answers <- answer
				first = run(args...)
				requests = r.sent(reason)
			}
			return fmt.Sprintf("%+v sent %q", first.plain(), requests)
		}
		got, want := do(tgtipc.WantReason, ours), do(0, func(args ...string) ran { return theirs(t, tool, args...) })
		if got != want && !differsForGood(args) {
			t.Errorf("tgtadm %q:\n%s\nwant\n%s", args, got, want)
		}
		if len(want) > 0 && want[len(want)-1] == ']' {
			sent++
		} else {
			refused++
		}
	}
	if sent < lines/10 || refused < lines/10 {
		t.Errorf("of %d random lines %d were sent and %d refused: too few of one kind to tell anything", lines, sent, refused)
	}
}

// differsForGood: help's text is ours.
func differsForGood(args []string) bool {
	got := ours(args...)
	return got.status == 0 && len(got.stdout) > 100
}
