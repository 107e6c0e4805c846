package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/reflect/protoreflect"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

func newEvents(c *cli) *cobra.Command {
	var kinds []string
	var target string
	var times int
	cmd := &cobra.Command{
		Use: "events", Short: "Tell what happens, as it happens", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Long: "Writes a line for each event from now on, until it is interrupted: logins and their failures, sessions that end, and changes with who made them.\n\nKinds: " + strings.Join(kindNames(), ", ") + ".",
		Example: `  lunarctl events
  lunarctl events --kind session_login,session_logout,login_failed
  lunarctl events --target iqn.2026-11.io.lunar:disk --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := &api.WatchEventsRequest{Target: target}
			for _, name := range kinds {
				k, ok := kindByName(name)
				if !ok {
					return fmt.Errorf("--kind %q is none; see %s --help", name, cmd.CommandPath())
				}
				q.Kinds = append(q.Kinds, k)
			}
			if times < 0 {
				return fmt.Errorf("--times %d is negative", times)
			}
			return c.stream(cmd, cmd.Context(), func(ctx context.Context, d *daemon) error {
				err := d.watch(ctx, q, func() {
					if !c.json {
						note(cmd, "watching")
					}
				}, func(e *api.Event) (more bool, err error) {
					if c.json {
						err = writeJSON(cmd.OutOrStdout(), e, true)
					} else {
						_, err = fmt.Fprintln(cmd.OutOrStdout(), eventLine(e))
					}
					times--
					return times != 0, err
				})
				if ctx.Err() != nil {
					return nil // interrupted: that is how it ends
				}
				return err
			})
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringSliceVar(&kinds, "kind", nil, "only these `KINDS`, with commas between them")
	fs.StringVar(&target, "target", "", "only what concerns the target of this name")
	fs.IntVar(&times, "times", 0, "end after so many events; 0: never")
	must(cmd.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions(kindNames(), cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("target", c.completeFlag(c.targetNames)))
	must(cmd.RegisterFlagCompletionFunc("times", cobra.NoFileCompletions))
	return cmd
}

// kindNames are the kinds of event, in the order of their numbers.
func kindNames() []string {
	var names []string
	values := api.EventKind(0).Descriptor().Values()
	for i := 1; i < values.Len(); i++ {
		names = append(names, kindOf(api.EventKind(values.Get(i).Number())))
	}
	return names
}

func kindByName(name string) (api.EventKind, bool) {
	v := api.EventKind(0).Descriptor().Values().ByName(protoreflect.Name("EVENT_KIND_" + strings.ToUpper(name)))
	if v == nil || v.Number() == 0 {
		return 0, false
	}
	return api.EventKind(v.Number()), true
}

// watch hands on events until act wants no more, ctx ends, or the daemon does; began is called when nothing that happens is missed any more.
func (d *daemon) watch(ctx context.Context, q *api.WatchEventsRequest, began func(), act func(*api.Event) (more bool, err error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := d.events.WatchEvents(ctx, q)
	if err != nil {
		return err
	}
	if _, err := s.Header(); err != nil {
		return err
	}
	began()
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if more, err := act(r.GetEvent()); err != nil {
			return failed(err)
		} else if !more {
			return nil
		}
	}
}

// eventLine is an event for people.
func eventLine(e *api.Event) string {
	s := []string{e.GetTime().AsTime().Local().Format(time.DateTime), kindOf(e.GetKind())}
	if e.GetTarget() != "" {
		s = append(s, e.GetTarget())
	}
	if e.Lun != nil {
		s = append(s, fmt.Sprintf("LUN %d", e.GetLun()))
	}
	if e.GetPeer() != "" {
		s = append(s, "from "+e.GetPeer())
	}
	if e.GetDetail() != "" {
		s = append(s, "("+e.GetDetail()+")")
	}
	if e.GetCaller() != "" {
		s = append(s, "by "+e.GetCaller())
	}
	return printable(strings.Join(s, " "))
}
