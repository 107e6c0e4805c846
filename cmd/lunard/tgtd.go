package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/admin/tgtipc"
)

// lunard called tgtd has the command line of tgtd 1.0.85, and starts as empty as that does: whoever calls it fills it, with tgt-admin, at each
// start. Only where a folder for it is named does it remember.

// The texts of tgtd, which scripts compare.
const (
	tgtVersion = "1.0.85"
	tgtdHelp   = "Linux SCSI Target framework daemon, version " + tgtVersion + `

Usage: tgtd [OPTION]
-f, --foreground        make the program run in the foreground
-D, --nodaemonize       make the program run in the foreground with logger
-C, --control-port NNNN use port NNNN for the mgmt channel
-t, --nr_iothreads NNNN specify the number of I/O threads
-p, --pid-file filename specify the pid file
-d, --debug debuglevel  print debugging information
-V, --version           print version and exit
-h, --help              display this help and exit
`
	tryHelp = "Try `tgtd --help' for more information."
)

// stateEnv names the folder where a lunard called tgtd remembers.
const stateEnv = "LUNAR_STATE_DIR"

// The exit statuses that tgtd has of errno.
const (
	exitInvalid = 22 // EINVAL
	exitRange   = 34 // ERANGE
)

// An exitError ends a tgtd with a status of its own.
type exitError struct {
	status int
	text   string // lines
}

func (e *exitError) Error() string { return e.text }

// resolveTimeout bounds looking up the portals' names.
const resolveTimeout = 30 * time.Second

// A tgtd is what the command line of tgtd says.
type tgtd struct {
	foreground, nodaemonize bool
	version, help           bool
	control                 string
	threads                 string
	pidFile                 string
	debug                   string
	iscsi, iser             string
	state                   string
	lunar                   []string
}

// isTgtd reports whether the program was called as tgtd.
func isTgtd(argv0 string) bool { return filepath.Base(argv0) == "tgtd" }

// flags are tgtd's, and behind them lunar's own.
func (t *tgtd) flags() *pflag.FlagSet {
	f := pflag.NewFlagSet("tgtd", pflag.ContinueOnError)
	f.Usage = func() {}
	f.BoolVarP(&t.foreground, "foreground", "f", false, "")
	f.BoolVarP(&t.nodaemonize, "nodaemonize", "D", false, "")
	f.StringVarP(&t.control, "control-port", "C", "0", "")
	f.StringVarP(&t.threads, "nr_iothreads", "t", "16", "")
	f.StringVarP(&t.pidFile, "pid-file", "p", "", "")
	f.StringVarP(&t.debug, "debug", "d", "0", "")
	f.BoolVarP(&t.version, "version", "V", false, "")
	f.BoolVarP(&t.help, "help", "h", false, "")
	f.StringVar(&t.iscsi, "iscsi", "", "")
	f.StringVar(&t.iser, "iser", "", "")
	f.StringVar(&t.state, "lunar-state", os.Getenv(stateEnv), "")
	f.StringArrayVar(&t.lunar, "lunar", nil, "")
	words := []string{"foreground", "nodaemonize", "control-port", "nr_iothreads", "pid-file", "debug", "version", "help"}
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		// Words may be cut short, as getopt_long has it.
		found := name
		n := 0
		for _, w := range words {
			if w == name {
				return pflag.NormalizedName(name)
			}
			if name != "" && strings.HasPrefix(w, name) {
				found = w
				n++
			}
		}
		if n == 1 {
			name = found
		}
		return pflag.NormalizedName(name)
	})
	return f
}

