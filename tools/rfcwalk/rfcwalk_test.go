package main

import (
	"strings"
	"testing"
	"testing/fstest"
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
	// MUST 7143 §C: an appendix
	t.Run("x", nil)
}

// MUST 7143 §4.2.2.1: a command outside the window is ignored
func FuzzWindow(f *testing.F) {}
`,
		"session/testdata/abort.txt": "# MUST 7143 §11.5.1: an aborted task\n# is not answered\nrx SCSI Command\n# a comment\n",
		handWritten: "# rows by hand\nMUST 7143 §11.2: reserved bits\n  are 0\n  by construction: session/window.go: zeroed\n\n" +
			"MAY 7143 §6.3: later\n  deviation: not worth it\n",
		"docs/other.md":           "MUST 7143 §1: not read",
		"tools/rfcwalk/x_test.go": "// MUST 7143 §1: its own samples are not read\n",
	}))
	if err != nil {
		t.Fatal(err)
	}
	_, rows, _ := strings.Cut(string(out), "|---|---|---|---|\n")
	want := "| §4.2.2.1 | MUST | a command outside the window is ignored | `session.FuzzWindow`, `session.TestWindow` |\n" +
		"| §6.3 | MAY | later | **deviation**: not worth it |\n" +
		"| §11.2 | MUST | reserved bits are 0 | by construction: session/window.go: zeroed |\n" +
		"| §11.5.1 | MUST | an aborted task is not answered | `session/testdata/abort.txt` |\n" +
		"| §11.10 | MUST NOT | a \\| in the text | `session.TestWindow` |\n" +
		"| §C | MUST | an appendix | `session.TestWindow` |\n" +
		"| RFC 7144 §5.1 | SHOULD | something | `session.TestWindow` |\n"
	if rows != want {
		t.Errorf("rows:\n%swant:\n%s", rows, want)
	}
	if counts := "7 requirements: 5 tested, 1 by construction, 1 deviations."; !strings.Contains(string(out), counts) {
		t.Errorf("no %q in\n%s", counts, out)
	}
}

func TestMistakesAreFound(t *testing.T) {
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
		"tested and a deviation": {handWritten: "MUST 7143 §4.2: text\ndeviation: x\n",
			"p/x_test.go": strings.Replace(inTest, "%s", "MUST 7143 §4.2: text", 1)},
	} {
		if out, err := generate(module(files)); err == nil {
			t.Errorf("%s was taken:\n%s", name, out)
		}
	}
}
