package gauge

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestGoalsAreCounted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.md")
	var tab Table
	tab.Add("seen", "1")
	tab.Goal("wanted", "1", "< 2", true)
	if err := tab.Report(nil, path, "Title", "done"); err != nil {
		t.Error(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || !strings.HasPrefix(string(b), "# Title\n\ndone\n\n") || !strings.Contains(string(b), "| wanted | 1 | < 2 | met |") {
		t.Errorf("%v:\n%s", err, b)
	}
	tab.Goal("missed", "3", "< 2", false)
	if err := tab.Report(nil, "", "", ""); err == nil || strings.Count(tab.String(), "not met") != 1 {
		t.Errorf("%v:\n%s", err, &tab)
	}
	broken := errors.New("broken")
	if err := tab.Report(broken, path, "", ""); !errors.Is(err, broken) {
		t.Error(err)
	}
}
