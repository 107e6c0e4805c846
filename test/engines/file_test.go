package engines

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/lunar-iscsi/lunar/test/daemon"
)

// A fileInstance is a folder.
type fileInstance struct {
	dir string
	n   int
}

func fileEngine() Engine {
	return Engine{Name: "file", Lacks: map[string]string{"restore": "a folder has no trash: what is deleted is gone"}, Start: func(t *testing.T) Instance { return &fileInstance{dir: t.TempDir()} }}
}

func (f *fileInstance) Volume(t *testing.T, size int64) string {
	t.Helper()
	f.n++
	path := filepath.Join(f.dir, fmt.Sprintf("disk%d", f.n))
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return daemon.FileURI(path, "")
}
