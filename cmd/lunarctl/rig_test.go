package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/grpcd"
	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/file"
	"github.com/lunar-iscsi/lunar/backstore/mem"
	"github.com/lunar-iscsi/lunar/backstore/null"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/volumes"
)

// testTime bounds what a test waits for.
const testTime = 30 * time.Second

// A rig is a daemon within the test, with one portal, and what drives lunarctl against it.
type rig struct {
	t        *testing.T
	m        *admin.Manager
	server   string // for --server
	portal   string
	engine   *volumes.Engine // of "fake:" volumes
	shutdown chan struct{}   // gets one for each Shutdown
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, engine: volumes.New("fake"), shutdown: make(chan struct{}, 1)}
	var err error
	r.m, err = admin.New(admin.Config{Registry: backstore.NewRegistry(mem.Driver(), null.Driver(), file.Driver(), r.engine.Driver()), Version: "v0-test", Shutdown: func() { r.shutdown <- struct{}{} }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.m.Close() })
	p, err := r.m.AddPortal(r.ctx(), spec.Portal{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	r.portal = p.Bound.String()
	if err := r.m.Serve(); err != nil {
		t.Fatal(err)
	}
	r.server = "unix:" + filepath.Join(t.TempDir(), "s#1 %41?x")
	s, err := grpcd.New(r.m, grpcd.Config{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := grpcd.Listen(r.server)
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		if err := s.Serve(l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		s.Stop(r.ctx())
		served.Wait()
	})
	return r
}

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	r.t.Cleanup(cancel)
	return ctx
}

// run runs lunarctl.
func (r *rig) run(in string, args ...string) (status int, out, errOut string) {
	var o, e bytes.Buffer
	status = run(r.ctx(), append([]string{"--server", r.server}, args...), strings.NewReader(in), &o, &e)
	return status, o.String(), e.String()
}

// ok runs a line of words that succeeds, and returns what it writes to its standard output.
func (r *rig) ok(line string) string {
	r.t.Helper()
	status, out, errOut := r.run("", shellWords(line)...)
	if status != 0 {
		r.t.Fatalf("lunarctl %s: exits with %d\n%s%s", line, status, out, errOut)
	}
	return out
}

// script runs lines that begin with $, and returns them with everything that is written, exit statuses and standard error included. A line
// that begins with < is the input of the next.
func (r *rig) script(lines []string, others func(line string)) string {
	var b strings.Builder
	in := ""
	for _, line := range lines {
		switch line[0] {
		case '$':
		case '<':
			in = line[2:] + "\n"
			continue
		default:
			others(line)
			continue
		}
		status, out, errOut := r.run(in, strings.Fields(line[2:])...)
		in = ""
		b.WriteString(line + "\n" + out + errOut)
		if status != 0 {
			fmt.Fprintf(&b, "exit status %d\n", status)
		}
	}
	return b.String()
}

// login logs an initiator in, until the test ends or it is told to go.
func (r *rig) login(target, name string) *initiator.Session {
	r.t.Helper()
	s, err := initiator.Login(r.ctx(), initiator.Options{Portal: r.portal, TargetName: target, InitiatorName: name})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { s.Close() })
	return s
}

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// changing is what differs from run to run, and what stands for it in golden files.
var changing = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`\b[0-9.]+(µs|ms|s)( ago)?\b`), "<TIME>"},
	{regexp.MustCompile(`\b[0-9]+m[0-9]+s( ago)?\b`), "<TIME>"},
	{regexp.MustCompile(`\b[0-9a-f]{24}\b`), "<SERIAL>"},
	{regexp.MustCompile(`\b3[0-9a-f]{15}\b`), "<NAA>"},
	{regexp.MustCompile(`"?\b[A-Z0-9]{26}\b"?`), "<IDENTITY>"},
	{regexp.MustCompile(`127\.0\.0\.1:[1-9][0-9]*`), "127.0.0.1:<PORT>"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?Z?`), "<DATE>"},
	{regexp.MustCompile(`uid \d+`), "uid <UID>"},
	{regexp.MustCompile(` +`), " "}, // columns move with what stands in them: TestTablesAreSafe has alignment
}

// golden compares a text with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	for _, c := range changing {
		got = c.re.ReplaceAllString(got, c.to)
	}
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\n%s\nwant\n%s", path, got, want)
	}
}
