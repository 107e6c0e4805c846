package admin

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
)

// A modelVolume is what a volume ought to be.
type modelVolume struct {
	size   int64
	stamp  string // its first eight bytes
	snaps  map[string]modelVolume
	parent string
}

func (v modelVolume) clone() modelVolume {
	c := v
	c.snaps = map[string]modelVolume{}
	for n, s := range v.snaps {
		c.snaps[n] = s
	}
	return c
}

type modelLUN struct {
	volume  string
	offline bool
}

// A volumeModel says what there ought to be, and what is to be refused.
type volumeModel struct {
	r     *volumeRig
	rnd   *rand.Rand
	ref   Ref
	vols  map[string]modelVolume
	trash map[string]modelVolume // by id; parent is the name
	next  int
	luns  map[uint16]modelLUN
	log   []string
}

var modelNames = [...]string{"a", "b", "c", "d"}

func (m *volumeModel) name() string { return modelNames[m.rnd.IntN(len(modelNames))] }
func (m *volumeModel) snap() string { return []string{"s", "t"}[m.rnd.IntN(2)] }
func (m *volumeModel) coin() bool   { return m.rnd.IntN(2) == 0 }

// lun is the LUN of a volume; ways: how many lead to it.
func (m *volumeModel) lun(name string) (l modelLUN, ways int) {
	for _, x := range m.luns {
		if x.volume == name {
			l = x
			ways++
		}
	}
	return l, ways
}

func (m *volumeModel) clones(name, snap string) (n int) {
	for _, v := range m.vols {
		if v.parent == name+"@"+snap {
			n++
		}
	}
	return n
}

// any is the first code whose condition holds; success is 255.
type when struct {
	is   bool
	code Code
}

const success Code = 255

func first(list ...when) Code {
	for _, w := range list {
		if w.is {
			return w.code
		}
	}
	return success
}

