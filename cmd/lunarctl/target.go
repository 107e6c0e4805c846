package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

func newTarget(c *cli) *cobra.Command {
	return group("target", "List, make, change and remove targets",
		"A target is what initiators log in to. It is named by its iSCSI name or by its number (tid).",
		`  lunarctl target list
  lunarctl target show iqn.2026-11.io.lunar:disk`,
		c.targetList(), c.targetShow(), c.targetAdd(), c.targetSet(), c.targetRemove(), c.targetDrain(), c.targetOnline(true), c.targetOnline(false))
}

func (c *cli) targetList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List targets", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Example: `  lunarctl target list
  # names alone, for a script
  lunarctl target list --json | jq -r '.[].spec.name'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				list, err := d.listTargets(ctx, true)
				if err != nil {
					return err
				}
				return c.show(cmd, list, func(w io.Writer) error {
					t := newTable(w, "TID", "NAME", "STATE", "LUNS", "SIZE", "SESSIONS", "ALIAS")
					for _, x := range list {
						t.row(x.GetSpec().GetTid(), x.GetSpec().GetName(), targetState(x), len(x.GetSpec().GetLuns()), size(totalSize(x)), x.GetLive().GetSessions(), x.GetSpec().GetAlias())
					}
					return t.end()
				})
			})
		},
	}
}

func targetState(t *api.TargetState) string {
	switch {
	case t.GetSpec().GetOffline():
		return "offline"
	case t.GetLive() != nil && !t.GetLive().GetReady():
		return "not ready"
	}
	return "online"
}

func totalSize(t *api.TargetState) (n int64) {
	for _, l := range t.GetLive().GetLuns() {
		n += l.GetSize()
	}
	return n
}

