package engines

import (
	"strings"
	"testing"
)

// A gotgtInstance is gotgt's own file store, within lunard.
type gotgtInstance struct{ fileInstance }

func gotgtEngine() Engine {
	return Engine{
		Name: "gotgt", Libiscsi: fullyProvisioned,
		Fixed: "gotgt's interfaces know the size that Open has said, and no other afterwards",
		Lacks: noSnapshots("gotgt's interfaces have none"),
		Start: func(t *testing.T) Instance { return &gotgtInstance{fileInstance{dir: t.TempDir()}} },
	}
}

// Volume makes the file beforehand: the back end makes none.
func (g *gotgtInstance) Volume(t *testing.T, size int64) string {
	t.Helper()
	path, _, _ := strings.Cut(strings.TrimPrefix(g.fileInstance.Volume(t, size), "file:"), "?")
	return "gotgt:file:" + path
}
