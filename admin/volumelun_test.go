package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/test/volumes"
)

// write writes eight bytes into a volume that is not open here.
func (r *volumeRig) write(name, text string) {
	r.t.Helper()
	u, err := backstore.ParseURI("fake:" + name)
	r.ok(err)
	st, err := r.engine.Driver().Open(r.ctx(), u, backstore.Options{})
	r.ok(err)
	q := &backstore.Request{Op: backstore.Write, Len: 8, Buf: []byte(text)[:8]}
	if st.Submit(q); q.Err != nil {
		r.t.Fatal(q.Err)
	}
	r.ok(st.Close(r.ctx()))
}

func (r *volumeRig) read(name string) string {
	r.t.Helper()
	u, err := backstore.ParseURI("fake:" + name)
	r.ok(err)
	st, err := r.engine.Driver().Open(r.ctx(), u, backstore.Options{ReadOnly: true})
	r.ok(err)
	q := &backstore.Request{Op: backstore.Read, Len: 8, Buf: make([]byte, 8)}
	if st.Submit(q); q.Err != nil {
		r.t.Fatal(q.Err)
	}
	r.ok(st.Close(r.ctx()))
	return string(bytes.TrimRight(q.Buf, "\x00"))
}

// TestVolumeInUse: a volume that is set behind a LUN is not deleted, rolled back, or made anew, whoever has it; the refusal names the LUN, and what
// is said there helps.
func TestVolumeInUse(t *testing.T) {
	r := newVolumeRig(t, nil)
	r.snapped()
	ref := r.serve("disk", "fake:a?secret=xyzzy")
	for op, code := range map[string]Code{"delete": VolumeInUse, "rollback": VolumeInUse} {
		err := r.refusedVolume(code, func() error { return volumeCalls[op](r.ctx(), r.Manager) })
		if s := err.Error(); !strings.Contains(s, iqn+"disk LUN 1") || !strings.Contains(s, "lunarctl lun") || strings.Contains(s, "xyzzy") {
			t.Errorf("%s: %v", op, err)
		}
	}
	r.refusedVolume(VolumeExists, func() error { _, err := r.CreateVolume(r.ctx(), "fake:a", 512, nil); return err })
	r.refusedVolume(VolumeExists, func() error {
		r.create("b")
		r.ok(r.CreateSnapshot(r.ctx(), "fake:b", "s", nil))
		_, err := r.CloneVolume(r.ctx(), "fake:b", "s", "fake:a", nil)
		r.ok(r.DeleteSnapshot(r.ctx(), "fake:b", "s", nil))
		r.ok(r.DeleteVolume(r.ctx(), "fake:b", true, true, nil))
		return err
	})
	v, err := r.Volume(r.ctx(), "fake:a")
	r.ok(err)
	if len(v.LUNs) != 1 || v.LUNs[0] != (VolumeLUN{Target: iqn + "disk", TID: ref.TID, LUN: 1}) {
		t.Errorf("%+v", v)
	}
	// A resize is the LUN's, so that initiators learn of it.
	size, err := r.ResizeVolume(r.ctx(), "fake:a", 128<<10, false, nil)
	if s, terr := r.Target(ref, true); err != nil || terr != nil || size != 128<<10 || s.Live.LUNs[1].Size != size {
		t.Errorf("%d, %v, %v", size, err, terr)
	}
	if r.engine.Calls("resize") != 0 {
		t.Error("the driver has resized it past the LUN")
	}
	r.refusedVolume(WouldShrink, func() error { _, err := r.ResizeVolume(r.ctx(), "fake:a", 64<<10, false, nil); return err })
	r.ok(r.DeleteSnapshot(r.ctx(), "fake:a", "s", nil))
	r.ok(r.RemoveLUN(r.ctx(), ref, 1, false))
	r.ok(r.DeleteVolume(r.ctx(), "fake:a", false, false, nil))
}

