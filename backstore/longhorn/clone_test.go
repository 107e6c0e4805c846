package longhorn

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A clone that is not whole is not put up for use: its replicas may differ, and may still be written by their agents.
func TestCloneFails(t *testing.T) {
	from, to := newManager(t, "vol", 1<<20), newManager(t, "vol", 1<<20)
	from.disks["volume-snap-s.img"] = disk("", 0, 1, "")
	u, dest := from.uri(newEngine(t, 1<<20)), to.uri(newEngine(t, 1<<20))
	started := func() bool { return slices.Contains(to.done(), "VolumeFrontendStart socket") }

	if err := clone(t.Context(), u, "s", dest, nil); err != nil {
		t.Fatal(err)
	}
	if !started() {
		t.Error("the frontend of a whole clone was not started")
	}
	to.fails["SnapshotClone"] = status.Error(codes.Unknown, "no route to host")
	wantClass(t, clone(t.Context(), u, "s", dest, nil), backstore.ClassInternal, "is left down")
	if started() {
		t.Error("the frontend of half a clone was started")
	}
	if to.state != "down" {
		t.Errorf("the frontend is %q", to.state)
	}
}

// A clone removes no snapshot but the one that it took itself, and that only when nothing reads it any more.
func TestCloneOwnSnapshot(t *testing.T) {
	from, to := newManager(t, "vol", 1<<20), newManager(t, "vol", 1<<20)
	u, dest := from.uri(newEngine(t, 1<<20)), to.uri(newEngine(t, 1<<20))
	c, err := parse(dest, backstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	name := func(sec int64) string { return cloneName(c, time.Unix(sec, 0)) }
	exist := func() {
		now := time.Now().Unix()
		for sec := now - 60; sec < now+60; sec++ {
			from.disks[fmt.Sprintf("volume-snap-%s.img", name(sec))] = disk("", 0, 1, "")
		}
	}
	exist() // as another clone has taken it
	wantClass(t, clone(t.Context(), u, "", dest, nil), backstore.ClassBusy, "already")
	if got := from.done(); len(got) != 0 {
		t.Errorf("asked for %q", got)
	}
	clear(from.disks)

	from.onCall = func(method string) {
		if method == "VolumeSnapshot" {
			exist()
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	to.onCall = func(method string) {
		if method == "SnapshotClone" {
			cancel()
		}
	}
	wantClass(t, clone(ctx, u, "", dest, nil), backstore.ClassCancelled, "is left, since they read it")
	if got := from.done(); len(got) != 1 { // that it was taken
		t.Errorf("asked for %q", got)
	}
}
