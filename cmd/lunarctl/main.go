package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses: docs/lunarctl.md and exitHelp have them, too.
const (
	exitFailed   = 1 // what was asked for was not done, or ended with errors
	exitUsage    = 2 // the command line, or a file that it names, makes no sense
	exitNotFound = 3
	exitExists   = 4
	exitRefused  = 5 // what is there stands against it; --force may help
	exitNoServer = 6
	exitTimeout  = 7
)

const exitHelp = `Exit status: 0 done; 1 failed; 2 the command line, or a file that it names, is wrong; 3 something that it names is not there;
4 it is there already; 5 refused for what is there (sessions, commands under way; --force may help); 6 no daemon could be
reached; 7 it took too long.`

// version is set by the build (-ldflags -X main.version=…).
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	cmd, err := root.ExecuteContextC(ctx)
	var failed *failure
	switch {
	case err == nil:
		return 0
	case errors.As(err, &failed):
		for _, line := range strings.Split(failed.Error(), "\n") { // a file may have many mistakes
			fmt.Fprintln(errOut, "lunarctl:", printable(line))
		}
		if failed.hint != "" {
			fmt.Fprintln(errOut, "hint:", printable(failed.hint))
		}
		return failed.status
	}
	// Everything else is cobra's, or a flag's value.
	fmt.Fprintln(errOut, "lunarctl:", printable(err.Error()))
	var count *countError
	switch {
	case !errors.As(err, &count) && !strings.HasPrefix(err.Error(), "unknown "):
	case cmd == root:
		fmt.Fprintln(errOut, "hint: see lunarctl --help")
	default:
		fmt.Fprintf(errOut, "hint: %s; see %s --help\n", strings.TrimSuffix(cmd.UseLine(), " [flags]"), cmd.CommandPath())
	}
	return exitUsage
}

// A failure is an error of the work, not of the command line.
type failure struct {
	error
	status int
	hint   string // what to do, or empty
}

func (f *failure) Unwrap() error { return f.error }

// A countError is a wrong number of arguments: the command's usage says what it wants.
type countError struct{ error }

// explainCounts has all commands below cmd say what is too much or too little, not how many that are.
func explainCounts(cmd *cobra.Command) {
	if check := cmd.Args; check != nil && cmd.Runnable() && !cmd.HasSubCommands() {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			var own *countError
			if err == nil || errors.As(err, &own) {
				return err
			}
			most := len(args)
			for most > 0 && check(cmd, args[:most]) != nil {
				most--
			}
			switch {
			case most > 0 || len(args) > 0 && check(cmd, nil) == nil:
				return &countError{fmt.Errorf("%q is an argument too many", args[most])}
			case len(args) == 0:
				return &countError{errors.New("arguments are missing")}
			}
			return &countError{fmt.Errorf("an argument is missing behind %q", args[len(args)-1])}
		}
	}
	for _, below := range cmd.Commands() {
		explainCounts(below)
	}
}

// failed is a failure without more ado.
func failed(err error) error { return &failure{error: err, status: exitFailed} }

const rootHelp = `lunarctl administers a running lunard, and puts iSCSI targets under load (bench).

The daemon is looked for on its socket (--server unix:PATH, LUNAR_SERVER), or, with certificates, over the network (--server
tcp:HOST:PORT). Targets are named by their iSCSI name or by their number (tid). What is set is saved by the daemon before the command
ends, and is there after a restart.

Tables are for people and may change; with --json the output is for programs: its field names are those of lunar's API (docs/api.md) and stay.

` + exitHelp

const rootExamples = `  # a first disk, for one initiator
  lunarctl target add iqn.2026-11.io.lunar:disk
  lunarctl lun add iqn.2026-11.io.lunar:disk 1 'file:///srv/disk.img?size=10G'
  lunarctl acl add iqn.2026-11.io.lunar:disk --initiator iqn.1993-08.org.debian:01:host

  # what is there, and what goes on
  lunarctl target list
  lunarctl session list
  lunarctl stats --watch`

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use: "lunarctl", Short: "lunar's tool for administrators", Long: rootHelp, Example: rootExamples, Version: version,
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c := &cli{}
	c.flags(root)
	root.AddCommand(newTarget(c), newLun(c), newVolume(c), newSnapshot(c), newClone(c), newPortal(c), newACL(c), newAccount(c), newSession(c), newStats(c), newEvents(c), newConfig(c), newStore(c), newSystem(c),
		newBench(), newVersion(c), newManual())
	explainCounts(root)
	return root
}

// group is a command that only has others below it.
func group(use, short, long, example string, below ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%s has no command %q; see %[1]s --help", cmd.CommandPath(), args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(below...)
	return cmd
}
