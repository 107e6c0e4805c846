package curve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	cluster "github.com/lunar-iscsi/lunar/test/curve"
	"github.com/lunar-iscsi/lunar/test/nebd"
)

const volumeGiB = int64(1) << 30

// An admin is a cluster, with nebd-server and administration, and the driver's functions.
type admin struct {
	*bench
	c    *cluster.Cluster
	v    *backstore.Volumes
	step atomic.Pointer[func(task, uuid string, percent int) error]
	pass string // file with root's password
}

func newAdmin(t *testing.T) *admin {
	t.Helper()
	a := &admin{v: Driver().Volumes}
	a.bench = newBench(t, func(c *nebd.Config) { c.Segment = volumeGiB })
	var err error
	a.c, err = cluster.Start(cluster.Config{Pool: a.pool, Freeze: func(string) func() { return a.srv.Freeze() },
		Step: func(task, uuid string, percent int) error {
			if f := a.step.Load(); f != nil {
				return (*f)(task, uuid, percent)
			}
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.c.Close)
	a.must(os.MkdirAll(filepath.Join(a.dir, "locks"), 0o755))
	a.pass = filepath.Join(a.dir, "password")
	if err := os.WriteFile(a.pass, []byte("root_password\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *admin) onStep(f func(task, uuid string, percent int) error) { a.step.Store(&f) }

// u names something of the cluster; more are further options, each with its "&".
func (a *admin) u(name, more string) *backstore.URI {
	a.t.Helper()
	u, err := backstore.ParseURI(fmt.Sprintf("cbd:%s?socket=%s&lockdir=%s&mds=127.0.0.1:1,%s&snapshot=127.0.0.1:1,%s%s", name, filepath.Join(a.dir, "s"), filepath.Join(a.dir, "locks"), a.c.MDS, a.c.Snap, more))
	if err != nil {
		a.t.Fatal(err)
	}
	return u
}

func (a *admin) root(name string) *backstore.URI { return a.u(name, "&passwordfile="+a.pass) }

func (a *admin) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

func (a *admin) want(err error, c backstore.Class, what string) {
	a.t.Helper()
	var be *backstore.Error
	if !errors.As(err, &be) || error(be) != err || be.Class != c { //nolint:errorlint // itself
		a.t.Errorf("%s: %v, want a *backstore.Error: %v", what, err, c)
	}
}

// put writes text at the start of a volume, through nebd-server; get reads as much.
func (a *admin) put(u *backstore.URI, text string) { a.io(u, backstore.Write, text) }

func (a *admin) get(u *backstore.URI, want string) {
	a.t.Helper()
	if got := a.io(u, backstore.Read, strings.Repeat("\x00", len(want))); got != want {
		a.t.Errorf("%s has %q, want %q", u.Shown(), got, want)
	}
}

func (a *admin) io(u *backstore.URI, op backstore.Op, text string) string {
	a.t.Helper()
	ctx := context.Background()
	c, err := parse(u, backstore.Options{})
	a.must(err)
	st, err := a.p.open(ctx, c, nil)
	a.must(err)
	done := make(chan struct{})
	r := &backstore.Request{Op: op, Len: 4096, Buf: make([]byte, 4096), C: completer(func() { close(done) })}
	copy(r.Buf, text)
	if st.Submit(r) == backstore.Pending {
		st.Kick()
		<-done
	}
	a.must(r.Err)
	a.must(st.Close(ctx))
	return string(r.Buf[:len(text)])
}

type completer func()

func (c completer) Complete(*backstore.Request) { c() }

// The life of a volume, its snapshots and clones.
func TestVolumes(t *testing.T) {
	a, ctx := newAdmin(t), context.Background()
	v := a.v
	vol := a.u("pool//vol_user_", "")
	a.want(v.Create(ctx, vol, 5*volumeGiB, nil), backstore.ClassRange, "5 GiB")
	a.want(v.Create(ctx, vol, 10*volumeGiB+4096, nil), backstore.ClassRange, "an odd size")
	a.want(v.Create(ctx, a.u("pool//vol_user_", "&stripeunit=1M&stripecount=3"), 10*volumeGiB, nil), backstore.ClassRange, "three stripes")
	a.want(v.Create(ctx, a.u("pool//no/vol_user_", ""), 10*volumeGiB, nil), backstore.ClassNotFound, "in no directory")
	a.want(v.Create(ctx, a.u("pool//vol_user_", "&poolset=no"), 10*volumeGiB, nil), backstore.ClassNotFound, "in no poolset")
	a.must(v.Create(ctx, a.u("pool//vol_user_", "&stripeunit=1M&stripecount=4"), 10*volumeGiB, nil))
	a.want(v.Create(ctx, vol, 10*volumeGiB, nil), backstore.ClassBusy, "create it again")
	a.put(vol, "one")
	s, err := v.Stat(ctx, vol)
	if a.must(err); s.Size != 10*volumeGiB || s.Name != "/vol" || s.InUse != "" || s.Created.IsZero() {
		t.Errorf("stat: %+v", s)
	}
	if got, err := backstore.ParseURI(s.URI); err != nil || got.Path != vol.Path || got.String() != vol.String() {
		t.Errorf("its URI is %s, was %s", s.URI, vol)
	}
	a.want(stat(v, a.u("pool//vol_other_", "")), backstore.ClassReadOnly, "another's")

	a.must(v.Resize(ctx, vol, 12*volumeGiB, false, nil))
	a.want(v.Resize(ctx, vol, 10*volumeGiB, true, nil), backstore.ClassUnsupported, "shrink")

	// Snapshots.
	var progress []int64
	a.must(v.Snapshot(ctx, vol, "s1", func(done, total int64) {
		if total != 100 {
			t.Errorf("progress of %d", total)
		}
		progress = append(progress, done)
	}))
	if len(progress) == 0 || progress[len(progress)-1] != 100 || !slices.IsSorted(progress) {
		t.Errorf("progress %v", progress)
	}
	a.want(v.Snapshot(ctx, vol, "s1", nil), backstore.ClassBusy, "a name that is taken")
	a.want(v.Snapshot(ctx, a.u("pool//no_user_", ""), "s", nil), backstore.ClassNotFound, "of no volume")
	a.put(vol, "two")
	a.must(v.Snapshot(ctx, vol, "s2", nil))
	list, err := v.Snapshots(ctx, vol)
	if a.must(err); len(list) != 2 || list[0].Name != "s1" || list[0].ID == "" || list[1].Name != "s2" || list[0].Size != 12*volumeGiB || list[0].State != "ready" {
		t.Errorf("snapshots: %+v", list)
	}
	a.want(v.Delete(ctx, vol, backstore.Deletion{}, nil), backstore.ClassBusy, "delete with snapshots")

	// Clones.
	to := a.u("pool//clone_user_", "")
	a.want(v.Clone(ctx, vol, "", to, nil), backstore.ClassUnsupported, "a clone of no snapshot")
	a.want(v.Clone(ctx, vol, "s9", to, nil), backstore.ClassNotFound, "a clone of a snapshot that is not there")
	a.want(v.Clone(ctx, vol, "s1", a.u("pool//clone_other_", ""), nil), backstore.ClassUnsupported, "a clone for another")
	a.must(v.Clone(ctx, vol, "s1", to, nil))
	a.want(v.Clone(ctx, vol, "s1", to, nil), backstore.ClassBusy, "a clone onto a volume")
	a.get(to, "one")
	a.put(to, "own")
	a.get(vol, "two")
	s, err = v.Stat(ctx, to)
	if a.must(err); s.Parent != list[0].ID || s.Size != 12*volumeGiB {
		t.Errorf("stat of a clone: %+v", s)
	}
	a.want(v.DeleteSnapshot(ctx, vol, "s1", nil), backstore.ClassBusy, "delete what a clone needs")
	a.must(v.Flatten(ctx, to, nil))
	a.must(v.Flatten(ctx, to, nil)) // there is nothing to do
	a.must(v.Flatten(ctx, vol, nil))
	if s, err = v.Stat(ctx, to); err != nil || s.Parent != "" {
		t.Errorf("stat of a flat clone: %+v, %v", s, err)
	}
	a.get(to, "own")

	// In use.
	c, err := parse(vol, backstore.Options{})
	a.must(err)
	st, err := a.p.open(ctx, c, nil)
	a.must(err)
	if s, err = v.Stat(ctx, vol); err != nil || s.InUse != "127.0.0.1:9000" {
		t.Errorf("stat of an open one: %+v, %v", s, err)
	}
	a.want(v.Rollback(ctx, vol, "s1", nil), backstore.ClassBusy, "rollback of an open volume")
	a.must(v.Snapshot(ctx, vol, "s3", nil))
	a.must(v.DeleteSnapshot(ctx, vol, "s3", nil))
	a.must(st.Close(ctx))

	a.must(v.Rollback(ctx, vol, "s1", nil))
	a.get(vol, "one")
	a.must(v.DeleteSnapshot(ctx, vol, list[0].ID, nil)) // an id is as good as a name
	a.must(v.DeleteSnapshot(ctx, vol, "s2", nil))
	a.want(v.DeleteSnapshot(ctx, vol, "s2", nil), backstore.ClassNotFound, "delete it again")
}

func stat(v *backstore.Volumes, u *backstore.URI) error {
	_, err := v.Stat(context.Background(), u)
	return err
}

// Lists and the recycle bin, which are root's.
func TestTrash(t *testing.T) {
	a, ctx := newAdmin(t), context.Background()
	v := a.v
	a.must(os.Mkdir(filepath.Join(a.dir, "pool", "dir"), 0o755))
	for _, name := range []string{"pool//dir/a_b_user_", "pool//x_user_", "pool//y_other_"} {
		a.must(v.Create(ctx, a.u(name, ""), 10*volumeGiB, nil))
	}
	_, err := v.List(ctx, a.u("pool/", ""))
	a.want(err, backstore.ClassReadOnly, "list without root's password")
	for name, want := range map[string]string{"": "/x /y", "pool": "/x /y", "pool/": "/x /y", "pool//dir": "/dir/a_b", "pool//dir_user_": "/dir/a_b", "pool//x_user_": "/x"} {
		list, err := v.List(ctx, a.root(name))
		a.must(err)
		var names []string
		for _, l := range list {
			names = append(names, l.Name)
			u, err := backstore.ParseURI(l.URI)
			a.must(err)
			a.must(stat(v, u))
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("list of %q: %s, want %s", name, got, want)
		}
	}
	x := a.u("pool//x_user_", "")
	a.put(x, "x's")
	if list, err := v.Trash(ctx, a.root("")); err != nil || len(list) != 0 {
		t.Errorf("trash before: %+v, %v", list, err)
	}
	c, err := parse(x, backstore.Options{})
	a.must(err)
	st, err := a.p.open(ctx, c, nil)
	a.must(err)
	a.want(v.Delete(ctx, x, backstore.Deletion{}, nil), backstore.ClassBusy, "delete what is open")
	a.must(st.Close(ctx))
	a.want(v.Delete(ctx, x, backstore.Deletion{Purge: true}, nil), backstore.ClassReadOnly, "purge without root's password")
	a.must(v.Delete(ctx, x, backstore.Deletion{}, nil))
	a.want(v.Delete(ctx, x, backstore.Deletion{}, nil), backstore.ClassNotFound, "delete it again")
	list, err := v.Trash(ctx, a.root(""))
	if a.must(err); len(list) != 1 || list[0].Name != "/x" || list[0].Size != 10*volumeGiB || list[0].Deleted.IsZero() {
		t.Fatalf("trash: %+v", list)
	}
	if other, err := v.Trash(ctx, a.root("pool//dir")); err != nil || len(other) != 0 {
		t.Errorf("trash of another directory: %+v, %v", other, err)
	}
	// The owner restores it, without root.
	uri, err := v.Restore(ctx, a.u("pool//_user_", ""), list[0].ID)
	a.must(err)
	if uri != x.String() {
		t.Errorf("restored as %s, was %s", uri, x)
	}
	a.get(x, "x's")
	a.must(v.Delete(ctx, x, backstore.Deletion{}, nil))
	list, err = v.Trash(ctx, a.root(""))
	a.must(err)
	z := a.u("pool//z_user_", "")
	if uri, err = v.Restore(ctx, z, list[0].ID); err != nil || uri != z.String() {
		t.Errorf("restored under another name: %s, %v", uri, err)
	}
	a.get(z, "x's")
	a.must(v.Delete(ctx, a.root("pool//z_user_"), backstore.Deletion{Purge: true}, nil))
	_, err = v.Restore(ctx, z, list[0].ID)
	a.want(err, backstore.ClassNotFound, "restore what was purged")
	a.must(v.Delete(ctx, a.u("pool//y_other_", ""), backstore.Deletion{}, nil))
	list, err = v.Trash(ctx, a.root("pool//y_other_"))
	if a.must(err); len(list) != 1 {
		t.Fatalf("trash: %+v", list)
	}
	a.must(v.Purge(ctx, a.root(""), list[0].ID, nil))
	a.want(v.Purge(ctx, a.root(""), list[0].ID, nil), backstore.ClassNotFound, "purge it again")
	for _, bad := range []string{"", "x", "/x", "0/x", "-1/x", "99999999999999999999999/x"} {
		a.want(v.Purge(ctx, a.root(""), bad, nil), backstore.ClassRange, "purge "+bad)
	}
	if list, err := v.Trash(ctx, a.root("")); err != nil || len(list) != 0 {
		t.Errorf("trash in the end: %+v, %v", list, err)
	}
	wrong := filepath.Join(a.dir, "wrong")
	a.must(os.WriteFile(wrong, []byte("guess\n"), 0o600))
	_, err = v.List(ctx, a.u("pool/", "&passwordfile="+wrong))
	a.want(err, backstore.ClassReadOnly, "a wrong password")
}

// A snapshot whose caller gives up, or that fails, is not left behind.
func TestSnapshotWithdrawn(t *testing.T) {
	a := newAdmin(t)
	vol := a.u("pool//vol_user_", "")
	a.must(a.v.Create(context.Background(), vol, 10*volumeGiB, nil))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	a.onStep(func(task, _ string, percent int) error {
		if task == "snapshot" && percent == 50 {
			cancel()
		}
		return nil
	})
	err := a.v.Snapshot(ctx, vol, "s", nil)
	// It may have been finished before the cancelling was seen.
	if err != nil {
		a.want(err, backstore.ClassCancelled, "a snapshot that is cancelled")
		a.none(vol)
	} else {
		a.must(a.v.DeleteSnapshot(context.Background(), vol, "s", nil))
	}
	failed := errors.New("no object store")
	a.onStep(func(task, _ string, percent int) error {
		if task == "snapshot" && percent == 50 {
			return failed
		}
		return nil
	})
	a.want(a.v.Snapshot(context.Background(), vol, "s", nil), backstore.ClassMedium, "a snapshot that fails")
	a.none(vol)
	a.onStep(func(string, string, int) error { return nil })
	a.must(a.v.Snapshot(context.Background(), vol, "s", nil))
	a.onStep(func(string, string, int) error { return failed })
	a.want(a.v.Clone(context.Background(), vol, "s", a.u("pool//c_user_", ""), nil), backstore.ClassMedium, "a clone that fails")
	a.want(stat(a.v, a.u("pool//c_user_", "")), backstore.ClassNotFound, "what it left")
	a.want(a.v.Rollback(context.Background(), vol, "s", nil), backstore.ClassMedium, "a rollback that fails")
	a.want(a.v.DeleteSnapshot(context.Background(), vol, "s", nil), backstore.ClassMedium, "a deletion that fails")
	a.onStep(func(string, string, int) error { return nil })
	a.must(a.v.DeleteSnapshot(context.Background(), vol, "s", nil))
	a.none(vol)
}

func (a *admin) none(vol *backstore.URI) {
	a.t.Helper()
	if list, err := a.v.Snapshots(context.Background(), vol); err != nil || len(list) != 0 {
		a.t.Errorf("snapshots are left: %+v, %v", list, err)
	}
}

// A snapshot that is held half way can be seen and is cancelled; a caller that gives up does not wait for the task.
func TestSnapshotPending(t *testing.T) {
	a := newAdmin(t)
	vol := a.u("pool//vol_user_", "")
	a.must(a.v.Create(context.Background(), vol, 10*volumeGiB, nil))
	reached, release := make(chan struct{}), make(chan struct{})
	a.onStep(func(task, _ string, percent int) error {
		if percent == 30 {
			close(reached)
			<-release
		}
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- a.v.Snapshot(ctx, vol, "s", nil) }()
	<-reached
	list, err := a.v.Snapshots(context.Background(), vol)
	if a.must(err); len(list) != 1 || list[0].State != "creating 20 %" {
		t.Errorf("a pending snapshot: %+v", list)
	}
	a.want(a.v.Clone(context.Background(), vol, "s", a.u("pool//c_user_", ""), nil), backstore.ClassBusy, "a clone of a pending snapshot")
	a.want(a.v.DeleteSnapshot(context.Background(), vol, "s", nil), backstore.ClassBusy, "delete a pending snapshot")
	a.want(a.v.Resize(context.Background(), vol, 11*volumeGiB, false, nil), backstore.ClassBusy, "resize while a snapshot is taken")
	cancel()
	for { // its cancelling is there to be seen
		list, err = a.v.Snapshots(context.Background(), vol)
		if a.must(err); len(list) == 1 && strings.HasPrefix(list[0].State, "deleting") {
			break
		}
	}
	close(release)
	a.want(<-done, backstore.ClassCancelled, "the snapshot")
	a.none(vol)
}

// What a URI must have for volumes, and what it may not.
func TestPlace(t *testing.T) {
	dir := t.TempDir()
	long := filepath.Join(dir, "long")
	if err := os.WriteFile(long, make([]byte, 2000), 0o600); err != nil {
		t.Fatal(err)
	}
	v := volumes()
	for _, s := range []string{"cbd:pool//v_u_", "cbd:pool//v_u_?mds=", "cbd:pool//v_u_?mds=host", "cbd:pool//v_u_?mds=h:1,", "cbd:pool//v_u_?mds=h:1&snapshot=x", "cbd:pool//v?mds=h:1", "cbd:pool//a/../v_u_?mds=h:1",
		"cbd:pool//v_u_?mds=h:1&passwordfile=/no", "cbd:pool//v_u_?mds=h:1&passwordfile=" + long, "cbd://host/v_u_?mds=h:1"} {
		u, err := backstore.ParseURI(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := stat(v, u); backstore.ClassOf(err) != backstore.ClassUnsupported {
			t.Errorf("%s: %v", s, err)
		}
	}
	u, err := backstore.ParseURI("cbd:pool//v_u_?mds=h:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Snapshot(context.Background(), u, "s", nil); backstore.ClassOf(err) != backstore.ClassUnsupported || !strings.Contains(err.Error(), "snapshot=HOST") {
		t.Errorf("without the option snapshot: %v", err)
	}
}
