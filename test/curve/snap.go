package curve

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore/curve/mds"
	sc "github.com/lunar-iscsi/lunar/backstore/curve/snapclone"
	"github.com/lunar-iscsi/lunar/test/nebd"
)

// objects is the folder that stands for the object store.
const objects = ".objects"

// maxSnapshots is how many snapshots a volume may have.
const maxSnapshots = 1024

type snapshot struct {
	sc.Snapshot
	cancel bool
}

type job struct {
	sc.Task
	NextStep int
}

// A refusal is a code of the SnapshotCloneServer.
type refusal struct {
	code sc.Code
	text string
}

func (r refusal) Error() string { return r.text }

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (c *Cluster) object(uuid string) string { return filepath.Join(c.cfg.Pool.Dir(), objects, uuid) }

// snapping reports whether a snapshot of a volume is being taken; cloned, whether lazy clones need the volume.
func (c *Cluster) snapping(volume string) bool {
	for _, s := range c.snaps {
		if s.File == volume && (s.Status == sc.SnapshotPending || s.Status == sc.SnapshotCanceling) {
			return true
		}
	}
	return false
}

func (c *Cluster) cloned(volume string) bool {
	for _, j := range c.jobs {
		if j.Src == volume && j.TaskStatus != sc.TaskDone && j.TaskStatus != sc.TaskFailed {
			return true
		}
	}
	return false
}

// serve answers one call of the SnapshotCloneServer.
func (c *Cluster) serve(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	reply := map[string]any{"Code": "0", "Message": "Exec success.", "RequestId": newUUID()}
	c.mu.Lock()
	err := c.act(q.Get, reply)
	text, jerr := json.MarshalIndent(reply, "", "\t")
	c.mu.Unlock()
	status := http.StatusOK
	if err = errors.Join(err, jerr); err != nil {
		var ref refusal
		code := sc.Internal
		if errors.As(err, &ref) {
			code = ref.code
		}
		status = http.StatusInternalServerError
		if code == sc.BadRequest {
			status = http.StatusBadRequest
		}
		text, _ = json.MarshalIndent(map[string]any{"Code": strconv.Itoa(int(code)), "Message": err.Error(), "RequestId": reply["RequestId"]}, "", "\t") // strings
	}
	w.WriteHeader(status)
	_, _ = w.Write(text) // a client that is gone wants no answer
}

func (c *Cluster) act(get func(string) string, reply map[string]any) error {
	user, uuid, file := get("User"), get("UUID"), get("File")
	bad := refusal{sc.BadRequest, "Bad request."}
	if get("Version") != "0.0.6" {
		return bad
	}
	action := get("Action")
	if user == "" && !strings.HasSuffix(action, "List") {
		return bad
	}
	switch action {
	case "CreateSnapshot":
		if file == "" || get("Name") == "" {
			return bad
		}
		id, err := c.createSnapshot(user, file, get("Name"))
		reply["UUID"] = id
		return err
	case "DeleteSnapshot", "CancelSnapshot":
		return c.endSnapshot(user, uuid, file, action == "CancelSnapshot")
	case "GetFileSnapshotInfo", "GetFileSnapshotList":
		var all []sc.Snapshot
		for _, s := range c.snaps {
			if (user == "" || s.User == user) && (file == "" || s.File == file) && (uuid == "" || s.UUID == uuid) {
				all = append(all, s.Snapshot)
			}
		}
		sort.Slice(all, func(i, j int) bool { return all[i].Time < all[j].Time })
		if uuid != "" && len(all) == 0 {
			return refusal{sc.FileNotExist, "File not exist."}
		}
		reply["TotalCount"], reply["Snapshots"] = len(all), paged(all, get)
		return nil
	case "Clone", "Recover":
		if get("Source") == "" || get("Destination") == "" || get("Lazy") == "" {
			return bad
		}
		lazy := get("Lazy") == "true" || get("Lazy") == "1"
		id, err := c.clone(user, get("Source"), get("Destination"), lazy, action == "Recover")
		reply["UUID"] = id
		return err
	case "Flatten":
		return c.flatten(user, uuid)
	case "GetCloneTasks", "GetCloneTaskList":
		var all []sc.Task
		for _, j := range c.jobs {
			if (user == "" || j.User == user) && (uuid == "" || j.UUID == uuid) && (file == "" || j.File == file) && (get("Source") == "" || j.Src == get("Source")) && (get("Destination") == "" || j.File == get("Destination")) {
				all = append(all, j.Task)
			}
		}
		sort.Slice(all, func(i, j int) bool { return all[i].Time < all[j].Time })
		if uuid != "" && len(all) == 0 {
			return refusal{sc.FileNotExist, "File not exist."}
		}
		reply["TotalCount"], reply["TaskInfos"] = len(all), paged(all, get)
		return nil
	case "CleanCloneTask":
		j := c.jobs[uuid]
		switch {
		case j == nil:
			return nil
		case j.User != user:
			return refusal{sc.InvalidUser, "Invalid user."}
		case j.TaskStatus != sc.TaskDone && j.TaskStatus != sc.TaskFailed:
			return refusal{sc.CleanEarly, "Cannot clean task unfinished."}
		}
		delete(c.jobs, uuid)
		return nil
	}
	return bad
}

