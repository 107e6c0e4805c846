package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/session/initiator/load"
	"github.com/lunar-iscsi/lunar/test/gauge"
)

// TestProcess: a process has processor time while it runs, and is gone after stop though it ignores SIGTERM.
func TestProcess(t *testing.T) {
	p, err := gauge.StartProcess(t.TempDir(), "spin", "", nil, "/bin/sh", "-c", "trap '' TERM; while :; do :; done")
	if err != nil {
		t.Fatal(err)
	}
	p.Stubborn = true
	for first, err := p.CPU(); ; {
		now, err2 := p.CPU()
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		if now > first {
			break
		}
	}
	p.Stop()
	if _, err := p.CPU(); err == nil {
		t.Error("a process that was stopped has processor time")
	}
}

// TestProcessFails: of a server that ends at its start the error says what it said.
func TestProcessFails(t *testing.T) {
	p, err := gauge.StartProcess(t.TempDir(), "bad", "", nil, "/bin/sh", "-c", "echo no such volume >&2; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	port, portal, err := loopback()
	if err != nil {
		t.Fatal(err)
	}
	err = p.Listens(t.Context(), portal)
	if err == nil {
		t.Fatalf("something listens on port %d", port)
	}
	for _, want := range []string{"bad ended", "exit status 3", "no such volume"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %q", want, err)
		}
	}
}

// TestVolumes: files hold the client's pattern, servers that share get the same ones, the others their own, and trim
// leaves the one that every row uses.
func TestVolumes(t *testing.T) {
	v := volumes{memDir: t.TempDir(), diskDir: t.TempDir(), made: map[string]bool{}}
	own, err := v.get(memory, 1, 64, true)
	if err != nil {
		t.Fatal(err)
	}
	again, err := v.get(memory, 1, 64, true)
	if err != nil {
		t.Fatal(err)
	}
	other, err := v.get(memory, 2, 64, true)
	if err != nil {
		t.Fatal(err)
	}
	if len(own) != 64 || own[0] != again[0] || own[0] == own[1] || own[0] == other[0] {
		t.Errorf("files %q, %q and %q", own[:2], again[:2], other[:2])
	}
	b, err := os.ReadFile(own[63])
	if err != nil {
		t.Fatal(err)
	}
	if len(b) != smallSize/64 {
		t.Errorf("a file has %d bytes, want %d", len(b), smallSize/64)
	}
	if err := load.Check(b, 0); err != nil {
		t.Error(err)
	}
	if err := v.trim(); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(v.memDir, "*")); err != nil || len(left) != 0 {
		t.Errorf("trim leaves %q (%v)", left, err)
	}
	if err := v.remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(v.memDir); !os.IsNotExist(err) {
		t.Errorf("the folder is still there: %v", err)
	}
}
