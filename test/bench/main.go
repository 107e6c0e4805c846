package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Defaults of a run.
const (
	defaultRounds  = 5
	defaultSeconds = 3
)

// A bench is one run of the benchmarks. It belongs to main's goroutine.
type bench struct {
	root     string // of the module
	dir      string // ours, removed at the end
	lunard   string
	lunarctl string
	floor    string
	gotgt    string
	revision string
	missing  map[string]error // why there is none of that kind of server

	rounds     int
	seconds    float64
	only       map[string]bool
	others     map[string]string // name to command
	otherNames []string
	volumes    volumes
}

// options are the command line.
type options struct {
	rows, only       string
	list             bool
	rounds           int
	seconds          float64
	out, json        string
	lunard, lunarctl string
	diskDir, memDir  string
	servers          []string
}

func main() {
	runtime.LockOSThread() // servers are tied to the thread that starts them: they must not outlive us, nor die before
	var o options
	flag.StringVar(&o.rows, "row", "", "rows to run, `NAMES` separated by commas (default: all)")
	flag.StringVar(&o.only, "only", "", "`KINDS` of server to run, separated by commas (default: all)")
	flag.BoolVar(&o.list, "list", false, "list the rows")
	flag.IntVar(&o.rounds, "rounds", defaultRounds, "interleaved rounds of each row, at least")
	flag.Float64Var(&o.seconds, "seconds", defaultSeconds, "length of one round of one server")
	flag.StringVar(&o.out, "out", "", "Markdown `file` to write (default: docs/bench/DATE.md when all rows run)")
	flag.StringVar(&o.json, "json", "", "`file` for every sample of every round")
	flag.StringVar(&o.lunard, "lunard", "", "lunard `binary` (default: build it)")
	flag.StringVar(&o.lunarctl, "lunarctl", "", "lunarctl `binary` (default: build it)")
	flag.StringVar(&o.memDir, "mem-dir", "/dev/shm", "`folder` in memory for the files served")
	flag.StringVar(&o.diskDir, "disk-dir", "", "`folder` on a disk for the rows on a disk (default: bin/ of the module)")
	flag.Func("server", "`NAME=COMMAND` of one more server to compare with, with {port} and {file}; repeatable", func(s string) error {
		o.servers = append(o.servers, s)
		return nil
	})
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options) (err error) {
	rows, all, err := chosen(o)
	if err != nil {
		return err
	}
	if o.list {
		for i := range rows {
			fmt.Printf("%-20s %s\n", rows[i].name, rows[i].title)
		}
		return nil
	}
	b, err := prepare(ctx, o)
	if b != nil {
		defer func() { err = errors.Join(err, b.volumes.remove(), os.RemoveAll(b.dir)) }()
	}
	if err != nil {
		return err
	}
	rep := &report{Revision: b.revision, Started: time.Now(), Machine: machine(b.volumes.diskDir), Rounds: b.rounds, Seconds: b.seconds}
	for i := range rows {
		r := &rows[i]
		fmt.Fprintf(os.Stderr, "%s: %s\n", r.name, r.title)
		sums, err := b.measure(ctx, r)
		if err != nil {
			return errors.Join(err, rep.write(o, all))
		}
		section := newSection(r, sums)
		rep.Sections = append(rep.Sections, section)
		var text strings.Builder
		section.text(&text)
		fmt.Print(text.String())
		if err := b.volumes.trim(); err != nil {
			return err
		}
	}
	rep.LoadAfter = loadAverage()
	return rep.write(o, all)
}

// chosen are the rows to run, and whether that is all of them.
func chosen(o *options) (rows []row, all bool, err error) {
	every := allRows()
	if o.rows == "" {
		return every, true, nil
	}
	for _, name := range strings.Split(o.rows, ",") {
		i := slices.IndexFunc(every, func(r row) bool { return r.name == name })
		if i < 0 {
			return nil, false, fmt.Errorf("no row %q; --list lists them", name)
		}
		rows = append(rows, every[i])
	}
	return rows, false, nil
}

// prepare builds what is to be measured and makes our folders.
func prepare(ctx context.Context, o *options) (*bench, error) {
	if o.rounds < 1 || o.seconds <= 0 {
		return nil, errors.New("--rounds and --seconds must be above 0")
	}
	mod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return nil, fmt.Errorf("go env GOMOD: %w", err)
	}
	b := &bench{root: filepath.Dir(strings.TrimSpace(string(mod))), rounds: o.rounds, seconds: o.seconds, missing: map[string]error{}}
	if b.dir, err = os.MkdirTemp("", "lunar-bench-"); err != nil {
		return nil, err
	}
	b.volumes.made = map[string]bool{}
	if b.volumes.memDir, err = os.MkdirTemp(o.memDir, "lunar-bench-"); err != nil {
		return b, err
	}
	if o.diskDir == "" {
		o.diskDir = filepath.Join(b.root, "bin")
		if err := os.MkdirAll(o.diskDir, 0o755); err != nil {
			return b, err
		}
	}
	if b.volumes.diskDir, err = os.MkdirTemp(o.diskDir, "lunar-bench-"); err != nil {
		return b, err
	}
	b.revision = revision(b.root)
	if err := b.choose(o); err != nil {
		return b, err
	}
	return b, b.build(ctx, o)
}

// choose reads which servers take part.
func (b *bench) choose(o *options) error {
	b.others = map[string]string{}
	for _, s := range o.servers {
		name, command, ok := strings.Cut(s, "=")
		if !ok || strings.TrimSpace(command) == "" || starters[name] != nil {
			return fmt.Errorf("--server %q: want NAME=COMMAND with a name of its own", s)
		}
		b.others[name] = command
		b.otherNames = append(b.otherNames, name)
	}
	b.only = map[string]bool{}
	for _, k := range strings.Split(o.only, ",") {
		if k == "" {
			continue
		}
		if starters[k] == nil && b.others[k] == "" {
			return fmt.Errorf("--only: no server %q", k)
		}
		b.only[k] = true
	}
	return nil
}

// build builds the programs of ours. Without the client or the floor there is no run; a missing server is named in the rows.
func (b *bench) build(ctx context.Context, o *options) error {
	var err error
	if b.floor, err = b.goBuild(ctx, b.root, "floor", "./test/floor"); err != nil {
		return err
	}
	if b.lunarctl = o.lunarctl; b.lunarctl == "" {
		if b.lunarctl, err = b.goBuild(ctx, b.root, "lunarctl", "./cmd/lunarctl"); err != nil {
			return err
		}
	}
	if b.lunard = o.lunard; b.lunard == "" {
		b.lunard, b.missing[lunar] = b.goBuild(ctx, b.root, "lunard", "./cmd/lunard")
	}
	b.gotgt, b.missing[gotgt] = b.goBuild(ctx, filepath.Join(b.root, "test", "peers"), "gotgt", "./gotgt")
	return nil
}

// goBuild builds a command as it is shipped.
func (b *bench) goBuild(ctx context.Context, dir, name, pkg string) (string, error) {
	out := filepath.Join(b.dir, name)
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", out, pkg)
	c.Dir = dir
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w: %s", name, err, strings.TrimSpace(string(msg)))
	}
	return out, nil
}