// paged cuts a page out of a list.
func paged[T any](all []T, get func(string) string) []T {
	limit, err := strconv.Atoi(get("Limit"))
	if err != nil || limit <= 0 {
		limit = 10
	}
	offset, err := strconv.Atoi(get("Offset"))
	if err != nil || offset < 0 {
		offset = 0
	}
	offset = min(offset, len(all))
	return all[offset:min(offset+limit, len(all))]
}

// start runs a task: work is called without the lock, then end with it.
func (c *Cluster) start(task, uuid string, progress func(int), work func() error, end func(error)) {
	c.tasks.Add(1)
	go func() {
		defer c.tasks.Done()
		err := work()
		for p := 0; p < 100 && err == nil; p += 10 {
			err = c.cfg.Step(task, uuid, p)
			c.mu.Lock()
			progress(p)
			if c.gone && err == nil {
				err = errors.New("the server ends")
			}
			c.mu.Unlock()
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		end(err)
	}()
}

func (c *Cluster) createSnapshot(user, file, name string) (string, error) {
	m, err := c.load(file)
	if err != nil {
		return "", refusal{sc.FileNotExist, "File not exist."}
	}
	if m.Owner != "" && m.Owner != user {
		return "", refusal{sc.InvalidUser, "Invalid user."}
	}
	if m.Status != mds.FileCreated && m.Status != mds.Cloned {
		return "", refusal{sc.FileStatus, "File status invalid."}
	}
	n := 0
	for _, s := range c.snaps {
		if s.File != file {
			continue
		}
		n++
		if s.Status == sc.SnapshotPending && s.Name == name && s.User == user {
			return "", refusal{sc.TaskExists, "Task already exist."}
		}
		if s.Status == sc.SnapshotFailed {
			return "", refusal{sc.SnapshotError, "Cannot create snapshot when error exist."}
		}
	}
	if n >= maxSnapshots {
		return "", refusal{sc.Limit, "Snapshot count reach the limit."}
	}
	data, err := c.cfg.Pool.Data(file)
	if err != nil {
		return "", err
	}
	s := &snapshot{Snapshot: sc.Snapshot{UUID: newUUID(), User: user, File: file, Name: name, SeqNum: int64(n) + 1, Time: time.Now().UnixMicro(), FileLength: m.Size, Status: sc.SnapshotPending}}
	c.snaps[s.UUID] = s
	c.start("snapshot", s.UUID, func(p int) { s.Progress = p }, func() error {
		thaw := c.cfg.Freeze(file)
		defer thaw()
		return copySparse(c.object(s.UUID), data)
	}, func(err error) {
		switch {
		case s.cancel:
			delete(c.snaps, s.UUID)
			_ = os.Remove(c.object(s.UUID)) // it may not be there yet
		case err != nil:
			s.Status = sc.SnapshotFailed
		default:
			s.Status, s.Progress = sc.SnapshotDone, 100
		}
	})
	return s.UUID, nil
}

func (c *Cluster) endSnapshot(user, uuid, file string, cancel bool) error {
	s := c.snaps[uuid]
	switch {
	case s == nil && !cancel:
		return nil // deleted already
	case s == nil:
		return refusal{sc.CancelFinished, "Cannot cancel finished."}
	case s.User != user:
		return refusal{sc.InvalidUser, "Invalid user."}
	case file != "" && file != s.File:
		return refusal{sc.NameMismatch, "File name not match."}
	case cancel && s.Status != sc.SnapshotPending:
		return refusal{sc.CancelFinished, "Cannot cancel finished."}
	case cancel:
		s.Status, s.cancel = sc.SnapshotCanceling, true
		return nil
	case s.Status == sc.SnapshotPending || s.Status == sc.SnapshotCanceling:
		return refusal{sc.Unfinished, "Cannot delete unfinished."}
	case s.Status == sc.SnapshotDeleting:
		return nil
	}
	if c.cloned(uuid) {
		return refusal{sc.InUse, "Cannot delete when using."}
	}
	s.Status = sc.SnapshotDeleting
	c.start("delete", uuid, func(p int) { s.Progress = p }, func() error { return nil }, func(err error) {
		if err != nil {
			s.Status = sc.SnapshotErrorDeleting
			return
		}
		delete(c.snaps, uuid)
		_ = os.Remove(c.object(uuid)) // of a failed one there may be none
	})
	return nil
}

// clone makes a volume of a snapshot or of a volume, or puts a snapshot in the place of one.
func (c *Cluster) clone(user, source, destination string, lazy, recover bool) (string, error) {
	from, size, fileType := "", int64(0), 1
	if s := c.snaps[source]; s != nil {
		switch {
		case s.User != user:
			return "", refusal{sc.InvalidUser, "Invalid user."}
		case s.Status != sc.SnapshotDone:
			return "", refusal{sc.InvalidSnap, "Invalid snapshot."}
		case recover && s.File != destination:
			return "", refusal{sc.InvalidSnap, "Invalid snapshot."}
		}
		from, size = c.object(source), s.FileLength
	} else {
		m, err := c.load(source)
		if err != nil || recover {
			return "", refusal{sc.FileNotExist, "File not exist."}
		}
		if m.Owner != "" && m.Owner != user {
			return "", refusal{sc.InvalidUser, "Invalid user."}
		}
		if from, err = c.cfg.Pool.Data(source); err != nil {
			return "", err
		}
		size, fileType = m.Size, 0
	}
	m, err := c.load(destination)
	switch {
	case recover && err != nil:
		return "", refusal{sc.FileNotExist, "File not exist."}
	case recover && m.Owner != "" && m.Owner != user:
		return "", refusal{sc.InvalidUser, "Invalid user."}
	case !recover && err == nil:
		return "", refusal{sc.FileExist, "File exist."}
	case !recover && (strings.Contains(destination, "/.") || !c.isDir(filepath.Dir(destination))):
		return "", refusal{sc.FileNotExist, "File not exist."}
	}
	j := &job{Task: sc.Task{UUID: newUUID(), User: user, File: destination, Src: source, TaskStatus: sc.TaskCloning, IsLazy: lazy, FileType: fileType, Time: time.Now().UnixMicro()}}
	if recover {
		j.TaskType, j.TaskStatus = 1, sc.TaskRecovering
	}
	c.jobs[j.UUID] = j
	target, err := c.cfg.Pool.Data(destination)
	if err != nil {
		return "", err
	}
	name := map[bool]string{false: "clone", true: "recover"}[recover]
	temp := c.object(j.UUID)
	c.start(name, j.UUID, func(p int) { j.Progress = p }, func() error { return copySparse(temp, from) }, func(err error) {
		if err == nil {
			err = c.place(j, temp, target, size, recover)
		}
		if err != nil {
			j.TaskStatus = sc.TaskFailed
			_ = os.Remove(temp) // it may not be there
		}
	})
	return j.UUID, nil
}

// place ends a clone or recover: what was copied becomes the volume.
func (c *Cluster) place(j *job, temp, target string, size int64, recover bool) error {
	m := meta{Volume: nebd.Volume{Owner: j.User, Block: nebd.DefaultBlock}, ID: c.newID(), Created: time.Now().UnixMicro()}
	if recover {
		if busy, err := c.cfg.Pool.InUse(j.File); err != nil || busy {
			return errors.Join(err, errors.New("it is open"))
		}
		old, err := c.load(j.File)
		if err != nil {
			return err
		}
		m = old
		m.ID = c.newID()
	}
	j.TaskStatus, j.Progress = sc.TaskDone, 100
	if j.IsLazy && !recover {
		j.TaskStatus, m.Status, m.Source = sc.TaskMetaInstalled, mds.MetaCloned, j.Src
	}
	if err := os.Truncate(temp, size); err != nil {
		return err
	}
	if err := c.save(j.File, m); err != nil {
		return err
	}
	return os.Rename(temp, target)
}

func (c *Cluster) flatten(user, uuid string) error {
	j := c.jobs[uuid]
	switch {
	case j == nil:
		return refusal{sc.FileNotExist, "File not exist."}
	case j.User != user:
		return refusal{sc.InvalidUser, "Invalid user."}
	case j.TaskStatus == sc.TaskDone:
		return nil
	case j.TaskStatus != sc.TaskMetaInstalled:
		return refusal{sc.FileStatus, "File status invalid."}
	}
	j.TaskStatus = sc.TaskCloning
	c.start("flatten", uuid, func(p int) { j.Progress = p }, func() error { return nil }, func(err error) {
		if err != nil {
			j.TaskStatus = sc.TaskFailed
			return
		}
		j.TaskStatus, j.Progress = sc.TaskDone, 100
		if m, err := c.load(j.File); err == nil {
			m.Status, m.Source = mds.Cloned, ""
			_ = c.save(j.File, m) // the next look at it says that it is a clone still
		}
	})
	return nil
}

// copySparse copies what holds data.
func copySparse(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	err = dst.Truncate(fi.Size())
	for off := int64(0); err == nil && off < fi.Size(); {
		var hole int64
		if off, err = unix.Seek(int(src.Fd()), off, unix.SEEK_DATA); err != nil {
			if errors.Is(err, unix.ENXIO) { // nothing behind
				err = nil
			}
			break
		}
		if hole, err = unix.Seek(int(src.Fd()), off, unix.SEEK_HOLE); err != nil {
			break
		}
		b := make([]byte, 1<<20)
		for err == nil && off < hole {
			n := min(int64(len(b)), hole-off)
			if _, err = src.ReadAt(b[:n], off); err == nil {
				_, err = dst.WriteAt(b[:n], off)
			}
			off += n
		}
	}
	return errors.Join(err, dst.Close())
}
