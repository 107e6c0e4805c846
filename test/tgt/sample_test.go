package tgt

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A sample is what a command printed with tgt 1.0.85: of tgt-admin here, of tgtadm with admin/tgtipc, whose own test compares them, too.
type sample struct {
	command        string
	stdout, stderr string
	status         int
	note           map[string]string // what the sample says of its circumstances, by the word before the colon
}

// The samples' daemon had its files there.
const sampleDir = "/srv/tgt-demo"

func readSample(t testing.TB, name string) (s sample) {
	t.Helper()
	head, stdout, ok := strings.Cut(sampleText(t, name), "# --- stdout, byte for byte, follows this line ---\n")
	if !ok {
		t.Fatalf("%s: no standard output", name)
	}
	s.stdout, s.note = stdout, map[string]string{}
	for line := range strings.Lines(head) {
		key, value, _ := strings.Cut(strings.TrimRight(strings.TrimPrefix(line, "# "), "\n"), ": ")
		switch key {
		case "command":
			s.command = value
		case "note":
			what, text, _ := strings.Cut(value, ": ")
			s.note[what] = text
		case "stderr":
			s.stderr += value + "\n"
		case "exit status":
			s.status = number(t, strings.Fields(value)[0])
		}
	}
	return s
}

func sampleText(t testing.TB, name string) string {
	t.Helper()
	for _, dir := range []string{"testdata", "../../admin/tgtipc/testdata/samples", "../../cmd/tgtadm/testdata"} {
		if b, err := os.ReadFile(filepath.Join(dir, name+".txt")); err == nil {
			return string(b)
		}
	}
	t.Fatalf("no sample %s", name)
	return ""
}

// A block is one command of those that stand one after the other in a sample.
func blocks(t testing.TB, name string) (list []sample) {
	t.Helper()
	for part := range strings.SplitSeq(sampleText(t, name), "\n\n") {
		command, rest, _ := strings.Cut(strings.Trim(part, "\n"), "\n")
		command, ok := strings.CutPrefix(command, "$ ")
		if !ok {
			continue
		}
		s := sample{command: command}
		for line := range strings.Lines(rest + "\n") {
			switch key, value, _ := strings.Cut(line, ": "); key {
			case "stdout":
				s.stdout += value
			case "stderr":
				s.stderr += value
			case "exit":
				s.status = number(t, strings.TrimSpace(value))
			}
		}
		list = append(list, s)
	}
	return list
}

func number(t testing.TB, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// check runs a sample's command and compares what it says, in canonical form, with the sample.
func (p *plant) check(name string, canonical func(string) string) {
	p.Helper()
	s := readSample(p, name)
	p.checkSample(name, s, canonical)
}

// checkAll is check for several.
func (p *plant) checkAll(canonical func(string) string, names ...string) {
	p.Helper()
	for _, name := range names {
		p.check(name, canonical)
	}
}

func (p *plant) checkSample(name string, s sample, canonical func(string) string) {
	p.Helper()
	r := p.run(strings.ReplaceAll(s.command, sampleDir, p.dir))
	var stderr strings.Builder
	for line := range strings.Lines(r.stderr) {
		if !strings.HasPrefix(line, "tgtadm: reason: ") {
			stderr.WriteString(line)
		}
	}
	own := func(text string) string { return canonical(strings.ReplaceAll(text, p.dir, sampleDir)) }
	if d := difference(canonical(s.stdout), own(r.stdout)); d != "" || r.status != s.status || own(stderr.String()) != canonical(s.stderr) {
		p.Errorf("%s: %s: exit status %d, want %d; stderr %q, want %q; stdout differs: %s", name, s.command, r.status, s.status, stderr.String(), s.stderr, d)
	}
}

func asItIs(s string) string { return s }

// inAnyOrder: tgt-admin sets a LUN's parameters in the order of a Perl hash.
func inAnyOrder(s string) string {
	lines := strings.Split(s, "\n")
	param := func(line string) bool { return strings.Contains(line, "--op update --mode logicalunit ") }
	for i := 0; i < len(lines); i++ {
		j := i
		for j < len(lines) && param(lines[j]) {
			j++
		}
		slices.Sort(lines[i:j])
		i = max(i, j-1)
	}
	return strings.Join(lines, "\n")
}

// paragraphs: and a dump's targets, too.
func paragraphs(s string) string {
	parts := strings.Split(s, "\n\n")
	slices.Sort(parts)
	return strings.Join(parts, "\n\n")
}
