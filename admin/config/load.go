package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
)

// A Section is a part of the document that a file has or leaves alone.
type Section uint8

// The sections.
const (
	System Section = 1 << iota
	Portals
	Accounts
	Discovery
	Targets
)

// sections are the sections by their keys.
var sections = map[string]Section{"system": System, "portals": Portals, "accounts": Accounts, "discovery": Discovery, "targets": Targets}

// A File is what a configuration file says.
type File struct {
	Document spec.Document // TID 0 and no Identity: as it is, or as the service chooses
	// Has are the sections that the file has; of what the others are about it says nothing.
	Has Section
	// Keep leaves alone what is there and the file does not name: targets, portals and accounts.
	Keep     Section
	Warnings []string // each a line that begins with file and line number

	tgt      bool            // it is a targets.conf
	isns     bool            // it sets iSNS
	renumber map[string]bool // targets whose TID is only what tgt-admin would give them on a daemon without any
}

// Options bound what is read.
type Options struct {
	MaxFile int64 // bytes of one file; 0: DefaultMaxFile
}

func (o Options) maxFile() int64 {
	if o.MaxFile > 0 {
		return o.MaxFile
	}
	return DefaultMaxFile
}

// A file is what stands in a YAML file: the document, and what is about the file itself.
type file struct {
	Include   []string      `yaml:"include"` // globs of further files, relative to this one's folder
	Keep      bool          `yaml:"keep"`    // as File.Keep, for all sections
	System    spec.System   `yaml:"system"`
	Portals   []spec.Portal `yaml:"portals"`
	Accounts  []account     `yaml:"accounts"`
	Discovery spec.Auth     `yaml:"discovery"`
	Targets   []spec.Target `yaml:"targets"`
}

// An account has its secret in the file or in another.
type account struct {
	Name       string `yaml:"name"`
	Secret     string `yaml:"secret"`
	SecretFile string `yaml:"secret-file"` // the first line of it; relative to this file's folder
}

// hiddenSecret stands for a secret that Marshal left out.
const hiddenSecret = "<hidden>"

// Bounds of Load.
const (
	maxIncludes   = 1024
	maxSecretFile = 4096
)

// Load reads a YAML file and those that it includes. Its errors are Errors, and of the file system.
func Load(path string, o Options) (*File, error) {
	l := &loader{o: o}
	f := l.load(path, true)
	if len(l.errs) == 0 && f.Has == 0 {
		l.errs = append(l.errs, &Error{File: path, Text: "nothing in it; to serve nothing, write targets: []"})
	}
	if len(l.errs) == 0 {
		l.check(f)
	}
	if l.fserr != nil {
		return nil, l.fserr
	}
	if err := l.errs.err(); err != nil {
		return nil, err
	}
	return f, nil
}

// A loader gathers what a file and its includes say.
type loader struct {
	o     Options
	alone bool // reads no other file: for tests
	errs  Errors
	fserr error
	out   File
	seen  map[string]bool // files
	names map[string]at   // "target iqn…" and so on: where it stands
	where map[string]at   // "targets[3].luns[0]" of out.Document
}

// An at is a place in one of the files.
type at struct {
	file string
	place
}

func (a at) String() string { return fmt.Sprintf("%s:%d", a.file, a.line) }

func (l *loader) load(path string, first bool) *File {
	if l.seen == nil {
		l.seen, l.names, l.where = map[string]bool{}, map[string]at{}, map[string]at{}
	}
	data, private, err := readFile(path, l.o.maxFile())
	if err != nil {
		l.fail(err)
		return &l.out
	}
	l.parse(path, data, private, first)
	return &l.out
}

func (l *loader) fail(err error) {
	if l.fserr == nil {
		l.fserr = err
	}
}

// parse reads one file. private: nobody but its owner may read it.
func (l *loader) parse(path string, data []byte, private, first bool) {
	n, perr := parseYAML(path, data)
	if perr != nil {
		l.errs = append(l.errs, perr)
		return
	}
	if n == nil {
		return
	}
	var f file
	d := newDecoder(path)
	d.value(n, reflect.ValueOf(&f).Elem(), "")
	l.errs = append(l.errs, d.errs...)
	if len(d.errs) > 0 {
		return
	}
	l.merge(path, &f, d, private, first)
	if len(f.Include) > 0 {
		if first {
			l.include(path, f.Include, d)
		} else {
			l.errorAt(path, d, "include", "an included file cannot include others")
		}
	}
}

func (l *loader) errorAt(path string, d *decoder, key, format string, args ...any) {
	if len(l.errs) >= maxErrors {
		return
	}
	p := d.places[key]
	l.errs = append(l.errs, &Error{File: path, Line: p.line, Column: p.column, Key: key, Text: fmt.Sprintf(format, args...)})
}

