package layering

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A listed is what go list says of a package.
type listed struct {
	ImportPath   string
	Dir          string
	Name         string
	Module       *struct{ Path string }
	Imports      []string
	GoFiles      []string
	CgoFiles     []string
	TestGoFiles  []string
	XTestGoFiles []string
	IgnoredFiles []string `json:"IgnoredGoFiles"`
}

// packages lists the module's packages; -deps as well, so that one reached only through another's import
// and not by the pattern (a folder that ./... leaves out) is seen.
func packages(t *testing.T) (list []listed, root string) {
	t.Helper()
	gomod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(err)
	}
	root = filepath.Dir(strings.TrimSpace(string(gomod)))
	c := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,Dir,Name,Module,Imports,GoFiles,CgoFiles,TestGoFiles,XTestGoFiles,IgnoredGoFiles", "./...")
	c.Dir = root
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if p.Module != nil && p.Module.Path == Module {
			list = append(list, p)
		}
	}
	if len(list) == 0 {
		t.Fatal("go list knows no package of the module")
	}
	return list, root
}

func TestImports(t *testing.T) {
	list, _ := packages(t)
	for _, p := range list {
		path, _ := ours(p.ImportPath)
		l := layerOf(path)
		if l == nil {
			t.Errorf("%s: not in the table of layers (test/layering/rules.go)", p.ImportPath)
			continue
		}
		for _, imp := range p.Imports {
			if !l.mayImport(imp) {
				t.Errorf("%s may not import %s", p.ImportPath, imp)
			}
		}
	}
}

func TestSource(t *testing.T) {
	list, root := packages(t)
	for _, p := range list {
		path, _ := ours(p.ImportPath)
		l := layerOf(path)
		if l == nil {
			continue // TestImports says so
		}
		var files []*file
		for _, names := range [][]string{p.GoFiles, p.CgoFiles, p.IgnoredFiles, p.TestGoFiles, p.XTestGoFiles} {
			for _, name := range names {
				f, err := parse(root, path, filepath.Join(p.Dir, name))
				if err != nil {
					t.Fatal(err)
				}
				files = append(files, f)
				for _, w := range f.check(l) {
					t.Error(w)
				}
			}
		}
		for _, w := range checkGlobals(files) {
			t.Error(w)
		}
		if w := checkDoc(p, files); w != "" {
			t.Error(w)
		}
	}
}

// checkDoc: a package's doc.go says what it is; a command may say so in main.go, and a package of tests alone
// has nothing to import.
func checkDoc(p listed, files []*file) string {
	if len(p.GoFiles)+len(p.CgoFiles) == 0 {
		return ""
	}
	for _, f := range files {
		if f.test || f.ast.Doc == nil {
			continue
		}
		if filepath.Base(f.name) == "doc.go" || p.Name == "main" {
			return ""
		}
	}
	return p.ImportPath + ": no doc.go that says what the package knows, must not know, and owns"
}

func parse(root, pkg, path string) (*file, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, path, src, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	name, err := filepath.Rel(root, path)
	if err != nil {
		return nil, err
	}
	return &file{pkg: pkg, name: name, test: strings.HasSuffix(path, "_test.go"), generated: ast.IsGenerated(parsed),
		lines: bytes.Count(src, []byte("\n")), ast: parsed, fset: fset}, nil
}

func TestRules(t *testing.T) {
	for _, c := range []struct {
		pkg, imp string
		ok       bool
	}{
		{"scsi/sam", "fmt", true},
		{"scsi/sam", Module + "/scsi/cdb", false},
		{"scsi", Module + "/scsi/cdb", true},
		{"scsi", Module + "/backstore", true},
		{"scsi", Module + "/backstore/file", false},
		{"scsi", Module + "/session/pdu", false},
		{"scsi", "log/slog", false},
		{"scsi", "github.com/sirupsen/logrus", false},
		{"session", Module + "/backstore", false},
		{"session", Module + "/session/login", true},
		{"session", Module + "/session/initiator", false},
		{"session", "net", false},
		{"session", "sync", false},
		{"session/login", "net/netip", true},
		{"session/initiator", "net", true},
		{"session/initiator/load", Module + "/session/initiator", true},
		{"session/initiator/load", Module + "/session", false},
		{"backstore/file", Module + "/backstore", true},
		{"backstore/file", Module + "/scsi/sam", false},
		{"backstore/file", Module + "/backstore/mem", false},
		{"backstore/file", "golang.org/x/sys/unix", true},
		{"backstore/file", "github.com/ceph/go-ceph/rbd", false},
		{"backstore/rbd", "github.com/ceph/go-ceph/rbd", true},
		{"target", Module + "/session/pdu", true},
		{"target", Module + "/backstore/file", false},
		{"target", Module + "/admin", false},
		{"target/evloop", Module + "/session/pdu", false},
		{"admin/tgtipc", Module + "/admin", true},
		{"admin", Module + "/session/pdu", false},
		{"cmd/lunard", Module + "/backstore/file", true},
		{"cmd/lunard", Module + "/test/daemon", false},
		{"test/history", Module + "/scsi/cdb", false},
		{"test/bench", Module + "/session/initiator", true},
		{"cmd/lunard", "gopkg.in/yaml.v3", false},
	} {
		l := layerOf(c.pkg)
		if l == nil {
			t.Errorf("%s: no layer", c.pkg)
		} else if l.mayImport(c.imp) != c.ok {
			t.Errorf("%s importing %s: want %v", c.pkg, c.imp, c.ok)
		}
	}
	if l := layerOf("util"); l != nil {
		t.Errorf("util is in layer %s", l.path)
	}
}

