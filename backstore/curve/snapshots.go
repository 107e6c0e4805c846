package curve

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/curve/snapclone"
)

// cleanupTime is how long what was begun is undone, once its caller has given up.
const cleanupTime = 10 * time.Second

// maxSnapName is the longest name of a snapshot, in bytes.
const maxSnapName = 255

// undo runs f for what ctx has no time for any more.
func undo(ctx context.Context, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	return f(ctx)
}

// find returns the volume's snapshot of a name, or of an id. Curve allows several of one name.
func (p *place) find(ctx context.Context, name string) (snapclone.Snapshot, error) {
	c, err := p.snapshots()
	if err != nil {
		return snapclone.Snapshot{}, err
	}
	list, err := c.Snapshots(ctx, p.user, p.path)
	if err != nil {
		return snapclone.Snapshot{}, err
	}
	var found []snapclone.Snapshot
	for _, s := range list {
		if s.UUID == name {
			return s, nil
		}
		if s.Name == name && s.File == p.path {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 0:
		return snapclone.Snapshot{}, fail(backstore.ClassNotFound, "it has no snapshot %q", name)
	case 1:
		return found[0], nil
	}
	return snapclone.Snapshot{}, fail(backstore.ClassBusy, "it has %d snapshots of the name %q; use the id of one", len(found), name)
}

// takeSnapshot has a snapshot taken and waits until it is there. The cluster's moment lies in between; it holds every write that was answered.
func takeSnapshot(ctx context.Context, u *backstore.URI, name string, pr backstore.Progress) error {
	return on("snapshot", u, func(p *place) error {
		c, err := p.snapshots()
		if err != nil {
			return err
		}
		if name == "" || len(name) > maxSnapName {
			return fail(backstore.ClassRange, "a snapshot's name has 1 to %d bytes", maxSnapName)
		}
		switch _, err := p.find(ctx, name); {
		case err == nil:
			return fail(backstore.ClassBusy, "it has a snapshot %q already", name)
		case volumeClass(err) != backstore.ClassNotFound:
			return err
		}
		id, err := c.CreateSnapshot(ctx, p.user, p.path, name)
		if errors.Is(err, snapclone.ErrUnknown) {
			return errors.Join(err, undo(ctx, func(ctx context.Context) error {
				// There was none of that name before.
				s, err := p.find(ctx, name)
				if err == nil {
					return p.withdraw(ctx, c, s.UUID)
				}
				if volumeClass(err) == backstore.ClassNotFound {
					return nil
				}
				return fmt.Errorf("whether snapshot %q is left: %w", name, err)
			}))
		}
		if err != nil {
			return err
		}
		err = snapclone.Poll(ctx, func() (bool, error) {
			s, err := c.Snapshot(ctx, p.user, id)
			if err != nil {
				return false, err
			}
			switch s.Status {
			case snapclone.SnapshotDone:
				pr.Report(100, 100)
				return true, nil
			case snapclone.SnapshotPending:
				pr.Report(percent(s.Progress), 100)
				return false, nil
			case snapclone.SnapshotFailed:
				return false, fail(backstore.ClassMedium, "the SnapshotCloneServer could not take it (snapshot %s)", id)
			}
			return false, fail(backstore.ClassBusy, "somebody cancelled or deleted it (snapshot %s)", id)
		})
		if err == nil {
			return nil
		}
		return errors.Join(err, undo(ctx, func(ctx context.Context) error { return p.withdraw(ctx, c, id) }))
	})
}

// withdraw removes a snapshot that is being taken or has failed; what could not be undone is the error.
func (p *place) withdraw(ctx context.Context, c *snapclone.Client, id string) error {
	left := func(err error) error { return fmt.Errorf("snapshot %s is left: %w", id, err) }
	if err := c.CancelSnapshot(ctx, p.user, p.path, id); err != nil && snapclone.CodeOf(err) != snapclone.CancelFinished {
		return left(err)
	}
	deleting := false
	err := snapclone.Poll(ctx, func() (bool, error) {
		s, err := c.Snapshot(ctx, p.user, id)
		if snapclone.CodeOf(err) == snapclone.FileNotExist {
			return true, nil
		}
		if err == nil && !deleting && (s.Status == snapclone.SnapshotDone || s.Status == snapclone.SnapshotFailed) {
			err, deleting = c.DeleteSnapshot(ctx, p.user, p.path, id), true
		}
		return false, err
	})
	if err != nil {
		return left(err)
	}
	return nil
}

func percent(n int) int64 { return int64(min(max(n, 0), 99)) }

func listSnapshots(ctx context.Context, u *backstore.URI) (out []backstore.Snapshot, err error) {
	err = on("list snapshots", u, func(p *place) error {
		c, err := p.snapshots()
		if err != nil {
			return err
		}
		if _, err := p.m.Info(ctx, p.path, p.user); err != nil { // the SnapshotCloneServer does not mind
			return err
		}
		list, err := c.Snapshots(ctx, p.user, p.path)
		if err != nil {
			return err
		}
		for _, s := range list {
			if s.File != p.path {
				continue
			}
			o := backstore.Snapshot{Name: s.Name, ID: s.UUID, Size: max(s.FileLength, 0), Created: time.UnixMicro(s.Time), Clones: -1}
			switch s.Status {
			case snapclone.SnapshotDone:
				o.State = "ready"
			case snapclone.SnapshotPending:
				o.State = fmt.Sprintf("creating %d %%", percent(s.Progress))
			case snapclone.SnapshotDeleting, snapclone.SnapshotCanceling:
				o.State = fmt.Sprintf("deleting %d %%", percent(s.Progress))
			default:
				o.State = "error"
			}
			out = append(out, o)
		}
		slices.SortStableFunc(out, func(a, b backstore.Snapshot) int { return a.Created.Compare(b.Created) })
		return nil
	})
	return out, err
}

func deleteSnapshot(ctx context.Context, u *backstore.URI, name string, pr backstore.Progress) error {
	return on("delete snapshot", u, func(p *place) error {
		s, err := p.find(ctx, name)
		if err != nil {
			return err
		}
		if err := p.s.DeleteSnapshot(ctx, p.user, p.path, s.UUID); err != nil {
			return err
		}
		return snapclone.Poll(ctx, func() (bool, error) {
			now, err := p.s.Snapshot(ctx, p.user, s.UUID)
			switch {
			case snapclone.CodeOf(err) == snapclone.FileNotExist:
				pr.Report(100, 100)
				return true, nil
			case err != nil:
				return false, err
			case now.Status == snapclone.SnapshotErrorDeleting:
				return false, fail(backstore.ClassMedium, "the SnapshotCloneServer could not delete it (snapshot %s); try again", s.UUID)
			}
			pr.Report(percent(now.Progress), 100)
			return false, nil
		})
	})
}

// follow waits for a task. usable: a lazy clone that can be used is enough. The task of a caller that gives up goes on, and the error says so.
func (p *place) follow(ctx context.Context, id string, usable bool, pr backstore.Progress) error {
	err := snapclone.Poll(ctx, func() (bool, error) {
		t, err := p.s.Task(ctx, p.user, id)
		if err != nil {
			return false, err
		}
		switch t.TaskStatus {
		case snapclone.TaskDone:
			pr.Report(100, 100)
			return true, nil
		case snapclone.TaskMetaInstalled:
			if usable {
				pr.Report(100, 100)
				return true, nil
			}
		case snapclone.TaskFailed, snapclone.TaskErrorCleaning, snapclone.TaskCleaning:
			err := fail(backstore.ClassMedium, "the SnapshotCloneServer's task %s has failed; its log says why", id)
			if cerr := undo(ctx, func(ctx context.Context) error { return p.s.CleanTask(ctx, p.user, id) }); cerr != nil {
				err = errors.Join(err, fmt.Errorf("the task is left: %w", cerr))
			}
			return false, err
		}
		pr.Report(percent(t.Progress), 100)
		return false, nil
	})
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("the SnapshotCloneServer goes on with task %s: %w", id, err)
	}
	return err
}

