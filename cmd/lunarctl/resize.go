package main

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/spf13/cobra"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

func (c *cli) lunResize() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "resize TARGET LUN [SIZE]", Short: "Change the size of a LUN while it is used", Args: cobra.RangeArgs(2, 3), ValidArgsFunction: c.complete(c.targetNames, c.lunNumbers),
		Long: `Changes the size of the volume. SIZE is in bytes, with k, M, G or T for binary multiples; +SIZE adds to what it has. Without SIZE, or with
"auto", the size is taken over that the volume has by now, because somebody has changed it behind the daemon's back.

Initiators are told at once; what they make of it is theirs (Linux: iscsiadm -m node -R, and then the file system). Smaller than before
is refused without --force: what is beyond is lost.`,
		Example: `  lunarctl lun resize iqn.2026-11.io.lunar:disk 1 20G
  lunarctl lun resize 1 1 +5G
  # the logical volume was extended with lvextend
  lunarctl lun resize 1 2 auto`,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, n, err := lunArgs(args)
			if err != nil {
				return err
			}
			var to byteSize
			add := false
			if len(args) == 3 && args[2] != "auto" {
				text, plus := strings.CutPrefix(args[2], "+")
				add = plus
				if err := to.Set(text); err != nil {
					return err
				}
				if to == 0 {
					return fmt.Errorf("size %q is nothing; to take over the volume's size say auto", args[2])
				}
			}
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				q := &api.ResizeLunRequest{Target: t, Lun: n, Size: int64(to), Force: force}
				if add {
					r, err := d.luns.GetLun(ctx, &api.GetLunRequest{Target: t, Lun: n})
					if err != nil {
						return err
					}
					if r.GetLive().GetSize() > math.MaxInt64-q.Size {
						return fmt.Errorf("size %q is more than there can be", args[2])
					}
					q.Size += r.GetLive().GetSize()
				}
				var r *api.ResizeLunResponse
				err := c.watch(cmd, "resizing", func() string { return "" }, func() (err error) {
					r, err = d.luns.ResizeLun(ctx, q)
					return err
				})
				if err != nil {
					return err
				}
				return c.did(cmd, r, "target %s LUN %d has %s", args[0], n, exactly(r.GetSize()))
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "even where it becomes smaller")
	return cmd
}
