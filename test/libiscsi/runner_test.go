package libiscsi

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// output is what the tool writes about a run of Read6.BeyondEol, with the body and the counts given.
func output(body, end string, ran, failed, asserts int) string {
	return fmt.Sprintf("    Send READCAPACITY10 (Expecting SUCCESS) LBA:0 pmi:0\n\n     CUnit - A unit testing framework for C\n\n"+
		"Suite: Read6\n  Test: BeyondEol ...\n%s\n%s    Send PRIN/READ_KEYS\n\nRun Summary:    Type  Total    Ran Passed Failed Inactive\n"+
		"              suites      1      1    n/a      0        0\n               tests      1      %d      %d      %d        0\n"+
		"             asserts    %3d    %3d    %3d      0      n/a\n", body, end, ran, ran-failed, failed, asserts, asserts, asserts)
}

func TestJudge(t *testing.T) {
	const test = "SCSI.Read6.BeyondEol"
	for _, c := range []struct {
		name, out string
		want      Verdict
		asserts   int
	}{
		{"passed", output("    [OK] READ6 returned CHECK_CONDITION", "passed", 1, 0, 764), Pass, 764},
		{"failed", output("    [FAILED] READ6", "FAILED\n    1. test_read6_beyondeol.c:44  - CU_ASSERT", 1, 1, 3), Fail, 3},
		{"skipped, which CUnit counts as passed", output("    [SKIPPED] READ6 is not implemented.", "passed", 1, 0, 1), Skip, 1},
		{"skipped in words of its own", output("    SWP is not changeable", "passed", 1, 0, 2), Skip, 2},
		{"failed after a skip", output("    [SKIPPED] one half\n    [FAILED] the other", "FAILED", 1, 1, 2), Fail, 2},
		{"nothing ran", output("", "", 0, 0, 0), None, 0},
		{"no login", "iscsi_connect: Failed to log in to target.\n", None, 0},
		{"died in the test", "Suite: Read6\n  Test: BeyondEol ...\n    Send READ6\n", None, 0},
		{"failed, and then died in its clean-up", "Suite: Read6\n  Test: BeyondEol ...\n    Send READ6\nFAILED\n    1. t.c:1  - CU_ASSERT\nmalloc(): corrupted\n", Fail, 0},
		{"another test ran", strings.ReplaceAll(output("", "passed", 1, 0, 9), "BeyondEol", "Simple"), None, 9},
		{"nothing", "", None, 0},
	} {
		if o := judge(test, c.out); o.Verdict != c.want || o.Asserts != c.asserts {
			t.Errorf("%s: %s with %d assertions, want %s with %d", c.name, o.Verdict, o.Asserts, c.want, c.asserts)
		}
	}
}

// What is skipped before and after a test (an optional page, the keys of reservations) is no skip of it.
func TestJudgeLeavesSetUpOut(t *testing.T) {
	const skip = "    [SKIPPED] PERSISTENT RESERVE IN is not implemented.\n"
	for name, end := range map[string]string{"passed": "passed    Send PRIN/READ_KEYS\n" + skip, "passed at once": "passed\n" + skip} {
		out := skip + output("    [OK] READ6", end, 1, 0, 5)
		if name == "passed at once" {
			out = strings.Replace(out, "BeyondEol ...\n    [OK] READ6\n", "BeyondEol ...", 1)
		}
		if o := judge("SCSI.Read6.BeyondEol", out); o.Verdict != Pass {
			t.Errorf("%s: %s, want pass", name, o.Verdict)
		}
	}
	failed := output("    [OK] READ6", "FAILED\n    1. test.c:44  - CU_FAIL\n"+skip, 1, 1, 5)
	if o := judge("SCSI.Read6.BeyondEol", failed); o.Verdict != Fail {
		t.Errorf("failed: %s, want fail", o.Verdict)
	}
}

