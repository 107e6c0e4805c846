package admin

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/target"
)

// shared makes targets a and b, whose LUNs 1 and 5, and LUN 2 of a, are one disk.
func shared(t *testing.T, state *testState, l spec.LUN) *rig {
	t.Helper()
	r := newRig(t, state)
	for _, name := range []string{"a", "b"} {
		_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + name, Access: everybody()})
		r.ok(err)
	}
	for _, w := range sharedWays {
		l.Number = w.lun
		_, err := r.AddLUN(r.ctx(), w.ref, l, false)
		r.ok(err)
	}
	return r
}

var sharedWays = []struct {
	ref Ref
	lun uint16
}{{Ref{Name: iqn + "a"}, 1}, {Ref{Name: iqn + "a"}, 2}, {Ref{Name: iqn + "b"}, 5}}

// all calls f with what is set of each LUN, and with the live disk there.
func (r *rig) all(f func(l spec.LUN, d target.LUNInfo)) {
	r.t.Helper()
	for _, w := range sharedWays {
		i, err := r.Target(w.ref, true)
		r.ok(err)
		at, there := place(&i.Spec, w.lun)
		if !there {
			r.t.Fatalf("%v has no LUN %d", w.ref, w.lun)
		}
		for _, d := range r.byName[w.ref.Name].live.Disks() {
			if d.LUN == w.lun {
				f(i.Spec.LUNs[at], d)
			}
		}
	}
}

// TestEditSharedDisk: a change by one of the LUNs that a disk stands behind is saved for all of them, at once; what cannot be saved has
// not been.
func TestEditSharedDisk(t *testing.T) {
	for _, w := range sharedWays {
		state := &testState{}
		r := shared(t, state, spec.LUN{Volume: volume(t, "disk"), TgtNaming: true})
		var serials [2]string
		edit := func() error {
			return r.EditLUN(r.ctx(), w.ref, w.lun, func(l *spec.LUN) error {
				l.Product, l.Offline, l.ModePages = "P", true, []string{"10:0:10:6:0:8:0:0:0:0:0:0:0"}
				return nil
			})
		}
		state.failing(errors.New("no room"))
		_ = r.refused(SaveFailed, edit)
		r.all(func(l spec.LUN, d target.LUNInfo) {
			if l.Product != "" || l.Offline || !d.Online {
				t.Errorf("what was not saved: %+v %+v", l, d)
			}
			serials[0] = d.Serial
		})
		state.failing(nil)
		saves := state.saves
		r.ok(edit())
		if n := state.saves - saves; n != 1 {
			t.Errorf("%d saves", n)
		}
		check := func(r *rig) {
			t.Helper()
			r.all(func(l spec.LUN, d target.LUNInfo) {
				if l.Product != "P" || !l.Offline || len(l.ModePages) != 1 || d.Online {
					t.Errorf("by %v LUN %d: %+v, online: %v", w.ref, w.lun, l, d.Online)
				}
				if serials[1] = d.Serial; serials[0] != serials[1] {
					t.Errorf("by %v LUN %d: the disk has another name: %q, before %q", w.ref, w.lun, serials[1], serials[0])
				}
			})
		}
		check(r)
		// Another volume would be everybody's.
		err := r.refused(Unsupported, func() error {
			return r.EditLUN(r.ctx(), w.ref, w.lun, func(l *spec.LUN) error { l.Volume = "mem:?size=1M"; return nil })
		})
		if !strings.Contains(err.Error(), "too") {
			t.Error(err)
		}
		r.ok(r.Close())
		check(newRig(t, state))
	}
}

// TestResizeSharedDisk: the size that volumes' URIs say changes in all of them.
func TestResizeSharedDisk(t *testing.T) {
	for _, w := range sharedWays {
		for _, size := range []int64{4 << 20, 512 << 10} {
			state := &testState{}
			r := shared(t, state, spec.LUN{Volume: volume(t, "disk") + "?size=1M"})
			_, err := r.ResizeLUN(r.ctx(), w.ref, w.lun, size, true)
			r.ok(err)
			check := func(r *rig) {
				t.Helper()
				r.all(func(l spec.LUN, d target.LUNInfo) {
					if want := map[int64]string{4 << 20: "size=4194304", 512 << 10: "size=524288"}[size]; !strings.HasSuffix(l.Volume, want) || d.Size != size {
						t.Errorf("%s, of %d bytes, want %d", l.Volume, d.Size, size)
					}
				})
			}
			check(r)
			r.ok(r.Close())
			check(newRig(t, state))
		}
	}
}

