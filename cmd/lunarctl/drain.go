package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/admin/grpcd"
)

func (c *cli) targetDrain() *cobra.Command {
	var within time.Duration
	cmd := &cobra.Command{
		Use: "drain TARGET", Short: "Ask the initiators of a target to log out", Args: cobra.ExactArgs(1), ValidArgsFunction: c.complete(c.targetNames),
		Long: `Takes the target offline for logins, asks its initiators to log out, and drops who has not when the time is up. The target stays
offline: "lunarctl target online" lets them in again, "lunarctl target remove" takes it away.`,
		Example: `  lunarctl target drain iqn.2026-11.io.lunar:disk
  lunarctl target drain 1 --within 2m && lunarctl target remove 1`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if within <= 0 || within > grpcd.MaxDrain {
				return fmt.Errorf("--within %v is not above zero and at most %v", within, grpcd.MaxDrain)
			}
			if !cmd.Flags().Changed("timeout") {
				c.timeout = within + defaultTimeout
			}
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				left := func() string {
					// Failing to tell how far it is does not fail the drain.
					t, err := d.target(ctx, args[0], true)
					if err != nil {
						return ""
					}
					return fmt.Sprintf("%d sessions left", t.GetLive().GetSessions())
				}
				var r *api.DrainTargetResponse
				err := c.watch(cmd, "draining "+args[0], left, func() (err error) {
					r, err = d.targets.DrainTarget(ctx, &api.DrainTargetRequest{Target: ref(args[0]), Timeout: durationpb.New(within)})
					return err
				})
				if err != nil {
					return err
				}
				return c.did(cmd, r, "target %s is drained, and offline", args[0])
			})
		},
	}
	cmd.Flags().DurationVar(&within, "within", grpcd.DefaultDrain, "time that initiators have")
	must(cmd.RegisterFlagCompletionFunc("within", cobra.NoFileCompletions))
	return cmd
}
