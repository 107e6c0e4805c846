package libiscsi

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
)

// A Verdict is what came of a test, or what is expected to.
type Verdict string

// The verdicts.
const (
	Pass  Verdict = "pass"
	Skip  Verdict = "skip"  // the tool left the test because the target lacks something
	Fail  Verdict = "fail"  // never expected
	Hang  Verdict = "hang"  // killed at the time limit; never expected
	None  Verdict = "none"  // no test ran, whatever the exit status; never expected
	Fault Verdict = "fault" // expected only: fails by no fault of the target: by the tool's own, or since it needs what this LUN is not to give
	Later Verdict = "later" // expected only: not run, the target does not offer this yet
)

// An Expectation is a line of the list.
type Expectation struct {
	Verdict Verdict
	Pattern string // of test names, in path.Match's form
	// Asserts is the least number of assertions that a passing test makes: one that makes fewer
	// has left early without saying so.
	Asserts int
	// Match is a text that the output of a Fault must have: another failure is no such fault.
	Match  string
	Reason string // needed for all but Pass
}

// ParseExpectations reads lines of the form
//
//	pass PATTERN ASSERTS
//	skip|later PATTERN REASON…
//	fault PATTERN "MATCH" REASON…
//
// with empty lines and comments (#) between them.
func ParseExpectations(r io.Reader) ([]Expectation, error) {
	var list []Expectation
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		e, err := parseExpectation(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		list = append(list, e)
	}
	return list, sc.Err()
}

func parseExpectation(line string) (e Expectation, err error) {
	verdict, rest, _ := strings.Cut(line, " ")
	pattern, rest, _ := strings.Cut(strings.TrimSpace(rest), " ")
	rest = strings.TrimSpace(rest)
	e = Expectation{Verdict: Verdict(verdict), Pattern: pattern}
	if _, err = path.Match(pattern, ""); err != nil || pattern == "" {
		return e, fmt.Errorf("pattern %q: %w", pattern, path.ErrBadPattern)
	}
	switch e.Verdict {
	case Pass:
		e.Asserts, err = strconv.Atoi(rest)
		if err != nil || e.Asserts < 0 {
			return e, fmt.Errorf("%s: want the number of its assertions, not %q", pattern, rest)
		}
	case Skip, Later:
		e.Reason = rest
	case Fault:
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil {
			return e, fmt.Errorf("%s: want the failure's text in quotes: %w", pattern, err)
		}
		e.Match, _ = strconv.Unquote(quoted) // QuotedPrefix has checked it
		e.Reason = strings.TrimSpace(rest[len(quoted):])
		if e.Match == "" {
			return e, fmt.Errorf("%s: an empty text would match any failure", pattern)
		}
	default:
		return e, fmt.Errorf("%q is no verdict to expect", verdict)
	}
	if e.Verdict != Pass && e.Reason == "" {
		return e, fmt.Errorf("%s: %s needs a reason", pattern, verdict)
	}
	return e, nil
}

// Assign gives each test the one expectation whose pattern fits it. A test without one, one with two, and an
// expectation without a test are errors: nothing is left out and nothing stays in the list unused.
func Assign(tests []string, list []Expectation) (map[string]Expectation, error) {
	var wrong []string
	used := make([]bool, len(list))
	plan := make(map[string]Expectation, len(tests))
	for _, name := range tests {
		found := 0
		for i, e := range list {
			if ok, _ := path.Match(e.Pattern, name); ok { // patterns were checked when parsed
				plan[name], used[i] = e, true
				found++
			}
		}
		if found != 1 {
			wrong = append(wrong, fmt.Sprintf("%s: in the list %d times", name, found))
		}
	}
	for i, e := range list {
		if !used[i] {
			wrong = append(wrong, fmt.Sprintf("%s: no such test in this tool", e.Pattern))
		}
	}
	if len(wrong) > 0 {
		return nil, fmt.Errorf("the list of expected tests is wrong:\n%s", strings.Join(wrong, "\n"))
	}
	return plan, nil
}

// Check compares what came of a test with what is expected of it; nil when they agree.
func (e Expectation) Check(o Outcome) error {
	switch {
	case e.Verdict == Fault && o.Verdict == Fail && strings.Contains(o.Output, e.Match):
		return nil
	case e.Verdict == Fault:
		return fmt.Errorf("%s, but listed as a fault of the tool (%q: %s)", o.Verdict, e.Match, e.Reason)
	case o.Verdict != e.Verdict:
		return fmt.Errorf("%s, want %s", o.Verdict, e.Verdict)
	case e.Verdict == Pass && o.Asserts < e.Asserts:
		return fmt.Errorf("passed with %d assertions, want at least %d: it left early", o.Asserts, e.Asserts)
	}
	return nil
}

// Replace puts other expectations, in the form of ParseExpectations, in the place of those of a plan. Each has to meet
// a test.
func Replace(plan map[string]Expectation, text string) error {
	list, err := ParseExpectations(strings.NewReader(text))
	if err != nil {
		return err
	}
	for _, e := range list {
		met := false
		for name := range plan {
			if ok, _ := path.Match(e.Pattern, name); ok {
				plan[name], met = e, true
			}
		}
		if !met {
			return fmt.Errorf("no test has a name like %s", e.Pattern)
		}
	}
	return nil
}
