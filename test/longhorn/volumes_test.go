//go:build e2e

package longhorn_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
	driver "github.com/lunar-iscsi/lunar/backstore/longhorn"
	"github.com/lunar-iscsi/lunar/test/longhorn"
)

const size = 8 << 20

func parse(t testing.TB, uri string) *backstore.URI {
	t.Helper()
	u, err := backstore.ParseURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func fill(n int, b byte) []byte { return bytes.Repeat([]byte{b}, n) }

// names are the volume's snapshots that somebody made, oldest first.
func names(t testing.TB, uri string) (list []string) {
	t.Helper()
	all, err := driver.Driver().Volumes.Snapshots(t.Context(), parse(t, uri))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.State == "ready" {
			list = append(list, s.Name)
		}
	}
	return list
}

func class(t testing.TB, err error, c backstore.Class, part string) {
	t.Helper()
	if err == nil || backstore.ClassOf(err) != c || !strings.Contains(err.Error(), part) {
		t.Errorf("%v, want %v with %q", err, c, part)
	}
}

// harness opens the volume and drives it; it is closed by the test.
func harness(t testing.TB, uri string) *backstoretest.Harness {
	t.Helper()
	return backstoretest.NewHarness(t, open(t, uri), true)
}

func TestSnapshots(t *testing.T) {
	e := longhorn.Start(t, longhorn.Config{Size: size})
	uri, v := e.URI(""), driver.Driver().Volumes
	u := parse(t, uri)
	h := harness(t, uri)
	h.Write(0, fill(1<<20, 1), 0)
	if err := h.Store.(backstore.Snapshotter).Snapshot(t.Context(), "one", nil); err != nil {
		t.Fatal(err)
	}
	h.Write(0, fill(1<<20, 2), 0)
	if err := v.Snapshot(t.Context(), u, "two", nil); err != nil {
		t.Fatal(err)
	}
	h.Write(0, fill(1<<20, 3), 0)
	class(t, v.Snapshot(t.Context(), u, "two", nil), backstore.ClassBusy, "already")
	class(t, v.Snapshot(t.Context(), u, "a/b", nil), backstore.ClassUnsupported, "no name")
	if got := names(t, uri); !slices.Equal(got, []string{"one", "two"}) {
		t.Fatalf("snapshots %v", got)
	}
	if st, err := v.Stat(t.Context(), u); err != nil || st.Size != size || st.Used < 2<<20 || st.InUse == "" {
		t.Errorf("%+v, %v", st, err)
	}
	class(t, v.Rollback(t.Context(), u, "one", nil), backstore.ClassBusy, "in use: 1 connection")
	class(t, v.Rollback(t.Context(), u, "none", nil), backstore.ClassNotFound, `no snapshot "none"`)
	h.Want(0, fill(1<<20, 3), "what was refused has changed nothing")
	h.Close()

	if err := v.Rollback(t.Context(), u, "one", nil); err != nil {
		t.Fatal(err)
	}
	h = harness(t, uri)
	h.Want(0, fill(1<<20, 1), "after rolling back to the first")
	h.Close()
	if err := v.Rollback(t.Context(), u, "two", nil); err != nil {
		t.Fatal(err)
	}
	h = harness(t, uri)
	h.Want(0, fill(1<<20, 2), "after going to the second")
	var last int64
	if err := v.DeleteSnapshot(t.Context(), u, "one", func(done, total int64) { last = done * 100 / total }); err != nil {
		t.Fatal(err)
	}
	if last != 100 {
		t.Errorf("progress ended at %d %%", last)
	}
	class(t, v.DeleteSnapshot(t.Context(), u, "one", nil), backstore.ClassNotFound, "no snapshot")
	h.Want(0, fill(1<<20, 2), "after the first was deleted under it")
	if got := names(t, uri); !slices.Equal(got, []string{"two"}) {
		t.Errorf("snapshots %v", got)
	}
	if err := v.DeleteSnapshot(t.Context(), u, "two", nil); err != nil {
		t.Fatal(err)
	}
	h.Want(0, fill(1<<20, 2), "after all were deleted")
	if err := v.Snapshot(t.Context(), u, "one", nil); err != nil {
		t.Errorf("the name is to be had again: %v", err)
	}
	e.KillReplica(1)
	e.WaitMode(1, "ERR")
	class(t, v.DeleteSnapshot(t.Context(), u, "one", nil), backstore.ClassBusy, "ERR")
	h.Close()
}

// A snapshot taken in the midst of writes is of one moment: of a row of blocks that are written one after the other, each only when the
// one before was answered, it has the first so many.
func TestSnapshotIsOfOneMoment(t *testing.T) {
	e := longhorn.Start(t, longhorn.Config{Size: size})
	uri, v := e.URI(""), driver.Driver().Volumes
	h := harness(t, uri)
	const blocks = size / 4096
	taken := make(chan error, 1)
	before, after := 0, 0
	for i := range blocks {
		if i == blocks/8 {
			before = i
			go func() { taken <- h.Store.(backstore.Snapshotter).Snapshot(t.Context(), "amid", nil) }()
		}
		h.Write(int64(i)*4096, fill(4096, 0xa5), 0)
		if after == 0 {
			select {
			case err := <-taken:
				if err != nil {
					t.Fatal(err)
				}
				after = i + 1
			default:
			}
		}
	}
	h.Close()
	if after == 0 {
		t.Fatal("the snapshot took longer than all the writes")
	}
	if err := v.Rollback(t.Context(), parse(t, uri), "amid", nil); err != nil {
		t.Fatal(err)
	}
	h = harness(t, uri)
	got := append(h.Read(0, size/2), h.Read(size/2, size/2)...)
	n := 0
	for n < blocks && got[n*4096] == 0xa5 {
		n++
	}
	if n < before || n > after || !bytes.Equal(got, append(fill(n*4096, 0xa5), make([]byte, size-n*4096)...)) {
		t.Errorf("it has the first %d blocks, was taken between %d and %d", n, before, after)
	}
	h.Close()
}

