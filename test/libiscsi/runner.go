package libiscsi

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/lunar-iscsi/lunar/test/deps"
)

// An Outcome is what came of one test.
type Outcome struct {
	Verdict Verdict
	Asserts int    // assertions made, by the tool's own summary
	Output  string // what the tool wrote about the test, set-up left out
	Elapsed time.Duration
}

// A Runner runs tests of a tool against LUNs.
type Runner struct {
	Tool  *deps.Tool
	URL   string
	URL2  string        // the second path, for the multipath tests
	Limit time.Duration // for one test
}

// tests are named FAMILY.SUITE.TEST; these families hold all of them once.
var families = [...]string{"SCSI.", "iSCSI."}

// List is the tests of the tool, each once, in its order.
func (r *Runner) List(ctx context.Context) ([]string, error) {
	out, err := r.Tool.Command(ctx, "--list").Output()
	if len(out) == 0 { // its exit status means nothing
		return nil, fmt.Errorf("%s --list: nothing was listed: %w", r.Tool.Name, err)
	}
	return parseList(string(out)), nil
}

func parseList(out string) (tests []string) {
	for _, line := range strings.Fields(out) {
		for _, f := range families {
			if strings.HasPrefix(line, f) && strings.Count(line, ".") == 2 {
				tests = append(tests, line)
			}
		}
	}
	return tests
}

// Run runs one test in a process of its own.
func (r *Runner) Run(ctx context.Context, test string) Outcome {
	limited, cancel := context.WithTimeout(ctx, r.Limit)
	defer cancel()
	// -d: tests may write; -v -V: per-test lines, and the commands, among which skips show.
	c := r.Tool.Command(limited, "-d", "-v", "-V", "-t", test, r.URL, r.URL2)
	start := time.Now()
	out, err := c.CombinedOutput()
	o := judge(test, string(out))
	o.Elapsed = time.Since(start)
	if errors.Is(limited.Err(), context.DeadlineExceeded) {
		o.Verdict = Hang
	}
	if err != nil && o.Verdict == Pass {
		// A crash after the summary, or a failure that the summary does not count.
		o.Verdict = Fail
		o.Output += "\n" + err.Error()
	}
	return o
}

var (
	summaryTests   = regexp.MustCompile(`(?m)^\s*tests\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)`)
	summaryAsserts = regexp.MustCompile(`(?m)^\s*asserts\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)`)
	// The end of what a test writes; the suite's own clean-up comes after, on the same line.
	testEnd = regexp.MustCompile(`(?m)(^|\.\.\.)(passed|FAILED)`)
	// The tool's ways of saying that it leaves a test; for CUnit all of them have passed.
	skipMark = regexp.MustCompile(`\[SKIPPED\]|SWP is not changeable`)
)

// judge reads the tool's output about a run of one test.
func judge(test, out string) Outcome {
	suite := test[strings.IndexByte(test, '.')+1:]
	suite, name, _ := strings.Cut(suite, ".")
	body, said, end, ran := out, "", "", false
	if i := strings.Index(out, "Suite: "+suite+"\n"); i >= 0 {
		body = out[i:]
		if _, said, ran = strings.Cut(body, "  Test: "+name+" "); ran {
			if m := testEnd.FindStringSubmatchIndex(said); m != nil {
				said, end = said[:m[0]], said[m[4]:m[5]]
			}
		}
	}
	o := Outcome{Output: body, Verdict: None}
	tests := summaryTests.FindStringSubmatch(body)
	if m := summaryAsserts.FindStringSubmatch(body); m != nil {
		o.Asserts, _ = strconv.Atoi(m[1]) // digits only, and few
	}
	switch {
	case !ran:
	case end == "FAILED": // also when the tool crashes in its clean-up, and prints no summary
		o.Verdict = Fail
	case tests == nil || tests[2] != "1":
	case tests[4] != "0":
		o.Verdict = Fail
	case skipMark.MatchString(said):
		o.Verdict = Skip
	default:
		o.Verdict = Pass
	}
	return o
}