func rollback(ctx context.Context, u *backstore.URI, name string, pr backstore.Progress) error {
	return on("rollback", u, func(p *place) error {
		s, err := p.find(ctx, name)
		if err == nil {
			err = p.unused(ctx) // the server takes a recover onto an open volume, and fails later
		}
		if err != nil {
			return err
		}
		id, err := p.s.Recover(ctx, p.user, s.UUID, p.path)
		if err != nil {
			return err
		}
		return p.follow(ctx, id, false, pr)
	})
}

// clone makes a lazy clone, which can be used at once and reads what it has not from the snapshot, until it is flattened.
func clone(ctx context.Context, u *backstore.URI, name string, to *backstore.URI, pr backstore.Progress) error {
	return on("clone", u, func(p *place) error {
		dest, err := parsePlace(to, true)
		if err != nil {
			return err
		}
		defer dest.close()
		switch {
		case name == "":
			return fail(backstore.ClassUnsupported, "a clone is made of a snapshot: take one, and name it")
		case dest.user != p.user:
			return fail(backstore.ClassUnsupported, "a clone belongs to its parent's owner, %s, not to %s", p.user, dest.user)
		}
		l, err := layout(to)
		if err != nil {
			return err
		}
		if l.StripeUnit != 0 {
			return fail(backstore.ClassUnsupported, "a clone is striped as its parent is")
		}
		s, err := p.find(ctx, name)
		if err != nil {
			return err
		}
		id, err := p.s.Clone(ctx, p.user, s.UUID, dest.path, true, l.Poolset)
		if err != nil {
			return err
		}
		return p.follow(ctx, id, true, pr)
	})
}

// flatten has the rest of a lazy clone copied. What is no clone depends on nothing.
func flatten(ctx context.Context, u *backstore.URI, pr backstore.Progress) error {
	return on("flatten", u, func(p *place) error {
		c, err := p.snapshots()
		if err != nil {
			return err
		}
		if _, err := p.m.Info(ctx, p.path, p.user); err != nil {
			return err
		}
		tasks, err := c.Tasks(ctx, p.user, "", p.path)
		if err != nil {
			return err
		}
		for _, t := range tasks {
			if t.File != p.path {
				continue
			}
			switch t.TaskStatus {
			case snapclone.TaskMetaInstalled:
				if err := c.Flatten(ctx, p.user, t.UUID); err != nil {
					return err
				}
			case snapclone.TaskCloning, snapclone.TaskRetrying: // somebody has begun already
			default:
				continue
			}
			if err := p.follow(ctx, t.UUID, false, pr); err != nil {
				return err
			}
		}
		pr.Report(100, 100)
		return nil
	})
}
