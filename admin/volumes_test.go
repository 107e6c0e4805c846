package admin

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/test/volumes"
)

// A volumeRig is a rig with an engine of "fake:" volumes, which must have nothing to say against it in the end.
type volumeRig struct {
	*rig
	engine *volumes.Engine
}

func newVolumeRig(t *testing.T, state *testState, change ...func(*Config, *volumes.Engine)) *volumeRig {
	t.Helper()
	e := volumes.New("fake")
	r := newRig(t, state, func(c *Config) {
		for _, f := range change {
			f(c, e)
		}
		c.Registry = backstore.NewRegistry(append(testRegistry().Drivers(), e.Driver())...)
	})
	t.Cleanup(func() {
		for _, w := range e.Wrongs() {
			t.Error("the engine was wronged:", w)
		}
	})
	return &volumeRig{r, e}
}

func snapshotters(_ *Config, e *volumes.Engine) { e.Snapshotters = true }

// create makes volumes of 64 KiB.
func (r *volumeRig) create(names ...string) {
	r.t.Helper()
	for _, n := range names {
		_, err := r.CreateVolume(r.ctx(), "fake:"+n, 64<<10, nil)
		r.ok(err)
	}
}

// serve makes a target with a LUN 1.
func (r *volumeRig) serve(name, uri string) Ref {
	r.t.Helper()
	t, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + name, Access: everybody(), LUNs: []spec.LUN{{Number: 1, Volume: uri}}})
	r.ok(err)
	return Ref{TID: t.TID}
}

// refusedVolume is refused, and nothing of the engine's may have changed either.
func (r *volumeRig) refusedVolume(code Code, do func() error) error {
	r.t.Helper()
	before := r.engine.Words()
	err := r.refused(code, do)
	if now := r.engine.Words(); now != before {
		r.t.Fatalf("refused with %v, and yet:\n%s\nwas\n%s", err, now, before)
	}
	return err
}

// begin begins something that stops half way, and returns where, and how it ends.
func (r *volumeRig) begin(op string, do func(ctx context.Context) error) (*volumes.Point, context.CancelFunc, chan error) {
	r.t.Helper()
	at := r.engine.Stop(op)
	ctx, cancel := context.WithCancel(r.ctx())
	r.t.Cleanup(cancel)
	ended := make(chan error, 1)
	go func() { ended <- do(ctx) }()
	select {
	case <-at.Reached:
	case err := <-ended:
		r.t.Fatalf("%s has ended: %v", op, err)
	}
	return at, cancel, ended
}

// work lists what is being done with volumes.
func (r *volumeRig) work() (list []*volumeWork) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for w := range r.doing {
		list = append(list, w)
	}
	return list
}

// volumeCalls are all operations that hold a volume, on the volume a that has a snapshot s, by how the engine calls them.
var volumeCalls = map[string]func(ctx context.Context, m *Manager) error{
	"create": func(ctx context.Context, m *Manager) error {
		_, err := m.CreateVolume(ctx, "fake:new", 64<<10, nil)
		return err
	},
	"resize": func(ctx context.Context, m *Manager) error {
		_, err := m.ResizeVolume(ctx, "fake:a", 128<<10, false, nil)
		return err
	},
	"delete":         func(ctx context.Context, m *Manager) error { return m.DeleteVolume(ctx, "fake:a", false, false, nil) },
	"snapshot":       func(ctx context.Context, m *Manager) error { return m.CreateSnapshot(ctx, "fake:a", "s2", nil) },
	"deletesnapshot": func(ctx context.Context, m *Manager) error { return m.DeleteSnapshot(ctx, "fake:a", "s", nil) },
	"rollback":       func(ctx context.Context, m *Manager) error { return m.RollbackVolume(ctx, "fake:a", "s", true, nil) },
	"clone": func(ctx context.Context, m *Manager) error {
		_, err := m.CloneVolume(ctx, "fake:a", "s", "fake:clone", nil)
		return err
	},
	"flatten": func(ctx context.Context, m *Manager) error { return m.FlattenVolume(ctx, "fake:a", nil) },
}

