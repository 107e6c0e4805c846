package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

func newSnapshot(c *cli) *cobra.Command {
	return group("snapshot", "Take, list and delete snapshots of volumes, and roll back to them",
		`A snapshot is a volume's contents of one moment. Taken under load it is crash-consistent: it has every write that was answered before, as a disk has them
after a loss of power. What each kind of volume can, "lunarctl store list" says.`,
		`  lunarctl snapshot create rbd:pool/disk before-upgrade
  lunarctl snapshot list rbd:pool/disk`,
		c.snapshotCreate(), c.snapshotList(), c.snapshotDelete(), c.snapshotRollback())
}

func (c *cli) snapshotCreate() *cobra.Command {
	return &cobra.Command{
		Use: "create VOLUME NAME", Short: "Take a snapshot", Args: cobra.ExactArgs(2), ValidArgsFunction: c.complete(c.volumeURIs),
		Long: "Takes a snapshot of a volume, whether it is a LUN under load or not.",
		Example: `  lunarctl snapshot create rbd:pool/disk before-upgrade
  lunarctl snapshot create file:///srv/disk.img "$(date +%F)"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := work(c, cmd, "snapshot of "+shown(args[0]), func(ctx context.Context, d *daemon) (grpc.ServerStreamingClient[api.CreateSnapshotResponse], error) {
				return d.volumes.CreateSnapshot(ctx, &api.CreateSnapshotRequest{Uri: args[0], Name: args[1]})
			})
			if err != nil {
				return err
			}
			return c.did(cmd, r, "%s: snapshot %s taken", shown(args[0]), args[1])
		},
	}
}

func (d *daemon) snapshots(ctx context.Context, volume string) ([]*api.Snapshot, error) {
	s, err := d.volumes.ListSnapshots(ctx, &api.ListSnapshotsRequest{Uri: volume})
	return collect(s, err, (*api.ListSnapshotsResponse).GetSnapshots)
}

func (c *cli) snapshotList() *cobra.Command {
	return &cobra.Command{
		Use: "list VOLUME", Short: "List the snapshots of a volume, oldest first", Args: cobra.ExactArgs(1), ValidArgsFunction: c.complete(c.volumeURIs),
		Example: `  lunarctl snapshot list rbd:pool/disk
  lunarctl snapshot list rbd:pool/disk --json | jq -r '.[-1].name'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				list, err := d.snapshots(ctx, args[0])
				if err != nil {
					return err
				}
				return c.show(cmd, list, func(w io.Writer) error {
					t := newTable(w, "NAME", "SIZE", "CREATED", "CLONES", "STATE", "ID")
					for _, s := range list {
						var bytes, clones any = "", ""
						if s.GetSize() != 0 {
							bytes = size(s.GetSize())
						}
						if s.Clones != nil {
							clones = s.GetClones()
						}
						t.row(s.GetName(), bytes, day(s.GetCreated()), clones, s.GetState(), s.GetId())
					}
					return t.end()
				})
			})
		},
	}
}

func (c *cli) snapshotDelete() *cobra.Command {
	var missingOK bool
	cmd := &cobra.Command{
		Use: "delete VOLUME NAME", Aliases: []string{"remove", "rm"}, Short: "Delete a snapshot", Args: cobra.ExactArgs(2), ValidArgsFunction: c.complete(c.volumeURIs, c.snapshotNames),
		Long:    "Deletes a snapshot; the volume and its other snapshots stay as they are. One that clones depend on is refused: flatten them first.",
		Example: "  lunarctl snapshot delete rbd:pool/disk before-upgrade",
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := work(c, cmd, "deleting snapshot "+args[1], func(ctx context.Context, d *daemon) (grpc.ServerStreamingClient[api.DeleteSnapshotResponse], error) {
				return d.volumes.DeleteSnapshot(ctx, &api.DeleteSnapshotRequest{Uri: args[0], Name: args[1], MissingOk: missingOK})
			})
			if err != nil {
				return err
			}
			return c.did(cmd, r, "%s: snapshot %s %s", shown(args[0]), args[1], deleted(r.GetDone()))
		},
	}
	cmd.Flags().BoolVar(&missingOK, "missing-ok", false, "that there is none is no error")
	return cmd
}

