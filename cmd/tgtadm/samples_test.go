package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/tgtipc"
	"github.com/lunar-iscsi/lunar/test/deps"
)

// A block of testdata: a command line, and what was captured of it with tgt 1.0.85.
type block struct {
	args  []string
	lines []string
}

func blocks(t *testing.T, file string) (list []block) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for part := range strings.SplitSeq(string(text), "\n\n") {
		lines := strings.Split(strings.Trim(part, "\n"), "\n")
		if command, ok := strings.CutPrefix(lines[0], "$ tgtadm"); ok {
			list = append(list, block{strings.Fields(command), lines[1:]})
		}
	}
	return list
}

// want is what 40-cli-errors.txt says of a command.
func (b *block) want(t *testing.T) (r ran) {
	t.Helper()
	r.status = -1
	for _, line := range b.lines {
		switch key, rest, _ := strings.Cut(line, ": "); key {
		case "stdout":
			r.stdout += rest + "\n"
		case "stderr":
			r.stderr += rest + "\n"
		case "exit":
			if _, err := fmt.Sscan(rest, &r.status); err != nil {
				t.Fatal(err)
			}
		default:
			t.Fatalf("%q in %q", line, b.args)
		}
	}
	return r
}

// answer is what the daemon must have said for a command to end so; nil when it was not asked.
func (r ran) answer() []byte {
	if r.status == 0 {
		return success(r.stdout)
	}
	text, ok := strings.CutPrefix(strings.TrimSuffix(r.stderr, "\n"), "tgtadm: ")
	for n := tgtipc.ErrUnknown; ok && n <= tgtipc.ErrPreventRemoval; n++ {
		if n.String() == text {
			return answerHeader(uint32(n), 0)
		}
	}
	return nil
}

// The command lines of a captured session and what they said, answered here as the daemon did then; so that the checks that
// tgtadm makes alone are told from those it leaves to the daemon. Where tgt's tgtadm is there it has to do the same.
func TestCommandLines(t *testing.T) {
	r := record(t)
	tool, have := deps.Lookup("tgtadm")
	list := blocks(t, "../../admin/tgtipc/testdata/samples/40-cli-errors.txt")
	if len(list) < 80 {
		t.Fatalf("%d command lines", len(list))
	}
	for _, b := range list {
		want := b.want(t)
		answer := want.answer()
		args := make([]string, 0, len(b.args))
		for i, a := range b.args {
			// The recorder is control port 0, but for the one that nobody listens on.
			if a == "7" && i > 0 && b.args[i-1] == "-C" {
				a = "0"
			}
			args = append(args, a)
		}
		try := func(who string, reason uint32, run func(...string) ran) []string {
			if answer != nil {
				r.answers <- answer
			}
			got := run(args...)
			if got.plain() != want {
				t.Errorf("%s: tgtadm %q:\n%+v, want\n%+v", who, args, got, want)
			}
			sent := r.sent(reason)
			if (answer != nil) != (len(sent) == 1) {
				t.Errorf("%s: tgtadm %q sent %q", who, args, sent)
				for len(r.answers) > 0 {
					<-r.answers
				}
			}
			return sent
		}
		sent := try("ours", tgtipc.WantReason, ours)
		if have {
			if theirs := try("tgt's", 0, func(args ...string) ran { return theirs(t, tool, args...) }); !slices.Equal(sent, theirs) {
				t.Errorf("tgtadm %q: sent\n%q, tgt's\n%q", args, sent, theirs)
			}
		}
	}
}

var wireAnswer = regexp.MustCompile(`^rsp err=(\d+) `)

// The bytes of requests as tgt's tgtadm sent them, and how each answer ended.
func TestWireRequests(t *testing.T) {
	r := record(t)
	list := blocks(t, "../../admin/tgtipc/testdata/samples/60-wire-requests.txt")
	if len(list) < 40 {
		t.Fatalf("%d requests", len(list))
	}
	for _, b := range list {
		var header, payload, exit string
		var number uint32
		for _, line := range b.lines {
			switch {
			case strings.HasPrefix(line, "hdrhex "):
				header = line[len("hdrhex "):]
			case strings.HasPrefix(line, "payload["):
				_, payload, _ = strings.Cut(line, "] b'")
				payload = strings.ReplaceAll(strings.TrimSuffix(payload, "'"), `\x00`, "\x00")
			case strings.HasPrefix(line, "rsp "):
				if _, err := fmt.Sscan(wireAnswer.FindStringSubmatch(line)[1], &number); err != nil {
					t.Fatal(err)
				}
			case strings.HasPrefix(line, "exit="):
				exit = line
			}
		}
		r.answers <- answerHeader(number, 0)
		got := ours(b.args...)
		if len(r.answers) != 0 {
			t.Errorf("tgtadm %q was not sent: %+v", b.args, got)
			<-r.answers
		}
		if sent, want := r.sent(tgtipc.WantReason), []string{header + " " + payload}; !slices.Equal(sent, want) {
			t.Errorf("tgtadm %q sent\n%q, want\n%q", b.args, sent, want)
		}
		var status int
		if _, err := fmt.Sscanf(exit, "exit=%d", &status); err != nil || got.status != status {
			t.Errorf("tgtadm %q: %+v, want %s", b.args, got, exit)
		}
	}
}

// The forms of requests that help shows are tgt's, all of them and in its order.
func TestHelp(t *testing.T) {
	got := ours("--help")
	if got.status != 0 || got.stderr != "" {
		t.Fatalf("%+v", got)
	}
	tool := deps.Find(t, "tgtadm")
	rest := got.stdout
	forms := 0
	for line := range strings.Lines(theirs(t, tool, "-h").stdout) {
		if !strings.HasPrefix(strings.TrimLeft(line, " "), "--") {
			continue
		}
		_, after, ok := strings.Cut(rest, line)
		if !ok {
			t.Errorf("no %q, or not in its place", line)
			continue
		}
		rest = after
		forms++
	}
	if forms < 18 {
		t.Errorf("%d forms", forms)
	}
	if v := theirs(t, tool, "--version"); v.stdout != ours("--version").stdout || ours("-V").status != 0 {
		t.Errorf("tgt's version is %q", v.stdout)
	}
}

func TestLunarVersion(t *testing.T) {
	if got := ours("--lunar-version"); got.status != 0 || got.stdout != "tgtadm of lunar "+version+"\n" {
		t.Errorf("%+v", got)
	}
	// It is no option among others: tgt's abbreviations mean what they always did.
	if got := ours("--lu", "x"); !bytes.Contains([]byte(got.stderr), []byte("-l argument value 'x' invalid")) {
		t.Errorf("%+v", got)
	}
	if got := ours("--lunar-version", "-d"); got.status != exitUsage {
		t.Errorf("%+v", got)
	}
}