// TestSharedDiskAtOnce: changes by every LUN of one disk at once, while one of these comes and goes, wait for one another and not in a circle.
func TestSharedDiskAtOnce(t *testing.T) {
	v := volume(t, "disk")
	r := shared(t, &testState{}, spec.LUN{Volume: v})
	ctx := r.ctx()
	var wg sync.WaitGroup
	for _, w := range sharedWays {
		for i := range 2 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for range 50 {
					err := r.EditLUN(ctx, w.ref, w.lun, func(l *spec.LUN) error { l.Product = strings.Repeat("P", 1+i+len(l.Product)%3); return nil })
					if err != nil && CodeOf(err) != NoLUN {
						t.Error(err)
					}
				}
			}()
		}
	}
	last := sharedWays[2]
	for range 50 {
		r.ok(r.RemoveLUN(ctx, last.ref, last.lun, true))
		_, err := r.AddLUN(context.WithoutCancel(ctx), last.ref, spec.LUN{Number: last.lun, Volume: v}, true)
		r.ok(err)
	}
	wg.Wait()
	r.ok(r.EditLUN(ctx, last.ref, last.lun, func(l *spec.LUN) error { l.Product = "LAST"; return nil }))
	r.all(func(l spec.LUN, _ target.LUNInfo) {
		if l.Product != "LAST" {
			t.Errorf("%+v", l)
		}
	})
}

// stoppedState is a State whose next save stops, once stop is set.
type stoppedState struct {
	*testState
	stop atomic.Pointer[chan chan struct{}]
}

func (s *stoppedState) Save(set map[string][]byte) error {
	if stop := s.stop.Swap(nil); stop != nil {
		on := make(chan struct{})
		*stop <- on
		<-on
	}
	return s.testState.Save(set)
}

// TestSharedDiskComesLater: a target that comes to have a disk while the disk is being changed by another's LUN does so without that change, and what is
// set of it is its own to change: none of that is lost.
func TestSharedDiskComesLater(t *testing.T) {
	v := volume(t, "disk")
	state := &stoppedState{testState: &testState{}}
	r := newRig(t, state.testState, func(c *Config) { c.State = state })
	ctx := r.ctx()
	for _, name := range []string{"a", "b"} {
		_, err := r.AddTarget(ctx, spec.Target{Name: iqn + name, Access: everybody()})
		r.ok(err)
	}
	a, b := sharedWays[0], sharedWays[2]
	_, err := r.AddLUN(ctx, a.ref, spec.LUN{Number: a.lun, Volume: v}, false)
	r.ok(err)
	stopped, edited := make(chan chan struct{}), make(chan error, 1)
	go func() {
		edited <- r.EditLUN(ctx, a.ref, a.lun, func(l *spec.LUN) error {
			_, err := r.AddLUN(ctx, b.ref, spec.LUN{Number: b.lun, Volume: v}, false) // it is a's turn alone that is taken
			state.stop.Store(&stopped)
			l.Product = "P"
			return err
		})
	}()
	on := <-stopped
	r.ok(r.EditTarget(ctx, b.ref, func(t *spec.Target) error { t.Alias = "mine"; return nil }))
	close(on)
	r.ok(<-edited)
	s, err := r.Target(b.ref, true)
	r.ok(err)
	if _, there := place(&s.Spec, b.lun); !there || s.Spec.Alias != "mine" {
		t.Errorf("%+v", s.Spec)
	}
	saved := newRig(t, state.testState)
	if c := spec.Changes(r.Document(), saved.Document()); c != "" {
		t.Errorf("what was saved differs: %s", c)
	}
	r.ok(r.EditLUN(ctx, b.ref, b.lun, func(l *spec.LUN) error { l.Product = "Q"; return nil }))
	s, err = r.Target(a.ref, false)
	if at, there := place(&s.Spec, a.lun); err != nil || !there || s.Spec.LUNs[at].Product != "Q" {
		t.Errorf("%+v, %v", s.Spec, err)
	}
}
