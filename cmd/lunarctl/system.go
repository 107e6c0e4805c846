package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

func newSystem(c *cli) *cobra.Command {
	return group("system", "Show, set and end the daemon",
		"What concerns the daemon as a whole.",
		`  lunarctl system show
  lunarctl system shutdown`,
		c.systemShow(), c.systemSet(), c.systemOnline(true), c.systemOnline(false), c.systemShutdown())
}

func (c *cli) systemShow() *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show the daemon's state", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Example: `  lunarctl system show
  lunarctl system show --json | jq -r .version`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.system.GetSystem(ctx, &api.GetSystemRequest{})
				if err != nil {
					return err
				}
				return c.show(cmd, r, func(w io.Writer) error { return writeSystem(w, r) })
			})
		},
	}
}

func writeSystem(w io.Writer, r *api.GetSystemResponse) error {
	f := newFacts(w)
	f.add("Version", r.GetVersion())
	f.add("State", onOff(!r.GetSpec().GetOffline(), "online", "offline"))
	f.add("Started", span(max(time.Since(r.GetStarted().AsTime()), 0))+" ago")
	f.add("Targets", r.GetTargets())
	f.add("Sessions", r.GetSessions())
	file := r.GetStateFile()
	if file == "" {
		file = "none: what is set ends with the daemon"
	}
	f.add("State file", file)
	f.add("Debug log", onOff(r.GetSpec().GetDebug(), "on", "off"))
	f.when(r.GetSpec().GetNopInterval() != 0, "Ping every", fmt.Sprintf("%d s, for targets made from now on", r.GetSpec().GetNopInterval()))
	f.when(r.GetSpec().GetNopCount() != 0, "Pings without answer", r.GetSpec().GetNopCount())
	return f.end()
}

func onOff(is bool, on, off string) string {
	if is {
		return on
	}
	return off
}

func (c *cli) updateSystem(cmd *cobra.Command, to *api.System, paths []string, what string) error {
	return c.call(cmd, func(ctx context.Context, d *daemon) error {
		r, err := d.system.UpdateSystem(ctx, &api.UpdateSystemRequest{To: to, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
		if err != nil {
			return err
		}
		return c.did(cmd, r, "%s", what)
	})
}

func (c *cli) systemSet() *cobra.Command {
	var to api.System
	cmd := &cobra.Command{
		Use: "set", Short: "Change settings of the daemon", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Long: "Changes what is given, and leaves the rest. Pings are those of targets that are made from then on; a target's own are set with \"lunarctl target set\".",
		Example: `  lunarctl system set --debug
  lunarctl system set --debug=false
  lunarctl system set --nop-interval 30 --nop-count 3`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var paths []string
			for _, flag := range []string{"debug", "nop-interval", "nop-count"} {
				if cmd.Flags().Changed(flag) {
					paths = append(paths, strings.ReplaceAll(flag, "-", "_"))
				}
			}
			if len(paths) == 0 {
				return fmt.Errorf("nothing to set: give at least one flag; see %s --help", cmd.CommandPath())
			}
			return c.updateSystem(cmd, &to, paths, "changed")
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.BoolVar(&to.Debug, "debug", false, "let the log tell more")
	fs.Int32Var(&to.NopInterval, "nop-interval", 0, "seconds between pings; 0: the daemon's command line decides")
	fs.Int32Var(&to.NopCount, "nop-count", 0, "pings in a row without an answer that end a connection; 0: as above")
	must(cmd.RegisterFlagCompletionFunc("nop-interval", cobra.NoFileCompletions))
	must(cmd.RegisterFlagCompletionFunc("nop-count", cobra.NoFileCompletions))
	return cmd
}

func (c *cli) systemOnline(online bool) *cobra.Command {
	cmd := &cobra.Command{
		Use: "online", Short: "Take connections again", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Long: "New connections are taken again.", Example: "  lunarctl system online",
	}
	what := "the daemon is online"
	if !online {
		what = "the daemon is offline"
		cmd.Use, cmd.Short, cmd.Long, cmd.Example = "offline", "Close new connections at once", "New connections are closed at once. Sessions that are there go on.", "  lunarctl system offline"
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.updateSystem(cmd, &api.System{Offline: !online}, []string{"offline"}, what)
	}
	return cmd
}

func (c *cli) systemShutdown() *cobra.Command {
	var ifEmpty bool
	cmd := &cobra.Command{
		Use: "shutdown", Short: "End the daemon", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Long: "Asks the daemon to end, as SIGTERM does: initiators are asked to log out, what is under way is finished, volumes are flushed and closed. The command ends when that has begun.",
		Example: `  lunarctl system shutdown
  lunarctl system shutdown --if-empty`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.system.Shutdown(ctx, &api.ShutdownRequest{OnlyIfEmpty: ifEmpty})
				if err != nil {
					return err
				}
				return c.did(cmd, r, "the daemon ends")
			})
		},
	}
	cmd.Flags().BoolVar(&ifEmpty, "if-empty", false, "refuse while there are targets")
	return cmd
}

func newVersion(c *cli) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the versions of lunarctl and of the daemon", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Long:    "Shows lunarctl's version, and the daemon's if it answers.",
		Example: "  lunarctl version\n  lunarctl version --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			daemons := ""
			err := c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.system.GetSystem(ctx, &api.GetSystemRequest{})
				daemons = r.GetVersion()
				return err
			})
			if serr := c.show(cmd, object{{"lunarctl", version}, {"lunard", daemons}}, func(w io.Writer) error {
				f := newFacts(w)
				f.add("lunarctl", version)
				f.add("lunard", daemons)
				return f.end()
			}); serr != nil {
				return serr
			}
			return err
		},
	}
}
