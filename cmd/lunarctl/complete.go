package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

// names are the live names that can stand at a place, given the arguments before it. A shell waits for them: there is little time,
// and a daemon that does not answer has none.
type names func(ctx context.Context, d *daemon, args []string) []string

// complete completes arguments, each by its place.
func (c *cli) complete(places ...names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(places) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.ask(cmd, places[len(args)], args), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFlag completes the value of a flag.
func (c *cli) completeFlag(of names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		return c.ask(cmd, of, args), cobra.ShellCompDirectiveNoFileComp
	}
}

func (c *cli) ask(cmd *cobra.Command, of names, args []string) []string {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	conn, err := c.dial()
	if err != nil {
		return nil
	}
	defer conn.Close()
	list := of(ctx, newDaemon(conn), args)
	for i := range list {
		name, what, described := strings.Cut(list[i], "\t")
		if list[i] = printable(name); described {
			list[i] += "\t" + printable(what)
		}
	}
	return list
}

// described is a name with what a shell shows beside it.
func described(name, what string, args ...any) string {
	return cobra.CompletionWithDesc(name, fmt.Sprintf(what, args...))
}

func (c *cli) targetNames(ctx context.Context, d *daemon, _ []string) (out []string) {
	list, err := d.listTargets(ctx, false)
	if err != nil {
		return nil
	}
	for _, t := range list {
		out = append(out, described(t.GetSpec().GetName(), "tid %d, %d LUNs", t.GetSpec().GetTid(), len(t.GetSpec().GetLuns())))
	}
	return out
}

func (c *cli) lunNumbers(ctx context.Context, d *daemon, args []string) (out []string) {
	t, err := d.target(ctx, args[0], false)
	if err != nil {
		return nil
	}
	for _, l := range t.GetSpec().GetLuns() {
		out = append(out, described(strconv.Itoa(int(l.GetNumber())), "%s", l.GetVolume()))
	}
	return out
}

func (c *cli) sessionHandles(ctx context.Context, d *daemon, args []string) (out []string) {
	list, err := d.listSessions(ctx, ref(args[0]))
	if err != nil {
		return nil
	}
	for _, s := range list {
		out = append(out, described(strconv.Itoa(int(s.GetTsih())), "%s", s.GetInitiator()))
	}
	return out
}

// initiatorNames are those that are logged in.
func (c *cli) initiatorNames(ctx context.Context, d *daemon, _ []string) []string {
	return initiators(d.listSessions(ctx, nil))
}

func (c *cli) initiatorNamesOf(ctx context.Context, d *daemon, args []string) []string {
	return initiators(d.listSessions(ctx, ref(args[0])))
}

func initiators(list []*api.SessionInfo, err error) (out []string) {
	if err != nil {
		return nil
	}
	for _, s := range list {
		out = append(out, s.GetInitiator())
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (c *cli) mappedInitiators(ctx context.Context, d *daemon, args []string) (out []string) {
	t, err := d.target(ctx, args[0], false)
	if err != nil {
		return nil
	}
	for _, m := range t.GetSpec().GetLunMaps() {
		out = append(out, m.GetInitiator())
	}
	return out
}

func (c *cli) accountNames(ctx context.Context, d *daemon, _ []string) (out []string) {
	r, err := d.accounts.ListAccounts(ctx, &api.ListAccountsRequest{})
	if err != nil {
		return nil
	}
	for _, a := range r.GetAccounts() {
		out = append(out, a.GetName())
	}
	return out
}

func (c *cli) portalAddresses(ctx context.Context, d *daemon, _ []string) (out []string) {
	r, err := d.portals.ListPortals(ctx, &api.ListPortalsRequest{})
	if err != nil {
		return nil
	}
	for _, p := range r.GetPortals() {
		out = append(out, described(p.GetBound(), "group %d", max(p.GetSpec().GetGroup(), 1)))
	}
	return out
}