// TestVolumeOfFaultyLUN: a LUN whose volume could not be opened has it all the same.
func TestVolumeOfFaultyLUN(t *testing.T) {
	state := &testState{}
	r := newVolumeRig(t, state)
	r.create("a")
	ref := r.serve("disk", "fake:a")
	r.ok(r.Close())
	n := newVolumeRig(t, state) // its engine has no volume
	if s, err := n.Target(ref, false); err != nil || s.Faults[1] == "" {
		t.Fatalf("%+v, %v", s, err)
	}
	n.create("b")
	n.refusedVolume(VolumeExists, func() error { _, err := n.CreateVolume(n.ctx(), "fake:a", 512, nil); return err })
	n.refusedVolume(VolumeInUse, func() error { return n.DeleteVolume(n.ctx(), "fake:a", false, false, nil) })
}

// TestSnapshotByStore: where the open store takes part in snapshots it is asked, and it alone; where nothing is open the driver is.
func TestSnapshotByStore(t *testing.T) {
	r := newVolumeRig(t, nil, snapshotters)
	r.create("a")
	ref := r.serve("disk", "fake:a")
	r.ok(r.CreateSnapshot(r.ctx(), "fake:a", "one", nil))
	if r.engine.Calls("store snapshot") != 1 || r.engine.Calls("snapshot") != 0 {
		t.Error("the store was not asked")
	}
	r.refusedVolume(SnapshotExists, func() error { return r.CreateSnapshot(r.ctx(), "fake:a", "one", nil) })
	r.ok(r.RemoveLUN(r.ctx(), ref, 1, false))
	r.ok(r.CreateSnapshot(r.ctx(), "fake:a", "two", nil))
	if r.engine.Calls("store snapshot") != 1 || r.engine.Calls("snapshot") != 1 {
		t.Error("the driver was not asked")
	}
}

// TestSnapshotKeepsStore: the store that a snapshot is being taken with is not closed under it: whatever would is refused, and with force ends it
// first. Nothing else waits for the snapshot.
func TestSnapshotKeepsStore(t *testing.T) {
	for name, force := range map[string]func(r *volumeRig, ref Ref) error{
		"lun":    func(r *volumeRig, ref Ref) error { return r.RemoveLUN(r.ctx(), ref, 1, true) },
		"target": func(r *volumeRig, ref Ref) error { return r.RemoveTarget(r.ctx(), ref, true) },
		"close":  func(r *volumeRig, _ Ref) error { return r.Close() },
	} {
		r := newVolumeRig(t, nil, snapshotters)
		r.create("a", "b")
		ref := r.serve("disk", "fake:a")
		before := r.engine.Words()
		_, _, ended := r.begin("store snapshot", func(ctx context.Context) error { return r.CreateSnapshot(ctx, "fake:a", "s", nil) })
		r.refused(VolumeBusy, func() error { return r.RemoveLUN(r.ctx(), ref, 1, false) })
		r.refused(VolumeBusy, func() error { return r.RemoveTarget(r.ctx(), ref, false) })
		r.ok(r.EditLUN(r.ctx(), ref, 1, func(l *spec.LUN) error { l.Offline = true; return nil }))
		r.refused(VolumeBusy, func() error {
			return r.EditLUN(r.ctx(), ref, 1, func(l *spec.LUN) error { l.Volume = "fake:b"; return nil })
		})
		r.ok(r.EditLUN(r.ctx(), ref, 1, func(l *spec.LUN) error { l.Offline = false; return nil }))
		_, err := r.AddLUN(r.ctx(), ref, spec.LUN{Number: 2, Volume: "fake:b"}, false)
		r.ok(err)
		_, err = r.ResizeLUN(r.ctx(), ref, 2, 128<<10, false)
		r.ok(err)
		r.ok(r.RemoveLUN(r.ctx(), ref, 2, false))
		r.ok(r.EditTarget(r.ctx(), ref, func(t *spec.Target) error { t.Alias = "x"; return nil }))
		r.ok(force(r, ref))
		want := Cancelled
		if name == "close" {
			want = ShuttingDown
		}
		if err := <-ended; CodeOf(err) != want {
			t.Errorf("%s: %v", name, err)
		}
		if now := r.engine.Words(); strings.Contains(now, "@s") || strings.Contains(before, "@s") {
			t.Errorf("%s: the snapshot is there:\n%s", name, now)
		}
	}
}

