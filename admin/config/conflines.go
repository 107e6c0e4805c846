package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Bounds of one targets.conf with all that it includes.
const (
	maxConfFiles   = 4096
	maxConfInclude = 32 // files that include each other
	maxConfBlocks  = 32 // blocks in blocks
)

// A confLine is a line of a configuration of tgt-admin's, with includes, comments and continuations done.
type confLine struct {
	text string // without white space around it
	doc  string // the lines of a here-document, of which text is the key
	here bool
	file string
	line int // of its beginning
}

// A confReader reads the lines of a file and of those that it includes. The grammar is that of Perl's Config::General as tgt-admin asks for it.
type confReader struct {
	o        Options
	base     string // the folder of the first file, in which relative includes are looked for after the working directory
	lines    []confLine
	warnings Errors
	seen     map[string]bool
	left     int64 // bytes that may still be read
	depth    int
	private  bool // nobody but their owner may read the files
}

var (
	confBlockComment = regexp.MustCompile(`\s*/\*.*\*/\s*`)
	confEmptyBlock   = regexp.MustCompile(`\s*<([^/]+?.*?)/>\s*$`)
	confHereEqual    = regexp.MustCompile(`^\s*([^=]+?)\s*=\s*<<\s*(.+?)\s*$`)
	confHere         = regexp.MustCompile(`^\s*(\S+?)\s+<<\s*(.+?)\s*$`)
	confInclude      = regexp.MustCompile(`(?i)^\s*(include|includeoptional)\s+(.+?)\s*$`)
)

func (r *confReader) warnf(file string, line int, format string, args ...any) {
	if len(r.warnings) < maxErrors {
		r.warnings = append(r.warnings, &Error{File: file, Line: line, Text: fmt.Sprintf(format, args...)})
	}
}

// file reads one file. A file that was read already is left out: so files that include each other end.
func (r *confReader) file(path string, from confLine) error {
	if r.seen[path] {
		r.warnf(from.file, from.line, "%s is included already", path)
		return nil
	}
	if len(r.seen) >= maxConfFiles {
		return &Error{File: from.file, Line: from.line, Text: fmt.Sprintf("more than %d files", maxConfFiles)}
	}
	r.seen[path] = true
	data, private, err := readFile(path, r.left)
	if err != nil {
		if from.file != "" {
			return &Error{File: from.file, Line: from.line, Text: err.Error()}
		}
		return err
	}
	r.left -= int64(len(data))
	r.private = r.private && private
	return r.text(path, string(data))
}