func TestParseList(t *testing.T) {
	out := "ALL\nALL.Read6\nALL.Read6.Simple\nSCSI\nSCSI.Read6\nSCSI.Read6.Simple\nSCSI.Read6.BeyondEol\niSCSI.iSCSITMF.LUNResetSimpleAsync\nLINUX.Read6.Simple\n"
	want := []string{"SCSI.Read6.Simple", "SCSI.Read6.BeyondEol", "iSCSI.iSCSITMF.LUNResetSimpleAsync"}
	if got := parseList(out); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestParseExpectations(t *testing.T) {
	list, err := ParseExpectations(strings.NewReader(
		"# comment\n\npass SCSI.A.B 3\nskip SCSI.C.* no such command\nlater iSCSI.*.* CHAP\nfault SCSI.D.E \"reconnect \\\"x\\\"\" the tool's own\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Expectation{
		{Verdict: Pass, Pattern: "SCSI.A.B", Asserts: 3},
		{Verdict: Skip, Pattern: "SCSI.C.*", Reason: "no such command"},
		{Verdict: Later, Pattern: "iSCSI.*.*", Reason: "CHAP"},
		{Verdict: Fault, Pattern: "SCSI.D.E", Match: `reconnect "x"`, Reason: "the tool's own"},
	}
	if !slices.Equal(list, want) {
		t.Errorf("%+v, want %+v", list, want)
	}
	for _, bad := range []string{
		"pass SCSI.A.B", "pass SCSI.A.B many", "pass SCSI.[ 1", "skip SCSI.A.B", "later SCSI.A.B", "fail SCSI.A.B known",
		"fault SCSI.A.B the reason", `fault SCSI.A.B "" the reason`, `fault SCSI.A.B "text"`, "pass",
	} {
		if list, err := ParseExpectations(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was taken: %+v", bad, list)
		}
	}
}

func TestAssign(t *testing.T) {
	tests := []string{"SCSI.A.One", "SCSI.A.Two", "SCSI.B.One"}
	plan, err := Assign(tests, []Expectation{{Verdict: Pass, Pattern: "SCSI.A.*"}, {Verdict: Later, Pattern: "SCSI.B.One"}})
	if err != nil || plan["SCSI.A.Two"].Verdict != Pass || plan["SCSI.B.One"].Verdict != Later {
		t.Errorf("%+v, %v", plan, err)
	}
	for name, list := range map[string][]Expectation{
		"a test without an expectation": {{Pattern: "SCSI.A.*"}},
		"a test with two":               {{Pattern: "SCSI.A.*"}, {Pattern: "SCSI.*.One"}},
		"an expectation without a test": {{Pattern: "SCSI.*.*"}, {Pattern: "SCSI.C.One"}},
	} {
		if _, err := Assign(tests, list); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestCheck(t *testing.T) {
	pass := Expectation{Verdict: Pass, Asserts: 10}
	skip := Expectation{Verdict: Skip}
	fault := Expectation{Verdict: Fault, Match: "reconnect"}
	for _, c := range []struct {
		e  Expectation
		o  Outcome
		ok bool
	}{
		{pass, Outcome{Verdict: Pass, Asserts: 10}, true},
		{pass, Outcome{Verdict: Pass, Asserts: 9}, false},
		{pass, Outcome{Verdict: Skip, Asserts: 99}, false},
		{pass, Outcome{Verdict: None}, false},
		{pass, Outcome{Verdict: Hang, Asserts: 10}, false},
		{skip, Outcome{Verdict: Skip}, true},
		{skip, Outcome{Verdict: Pass, Asserts: 10}, false}, // served by now: the list is to say so
		{skip, Outcome{Verdict: Fail}, false},
		{fault, Outcome{Verdict: Fail, Output: "x reconnect y"}, true},
		{fault, Outcome{Verdict: Fail, Output: "x"}, false},
		{fault, Outcome{Verdict: Pass, Output: "x reconnect y"}, false},
	} {
		if err := c.e.Check(c.o); (err == nil) != c.ok {
			t.Errorf("%+v with %+v: %v", c.e, c.o, err)
		}
	}
}

func TestReplace(t *testing.T) {
	plan := map[string]Expectation{"SCSI.A.One": {Verdict: Fault}, "SCSI.B.One": {Verdict: Skip}}
	if err := Replace(plan, "pass SCSI.A.* 7\n"); err != nil || plan["SCSI.A.One"].Asserts != 7 || plan["SCSI.B.One"].Verdict != Skip {
		t.Errorf("%+v, %v", plan, err)
	}
	for _, bad := range []string{"pass SCSI.C.* 7\n", "pass\n"} {
		if Replace(plan, bad) == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
