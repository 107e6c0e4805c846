package libiscsi

import (
	_ "embed"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/deps"
)

const (
	testLimit = 120 * time.Second // the slowest needs a few seconds; a hang is told from a busy machine
	disk      = "libiscsi"
	// maxHangs is when the suite is given up: each costs testLimit, and the rest would hang as well.
	maxHangs = 3
)

//go:embed expected.txt
var expected string

// Undefined is what comes of tests of WRITE SAME with UNMAP where nobody says how a deallocated block reads.
const Undefined = `
skip SCSI.WriteSame1[06].Unmap LBPWS is 0
skip SCSI.WriteSame1[06].UnmapUn* LBPWS is 0
skip SCSI.WriteSame1[06].InvalidDataOutSize LBPWS is 0
`

// A Suite is what the tests run against.
type Suite struct {
	URI     string            // of the volume: 1023 MiB or more, all zeroes
	Flags   []string          // of lunard
	Without map[string]string // tests left out, with the reason
	Instead string            // expectations that take the place of the list's, in its form
	// Start starts lunard; nil: daemon.Start.
	Start func(t testing.TB, args ...string) *daemon.Daemon
}

// Run runs every test that expected.txt does not leave for later, and prints the verdicts.
func (s Suite) Run(t *testing.T) {
	tool := deps.Find(t, "iscsi-test-cu")
	if s.Start == nil {
		s.Start = daemon.Start
	}
	list, err := ParseExpectations(strings.NewReader(expected))
	if err != nil {
		t.Fatalf("expected.txt: %v", err)
	}
	r := &Runner{Tool: tool, Limit: testLimit}
	tests, err := r.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	plan, err := Assign(tests, list)
	if err != nil {
		t.Fatal(err)
	}
	if err := Replace(plan, s.Instead); err != nil {
		t.Fatal(err)
	}
	tgt := &target{fixed: os.Getenv("LUNAR_TEST_URL"), args: append([]string{daemon.Export(disk, s.URI)}, s.Flags...), start: s.Start}
	table := map[Verdict][]string{}
	for _, name := range tests {
		e := plan[name]
		if len(table[Hang]) == maxHangs {
			t.Fatalf("%d tests hung: given up before %s", maxHangs, name)
		}
		if why := s.Without[name]; why != "" {
			t.Logf("%s is left out: %s", name, why)
			continue
		}
		if e.Verdict == Later {
			table[Later] = append(table[Later], name)
			continue
		}
		r.URL = tgt.url(t)
		r.URL2 = r.URL
		t.Run(name, func(t *testing.T) {
			o := r.Run(t.Context(), name)
			verdict := o.Verdict
			if e.Verdict == Fault && verdict == Fail {
				verdict = Fault
			}
			table[verdict] = append(table[verdict], name)
			t.Logf("%s, %d assertions, %v", verdict, o.Asserts, o.Elapsed.Round(time.Millisecond))
			if err := e.Check(o); err != nil {
				t.Errorf("%s: %v\n%s", name, err, tail(o.Output, 40))
				tgt.discard(t)
			}
			if err := tgt.alive(); err != nil {
				t.Errorf("after %s: %v", name, err)
				tgt.discard(t)
			}
		})
	}
	tgt.stop(t)
	for _, v := range []Verdict{Skip, Fault, Hang, None, Fail} {
		t.Logf("%-5s %3d %s", v, len(table[v]), strings.Join(table[v], " "))
	}
	t.Logf("%d passed, %d failed, %d skipped for what is not served yet, %d faults of the tool, %d left for later",
		len(table[Pass]), len(table[Fail])+len(table[Hang])+len(table[None]), len(table[Skip]), len(table[Fault]), len(table[Later]))
}

// A target is the LUN under test: lunard's, started anew when a test has left it in doubt, or a server that
// is already up.
type target struct {
	fixed string // of LUNAR_TEST_URL
	args  []string
	start func(t testing.TB, args ...string) *daemon.Daemon
	d     *daemon.Daemon
}

// url is the LUN's name, of a daemon that is up.
func (g *target) url(t *testing.T) string {
	if g.fixed != "" {
		return g.fixed
	}
	if g.d == nil {
		g.d = g.start(t, g.args...)
	}
	return g.d.URL(disk, 1)
}

func (g *target) alive() error {
	if g.d == nil {
		return nil
	}
	select {
	case <-g.d.Done():
		return fmt.Errorf("lunard has ended:\n%s", g.d.Log())
	default:
		return nil
	}
}

// discard ends a daemon that the next test shall not inherit.
func (g *target) discard(t *testing.T) {
	if g.d != nil && g.alive() == nil {
		g.d.Kill(t)
	}
	g.d = nil
}

// stop holds that a target which has been through the suite still drains.
func (g *target) stop(t *testing.T) {
	if g.d != nil {
		g.d.Stop(t)
	}
}

// tail is the last n lines of s.
func tail(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}