// snapped makes the volume a with a snapshot s, whose volume has been written since.
func (r *volumeRig) snapped() {
	r.t.Helper()
	r.create("a")
	r.ok(r.CreateSnapshot(r.ctx(), "fake:a", "s", nil))
}

// TestWorkCollides: while one thing is done with a volume others are refused, but for clones, and nothing can open it that must not; work with
// other volumes, and of other kinds, goes on.
func TestWorkCollides(t *testing.T) {
	goesWith := map[string][]string{"clone": {"snapshot", "deletesnapshot", "flatten"}, "snapshot": {"clone"}, "deletesnapshot": {"clone"}, "flatten": {"clone"}}
	for first, do := range volumeCalls {
		if first == "create" || first == "delete" {
			continue // of a volume that is not there; a has a snapshot
		}
		for second, then := range volumeCalls {
			if second == "create" || first == "clone" && second == "clone" {
				continue
			}
			r := newVolumeRig(t, nil)
			r.snapped()
			at, _, ended := r.begin(first, func(ctx context.Context) error { return do(ctx, r.Manager) })
			together := false
			for _, w := range goesWith[first] {
				together = together || w == second
			}
			switch {
			case together && second == "deletesnapshot":
				// The engine has its own mind about a snapshot that is being cloned.
			case together:
				if err := then(r.ctx(), r.Manager); err != nil {
					t.Errorf("%s during %s: %v", second, first, err)
				}
			default:
				err := r.refusedVolume(VolumeBusy, func() error { return then(r.ctx(), r.Manager) })
				if err != nil && !strings.Contains(err.Error(), "by test uid 7") {
					t.Errorf("%s during %s: %v does not say who", second, first, err)
				}
			}
			r.create("other")
			r.serve("other", "fake:other")
			switch first {
			case "resize", "rollback", "snapshot":
				r.refused(VolumeBusy, func() error {
					_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", LUNs: []spec.LUN{{Number: 1, Volume: "fake:a"}}})
					return err
				})
			default:
				r.serve("a", "fake:a")
			}
			close(at.Go)
			if err := <-ended; err != nil {
				t.Errorf("%s: %v", first, err)
			}
			if !t.Failed() {
				continue
			}
			return
		}
	}
}

// TestClonesGoTogether: any number of clones are made of one snapshot at once, each under a name of its own.
func TestClonesGoTogether(t *testing.T) {
	r := newVolumeRig(t, nil)
	r.snapped()
	at, _, ended := r.begin("clone", func(ctx context.Context) error {
		_, err := r.CloneVolume(ctx, "fake:a", "s", "fake:one", nil)
		return err
	})
	_, err := r.CloneVolume(r.ctx(), "fake:a", "s", "fake:two", nil)
	r.ok(err)
	for _, to := range []string{"fake:one"} {
		r.refusedVolume(VolumeBusy, func() error {
			_, err := r.CloneVolume(r.ctx(), "fake:a", "s", to, nil)
			return err
		})
	}
	close(at.Go)
	r.ok(<-ended)
	r.refusedVolume(VolumeExists, func() error {
		_, err := r.CloneVolume(r.ctx(), "fake:a", "s", "fake:one", nil)
		return err
	})
}

