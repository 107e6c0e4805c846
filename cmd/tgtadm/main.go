package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// The exit statuses that are not an errno of the socket's.
const (
	exitWord  = 1  // an unknown mode or operation
	exitUsage = 22 // every other mistake, and every refusal by the daemon (EINVAL)
)

// version is set by the build (-ldflags -X main.version=…).
var version = "devel"

// tgtVersion is the version of tgt that this command line is that of; scripts compare what --version prints.
const tgtVersion = "1.0.85"

func main() {
	os.Exit(run(os.Args, os.Stdout, os.Stderr))
}

// run is tgtadm called as args[0]; the result is its exit status.
func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 2 && args[1] == "--lunar-version" {
		// Apart from the options, so that it takes part in no abbreviation.
		fmt.Fprintf(stdout, "tgtadm of lunar %s\n", version)
		return 0
	}
	c, err := parse(args)
	switch {
	case err != nil:
	case c.help:
		fmt.Fprintf(stdout, help, tgtVersion)
		return 0
	case c.version:
		fmt.Fprintln(stdout, tgtVersion)
		return 0
	default:
		err = c.check()
		if err == nil {
			err = c.exchange(context.Background(), stdout, stderr)
		}
	}
	return report(err, stderr)
}

// report writes what went wrong and gives the exit status.
func report(err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, err)
	var usage usageError
	var word wordError
	var ipc *ipcError
	var refused *refusedError
	switch {
	case errors.As(err, &usage):
		fmt.Fprintln(stderr, "Try `tgtadm --help' for more information.")
	case errors.As(err, &word):
		return exitWord
	case errors.As(err, &ipc):
		reason(stderr, ipc.why)
		return ipc.status
	case errors.As(err, &refused):
		reason(stderr, refused.reason)
	}
	return exitUsage
}

// reason is the second line, where there is something to say that tgtadm's words do not.
func reason(stderr io.Writer, why string) {
	if why != "" {
		fmt.Fprintf(stderr, "tgtadm: reason: %s\n", why)
	}
}
