package layering

import (
	"fmt"
	"go/ast"
	"go/token"
	"strconv"
	"strings"
)

// A file is one parsed source file of a package.
type file struct {
	pkg       string // path below Module
	name      string // below the module's root, for messages
	test      bool   // _test.go
	generated bool
	lines     int
	ast       *ast.File
	fset      *token.FileSet
}

// check returns what is wrong with the file by itself, a line each.
func (f *file) check(l *layer) (wrong []string) {
	bad := func(n ast.Node, format string, args ...any) {
		wrong = append(wrong, fmt.Sprintf("%s:%d: ", f.name, f.fset.Position(n.Pos()).Line)+fmt.Sprintf(format, args...))
	}
	if !f.test && !f.generated && f.lines > maxLines {
		wrong = append(wrong, fmt.Sprintf("%s: %d lines: above %d a file is two things", f.name, f.lines, maxLines))
	}
	names := importNames(f.ast)
	ast.Inspect(f.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv == nil && n.Name.Name == "init" && !f.generated && !f.test {
				bad(n, "an init function: say it in main, or check the table in a test")
			}
			if f.test && tests(n) {
				f.checkSleep(n, names, bad)
			}
		case *ast.GoStmt:
			if l.protocol && !f.test {
				bad(n, "a goroutine in a state machine")
			}
		case *ast.CallExpr:
			f.checkCall(n, l, names, bad)
		}
		return true
	})
	return wrong
}

// tests reports whether a function is a test, or helps one: it is handed a *testing.T or a testing.TB. A client
// that paces the load of a benchmark is neither.
func tests(n *ast.FuncDecl) bool {
	for _, p := range n.Type.Params.List {
		t := p.Type
		if star, ok := t.(*ast.StarExpr); ok {
			t = star.X
		}
		if name := named(t); name == "testing.T" || name == "testing.TB" {
			return true
		}
	}
	return false
}

func (f *file) checkSleep(fn *ast.FuncDecl, imports map[string]string, bad func(ast.Node, string, ...any)) {
	ast.Inspect(fn, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sleep" {
			if id, ok := sel.X.(*ast.Ident); ok && id.Obj == nil && imports[id.Name] == "time" {
				bad(n, "time.Sleep in a test: wait for an event")
			}
		}
		return true
	})
}

// skips end a test without a verdict: only test/deps may, since it knows whether CI is to fail instead.
var skips = map[string]bool{"Skip": true, "Skipf": true, "SkipNow": true}

// clocks are what a state machine is told instead.
var clocks = map[string]bool{"Now": true, "Since": true, "Until": true, "After": true, "AfterFunc": true, "Tick": true,
	"NewTimer": true, "NewTicker": true, "Sleep": true}

func (f *file) checkCall(n *ast.CallExpr, l *layer, imports map[string]string, bad func(ast.Node, string, ...any)) {
	sel, ok := n.Fun.(*ast.SelectorExpr)
	if !ok {
		return
	}
	what := sel.Sel.Name
	from := ""
	if id, ok := sel.X.(*ast.Ident); ok && id.Obj == nil { // Obj: see global
		from = imports[id.Name]
	}
	switch {
	case from == "os" && what == "Exit" && !f.test && !mayExit(f.pkg),
		from == "log" && strings.HasPrefix(what, "Fatal") && !f.test && !mayExit(f.pkg):
		bad(n, "%s.%s outside a command: return the error", from, what)
	case from == "time" && clocks[what] && l.protocol && !f.test:
		bad(n, "time.%s in a state machine: the caller says what time it is", what)
	case from == "" && skips[what] && f.test && f.pkg != "test/deps":
		bad(n, "%s in a test: test/deps.Skip says why, and fails in CI", what)
	}
}

// mayExit: commands end the process. So do the tools, and what below test is a program.
func mayExit(pkg string) bool {
	return fits("cmd/...", pkg) || fits("tools/...", pkg) || fits("test/...", pkg)
}

func importNames(f *ast.File) map[string]string {
	names := map[string]string{}
	for _, im := range f.Imports {
		path, err := strconv.Unquote(im.Path.Value)
		if err != nil {
			continue // the parser has seen to it that there is none
		}
		name := path[strings.LastIndexByte(path, '/')+1:]
		if im.Name != nil {
			name = im.Name.Name
		}
		names[name] = path
	}
	return names
}
