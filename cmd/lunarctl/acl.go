package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

func newACL(c *cli) *cobra.Command {
	return group("acl", "Say who may use a target, and what they see of it",
		`Rules say who may log in: an initiator that one rule admits, and the first that does gives the rights. A rule wants everything that it
names. A target without a rule lets nobody in.

LUN maps ("acl map") say which LUNs an initiator sees, and under which numbers.`,
		`  lunarctl acl list iqn.2026-11.io.lunar:disk
  lunarctl acl add iqn.2026-11.io.lunar:disk --initiator iqn.1993-08.org.debian:01:host`,
		c.aclList(), c.aclAdd(), c.aclRemove(),
		group("map", "Say which LUNs an initiator sees",
			"The first map whose initiator matches decides; where none does, an initiator sees every LUN under its own number.",
			"  lunarctl acl map list iqn.2026-11.io.lunar:disk", c.mapList(), c.mapAdd(), c.mapRemove()))
}

func (c *cli) aclList() *cobra.Command {
	return &cobra.Command{
		Use: "list TARGET", Short: "List the rules of a target", Args: cobra.ExactArgs(1), ValidArgsFunction: c.complete(c.targetNames),
		Example: `  lunarctl acl list iqn.2026-11.io.lunar:disk
  lunarctl acl list 1 --json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				t, err := d.target(ctx, args[0], false)
				if err != nil {
					return err
				}
				return c.show(cmd, t.GetSpec().GetAccess(), func(w io.Writer) error { return writeRules(w, t.GetSpec().GetAccess()) })
			})
		},
	}
}

func writeRules(w io.Writer, rules []*api.Rule) error {
	t := newTable(w, "POSITION", "INITIATOR", "ADDRESS", "RIGHTS")
	for i, r := range rules {
		rights := []string{"read"}
		if !r.GetReadOnly() {
			rights = append(rights, "write")
		}
		if !r.GetNoReset() {
			rights = append(rights, "reset")
		}
		t.row(i, anything(r.GetInitiator()), anything(r.GetAddress()), strings.Join(rights, ","))
	}
	return t.end()
}

func anything(s string) string {
	if s == "" {
		return "any"
	}
	return s
}

// ruleFlags name a rule.
type ruleFlags struct{ initiator, address string }

func (f *ruleFlags) add(c *cli, cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&f.initiator, "initiator", "", "initiator name; * and ? as in file names")
	fs.StringVar(&f.address, "address", "", "IP address or network of the initiator, as 192.0.2.0/24, or ALL")
	must(cmd.RegisterFlagCompletionFunc("initiator", c.completeFlag(c.initiatorNames)))
	must(cmd.RegisterFlagCompletionFunc("address", cobra.NoFileCompletions))
}

func (f *ruleFlags) check() error {
	if f.initiator == "" && f.address == "" {
		return errors.New("give --initiator, --address or both; --address ALL stands for everybody")
	}
	return nil
}

// aclArgs takes a target alone, and tells who puts whom behind it, as tgtadm's habit is, how that is said.
func aclArgs(cmd *cobra.Command, args []string) error {
	if len(args) >= 2 {
		flag := "--initiator"
		if args[1] == "ALL" || strings.Trim(args[1], "0123456789abcdefABCDEF.:/[]") == "" {
			flag = "--address"
		}
		return &countError{fmt.Errorf("who it is about is named by a flag: %s %s %s %s", cmd.CommandPath(), args[0], flag, args[1])}
	}
	return cobra.ExactArgs(1)(cmd, args)
}

func (c *cli) aclAdd() *cobra.Command {
	var f ruleFlags
	var noReset, readOnly, allowExisting bool
	var position uint32
	cmd := &cobra.Command{
		Use: "add TARGET", Short: "Let initiators in", Args: aclArgs, ValidArgsFunction: c.complete(c.targetNames),
		Long: "Adds a rule: the initiators that it admits may log in. The first rule that admits an initiator gives its rights.",
		Example: `  lunarctl acl add iqn.2026-11.io.lunar:disk --initiator iqn.1993-08.org.debian:01:host
  # everybody of a network may read
  lunarctl acl add 1 --address 192.0.2.0/24 --read-only
  # both have to hold
  lunarctl acl add 1 --initiator 'iqn.1998-01.com.vmware:*' --address 192.0.2.7
  lunarctl acl add 1 --address ALL`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			q := &api.AddRuleRequest{Target: ref(args[0]), Rule: &api.Rule{Initiator: f.initiator, Address: f.address, NoReset: noReset, ReadOnly: readOnly}, AllowExisting: allowExisting}
			if cmd.Flags().Changed("position") {
				q.Position = &position
			}
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.access.AddRule(ctx, q)
				if err != nil {
					return err
				}
				return c.did(cmd, r, "target %s: rule %s", args[0], made(r.GetExisted()))
			})
		},
	}
	f.add(c, cmd)
	fs := cmd.Flags()
	fs.BoolVar(&readOnly, "read-only", false, "refuse their writes")
	fs.BoolVar(&noReset, "no-reset", false, "refuse target resets and other functions that end the tasks of other initiators")
	fs.Uint32Var(&position, "position", 0, "its place, 0 for the first (default: behind the last)")
	fs.BoolVar(&allowExisting, "allow-existing", false, "that the same rule is there already is no error")
	must(cmd.RegisterFlagCompletionFunc("position", cobra.NoFileCompletions))
	return cmd
}

func (c *cli) aclRemove() *cobra.Command {
	var f ruleFlags
	var missingOK bool
	cmd := &cobra.Command{
		Use: "remove TARGET", Aliases: []string{"rm", "delete"}, Short: "Take a rule away", Args: aclArgs, ValidArgsFunction: c.complete(c.targetNames),
		Long: `Takes the rule away that names exactly this. Sessions that it let in go on: "lunarctl session close" ends them.`,
		Example: `  lunarctl acl remove iqn.2026-11.io.lunar:disk --initiator iqn.1993-08.org.debian:01:host
  lunarctl acl remove 1 --address ALL --missing-ok`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.access.RemoveRule(ctx, &api.RemoveRuleRequest{Target: ref(args[0]), Rule: &api.Rule{Initiator: f.initiator, Address: f.address}, MissingOk: missingOK})
				if err != nil {
					return err
				}
				if err := c.did(cmd, r, "target %s: rule %s", args[0], gone(r.GetMissing())); err != nil {
					return err
				}
				if len(r.GetRules()) == 0 {
					note(cmd, "the target has no rule any more: nobody may log in")
				}
				return nil
			})
		},
	}
	f.add(c, cmd)
	cmd.Flags().BoolVar(&missingOK, "missing-ok", false, "that there is none is no error")
	return cmd
}

func (c *cli) mapList() *cobra.Command {
	return &cobra.Command{
		Use: "list TARGET", Short: "List the LUN maps of a target", Args: cobra.ExactArgs(1), ValidArgsFunction: c.complete(c.targetNames),
		Example: "  lunarctl acl map list iqn.2026-11.io.lunar:disk",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				t, err := d.target(ctx, args[0], false)
				if err != nil {
					return err
				}
				return c.show(cmd, t.GetSpec().GetLunMaps(), func(w io.Writer) error { return writeMaps(w, t.GetSpec().GetLunMaps()) })
			})
		},
	}
}

func writeMaps(w io.Writer, maps []*api.LunMap) error {
	t := newTable(w, "INITIATOR", "SEES", "LUN")
	for _, m := range maps {
		if len(m.GetLuns()) == 0 {
			t.row(m.GetInitiator(), "nothing", "")
		}
		for _, l := range m.GetLuns() {
			t.row(m.GetInitiator(), l.GetAs(), l.GetLun())
		}
	}
	return t.end()
}

func (c *cli) mapAdd() *cobra.Command {
	var allowExisting bool
	cmd := &cobra.Command{
		Use: "add TARGET INITIATOR [AS=]LUN…", Short: "Show LUNs to an initiator", Args: cobra.MinimumNArgs(2), ValidArgsFunction: c.complete(c.targetNames, c.initiatorNamesOf),
		Long: `Adds LUNs to an initiator's map, and makes the map where there is none: from then on the initiator sees what is in it, and nothing else.
Without a LUN the map is empty, and the initiator sees the controller alone.`,
		Example: `  # one host sees LUN 5 as its LUN 1, and LUN 2 as what it is
  lunarctl acl map add iqn.2026-11.io.lunar:disk iqn.1993-08.org.debian:01:host 1=5 2
  # all others see nothing: maps are asked in their order
  lunarctl acl map add iqn.2026-11.io.lunar:disk '*'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			q := &api.AddLunMappingRequest{Target: ref(args[0]), Initiator: args[1], AllowExisting: allowExisting}
			for _, s := range args[2:] {
				as, lun, ok := strings.Cut(s, "=")
				if !ok {
					lun = as
				}
				a, err := number("LUN", as, maxLUN)
				if err != nil {
					return fmt.Errorf("%q: %w", s, err)
				}
				l, err := number("LUN", lun, maxLUN)
				if err != nil {
					return fmt.Errorf("%q: %w", s, err)
				}
				q.Luns = append(q.Luns, &api.MappedLun{As: a, Lun: l})
			}
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.access.AddLunMapping(ctx, q)
				if err != nil {
					return err
				}
				return c.did(cmd, r, "target %s: LUN map of %s changed", args[0], args[1])
			})
		},
	}
	cmd.Flags().BoolVar(&allowExisting, "allow-existing", false, "that it is there already is no error")
	return cmd
}

