package main

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/test/mutation"
)

// A requirement is a row of the table.
type requirement struct {
	word    string // MUST, …
	rfc     int
	section section
	text    string

	tests        []string // that hold it
	construction string   // where it follows from the code
	deviation    string   // why lunar does otherwise
	mutants      []string // that break it, and are found
}

// A walk is what annotations and lists come to.
type walk struct {
	rows     []*requirement
	walked   []passage // whose every requirement on a target has a row, or is one of what is not built
	notBuilt []passage
}

// A passage is some sections of an RFC, and what they are about.
type passage struct {
	rfc      int
	sections []section
	about    string
}

// handWritten is where the rows that no test holds come from.
const handWritten = "session/rfc7143.txt"

// start is the first line of an annotation, comment marks taken off.
var start = regexp.MustCompile(`^(MUST NOT|MUST|SHOULD NOT|SHOULD|MAY|REQUIRED|RECOMMENDED) (714[34]) §(` + number + `): (.+)$`)

// number is that of a section or of an appendix.
const number = `(?:[0-9]+|[A-E])(?:\.[0-9]+)*`

// listed is a line of handWritten that speaks of whole sections.
var listed = regexp.MustCompile(`^(WALKED|NOT BUILT) (714[34]) (§` + number + `(?:, §` + number + `)*): (.+)$`)

// almost is what was meant as one: a typing error must not drop a row.
var almost = regexp.MustCompile(`^(MUST|SHOULD|MAY|REQUIRED|RECOMMENDED)( NOT)? (RFC ?)?714[34]\b`)

// parseStart reads an annotation's first line; nil when the line is none.
func parseStart(line string) (*requirement, error) {
	m := start.FindStringSubmatch(line)
	if m == nil {
		if almost.MatchString(line) {
			return nil, fmt.Errorf("%q: want WORD 7143 §SECTION: TEXT", line)
		}
		return nil, nil
	}
	r := &requirement{word: m[1], text: strings.TrimSpace(m[4])}
	r.rfc, _ = strconv.Atoi(m[2]) // digits, as the expression has them
	var err error
	r.section, err = parseSection(m[3])
	return r, err
}

// parseListed reads a line that speaks of whole sections, WALKED or NOT BUILT; "" when it is none.
func parseListed(line string) (kind string, p passage, err error) {
	m := listed.FindStringSubmatch(line)
	if m == nil {
		if strings.HasPrefix(line, "WALKED ") || strings.HasPrefix(line, "NOT BUILT ") {
			return "", passage{}, fmt.Errorf("%q: want WALKED or NOT BUILT, RFC, §SECTION, …: TEXT", line)
		}
		return "", passage{}, nil
	}
	p.rfc, _ = strconv.Atoi(m[2])
	p.about = m[4]
	for _, n := range strings.Split(m[3], ", ") {
		s, err := parseSection(strings.TrimPrefix(n, "§"))
		if err != nil {
			return "", passage{}, err
		}
		p.sections = append(p.sections, s)
	}
	return m[1], p, nil
}

// annotations reads the lines of one comment.
func annotations(lines []string) (list []*requirement, err error) {
	var open *requirement
	for _, line := range lines {
		line = strings.TrimSpace(line)
		r, err := parseStart(line)
		switch {
		case err != nil:
			return nil, err
		case r != nil:
			list, open = append(list, r), r
		case line == "":
			open = nil
		case open != nil:
			open.text += " " + line
		}
	}
	return list, nil
}

// collect reads every annotation of the module whose root is fsys.
func collect(fsys fs.FS) (*walk, error) {
	w := &walk{}
	var all []*requirement
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := path.Base(name)
		if d.IsDir() {
			if name != "." && (strings.HasPrefix(base, ".") || base == "bin" || base == "rfcwalk") {
				return fs.SkipDir
			}
			return nil
		}
		var list []*requirement
		switch {
		case strings.HasSuffix(base, "_test.go"):
			list, err = fromTest(fsys, name)
		case strings.HasSuffix(base, ".txt") && strings.Contains(name, "/testdata/"):
			list, err = fromTranscript(fsys, name)
		case name == handWritten:
			list, err = w.fromHand(fsys, name)
		}
		all = append(all, list...)
		return err
	})
	if err != nil {
		return nil, err
	}
	if w.rows, err = merge(all); err != nil {
		return nil, err
	}
	if err := w.checkWalked(); err != nil {
		return nil, err
	}
	return w, w.mark(fsys)
}

// checkWalked refuses a section that was walked and has nothing to show for it.
func (w *walk) checkWalked() error {
	for _, p := range w.walked {
		for _, s := range p.sections {
			if !slices.ContainsFunc(w.rows, func(r *requirement) bool { return r.rfc == p.rfc && r.section.within(s) }) {
				return fmt.Errorf("%s: RFC %d §%v is said to be walked and has no row", handWritten, p.rfc, s)
			}
		}
	}
	return nil
}

