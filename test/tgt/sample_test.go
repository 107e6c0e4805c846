package tgt

import (
	"slices"
	"strings"

	"github.com/lunar-iscsi/lunar/test/tgt/sample"
)

// check runs a sample's command and compares what it says, in canonical form, with the sample.
func (p *plant) check(name string, canonical func(string) string) {
	p.Helper()
	s := sample.Read(p, name+".txt")
	p.compare(name, sample.Block{Command: s.Command, Stdout: s.Stdout, Stderr: s.Stderr, Exit: s.Exit}, canonical)
}

// checkAll is check for several.
func (p *plant) checkAll(canonical func(string) string, names ...string) {
	p.Helper()
	for _, name := range names {
		p.check(name, canonical)
	}
}

func (p *plant) compare(name string, want sample.Block, canonical func(string) string) {
	p.Helper()
	r := p.run(strings.ReplaceAll(want.Command, sample.Demo, p.dir))
	own := func(text string) string { return canonical(strings.ReplaceAll(text, p.dir, sample.Demo)) }
	stdout, stderr := own(r.stdout), own(withoutReasons(r.stderr))
	if d := difference(canonical(want.Stdout), stdout); d != "" || r.status != want.Exit || stderr != canonical(want.Stderr) {
		p.Errorf("%s: %s: exit status %d, want %d; stderr %q, want %q; stdout differs: %s", name, want.Command, r.status, want.Exit, r.stderr, want.Stderr, d)
	}
}

// withoutReasons leaves out the lines that tgt's tgtadm does not have.
func withoutReasons(stderr string) string {
	var b strings.Builder
	for line := range strings.Lines(stderr) {
		if !strings.HasPrefix(line, "tgtadm: reason: ") {
			b.WriteString(line)
		}
	}
	return b.String()
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
