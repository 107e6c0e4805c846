package main

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/lunar-iscsi/lunar/test/mutation"
)

func TestTableIsUpToDate(t *testing.T) {
	if err := run(false); err != nil {
		t.Error(err)
	}
}

func module(files map[string]string) fstest.MapFS {
	m := fstest.MapFS{}
	for name, text := range files {
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

func TestGenerate(t *testing.T) {
	out, err := generate(module(map[string]string{
		"session/window.go": "package session\n",
		"session/window_test.go": `package session

// TestWindow holds the window.
//
// MUST 7143 §4.2.2.1: a command outside the window
// is ignored
//
// Not part of it.
func TestWindow(t *testing.T) {
	// MUST NOT 7143 §11.10: a | in the text
	// SHOULD 7144 §5.1: something
	t.Run("x", nil)
}

// MUST 7143 §4.2.2.1: a command outside the window is ignored
func FuzzWindow(f *testing.F) {}
`,
		"session/testdata/abort.txt": "# MUST 7143 §11.5.1: an aborted task\n# is not answered\nrx SCSI Command\n# a comment\n",
		handWritten: "# rows by hand\nMUST 7143 §11.2: reserved bits\n  are 0\n  by construction: session/window.go: zeroed\n\n" +
			"MAY 7143 §6.3: later\n  deviation: not worth it\n\nMAY 7143 §C.1: an appendix\n  deviation: x\n\n" +
			"WALKED 7143 §4.2, §11: concepts and PDUs\nNOT BUILT 7144 §6: much\n",
		mutation.File: "mutant: dropped\nfile: session/window.go\nholds: MUST 7143 §4.2.2.1: a command outside the window is ignored\n" +
			"test: ./session TestWindow\n-package session\n+package x\n",
		"docs/other.md":           "MUST 7143 §1: not read",
		"tools/rfcwalk/x_test.go": "// MUST 7143 §1: its own samples are not read\n",
	}))
	if err != nil {
		t.Fatal(err)
	}
	_, rows, _ := strings.Cut(string(out), "|---|---|---|---|---|\n")
	want := "| §4.2.2.1 | MUST | a command outside the window is ignored | `session.FuzzWindow`, `session.TestWindow` | `dropped` |\n" +
		"| §6.3 | MAY | later | **deviation**: not worth it |  |\n" +
		"| §11.2 | MUST | reserved bits are 0 | by construction: session/window.go: zeroed |  |\n" +
		"| §11.5.1 | MUST | an aborted task is not answered | `session/testdata/abort.txt` |  |\n" +
		"| §11.10 | MUST NOT | a \\| in the text | `session.TestWindow` |  |\n" +
		"| §C.1 | MAY | an appendix | **deviation**: x |  |\n" +
		"| RFC 7144 §5.1 | SHOULD | something | `session.TestWindow` |  |\n"
	if rows != want {
		t.Errorf("rows:\n%swant:\n%s", rows, want)
	}
	for _, want := range []string{
		"7 requirements: 4 tested, 1 of these proven by mutation, 1 by construction, 2 deviations.",
		"\n* §4.2, §11: concepts and PDUs\n", "\n* RFC 7144 §6: much\n",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestMistakesAreFound(t *testing.T) {
	const mutant = "mutant: m\nfile: p/p.go\nholds: MUST 7143 §4.2: text\ntest: ./p TestX\n-package p\n+package q\n"
	const inTest = "package p\n\n// %s\nfunc TestX(t *testing.T) {}\n"
	for name, files := range map[string]map[string]string{
		"no section":              {"p/x_test.go": strings.Replace(inTest, "%s", "MUST 7143: text", 1)},
		"no colon":                {"p/x_test.go": strings.Replace(inTest, "%s", "MUST 7143 §4.2 text", 1)},
		"RFC written out":         {"p/x_test.go": strings.Replace(inTest, "%s", "MUST RFC 7143 §4.2: text", 1)},
		"outside of a test":       {"p/x_test.go": "package p\n\n// MUST 7143 §4.2: text\nvar x int\n"},
		"in a helper":             {"p/x_test.go": "package p\n\n// MUST 7143 §4.2: text\nfunc helper() {}\n"},
		"a place that is not":     {handWritten: "MUST 7143 §4.2: text\nby construction: session/gone.go: x\n"},
		"nothing said":            {handWritten: "MUST 7143 §4.2: text\nMUST 7143 §4.3: text\ndeviation: x\n"},
		"nothing said at the end": {handWritten: "MUST 7143 §4.2: text\n"},
		"said of nothing":         {handWritten: "deviation: x\n"},
		"walked without a row":    {handWritten: "WALKED 7143 §4.2: text\n"},
		"walked, wrongly said":    {handWritten: "WALKED 4.2\n"},
		"a mutant of no row":      {mutation.File: mutant},
		"a mutant of no test": {mutation.File: mutant, "p/p.go": "package p\n",
			handWritten: "MUST 7143 §4.2: text\nby construction: p/p.go: x\n"},
		"tested and a deviation": {handWritten: "MUST 7143 §4.2: text\ndeviation: x\n",
			"p/x_test.go": strings.Replace(inTest, "%s", "MUST 7143 §4.2: text", 1)},
	} {
		if out, err := generate(module(files)); err == nil {
			t.Errorf("%s was taken:\n%s", name, out)
		}
	}
}
