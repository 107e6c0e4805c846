//go:build rbd && cgo

package rbd

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ceph/go-ceph/rbd"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

func parseURI(t testing.TB, s string) *backstore.URI {
	t.Helper()
	u, err := backstore.ParseURI(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// fill writes n bytes of b at the beginning of an image.
func fill(t testing.TB, uri string, b byte, n int) {
	t.Helper()
	s := mustOpen(t, uri, backstore.Options{})
	backstoretest.NewHarness(t, s, false).Write(0, bytes.Repeat([]byte{b}, n), 0)
	closeAll(t, s)
}

func holds(t testing.TB, uri string, b byte, n int, what string) {
	t.Helper()
	s := mustOpen(t, uri, backstore.Options{ReadOnly: true})
	backstoretest.NewHarness(t, s, false).Want(0, bytes.Repeat([]byte{b}, n), what)
	closeAll(t, s)
}

func TestVolumes(t *testing.T) {
	c := start(t)
	v := volumes()
	ctx := t.Context()
	name := fmt.Sprintf("rbd/v%d", time.Now().UnixNano())
	u := parseURI(t, c.uri(name, ""))
	wrong := func(err error, class backstore.Class, what string) {
		t.Helper()
		if err == nil || backstore.ClassOf(err) != class {
			t.Errorf("%s: %v, want %v", what, err, class)
		}
	}
	_, err := v.Stat(ctx, u)
	wrong(err, backstore.ClassNotFound, "stat of what is not there")
	wrong(v.Create(ctx, u, 1000, nil), backstore.ClassRange, "create with half a block")
	if err := v.Create(ctx, u, 64<<20, nil); err != nil {
		t.Fatal(err)
	}
	wrong(v.Create(ctx, u, 64<<20, nil), backstore.ClassBusy, "create twice")
	fill(t, u.String(), 7, 5<<20)
	got, err := v.Stat(ctx, u)
	if err != nil || got.Size != 64<<20 || got.Name != name || got.Used != 8<<20 || time.Since(got.Created) > time.Hour || got.InUse != "" || got.Parent != "" {
		t.Errorf("stat: %+v, %v", got, err)
	}
	if again := parsed(t, got.URI); again.spec.String() != name || again.conf != c.conf {
		t.Errorf("its URI is %s", got.URI)
	}
	all, err := v.List(ctx, parseURI(t, c.uri("rbd", "")))
	if at := slices.IndexFunc(all, func(x backstore.Volume) bool { return x.Name == name }); err != nil || at < 0 || all[at].Size != 64<<20 {
		t.Errorf("list: %v, %v", all, err)
	}

	wrong(v.Resize(ctx, u, 32<<20, false, nil), backstore.ClassRange, "making it smaller unasked")
	var told int64
	if err := v.Resize(ctx, u, 128<<20, false, func(done, total int64) { told = total }); err != nil {
		t.Error(err)
	}
	if err := v.Resize(ctx, u, 96<<20, true, func(done, total int64) { told = total }); err != nil || told == 0 {
		t.Errorf("%v; of its progress nothing was told: %d", err, told)
	}

	s := mustOpen(t, u.String(), backstore.Options{})
	if got, err := v.Stat(ctx, u); err != nil || !strings.Contains(got.InUse, "client.") {
		t.Errorf("stat of an open image: %+v, %v", got, err)
	}
	wrong(v.Delete(ctx, u, backstore.Deletion{}, nil), backstore.ClassBusy, "delete in use")
	wrong(v.Delete(ctx, u, backstore.Deletion{Purge: true}, nil), backstore.ClassBusy, "purge in use")
	wrong(v.Resize(ctx, u, 32<<20, true, nil), backstore.ClassBusy, "shrink in use")
	if err := v.Resize(ctx, u, 64<<20+96<<20, false, nil); err != nil {
		t.Errorf("grow in use: %v", err)
	}
	closeAll(t, s)

	if err := v.Delete(ctx, u, backstore.Deletion{}, nil); err != nil {
		t.Fatal(err)
	}
	_, err = v.Stat(ctx, u)
	wrong(err, backstore.ClassNotFound, "stat of what was deleted")
	find := func() backstore.TrashedVolume {
		t.Helper()
		bin, err := v.Trash(ctx, parseURI(t, c.uri("rbd", "")))
		at := slices.IndexFunc(bin, func(x backstore.TrashedVolume) bool { return "rbd/"+x.Name == name })
		if err != nil || at < 0 {
			t.Fatalf("the trash: %v, %v", bin, err)
		}
		return bin[at]
	}
	if x := find(); x.Size != 160<<20 || time.Since(x.Deleted) > time.Hour {
		t.Errorf("in the trash: %+v", x)
	}
	back, err := v.Restore(ctx, parseURI(t, c.uri("rbd", "")), find().ID)
	if err != nil || parsed(t, back).spec.String() != name {
		t.Fatalf("restored as %s, %v", back, err)
	}
	holds(t, back, 7, 5<<20, "after being restored")
	if err := v.Delete(ctx, u, backstore.Deletion{}, nil); err != nil {
		t.Fatal(err)
	}
	if back, err = v.Restore(ctx, parseURI(t, c.uri(name+"-b", "")), find().ID); err != nil || parsed(t, back).spec.String() != name+"-b" {
		t.Fatalf("restored as %s, %v", back, err)
	}
	other := parseURI(t, back)
	if err := v.Delete(ctx, other, backstore.Deletion{}, nil); err != nil {
		t.Fatal(err)
	}
	name += "-b"
	if err := v.Purge(ctx, parseURI(t, c.uri("rbd", "")), find().ID, nil); err != nil {
		t.Error(err)
	}
	_, err = v.Restore(ctx, parseURI(t, c.uri("rbd", "")), "123")
	wrong(err, backstore.ClassNotFound, "restore of what is not in the trash")
	wrong(v.Purge(ctx, parseURI(t, c.uri("rbd", "")), "123", nil), backstore.ClassNotFound, "purge of what is not in the trash")
	if err := v.Create(ctx, other, 16<<20, nil); err != nil {
		t.Fatal(err)
	}
	if err := v.Delete(ctx, other, backstore.Deletion{Purge: true}, nil); err != nil {
		t.Error(err)
	}
	wrong(v.Delete(ctx, other, backstore.Deletion{Purge: true}, nil), backstore.ClassNotFound, "delete twice")
}

func TestSnapshotsAndClones(t *testing.T) {
	c := start(t)
	for _, format := range []string{"luminous", "mimic"} { // the latter makes clones of the second format
		t.Run(format, func(t *testing.T) {
			compat(t, c, format)
			snapshotsAndClones(t, c, format == "mimic")
		})
	}
}

// compat says which clients the cluster wants, and with it which clones it makes.
func compat(t *testing.T, c *testCluster, release string) {
	t.Helper()
	cl := c.client(t)
	defer cl.close()
	cmd := fmt.Sprintf(`{"prefix":"osd set-require-min-compat-client","version":"%s","yes_i_really_mean_it":true}`, release)
	if _, said, err := cl.conn.MonCommand([]byte(cmd)); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
}

func snapshotsAndClones(t *testing.T, c *testCluster, second bool) {
	v := volumes()
	ctx := t.Context()
	name := fmt.Sprintf("rbd/s%d", time.Now().UnixNano())
	u, to := parseURI(t, c.uri(name, "")), parseURI(t, c.uri(name+"-clone", ""))
	wrong := func(err error, class backstore.Class, what string) {
		t.Helper()
		if err == nil || backstore.ClassOf(err) != class {
			t.Errorf("%s: %v, want %v", what, err, class)
		}
	}
	must := func(err error, what string) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	must(v.Create(ctx, u, 64<<20, nil), "create")
	fill(t, u.String(), 1, 12<<20)
	must(v.Snapshot(ctx, u, "one", nil), "snapshot")
	wrong(v.Snapshot(ctx, u, "one", nil), backstore.ClassBusy, "two snapshots of one name")
	s := mustOpen(t, u.String(), backstore.Options{})
	h := backstoretest.NewHarness(t, s, false)
	h.Write(0, bytes.Repeat([]byte{2}, 12<<20), 0)
	must(s.Snapshot(ctx, "two", nil), "snapshot of an open store")
	h.Write(0, bytes.Repeat([]byte{3}, 12<<20), 0)
	must(v.Snapshot(ctx, u, "three", nil), "snapshot while it is open elsewhere")
	wrong(v.Rollback(ctx, u, "one", nil), backstore.ClassBusy, "rollback in use")
	closeAll(t, s)

	list, err := v.Snapshots(ctx, u)
	must(err, "snapshots")
	for i, want := range []string{"one", "two", "three"} {
		if len(list) != 3 || list[i].Name != want || list[i].Size != 64<<20 || list[i].Clones != 0 || time.Since(list[i].Created) > time.Hour {
			t.Fatalf("the snapshots are %+v", list)
		}
		holds(t, c.uri(name+"@"+want, ""), byte(i+1), 12<<20, "snapshot "+want)
	}
	wrong(v.Delete(ctx, u, backstore.Deletion{}, nil), backstore.ClassBusy, "delete with snapshots")
	must(v.Rollback(ctx, u, "one", nil), "rollback")
	holds(t, u.String(), 1, 12<<20, "after the rollback")
	wrong(v.Rollback(ctx, u, "none", nil), backstore.ClassNotFound, "rollback to nothing")

	wrong(v.Clone(ctx, u, "none", to, nil), backstore.ClassNotFound, "clone of nothing")
	must(v.Clone(ctx, u, "two", to, nil), "clone")
	wrong(v.Clone(ctx, u, "two", to, nil), backstore.ClassBusy, "clone onto what is there")
	if got, err := v.Stat(ctx, to); err != nil || got.Parent != name+"@two" {
		t.Errorf("the clone: %+v, %v", got, err)
	}
	holds(t, to.String(), 2, 12<<20, "the clone")
	fill(t, to.String(), 9, 4<<20)
	holds(t, c.uri(name+"@two", ""), 2, 12<<20, "the snapshot after its clone was written")
	if list, err = v.Snapshots(ctx, u); err != nil || list[1].Clones != 1 {
		t.Errorf("the snapshots are %+v, %v", list, err)
	}
	wrong(v.DeleteSnapshot(ctx, u, "two", nil), backstore.ClassBusy, "delete a snapshot with a clone")
	wrong(v.Flatten(ctx, u, nil), backstore.ClassUnsupported, "flatten what is no clone")
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := v.Flatten(cancelled, to, nil); err == nil {
		t.Error("flatten with a context that has ended: no error")
	}
	var last, total int64
	must(v.Flatten(ctx, to, func(d, n int64) { last, total = d, n }), "flatten")
	if last == 0 || last != total {
		t.Errorf("of flatten's progress %d of %d was told", last, total)
	}
	must(v.DeleteSnapshot(ctx, u, "two", nil), "delete a snapshot")
	wrong(v.DeleteSnapshot(ctx, u, "two", nil), backstore.ClassNotFound, "delete it twice")
	holds(t, c.uri(name+"-clone", ""), 9, 4<<20, "the clone without its parent")
	if got, err := v.Stat(ctx, to); err != nil || got.Parent != "" {
		t.Errorf("the clone is still one: %+v, %v", got, err)
	}

	auto := parseURI(t, c.uri(name+"-auto", ""))
	if err = v.Clone(ctx, u, "", auto, nil); !second {
		wrong(err, backstore.ClassUnsupported, "clone of the first format without a snapshot")
	} else {
		must(err, "clone without a snapshot")
		holds(t, auto.String(), 1, 12<<20, "the clone")
	}
	if list, err = v.Snapshots(ctx, u); err != nil || len(list) != 2 {
		t.Errorf("the snapshots are %+v, %v", list, err)
	}
	for _, s := range list {
		must(v.DeleteSnapshot(ctx, u, s.Name, nil), "delete a snapshot")
	}
}

// Flattening stops when its context ends, leaves a clone that is whole, and can be begun again.
func TestFlattenIsBrokenOff(t *testing.T) {
	c := start(t)
	compat(t, c, "mimic")
	v := volumes()
	name := fmt.Sprintf("rbd/f%d", time.Now().UnixNano())
	u, to := parseURI(t, c.uri(name, "")), parseURI(t, c.uri(name+"-clone", ""))
	const object, objects = 4 << 20, 400
	if err := v.Create(t.Context(), u, objects*object, nil); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, u.String(), backstore.Options{})
	h := backstoretest.NewHarness(t, s, false)
	mark := bytes.Repeat([]byte{0xc3}, 4096)
	for n := range int64(objects) {
		h.Write(n*object, mark, 0)
	}
	closeAll(t, s)
	if err := v.Snapshot(t.Context(), u, "s", nil); err != nil {
		t.Fatal(err)
	}
	if err := v.Clone(t.Context(), u, "s", to, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var done, total int64
	err := v.Flatten(ctx, to, func(d, n int64) { done, total = d, n; cancel() })
	if backstore.ClassOf(err) != backstore.ClassCancelled || done == 0 || done >= total {
		t.Fatalf("broken off after %d of %d: %v, want cancelled", done, total, err)
	}
	if got, err := v.Stat(t.Context(), to); err != nil || got.Parent == "" {
		t.Errorf("the clone that was half flattened: %+v, %v", got, err)
	}
	if err := v.Flatten(t.Context(), to, nil); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, c.uri(name+"-clone", ""), backstore.Options{ReadOnly: true})
	h = backstoretest.NewHarness(t, s, false)
	for n := range int64(objects) {
		h.Want(n*object, mark, "the clone")
	}
	closeAll(t, s)
}

func TestNamespaces(t *testing.T) {
	c := start(t)
	cl := c.client(t)
	defer cl.close()
	ns := fmt.Sprintf("ns%d", time.Now().UnixNano())
	if err := rbd.NamespaceCreate(cl.io, ns); err != nil {
		t.Fatal(err)
	}
	v := volumes()
	ctx := t.Context()
	inside, outside, nowhere := parseURI(t, c.uri("rbd/"+ns+"/a", "")), parseURI(t, c.uri("rbd/a-"+ns, "")), parseURI(t, c.uri("rbd/no-"+ns+"/a", ""))
	if err := v.Create(ctx, nowhere, 8<<20, nil); backstore.ClassOf(err) != backstore.ClassNotFound {
		t.Errorf("create in a namespace that is not there: %v", err)
	}
	for i, u := range []*backstore.URI{inside, outside} {
		if err := v.Create(ctx, u, 8<<20, nil); err != nil {
			t.Fatal(err)
		}
		fill(t, u.String(), byte(i+1), 1<<20)
	}
	holds(t, inside.String(), 1, 1<<20, "the image of the namespace")
	holds(t, outside.String(), 2, 1<<20, "the image outside of it")
	only, err := v.List(ctx, parseURI(t, c.uri("rbd/"+ns, "")))
	if err != nil || len(only) != 1 || only[0].Name != "rbd/"+ns+"/a" {
		t.Errorf("the namespace has %+v, %v", only, err)
	}
	all, err := v.List(ctx, parseURI(t, c.uri("rbd", "")))
	for _, want := range []string{"rbd/" + ns + "/a", "rbd/a-" + ns} {
		if err != nil || !slices.ContainsFunc(all, func(x backstore.Volume) bool { return x.Name == want }) {
			t.Errorf("the pool lacks %s: %v", want, err)
		}
	}
	if _, err := v.List(ctx, nowhere); err == nil {
		t.Error("an image was listed")
	}
	if err := v.Delete(ctx, inside, backstore.Deletion{}, nil); err != nil {
		t.Fatal(err)
	}
	bin, err := v.Trash(ctx, parseURI(t, c.uri("rbd/"+ns, "")))
	if err != nil || len(bin) != 1 {
		t.Fatalf("the trash of the namespace: %+v, %v", bin, err)
	}
	back, err := v.Restore(ctx, parseURI(t, c.uri("rbd/"+ns, "")), bin[0].ID)
	if err != nil || parsed(t, back).spec.String() != "rbd/"+ns+"/a" {
		t.Errorf("restored as %s, %v", back, err)
	}
}