// mark says of the rows which mutants prove them.
func (w *walk) mark(fsys fs.FS) error {
	list, err := mutation.Load(fsys)
	if err != nil {
		return err
	}
	for _, m := range list {
		for _, line := range m.Holds {
			want, err := parseStart(line)
			if err != nil || want == nil {
				return fmt.Errorf("%s: %s: %q is no requirement", mutation.File, m.Name, line)
			}
			i := slices.IndexFunc(w.rows, func(r *requirement) bool { return r.key() == want.key() })
			if i < 0 || len(w.rows[i].tests) == 0 {
				return fmt.Errorf("%s: %s: no test holds %q", mutation.File, m.Name, line)
			}
			w.rows[i].mutants = append(w.rows[i].mutants, m.Name)
		}
	}
	return nil
}

// fromTest reads the comments of a test file; each belongs to the function that it documents or stands in.
func fromTest(fsys fs.FS, name string) (list []*requirement, err error) {
	src, err := fs.ReadFile(fsys, name)
	if err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, src, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	for _, group := range f.Comments {
		var lines []string
		for _, c := range group.List {
			text := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(c.Text, "//"), "/*"), "*/")
			lines = append(lines, strings.Split(text, "\n")...)
		}
		at := fset.Position(group.Pos())
		found, err := annotations(lines)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, at.Line, err)
		}
		if len(found) == 0 {
			continue
		}
		fn := owner(f, group)
		if fn == "" {
			return nil, fmt.Errorf("%s:%d: a requirement outside of any test", name, at.Line)
		}
		for _, r := range found {
			r.tests = []string{path.Dir(name) + "." + fn}
		}
		list = append(list, found...)
	}
	return list, nil
}

// owner is the test that a comment documents or stands in, or empty.
func owner(f *ast.File, group *ast.CommentGroup) string {
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Recv != nil || !isTest(fn.Name.Name) {
			continue
		}
		if fn.Doc == group || fn.Pos() <= group.Pos() && group.End() <= fn.End() {
			return fn.Name.Name
		}
	}
	return ""
}

func isTest(name string) bool {
	return strings.HasPrefix(name, "Test") || strings.HasPrefix(name, "Fuzz") || strings.HasPrefix(name, "Benchmark")
}

// fromTranscript reads the comments (#) of a file of test data; the file stands for the test that runs it.
func fromTranscript(fsys fs.FS, name string) ([]*requirement, error) {
	src, err := fs.ReadFile(fsys, name)
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, line := range strings.Split(string(src), "\n") {
		comment, ok := strings.CutPrefix(strings.TrimSpace(line), "#")
		if !ok {
			comment = "" // ends an annotation
		}
		lines = append(lines, comment)
	}
	list, err := annotations(lines)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for _, r := range list {
		r.tests = []string{name}
	}
	return list, nil
}

// fromHand reads the list of what no test holds, and those of what was walked and of what is not built.
func (w *walk) fromHand(fsys fs.FS, name string) (list []*requirement, err error) {
	src, err := fs.ReadFile(fsys, name)
	if err != nil {
		return nil, err
	}
	var open *requirement
	sc := bufio.NewScanner(bytes.NewReader(src))
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		kind, p, err := parseListed(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		switch {
		case kind != "" && open != nil:
			return nil, fmt.Errorf("%s:%d: nothing was said of the requirement before", name, n)
		case kind == "WALKED":
			w.walked = append(w.walked, p)
			continue
		case kind == "NOT BUILT":
			w.notBuilt = append(w.notBuilt, p)
			continue
		}
		r, err := parseStart(line)
		construction, built := strings.CutPrefix(line, "by construction: ")
		deviation, deviates := strings.CutPrefix(line, "deviation: ")
		switch {
		case err != nil:
		case r != nil && open != nil:
			err = fmt.Errorf("nothing was said of the requirement before")
		case r != nil:
			open = r
		case open == nil:
			err = fmt.Errorf("no requirement stands before this")
		case built:
			where, _, _ := strings.Cut(construction, ": ")
			if _, serr := fs.Stat(fsys, where); serr != nil {
				err = fmt.Errorf("by construction: %s is no file of the module", where)
			}
			open.construction = construction
		case deviates:
			open.deviation = deviation
		default:
			open.text += " " + line
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		if built || deviates {
			list, open = append(list, open), nil
		}
	}
	if open != nil {
		return nil, fmt.Errorf("%s: nothing was said of the last requirement", name)
	}
	return list, sc.Err()
}

// merge makes one row of what has one text, and sorts the rows by RFC, section and text.
func merge(all []*requirement) ([]*requirement, error) {
	rows := map[string]*requirement{}
	var list []*requirement
	for _, r := range all {
		first, ok := rows[r.key()]
		if !ok {
			rows[r.key()] = r
			list = append(list, r)
			continue
		}
		if first.deviation != "" || r.deviation != "" {
			return nil, fmt.Errorf("RFC %d §%v %q: listed as a deviation and elsewhere", r.rfc, r.section, r.text)
		}
		first.tests = append(first.tests, r.tests...)
		first.construction = cmp.Or(first.construction, r.construction)
	}
	for _, r := range list {
		slices.Sort(r.tests)
		r.tests = slices.Compact(r.tests)
	}
	slices.SortFunc(list, func(a, b *requirement) int {
		return cmp.Or(cmp.Compare(a.rfc, b.rfc), slices.Compare(a.section, b.section), cmp.Compare(a.text, b.text), cmp.Compare(a.word, b.word))
	})
	return list, nil
}

// key tells rows apart.
func (r *requirement) key() string { return fmt.Sprint(r.rfc, r.section, r.word, r.text) }
