package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// An Error is one mistake in a file, and where it is.
type Error struct {
	File         string // as it was named, or empty
	Line, Column int    // from 1; 0: not known
	Key          string // path of keys, as targets[0].luns[1].volume, or empty
	Text         string // what is wrong, and what would be right
}

// Error is one line: file:line:column: key: text.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
		if e.Column > 0 {
			fmt.Fprintf(&b, ":%d", e.Column)
		}
	}
	for _, s := range []string{e.Key, e.Text} {
		if s == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(": ")
		}
		b.WriteString(oneLine(s))
	}
	return b.String()
}

// oneLine keeps what a file has in it from breaking, or colouring, the line of a message.
func oneLine(s string) string {
	if strings.IndexFunc(s, unicode.IsControl) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsControl(r) {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// Errors are all the mistakes of a file that were found, in the order of the file: at most maxErrors.
type Errors []*Error

// maxErrors bounds how many mistakes are told of: whoever has made more reads the first ones.
const maxErrors = 20

// Error has a line for each.
func (l Errors) Error() string {
	lines := make([]string, len(l))
	for i, e := range l {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes errors.As find each of them.
func (l Errors) Unwrap() []error {
	out := make([]error, len(l))
	for i, e := range l {
		out[i] = e
	}
	return out
}

// err returns the list as an error, or nil.
func (l Errors) err() error {
	if len(l) == 0 {
		return nil
	}
	l.sort()
	return l
}

// sort puts the list in the order of the lines of each file, and the files in the order in which they come first.
func (l Errors) sort() {
	file := map[string]int{}
	for _, e := range l {
		if _, ok := file[e.File]; !ok {
			file[e.File] = len(file)
		}
	}
	slices.SortStableFunc(l, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(file[a.File], file[b.File]), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// lines has a line for each.
func (l Errors) lines() (out []string) {
	l.sort()
	for _, e := range l {
		out = append(out, e.Error())
	}
	return out
}