func (c *cli) targetShow() *cobra.Command {
	return &cobra.Command{
		Use: "show TARGET", Short: "Show everything of a target", Args: cobra.ExactArgs(1), ValidArgsFunction: c.complete(c.targetNames),
		Example: `  lunarctl target show iqn.2026-11.io.lunar:disk
  lunarctl target show 1 --json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				t, err := d.target(ctx, args[0], true)
				if err != nil {
					return err
				}
				return c.show(cmd, t, func(w io.Writer) error { return writeTarget(w, t) })
			})
		},
	}
}

func writeTarget(w io.Writer, t *api.TargetState) error {
	s := t.GetSpec()
	f := newFacts(w)
	f.add("Target", s.GetName())
	f.add("TID", s.GetTid())
	f.add("State", targetState(t))
	f.add("Alias", s.GetAlias())
	f.add("Sessions", t.GetLive().GetSessions())
	f.add("Uptime", span(t.GetLive().GetUptime().AsDuration()))
	f.add("Incoming accounts", strings.Join(s.GetAuth().GetIncoming(), ", "))
	f.add("Outgoing account", s.GetAuth().GetOutgoing())
	f.when(s.GetExactNames(), "Initiator names", "compared byte by byte")
	for _, k := range slices.Sorted(maps.Keys(s.GetParams())) {
		f.add(k, s.GetParams()[k])
	}
	f.when(s.GetNopInterval() != 0, "Ping every", fmt.Sprintf("%d s", s.GetNopInterval()))
	f.when(s.GetNopCount() != 0, "Pings without answer", s.GetNopCount())
	if r := s.GetRedirect(); r.GetAddress() != "" {
		kind := "temporary"
		if r.GetPermanent() {
			kind = "permanent"
		}
		f.add("Redirect", fmt.Sprintf("%s port %d, %s", r.GetAddress(), redirectPort(r), kind))
	}
	f.add("Portal groups", numbers(s.GetPortalGroups()))
	f.when(s.GetNoController(), "Controller", "none")
	if err := f.end(); err != nil {
		return err
	}
	fmt.Fprintln(w, "\nLUNs:")
	if err := writeLuns(w, []*api.TargetState{t}, false); err != nil {
		return err
	}
	fmt.Fprintln(w, "\nAccess:")
	if err := writeRules(w, s.GetAccess()); err != nil {
		return err
	}
	if len(s.GetLunMaps()) == 0 {
		return nil
	}
	fmt.Fprintln(w, "\nLUN maps:")
	return writeMaps(w, s.GetLunMaps())
}

func redirectPort(r *api.Redirect) int32 {
	if r.GetPort() == 0 {
		return 3260
	}
	return r.GetPort()
}

func numbers(list []uint32) string {
	var s []string
	for _, n := range list {
		s = append(s, strconv.FormatUint(uint64(n), 10))
	}
	return strings.Join(s, ", ")
}

// targetFlags are what of a target can be set when it is made and later.
type targetFlags struct {
	alias        string
	nopInterval  int32
	nopCount     int32
	params       map[string]string
	groups       []uint
	exact        bool
	noController bool
	redirect     string
	permanent    bool
}

func (f *targetFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&f.alias, "alias", "", "TargetAlias, shown by initiators")
	fs.StringToStringVar(&f.params, "param", nil, "`KEY=VALUE` of a negotiation key, such as FirstBurstLength=65536; repeatable")
	fs.Int32Var(&f.nopInterval, "nop-interval", 0, "seconds between pings; 0: the daemon's")
	fs.Int32Var(&f.nopCount, "nop-count", 0, "pings in a row without an answer that end a connection; 0: the daemon's")
	fs.UintSliceVar(&f.groups, "portal-group", nil, "`N[,N…]`: the portal groups that lead to the target; 0: all")
	fs.BoolVar(&f.exact, "exact-names", false, "compare initiator names byte by byte, as tgt does")
	fs.BoolVar(&f.noController, "no-controller", false, "no controller at LUN 0: it is free for a disk")
	fs.StringVar(&f.redirect, "redirect", "", "`HOST[:PORT]` that logins are sent to instead; empty: none")
	fs.BoolVar(&f.permanent, "redirect-permanent", false, "tell initiators to remember the new place")
	for _, name := range []string{"alias", "param", "nop-interval", "nop-count", "portal-group", "redirect"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
}

// message is what the flags say, and the names of the fields whose flags were given.
func (f *targetFlags) message(cmd *cobra.Command) (*api.Target, []string, error) {
	t := &api.Target{Alias: f.alias, NopInterval: f.nopInterval, NopCount: f.nopCount, ExactNames: f.exact, NoController: f.noController}
	for _, g := range f.groups {
		if g > 65535 {
			return nil, nil, fmt.Errorf("--portal-group %d is not within 1-65535", g)
		}
		if g != 0 {
			t.PortalGroups = append(t.PortalGroups, uint32(g))
		}
	}
	if f.redirect != "" {
		host, port, err := hostPort(f.redirect)
		if err != nil {
			return nil, nil, fmt.Errorf("--redirect: %w", err)
		}
		t.Redirect = &api.Redirect{Address: host, Port: port, Permanent: f.permanent}
	} else if f.permanent {
		return nil, nil, fmt.Errorf("--redirect-permanent wants --redirect")
	}
	var paths []string
	for _, x := range []struct{ flag, field string }{
		{"alias", "alias"}, {"nop-interval", "nop_interval"}, {"nop-count", "nop_count"}, {"portal-group", "portal_groups"},
		{"exact-names", "exact_names"}, {"no-controller", "no_controller"}, {"redirect", "redirect"},
	} {
		if cmd.Flags().Changed(x.flag) {
			paths = append(paths, x.field)
		}
	}
	return t, paths, nil
}

// hostPort reads HOST[:PORT], IPv6 in brackets.
func hostPort(s string) (host string, port int32, err error) {
	host = s
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		n, err := strconv.ParseUint(s[i+1:], 10, 16)
		if err != nil || n == 0 {
			return "", 0, fmt.Errorf("%q has no port within 1-65535", s)
		}
		host, port = s[:i], int32(n)
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if host == "" {
		return "", 0, fmt.Errorf("%q is not HOST[:PORT]", s)
	}
	return host, port, nil
}

func (c *cli) targetAdd() *cobra.Command {
	var f targetFlags
	var tid int32
	var offline, allowExisting bool
	var initiators, addresses, luns []string
	cmd := &cobra.Command{
		Use: "add NAME", Short: "Make a target", Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		Long: `Makes a target, with LUNs and access rules if they are given: all of it or nothing.

A target without a rule lets nobody in: give --initiator or --address, here or later with "lunarctl acl add".`,
		Example: `  # a target with a disk of 10 GiB in a file, for one initiator
  lunarctl target add iqn.2026-11.io.lunar:disk --lun '1=file:///srv/disk.img?size=10G' --initiator iqn.1993-08.org.debian:01:host

  # for a whole network
  lunarctl target add iqn.2026-11.io.lunar:pool --lun 1=file:///dev/vg0/pool --address 192.0.2.0/24

  # empty, with the tid that a script expects; harmless when it is repeated
  lunarctl target add iqn.2026-11.io.lunar:later --tid 7 --allow-existing`,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, _, err := f.message(cmd)
			if err != nil {
				return err
			}
			t.Name, t.Tid, t.Offline, t.Params = args[0], tid, offline, f.params
			for _, i := range initiators {
				t.Access = append(t.Access, &api.Rule{Initiator: i})
			}
			for _, a := range addresses {
				t.Access = append(t.Access, &api.Rule{Address: a})
			}
			for _, l := range luns {
				n, volume, ok := strings.Cut(l, "=")
				if !ok || volume == "" {
					return fmt.Errorf("--lun %q is not LUN=VOLUME", l)
				}
				number, err := number("--lun", n, maxLUN)
				if err != nil {
					return err
				}
				t.Luns = append(t.Luns, &api.Lun{Number: number, Volume: volume})
			}
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.targets.AddTarget(ctx, &api.AddTargetRequest{Target: t, AllowExisting: allowExisting})
				if err != nil {
					return err
				}
				if err := c.did(cmd, r, "target %s %s, tid %d", r.GetTarget().GetName(), made(r.GetExisted()), r.GetTarget().GetTid()); err != nil {
					return err
				}
				if len(r.GetTarget().GetAccess()) == 0 {
					note(cmd, "nobody may use it yet: lunarctl acl add %s --initiator NAME, or --address ALL for everybody", r.GetTarget().GetName())
				}
				return nil
			})
		},
	}
	fs := cmd.Flags()
	f.add(cmd)
	fs.Int32Var(&tid, "tid", 0, "its number; 0: the next free one")
	fs.StringArrayVar(&luns, "lun", nil, "`LUN=VOLUME` that it has from the beginning; repeatable")
	fs.StringArrayVar(&initiators, "initiator", nil, "let this initiator in, * and ? as in file names; repeatable")
	fs.StringArrayVar(&addresses, "address", nil, "let initiators of this address or network in, or ALL; repeatable")
	fs.BoolVar(&offline, "offline", false, "refuse logins until it is brought online")
	fs.BoolVar(&allowExisting, "allow-existing", false, "that it is there already, as it is to be, is no error")
	for _, name := range []string{"tid", "lun", "initiator", "address"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
	return cmd
}

func made(existed bool) string {
	if existed {
		return "is there already"
	}
	return "added"
}

func gone(missing bool) string {
	if missing {
		return "was not there"
	}
	return "removed"
}

// note is for people, beside what a command has done.
func note(cmd *cobra.Command, format string, args ...any) {
	fmt.Fprintln(cmd.ErrOrStderr(), "note:", printable(fmt.Sprintf(format, args...)))
}

func (c *cli) targetSet() *cobra.Command {
	var f targetFlags
	var clearParams []string
	cmd := &cobra.Command{
		Use: "set TARGET", Short: "Change settings of a target", Args: cobra.ExactArgs(1), ValidArgsFunction: c.complete(c.targetNames),
		Long: "Changes what is given, and leaves the rest. Negotiated values are those of logins from then on.",
		Example: `  lunarctl target set iqn.2026-11.io.lunar:disk --alias 'the big one'
  lunarctl target set 1 --param FirstBurstLength=65536 --param MaxOutstandingR2T=4
  lunarctl target set 1 --clear-param FirstBurstLength
  # only the portals of group 2 lead to it; logins elsewhere
  lunarctl target set 1 --portal-group 2
  lunarctl target set 1 --redirect 192.0.2.20`,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, paths, err := f.message(cmd)
			if err != nil {
				return err
			}
			if len(paths) == 0 && len(f.params) == 0 && len(clearParams) == 0 {
				return fmt.Errorf("nothing to set: give at least one flag; see %s --help", cmd.CommandPath())
			}
			return c.updateTarget(cmd, &api.UpdateTargetRequest{Target: ref(args[0]), To: t, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}, SetParams: f.params, ClearParams: clearParams}, "changed")
		},
	}
	f.add(cmd)
	cmd.Flags().StringSliceVar(&clearParams, "clear-param", nil, "`KEY` whose value is lunar's own choice again; repeatable")
	must(cmd.RegisterFlagCompletionFunc("clear-param", cobra.NoFileCompletions))
	return cmd
}

func (c *cli) updateTarget(cmd *cobra.Command, q *api.UpdateTargetRequest, what string) error {
	return c.call(cmd, func(ctx context.Context, d *daemon) error {
		r, err := d.targets.UpdateTarget(ctx, q)
		if err != nil {
			return err
		}
		return c.did(cmd, r, "target %s %s", r.GetTarget().GetName(), what)
	})
}

func (c *cli) targetRemove() *cobra.Command {
	var force, missingOK bool
	cmd := &cobra.Command{
		Use: "remove TARGET", Aliases: []string{"rm", "delete"}, Short: "Remove a target", Args: cobra.ExactArgs(1), ValidArgsFunction: c.complete(c.targetNames),
		Long: `Removes a target with its LUNs. The volumes are closed when the command ends; what is on them stays.

It is refused while sessions are there: let them log out ("lunarctl target drain"), or --force.`,
		Example: `  lunarctl target remove iqn.2026-11.io.lunar:disk
  lunarctl target remove 3 --force`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.targets.RemoveTarget(ctx, &api.RemoveTargetRequest{Target: ref(args[0]), Force: force, MissingOk: missingOK})
				if err != nil {
					return err
				}
				return c.did(cmd, r, "target %s %s", args[0], gone(r.GetMissing()))
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "end the sessions that are there")
	cmd.Flags().BoolVar(&missingOK, "missing-ok", false, "that there is none is no error")
	return cmd
}

func (c *cli) targetOnline(online bool) *cobra.Command {
	cmd := &cobra.Command{
		Use: "online TARGET", Short: "Let initiators use a target", Args: cobra.ExactArgs(1), ValidArgsFunction: c.complete(c.targetNames),
		Long:    "Initiators can log in again, and commands of those that are there are carried out again.",
		Example: "  lunarctl target online iqn.2026-11.io.lunar:disk",
	}
	what := "is online"
	if !online {
		what = "is offline"
		cmd.Use, cmd.Short = "offline TARGET", "Refuse logins and commands"
		cmd.Long = "Logins are refused, and commands of sessions that are there are answered BUSY: initiators try again for a while. Nothing is dropped."
		cmd.Example = "  lunarctl target offline iqn.2026-11.io.lunar:disk"
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.updateTarget(cmd, &api.UpdateTargetRequest{Target: ref(args[0]), To: &api.Target{Offline: !online}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"offline"}}}, what)
	}
	return cmd
}
