package lunarv1_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/grpcd"
	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/mem"
)

// startDaemon serves the real service on a socket.
func startDaemon() (socket string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "lunar")
	if err != nil {
		return "", nil, err
	}
	m, err := admin.New(admin.Config{Registry: backstore.NewRegistry(mem.Driver())})
	if err != nil {
		return "", nil, err
	}
	s, err := grpcd.New(m, grpcd.Config{})
	if err != nil {
		return "", nil, err
	}
	socket = filepath.Join(dir, "s")
	l, err := grpcd.Listen("unix:" + socket)
	if err != nil {
		return "", nil, err
	}
	go func() { _ = s.Serve(l) }()
	return socket, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.Stop(ctx)
		_ = m.Close()
		os.RemoveAll(dir)
	}, nil
}

// TestDocumentedExample: docs/api.md shows the example that is run.
func TestDocumentedExample(t *testing.T) {
	src, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "docs", "api.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(src), "docs/api.md shows this function.\n")
	code, _, _ = strings.Cut(code, "\nfunc Example()")
	if code = strings.TrimSpace(code); code == "" || !strings.Contains(string(doc), code) {
		t.Errorf("docs/api.md does not have\n%s", code)
	}
}
