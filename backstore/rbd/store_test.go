//go:build rbd && cgo

package rbd

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ceph/go-ceph/rbd"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

const patienceTest = 30 * time.Second

// Somebody else's resize is followed by itself, up and down, and the store works at its new size.
func TestSizeIsFollowed(t *testing.T) {
	c := start(t)
	backstoretest.CheckLeaks(t)
	name := c.create(t, 8<<20)
	u := parseURI(t, c.uri(name, ""))
	s := mustOpen(t, u.String(), backstore.Options{})
	sizes := make(chan int64, 16)
	s.WatchSize(func(size int64) { sizes <- size })
	ro := mustOpen(t, u.String(), backstore.Options{ReadOnly: true})
	h := backstoretest.NewHarness(t, s, true)
	next := func(want int64) {
		t.Helper()
		for deadline := time.Now().Add(patienceTest); time.Now().Before(deadline); h.Turn(10 * time.Millisecond) {
			select {
			case got := <-sizes:
				if got != want || s.Info().Size != want {
					t.Fatalf("told of %d, Info says %d, want %d", got, s.Info().Size, want)
				}
				return
			default:
			}
		}
		t.Fatalf("nobody was told of the size %d", want)
	}
	if err := volumes().Resize(t.Context(), u, 32<<20, false, nil); err != nil {
		t.Fatal(err)
	}
	next(32 << 20)
	h.Write(32<<20-4096, bytes.Repeat([]byte{5}, 4096), 0)
	if now, err := ro.PresentSize(t.Context()); err != nil || now != 32<<20 {
		t.Errorf("a reader finds %d, %v", now, err)
	}
	if err := ro.AdoptSize(t.Context(), 32<<20); backstore.ClassOf(err) != backstore.ClassUnsupported {
		t.Errorf("a reader takes the size over: %v", err)
	}
	// What the store itself does is no news.
	if err := s.Resize(t.Context(), 16<<20); err != nil {
		t.Fatal(err)
	}
	if err := s.Resize(t.Context(), 24<<20); err != nil {
		t.Fatal(err)
	}
	// Whoever shrinks it while it is open does so by the rbd command, which does not ask.
	other := mustOpen(t, c.uri(name, "shared"), backstore.Options{})
	if err := other.Resize(t.Context(), 4<<20); err != nil {
		t.Fatal(err)
	}
	next(4 << 20)
	h.WantClass(h.Do(&backstore.Request{Op: backstore.Read, Off: 4 << 20, Len: 512, Buf: h.Buf(512)}), backstore.ClassRange, "a read behind the end")
	closeAll(t, other, ro)
	h.Close()
}

// A snapshot is a volume that does not change.
func TestSnapshotImage(t *testing.T) {
	c := start(t)
	name := c.create(t, 8<<20)
	fill(t, c.uri(name, ""), 1, 1<<20)
	if err := volumes().Snapshot(t.Context(), parseURI(t, c.uri(name, "")), "s", nil); err != nil {
		t.Fatal(err)
	}
	named := parseURI(t, volumes().SnapshotURI(parseURI(t, c.uri(name, "inflight=8")), "s"))
	if want := parseURI(t, c.uri(name+"@s", "")); key(named) != key(want) {
		t.Errorf("the snapshot is named %s, want %s", named, want)
	}
	snap := mustOpen(t, named.String(), backstore.Options{})
	i := snap.Info()
	head := mustOpen(t, c.uri(name, ""), backstore.Options{})
	if !i.ReadOnly || i.Volume != name+"@s" || i.Identity == head.Info().Identity || !strings.HasPrefix(i.Identity, head.Info().Identity) {
		t.Errorf("the snapshot: %+v, the image: %+v", i, head.Info())
	}
	h := backstoretest.NewHarness(t, head, false)
	h.Write(0, bytes.Repeat([]byte{2}, 1<<20), 0)
	backstoretest.NewHarness(t, snap, false).Want(0, bytes.Repeat([]byte{1}, 1<<20), "the snapshot")
	if err := snap.Resize(t.Context(), 16<<20); backstore.ClassOf(err) != backstore.ClassReadOnly {
		t.Errorf("resize of a snapshot: %v", err)
	}
	if _, err := tryOpen(t, c.uri(name+"@none", ""), backstore.Options{}); backstore.ClassOf(err) != backstore.ClassNotFound {
		t.Errorf("a snapshot that is not there: %v", err)
	}
	closeAll(t, snap, head)
}

// What is wrong with an opening is said: what, and of which class.
func TestOpenErrors(t *testing.T) {
	c := start(t)
	backstoretest.CheckLeaks(t)
	empty := filepath.Join(t.TempDir(), "ceph.conf")
	if err := os.WriteFile(empty, []byte("[global]\nmon_host = 127.0.0.1:1\nauth_client_required = none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		uri, says string
		class     backstore.Class
	}{
		{c.uri("rbd/none", ""), "no image rbd/none", backstore.ClassNotFound},
		{c.uri("none/none", ""), "pool none", backstore.ClassNotFound},
		{"rbd:rbd/none?conf=/nonexistent/ceph.conf", "/nonexistent/ceph.conf", backstore.ClassNotFound},
		{"rbd:rbd/none?open_timeout=1s&conf=" + empty, "", backstore.ClassOffline},
	} {
		_, err := tryOpen(t, x.uri, backstore.Options{})
		if backstore.ClassOf(err) != x.class || err == nil || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: %v, want %v and %q", x.uri, err, x.class, x.says)
		}
	}
}

