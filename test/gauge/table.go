package gauge

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// A Table is figures with their goals, as a person reads them.
type Table struct {
	rows   [][4]string // what, figure, goal, verdict
	failed int
}

// Add adds a figure without a goal.
func (t *Table) Add(what, figure string) { t.rows = append(t.rows, [4]string{what, figure}) }

// Goal adds a figure that meets its goal, or does not.
func (t *Table) Goal(what, figure, goal string, met bool) {
	word := "met"
	if !met {
		word = "not met"
		t.failed++
	}
	t.rows = append(t.rows, [4]string{what, figure, goal, word})
}

// String is the table for a terminal.
func (t *Table) String() string {
	var w strings.Builder
	for _, r := range t.rows {
		fmt.Fprintf(&w, "%-56s %-44s %-26s %s\n", r[0], r[1], r[2], r[3])
	}
	return w.String()
}

// Markdown is the table for docs/bench, below a title and what was done.
func (t *Table) Markdown(title, done string) string {
	var w strings.Builder
	fmt.Fprintf(&w, "# %s\n\n", title)
	if done != "" {
		fmt.Fprintf(&w, "%s\n\n", done)
	}
	fmt.Fprintf(&w, "%s, %d processors, %s\n\n| | | goal | |\n|---|---|---|---|\n", time.Now().Format("2006-01-02 15:04"), runtime.NumCPU(), runtime.Version())
	for _, r := range t.rows {
		fmt.Fprintf(&w, "| %s |\n", strings.Join(r[:], " | "))
	}
	return w.String()
}

// Report prints the table and, where a path is given, writes it there as Markdown. failed is what kept the measurement from its end, if
// anything; without it, a goal that is not met is the error.
func (t *Table) Report(failed error, path, title, done string) error {
	fmt.Print(t)
	if failed != nil {
		return failed
	}
	if path != "" {
		if err := os.WriteFile(path, []byte(t.Markdown(title, done)), 0o644); err != nil {
			return err
		}
	}
	if t.failed > 0 {
		return fmt.Errorf("%d goals are not met", t.failed)
	}
	return nil
}
