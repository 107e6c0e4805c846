package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses.
const (
	exitFailed = 1 // what was asked for was not done, or ended with errors
	exitUsage  = 2
)

// version is set by the build (-ldflags -X main.version=…).
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:])
	stop()
	os.Exit(status)
}

func run(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var failed *failure
	switch {
	case err == nil:
		return 0
	case errors.As(err, &failed):
		fmt.Fprintln(os.Stderr, "lunarctl:", err)
		return exitFailed
	}
	// Everything else is cobra's, or a flag's value.
	fmt.Fprintf(os.Stderr, "lunarctl: %v\n", err)
	return exitUsage
}

// A failure is an error of the work, not of the command line.
type failure struct{ error }

func (f *failure) Unwrap() error { return f.error }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use: "lunarctl", Short: "lunar's tool for administrators", Version: version,
		SilenceErrors: true, SilenceUsage: true,
	}
	root.AddCommand(newBench())
	return root
}
