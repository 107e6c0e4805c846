package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

const (
	// progressLines is how often progress is told of where nobody watches: in a log, a line is enough for so long.
	progressLines = 10 * time.Second
	barWidth      = 20
)

// worked is a message of work that takes long: progress, or else the result.
type worked[M any] interface {
	*M
	GetProgress() *api.VolumeProgress
}

// work calls for what takes long, tells how far it is, and returns the result. Without --timeout it takes as long as it takes; to interrupt it
// is to cancel it.
func work[M any, P worked[M]](c *cli, cmd *cobra.Command, what string, begin func(ctx context.Context, d *daemon) (grpc.ServerStreamingClient[M], error)) (last P, err error) {
	ctx := cmd.Context()
	if cmd.Flags().Changed("timeout") {
		if c.timeout <= 0 {
			return nil, fmt.Errorf("--timeout %v is not above zero", c.timeout)
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	err = c.stream(cmd, ctx, func(ctx context.Context, d *daemon) error {
		far := &far{cmd: cmd, what: what, lines: !onTerminal(cmd), told: time.Now()}
		return c.watch(cmd, what, far.String, func() error {
			s, err := begin(ctx, d)
			if err != nil {
				return err
			}
			for {
				m, err := s.Recv()
				switch {
				case errors.Is(err, io.EOF) && last == nil:
					return failed(errors.New("the daemon ended the call without a result"))
				case errors.Is(err, io.EOF):
					return nil
				case err != nil:
					return err
				case P(m).GetProgress() != nil:
					far.tell(P(m).GetProgress())
				default:
					last = m
				}
			}
		})
	})
	var f *failure
	if errors.As(err, &f) && ctx.Err() == context.Canceled {
		f.error, f.hint = fmt.Errorf("%s: interrupted", what), "the daemon undoes what was begun; its log says how that went"
	}
	return last, err
}

// far is how far work is.
type far struct {
	cmd         *cobra.Command
	what        string
	lines       bool // nobody watches
	told        time.Time
	done, total atomic.Int64
}

func (f *far) tell(p *api.VolumeProgress) {
	f.done.Store(p.GetDone())
	f.total.Store(p.GetTotal())
	if f.lines && time.Since(f.told) >= progressLines {
		f.told = time.Now()
		fmt.Fprintln(f.cmd.ErrOrStderr(), printable(f.what+": "+share(p.GetDone(), p.GetTotal())))
	}
}

// String is a bar.
func (f *far) String() string {
	done, total := f.done.Load(), f.total.Load()
	if total <= 0 {
		return ""
	}
	full := int(float64(barWidth) * min(max(float64(done)/float64(total), 0), 1))
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "] " + share(done, total)
}

// share is done of total for people.
func share(done, total int64) string {
	if total <= 0 {
		return "under way"
	}
	return fmt.Sprintf("%.0f %%", 100*min(max(float64(done)/float64(total), 0), 1))
}

// collect gets all messages of a list.
func collect[M, V any](s grpc.ServerStreamingClient[M], err error, part func(*M) []V) (all []V, _ error) {
	if err != nil {
		return nil, err
	}
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, part(m)...)
	}
}
