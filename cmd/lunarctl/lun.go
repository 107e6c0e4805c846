package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/scsi/sam"
)

const maxLUN = sam.MaxFlatLUN

func newLun(c *cli) *cobra.Command {
	return group("lun", "List, add, change, resize and remove the disks of targets",
		"A LUN is a volume behind a number of a target. What kinds of volume there are, \"lunarctl store list\" says.",
		`  lunarctl lun list
  lunarctl lun add iqn.2026-11.io.lunar:disk 1 'file:///srv/disk.img?size=10G'`,
		c.lunList(), c.lunShow(), c.lunAdd(), c.lunSet(), c.lunRemove(), c.lunResize(), c.lunTakeover(), c.lunOnline(true), c.lunOnline(false))
}

func (c *cli) lunList() *cobra.Command {
	return &cobra.Command{
		Use: "list [TARGET]", Short: "List the LUNs of one target, or of all", Args: cobra.MaximumNArgs(1), ValidArgsFunction: c.complete(c.targetNames),
		Example: `  lunarctl lun list
  lunarctl lun list iqn.2026-11.io.lunar:disk
  lunarctl lun list --json | jq '.[].live.luns[] | select(.failed)'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				var list []*api.TargetState
				var err error
				if len(args) == 0 {
					list, err = d.listTargets(ctx, true)
				} else {
					var t *api.TargetState
					t, err = d.target(ctx, args[0], true)
					list = append(list, t)
				}
				if err != nil {
					return err
				}
				return c.show(cmd, list, func(w io.Writer) error { return writeLuns(w, list, true) })
			})
		},
	}
}

// writeLuns writes a row for each LUN, with the target's tid and name where there may be many.
func writeLuns(w io.Writer, list []*api.TargetState, names bool) error {
	heads := []string{"LUN", "SIZE", "BLOCK", "STATE", "SERIAL", "VOLUME"}
	if names {
		heads = append([]string{"TID", "TARGET"}, heads...)
	}
	t := newTable(w, heads...)
	for _, x := range list {
		for _, l := range x.GetLive().GetLuns() {
			volume := ""
			for _, s := range x.GetSpec().GetLuns() {
				if s.GetNumber() == l.GetLun() {
					volume = s.GetVolume()
				}
			}
			state := lunState(l)
			if x.GetFaults()[l.GetLun()] != "" {
				state = "away"
			}
			cells := []any{l.GetLun(), size(l.GetSize()), l.GetBlockSize(), state, l.GetSerial(), volume}
			if l.GetController() {
				cells = []any{l.GetLun(), "", "", "controller", "", ""}
			}
			if names {
				cells = append([]any{x.GetSpec().GetTid(), x.GetSpec().GetName()}, cells...)
			}
			t.row(cells...)
		}
	}
	return t.end()
}

func lunState(l *api.LunLive) string {
	var s []string
	switch {
	case l.GetFenced():
		s = append(s, "fenced")
	case l.GetFailed():
		s = append(s, "failed")
	case l.GetOnline():
		s = append(s, "online")
	default:
		s = append(s, "offline")
	}
	if l.GetReadOnly() {
		s = append(s, "read-only")
	}
	if l.GetSwp() {
		s = append(s, "write-protected")
	}
	if l.GetWaiting() != 0 {
		s = append(s, "waiting")
	}
	return strings.Join(s, ",")
}

// lunArgs reads TARGET LUN.
func lunArgs(args []string) (*api.TargetRef, uint32, error) {
	n, err := number("LUN", args[1], maxLUN)
	return ref(args[0]), n, err
}

func (c *cli) lunShow() *cobra.Command {
	return &cobra.Command{
		Use: "show TARGET LUN", Short: "Show everything of a LUN", Args: cobra.ExactArgs(2), ValidArgsFunction: c.complete(c.targetNames, c.lunNumbers),
		Example: `  lunarctl lun show iqn.2026-11.io.lunar:disk 1
  lunarctl lun show 1 1 --json | jq .live.size`,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, n, err := lunArgs(args)
			if err != nil {
				return err
			}
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.luns.GetLun(ctx, &api.GetLunRequest{Target: t, Lun: n})
				if err != nil {
					return err
				}
				return c.show(cmd, r, func(w io.Writer) error { return writeLun(w, r) })
			})
		},
	}
}

func writeLun(w io.Writer, r *api.GetLunResponse) error {
	s, l := r.GetSpec(), r.GetLive()
	f := newFacts(w)
	f.add("LUN", l.GetLun())
	f.when(l.GetController(), "Kind", "controller")
	f.add("Volume", s.GetVolume())
	f.when(!l.GetController(), "State", lunState(l))
	f.when(r.GetFault() != "", "Fault", r.GetFault())
	f.when(l.GetSize() != 0, "Size", exactly(l.GetSize()))
	f.when(l.GetBlockSize() != 0, "Block size", l.GetBlockSize())
	f.add("Vendor", s.GetVendor())
	f.add("Product", s.GetProduct())
	f.add("Revision", s.GetRevision())
	f.add("Serial", l.GetSerial())
	f.add("NAA", l.GetNaa())
	f.add("Identity", l.GetIdentity())
	f.when(s.GetTgtNaming(), "Names", "as tgt's")
	f.when(s != nil, "Thin", yesNo(l.GetThin()))
	f.when(s != nil, "Write cache", yesNo(l.GetWriteCache()))
	f.when(!l.GetController() && s != nil, "Time-out", fmt.Sprintf("%v, then %s", time.Duration(cmp.Or(s.GetTimeout(), 30))*time.Second, cmp.Or(s.GetOnTimeout(), "wait")))
	f.when(s.GetAway() != "", "If away", s.GetAway())
	f.when(s.GetRemovable(), "Removable", "yes")
	f.when(l.GetPreventRemoval(), "Removal", "prevented by an initiator")
	x := l.GetStats()
	f.add("Reads", fmt.Sprintf("%d, %s", x.GetReads(), size(int64(x.GetReadBytes()))))
	f.add("Writes", fmt.Sprintf("%d, %s", x.GetWrites(), size(int64(x.GetWriteBytes()))))
	f.add("Other commands", x.GetOthers())
	f.add("Under way", l.GetQueued())
	f.when(l.GetWaiting() != 0, "Waiting", fmt.Sprintf("%d commands, for up to %v", l.GetWaiting(), l.GetWaitingLongest().AsDuration().Round(time.Second)))
	f.when(l.GetInDoubt() != 0, "In doubt", fmt.Sprintf("%d commands that are over for their initiators, and not for the volume", l.GetInDoubt()))
	f.when(l.GetTimeouts() != 0, "Timed out", fmt.Sprintf("%d commands, %d of them answered", l.GetTimeouts(), l.GetTimeoutsAnswered()))
	f.add("Errors", errorsOf(l))
	return f.end()
}

// lunFlags are what of a LUN can be set when it is made and later.
type lunFlags struct {
	m                api.Lun
	thin, writeCache string
}

// add declares the flags; each has the name of its field.
func (f *lunFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&f.m.Vendor, "vendor", "", "INQUIRY vendor, at most 8 characters")
	fs.StringVar(&f.m.Product, "product", "", "INQUIRY product, at most 16 characters")
	fs.StringVar(&f.m.Revision, "revision", "", "INQUIRY revision, at most 4 characters")
	fs.StringVar(&f.m.Serial, "serial", "", "serial number (VPD page 80h), at most 36 characters")
	fs.StringVar(&f.m.ScsiId, "scsi-id", "", "T10 designator of VPD page 83h with --tgt-naming, at most 36 characters")
	fs.BoolVar(&f.m.TgtNaming, "tgt-naming", false, "show tgt's vendor, product, serial number and VPD page 83h")
	fs.Int32Var(&f.m.PhysicalBlock, "physical-block", 0, "physical block size to show, `BYTES`; 0: the volume's")
	fs.BoolVar(&f.m.ReadOnly, "read-only", false, "refuse writes")
	fs.BoolVar(&f.m.Removable, "removable", false, "a removable medium")
	fs.StringVar(&f.thin, "thin", "auto", "say that it is thinly provisioned: on, off, or auto: as the volume is")
	fs.StringVar(&f.writeCache, "write-cache", "auto", "write cache at start: on, off, or auto: as the volume is")
	fs.BoolVar(&f.m.DescriptorSense, "descriptor-sense", false, "sense data in descriptor format at start")
	fs.Int32Var(&f.m.RotationRate, "rotation-rate", 0, "rotation rate to show, 1 for no rotation; 0: as the volume is")
	fs.Int32Var(&f.m.LowestAligned, "lowest-aligned", 0, "lowest aligned LBA")
	fs.Int32Var(&f.m.OptimalGranularity, "optimal-granularity", 0, "optimal transfer length granularity, blocks; 0: as the volume is")
	fs.Int32Var(&f.m.OptimalLength, "optimal-length", 0, "optimal transfer length, blocks; 0: as the volume is")
	fs.BoolVar(&f.m.NoUnmap, "no-unmap", false, "refuse UNMAP")
	fs.BoolVar(&f.m.NoWriteSame, "no-write-same", false, "refuse WRITE SAME")
	fs.BoolVar(&f.m.NoCompareAndWrite, "no-compare-and-write", false, "refuse COMPARE AND WRITE")
	fs.Int32Var(&f.m.Timeout, "io-timeout", 0, "how long a command may wait for the volume, `SECONDS`; 0: 30")
	fs.StringVar(&f.m.OnTimeout, "on-timeout", "", "what then becomes of it: wait, or error: it is answered NOT READY; empty: wait")
	fs.StringVar(&f.m.Away, "away", "", "a volume that cannot be opened: offline: the LUN is there, NOT READY, and it is tried again, or fail; empty: fail when it is added, offline at the start")
	must(cmd.RegisterFlagCompletionFunc("on-timeout", cobra.FixedCompletions([]string{"wait", "error"}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("away", cobra.FixedCompletions([]string{"offline", "fail"}, cobra.ShellCompDirectiveNoFileComp)))
	for _, name := range []string{"thin", "write-cache"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions([]string{"on", "off", "auto"}, cobra.ShellCompDirectiveNoFileComp)))
	}
	for _, name := range []string{"vendor", "product", "revision", "serial", "scsi-id", "physical-block", "rotation-rate", "lowest-aligned", "optimal-granularity", "optimal-length", "io-timeout"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
}

// paths are the fields whose flags were given: their names are those of the flags.
func (f *lunFlags) paths(cmd *cobra.Command) ([]string, error) {
	var err error
	if f.m.Thin, err = threeWay("thin", f.thin); err != nil {
		return nil, err
	}
	if f.m.WriteCache, err = threeWay("write-cache", f.writeCache); err != nil {
		return nil, err
	}
	var paths []string
	fields := f.m.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		name := string(fields.Get(i).Name())
		flag := strings.ReplaceAll(name, "_", "-")
		if flag == "timeout" {
			flag = "io-timeout" // --timeout is that of the call
		}
		if cmd.Flags().Changed(flag) {
			paths = append(paths, name)
		}
	}
	return paths, nil
}

// threeWay reads on, off and auto.
func threeWay(name, s string) (*bool, error) {
	on := s == "on"
	switch s {
	case "on", "off":
		return &on, nil
	case "auto":
		return nil, nil
	}
	return nil, fmt.Errorf("--%s %q is none of on, off, auto", name, s)
}

func (c *cli) lunAdd() *cobra.Command {
	var f lunFlags
	var force, allowExisting, offline bool
	var identity string
	var blockSize int32
	cmd := &cobra.Command{
		Use: "add TARGET LUN [VOLUME]", Short: "Put a volume behind a number", Args: cobra.RangeArgs(2, 3), ValidArgsFunction: c.complete(c.targetNames),
		Long: `Opens a volume and puts it behind a number of a target; initiators that are there hear of it. Numbers are 0 to 16383, and 0 is free
only where the target has no controller (--no-controller of "lunarctl target add"). Without a volume it is a drive without a medium.

A number behind which an initiator that is still there has seen another volume is refused, since it could take one for the other;
with --force it is told.`,
		Example: `  # a sparse file, made if it is not there
  lunarctl lun add iqn.2026-11.io.lunar:disk 1 'file:///srv/disk.img?size=10G'
  lunarctl lun add 1 2 file:///dev/vg0/data --serial 0001-DATA
  lunarctl lun add 1 3 'nbd+unix:///export?socket=/run/nbd.sock' --read-only`,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, n, err := lunArgs(args)
			if err != nil {
				return err
			}
			if _, err := f.paths(cmd); err != nil {
				return err
			}
			f.m.Number, f.m.Identity, f.m.BlockSize, f.m.Offline = n, identity, blockSize, offline
			if len(args) == 3 {
				f.m.Volume = args[2]
			}
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.luns.AddLun(ctx, &api.AddLunRequest{Target: t, Lun: &f.m, Force: force, AllowExisting: allowExisting})
				if err != nil {
					return err
				}
				return c.did(cmd, r, "target %s LUN %d %s", args[0], n, made(r.GetExisted()))
			})
		},
	}
	f.add(cmd)
	fs := cmd.Flags()
	fs.Int32Var(&blockSize, "block-size", 0, "logical block size, 512 or 4096 `BYTES`; 0: 512")
	fs.StringVar(&identity, "identity", "", "the identity of a disk that moves here from elsewhere; empty: a new one")
	fs.BoolVar(&offline, "offline", false, "MEDIUM NOT PRESENT until it is brought online")
	fs.BoolVar(&force, "force", false, "take a number behind which initiators know another volume")
	fs.BoolVar(&allowExisting, "allow-existing", false, "that it is there already, as it is to be, is no error")
	must(cmd.RegisterFlagCompletionFunc("block-size", cobra.FixedCompletions([]string{"512", "4096"}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("identity", cobra.NoFileCompletions))
	return cmd
}

func (c *cli) lunSet() *cobra.Command {
	var f lunFlags
	cmd := &cobra.Command{
		Use: "set TARGET LUN", Short: "Change settings of a LUN", Args: cobra.ExactArgs(2), ValidArgsFunction: c.complete(c.targetNames, c.lunNumbers),
		Long: `Changes what is given, and leaves the rest; initiators hear of it by unit attentions. Another volume wants the LUN to be offline.`,
		Example: `  lunarctl lun set iqn.2026-11.io.lunar:disk 1 --read-only
  lunarctl lun set 1 1 --read-only=false --write-cache off
  # another volume behind the same number
  lunarctl lun offline 1 1
  lunarctl lun set 1 1 --volume file:///srv/other.img
  lunarctl lun online 1 1`,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, n, err := lunArgs(args)
			if err != nil {
				return err
			}
			paths, err := f.paths(cmd)
			if err != nil {
				return err
			}
			if len(paths) == 0 {
				return fmt.Errorf("nothing to set: give at least one flag; see %s --help", cmd.CommandPath())
			}
			return c.updateLun(cmd, &api.UpdateLunRequest{Target: t, Lun: n, To: &f.m, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}}, args[0], "changed")
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.m.Volume, "volume", "", "another volume, `URI`; empty: no medium")
	must(cmd.RegisterFlagCompletionFunc("volume", cobra.NoFileCompletions))
	return cmd
}

func (c *cli) updateLun(cmd *cobra.Command, q *api.UpdateLunRequest, target, what string) error {
	return c.call(cmd, func(ctx context.Context, d *daemon) error {
		r, err := d.luns.UpdateLun(ctx, q)
		if err != nil {
			return err
		}
		return c.did(cmd, r, "target %s LUN %d %s", target, r.GetLun().GetNumber(), what)
	})
}

func (c *cli) lunRemove() *cobra.Command {
	var force, missingOK bool
	cmd := &cobra.Command{
		Use: "remove TARGET LUN", Aliases: []string{"rm", "delete"}, Short: "Take a LUN away", Args: cobra.ExactArgs(2), ValidArgsFunction: c.complete(c.targetNames, c.lunNumbers),
		Long: "Takes a LUN away; initiators hear of it. The volume is closed when the command ends; what is on it stays. It is refused while commands are under way.",
		Example: `  lunarctl lun remove iqn.2026-11.io.lunar:disk 1
  lunarctl lun remove 1 2 --force`,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, n, err := lunArgs(args)
			if err != nil {
				return err
			}
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.luns.RemoveLun(ctx, &api.RemoveLunRequest{Target: t, Lun: n, Force: force, MissingOk: missingOK})
				if err != nil {
					return err
				}
				return c.did(cmd, r, "target %s LUN %d %s", args[0], n, gone(r.GetMissing()))
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "even while commands are under way")
	cmd.Flags().BoolVar(&missingOK, "missing-ok", false, "that there is none is no error")
	return cmd
}

func (c *cli) lunOnline(online bool) *cobra.Command {
	cmd := &cobra.Command{
		Use: "online TARGET LUN", Short: "Give a LUN its medium back", Args: cobra.ExactArgs(2), ValidArgsFunction: c.complete(c.targetNames, c.lunNumbers),
		Long:    "The medium is there again; initiators are told that it may have changed.",
		Example: "  lunarctl lun online iqn.2026-11.io.lunar:disk 1",
	}
	what := "is online"
	if !online {
		what = "is offline"
		cmd.Use, cmd.Short = "offline TARGET LUN", "Take the medium out of a LUN"
		cmd.Long = "Commands are answered MEDIUM NOT PRESENT. The LUN stays, and so does its volume."
		cmd.Example = "  lunarctl lun offline iqn.2026-11.io.lunar:disk 1"
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		t, n, err := lunArgs(args)
		if err != nil {
			return err
		}
		return c.updateLun(cmd, &api.UpdateLunRequest{Target: t, Lun: n, To: &api.Lun{Offline: !online}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"offline"}}}, args[0], what)
	}
	return cmd
}
