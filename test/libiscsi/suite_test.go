package libiscsi

import (
	"path/filepath"
	"testing"

	"github.com/lunar-iscsi/lunar/test/daemon"
)

func TestSuite(t *testing.T) {
	Suite{URI: daemon.FileURI(filepath.Join(t.TempDir(), "disk.img"), "size=1023M")}.Run(t)
}