// text reads the text of a file.
func (r *confReader) text(file, text string) error {
	text = strings.TrimPrefix(text, "\ufeff")
	var (
		comment bool // in one of C's kind
		long    strings.Builder
		longAt  int // line at which long began; 0: there is none
		here    *confLine
		end     string // what ends the here-document
		docs    []string
	)
	n := 0
	for line := range strings.SplitSeq(text, "\n") {
		n++
		line = strings.TrimSuffix(line, "\r")
		fail := func(format string, args ...any) error {
			return &Error{File: file, Line: n, Text: fmt.Sprintf(format, args...)}
		}
		if strings.ContainsRune(line, 0) {
			return fail("a NUL byte")
		}
		if here != nil {
			if !utf8.ValidString(line) {
				return fail("not UTF-8 text")
			}
			if strings.TrimSpace(line) != end {
				docs = append(docs, line)
				continue
			}
			indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
			for i := range docs {
				docs[i] = strings.TrimPrefix(docs[i], indent)
			}
			here.doc = strings.TrimRight(strings.Join(docs, "\n"), " \t\n")
			r.lines = append(r.lines, *here)
			here, docs = nil, nil
			continue
		}
		switch at := confBlockComment.FindStringIndex(line); {
		case at != nil:
			line = line[:at[0]] + line[at[1]:]
		case strings.HasPrefix(strings.TrimSpace(line), "/*"):
			comment = true
		case strings.Contains(line, "*/"):
			if !comment {
				return fail("*/ ends a comment that has not begun")
			}
			comment = false
			line = line[strings.LastIndex(line, "*/")+2:]
		}
		if comment {
			continue
		}
		line = uncomment(line)
		if !utf8.ValidString(line) {
			return fail("not UTF-8 text")
		}
		if strings.HasSuffix(line, `\`) && !strings.HasSuffix(line, `\\`) {
			if longAt == 0 {
				longAt = n
			}
			long.WriteString(strings.TrimLeft(line[:len(line)-1], " \t"))
			continue
		}
		if m := confEmptyBlock.FindStringSubmatch(line); m != nil {
			name, _, _ := strings.Cut(m[1], " ")
			r.add(strings.TrimSpace(strings.TrimSuffix(strings.TrimRight(line, " \t"), "/>"))+">", file, n)
			r.add("</"+name+">", file, n)
			continue
		}
		m := confHereEqual.FindStringSubmatch(line)
		if m == nil {
			m = confHere.FindStringSubmatch(line)
		}
		if m != nil {
			here, end = &confLine{text: strings.TrimSpace(m[1]), here: true, file: file, line: n}, m[2]
			continue
		}
		if longAt != 0 {
			long.WriteString(strings.TrimLeft(line, " \t"))
			r.add(long.String(), file, longAt)
			long.Reset()
			longAt = 0
			continue
		}
		if m := confInclude.FindStringSubmatch(line); m != nil {
			if err := r.include(m[2], strings.EqualFold(m[1], "includeoptional"), confLine{file: file, line: n}); err != nil {
				return err
			}
			continue
		}
		r.add(line, file, n)
	}
	switch {
	case here != nil:
		return &Error{File: file, Line: here.line, Text: fmt.Sprintf("the text that begins here is not ended by a line %q", end)}
	case longAt != 0:
		return &Error{File: file, Line: longAt, Text: `the line goes on (\ at its end) to the end of the file`}
	case comment:
		return &Error{File: file, Line: n, Text: "a comment (/*) that is not ended by */"}
	}
	return nil
}

func (r *confReader) add(text, file string, line int) {
	if text = strings.TrimSpace(text); text != "" {
		r.lines = append(r.lines, confLine{text: text, file: file, line: line})
	}
}

// uncomment cuts a line at its first # that has no backslash before it.
func uncomment(line string) string {
	for i := range len(line) {
		if line[i] == '#' && (i == 0 || line[i-1] != '\\') {
			return line[:i]
		}
	}
	return line
}

// include reads what one include names: a file, a folder or a glob.
func (r *confReader) include(name string, optional bool, from confLine) error {
	if r.depth++; r.depth > maxConfInclude {
		return &Error{File: from.file, Line: from.line, Text: fmt.Sprintf("more than %d files include each other", maxConfInclude)}
	}
	defer func() { r.depth-- }()
	if len(name) > 1 && (name[0] == '"' || name[0] == '\'') && name[len(name)-1] == name[0] {
		name = name[1 : len(name)-1]
	}
	if strings.ContainsAny(name, `*?[{\`) {
		list, err := r.glob(name)
		if err != nil {
			return &Error{File: from.file, Line: from.line, Text: fmt.Sprintf("include %s: %v", name, err)}
		}
		for _, f := range list {
			if err := r.file(f, from); err != nil {
				return err
			}
		}
		return nil
	}
	st, err := os.Stat(name)
	if err != nil && !filepath.IsAbs(name) && r.base != "" {
		name = filepath.Join(r.base, name)
		st, err = os.Stat(name)
	}
	if err != nil {
		if optional && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return &Error{File: from.file, Line: from.line, Text: fmt.Sprintf("include: %v", err)}
	}
	if !st.IsDir() {
		return r.file(name, from)
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return &Error{File: from.file, Line: from.line, Text: fmt.Sprintf("include: %v", err)}
	}
	for _, e := range entries { // sorted
		full := filepath.Join(name, e.Name())
		if st, err := os.Stat(full); err == nil && st.Mode().IsRegular() {
			if err := r.file(full, from); err != nil {
				return err
			}
		}
	}
	return nil
}

// glob lists the files that a pattern matches, seen from the working directory, else from the first file's folder. {a,b} are alternatives.
func (r *confReader) glob(pattern string) ([]string, error) {
	alternatives, err := braces(pattern)
	if err != nil {
		return nil, err
	}
	look := func(dir string) (out []string, err error) {
		for _, p := range alternatives {
			if dir != "" && !filepath.IsAbs(p) {
				p = filepath.Join(dir, p)
			}
			list, err := filepath.Glob(p)
			if err != nil {
				return nil, err
			}
			slices.Sort(list)
			for _, f := range list {
				if st, err := os.Stat(f); err == nil && st.Mode().IsRegular() {
					out = append(out, f)
				}
			}
		}
		return out, nil
	}
	list, err := look("")
	if err == nil && len(list) == 0 && r.base != "" {
		list, err = look(r.base)
	}
	return list, err
}

// braces lists what a pattern with {a,b} stands for.
func braces(p string) ([]string, error) {
	const most = 256
	out := []string{p}
	for {
		i := strings.IndexByte(out[0], '{')
		if i < 0 {
			return out, nil
		}
		var next []string
		for _, p := range out {
			i := strings.IndexByte(p, '{')
			if i < 0 {
				next = append(next, p)
				continue
			}
			j := strings.IndexByte(p[i:], '}')
			if j < 0 || strings.Contains(p[i+1:i+j], "{") {
				return nil, errors.New("a { without its }, or one in another")
			}
			for alt := range strings.SplitSeq(p[i+1:i+j], ",") {
				if next = append(next, p[:i]+alt+p[i+j+1:]); len(next) > most {
					return nil, fmt.Errorf("more than %d alternatives", most)
				}
			}
		}
		out = next
	}
}