// step makes one call, at random, and holds it against the model.
func (m *volumeModel) step(t *testing.T) {
	r, ctx := m.r, m.r.ctx()
	name, snap, force := m.name(), m.snap(), m.coin()
	v, there := m.vols[name]
	l, ways := m.lun(name)
	_, hasSnap := v.snaps[snap]
	words := r.engine.Words()
	doc := r.Document()
	var want Code
	var err error
	var what string
	effect := func() {}
	broken := false
	breaks := func(op string) { // now and then the engine fails half way
		if broken = m.rnd.IntN(8) == 0; broken && want == success {
			r.engine.Fail(op, &backstore.Error{Class: backstore.ClassMedium, Op: op})
			want = VolumeFailed
		}
	}
	switch n := m.rnd.IntN(15); n {
	case 0, 1:
		what = "create " + name
		want = first(when{ways > 0, VolumeExists}, when{there, VolumeExists})
		breaks("create")
		_, err = r.CreateVolume(ctx, "fake:"+name, 64<<10, nil)
		effect = func() { m.vols[name] = modelVolume{size: 64 << 10, snaps: map[string]modelVolume{}} }
	case 2:
		size := []int64{32 << 10, 64 << 10, 128 << 10}[m.rnd.IntN(3)]
		what = fmt.Sprintf("resize %s %d %v", name, size, force)
		want = first(when{ways > 0 && size < v.size && !force, WouldShrink}, when{!there, NoVolume}, when{size < v.size && !force, WouldShrink})
		if ways == 0 {
			breaks("resize")
		}
		_, err = r.ResizeVolume(ctx, "fake:"+name, size, force, nil)
		effect = func() { v.size = size; m.vols[name] = v }
	case 3:
		purge := m.coin()
		what = fmt.Sprintf("delete %s %v %v", name, purge, force)
		want = first(when{purge && !force, WouldDestroy}, when{ways > 0, VolumeInUse}, when{!there, NoVolume}, when{len(v.snaps) > 0, VolumeInUse})
		breaks("delete")
		err = r.DeleteVolume(ctx, "fake:"+name, purge, force, nil)
		effect = func() {
			delete(m.vols, name)
			if !purge {
				m.next++
				v.parent = name
				m.trash[fmt.Sprintf("id%d", m.next)] = v
			}
		}
	case 4:
		id := fmt.Sprintf("id%d", max(1, m.next-m.rnd.IntN(3)))
		d, deleted := m.trash[id]
		what = "restore " + id + " as " + name
		want = first(when{ways > 0, VolumeExists}, when{!deleted, NoVolume}, when{there, VolumeInUse})
		_, err = r.RestoreVolume(ctx, "fake:"+name, id)
		effect = func() { delete(m.trash, id); d.parent = ""; m.vols[name] = d }
	case 5:
		id := fmt.Sprintf("id%d", max(1, m.next-m.rnd.IntN(3)))
		_, deleted := m.trash[id]
		what = fmt.Sprintf("purge %s %v", id, force)
		want = first(when{!force, WouldDestroy}, when{!deleted, NoVolume})
		breaks("purge")
		err = r.PurgeVolume(ctx, "fake:", id, force, nil)
		effect = func() { delete(m.trash, id) }
	case 6, 7:
		what = "snapshot " + name + "@" + snap
		want = first(when{!there, NoVolume}, when{hasSnap, SnapshotExists})
		if ways == 0 {
			breaks("snapshot")
		} else {
			breaks("store snapshot")
		}
		err = r.CreateSnapshot(ctx, "fake:"+name, snap, nil)
		effect = func() { v = v.clone(); v.snaps[snap] = modelVolume{size: v.size, stamp: v.stamp}; m.vols[name] = v }
	case 8:
		what = "delete snapshot " + name + "@" + snap
		want = first(when{!there, NoVolume}, when{!hasSnap, NoSnapshot}, when{m.clones(name, snap) > 0, VolumeInUse})
		breaks("deletesnapshot")
		err = r.DeleteSnapshot(ctx, "fake:"+name, snap, nil)
		effect = func() { v = v.clone(); delete(v.snaps, snap); m.vols[name] = v }
	case 9, 10:
		what = fmt.Sprintf("rollback %s@%s %v", name, snap, force)
		want = first(when{!force, WouldDestroy}, when{ways > 1, VolumeInUse}, when{ways > 0 && !l.offline, VolumeInUse}, when{!there, NoVolume}, when{!hasSnap, NoSnapshot})
		breaks("rollback")
		err = r.RollbackVolume(ctx, "fake:"+name, snap, force, nil)
		effect = func() { v.size, v.stamp = v.snaps[snap].size, v.snaps[snap].stamp; m.vols[name] = v }
	case 11:
		to := m.name()
		_, ways := m.lun(to)
		_, exists := m.vols[to]
		what = fmt.Sprintf("clone %s@%s %s", name, snap, to)
		want = first(when{to == name, Invalid}, when{ways > 0, VolumeExists}, when{!there, NoVolume}, when{!hasSnap, NoSnapshot}, when{exists, VolumeExists})
		breaks("clone")
		_, err = r.CloneVolume(ctx, "fake:"+name, snap, "fake:"+to, nil)
		effect = func() {
			m.vols[to] = modelVolume{size: v.snaps[snap].size, stamp: v.snaps[snap].stamp, snaps: map[string]modelVolume{}, parent: name + "@" + snap}
		}
	case 12:
		what = "flatten " + name
		want = first(when{!there, NoVolume})
		breaks("flatten")
		err = r.FlattenVolume(ctx, "fake:"+name, nil)
		effect = func() { v.parent = ""; m.vols[name] = v }
	case 13:
		n := uint16(1 + m.rnd.IntN(3))
		if x, has := m.luns[n]; has {
			if m.coin() {
				what = fmt.Sprintf("remove LUN %d", n)
				want = success
				err = r.RemoveLUN(ctx, m.ref, n, force)
				effect = func() { delete(m.luns, n) }
				break
			}
			// What is said of a disk holds for all its LUNs.
			what = fmt.Sprintf("LUN %d offline %v", n, !x.offline)
			want = success
			err = r.EditLUN(ctx, m.ref, n, func(l *spec.LUN) error { l.Offline = !x.offline; return nil })
			effect = func() {
				for i, o := range m.luns {
					if o.volume == x.volume {
						m.luns[i] = modelLUN{o.volume, !x.offline}
					}
				}
			}
			break
		}
		what = fmt.Sprintf("add LUN %d of %s", n, name)
		want = first(when{!there, OpenFailed})
		_, err = r.AddLUN(ctx, m.ref, spec.LUN{Number: n, Volume: "fake:" + name, Offline: l.offline}, true)
		effect = func() { m.luns[n] = modelLUN{name, l.offline} }
	case 14:
		if !there {
			return
		}
		v.stamp = fmt.Sprintf("%08d", m.rnd.IntN(1e8))
		what = "write " + name
		want = success
		r.write(name, v.stamp)
		effect = func() { m.vols[name] = v }
	}
	m.log = append(m.log, fmt.Sprintf("%s: %v", what, err))
	got := success
	if err != nil {
		got = CodeOf(err)
	}
	if got != want {
		t.Fatalf("%s: %v (code %d), want code %d, after\n%s", what, err, got, want, strings.Join(m.log, "\n"))
	}
	if err == nil {
		effect()
	} else if now := r.engine.Words(); now != words {
		t.Fatalf("%s: refused, and yet:\n%s\nwas\n%s", what, now, words)
	} else if c := spec.Changes(doc, r.Document()); c != "" {
		t.Fatalf("%s: refused, and yet: %s", what, c)
	}
	m.compare(t)
}

