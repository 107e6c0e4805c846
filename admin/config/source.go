package config

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of one YAML file. They keep the parser's recursion shallow and its time near linear: with a thousand targets a file has
// some 100 KB, a nesting of 7 and 30 keys in a mapping.
const (
	// DefaultMaxFile is in bytes the largest file that is read.
	DefaultMaxFile = 8 << 20
	maxDepth       = 32
	maxKeys        = 256
)

// parseYAML reads data as one YAML document. The node is nil for a document with nothing in it.
func parseYAML(file string, data []byte) (n ast.Node, err *Error) {
	if !utf8.Valid(data) {
		line, col := positionOfInvalid(data)
		return nil, &Error{File: file, Line: line, Column: col, Text: "not UTF-8 text"}
	}
	// The parser is another's, and what it reads is anybody's: a fault in it is to be a refused file, not a dead daemon.
	defer func() {
		if r := recover(); r != nil {
			n, err = nil, &Error{File: file, Text: fmt.Sprintf("the YAML parser failed (%v)", r)}
		}
	}()
	tokens := lexer.Tokenize(string(data))
	if err := checkShape(file, tokens); err != nil {
		return nil, err
	}
	f, perr := parser.Parse(tokens, 0)
	if perr != nil {
		return nil, syntaxError(file, perr)
	}
	for _, doc := range f.Docs {
		if doc.Body == nil {
			continue
		}
		if n != nil {
			return nil, errorAt(file, doc.Body, "", "a second YAML document; a file has one")
		}
		n = doc.Body
	}
	return n, nil
}

// syntaxError makes one line of the parser's several.
func syntaxError(file string, err error) *Error {
	var ye yaml.Error
	if !errors.As(err, &ye) {
		return &Error{File: file, Text: err.Error()}
	}
	e := &Error{File: file, Text: "YAML: " + ye.GetMessage()}
	tk := ye.GetToken()
	if tk == nil {
		return e
	}
	if tk.Position != nil {
		e.Line, e.Column = tk.Position.Line, tk.Position.Column
	}
	// The two mistakes that everybody makes here, whose messages say little.
	for p, i := tk, 0; p != nil && p.Position != nil && p.Position.Line == e.Line && i < 8; p, i = p.Prev, i+1 {
		switch p.Type {
		case token.AliasType:
			e.Text += `; text that begins with * must be quoted: "*"`
			return e
		case token.SequenceStartType:
			e.Text += `; an address that begins with [ must be quoted: "[::1]:3260"`
			return e
		}
	}
	return e
}

func errorAt(file string, n ast.Node, key, format string, args ...any) *Error {
	e := &Error{File: file, Key: key, Text: fmt.Sprintf(format, args...)}
	if p := positionOf(n); p != nil {
		e.Line, e.Column = p.Line, p.Column
	}
	return e
}

// positionOf is where a value begins; nil: not known. Of a mapping the library has the place of its first colon.
func positionOf(n ast.Node) *token.Position {
	switch x := n.(type) {
	case *ast.MappingNode:
		if !x.IsFlowStyle && len(x.Values) > 0 {
			n = x.Values[0].Key
		}
	case *ast.MappingValueNode:
		n = x.Key
	}
	if tk := n.GetToken(); tk != nil {
		return tk.Position
	}
	return nil
}

// A level is a mapping or sequence that is open.
type level struct {
	column int // of its keys or dashes; 0: in flow style
	seq    bool
	keys   int
}

// checkShape refuses what the parser would need long or much for, before it sees it: deep nesting, mappings with very many keys, directives.
func checkShape(file string, tokens token.Tokens) *Error {
	var open []level
	tooMuch := func(tk *token.Token, format string, args ...any) *Error {
		return &Error{File: file, Line: tk.Position.Line, Column: tk.Position.Column, Text: fmt.Sprintf(format, args...)}
	}
	marks := 0 // anchors and tags in a row
	for _, tk := range tokens {
		switch tk.Type {
		case token.DirectiveType:
			return tooMuch(tk, "YAML directives (%%) are not used here")
		case token.DocumentHeaderType, token.DocumentEndType:
			open = open[:0]
		case token.SequenceStartType, token.MappingStartType:
			open = append(open, level{seq: tk.Type == token.SequenceStartType})
		case token.SequenceEndType, token.MappingEndType:
			if len(open) > 0 {
				open = open[:len(open)-1]
			}
		case token.SequenceEntryType:
			open = enter(open, tk.Position.Column, true)
		case token.MappingKeyType:
			open = append(open, level{column: tk.Position.Column})
		case token.MappingValueType:
			key := tk.Prev
			if key == nil {
				key = tk
			}
			open = enter(open, key.Position.Column, false)
			l := &open[len(open)-1]
			if l.keys++; l.keys > maxKeys {
				return tooMuch(key, "more than %d keys in one mapping", maxKeys)
			}
		}
		if len(open) > maxDepth {
			return tooMuch(tk, "nested more than %d deep", maxDepth)
		}
		if tk.Type == token.AnchorType || tk.Type == token.TagType {
			if marks++; marks > 2 {
				return tooMuch(tk, "an anchor or tag of an anchor or tag")
			}
		} else if tk.PreviousType() != token.AnchorType {
			marks = 0
		}
	}
	return nil
}

// enter is called at a key or dash: it closes what is further right, and opens a level where this begins one.
func enter(open []level, column int, seq bool) []level {
	for n := len(open); n > 0; n = len(open) {
		l := &open[n-1]
		if l.column == 0 || l.column == column && l.seq == seq {
			return open
		}
		// The dashes of a sequence may stand in the column of the key that it belongs to.
		if l.column < column || l.column == column && seq {
			break
		}
		open = open[:n-1]
	}
	return append(open, level{column: column, seq: seq})
}

func positionOfInvalid(data []byte) (line, col int) {
	line, col = 1, 1
	for len(data) > 0 {
		r, n := utf8.DecodeRune(data)
		if r == utf8.RuneError && n == 1 {
			break
		}
		if col++; r == '\n' {
			line, col = line+1, 1
		}
		data = data[n:]
	}
	return line, col
}