// TestSnapshotOfSharedStore: of a disk that stands behind two LUNs one may be removed while its snapshot is being taken; not the last.
func TestSnapshotOfSharedStore(t *testing.T) {
	r := newVolumeRig(t, nil, snapshotters)
	r.create("a")
	ref := r.serve("disk", "fake:a")
	_, err := r.AddLUN(r.ctx(), ref, spec.LUN{Number: 2, Volume: "fake:a"}, false)
	r.ok(err)
	at, _, ended := r.begin("store snapshot", func(ctx context.Context) error { return r.CreateSnapshot(ctx, "fake:a", "s", nil) })
	r.ok(r.RemoveLUN(r.ctx(), ref, 1, false)) // the one that opened it
	r.refused(VolumeBusy, func() error { return r.RemoveLUN(r.ctx(), ref, 2, false) })
	close(at.Go)
	r.ok(<-ended)
	r.ok(r.CreateSnapshot(r.ctx(), "fake:a", "s2", nil))
	if n := r.engine.Calls("store snapshot"); n != 2 {
		t.Errorf("the store was asked %d times", n)
	}
	r.ok(r.RemoveLUN(r.ctx(), ref, 2, false))
}

// TestRefusedRemovalStays: a LUN whose removal failed goes on as before, its store taking part in snapshots.
func TestRefusedRemovalStays(t *testing.T) {
	state := &testState{}
	r := newVolumeRig(t, state, snapshotters)
	r.create("a")
	ref := r.serve("disk", "fake:a")
	for i, do := range []func() error{
		func() error { return r.RemoveLUN(r.ctx(), ref, 1, false) },
		func() error { return r.RemoveTarget(r.ctx(), ref, false) },
		func() error {
			return r.EditLUN(r.ctx(), ref, 1, func(l *spec.LUN) error { l.Volume, l.Offline = "mem:?size=1M", true; return nil })
		},
	} {
		state.failing(errors.New("no space"))
		r.refused(SaveFailed, do)
		state.failing(nil)
		r.ok(r.CreateSnapshot(r.ctx(), "fake:a", fmt.Sprint("s", i), nil))
		if n := r.engine.Calls("store snapshot"); n != i+1 {
			t.Errorf("the store was asked %d times", n)
		}
	}
}

// TestVolumeComesAndGoes: while a volume is being opened for a LUN, or closed, nothing is done with it that minds.
func TestVolumeComesAndGoes(t *testing.T) {
	r := newVolumeRig(t, nil, snapshotters)
	r.snapped()
	made, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "disk", Access: everybody()})
	r.ok(err)
	ref := Ref{TID: made.TID}
	meanwhile := func() {
		t.Helper()
		r.refusedVolume(VolumeInUse, func() error { return r.DeleteVolume(r.ctx(), "fake:a", false, false, nil) })
		r.refusedVolume(VolumeBusy, func() error { return r.RollbackVolume(r.ctx(), "fake:a", "s", true, nil) })
		r.refusedVolume(VolumeBusy, func() error { return r.CreateSnapshot(r.ctx(), "fake:a", "s2", nil) })
		r.refusedVolume(VolumeInUse, func() error { _, err := r.ResizeVolume(r.ctx(), "fake:a", 128<<10, false, nil); return err })
	}
	at, _, ended := r.begin("open", func(ctx context.Context) error {
		_, err := r.AddLUN(ctx, ref, spec.LUN{Number: 1, Volume: "fake:a"}, false)
		return err
	})
	meanwhile()
	close(at.Go)
	r.ok(<-ended)
	at, _, ended = r.begin("close", func(ctx context.Context) error { return r.RemoveLUN(ctx, ref, 1, false) })
	meanwhile()
	close(at.Go)
	r.ok(<-ended)
	r.ok(r.CreateSnapshot(r.ctx(), "fake:a", "s2", nil))
	if r.engine.Calls("snapshot") != 2 {
		t.Error("the driver was not asked")
	}
}