// compare holds everything there is against the model.
func (m *volumeModel) compare(t *testing.T) {
	t.Helper()
	list, err := m.r.Volumes(m.r.ctx(), "fake:")
	m.r.ok(err)
	if len(list) != len(m.vols) || len(m.r.work()) != 0 {
		t.Fatalf("%d volumes, want %d; %v", len(list), len(m.vols), m.log)
	}
	for _, x := range list {
		v := m.vols[x.Name]
		_, ways := m.lun(x.Name)
		if x.Size != v.size || x.Parent != v.parent || len(x.LUNs) != ways || m.r.read(x.Name) != v.stamp {
			t.Fatalf("%+v reads %q, want %+v and %d LUNs, after\n%s", x, m.r.read(x.Name), v, ways, strings.Join(m.log, "\n"))
		}
		snaps, err := m.r.Snapshots(m.r.ctx(), "fake:"+x.Name)
		m.r.ok(err)
		for _, s := range snaps {
			if want, is := v.snaps[s.Name]; !is || s.Size != want.size {
				t.Fatalf("%s@%s: %+v, want %+v", x.Name, s.Name, s, want)
			}
		}
		if len(snaps) != len(v.snaps) {
			t.Fatalf("%s has %d snapshots, want %d", x.Name, len(snaps), len(v.snaps))
		}
	}
	trash, err := m.r.Trash(m.r.ctx(), "fake:")
	m.r.ok(err)
	if len(trash) != len(m.trash) {
		t.Fatalf("%d deleted volumes, want %d", len(trash), len(m.trash))
	}
	s, err := m.r.Target(m.ref, true)
	m.r.ok(err)
	if len(s.Spec.LUNs) != len(m.luns) || s.Faults != nil {
		t.Fatalf("%+v, want %v", s.Spec.LUNs, m.luns)
	}
	for _, l := range s.Live.LUNs {
		want, is := m.luns[l.LUN]
		if !is && l.LUN != 0 || is && (l.Online == want.offline || !want.offline && l.Size != m.vols[want.volume].size) {
			t.Fatalf("LUN %d is %+v, want %+v of %+v, after\n%s", l.LUN, l, want, m.vols[want.volume], strings.Join(m.log, "\n"))
		}
	}
}

// TestVolumeModel: any order of operations, on volumes that are LUNs or not, of an engine that fails now and then: each does what it says, or is
// refused as it ought to be and has changed nothing.
func TestVolumeModel(t *testing.T) {
	for seed := range uint64(12) {
		r := newVolumeRig(t, nil, snapshotters)
		made, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "disk", Access: everybody()})
		r.ok(err)
		m := &volumeModel{r: r, rnd: rand.New(rand.NewPCG(seed, 5)), ref: Ref{TID: made.TID}, vols: map[string]modelVolume{}, trash: map[string]modelVolume{}, luns: map[uint16]modelLUN{}}
		for range 250 {
			m.step(t)
		}
		r.ok(r.Close())
	}
}

