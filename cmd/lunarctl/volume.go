package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

func newVolume(c *cli) *cobra.Command {
	return group("volume", "Create, list, resize and delete volumes where they are kept",
		`A volume is what stands behind a LUN: an image of a cluster, a file. It is named by its URI, as LUNs name it. What each kind of volume can,
"lunarctl store list" says; snapshots and clones have commands of their own.

One thing at a time is done with a volume. What takes long tells how far it is; to interrupt it (Ctrl-C) is to cancel it, and what was begun is
undone.`,
		`  lunarctl volume list rbd:pool
  lunarctl volume create rbd:pool/disk 10G
  lunarctl lun add iqn.2026-11.io.lunar:disk 1 rbd:pool/disk`,
		c.volumeList(), c.volumeShow(), c.volumeCreate(), c.volumeResize(), c.volumeDelete(), c.volumeTrash(), c.volumeRestore(), c.volumePurge())
}

func (c *cli) volumeList() *cobra.Command {
	return &cobra.Command{
		Use: "list WHERE", Short: "List the volumes of a pool, a folder or a server", Args: cobra.ExactArgs(1), ValidArgsFunction: c.complete(c.schemes),
		Long: "WHERE is a volume's URI without the volume. LUN is where this daemon serves it: tid/LUN.",
		Example: `  lunarctl volume list rbd:pool
  lunarctl volume list file:///srv
  lunarctl volume list rbd:pool --json | jq -r '.[] | select(.luns == []) | .uri'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				s, err := d.volumes.ListVolumes(ctx, &api.ListVolumesRequest{Uri: args[0]})
				list, err := collect(s, err, (*api.ListVolumesResponse).GetVolumes)
				if err != nil {
					return err
				}
				return c.show(cmd, list, func(w io.Writer) error {
					t := newTable(w, "NAME", "SIZE", "USED", "LUN", "PARENT", "VOLUME")
					for _, v := range list {
						used := ""
						if v.Used != nil {
							used = size(v.GetUsed())
						}
						t.row(v.GetName(), size(v.GetSize()), used, lunsOf(v), v.GetParent(), shown(v.GetUri()))
					}
					return t.end()
				})
			})
		},
	}
}

// shown is a URI without its options, which may have a secret among them.
func shown(uri string) string {
	if volume, _, has := strings.Cut(uri, "?"); has {
		return volume + "?…"
	}
	return uri
}

// lunsOf is where a volume is served.
func lunsOf(v *api.Volume) string {
	var list []string
	for _, l := range v.GetLuns() {
		list = append(list, fmt.Sprintf("%d/%d", l.GetTid(), l.GetLun()))
	}
	return strings.Join(list, ",")
}

// day is a time for people; empty: not known.
func day(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Local().Format(time.DateTime)
}

func (c *cli) volumeShow() *cobra.Command {
	return &cobra.Command{
		Use: "show VOLUME", Short: "Show what is known of a volume", Args: cobra.ExactArgs(1), ValidArgsFunction: c.complete(c.volumeURIs),
		Example: `  lunarctl volume show rbd:pool/disk
  lunarctl volume show rbd:pool/disk --json | jq .size`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.volumes.GetVolume(ctx, &api.GetVolumeRequest{Uri: args[0]})
				if err != nil {
					return err
				}
				v := r.GetVolume()
				return c.show(cmd, v, func(w io.Writer) error {
					f := newFacts(w)
					f.add("Name", v.GetName())
					f.add("Volume", shown(v.GetUri()))
					f.add("Size", exactly(v.GetSize()))
					f.when(v.Used != nil, "Used", exactly(v.GetUsed()))
					f.add("Created", day(v.GetCreated()))
					f.add("Parent", v.GetParent())
					f.add("In use", v.GetInUse())
					for _, l := range v.GetLuns() {
						f.add("LUN", fmt.Sprintf("%d of target %s (tid %d)", l.GetLun(), l.GetTarget(), l.GetTid()))
					}
					return f.end()
				})
			})
		},
	}
}

func (c *cli) volumeCreate() *cobra.Command {
	var allowExisting bool
	cmd := &cobra.Command{
		Use: "create VOLUME SIZE", Short: "Create a volume", Args: cobra.ExactArgs(2), ValidArgsFunction: c.complete(c.schemes),
		Long: "Makes a volume that reads as zeroes. SIZE is in bytes, with k, M, G or T for binary multiples. What is there already is left as it is.",
		Example: `  lunarctl volume create rbd:pool/disk 10G
  lunarctl volume create cbd:pool//disk_alice_ 10G --allow-existing
  lunarctl volume create file:///srv/disk.img 1T`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var to byteSize
			if err := to.Set(args[1]); err != nil {
				return err
			}
			r, err := work(c, cmd, "creating "+shown(args[0]), func(ctx context.Context, d *daemon) (grpc.ServerStreamingClient[api.CreateVolumeResponse], error) {
				return d.volumes.CreateVolume(ctx, &api.CreateVolumeRequest{Uri: args[0], Size: int64(to), AllowExisting: allowExisting})
			})
			if err != nil {
				return err
			}
			what := "created"
			if r.GetExisted() {
				what = "is there already"
			}
			return c.did(cmd, r, "%s %s, %s", shown(args[0]), what, exactly(r.GetVolume().GetSize()))
		},
	}
	cmd.Flags().BoolVar(&allowExisting, "allow-existing", false, "that it is there already, with that size, is no error")
	return cmd
}