// TestRollbackComesTooLate: a LUN that is brought online before its volume is taken from it keeps that.
func TestRollbackComesTooLate(t *testing.T) {
	r, ref := rolled(t, nil)
	in, out := make(chan struct{}), make(chan struct{})
	edited := make(chan error, 1)
	go func() {
		edited <- r.EditLUN(r.ctx(), ref, 1, func(l *spec.LUN) error { // it has the target's turn meanwhile
			close(in)
			<-out
			l.Offline = false
			return nil
		})
	}()
	<-in
	ended := make(chan error, 1)
	go func() { ended <- r.RollbackVolume(r.ctx(), "fake:a", "s", true, nil) }()
	for len(r.work()) == 0 {
		runtime.Gosched()
	}
	close(out)
	r.ok(<-edited)
	if err := <-ended; CodeOf(err) != VolumeInUse {
		t.Errorf("%v", err)
	}
	if now := r.read("a"); now != "present " {
		t.Errorf("it reads %q", now)
	}
}

// TestRollbackOfWhatDoesNotClose: what may still be written late is not rolled back; the LUN gets its volume back.
func TestRollbackOfWhatDoesNotClose(t *testing.T) {
	r, ref := rolled(t, nil)
	r.engine.Fail("close", &backstore.Error{Class: backstore.ClassBusy, Op: "close"})
	if err := r.RollbackVolume(r.ctx(), "fake:a", "s", true, nil); CodeOf(err) != VolumeInUse || !strings.Contains(err.Error(), "closed") {
		t.Errorf("%v", err)
	}
	if now := r.read("a"); now != "present " || r.engine.Calls("rollback") != 0 {
		t.Errorf("it reads %q", now)
	}
	r.ok(online(r, ref))
}

// rolled makes the volume a, which was "snapped" at the snapshot s and is "present" now, an offline LUN.
func rolled(t *testing.T, state *testState, change ...func(*Config, *volumes.Engine)) (*volumeRig, Ref) {
	r := newVolumeRig(t, state, change...)
	r.create("a")
	r.write("a", "snapped ")
	r.ok(r.CreateSnapshot(r.ctx(), "fake:a", "s", nil))
	r.write("a", "present ")
	ref := r.serve("disk", "fake:a")
	r.refusedVolume(VolumeInUse, func() error { return r.RollbackVolume(r.ctx(), "fake:a", "s", true, nil) })
	r.ok(r.EditLUN(r.ctx(), ref, 1, func(l *spec.LUN) error { l.Offline = true; return nil }))
	return r, ref
}

func online(r *volumeRig, ref Ref) error {
	return r.EditLUN(r.ctx(), ref, 1, func(l *spec.LUN) error { l.Offline = false; return nil })
}

// TestRollbackOfOfflineLUN: the volume of a LUN that is offline is closed, rolled back, and opened anew; meanwhile the LUN cannot be brought
// online, and changing its target does not wait.
func TestRollbackOfOfflineLUN(t *testing.T) {
	r, ref := rolled(t, nil)
	r.refusedVolume(WouldDestroy, func() error { return r.RollbackVolume(r.ctx(), "fake:a", "s", false, nil) })
	doc := r.Document()
	at, _, ended := r.begin("rollback", func(ctx context.Context) error { return r.RollbackVolume(ctx, "fake:a", "s", true, nil) })
	if s, err := r.Target(ref, false); err != nil || !strings.Contains(s.Faults[1], "rolled back") {
		t.Errorf("%v, %v", s.Faults, err)
	}
	r.refused(VolumeBusy, func() error { return online(r, ref) })
	r.retryAll() // nor does whoever tries volumes again come between
	r.ok(r.EditTarget(r.ctx(), ref, func(t *spec.Target) error { t.Alias = "x"; return nil }))
	r.ok(r.EditTarget(r.ctx(), ref, func(t *spec.Target) error { t.Alias = ""; return nil }))
	close(at.Go)
	r.ok(<-ended)
	if now := r.read("a"); now != "snapped " {
		t.Errorf("it reads %q", now)
	}
	if c := spec.Changes(doc, r.Document()); c != "" {
		t.Errorf("what is set has changed: %s", c)
	}
	if s, err := r.Target(ref, false); err != nil || s.Faults != nil {
		t.Errorf("the LUN has not got its volume back: %v, %v", s.Faults, err)
	}
	r.ok(online(r, ref))
	s, err := r.Target(ref, true)
	if err != nil || s.Faults != nil || !s.Live.LUNs[1].Online {
		t.Errorf("%+v, %v", s, err)
	}
	r.ok(r.CreateSnapshot(r.ctx(), "fake:a", "s2", nil))
}

