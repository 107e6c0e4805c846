package file

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

func uri(t testing.TB, s string) *backstore.URI {
	t.Helper()
	u, err := backstore.ParseURI(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantClass(t testing.TB, err error, c backstore.Class, what string) {
	t.Helper()
	var be *backstore.Error
	if !errors.As(err, &be) || error(be) != err || be.Class != c { //nolint:errorlint // itself
		t.Errorf("%s: %T %v, want a *backstore.Error: %v", what, err, err, c)
	}
}

// The life of a volume, its snapshots and clones, on each kind of file system.
func TestVolumes(t *testing.T) {
	v, ctx := Driver().Volumes, context.Background()
	for place, dir := range places(t) {
		t.Run(place, func(t *testing.T) {
			path := filepath.Join(dir, "a disk?.img") // what a URI must escape
			u := uri(t, uriOf(path))
			const size = 3*pieceSize + snapBlock
			must(t, v.Create(ctx, u, size, nil))
			wantClass(t, v.Create(ctx, u, size, nil), backstore.ClassBusy, "create once more")
			wantClass(t, v.Create(ctx, uri(t, uriOf(path)+"x"), 1000, nil), backstore.ClassRange, "an odd size")
			wantClass(t, v.Create(ctx, uri(t, uriOf(path)+"x?size=1M"), 2<<20, nil), backstore.ClassRange, "two sizes")
			st, err := v.Stat(ctx, u)
			if err != nil || st.Size != size || st.InUse != "" || st.URI != uriOf(path) {
				t.Errorf("stat: %+v, %v", st, err)
			}
			one, two := bytes.Repeat([]byte{1}, pieceSize), bytes.Repeat([]byte{2}, pieceSize)
			write := func(path string, off int64, b []byte) {
				t.Helper()
				h := backstoretest.NewHarness(t, openURI(t, uriOf(path)), true)
				h.Write(off, b, 0)
				h.Close()
			}
			want := func(path string, pieces ...[]byte) {
				t.Helper()
				b, err := os.ReadFile(path)
				must(t, err)
				if all := append(bytes.Join(pieces, nil), make([]byte, snapBlock)...); !bytes.Equal(b, all[:len(b)]) || len(b) < len(all)-snapBlock {
					t.Errorf("%s has other contents", path)
				}
			}
			none := make([]byte, pieceSize)
			write(path, pieceSize, one)
			must(t, os.Chmod(path, 0o640))
			must(t, v.Snapshot(ctx, u, "s1", nil))
			write(path, 0, two)
			last := int64(-1)
			must(t, v.Snapshot(ctx, u, "s2", func(done, total int64) {
				if done < last || done > total || total != size {
					t.Errorf("progress %d of %d after %d", done, total, last)
				}
				last = done
			}))
			if last != size {
				t.Errorf("progress ended at %d", last)
			}
			wantClass(t, v.Snapshot(ctx, u, "s2", nil), backstore.ClassBusy, "a name that is taken")
			wantClass(t, v.Snapshot(ctx, u, "../s", nil), backstore.ClassRange, "a way out of the folder")
			list, err := v.Snapshots(ctx, u)
			if err != nil || len(list) != 2 || list[0].Name != "s1" || list[1].Name != "s2" || list[1].Size != size || list[1].State != "ready" {
				t.Errorf("snapshots %+v, %v", list, err)
			}
			want(snapshotPath(path, "s1"), none, one, none)
			want(snapshotPath(path, "s2"), two, one, none)
			var fi unix.Stat_t
			must(t, unix.Stat(snapshotPath(path, "s1"), &fi))
			if fi.Blocks*512 > 2*pieceSize {
				t.Errorf("a snapshot of %d bytes takes %d: its holes are not holes", pieceSize, fi.Blocks*512)
			}

			clone := uri(t, uriOf(filepath.Join(dir, "clone.img")))
			must(t, v.Clone(ctx, u, "s1", clone, nil))
			wantClass(t, v.Clone(ctx, u, "s1", clone, nil), backstore.ClassBusy, "a clone onto a file")
			wantClass(t, v.Clone(ctx, u, "no", uri(t, uriOf(path)+"y"), nil), backstore.ClassNotFound, "a clone of no snapshot")
			write(clone.Path, 2*pieceSize, two)
			want(clone.Path, none, one, two)
			want(snapshotPath(path, "s1"), none, one, none)
			want(path, two, one, none)
			full := uri(t, uriOf(filepath.Join(dir, "full.img"))+"?thin=off")
			must(t, v.Clone(ctx, u, "", full, nil))
			want(full.Path, two, one, none)
			must(t, unix.Stat(full.Path, &fi))
			if fi.Blocks*512 < size {
				t.Errorf("a clone with thin=off has %d bytes of %d", fi.Blocks*512, size)
			}
			must(t, v.Flatten(ctx, clone, nil))

			all, err := v.List(ctx, uri(t, "file://"+dir))
			if err != nil || len(all) != 3 {
				t.Errorf("list: %+v, %v", all, err)
			}
			for _, l := range all {
				if got := uri(t, l.URI); got.Path != l.Name {
					t.Errorf("%s names %s", l.URI, got.Path)
				}
			}

			wantClass(t, v.Delete(ctx, u, backstore.Deletion{}, nil), backstore.ClassBusy, "delete with snapshots")
			must(t, v.Resize(ctx, u, 8*pieceSize, false, nil))
			wantClass(t, v.Resize(ctx, u, size, false, nil), backstore.ClassRange, "make smaller, unasked")

			held := openURI(t, uriOf(path))
			if st, err = v.Stat(ctx, u); err != nil || !strings.Contains(st.InUse, "this process") || st.Size != 8*pieceSize {
				t.Errorf("stat of an open one: %+v, %v", st, err)
			}
			wantClass(t, v.Rollback(ctx, u, "s1", nil), backstore.ClassBusy, "rollback of an open volume")
			wantClass(t, v.Delete(ctx, u, backstore.Deletion{Purge: true}, nil), backstore.ClassBusy, "delete an open volume")
			wantClass(t, v.Resize(ctx, u, 16*pieceSize, false, nil), backstore.ClassBusy, "resize an open volume")
			if err := v.Snapshot(ctx, u, "s3", nil); reflinks(t, dir) {
				must(t, err)
				must(t, v.DeleteSnapshot(ctx, u, "s3", nil))
			} else {
				wantClass(t, err, backstore.ClassBusy, "a copy of what another has open")
			}
			must(t, held.Close(ctx))

			must(t, v.Rollback(ctx, u, "s1", nil))
			want(path, none, one, none)
			must(t, unix.Stat(path, &fi))
			if fi.Size != size || fi.Mode&0o777 != 0o640 {
				t.Errorf("after a rollback: %d bytes, mode %o", fi.Size, fi.Mode)
			}
			wantClass(t, v.Rollback(ctx, u, "s9", nil), backstore.ClassNotFound, "rollback to no snapshot")

			snap := openURI(t, uriOf(snapshotPath(path, "s2"))+"?readonly")
			wantClass(t, v.DeleteSnapshot(ctx, u, "s2", nil), backstore.ClassBusy, "delete a snapshot that is served")
			again := uri(t, uriOf(filepath.Join(dir, "again.img")))
			must(t, v.Clone(ctx, u, "s2", again, nil)) // while it is served
			want(again.Path, two, one, none)
			must(t, snap.Close(ctx))
			must(t, v.DeleteSnapshot(ctx, u, "s2", nil))
			wantClass(t, v.DeleteSnapshot(ctx, u, "s2", nil), backstore.ClassNotFound, "delete it again")
			must(t, v.DeleteSnapshot(ctx, u, "s1", nil))
			must(t, v.Delete(ctx, u, backstore.Deletion{}, nil))
			wantClass(t, v.Delete(ctx, u, backstore.Deletion{}, nil), backstore.ClassNotFound, "delete it again")
			for _, u := range []*backstore.URI{clone, full, again} {
				must(t, v.Delete(ctx, u, backstore.Deletion{}, nil))
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

// Links: the snapshots are those of the file, by whatever name; a link is not deleted, and what has two names is not rolled back.
func TestVolumesLinks(t *testing.T) {
	v, ctx, dir := Driver().Volumes, context.Background(), diskDir(t)
	path, link := filepath.Join(dir, "d.img"), filepath.Join(dir, "link")
	must(t, v.Create(ctx, uri(t, "file://"+path), 1<<20, nil))
	must(t, os.Symlink("d.img", link))
	must(t, v.Snapshot(ctx, uri(t, "file://"+link), "s", nil))
	if list, err := v.Snapshots(ctx, uri(t, "file://"+path)); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if key(uri(t, "file://"+link)) != key(uri(t, "file://"+dir+"/./d.img")) || key(uri(t, "file://"+path+"2")) == key(uri(t, "file://"+path)) {
		t.Error("keys")
	}
	wantClass(t, v.Delete(ctx, uri(t, "file://"+link), backstore.Deletion{}, nil), backstore.ClassUnsupported, "delete a link")
	must(t, os.Link(path, filepath.Join(dir, "hard")))
	wantClass(t, v.Rollback(ctx, uri(t, "file://"+path), "s", nil), backstore.ClassUnsupported, "rollback of two names")
	must(t, os.Remove(filepath.Join(dir, "hard")))
	must(t, v.Rollback(ctx, uri(t, "file://"+link), "s", nil))
	if fi, err := os.Lstat(link); err != nil || fi.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link: %v, %v", fi, err)
	}
	must(t, os.Symlink("/etc/hostname", snapshotPath(path, "evil")))
	wantClass(t, v.Rollback(ctx, uri(t, "file://"+path), "evil", nil), backstore.ClassUnsupported, "a snapshot that is a link")
	wantClass(t, v.Snapshot(ctx, uri(t, "file:///dev/null"), "s", nil), backstore.ClassUnsupported, "a device")
	wantClass(t, v.Snapshot(ctx, uri(t, "file://"+snapshotPath(path, "s")), "s", nil), backstore.ClassUnsupported, "a snapshot of a snapshot")
}

// Who opens a file while it is replaced or deleted gets the new one, or is told: never one without a name.
func TestOpenReplaced(t *testing.T) {
	dir := diskDir(t)
	path := filepath.Join(dir, "d.img")
	must(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
	fd, err := own(path)
	must(t, err)
	got := make(chan *Store)
	began := make(chan struct{})
	go func() {
		close(began)
		for {
			st, err := tryURI("file://" + path)
			if err == nil {
				got <- st
				return
			}
			if backstore.ClassOf(err) != backstore.ClassBusy {
				t.Errorf("%v", err)
				got <- nil
				return
			}
		}
	}()
	<-began
	m := making{dir: dir, name: "d.img", replace: true}
	must(t, m.make(func(fd int) error { return unix.Ftruncate(fd, 2<<20) }))
	must(t, unix.Close(fd))
	if st := <-got; st != nil {
		if st.Info().Size != 2<<20 {
			t.Errorf("it has %d bytes: the old file is open", st.Info().Size)
		}
		must(t, st.Close(context.Background()))
	}
}

// crashEnv has a process of this test do one operation and die at one step of it.
const crashEnv = "LUNAR_FILE_CRASH"

func crash(t *testing.T, what string) {
	op, rest, _ := strings.Cut(what, " ")
	at, dir, _ := strings.Cut(rest, " ")
	step := func(s string) error {
		if s == at {
			must(t, unix.Kill(unix.Getpid(), unix.SIGKILL))
			select {}
		}
		return nil
	}
	a, ctx, u := administrator{step: step}, context.Background(), uri(t, "file://"+dir+"/d.img")
	switch op {
	case "create":
		must(t, a.create(ctx, uri(t, "file://"+dir+"/new.img"), 1<<20, nil))
	case "clone":
		must(t, a.clone(ctx, u, "old", uri(t, "file://"+dir+"/new.img"), nil))
	case "rollback":
		must(t, a.rollback(ctx, u, "old", nil))
	case "snapshot":
		must(t, a.snapshot(ctx, u, "new", nil))
	case "store":
		must(t, openURI(t, "file://"+dir+"/d.img").snapshot(ctx, "new", nil, step))
	}
	t.Fatalf("step %s of %s never came", at, op)
}

// A crash at any step leaves what was there, or what was to be, and nothing that stays.
func TestCrash(t *testing.T) {
	if what := os.Getenv(crashEnv); what != "" {
		crash(t, what)
	}
	v, ctx := Driver().Volumes, context.Background()
	for _, op := range []string{"create", "clone", "rollback", "snapshot", "store"} {
		for _, step := range []string{"made", "moment", "span", "filled", "synced", "named", "durable"} {
			dir := diskDir(t)
			if step == "moment" && op != "store" || step == "span" && (op == "create" || reflinks(t, dir)) {
				continue
			}
			t.Run(op+","+step, func(t *testing.T) {
				u, path := uri(t, "file://"+dir+"/d.img"), filepath.Join(dir, "d.img")
				old, now := bytes.Repeat([]byte{1}, 2*pieceSize), bytes.Repeat([]byte{2}, 2*pieceSize)
				must(t, os.WriteFile(path, old, 0o600))
				must(t, v.Snapshot(ctx, u, "old", nil))
				must(t, os.WriteFile(path, now, 0o600))
				c := exec.Command(os.Args[0], "-test.run=^TestCrash$")
				c.Env = append(os.Environ(), crashEnv+"="+op+" "+step+" "+dir)
				out, err := c.CombinedOutput()
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.Exited() {
					t.Fatalf("it was not killed: %v\n%s", err, out)
				}
				whole := step == "named" || step == "durable"
				list, err := v.Snapshots(ctx, u)
				must(t, err)
				if want := map[bool]int{false: 1, true: 2}[whole && (op == "snapshot" || op == "store")]; len(list) != want {
					t.Errorf("snapshots: %+v, want %d", list, want)
				}
				for _, s := range list {
					b, err := os.ReadFile(snapshotPath(path, s.Name))
					if err != nil || !bytes.Equal(b, map[string][]byte{"old": old, "new": now}[s.Name]) {
						t.Errorf("snapshot %s has other contents (%v)", s.Name, err)
					}
				}
				b, err := os.ReadFile(path)
				if want := map[bool][]byte{false: now, true: old}[whole && op == "rollback"]; err != nil || !bytes.Equal(b, want) {
					t.Errorf("the volume has other contents (%v)", err)
				}
				volumes, err := v.List(ctx, uri(t, "file://"+dir))
				must(t, err)
				if want := map[bool]int{false: 1, true: 2}[whole && (op == "create" || op == "clone")]; len(volumes) != want {
					t.Errorf("volumes: %+v, want %d", volumes, want)
				}
				for _, d := range []string{dir, snapshotsOf(path)} {
					left, err := os.ReadDir(d)
					must(t, err)
					for _, e := range left {
						if strings.HasPrefix(e.Name(), ".") {
							t.Errorf("%s is left in %s", e.Name(), d)
						}
					}
				}
				// And it can be done now.
				switch op {
				case "create":
					err = v.Create(ctx, uri(t, "file://"+dir+"/new2.img"), 1<<20, nil)
				case "clone":
					err = v.Clone(ctx, u, "old", uri(t, "file://"+dir+"/new2.img"), nil)
				case "rollback":
					err = v.Rollback(ctx, u, "old", nil)
				default:
					err = v.Snapshot(ctx, u, "new2", nil)
				}
				must(t, err)
			})
		}
	}
}

// What fails on the way leaves nothing and says what it was.
func TestVolumesFail(t *testing.T) {
	ctx, dir := context.Background(), diskDir(t)
	path := filepath.Join(dir, "d.img")
	u := uri(t, "file://"+path)
	must(t, os.WriteFile(path, bytes.Repeat([]byte{1}, 4*pieceSize), 0o600))
	must(t, administrator{}.snapshot(ctx, u, "s", nil))
	for _, step := range []string{"made", "span", "filled", "synced", "named"} {
		if step == "span" && reflinks(t, dir) {
			continue
		}
		a := administrator{step: func(s string) error {
			if s == step {
				return unix.ENOSPC
			}
			return nil
		}}
		to := uri(t, uriOf(path)+"2")
		wantClass(t, a.snapshot(ctx, u, "t", nil), backstore.ClassNoSpace, "snapshot, "+step)
		wantClass(t, a.clone(ctx, u, "s", to, nil), backstore.ClassNoSpace, "clone, "+step)
		wantClass(t, a.rollback(ctx, u, "s", nil), backstore.ClassNoSpace, "rollback, "+step)
		if step != "span" {
			wantClass(t, a.create(ctx, to, 1<<20, nil), backstore.ClassNoSpace, "create, "+step)
		}
		for d, want := range map[string]int{dir: 2, snapshotsOf(path): 1} {
			if left, err := os.ReadDir(d); err != nil || len(left) != want {
				t.Errorf("%s: left in %s: %v, %v", step, d, left, err)
			}
		}
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if !reflinks(t, dir) {
		wantClass(t, administrator{}.snapshot(cancelled, u, "t", nil), backstore.ClassCancelled, "a cancelled copy")
	}
	// A real file system that is full, where one can be had.
	small := filepath.Join(dir, "small")
	must(t, os.Mkdir(small, 0o700))
	if err := unix.Mount("lunar", small, "tmpfs", 0, "size=6m"); err != nil {
		t.Logf("no small file system here: %v", err)
		return
	}
	t.Cleanup(func() { must(t, unix.Unmount(small, 0)) })
	path = filepath.Join(small, "d.img")
	u = uri(t, "file://"+path)
	must(t, os.WriteFile(path, bytes.Repeat([]byte{1}, 4*pieceSize), 0o600))
	h := backstoretest.NewHarness(t, openURI(t, u.String()), true)
	l := newLoad(h, 1)
	for range 20 {
		l.turn(4)
	}
	err := h.Store.(backstore.Snapshotter).Snapshot(ctx, "s", nil)
	wantClass(t, err, backstore.ClassNoSpace, "a snapshot that does not fit")
	l.settle()
	h.Close()
	wantClass(t, administrator{}.snapshot(ctx, u, "s", nil), backstore.ClassNoSpace, "the same of a closed volume")
	if left, err := os.ReadDir(small); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A file in the making that another process works on is not swept away, and not taken for stale.
func TestMakingTwice(t *testing.T) {
	dir := diskDir(t)
	m := making{dir: dir, name: "x"}
	must(t, m.make(func(int) error {
		must(t, sweepDir(dir))
		other := making{dir: dir, name: "x"}
		if err := other.make(func(int) error { return nil }); backstore.ClassOf(wrap("create", err)) != backstore.ClassBusy {
			t.Errorf("the same file by another: %v", err)
		}
		return nil
	}))
	for _, name := range []string{".y.lunar-tmp", ".z.lunar-tmp", "y"} {
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	must(t, sweepDir(dir))
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("left: %v, %v", left, err)
	}
}