// After kill -9 nothing that was acknowledged is lost. Whoever opens the image on the same machine knows that the process is gone, and does not
// wait until the cluster has found out.
func TestKilled(t *testing.T) {
	c := start(t)
	name := c.create(t, childDepth*childBlocks*childBlock)
	w := startWriter(t, c.uri(name, ""))
	w.busy(20)
	w.signal(syscall.SIGSTOP)
	if _, err := tryOpen(t, c.uri(name, ""), backstore.Options{}); backstore.ClassOf(err) != backstore.ClassBusy {
		t.Errorf("a frozen process is there still, and the image was opened: %v", err)
	}
	w.kill()
	if err := w.cmd.Wait(); err == nil {
		t.Error("it was not killed")
	}
	begun := time.Now()
	s := mustOpen(t, c.uri(name, ""), backstore.Options{})
	if took := time.Since(begun); took > takeOverGoal {
		t.Errorf("opened %v after the kill", took)
	} else {
		t.Logf("opened %v after the kill", took)
	}
	wantAcked(t, s, w)
	closeAll(t, s)
}

// What was written with FUA is there after a kill, though librbd's cache is on.
func TestKilledWithCache(t *testing.T) {
	c := start(t)
	for _, cache := range []string{"writeback", "writearound"} {
		name := c.create(t, childDepth*childBlocks*childBlock)
		w := startWriter(t, c.uri(name, "cache="+cache))
		w.busy(8)
		w.kill()
		s := mustOpen(t, c.uri(name, ""), backstore.Options{TakeOver: true})
		wantAcked(t, s, w)
		closeAll(t, s)
	}
}

// Of one that was killed on another machine only the cluster can tell; until then the next opener waits, where it is told to.
func TestKilledElsewhere(t *testing.T) {
	c := start(t)
	name := c.create(t, childDepth*childBlocks*childBlock)
	w := startWriter(t, c.uri(name, ""))
	w.busy(20)
	cl := c.client(t)
	img, err := rbd.OpenImage(cl.io, strings.TrimPrefix(name, "rbd/"), rbd.NoSnapshot)
	if err != nil {
		t.Fatal(err)
	}
	said, err := img.GetMetadata(ownerKey)
	if err == nil {
		f := strings.Fields(said)
		f[1] = "00000000-0000-0000-0000-000000000000"
		err = img.SetMetadata(ownerKey, strings.Join(f, " "))
	}
	if cerr := img.Close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	cl.close()
	w.kill()
	if _, err := tryOpen(t, c.uri(name, ""), backstore.Options{}); backstore.ClassOf(err) != backstore.ClassBusy {
		t.Errorf("right after the kill: %v, want busy", err)
	}
	begun := time.Now()
	s := mustOpen(t, c.uri(name, "lock=wait&open_timeout=1m"), backstore.Options{})
	t.Logf("opened %v after the kill", time.Since(begun))
	wantAcked(t, s, w)
	closeAll(t, s)
}

// An opening that nobody waits for any more leaves nothing behind.
func TestDiscardedWhileOpening(t *testing.T) {
	c := start(t)
	backstoretest.CheckLeaks(t)
	name := c.create(t, 8<<20)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open(ctx, parseURI(t, c.uri(name, "")), backstore.Options{}); err == nil {
		t.Error("opened with a context that has ended")
	}
	closeAll(t, mustOpen(t, c.uri(name, "lock=wait"), backstore.Options{})) // what was opened late is closed
}

// TestMiscompareInLaterObjects: where the data differs is told within the request, whichever of the image's objects it lies in.
func TestMiscompareInLaterObjects(t *testing.T) {
	c := start(t)
	s := mustOpen(t, c.uri(c.create(t, 32<<20), ""), backstore.Options{})
	h := backstoretest.NewHarness(t, s, false)
	defer h.Close()
	for _, off := range []int64{0, 512, 4<<20 - 512, 4 << 20, 12<<20 + 1024} {
		h.Write(off, bytes.Repeat([]byte{7}, 512), 0)
		for _, at := range []int64{0, 3, 511} {
			wrong := bytes.Repeat([]byte{7}, 512)
			wrong[at]++
			err := h.Do(&backstore.Request{Op: backstore.CompareAndWrite, Off: off, Len: 512, Compare: wrong, Buf: make([]byte, 512)})
			h.WantClass(err, backstore.ClassMiscompare, "other data")
			var e *backstore.Error
			if errors.As(err, &e); e.Off != at {
				t.Errorf("at %d: miscompare at %d, want %d", off, e.Off, at)
			}
		}
	}
}