// TestRollbackUndone: a rollback that fails, or is cancelled, leaves the LUN with its volume as it was.
func TestRollbackUndone(t *testing.T) {
	for _, how := range []string{"failed", "cancelled", "removed"} {
		r, ref := rolled(t, nil)
		if how == "failed" {
			r.engine.Fail("rollback", &backstore.Error{Class: backstore.ClassMedium, Op: "rollback"})
			if err := r.RollbackVolume(r.ctx(), "fake:a", "s", true, nil); CodeOf(err) != VolumeFailed {
				t.Errorf("%v", err)
			}
		} else {
			_, cancel, ended := r.begin("rollback", func(ctx context.Context) error { return r.RollbackVolume(ctx, "fake:a", "s", true, nil) })
			if how == "removed" {
				r.ok(r.RemoveLUN(r.ctx(), ref, 1, false))
			}
			cancel()
			if err := <-ended; CodeOf(err) != Cancelled {
				t.Errorf("%v", err)
			}
		}
		if now := r.read("a"); now != "present " {
			t.Errorf("%s: it reads %q", how, now)
		}
		if how == "removed" {
			r.ok(r.DeleteSnapshot(r.ctx(), "fake:a", "s", nil))
			r.ok(r.DeleteVolume(r.ctx(), "fake:a", false, false, nil))
			continue
		}
		r.ok(online(r, ref))
		if s, err := r.Target(ref, true); err != nil || !s.Live.LUNs[1].Online {
			t.Errorf("%s: %+v, %v", how, s, err)
		}
	}
}

// TestRollbackOfTwoWays: a disk that stands behind two LUNs is not taken from them.
func TestRollbackOfTwoWays(t *testing.T) {
	r, ref := rolled(t, nil)
	_, err := r.AddLUN(r.ctx(), ref, spec.LUN{Number: 2, Volume: "fake:a", Offline: true}, false)
	r.ok(err)
	err = r.refusedVolume(VolumeInUse, func() error { return r.RollbackVolume(r.ctx(), "fake:a", "s", true, nil) })
	if !strings.Contains(err.Error(), "another LUN") {
		t.Error(err)
	}
}

