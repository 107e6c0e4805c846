package layering

import (
	"fmt"
	"go/ast"
	"go/token"
	"strings"
)

// checkGlobals returns what is wrong with a package's variables: only tables, sentinel errors, pools, embedded
// files and values computed once may be global, and nobody assigns to them.
//
// It goes by syntax. A table that is changed through a pointer or a method escapes it; reviews are for that.
func checkGlobals(files []*file) (wrong []string) {
	tables := map[string]bool{} // named array types: their variables are tables of zeroes
	globals := map[string]bool{}
	each := func(tok token.Token, visit func(*file, *ast.GenDecl, ast.Spec)) {
		for _, f := range files {
			if f.test || f.generated {
				continue
			}
			for _, d := range f.ast.Decls {
				if g, ok := d.(*ast.GenDecl); ok && g.Tok == tok {
					for _, s := range g.Specs {
						visit(f, g, s)
					}
				}
			}
		}
	}
	each(token.TYPE, func(_ *file, _ *ast.GenDecl, s ast.Spec) {
		spec := s.(*ast.TypeSpec) // of a type declaration
		if array(spec.Type) {
			tables[spec.Name.Name] = true
		}
	})
	zeroes := map[string]bool{}
	each(token.VAR, func(f *file, g *ast.GenDecl, s ast.Spec) {
		v := s.(*ast.ValueSpec) // of a var declaration
		for i, name := range v.Names {
			if name.Name == "_" {
				continue
			}
			globals[name.Name] = true
			if len(v.Values) == 0 && (array(v.Type) || tables[named(v.Type)]) {
				zeroes[name.Name] = true
			} else if why := globalKind(f, g, v, i); why != "" {
				wrong = append(wrong, fmt.Sprintf("%s:%d: global %s is %s", f.name, f.fset.Position(name.Pos()).Line, name.Name, why))
			}
		}
	})
	for _, f := range files {
		if f.test || f.generated {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			for _, t := range changed(n) {
				_, address := n.(*ast.UnaryExpr)
				if id := root(t); id != nil && globals[id.Name] && global(f, id) && !(address && zeroes[id.Name]) {
					wrong = append(wrong, fmt.Sprintf("%s:%d: global %s is changed, or its address taken", f.name, f.fset.Position(id.Pos()).Line, id.Name))
				}
			}
			return true
		})
	}
	return wrong
}

// changed is what a statement or expression assigns to, or takes the address of: a row of a table aside, which
// is read through a pointer.
func changed(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			return n.Lhs
		}
	case *ast.IncDecStmt:
		return []ast.Expr{n.X}
	case *ast.UnaryExpr:
		if _, row := n.X.(*ast.IndexExpr); n.Op == token.AND && !row {
			return []ast.Expr{n.X}
		}
	}
	return nil
}

func array(e ast.Expr) bool {
	t, ok := e.(*ast.ArrayType)
	return ok && t.Len != nil
}

// global tells an identifier that is not declared within a function of its file, by the parser's own
// resolution: deprecated for what needs types, enough for this.
func global(f *file, id *ast.Ident) bool {
	return id.Obj == nil || f.ast.Scope.Lookup(id.Name) == id.Obj
}

// root is the variable that an expression reaches into.
func root(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.IndexExpr:
			e = x.X
		case *ast.SelectorExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		case *ast.SliceExpr:
			e = x.X
		default:
			return nil
		}
	}
}

// makers are calls whose values are as good as constants.
var makers = []string{"errors.New", "fmt.Errorf", "regexp.MustCompile", "crc32.MakeTable", "sync.OnceValue", "sync.OnceValues", "sync.OnceFunc",
	"strings.NewReplacer", "netip.MustParsePrefix", "netip.MustParseAddr", "template.Must"}

// globalKind says why variable i of v may not be global, or nothing.
func globalKind(f *file, g *ast.GenDecl, v *ast.ValueSpec, i int) string {
	for _, doc := range []*ast.CommentGroup{g.Doc, v.Doc} {
		if doc == nil {
			continue
		}
		for _, c := range doc.List {
			if strings.HasPrefix(c.Text, "//go:embed ") {
				return ""
			}
		}
	}
	if i < len(v.Values) {
		return valueKind(f, v.Values[i])
	}
	if len(v.Values) == 1 { // var a, b = f()
		return valueKind(f, v.Values[0])
	}
	if named(v.Type) == "string" && fits("cmd/...", f.pkg) {
		return "" // a version that the linker sets
	}
	if t := named(v.Type); t == "sync.Pool" || t == "time.Time" { // the zero time, as a word for "never"
		return ""
	}
	return "no table, sentinel error, pool or embedded file"
}

func valueKind(f *file, e ast.Expr) string {
	switch x := e.(type) {
	case *ast.CompositeLit:
		return "" // a table, or a row of one
	case *ast.FuncLit:
		return "a function that could be replaced: declare it with func"
	case *ast.BasicLit:
		if fits("cmd/...", f.pkg) {
			return "" // a version that the linker sets
		}
		return "a literal: make it a constant"
	case *ast.BinaryExpr:
		return "" // computed from constants, as a constant cannot be
	case *ast.UnaryExpr:
		if lit, ok := x.X.(*ast.CompositeLit); ok && x.Op == token.AND {
			return valueKind(f, lit)
		}
	case *ast.CallExpr:
		name := named(x.Fun)
		for _, m := range makers {
			if name == m {
				return ""
			}
		}
		if !strings.Contains(name, ".") && name != "new" {
			return "" // a table that a function of the package makes, once, of constants
		}
		return "made by " + name
	}
	return "no table, sentinel error, pool or embedded file"
}

// named writes an identifier or a selector out.
func named(e ast.Expr) string {
	switch x := e.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		return named(x.X) + "." + x.Sel.Name
	case *ast.IndexExpr: // a type argument
		return named(x.X)
	}
	return ""
}