// The checks find what they look for, and only that.
func TestChecksFind(t *testing.T) {
	const head = "package p\nimport (\"errors\"; \"os\"; \"sync\"; \"time\"; \"testing\")\n"
	for _, c := range []struct {
		name, pkg, src string
		test           bool
		want           string // part of a message; empty: nothing is wrong
	}{
		{"init", "session", "func init() {}", false, "an init function"},
		{"a method init", "session", "type T int\nfunc (T) init() {}", false, ""},
		{"exit in the core", "scsi", "func f() { os.Exit(1) }", false, "os.Exit outside"},
		{"exit in a command", "cmd/lunard", "func f() { os.Exit(1) }", false, ""},
		{"a method Exit", "scsi", "type o struct{}\nfunc (o) Exit(int) {}\nfunc f(os o) { os.Exit(1) }", false, ""},
		{"goroutine in a session", "session", "func f() { go f() }", false, "a goroutine"},
		{"goroutine in a target", "target", "func f() { go f() }", false, ""},
		{"clock in a session", "session/login", "func f() { _ = time.Now() }", false, "time.Now"},
		{"duration in a session", "session", "func f() time.Duration { return time.Second }", false, ""},
		{"skip", "scsi", "func f(t *testing.T) { t.Skip() }", true, "Skip in a test"},
		{"sleep", "scsi", "func TestX(t *testing.T) { go func() { time.Sleep(1) }() }", true, "time.Sleep"},
		{"sleep in a helper", "scsi", "func wait(t testing.TB) { time.Sleep(1) }", true, "time.Sleep"},
		{"paced load", "scsi", "func client(b *testing.B) { time.Sleep(1) }", true, ""},
		{"sentinel", "scsi", "var errX = errors.New(\"x\")", false, ""},
		{"table", "scsi", "var t = [...]int{1}\nvar m = map[int]int{}\nvar z [4]byte", false, ""},
		{"pool", "scsi", "var p = sync.Pool{}\nvar q sync.Pool", false, ""},
		{"embedded", "scsi", "//go:embed x\nvar s string", false, ""},
		{"interface check", "scsi", "var _ error = (*e)(nil)\ntype e struct{}\nfunc (*e) Error() string { return \"\" }", false, ""},
		{"mutex", "scsi", "var mu sync.Mutex", false, "global mu"},
		{"counter", "scsi", "var n int", false, "global n"},
		{"setting", "scsi", "var n = 3", false, "make it a constant"},
		{"version", "cmd/lunard", "var a = \"devel\"\nvar b string", false, ""},
		{"state of a command", "cmd/lunard", "var n int", false, "global n"},
		{"hook", "scsi", "var now = func() {}", false, "could be replaced"},
		{"table changed", "scsi", "var t = [...]int{1}\nfunc f() { t[0] = 2 }", false, "is changed"},
		{"table shadowed", "scsi", "var t = [...]int{1}\nfunc f(t []int) { t[0] = 2 }", false, ""},
		{"row read", "scsi", "var t = [...]int{1}\nfunc f() *int { return &t[0] }", false, ""},
		{"zeroes by a name", "scsi", "type page [8]byte\nvar z page\nfunc f() *page { return &z }", false, ""},
		{"singleton", "scsi", "type state struct{}\nvar s state\nfunc f() *state { return &s }", false, "global s"},
		{"zero time", "scsi", "var never time.Time", false, ""},
		{"mask", "scsi", "func bit() uint { return 1 }\nvar mask = uint(1)<<bit() | 1", false, ""},
		{"address", "scsi", "var t = [...]int{1}\nfunc f() *[1]int { return &t }", false, "address taken"},
		{"long", "scsi", strings.Repeat("//\n", maxLines), false, "is two things"},
		{"long test", "scsi", strings.Repeat("//\n", maxLines), true, ""},
	} {
		fset := token.NewFileSet()
		src := head + c.src + "\n"
		parsed, err := parser.ParseFile(fset, "x.go", src, parser.ParseComments)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		f := &file{pkg: c.pkg, name: "x.go", test: c.test, lines: strings.Count(src, "\n"), ast: parsed, fset: fset}
		wrong := append(f.check(layerOf(c.pkg)), checkGlobals([]*file{f})...)
		switch {
		case c.want == "" && len(wrong) > 0:
			t.Errorf("%s: %q, want nothing", c.name, wrong)
		case c.want != "" && !slices.ContainsFunc(wrong, func(w string) bool { return strings.Contains(w, c.want) }):
			t.Errorf("%s: %q, want %q", c.name, wrong, c.want)
		}
	}
}
