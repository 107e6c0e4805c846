package libiscsi

import (
	"fmt"
	"os"
	"path/filepath"
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

// TestSuite runs every test that expected.txt does not leave for later, and prints the verdicts.
func TestSuite(t *testing.T) {
	suite{uri: daemon.FileURI(filepath.Join(t.TempDir(), "disk.img"), "size=1023M")}.run(t)
}

// A suite is what the tests run against.
type suite struct {
	uri     string            // of the volume
	flags   []string          // of lunard
	without map[string]string // tests left out, with the reason
	instead string            // expectations that take the place of the list's, in its form
}

func (s suite) run(t *testing.T) {
	tool := deps.Find(t, "iscsi-test-cu")
	f, err := os.Open("expected.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	list, err := ParseExpectations(f)
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
	if err := Replace(plan, s.instead); err != nil {
		t.Fatal(err)
	}
	tgt := &target{fixed: os.Getenv("LUNAR_TEST_URL"), args: append([]string{daemon.Export(disk, s.uri)}, s.flags...)}
	table := map[Verdict][]string{}
	for _, name := range tests {
		e := plan[name]
		if len(table[Hang]) == maxHangs {
			t.Fatalf("%d tests hung: given up before %s", maxHangs, name)
		}
		if why := s.without[name]; why != "" {
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
	d     *daemon.Daemon
}

// url is the LUN's name, of a daemon that is up.
func (g *target) url(t *testing.T) string {
	if g.fixed != "" {
		return g.fixed
	}
	if g.d == nil {
		g.d = daemon.Start(t, g.args...)
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