// TestWorkEnds: cancelled by its caller, too late, or cut off by the daemon's end, work is undone, and the error says so; a driver's panic
// costs the call alone. Afterwards the volume can be worked with.
func TestWorkEnds(t *testing.T) {
	for op, do := range volumeCalls {
		if op == "delete" {
			do = func(ctx context.Context, m *Manager) error { return m.DeleteVolume(ctx, "fake:b", false, false, nil) }
		}
		for how, code := range map[string]Code{"cancelled": Cancelled, "late": Timeout, "failed": VolumeFailed, "panic": Internal, "closed": ShuttingDown} {
			r := newVolumeRig(t, nil, func(c *Config, _ *volumes.Engine) { c.UndoTimeout = time.Minute })
			r.snapped()
			r.create("b")
			before := r.engine.Words()
			at := r.engine.Stop(op)
			at.Panic = how == "panic"
			if how == "failed" {
				at.Fail = &backstore.Error{Class: backstore.ClassMedium, Op: op}
			}
			ctx, cancel := context.WithCancel(r.ctx())
			if how == "late" {
				ctx, cancel = context.WithTimeout(r.ctx(), 20*time.Millisecond)
			}
			ended := make(chan error, 1)
			go func() { ended <- do(ctx, r.Manager) }()
			<-at.Reached
			switch how {
			case "cancelled":
				cancel()
			case "failed", "panic":
				close(at.Go)
			case "closed":
				r.ok(r.Close())
			}
			err := <-ended
			cancel()
			if CodeOf(err) != code || err == nil {
				t.Errorf("%s, %s: %v, code %d", op, how, err, CodeOf(err))
			}
			if now := r.engine.Words(); now != before {
				t.Errorf("%s, %s: it was not undone:\n%s\nwas\n%s", op, how, now, before)
			}
			if how == "closed" {
				continue
			}
			if err := do(r.ctx(), r.Manager); err != nil {
				t.Errorf("%s, once more after %s: %v", op, how, err)
			}
		}
	}
}

// TestDeafDriver: a driver that does not end is left to itself after a while, its volume held until it has; the daemon's end waits no longer
// either.
func TestDeafDriver(t *testing.T) {
	r := newVolumeRig(t, nil, func(c *Config, _ *volumes.Engine) { c.UndoTimeout = 10 * time.Millisecond })
	r.snapped()
	at := r.engine.Stop("flatten")
	at.Deaf = true
	ctx, cancel := context.WithCancel(r.ctx())
	told := make(chan struct{}, 8)
	ended := make(chan error, 1)
	go func() { ended <- r.FlattenVolume(ctx, "fake:a", func(int64, int64) { told <- struct{}{} }) }()
	<-at.Reached
	cancel()
	if err := <-ended; CodeOf(err) != Cancelled || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("%v", err)
	}
	for len(told) > 0 {
		<-told
	}
	r.refusedVolume(VolumeBusy, func() error { return r.FlattenVolume(r.ctx(), "fake:a", nil) })
	left := r.work()
	close(at.Go)
	<-left[0].ended
	r.ok(r.FlattenVolume(r.ctx(), "fake:a", nil))
	if len(told) != 0 {
		t.Error("progress was told to somebody who has gone")
	}
	at = r.engine.Stop("flatten")
	at.Deaf = true
	go func() { ended <- r.FlattenVolume(r.ctx(), "fake:a", nil) }()
	<-at.Reached
	r.ok(r.Close())
	if err := <-ended; CodeOf(err) != ShuttingDown {
		t.Errorf("%v", err)
	}
	close(at.Go)
}

// TestTooMuchWork: work is bounded in number; what has ended counts no more.
func TestTooMuchWork(t *testing.T) {
	r := newVolumeRig(t, nil, func(c *Config, _ *volumes.Engine) { c.MaxVolumeWork = 2 })
	r.create("a", "b", "c")
	flatten := func(name string) func(ctx context.Context) error {
		return func(ctx context.Context) error { return r.FlattenVolume(ctx, "fake:"+name, nil) }
	}
	one, _, oneEnds := r.begin("flatten", flatten("a"))
	two, _, twoEnds := r.begin("flatten", flatten("b"))
	r.refusedVolume(TooMany, func() error { return flatten("c")(r.ctx()) })
	close(one.Go)
	r.ok(<-oneEnds)
	r.ok(flatten("c")(r.ctx()))
	close(two.Go)
	r.ok(<-twoEnds)
}