// TestVolumesInParallel: everything at once. What is refused is refused for a reason that there can be, the engine is never wronged, and in the
// end everything can be taken away.
func TestVolumesInParallel(t *testing.T) {
	r := newVolumeRig(t, &testState{}, snapshotters)
	r.create("a", "b", "c", "d")
	var refs []Ref
	for _, name := range []string{"one", "two"} {
		x, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + name, Access: everybody()})
		r.ok(err)
		refs = append(refs, Ref{TID: x.TID})
	}
	may := []Code{VolumeBusy, VolumeInUse, VolumeExists, SnapshotExists, NoVolume, NoSnapshot, Cancelled, TooMany, NoLUN, LUNExists, OpenFailed, Unsupported, Invalid, WouldShrink, NoTarget}
	var all sync.WaitGroup
	for seed := range uint64(8) {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 7))
			name := func() string { return modelNames[rnd.IntN(len(modelNames))] }
			for range 150 {
				ctx, cancel := context.WithCancel(r.ctx())
				if rnd.IntN(6) == 0 {
					p := backstore.Progress(func(int64, int64) { cancel() })
					ctx = context.WithValue(ctx, progressKey{}, p)
				}
				p, _ := ctx.Value(progressKey{}).(backstore.Progress)
				uri, snap, ref, n := "fake:"+name(), []string{"s", "t"}[rnd.IntN(2)], refs[rnd.IntN(2)], uint16(1+rnd.IntN(3))
				var err error
				switch rnd.IntN(12) {
				case 0:
					_, err = r.CreateVolume(ctx, uri, 64<<10, p)
				case 1:
					_, err = r.ResizeVolume(ctx, uri, int64(1+rnd.IntN(4))<<15, rnd.IntN(2) == 0, p)
				case 2:
					err = r.DeleteVolume(ctx, uri, true, true, p)
				case 3, 4:
					err = r.CreateSnapshot(ctx, uri, snap, p)
				case 5:
					err = r.DeleteSnapshot(ctx, uri, snap, p)
				case 6:
					err = r.RollbackVolume(ctx, uri, snap, true, p)
				case 7:
					_, err = r.CloneVolume(ctx, uri, snap, "fake:"+name(), p)
				case 8:
					err = r.FlattenVolume(ctx, uri, p)
				case 9:
					_, err = r.AddLUN(ctx, ref, spec.LUN{Number: n, Volume: uri}, true)
				case 10:
					err = r.RemoveLUN(ctx, ref, n, rnd.IntN(2) == 0)
				case 11:
					err = r.EditLUN(ctx, ref, n, func(l *spec.LUN) error { l.Offline = !l.Offline; return nil })
				}
				cancel()
				if err != nil && !slices.Contains(may, CodeOf(err)) {
					t.Errorf("%v (code %d)", err, CodeOf(err))
				}
			}
		})
	}
	all.Wait()
	for _, ref := range refs {
		r.ok(r.RemoveTarget(r.ctx(), ref, true))
	}
	if w := r.work(); len(w) != 0 {
		t.Fatalf("%v is still being done", w)
	}
	// Clones first: a snapshot with clones stays.
	for range len(modelNames) {
		for _, n := range modelNames {
			for _, s := range []string{"s", "t"} {
				if err := r.DeleteSnapshot(r.ctx(), "fake:"+n, s, nil); err != nil && !slices.Contains([]Code{NoVolume, NoSnapshot, VolumeInUse}, CodeOf(err)) {
					t.Error(err)
				}
			}
			if err := r.DeleteVolume(r.ctx(), "fake:"+n, true, true, nil); err != nil && !slices.Contains([]Code{NoVolume, VolumeInUse}, CodeOf(err)) {
				t.Error(err)
			}
		}
	}
	if left := r.engine.Words(); left != "" {
		t.Errorf("left: %s", left)
	}
	if errors.Is(r.ctx().Err(), context.DeadlineExceeded) {
		t.Error("it has taken too long")
	}
}

type progressKey struct{}