func TestClone(t *testing.T) {
	from, to := longhorn.Start(t, longhorn.Config{Size: size}), longhorn.Start(t, longhorn.Config{Size: size})
	v := driver.Driver().Volumes
	h := harness(t, from.URI(""))
	h.Write(1<<20, fill(1<<20, 1), 0)
	if err := v.Snapshot(t.Context(), parse(t, from.URI("")), "base", nil); err != nil {
		t.Fatal(err)
	}
	h.Write(1<<20, fill(1<<20, 2), 0)
	if err := v.Clone(t.Context(), parse(t, from.URI("")), "base", parse(t, to.URI("")), nil); err != nil {
		t.Fatal(err)
	}
	c := harness(t, to.URI(""))
	c.Want(0, append(make([]byte, 1<<20), fill(1<<20, 1)...), "the clone")
	c.Write(1<<20, fill(4096, 9), 0)
	h.Want(1<<20, fill(1<<20, 2), "its parent, after the clone was written")
	h.Write(1<<20, fill(4096, 8), 0)
	c.Want(1<<20, append(fill(4096, 9), fill(4096, 1)...), "the clone, after its parent was written")
	c.Close()
	class(t, v.Clone(t.Context(), parse(t, from.URI("")), "base", parse(t, to.URI("")), nil), backstore.ClassUnsupported, "is not empty")
	class(t, v.Clone(t.Context(), parse(t, from.URI("")), "base", parse(t, from.URI("")), nil), backstore.ClassBusy, "one engine")
	third := longhorn.Start(t, longhorn.Config{Size: size})
	if err := v.Clone(t.Context(), parse(t, from.URI("")), "", parse(t, third.URI("")), nil); err != nil {
		t.Fatal(err)
	}
	c = harness(t, third.URI(""))
	c.Want(1<<20, append(fill(4096, 8), fill(4096, 2)...), "a clone of the present")
	c.Close()
	if got := names(t, from.URI("")); !slices.Equal(got, []string{"base"}) {
		t.Errorf("snapshots %v", got)
	}
	small := longhorn.Start(t, longhorn.Config{Size: size / 2})
	class(t, v.Clone(t.Context(), parse(t, from.URI("")), "base", parse(t, small.URI("")), nil), backstore.ClassRange, "as many")
	h.Close()
}

func TestList(t *testing.T) {
	e := longhorn.Start(t, longhorn.Config{Size: size})
	v := driver.Driver().Volumes
	dir := strings.TrimSuffix(e.Socket(), "/longhorn-"+e.Volume+".sock")
	for _, uri := range []string{"longhorn:" + dir, "longhorn:?engine=" + e.Address(), e.URI("")} {
		list, err := v.List(t.Context(), parse(t, uri))
		if err != nil || len(list) != 1 || list[0].Name != e.Volume || list[0].Size != size {
			t.Errorf("%s: %+v, %v", uri, list, err)
		}
	}
	e.KillController()
	list, err := v.List(t.Context(), parse(t, "longhorn:"+dir))
	if err != nil || len(list) != 1 || list[0].Size != 0 { // the socket is left
		t.Errorf("%+v, %v", list, err)
	}
	_, err = v.Stat(t.Context(), parse(t, e.URI("")))
	class(t, err, backstore.ClassOffline, e.Volume)
	_, err = v.List(t.Context(), parse(t, "longhorn:"+dir+"/none"))
	if err == nil {
		t.Error("a folder that is not there was listed")
	}
	var be *backstore.Error
	if !errors.As(err, &be) {
		t.Errorf("%T", err)
	}
}

// What belongs to another engine, or needs what is not known, is refused.
func TestControlRefused(t *testing.T) {
	e := longhorn.Start(t, longhorn.Config{Size: size})
	v := driver.Driver().Volumes
	class(t, v.Snapshot(t.Context(), parse(t, "longhorn:"+e.Volume), "s", nil), backstore.ClassUnsupported, "give the volume the option engine=")
	class(t, v.Snapshot(t.Context(), parse(t, "longhorn:another?engine="+e.Address()), "s", nil), backstore.ClassNotFound, "incorrect volume name another")
	class(t, v.Resize(t.Context(), parse(t, e.URI("")), 2*size, false, nil), backstore.ClassUnsupported, `the frontend "socket"`)
	class(t, v.Resize(t.Context(), parse(t, e.URI("")), size/2, true, nil), backstore.ClassUnsupported, "cannot shrink")
	if got, err := v.Stat(t.Context(), parse(t, e.URI(""))); err != nil || got.Size != size {
		t.Errorf("%+v, %v", got, err)
	}
}

// A volume without a frontend grows.
func TestResizeUnused(t *testing.T) {
	e := longhorn.Start(t, longhorn.Config{Size: size, Frontend: "-"})
	v := driver.Driver().Volumes
	if err := v.Resize(t.Context(), parse(t, e.URI("")), 2*size, false, nil); err != nil {
		t.Fatal(err)
	}
	e.Must("frontend", "start", "socket")
	h := harness(t, e.URI(""))
	if h.Info.Size != 2*size {
		t.Errorf("size %d", h.Info.Size)
	}
	h.Write(2*size-4096, fill(4096, 1), 0)
	h.Close()
}