func (c *cli) volumeResize() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "resize VOLUME SIZE", Short: "Change the size of a volume", Args: cobra.ExactArgs(2), ValidArgsFunction: c.complete(c.volumeURIs),
		Long: `Changes the size of a volume. SIZE is in bytes, with k, M, G or T for binary multiples; +SIZE adds to what it has. Where the volume is a LUN of this
daemon its initiators are told, as "lunarctl lun resize" does.

Smaller than before is refused without --force: what is beyond is lost.`,
		Example: `  lunarctl volume resize rbd:pool/disk 20G
  lunarctl volume resize rbd:pool/disk +5G`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var to byteSize
			text, add := strings.CutPrefix(args[1], "+")
			if err := to.Set(text); err != nil {
				return err
			}
			r, err := work(c, cmd, "resizing "+shown(args[0]), func(ctx context.Context, d *daemon) (grpc.ServerStreamingClient[api.ResizeVolumeResponse], error) {
				q := &api.ResizeVolumeRequest{Uri: args[0], Size: int64(to), Force: force}
				if add {
					v, err := d.volumes.GetVolume(ctx, &api.GetVolumeRequest{Uri: args[0]})
					if err != nil {
						return nil, err
					}
					if v.GetVolume().GetSize() > math.MaxInt64-q.Size {
						return nil, fmt.Errorf("size %q is more than there can be", args[1])
					}
					q.Size += v.GetVolume().GetSize()
				}
				return d.volumes.ResizeVolume(ctx, q)
			})
			if err != nil {
				return err
			}
			return c.did(cmd, r, "%s has %s", shown(args[0]), exactly(r.GetSize()))
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "even where it becomes smaller")
	return cmd
}

func (c *cli) volumeDelete() *cobra.Command {
	var purge, force, missingOK bool
	cmd := &cobra.Command{
		Use: "delete VOLUME", Aliases: []string{"remove", "rm"}, Short: "Delete a volume", Args: cobra.ExactArgs(1), ValidArgsFunction: c.complete(c.volumeURIs),
		Long: `Deletes a volume: into the trash where its kind has one ("lunarctl volume trash"), and else for ever, which wants --force. One that is a LUN, that
somebody else has open, or that has snapshots or clones is refused.`,
		Example: `  lunarctl volume delete rbd:pool/disk
  # not into the trash
  lunarctl volume delete rbd:pool/disk --purge --force`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := work(c, cmd, "deleting "+shown(args[0]), func(ctx context.Context, d *daemon) (grpc.ServerStreamingClient[api.DeleteVolumeResponse], error) {
				return d.volumes.DeleteVolume(ctx, &api.DeleteVolumeRequest{Uri: args[0], Purge: purge, Force: force, MissingOk: missingOK})
			})
			if err != nil {
				return err
			}
			return c.did(cmd, r, "%s %s", shown(args[0]), deleted(r.GetDone()))
		},
	}
	cmd.Flags().BoolVar(&purge, "purge", false, "not into the trash but for ever; wants --force")
	cmd.Flags().BoolVar(&force, "force", false, "even where it is for ever")
	cmd.Flags().BoolVar(&missingOK, "missing-ok", false, "that there is none is no error")
	return cmd
}

func deleted(d *api.VolumeDone) string {
	if d.GetMissing() {
		return "was not there"
	}
	return "deleted"
}

