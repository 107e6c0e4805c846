package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// checkFile checks what every file that is read must be: well formed, and what is written of it is the same again.
func checkFile(t *testing.T, f *File) {
	t.Helper()
	doc := f.Document
	if f.Has&Accounts == 0 {
		doc.Accounts = missing(&doc)
	}
	if err := doc.Check(); err != nil {
		t.Fatalf("a document that is none was read: %v", err)
	}
	text, err := Marshal(&doc, true)
	if err != nil {
		t.Fatal(err)
	}
	l := loader{alone: true, seen: map[string]bool{}, names: map[string]at{}, where: map[string]at{}}
	l.parse("again", text, true, false)
	if len(l.errs) > 0 {
		t.Fatalf("what was written is not read: %v\n%s", l.errs, text)
	}
	if !reflect.DeepEqual(normal(l.out.Document), normal(doc)) {
		t.Fatalf("not the same again:\n%+v\n%+v\n%s", l.out.Document, doc, text)
	}
}

// checkErrors checks that each message is one line that names the file.
func checkErrors(t *testing.T, errs Errors) {
	t.Helper()
	if len(errs) > maxErrors {
		t.Errorf("%d errors", len(errs))
	}
	for _, e := range errs {
		if s := e.Error(); strings.ContainsAny(s, "\n\r") || e.Text == "" || !strings.HasPrefix(s, "file") && e.File != "" {
			t.Errorf("message %q", s)
		}
	}
}

// Whatever the text, there is an error, or a document that a daemon could serve.
func FuzzYAML(f *testing.F) {
	if data, err := os.ReadFile("../../docs/lunar.example.yaml"); err == nil {
		f.Add(string(data))
	}
	for _, s := range cases(f, "yaml") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 64<<10 {
			return
		}
		l := loader{alone: true, seen: map[string]bool{}, names: map[string]at{}, where: map[string]at{}}
		l.parse("file", []byte(text), true, false)
		if len(l.errs) == 0 {
			l.check(&l.out)
		}
		checkErrors(t, l.errs)
		if len(l.errs) == 0 {
			checkFile(t, &l.out)
		}
	})
}

// The same of a targets.conf that includes nothing.
func FuzzTargetsConf(f *testing.F) {
	for _, name := range []string{"targets.conf", "more.conf", "names.conf"} {
		data, err := os.ReadFile(filepath.Join("testdata/tgt", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data))
	}
	for _, s := range cases(f, "targetsconf") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 64<<10 {
			return
		}
		r := &confReader{seen: map[string]bool{}, depth: maxConfInclude}
		err := r.text("file", text)
		var got *File
		if err == nil {
			got, err = r.document(TargetsConfOptions{Sys: "testdata/nosys"})
		}
		if err != nil {
			checkErrors(t, asList(err))
			return
		}
		checkErrors(t, r.warnings)
		for _, x := range got.Document.Targets {
			for _, l := range x.LUNs {
				if !strings.Contains(l.Volume, "://") && l.Volume != "" {
					return // a volume of a driver that is not there: its name is checked by who opens it
				}
			}
		}
		checkFile(t, got)
	})
}

func asList(err error) Errors {
	if l, ok := err.(Errors); ok {
		return l
	}
	return asErrors(nil, err)
}

// cases are the files of testdata/NAME.errors.txt.
func cases(tb testing.TB, name string) (out []string) {
	data, err := os.ReadFile(filepath.Join("testdata", name+".errors.txt"))
	if err != nil {
		tb.Fatal(err)
	}
	for c := range strings.SplitSeq(string(data), "=== ") {
		_, text, _ := strings.Cut(c, "\n")
		text, _, _ = strings.Cut(text, "--- says\n")
		out = append(out, text)
	}
	return out
}