func (c *cli) snapshotRollback() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "rollback VOLUME NAME", Short: "Give a volume the contents that it had at a snapshot", Args: cobra.ExactArgs(2), ValidArgsFunction: c.complete(c.volumeURIs, c.snapshotNames),
		Long: `Gives a volume the contents, and the size, that it had at a snapshot. What was written since is lost, so it wants --force: take a snapshot of that before,
if it may be wanted. A volume that is a LUN is refused unless that is offline: an initiator would not know what has become of its disk.`,
		Example: `  lunarctl lun offline iqn.2026-11.io.lunar:disk 1
  lunarctl snapshot rollback rbd:pool/disk before-upgrade --force
  lunarctl lun online iqn.2026-11.io.lunar:disk 1`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := work(c, cmd, "rolling back "+shown(args[0]), func(ctx context.Context, d *daemon) (grpc.ServerStreamingClient[api.RollbackVolumeResponse], error) {
				return d.volumes.RollbackVolume(ctx, &api.RollbackVolumeRequest{Uri: args[0], Name: args[1], Force: force})
			})
			if err != nil {
				return err
			}
			return c.did(cmd, r, "%s is what it was at %s", shown(args[0]), args[1])
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "yes, what was written since may be lost")
	return cmd
}

func newClone(c *cli) *cobra.Command {
	return group("clone", "Make volumes of the snapshots of others",
		`A clone is a volume that begins with the contents of another's snapshot; from then on each is written without the other seeing it. Most engines copy
nothing: the clone depends on the snapshot until it is flattened.`,
		`  lunarctl snapshot create rbd:pool/golden v1
  lunarctl clone create rbd:pool/golden rbd:pool/host7 --snapshot v1`,
		c.cloneCreate(), c.cloneFlatten())
}

func (c *cli) cloneCreate() *cobra.Command {
	var snapshot string
	cmd := &cobra.Command{
		Use: "create VOLUME CLONE", Short: "Make a volume of another's snapshot", Args: cobra.ExactArgs(2), ValidArgsFunction: c.complete(c.volumeURIs, c.schemes),
		Long: "Makes CLONE, of the same kind, with the contents that VOLUME had at a snapshot. Without --snapshot it is what VOLUME is now, where its kind can.",
		Example: `  lunarctl clone create rbd:pool/golden rbd:pool/host7 --snapshot v1
  lunarctl clone create file:///srv/disk.img file:///srv/copy.img`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := work(c, cmd, "cloning "+shown(args[0]), func(ctx context.Context, d *daemon) (grpc.ServerStreamingClient[api.CloneVolumeResponse], error) {
				return d.volumes.CloneVolume(ctx, &api.CloneVolumeRequest{Uri: args[0], Snapshot: snapshot, To: args[1]})
			})
			if err != nil {
				return err
			}
			return c.did(cmd, r, "%s created, %s", shown(args[1]), exactly(r.GetVolume().GetSize()))
		},
	}
	cmd.Flags().StringVar(&snapshot, "snapshot", "", "a snapshot of VOLUME, `NAME`")
	must(cmd.RegisterFlagCompletionFunc("snapshot", c.completeFlag(c.snapshotNames)))
	return cmd
}

func (c *cli) cloneFlatten() *cobra.Command {
	return &cobra.Command{
		Use: "flatten VOLUME", Short: "End a clone's dependence on its parent", Args: cobra.ExactArgs(1), ValidArgsFunction: c.complete(c.volumeURIs),
		Long:    "Copies what the clone still shares with its parent, whether it is a LUN or not. Afterwards the parent's snapshot can be deleted.",
		Example: "  lunarctl clone flatten rbd:pool/host7",
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := work(c, cmd, "flattening "+shown(args[0]), func(ctx context.Context, d *daemon) (grpc.ServerStreamingClient[api.FlattenVolumeResponse], error) {
				return d.volumes.FlattenVolume(ctx, &api.FlattenVolumeRequest{Uri: args[0]})
			})
			if err != nil {
				return err
			}
			return c.did(cmd, r, "%s depends on no parent any more", shown(args[0]))
		},
	}
}

// snapshotNames are those of the volume that is named before.
func (c *cli) snapshotNames(ctx context.Context, d *daemon, args []string) (out []string) {
	if len(args) == 0 {
		return nil
	}
	list, err := d.snapshots(ctx, args[0])
	if err != nil {
		return nil
	}
	for _, s := range list {
		out = append(out, described(s.GetName(), "%s", day(s.GetCreated())))
	}
	return out
}
