package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

func newStore(c *cli) *cobra.Command {
	return group("store", "Show what kinds of volume can be served", "A volume is named by a URI; its scheme says which driver serves it.", "  lunarctl store list", &cobra.Command{
		Use: "list", Short: "List the drivers, what they can, and how their volumes are named", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Long: `Lists the drivers: whether each is built in, what is true of all its volumes (traits), what can be done with them besides serving them (volume, snapshot and clone
commands), and how they are named, with every option.`,
		Example: "  lunarctl store list\n  lunarctl store list --json | jq -r '.[] | select(.can | index(\"snapshot\")) | .scheme'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.system.ListDrivers(ctx, &api.ListDriversRequest{})
				if err != nil {
					return err
				}
				return c.show(cmd, r.GetDrivers(), func(w io.Writer) error { return writeStores(w, r.GetDrivers()) })
			})
		},
	})
}

// writeStores writes a table of what drivers are and can, and below it how volumes are named.
func writeStores(w io.Writer, list []*api.Driver) error {
	t := newTable(w, "SCHEME", "BUILT IN", "TRAITS", "CAN")
	for _, x := range list {
		t.row(x.GetScheme(), yesNo(x.GetAbsent() == ""), strings.Join(x.GetTraits(), ","), strings.Join(x.GetCan(), ","))
	}
	if err := t.end(); err != nil {
		return err
	}
	for _, x := range list {
		if _, err := fmt.Fprintf(w, "\n%s\n", printable(x.GetHelp())); err != nil {
			return err
		}
		for _, line := range []struct{ name, text string }{{"options", strings.Join(x.GetOptions(), ", ")}, {"not built in", x.GetAbsent()}} {
			if line.text == "" {
				continue
			}
			if _, err := fmt.Fprintf(w, "  %s: %s\n", line.name, printable(line.text)); err != nil {
				return err
			}
		}
	}
	return nil
}