// merge adds what one file says to the rest.
func (l *loader) merge(path string, f *file, d *decoder, private, first bool) {
	has := func(s Section, key string) bool {
		if _, ok := d.places[key]; !ok {
			return false
		}
		l.out.Has |= s
		return true
	}
	once := func(s Section, key string) bool {
		if l.out.Has&s != 0 && d.places[key] != (place{}) {
			l.errorAt(path, d, key, "another of the files has it, at %v", l.where[key])
			return false
		}
		return has(s, key)
	}
	// put notes where a part of the document stands, with all below it.
	put := func(to, from string) {
		for _, key := range d.below(from) {
			l.where[to+strings.TrimPrefix(key, from)] = at{path, d.places[key]}
		}
	}
	doc := &l.out.Document
	if f.Keep {
		l.out.Keep = Portals | Accounts | Targets
		if !first {
			l.errorAt(path, d, "keep", "only the first file can say that")
		}
	}
	if once(System, "system") {
		doc.System = f.System
		put("system", "system")
	}
	if once(Discovery, "discovery") {
		doc.Discovery = f.Discovery
		put("discovery", "discovery")
	}
	if has(Portals, "portals") {
		for i, p := range f.Portals {
			l.only(path, d, fmt.Sprintf("portals[%d]", i), "portal "+p.Address)
			put(fmt.Sprintf("portals[%d]", len(doc.Portals)), fmt.Sprintf("portals[%d]", i))
			doc.Portals = append(doc.Portals, p)
		}
	}
	if has(Accounts, "accounts") {
		for i := range f.Accounts {
			key := fmt.Sprintf("accounts[%d]", i)
			l.only(path, d, key, "account "+f.Accounts[i].Name)
			put(fmt.Sprintf("accounts[%d]", len(doc.Accounts)), key)
			doc.Accounts = append(doc.Accounts, spec.Account{Name: f.Accounts[i].Name, Secret: l.secret(path, d, key, &f.Accounts[i], private)})
		}
	}
	if has(Targets, "targets") {
		for i := range f.Targets {
			from, to := fmt.Sprintf("targets[%d]", i), fmt.Sprintf("targets[%d]", len(doc.Targets))
			l.only(path, d, from, "target "+strings.ToLower(f.Targets[i].Name))
			put(to, from)
			l.luns(path, d, from, f.Targets[i].LUNs)
			doc.Targets = append(doc.Targets, f.Targets[i])
		}
	}
}

// only tells of what is there twice, in one file or in two.
func (l *loader) only(path string, d *decoder, key, name string) {
	if was, ok := l.names[name]; ok {
		l.errorAt(path, d, key, "%s is there already, at %v", name, was)
		return
	}
	l.names[name] = at{path, d.places[key]}
}

// luns tells of numbers that are given twice, and of both places.
func (l *loader) luns(path string, d *decoder, key string, luns []spec.LUN) {
	seen := map[uint16]place{}
	for i := range luns {
		k := fmt.Sprintf("%s.luns[%d]", key, i)
		if was, ok := seen[luns[i].Number]; ok {
			l.errorAt(path, d, k, "LUN %d is there already, at %v", luns[i].Number, at{path, was})
			continue
		}
		seen[luns[i].Number] = d.places[k]
	}
}

// secret returns an account's secret.
func (l *loader) secret(path string, d *decoder, key string, a *account, private bool) string {
	switch {
	case a.Secret != "" && a.SecretFile != "":
		l.errorAt(path, d, key, "secret and secret-file; give one")
	case a.Secret == hiddenSecret:
		l.errorAt(path, d, key+".secret", "the secret was left out when this was written; put it here, or use secret-file")
	case a.Secret != "" && !private:
		l.errorAt(path, d, key+".secret", "a secret in a file that others may read; chmod 600 %s, or use secret-file", path)
	case a.Secret != "":
		return a.Secret
	case a.SecretFile == "":
		l.errorAt(path, d, key, "it has no secret; add secret or secret-file")
	case l.alone:
		return "a secret from elsewhere"
	default:
		name := a.SecretFile
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(path), name)
		}
		data, private, err := readFile(name, maxSecretFile)
		text, _, _ := strings.Cut(string(data), "\n")
		text = strings.TrimSuffix(text, "\r")
		switch {
		case err != nil:
			l.errorAt(path, d, key+".secret-file", "%v", err)
		case !private:
			l.errorAt(path, d, key+".secret-file", "others may read %s; chmod 600 it", name)
		case text == "":
			l.errorAt(path, d, key+".secret-file", "the first line of %s is empty", name)
		}
		return text
	}
	return ""
}