// TestRollbackAndRestart: if the daemon ends while a volume is away from its LUN, the next one opens it.
func TestRollbackAndRestart(t *testing.T) {
	state := &testState{}
	r, ref := rolled(t, state)
	_, _, ended := r.begin("rollback", func(ctx context.Context) error { return r.RollbackVolume(ctx, "fake:a", "s", true, nil) })
	saved := &testState{objects: state.Objects()} // as a crash would leave it
	r.ok(r.Close())
	if err := <-ended; CodeOf(err) != ShuttingDown {
		t.Errorf("%v", err)
	}
	n := newRig(t, saved, func(c *Config) {
		c.Registry = backstore.NewRegistry(append(testRegistry().Drivers(), r.engine.Driver())...)
	})
	s, err := n.Target(ref, true)
	if err != nil || s.Faults != nil || !s.Spec.LUNs[0].Offline {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestSwapKeepsVolume: a LUN that is to have another volume has the one that it had until that is closed: nobody opens it a second time, and nothing is done
// with it that wants it closed, whether or not the other volume can be opened. Then it is free.
func TestSwapKeepsVolume(t *testing.T) {
	for _, fails := range []bool{true, false} {
		r, ref := rolled(t, nil)
		r.create("b")
		made, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "other", Access: everybody()})
		r.ok(err)
		at, _, ended := r.begin("open", func(ctx context.Context) error {
			return r.EditLUN(ctx, ref, 1, func(l *spec.LUN) error { l.Volume = "fake:b"; return nil })
		})
		r.refusedVolume(VolumeBusy, func() error { return r.RollbackVolume(r.ctx(), "fake:a", "s", true, nil) })
		r.refusedVolume(VolumeInUse, func() error { return r.DeleteVolume(r.ctx(), "fake:a", true, true, nil) })
		r.refusedVolume(VolumeBusy, func() error { return r.CreateSnapshot(r.ctx(), "fake:a", "s2", nil) })
		opens := r.engine.Calls("open")
		r.refusedVolume(OpenFailed, func() error {
			_, err := r.AddLUN(r.ctx(), Ref{TID: made.TID}, spec.LUN{Number: 1, Volume: "fake:a"}, false)
			return err
		})
		if n := r.engine.Calls("open") - opens; n != 0 {
			t.Errorf("it was opened %d times more", n)
		}
		if fails {
			at.Fail = &backstore.Error{Class: backstore.ClassOffline, Op: "open"}
		}
		close(at.Go)
		if err := <-ended; (err != nil) != fails {
			t.Fatal(err)
		}
		if fails {
			r.refusedVolume(VolumeInUse, func() error { return r.DeleteVolume(r.ctx(), "fake:a", true, true, nil) })
			r.ok(online(r, ref))
			continue
		}
		r.ok(r.DeleteSnapshot(r.ctx(), "fake:a", "s", nil))
		r.ok(r.DeleteVolume(r.ctx(), "fake:a", true, true, nil))
		r.ok(r.EditLUN(r.ctx(), ref, 1, func(l *spec.LUN) error { l.Volume = ""; return nil })) // so is one that has none after it
		r.ok(r.DeleteVolume(r.ctx(), "fake:b", true, true, nil))
	}
}

// TestRollbackOfBusyStore: a volume whose store does not come to rest keeps its LUN's target from other changes for no longer than any change does.
func TestRollbackOfBusyStore(t *testing.T) {
	r, ref := rolled(t, nil, func(c *Config, _ *volumes.Engine) { c.CallTimeout = time.Second })
	busy, err := r.byTID[ref.TID].live.PrepareSwap(r.ctx(), 1, nil) // it has the disk's turn from now on
	r.ok(err)
	if err := r.RollbackVolume(r.ctx(), "fake:a", "s", true, nil); CodeOf(err) != LUNInUse {
		t.Errorf("%v", err)
	}
	r.ok(r.EditTarget(r.ctx(), ref, func(t *spec.Target) error { t.Alias = "x"; return nil }))
	r.ok(busy.Abort(r.ctx()))
	r.ok(r.RollbackVolume(r.ctx(), "fake:a", "s", true, nil))
	r.ok(online(r, ref))
}

// TestSnapshotInUse: a snapshot that is a LUN is not deleted, nor served while it is.
func TestSnapshotInUse(t *testing.T) {
	r := newVolumeRig(t, nil)
	r.snapped()
	r.create("a@s")
	ref := r.serve("old", "fake:a@s?readonly")
	err := r.refusedVolume(VolumeInUse, func() error { return r.DeleteSnapshot(r.ctx(), "fake:a", "s", nil) })
	if s := err.Error(); !strings.Contains(s, "fake:a@s is target "+iqn+"old LUN 1") {
		t.Error(s)
	}
	r.ok(r.CreateSnapshot(r.ctx(), "fake:a", "t", nil))
	r.ok(r.DeleteSnapshot(r.ctx(), "fake:a", "t", nil))
	r.ok(r.RemoveLUN(r.ctx(), ref, 1, false))
	at, _, ended := r.begin("deletesnapshot", func(ctx context.Context) error { return r.DeleteSnapshot(ctx, "fake:a", "s", nil) })
	r.refusedVolume(VolumeBusy, func() error {
		_, err := r.AddLUN(r.ctx(), ref, spec.LUN{Number: 1, Volume: "fake:a@s?readonly"}, false)
		return err
	})
	close(at.Go)
	r.ok(<-ended)
}
