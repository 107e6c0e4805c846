package snapclone

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// A Snapshot is one as the server tells of it.
type Snapshot struct {
	UUID       string
	User       string
	File       string // the volume's path
	Name       string
	SeqNum     int64
	Time       int64 // µs since 1970
	FileLength int64 // bytes
	Status     SnapshotStatus
	Progress   int // percent
}

// A SnapshotStatus is what goes on with a snapshot.
type SnapshotStatus int

// Statuses of snapshots.
const (
	SnapshotDone SnapshotStatus = iota
	SnapshotPending
	SnapshotDeleting
	SnapshotErrorDeleting
	SnapshotCanceling
	SnapshotFailed
)

// A Task makes a clone, or rolls a volume back.
type Task struct {
	UUID       string
	User       string
	File       string // destination
	Src        string // the snapshot's UUID, or a volume's path
	TaskType   int    // 0 clone, 1 recover
	TaskStatus TaskStatus
	IsLazy     bool
	FileType   int // of Src: 0 volume, 1 snapshot
	Time       int64
	Progress   int // percent
}

// A TaskStatus is how far a task is.
type TaskStatus int

// Statuses of tasks.
const (
	TaskDone TaskStatus = iota
	TaskCloning
	TaskRecovering
	TaskCleaning
	TaskErrorCleaning
	TaskFailed
	TaskRetrying
	TaskMetaInstalled // a lazy clone that can be used, and depends on its source
)

// CreateSnapshot begins to take a snapshot and returns its UUID.
func (c *Client) CreateSnapshot(ctx context.Context, user, file, name string) (string, error) {
	a, err := c.call(ctx, "CreateSnapshot", false, "User", user, "File", file, "Name", name)
	return a.uuid("CreateSnapshot", err)
}

func (a *answer) uuid(action string, err error) (string, error) {
	if err == nil && (a.UUID == "" || len(a.UUID) > 128) {
		err = fmt.Errorf("%s: %w: it has no UUID", action, errAnswer)
	}
	if err != nil {
		return "", err
	}
	return a.UUID, nil
}

// CancelSnapshot stops one that is being taken, and has it removed.
func (c *Client) CancelSnapshot(ctx context.Context, user, file, uuid string) error {
	_, err := c.call(ctx, "CancelSnapshot", true, "User", user, "UUID", uuid, "File", file)
	return err
}

// DeleteSnapshot begins to delete one.
func (c *Client) DeleteSnapshot(ctx context.Context, user, file, uuid string) error {
	_, err := c.call(ctx, "DeleteSnapshot", true, "User", user, "UUID", uuid, "File", file)
	return err
}

// Snapshot asks for one; that it does not exist is code FileNotExist.
func (c *Client) Snapshot(ctx context.Context, user, uuid string) (Snapshot, error) {
	a, err := c.call(ctx, "GetFileSnapshotInfo", true, "User", user, "UUID", uuid)
	if err != nil {
		return Snapshot{}, err
	}
	for _, s := range a.Snapshots {
		if s.UUID == uuid {
			return s, nil
		}
	}
	return Snapshot{}, &Error{Code: FileNotExist, Text: "no such snapshot", Action: "GetFileSnapshotInfo"}
}

// Snapshots lists those of a volume.
func (c *Client) Snapshots(ctx context.Context, user, file string) ([]Snapshot, error) {
	var out []Snapshot
	for {
		a, err := c.call(ctx, "GetFileSnapshotInfo", true, "User", user, "File", file, "Limit", strconv.Itoa(page), "Offset", strconv.Itoa(len(out)))
		if CodeOf(err) == FileNotExist {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, a.Snapshots...)
		if len(a.Snapshots) < page {
			return out, nil
		}
		if len(out) >= maxList {
			return nil, fmt.Errorf("GetFileSnapshotInfo: %w: more than %d snapshots", errAnswer, maxList)
		}
	}
}

// Clone begins to make a volume of a snapshot and returns the task's UUID. A lazy one can be used at once, and reads its source.
func (c *Client) Clone(ctx context.Context, user, source, destination string, lazy bool, poolset string) (string, error) {
	params := []string{"User", user, "Source", source, "Destination", destination, "Lazy", strconv.FormatBool(lazy)}
	if poolset != "" {
		params = append(params, "Poolset", poolset)
	}
	a, err := c.call(ctx, "Clone", false, params...)
	return a.uuid("Clone", err)
}

// Recover begins to give a volume the contents of a snapshot and returns the task's UUID.
func (c *Client) Recover(ctx context.Context, user, source, destination string) (string, error) {
	a, err := c.call(ctx, "Recover", false, "User", user, "Source", source, "Destination", destination, "Lazy", "false")
	return a.uuid("Recover", err)
}

// Flatten begins to copy what a lazy clone still reads from its source.
func (c *Client) Flatten(ctx context.Context, user, task string) error {
	_, err := c.call(ctx, "Flatten", true, "User", user, "UUID", task)
	return err
}

// CleanTask removes a task that has ended and, of one that has failed, what it left.
func (c *Client) CleanTask(ctx context.Context, user, task string) error {
	_, err := c.call(ctx, "CleanCloneTask", true, "User", user, "UUID", task)
	return err
}

// Task asks for one; that it does not exist is code FileNotExist.
func (c *Client) Task(ctx context.Context, user, uuid string) (Task, error) {
	a, err := c.call(ctx, "GetCloneTasks", true, "User", user, "UUID", uuid)
	if err != nil {
		return Task{}, err
	}
	for _, t := range a.TaskInfos {
		if t.UUID == uuid {
			return t, nil
		}
	}
	return Task{}, &Error{Code: FileNotExist, Text: "no such task", Action: "GetCloneTasks"}
}

// Tasks lists a user's whose destination or source is as given; empty: any.
func (c *Client) Tasks(ctx context.Context, user, source, destination string) ([]Task, error) {
	params := []string{"User", user, "Limit", strconv.Itoa(page), "Offset", ""}
	if source != "" {
		params = append(params, "Source", source)
	}
	if destination != "" {
		params = append(params, "Destination", destination)
	}
	var out []Task
	for {
		params[5] = strconv.Itoa(len(out))
		a, err := c.call(ctx, "GetCloneTaskList", true, params...)
		if CodeOf(err) == FileNotExist {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, a.TaskInfos...)
		if len(a.TaskInfos) < page {
			return out, nil
		}
		if len(out) >= maxList {
			return nil, fmt.Errorf("GetCloneTaskList: %w: more than %d tasks", errAnswer, maxList)
		}
	}
}

// Pauses between two looks at a task.
const (
	minPoll = 50 * time.Millisecond
	maxPoll = 2 * time.Second
)

// Poll calls look until it says that it is done, fails, or ctx ends.
func Poll(ctx context.Context, look func() (done bool, err error)) error {
	for wait := minPoll; ; wait = min(wait*3/2, maxPoll) {
		if done, err := look(); done || err != nil {
			return err
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
}