func (c *cli) mapRemove() *cobra.Command {
	var missingOK bool
	cmd := &cobra.Command{
		Use: "remove TARGET INITIATOR [AS…]", Aliases: []string{"rm", "delete"}, Short: "Take LUNs out of a map, or a map away", Args: cobra.MinimumNArgs(2),
		ValidArgsFunction: c.complete(c.targetNames, c.mappedInitiators),
		Long:              "Takes the numbers that are named out of an initiator's map; without a number the whole map.",
		Example: `  lunarctl acl map remove iqn.2026-11.io.lunar:disk iqn.1993-08.org.debian:01:host 1
  lunarctl acl map remove iqn.2026-11.io.lunar:disk '*'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			q := &api.RemoveLunMappingRequest{Target: ref(args[0]), Initiator: args[1], MissingOk: missingOK}
			for _, s := range args[2:] {
				n, err := number("LUN", s, maxLUN)
				if err != nil {
					return err
				}
				q.As = append(q.As, n)
			}
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.access.RemoveLunMapping(ctx, q)
				if err != nil {
					return err
				}
				return c.did(cmd, r, "target %s: LUN map of %s changed", args[0], args[1])
			})
		},
	}
	cmd.Flags().BoolVar(&missingOK, "missing-ok", false, "that it is not there is no error")
	return cmd
}
