package mutation

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// root is the module's, seen from here.
const root = "../.."

func TestMutantsFit(t *testing.T) {
	list, err := Load(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		t.Fatal("no mutants")
	}
	for i := range list {
		m := &list[i]
		src, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(m.Path)))
		if err != nil {
			t.Errorf("%s: %v", m.Name, err)
			continue
		}
		if _, err := m.Apply(src); err != nil {
			t.Error(err)
		}
		if m.Old == m.New {
			t.Errorf("%s changes nothing", m.Name)
		}
		if !hasTest(t, m) {
			t.Errorf("%s: %s has no %s", m.Name, m.Package, m.Test)
		}
	}
}

// hasTest reports whether m's test is there: the function, and for a subtest with the name of a
// transcript, that.
func hasTest(t *testing.T, m *Mutant) bool {
	dir := filepath.Join(root, filepath.FromSlash(m.Package))
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	fn, sub, _ := strings.Cut(m.Test, "/")
	decl := regexp.MustCompile(`(?m)^func ` + regexp.QuoteMeta(fn) + `\(`)
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if !decl.Match(src) {
			continue
		}
		if fn == "TestTranscripts" && sub != "" {
			_, err := os.Stat(filepath.Join(dir, "testdata", sub+".txt"))
			return err == nil
		}
		return true
	}
	return false
}

func TestApply(t *testing.T) {
	const src = "a\n\tif x {\n\t\ty()\n\t}\nelse if x {\n"
	m := Mutant{Name: "m", Path: "p", Old: "\tif x {\n", New: "\tif false {\n"}
	if out, err := m.Apply([]byte(src)); err != nil || string(out) != "a\n\tif false {\n\t\ty()\n\t}\nelse if x {\n" {
		t.Errorf("%q, %v", out, err)
	}
	m.Old = "if x {\n"
	if out, err := m.Apply([]byte(src)); err == nil {
		t.Errorf("the end of a line was taken for a line: %q", out)
	}
	if _, err := m.Apply([]byte("if x {\n\nif x {\n")); err == nil || !strings.Contains(err.Error(), "more than one") {
		t.Errorf("twice: %v", err)
	}
}

func TestParse(t *testing.T) {
	const good = "# all\nmutant: a\nfile: p/p.go\nholds: MUST 7143 §1: x\ntest: ./p TestX/y\n-\tb: 1\n-\tc\n+\td\n"
	list, err := parse(good)
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	if m := list[0]; m.Name != "a" || m.Path != "p/p.go" || m.Package != "./p" || m.Test != "TestX/y" || m.Old != "\tb: 1\n\tc\n" || m.New != "\td\n" ||
		len(m.Holds) != 1 || m.Line != 2 {
		t.Errorf("%+v", m)
	}
	for name, text := range map[string]string{
		"nothing begun":  "file: x\n",
		"twice one name": good + good,
		"no file":        strings.Replace(good, "file: p/p.go\n", "", 1),
		"no test":        strings.Replace(good, "test: ./p TestX/y\n", "", 1),
		"no package":     strings.Replace(good, "./p TestX/y", "TestX", 1),
		"no old text":    strings.ReplaceAll(good, "-\t", "+\t"),
		"a mistake":      good + "flie: x\n",
		"old after new":  good + "-\tx\n",
	} {
		if list, err := parse(text); err == nil {
			t.Errorf("%s was taken: %+v", name, list)
		}
	}
}
