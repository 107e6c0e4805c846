package admin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/file"
	"github.com/lunar-iscsi/lunar/backstore/mem"
	"github.com/lunar-iscsi/lunar/backstore/null"
)

// A testState is a State in memory whose saves can be made to fail.
type testState struct {
	mu      sync.Mutex
	objects map[string][]byte
	fail    error
	saves   int
}

func (s *testState) Objects() map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.objects)
}

func (s *testState) Save(set map[string][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.saves++; s.fail != nil {
		return s.fail
	}
	if s.objects == nil {
		s.objects = map[string][]byte{}
	}
	for k, v := range set {
		if v == nil {
			delete(s.objects, k)
		} else {
			s.objects[k] = v
		}
	}
	return nil
}

func (s *testState) File() string { return "memory" }

func (s *testState) failing(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// A rig is a Manager with what a test wants to know of it.
type rig struct {
	*Manager
	t     *testing.T
	state *testState
	audit lines
}

// lines are what was logged.
type lines struct {
	mu   sync.Mutex
	list []string
}

func (l *lines) add(msg string, kv ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, msg+" "+fmt.Sprintln(kv...))
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.list...)
}

func testRegistry() *backstore.Registry {
	return backstore.NewRegistry(mem.Driver(), null.Driver(), file.Driver())
}

// newRig makes a Manager on state, and loads what that has.
func newRig(t *testing.T, state *testState, change ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, state: state}
	cfg := Config{Registry: testRegistry(), Audit: r.audit.add, RetryVolumes: -1}
	if state != nil {
		cfg.State = state
	}
	for _, f := range change {
		f(&cfg)
	}
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Manager = m
	t.Cleanup(func() { _ = m.Close() })
	if err := m.Load(r.ctx()); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(WithCaller(context.Background(), Caller{Face: "test", UID: 7, PID: 42}), 20*time.Second)
	r.t.Cleanup(cancel)
	return ctx
}

// ok fails the test on an error.
func (r *rig) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// refused wants an error of a code, and that the document is what it was.
func (r *rig) refused(code Code, do func() error) error {
	r.t.Helper()
	before := r.Document()
	err := do()
	var e *Error
	if !errors.As(err, &e) || e.Code != code {
		r.t.Fatalf("%v (code %d), want code %d", err, CodeOf(err), code)
	}
	after := r.Document()
	if c := spec.Changes(before, after); c != "" {
		r.t.Fatalf("refused with %v, and yet: %s", err, c)
	}
	return err
}

const iqn = "iqn.2026-11.io.lunar:"

func everybody() []spec.Rule { return []spec.Rule{{Address: "ALL"}} }

// volume makes a file of 1 MiB and returns its URI.
func volume(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return "file://" + path
}

// retryAll tries every volume once that could not be opened.
func (r *rig) retryAll() {
	for _, d := range r.dueVolumes(time.Now().Add(time.Hour), 1000) {
		r.retryVolume(r.ctx(), d)
	}
}
