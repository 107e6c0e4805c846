package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lunar-iscsi/lunar/session/initiator"
)

// A report is a whole run.
type report struct {
	Revision  string    `json:"revision"`
	Started   time.Time `json:"started"`
	Machine   []string  `json:"machine"`
	LoadAfter string    `json:"load_after,omitempty"`
	Rounds    int       `json:"rounds"`
	Seconds   float64   `json:"seconds"`
	Sections  []section `json:"rows"`
}

// A section is one row of a run.
type section struct {
	Name        string    `json:"name"`
	Title       string    `json:"title"`
	ClientBound bool      `json:"client_bound"`
	Subjects    []entry   `json:"subjects"`
	Goals       []verdict `json:"goals,omitempty"`

	negotiated []string // a line for each set of values, with who has it
	notes      []string
	table      [][]string // head first
}

// An entry is one subject in the JSON file.
type entry struct {
	Name    string   `json:"name"`
	About   string   `json:"about,omitempty"`
	Error   string   `json:"error,omitempty"`
	Samples []sample `json:"samples,omitempty"`
}

func newSection(r *row, sums []summary) section {
	s := section{Name: r.name, Title: r.title, ClientBound: isClientBound(r, sums), Goals: judge(r, sums)}
	own, base := ownOf(sums), find(sums, floor)
	s.table = append(s.table, []string{"server", "IOPS", "±%", "MB/s", "CPU µs/IO", "±%", "p50 µs", "p99 µs", "±%", "p99.9 µs", "client µs/IO", "IOPS of lunar's", "CPU of the floor's"})
	for i := range sums {
		x := &sums[i]
		e := entry{Name: x.name, About: x.about, Samples: x.samples}
		if x.err != nil {
			e.Error = oneLine(x.err)
			s.notes = append(s.notes, fmt.Sprintf("%s: no figures: %s", x.name, e.Error))
			s.table = append(s.table, []string{x.name, "missing"})
		} else {
			s.table = append(s.table, cells(x, own, base))
			s.params(x)
		}
		if x.note != "" {
			s.notes = append(s.notes, x.name+": "+x.note)
		}
		s.Subjects = append(s.Subjects, e)
	}
	if s.ClientBound {
		s.notes = append(s.notes, fmt.Sprintf("client-bound: the client drives the floor less than %.4g times as fast as lunar; compare by CPU alone", drivesFaster))
	}
	return s
}

// ownOf is what the others are compared with: lunar, where there are several the first.
func ownOf(sums []summary) *summary {
	for i := range sums {
		if sums[i].kind == lunar && sums[i].err == nil {
			return &sums[i]
		}
	}
	return nil
}

// cells is a subject's line of the table.
func cells(x, own, base *summary) []string {
	ratio := func(a float64, b *summary, of func(*summary) float64) string {
		if b == nil || of(b) == 0 {
			return "–"
		}
		return fmt.Sprintf("%.2f", a/of(b))
	}
	num := func(format string, v float64) string {
		if v == 0 {
			return "–"
		}
		return fmt.Sprintf(format, v)
	}
	return []string{
		x.name, num("%.0f", x.iops.median), num("%.0f", x.iops.percent()), num("%.0f", x.mbps.median),
		num("%.2f", x.cpu.median), num("%.0f", x.cpu.percent()),
		num("%.0f", x.p50.median), num("%.0f", x.p99.median), num("%.0f", x.p99.percent()), num("%.0f", x.p999.median),
		num("%.2f", x.client.median),
		ratio(x.iops.median, own, func(s *summary) float64 { return s.iops.median }),
		ratio(x.cpu.median, base, func(s *summary) float64 { return s.cpu.median }),
	}
}

// params notes what a subject negotiated, together with those that negotiated the same.
func (s *section) params(x *summary) {
	if x.params == nil {
		return
	}
	suffix := ": " + initiator.FormatParams(x.params)
	for i, l := range s.negotiated {
		if who, ok := strings.CutSuffix(l, suffix); ok {
			s.negotiated[i] = who + ", " + x.name + suffix
			return
		}
	}
	s.negotiated = append(s.negotiated, x.name+suffix)
}