// TestVolumesUnsupported: what a driver cannot is refused by name, with what it can.
func TestVolumesUnsupported(t *testing.T) {
	r := newVolumeRig(t, nil, func(_ *Config, e *volumes.Engine) {
		e.Can = func(v *backstore.Volumes) { *v = backstore.Volumes{List: v.List, Create: v.Create, Delete: v.Delete} }
	})
	r.create("a")
	for op, do := range volumeCalls {
		if op == "create" || op == "delete" {
			continue
		}
		err := r.refusedVolume(Unsupported, func() error { return do(r.ctx(), r.Manager) })
		if !strings.Contains(err.Error(), "it can: create, list, delete") {
			t.Errorf("%s: %v", op, err)
		}
	}
	for name, do := range map[string]func() error{
		"stat":    func() error { _, err := r.Volume(r.ctx(), "fake:a"); return err },
		"trash":   func() error { _, err := r.Trash(r.ctx(), "fake:"); return err },
		"restore": func() error { _, err := r.RestoreVolume(r.ctx(), "fake:", "id1"); return err },
		"purge":   func() error { return r.PurgeVolume(r.ctx(), "fake:", "id1", true, nil) },
		"list":    func() error { _, err := r.Snapshots(r.ctx(), "fake:a"); return err },
		"null":    func() error { _, err := r.Volumes(r.ctx(), "null:"); return err },
	} {
		if err := r.refusedVolume(Unsupported, do); err == nil {
			t.Error(name)
		}
	}
	// Without a trash what is deleted is gone.
	r.refusedVolume(WouldDestroy, func() error { return r.DeleteVolume(r.ctx(), "fake:a", false, false, nil) })
	r.ok(r.DeleteVolume(r.ctx(), "fake:a", false, true, nil))
}

// TestVolumeSecrets: the options of URIs, which may have secrets among them, are in no line and no event; who did what is in both.
func TestVolumeSecrets(t *testing.T) {
	r := newVolumeRig(t, nil)
	ctx, cancel := context.WithCancel(r.ctx())
	defer cancel()
	events := r.Watch(ctx)
	const with = "?secret=xyzzy"
	_, err := r.CreateVolume(r.ctx(), "fake:a"+with, 64<<10, nil)
	r.ok(err)
	r.ok(r.CreateSnapshot(r.ctx(), "fake:a"+with, "s", nil))
	_, err = r.CloneVolume(r.ctx(), "fake:a"+with, "s", "fake:b"+with, nil)
	r.ok(err)
	r.ok(r.FlattenVolume(r.ctx(), "fake:b"+with, nil))
	_, err = r.ResizeVolume(r.ctx(), "fake:b"+with, 128<<10, false, nil)
	r.ok(err)
	r.ok(r.RollbackVolume(r.ctx(), "fake:a"+with, "s", true, nil))
	r.ok(r.DeleteSnapshot(r.ctx(), "fake:a"+with, "s", nil))
	r.ok(r.DeleteVolume(r.ctx(), "fake:a"+with, false, false, nil))
	_, err = r.RestoreVolume(r.ctx(), "fake:"+with, "id1")
	r.ok(err)
	r.ok(r.DeleteVolume(r.ctx(), "fake:a"+with, false, false, nil))
	r.ok(r.PurgeVolume(r.ctx(), "fake:"+with, "id2", true, nil))
	for _, err := range []error{
		r.DeleteVolume(r.ctx(), "fake:none"+with, false, false, nil), r.DeleteVolume(r.ctx(), "fake:b"+with+"&x=1", false, false, nil),
		r.FlattenVolume(r.ctx(), "fake:none"+with, nil), r.RollbackVolume(r.ctx(), "fake:b"+with, "s", false, nil),
		r.FlattenVolume(r.ctx(), "none:b"+with, nil), r.FlattenVolume(r.ctx(), "fake:b"+with+"\n", nil), r.FlattenVolume(r.ctx(), "fake:b%zz"+with, nil),
	} {
		if err == nil || strings.Contains(err.Error(), "xyzzy") {
			t.Errorf("%v", err)
		}
	}
	kinds := []EventKind{VolumeCreated, SnapshotCreated, VolumeCloned, VolumeFlattened, VolumeResized, VolumeRolledBack, SnapshotDeleted, VolumeDeleted, VolumeRestored, VolumeDeleted, VolumePurged}
	for _, want := range kinds {
		e := <-events
		if e.Kind != want || !strings.Contains(e.Detail, "fake:") || strings.Contains(e.Detail, "xyzzy") || e.Caller != "test uid 7" || e.LUN != -1 {
			t.Errorf("%+v, want %s", e, want)
		}
	}
	lines := r.audit.all()
	if len(lines) != len(kinds)+7 {
		t.Errorf("%d lines", len(lines))
	}
	for _, l := range lines {
		if strings.Contains(l, "xyzzy") || !strings.Contains(l, "test uid 7") {
			t.Error(l)
		}
	}
}