func (c *cli) volumeTrash() *cobra.Command {
	return &cobra.Command{
		Use: "trash WHERE", Short: "List deleted volumes that can be restored", Args: cobra.ExactArgs(1), ValidArgsFunction: c.complete(c.schemes),
		Long: "WHERE is a volume's URI without the volume.",
		Example: `  lunarctl volume trash rbd:pool
  lunarctl volume trash rbd:pool --json | jq -r '.[].id'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				list, err := d.trash(ctx, args[0])
				if err != nil {
					return err
				}
				return c.show(cmd, list, func(w io.Writer) error {
					t := newTable(w, "ID", "NAME", "SIZE", "DELETED", "KEPT UNTIL")
					for _, v := range list {
						bytes := ""
						if v.GetSize() != 0 {
							bytes = size(v.GetSize())
						}
						t.row(v.GetId(), v.GetName(), bytes, day(v.GetDeleted()), day(v.GetExpires()))
					}
					return t.end()
				})
			})
		},
	}
}

func (d *daemon) trash(ctx context.Context, where string) ([]*api.TrashedVolume, error) {
	s, err := d.volumes.ListTrash(ctx, &api.ListTrashRequest{Uri: where})
	return collect(s, err, (*api.ListTrashResponse).GetVolumes)
}

func (c *cli) volumeRestore() *cobra.Command {
	return &cobra.Command{
		Use: "restore WHERE ID", Short: "Bring a deleted volume back", Args: cobra.ExactArgs(2), ValidArgsFunction: c.complete(c.schemes, c.trashIDs),
		Long: `Brings a deleted volume back. The ID is that of "lunarctl volume trash". WHERE is a volume's URI without the volume: then it gets its old name; or the whole
URI that it is to have.`,
		Example: `  lunarctl volume restore rbd:pool 1f0a2b
  lunarctl volume restore rbd:pool/disk-as-it-was 1f0a2b`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.volumes.RestoreVolume(ctx, &api.RestoreVolumeRequest{Uri: args[0], Id: args[1]})
				if err != nil {
					return err
				}
				return c.did(cmd, r, "%s restored", shown(r.GetUri()))
			})
		},
	}
}

func (c *cli) volumePurge() *cobra.Command {
	var force, missingOK bool
	cmd := &cobra.Command{
		Use: "purge WHERE ID", Short: "Delete a deleted volume for ever", Args: cobra.ExactArgs(2), ValidArgsFunction: c.complete(c.schemes, c.trashIDs),
		Long:    `Deletes for ever what "lunarctl volume trash" lists. It wants --force.`,
		Example: "  lunarctl volume purge rbd:pool 1f0a2b --force",
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := work(c, cmd, "purging "+args[1], func(ctx context.Context, d *daemon) (grpc.ServerStreamingClient[api.PurgeVolumeResponse], error) {
				return d.volumes.PurgeVolume(ctx, &api.PurgeVolumeRequest{Uri: args[0], Id: args[1], Force: force, MissingOk: missingOK})
			})
			if err != nil {
				return err
			}
			return c.did(cmd, r, "%s %s", args[1], deleted(r.GetDone()))
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "yes, for ever")
	cmd.Flags().BoolVar(&missingOK, "missing-ok", false, "that there is none is no error")
	return cmd
}

// volumeURIs are the volumes of LUNs.
func (c *cli) volumeURIs(ctx context.Context, d *daemon, _ []string) (out []string) {
	list, err := d.listTargets(ctx, false)
	if err != nil {
		return nil
	}
	seen := map[string]bool{}
	for _, t := range list {
		for _, l := range t.GetSpec().GetLuns() {
			if v := l.GetVolume(); v != "" && !seen[v] {
				seen[v] = true
				out = append(out, described(v, "LUN %d of %s", l.GetNumber(), t.GetSpec().GetName()))
			}
		}
	}
	return out
}

// schemes are the beginnings of URIs, of those drivers that administer volumes.
func (c *cli) schemes(ctx context.Context, d *daemon, _ []string) (out []string) {
	r, err := d.system.ListDrivers(ctx, &api.ListDriversRequest{})
	if err != nil {
		return nil
	}
	for _, x := range r.GetDrivers() {
		if len(x.GetCan()) > 0 {
			out = append(out, described(x.GetScheme()+":", "%s", x.GetHelp()))
		}
	}
	return out
}

func (c *cli) trashIDs(ctx context.Context, d *daemon, args []string) (out []string) {
	list, err := d.trash(ctx, args[0])
	if err != nil {
		return nil
	}
	for _, v := range list {
		out = append(out, described(v.GetId(), "%s, %s", v.GetName(), size(v.GetSize())))
	}
	slices.Sort(out)
	return out
}
