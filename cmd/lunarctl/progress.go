package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

// Progress of work that takes long is told from progressAfter on, and every progressEvery.
const (
	progressAfter = time.Second
	progressEvery = 500 * time.Millisecond
)

// watch does something, and meanwhile tells on a terminal how long it has taken, and how far it is.
func (c *cli) watch(cmd *cobra.Command, what string, far func() string, do func() error) error {
	if !onTerminal(cmd) {
		return do()
	}
	f := cmd.ErrOrStderr()
	done := make(chan error, 1)
	go func() { done <- do() }()
	begun := time.Now()
	next := time.NewTimer(progressAfter)
	defer next.Stop()
	told := false
	for {
		select {
		case err := <-done:
			if told {
				fmt.Fprint(f, "\r\x1b[K")
			}
			return err
		case <-next.C:
			text := far()
			if text != "" {
				text = ", " + text
			}
			// The line is written over the one before.
			fmt.Fprintf(f, "\r%s: %s%s\x1b[K", printable(what), span(time.Since(begun)), printable(text))
			told = true
			next.Reset(progressEvery)
		}
	}
}

// applyTimeout is what ConfigService.ApplyDocument has where --timeout does not say.
const applyTimeout = 15 * time.Minute

// follow counts the changes that the daemon tells of, for progress, until stop. Not to hear of them is no reason to fail.
func (c *cli) follow(ctx context.Context, cmd *cobra.Command, d *daemon, n *atomic.Int64) (stop func()) {
	if !onTerminal(cmd) {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = d.watch(ctx, &api.WatchEventsRequest{}, func() {}, func(e *api.Event) (bool, error) {
			if e.GetCaller() != "" {
				n.Add(1)
			}
			return true, nil
		})
	}()
	return func() {
		cancel()
		<-done
	}
}

// onTerminal reports whether somebody watches.
func onTerminal(cmd *cobra.Command) bool {
	f, ok := cmd.ErrOrStderr().(*os.File)
	return ok && isTerminal(f)
}