// TestVolumeNames: what can be no name is refused before any driver hears of it.
func TestVolumeNames(t *testing.T) {
	r := newVolumeRig(t, nil)
	r.create("a")
	for _, name := range []string{"", ".", "..", "a/b", "a@b", "-a", " a", "a ", "a\x00b", "a\nb", "\xff", strings.Repeat("x", MaxVolumeName+1), "a?b", "a#b", "a&b"} {
		r.refusedVolume(Invalid, func() error { return r.CreateSnapshot(r.ctx(), "fake:a", name, nil) })
	}
	for _, name := range []string{"", "a\nb", strings.Repeat("x", MaxVolumeName+1)} {
		r.refusedVolume(Invalid, func() error { return r.DeleteSnapshot(r.ctx(), "fake:a", name, nil) })
		r.refusedVolume(Invalid, func() error { return r.RollbackVolume(r.ctx(), "fake:a", name, true, nil) })
		r.refusedVolume(Invalid, func() error { return r.PurgeVolume(r.ctx(), "fake:", name, true, nil) })
		r.refusedVolume(Invalid, func() error { _, err := r.RestoreVolume(r.ctx(), "fake:", name); return err })
	}
	for _, uri := range []string{"", "fake", "fake:", "fake:a?x=1", "fake:a?secret=1&secret=2", "fake:%zz", "fake:a\x00", "fake:a\nb"} {
		r.refusedVolume(Invalid, func() error { return r.FlattenVolume(r.ctx(), uri, nil) })
		r.refusedVolume(Invalid, func() error { _, err := r.CreateVolume(r.ctx(), uri, 512, nil); return err })
	}
	if n := r.engine.Calls("snapshot") + r.engine.Calls("deletesnapshot") + r.engine.Calls("flatten"); n != 0 {
		t.Errorf("the driver was called %d times", n)
	}
	for _, size := range []int64{0, -1} {
		r.refusedVolume(Invalid, func() error { _, err := r.CreateVolume(r.ctx(), "fake:b", size, nil); return err })
		r.refusedVolume(Invalid, func() error { _, err := r.ResizeVolume(r.ctx(), "fake:a", size, true, nil); return err })
	}
	r.refusedVolume(NoVolume, func() error { return r.CreateSnapshot(r.ctx(), "fake:none", "s", nil) })
	r.refusedVolume(NoSnapshot, func() error { return r.DeleteSnapshot(r.ctx(), "fake:a", "none", nil) })
	r.refusedVolume(VolumeExists, func() error { _, err := r.CreateVolume(r.ctx(), "fake:a", 512, nil); return err })
	var store *backstore.Error
	if err := r.FlattenVolume(r.ctx(), "fake:none", nil); !errors.As(err, &store) || store.Class != backstore.ClassNotFound {
		t.Errorf("%v has no class", err)
	}
}
