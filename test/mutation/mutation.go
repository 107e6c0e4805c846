package mutation

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// File is where the mutants are listed, below the module's root.
const File = "test/mutation/mutants.txt"

const needsCachestat = "cachestat"

// A Mutant is one way to break the code, and the test that finds it.
type Mutant struct {
	Name    string
	Line    int      // of File
	Path    string   // of the file that is changed, below the module's root
	Holds   []string // requirements that this proves to be held, as they are annotated
	Package string   // of the test: ./session
	Test    string   // TestTranscripts/window
	Old     string   // whole lines, which occur once in the file
	New     string
	// Needs names what the machine must have for the test to see the difference; "": nothing. The only other value is
	// "cachestat": a kernel that tells which pages of a file are not on disk yet (Linux 6.5).
	Needs string
}

// Load reads the list of the module whose root is fsys; without one it is empty.
func Load(fsys fs.FS) ([]Mutant, error) {
	text, err := fs.ReadFile(fsys, File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parse(string(text))
}

func parse(text string) (list []Mutant, err error) {
	names := map[string]bool{}
	var m *Mutant
	for i, line := range strings.Split(text, "\n") {
		name, value, _ := strings.Cut(line, ": ")
		switch {
		case line == "", line[0] == '#':
			continue
		case name == "mutant" && value != "" && !names[value]:
			list = append(list, Mutant{Name: value, Line: i + 1})
			m = &list[len(list)-1]
			names[value] = true
			continue
		case m == nil:
			return nil, fmt.Errorf("%s:%d: no mutant has begun", File, i+1)
		}
		switch {
		case line[0] == '-' && m.New == "":
			m.Old += line[1:] + "\n"
		case line[0] == '+' && m.Old != "":
			m.New += line[1:] + "\n"
		case name == "file" && m.Path == "":
			m.Path = value
		case name == "holds":
			m.Holds = append(m.Holds, value)
		case name == "needs" && value == needsCachestat:
			m.Needs = value
		case name == "test" && m.Test == "":
			m.Package, m.Test, _ = strings.Cut(value, " ")
		default:
			return nil, fmt.Errorf("%s:%d: %q does not belong here", File, i+1, line)
		}
	}
	for i := range list {
		if m := &list[i]; m.Path == "" || m.Test == "" || m.Old == "" || !strings.HasPrefix(m.Package, "./") {
			return nil, fmt.Errorf("%s:%d: %s lacks its file, its test or what it changes", File, m.Line, m.Name)
		}
	}
	return list, nil
}

// Apply returns what the mutant makes of src, the file at m.Path.
func (m *Mutant) Apply(src []byte) ([]byte, error) {
	old := []byte(m.Old)
	at := -1
	for from := 0; ; {
		i := bytes.Index(src[from:], old)
		if i < 0 {
			break
		}
		i += from
		from = i + 1
		if i != 0 && src[i-1] != '\n' {
			continue // the end of a longer line
		}
		if at >= 0 {
			return nil, fmt.Errorf("%s:%d: %s fits more than one place of %s: %q", File, m.Line, m.Name, m.Path, m.Old)
		}
		at = i
	}
	if at < 0 {
		return nil, fmt.Errorf("%s:%d: %s: %s has no such text (has the code changed? then change the mutant): %q",
			File, m.Line, m.Name, m.Path, m.Old)
	}
	out := append([]byte(nil), src[:at]...)
	return append(append(out, m.New...), src[at+len(old):]...), nil
}