// include reads the files that globs name, sorted. A glob that nothing matches is fine: an empty folder is none of anybody's mistakes. A
// plain name has to be there.
func (l *loader) include(path string, globs []string, d *decoder) {
	l.seen[filepath.Clean(path)] = true
	n := 0
	for i, g := range globs {
		key := fmt.Sprintf("include[%d]", i)
		if !filepath.IsAbs(g) {
			g = filepath.Join(filepath.Dir(path), g)
		}
		list := []string{g}
		if strings.ContainsAny(g, "*?[") {
			var err error
			if list, err = filepath.Glob(g); err != nil {
				l.errorAt(path, d, key, "%q: %v", g, err)
				continue
			}
			slices.Sort(list)
		} else if _, err := os.Stat(g); err != nil {
			l.errorAt(path, d, key, "%v", err)
			continue
		}
		for _, name := range list {
			if l.seen[filepath.Clean(name)] {
				l.errorAt(path, d, key, "%s is included already", name)
				continue
			}
			l.seen[filepath.Clean(name)] = true
			if n++; n > maxIncludes {
				l.errorAt(path, d, key, "more than %d files", maxIncludes)
				return
			}
			l.load(name, false)
		}
	}
}

// readFile reads a regular file of at most limit bytes, and tells whether nobody but its owner may read or write it. It looks at
// what it opened, so that nobody can put another file there in between.
func readFile(path string, limit int64) (data []byte, private bool, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	if !st.Mode().IsRegular() && path != os.DevNull {
		return nil, false, &fs.PathError{Op: "read", Path: path, Err: errors.New("not a regular file")}
	}
	if data, err = io.ReadAll(io.LimitReader(f, limit+1)); err != nil {
		return nil, false, err
	}
	if int64(len(data)) > limit {
		return nil, false, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("more than %d bytes", limit)}
	}
	return data, st.Mode().Perm()&0o077 == 0, nil
}

// placeOf returns where a part of the document stands, or of what it is part of.
func (l *loader) placeOf(key string) (at, bool) {
	for key != "" {
		if a, ok := l.where[key]; ok {
			return a, true
		}
		i := strings.LastIndexAny(key, ".[")
		if i < 0 {
			break
		}
		key = key[:i]
	}
	return at{}, false
}

// check reports what of the document as a whole no daemon could serve, at its place.
func (l *loader) check(f *File) {
	doc := f.Document
	if f.Has&Accounts == 0 {
		// Accounts that another face has made may be named; whether they are there is known when the file is applied.
		doc.Accounts = missing(&doc)
	}
	if err := doc.Check(); err != nil {
		e := &Error{Text: err.Error()}
		if fe, ok := spec.IsField(err); ok {
			p, _ := l.placeOf(fe.Path)
			e = &Error{File: p.file, Line: p.line, Column: p.column, Key: fe.Where, Text: fe.Text}
		}
		l.errs = append(l.errs, e)
		return
	}
	for i := range doc.Targets {
		t := &doc.Targets[i]
		for j := range t.Access {
			if a := t.Access[j].Address; a != "" {
				if err := spec.CheckAddress(a); err != nil {
					p, _ := l.placeOf(fmt.Sprintf("targets[%d].access[%d].address", i, j))
					f.Warnings = append(f.Warnings, oneLine(fmt.Sprintf("%v: target %s: the rule matches nobody: %v", p, t.Name, err)))
				}
			}
		}
		for j := range t.LUNs {
			if v := t.LUNs[j].Volume; v != "" {
				if _, err := backstore.ParseURI(v); err != nil && len(l.errs) < maxErrors {
					p, _ := l.placeOf(fmt.Sprintf("targets[%d].luns[%d].volume", i, j))
					l.errs = append(l.errs, &Error{File: p.file, Line: p.line, Column: p.column, Key: fmt.Sprintf("target %s: LUN %d", t.Name, t.LUNs[j].Number), Text: err.Error()})
				}
			}
		}
	}
}

// missing makes up the accounts that a document names.
func missing(doc *spec.Document) (out []spec.Account) {
	seen := map[string]bool{}
	add := func(a spec.Auth) {
		for _, name := range append(slices.Clone(a.Incoming), a.Outgoing) {
			if name != "" && !seen[name] {
				seen[name] = true
				out = append(out, spec.Account{Name: name, Secret: "?"})
			}
		}
	}
	add(doc.Discovery)
	for i := range doc.Targets {
		add(doc.Targets[i].Auth)
	}
	return out
}