// text writes the section for a terminal.
func (s *section) text(w *strings.Builder) {
	fmt.Fprintf(w, "\n%s — %s\n", s.Name, s.Title)
	width := make([]int, len(s.table[0]))
	for _, r := range s.table {
		for i, c := range r {
			width[i] = max(width[i], len([]rune(c)))
		}
	}
	for _, r := range s.table {
		for i, c := range r {
			pad := strings.Repeat(" ", width[i]-len([]rune(c)))
			if i == 0 {
				fmt.Fprint(w, c, pad)
			} else {
				fmt.Fprint(w, "  ", pad, c)
			}
		}
		fmt.Fprintln(w)
	}
	for _, l := range append(append([]string{}, s.negotiated...), s.notes...) {
		fmt.Fprintln(w, "  "+l)
	}
	for _, g := range s.Goals {
		fmt.Fprintln(w, "  goal: "+g.String())
	}
}

func (v verdict) String() string {
	if v.Ratio == 0 {
		return fmt.Sprintf("%s: %s", v.Goal, v.Word)
	}
	return fmt.Sprintf("%s: %.2f, %s", v.Goal, v.Ratio, v.Word)
}

// markdown writes the whole report.
func (r *report) markdown(w *strings.Builder) {
	fmt.Fprintf(w, "# Benchmark of %s\n\nlunar %s, beside its peers and the floor. [README.md](README.md) says how to read this.\n\n",
		r.Started.Format("2006-01-02 15:04"), r.Revision)
	for _, l := range r.Machine {
		fmt.Fprintln(w, "- "+l)
	}
	fmt.Fprintln(w, "- load average after the run: "+r.LoadAfter)
	fmt.Fprintf(w, "- medians of at least %d interleaved rounds of %.4g s; ±%% is half the range of the rounds\n", r.Rounds, r.Seconds)
	r.summary(w)
	for i := range r.Sections {
		r.Sections[i].markdown(w)
	}
}

// summary lists every goal.
func (r *report) summary(w *strings.Builder) {
	fmt.Fprint(w, "\n## Goals\n\n| row | goal | ratio | |\n|---|---|--:|---|\n")
	for i := range r.Sections {
		for _, g := range r.Sections[i].Goals {
			ratio := "–"
			if g.Ratio > 0 {
				ratio = fmt.Sprintf("%.2f", g.Ratio)
			}
			fmt.Fprintf(w, "| %s | %s | %s | %s |\n", r.Sections[i].Name, g.Goal, ratio, g.Word)
		}
	}
}

func (s *section) markdown(w *strings.Builder) {
	fmt.Fprintf(w, "\n## %s\n\n%s\n\n", s.Name, s.Title)
	for i, r := range s.table {
		for len(r) < len(s.table[0]) {
			r = append(r, "")
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(r, " | "))
		if i == 0 {
			fmt.Fprintln(w, "|---"+strings.Repeat("|--:", len(r)-1)+"|")
		}
	}
	fmt.Fprintln(w)
	for _, l := range append(append([]string{}, s.negotiated...), s.notes...) {
		fmt.Fprintln(w, "- "+l)
	}
	for _, e := range s.Subjects {
		if e.About != "" && e.About != e.Name {
			fmt.Fprintf(w, "- %s is %s\n", e.Name, e.About)
		}
	}
	for _, g := range s.Goals {
		fmt.Fprintf(w, "- goal: %s\n", g)
	}
}

// write writes the files that were asked for. The usual file is written by a run of all rows only.
func (r *report) write(o *options, all bool) error {
	out := o.out
	if out == "" && all {
		out = filepath.Join("docs", "bench", r.Started.Format("2006-01-02")+".md")
	}
	var errs []error
	if out != "" {
		var b strings.Builder
		r.markdown(&b)
		errs = append(errs, os.WriteFile(out, []byte(b.String()), 0o644))
	}
	if o.json != "" {
		b, err := json.MarshalIndent(r, "", " ")
		errs = append(errs, err, os.WriteFile(o.json, append(b, '\n'), 0o644))
	}
	return errors.Join(errs...)
}
