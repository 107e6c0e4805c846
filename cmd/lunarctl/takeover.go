package main

import (
	"context"

	"github.com/spf13/cobra"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

func (c *cli) lunTakeover() *cobra.Command {
	return &cobra.Command{
		Use: "takeover TARGET LUN", Short: "Shut out whoever else has the volume, and have it alone", Args: cobra.ExactArgs(2), ValidArgsFunction: c.complete(c.targetNames, c.lunNumbers),
		Long: `For a volume that another daemon has, or had when it died. When the command ends, nothing that the other had under way will be applied any more, and
the LUN has the volume: one that was there without it (its volume was busy) is online, and initiators go on.

The other, if it lives, finds its LUN "fenced": it answers NOT READY and does not come back by itself, so that two daemons do not take a volume
from each other for ever. "lunarctl lun takeover" there takes it back.

It is refused where the volume's engine cannot promise that: "lunarctl store list" says which can ("take over").`,
		Example: `  lunarctl lun takeover iqn.2026-11.io.lunar:disk 1`,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, n, err := lunArgs(args)
			if err != nil {
				return err
			}
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.luns.TakeOverLun(ctx, &api.TakeOverLunRequest{Target: t, Lun: n})
				if err != nil {
					return err
				}
				return c.did(cmd, r, "target %s LUN %d has taken its volume over", args[0], n)
			})
		},
	}
}