// parseTgtd reads tgtd's command line. Like tgtd it takes no notice of words that belong to no option.
func parseTgtd(args []string) (*tgtd, error) {
	t := &tgtd{}
	f := t.flags()
	for _, a := range args {
		if strings.HasPrefix(a, "--iscsi=") || strings.HasPrefix(a, "--iser=") { // drivers' words stand apart
			return nil, &exitError{exitFailed, fmt.Sprintf("'%s' is an unknown option\n%s", a[2:], tryHelp)}
		}
	}
	if err := f.Parse(args); err != nil {
		var unknown *pflag.NotExistError
		if errors.As(err, &unknown) && len(unknown.GetSpecifiedName()) > 1 {
			return nil, &exitError{exitFailed, fmt.Sprintf("'%s' is an unknown option\n%s", unknown.GetSpecifiedName(), tryHelp)}
		}
		return nil, &exitError{exitFailed, fmt.Sprintf("tgtd: %v\n%s", err, tryHelp)}
	}
	for _, n := range []struct {
		letter      byte
		text        string
		least, most int64
	}{{'C', t.control, 0, tgtipc.MaxPort}, {'t', t.threads, 1, 1<<31 - 1}, {'d', t.debug, 0, 1}} {
		if _, err := tgtNumber(n.letter, n.text, n.least, n.most); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// tgtNumber reads a number of tgtd's, after which anything may follow.
func tgtNumber(letter byte, text string, least, most int64) (int, error) {
	n, ok := tgtipc.Number(text)
	switch {
	case !ok || n < 0:
		return 0, &exitError{exitInvalid, fmt.Sprintf("-%c argument value '%s' invalid\n%s", letter, text, tryHelp)}
	case n < least || n > most:
		return 0, &exitError{exitRange, fmt.Sprintf("-%c argument value '%s' out of range\n%s", letter, text, tryHelp)}
	}
	return int(n), nil
}

// options makes lunard's options of tgtd's.
func (t *tgtd) options(ctx context.Context) (*options, error) {
	o := defaults()
	cmd := o.command() // sets the defaults of flags
	for _, arg := range t.lunar {
		if err := cmd.ParseFlags([]string{"--" + arg}); err != nil {
			return nil, &exitError{exitFailed, fmt.Sprintf("tgtd: --lunar %s: %v", arg, err)}
		}
	}
	if t.state != "" {
		o.cfg.StateDir = t.state
	}
	if !cmd.Flags().Changed("log-level") {
		o.logLevel = "info"
	}
	var err error
	if o.tgt.port, err = tgtNumber('C', t.control, 0, tgtipc.MaxPort); err != nil {
		return nil, err
	}
	p, err := tgtipc.ParsePortals(t.iscsi)
	if err != nil {
		return nil, &exitError{exitFailed, "tgtd: --iscsi: " + err.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	for _, s := range p.Addrs {
		addrs, err := tgtipc.ResolvePortal(ctx, s)
		if err != nil {
			return nil, &exitError{exitFailed, "tgtd: --iscsi: " + err.Error()}
		}
		for _, a := range addrs {
			o.portals = append(o.portals, a.String())
		}
	}
	debug, err := tgtNumber('d', t.debug, 0, 1)
	if err != nil {
		return nil, err
	}
	system := p.System()
	o.tgt.edit = func(s *spec.System) error {
		s.Debug = debug == 1
		if system != nil {
			return system(s)
		}
		return nil
	}
	return o, nil
}

// tgtdMain is main of a lunard called tgtd.
func tgtdMain(args []string) int {
	err := runTgtd(args)
	if err == nil {
		return 0
	}
	if e := (*exitError)(nil); errors.As(err, &e) {
		fmt.Fprintln(os.Stderr, e.text)
		return e.status
	}
	fmt.Fprintf(os.Stderr, "tgtd: %v\n", err)
	return exitFailed
}

func runTgtd(args []string) error {
	t, err := parseTgtd(args)
	if err != nil {
		return err
	}
	switch {
	case t.help:
		fmt.Print(tgtdHelp)
		return nil
	case t.version:
		fmt.Println(tgtVersion)
		return nil
	}
	child := os.Getenv(readyEnv) != ""
	if !t.foreground && !t.nodaemonize && !child {
		return daemonize(args)
	}
	o, err := t.options(context.Background())
	if err != nil {
		return err
	}
	if !t.foreground {
		o.syslog = true
	}
	if child {
		d, err := background(t.pidFile)
		if err != nil {
			return err
		}
		defer d.end()
		o.ready = d.ready
	}
	spare()
	return o.run(context.Background())
}

// spare asks the kernel to kill others first when memory runs out, as tgtd does. It may not be allowed to.
func spare() {
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
}
