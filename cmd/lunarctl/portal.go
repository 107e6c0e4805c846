package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

func newPortal(c *cli) *cobra.Command {
	return group("portal", "List, open and close the addresses that initiators connect to",
		"A portal is an address to listen on. Portals of one group are one target port; multipath wants a group for each network.",
		`  lunarctl portal list
  lunarctl portal add 192.0.2.10:3260`,
		c.portalList(), c.portalAdd(), c.portalRemove())
}

func (c *cli) portalList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List portals", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Example: `  lunarctl portal list
  lunarctl portal list --json | jq -r '.[].bound'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.portals.ListPortals(ctx, &api.ListPortalsRequest{})
				if err != nil {
					return err
				}
				return c.show(cmd, r.GetPortals(), func(w io.Writer) error {
					t := newTable(w, "ADDRESS", "BOUND", "GROUP", "ADVERTISE")
					for _, p := range r.GetPortals() {
						t.row(p.GetSpec().GetAddress(), p.GetBound(), max(p.GetSpec().GetGroup(), 1), p.GetSpec().GetAdvertise())
					}
					return t.end()
				})
			})
		},
	}
}

func (c *cli) portalAdd() *cobra.Command {
	var p api.Portal
	var group uint16
	var allowExisting bool
	cmd := &cobra.Command{
		Use: "add ADDR:PORT", Short: "Listen on one more address", Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		Long: "Listens on one more address. 0.0.0.0 and [::] stand for every address of IPv4 and of IPv6; port 0 takes a free one.",
		Example: `  lunarctl portal add 192.0.2.10:3260
  lunarctl portal add '[2001:db8::10]:3260' --group 2
  # behind a translation of addresses
  lunarctl portal add 10.0.0.5:3260 --advertise 198.51.100.1:3260`,
		RunE: func(cmd *cobra.Command, args []string) error {
			p.Address, p.Group = args[0], uint32(group)
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.portals.AddPortal(ctx, &api.AddPortalRequest{Portal: &p, AllowExisting: allowExisting})
				if err != nil {
					return err
				}
				return c.did(cmd, r, "portal %s %s", r.GetPortal().GetBound(), made(r.GetExisted()))
			})
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.Uint16Var(&group, "group", 1, "target portal group")
	fs.StringVar(&p.Advertise, "advertise", "", "`HOST:PORT` that discovery tells instead")
	fs.BoolVar(&allowExisting, "allow-existing", false, "that it is there already is no error")
	must(cmd.RegisterFlagCompletionFunc("group", cobra.NoFileCompletions))
	must(cmd.RegisterFlagCompletionFunc("advertise", cobra.NoFileCompletions))
	return cmd
}

func (c *cli) portalRemove() *cobra.Command {
	var missingOK bool
	cmd := &cobra.Command{
		Use: "remove ADDR:PORT", Aliases: []string{"rm", "delete"}, Short: "Stop to listen on an address", Args: cobra.ExactArgs(1), ValidArgsFunction: c.complete(c.portalAddresses),
		Long:    "Stops to listen on an address. Sessions that came in there go on.",
		Example: "  lunarctl portal remove 192.0.2.10:3260",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.portals.RemovePortal(ctx, &api.RemovePortalRequest{Address: args[0], MissingOk: missingOK})
				if err != nil {
					return err
				}
				return c.did(cmd, r, "portal %s %s", args[0], gone(r.GetMissing()))
			})
		},
	}
	cmd.Flags().BoolVar(&missingOK, "missing-ok", false, "that there is none is no error")
	return cmd
}
