package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
)

// printable is s without what would move a terminal's cursor: names and texts of initiators come from the network.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// A table is aligned columns below their heads.
type table struct {
	w    *tabwriter.Writer
	rows int
}

func newTable(w io.Writer, heads ...string) *table {
	t := &table{w: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	t.write(heads)
	return t
}

func (t *table) row(cells ...any) {
	text := make([]string, len(cells))
	for i, c := range cells {
		if text[i] = printable(fmt.Sprint(c)); text[i] == "" {
			text[i] = "-"
		}
	}
	t.write(text)
	t.rows++
}

func (t *table) write(cells []string) {
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

func (t *table) end() error { return t.w.Flush() }

// facts writes names and values below each other; what is empty is left out.
type facts struct{ w *tabwriter.Writer }

func newFacts(w io.Writer) *facts { return &facts{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)} }

func (f *facts) add(name string, value any) {
	if s := printable(fmt.Sprint(value)); s != "" {
		fmt.Fprintf(f.w, "%s:\t%s\n", name, s)
	}
}

// when adds a fact where it is so.
func (f *facts) when(is bool, name string, value any) {
	if is {
		f.add(name, value)
	}
}

func (f *facts) end() error { return f.w.Flush() }

// size is bytes for people: 10 GiB, 1.5 MiB.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", f), ".0") + " " + units[i]
}

// exactly is size with the bytes.
func exactly(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%s (%d bytes)", size(n), n)
}

// count is a rate or a number for people: 950, 12.3k, 4.5M.
func count(n float64) string {
	for _, u := range []struct {
		at   float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e4, "k"}} {
		if n >= u.at {
			d := u.at
			if u.name == "k" {
				d = 1e3
			}
			return fmt.Sprintf("%.1f%s", n/d, u.name)
		}
	}
	return fmt.Sprintf("%.0f", n)
}

// span is a duration for people, two units at most.
func span(d time.Duration) string {
	switch {
	case d >= 24*time.Hour:
		return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d >= time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%.1fms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.0fµs", float64(d)/1e3)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// show writes a message for programs, or text for people.
func (c *cli) show(cmd *cobra.Command, v any, text func(w io.Writer) error) error {
	var err error
	if c.json {
		err = writeJSON(cmd.OutOrStdout(), v, false)
	} else {
		err = text(cmd.OutOrStdout())
	}
	if err != nil {
		return failed(err)
	}
	return nil
}

// did tells of a change: a line for people, the answer for programs.
func (c *cli) did(cmd *cobra.Command, v any, format string, args ...any) error {
	return c.show(cmd, v, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, printable(fmt.Sprintf(format, args...)))
		return err
	})
}
