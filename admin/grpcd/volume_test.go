package grpcd_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lunar-iscsi/lunar/admin"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/admin/grpcd"
	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/test/volumes"
)

// A volumeRig is a server with an engine of "fake:" volumes.
type volumeRig struct {
	t      *testing.T
	engine *volumes.Engine
	server *grpcd.Server
	api.VolumeServiceClient
	audit chan string
}

func newVolumeRig(t *testing.T, cfg grpcd.Config) *volumeRig {
	r := &volumeRig{t: t, engine: volumes.New("fake"), audit: make(chan string, 64)}
	m := newManager(t, func(c *admin.Config) {
		c.Registry = backstore.NewRegistry(append(c.Registry.Drivers(), r.engine.Driver())...)
		c.Audit = func(_ string, kv ...any) { r.audit <- fmt.Sprintln(kv...) }
	})
	s, path := serve(t, m, cfg)
	r.server, r.VolumeServiceClient = s, api.NewVolumeServiceClient(dial(t, path))
	return r
}

// all reads what a stream has, until it ends.
func all[M any](s grpc.ServerStreamingClient[M], err error) (list []*M, _ error) {
	for err == nil {
		var m *M
		if m, err = s.Recv(); err == nil {
			list = append(list, m)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return list, err
}

func (r *volumeRig) create(name string) {
	r.t.Helper()
	list, err := all(r.CreateVolume(testContext(r.t), &api.CreateVolumeRequest{Uri: "fake:" + name, Size: 64 << 10}))
	if err != nil || list[len(list)-1].GetVolume().GetUri() != "fake:"+name {
		r.t.Fatalf("%v, %v", list, err)
	}
}

// TestWorkStreams: progress comes while the work goes on, then the result, once.
func TestWorkStreams(t *testing.T) {
	r := newVolumeRig(t, grpcd.Config{})
	r.create("a")
	at := r.engine.Stop("snapshot")
	s, err := r.CreateSnapshot(testContext(t), &api.CreateSnapshotRequest{Uri: "fake:a", Name: "s"})
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := s.Recv()
		if err != nil || m.GetDone() != nil {
			t.Fatalf("%v, %v", m, err)
		}
		if p := m.GetProgress(); p.GetDone() == 2 && p.GetTotal() == 4 {
			break
		}
	}
	close(at.Go)
	list, err := all(s, nil)
	if err != nil || list[len(list)-1].GetDone() == nil || list[len(list)-1].GetProgress() != nil {
		t.Errorf("%v, %v", list, err)
	}
	snaps, err := all(r.ListSnapshots(testContext(t), &api.ListSnapshotsRequest{Uri: "fake:a"}))
	if err != nil || len(snaps) != 1 || snaps[0].GetSnapshots()[0].GetName() != "s" || snaps[0].GetSnapshots()[0].Clones == nil {
		t.Errorf("%v, %v", snaps, err)
	}
}

// TestWorkEndsWithItsCall: cancelled, late, or when the daemon ends, what was begun is undone, and the caller is told.
func TestWorkEndsWithItsCall(t *testing.T) {
	for how, want := range map[string]codes.Code{"cancelled": codes.Canceled, "late": codes.DeadlineExceeded, "stopped": codes.Unavailable, "panic": codes.Internal} {
		r := newVolumeRig(t, grpcd.Config{})
		r.create("a")
		<-r.audit
		before := r.engine.Words()
		at := r.engine.Stop("create")
		at.Panic = how == "panic"
		ctx, cancel := context.WithCancel(testContext(t))
		defer cancel()
		if how == "late" {
			ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
			defer cancel()
		}
		s, err := r.CreateVolume(ctx, &api.CreateVolumeRequest{Uri: "fake:b?secret=xyzzy", Size: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		<-at.Reached
		switch how {
		case "cancelled":
			cancel()
		case "stopped":
			r.server.Stop(testContext(t))
		case "panic":
			close(at.Go)
		}
		_, err = all(s, nil)
		if d := detail(err); how == "stopped" && d.GetCode() != api.ErrorCode_ERROR_CODE_SHUTTING_DOWN || status.Code(err) != want {
			t.Errorf("%s: %v", how, err)
		}
		if now := r.engine.Until(testContext(t), before); now != before {
			t.Errorf("%s: it was not undone: %s", how, now)
		}
		if line := <-r.audit; !strings.Contains(line, "refused") || !strings.Contains(line, "volume create") || !strings.Contains(line, "grpc uid") || strings.Contains(line, "xyzzy") {
			t.Errorf("%s: %s", how, line)
		}
	}
}

// TestVolumeErrors: the status, the exact code, what helps, and how the engine failed.
func TestVolumeErrors(t *testing.T) {
	r := newVolumeRig(t, grpcd.Config{})
	r.create("a")
	ctx := testContext(t)
	_, err := all(r.CreateVolume(ctx, &api.CreateVolumeRequest{Uri: "fake:a", Size: 64 << 10}))
	wantCode(t, "create", err, codes.AlreadyExists, api.ErrorCode_ERROR_CODE_VOLUME_EXISTS)
	list, err := all(r.CreateVolume(ctx, &api.CreateVolumeRequest{Uri: "fake:a", Size: 64 << 10, AllowExisting: true}))
	if err != nil || !list[len(list)-1].GetExisted() {
		t.Errorf("%v, %v", list, err)
	}
	_, err = all(r.CreateVolume(ctx, &api.CreateVolumeRequest{Uri: "fake:a", Size: 128 << 10, AllowExisting: true}))
	wantCode(t, "another size", err, codes.AlreadyExists, api.ErrorCode_ERROR_CODE_VOLUME_EXISTS)
	_, err = all(r.DeleteVolume(ctx, &api.DeleteVolumeRequest{Uri: "fake:a", Purge: true}))
	if wantCode(t, "purge", err, codes.FailedPrecondition, api.ErrorCode_ERROR_CODE_WOULD_DESTROY); !detail(err).GetForceHelps() {
		t.Errorf("%v", detail(err))
	}
	for class, code := range map[backstore.Class]codes.Code{backstore.ClassOffline: codes.Internal, backstore.ClassBusy: codes.FailedPrecondition, backstore.ClassNotFound: codes.NotFound, backstore.ClassNoSpace: codes.Internal} {
		r.engine.Fail("flatten", &backstore.Error{Class: class, Op: "flatten"})
		_, err := all(r.FlattenVolume(ctx, &api.FlattenVolumeRequest{Uri: "fake:a"}))
		if status.Code(err) != code || detail(err).GetVolumeClass() != class.String() {
			t.Errorf("%v: %v, %v", class, err, detail(err))
		}
	}
	_, err = r.GetVolume(ctx, &api.GetVolumeRequest{Uri: "fake:none"})
	wantCode(t, "show", err, codes.NotFound, api.ErrorCode_ERROR_CODE_NO_VOLUME)
	_, err = all(r.DeleteSnapshot(ctx, &api.DeleteSnapshotRequest{Uri: "fake:a", Name: "none"}))
	wantCode(t, "snapshot", err, codes.NotFound, api.ErrorCode_ERROR_CODE_NO_SNAPSHOT)
	for _, err := range []error{
		second(all(r.DeleteVolume(ctx, &api.DeleteVolumeRequest{Uri: "fake:none", MissingOk: true}))),
		second(all(r.DeleteSnapshot(ctx, &api.DeleteSnapshotRequest{Uri: "fake:a", Name: "none", MissingOk: true}))),
		second(all(r.PurgeVolume(ctx, &api.PurgeVolumeRequest{Uri: "fake:", Id: "none", Force: true, MissingOk: true}))),
	} {
		if err != nil {
			t.Errorf("missing: %v", err)
		}
	}
	_, err = all(r.DeleteSnapshot(ctx, &api.DeleteSnapshotRequest{Uri: "fake:none", Name: "none", MissingOk: true}))
	wantCode(t, "the volume is missing", err, codes.NotFound, api.ErrorCode_ERROR_CODE_NO_VOLUME)
}

func second[A any](_ A, err error) error { return err }

// TestVolumeLists: a long list comes in several messages, all of it; an empty one in one.
func TestVolumeLists(t *testing.T) {
	r := newVolumeRig(t, grpcd.Config{PageBytes: 100})
	if list, err := all(r.ListVolumes(testContext(t), &api.ListVolumesRequest{Uri: "fake:"})); err != nil || len(list) != 1 || len(list[0].GetVolumes()) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	for i := range 20 {
		r.create(fmt.Sprintf("volume%02d", i))
	}
	list, err := all(r.ListVolumes(testContext(t), &api.ListVolumesRequest{Uri: "fake:"}))
	n := 0
	for _, m := range list {
		for _, v := range m.GetVolumes() {
			if v.GetName() != fmt.Sprintf("volume%02d", n) || v.Used != nil {
				t.Errorf("%v is number %d", v, n)
			}
			n++
		}
	}
	if err != nil || n != 20 || len(list) < 5 || len(list) > 20 {
		t.Errorf("%d volumes in %d messages, %v", n, len(list), err)
	}
}

// TestSlowReader: who does not read holds the work up by nothing.
func TestSlowReader(t *testing.T) {
	r := newVolumeRig(t, grpcd.Config{})
	r.create("a")
	<-r.audit
	s, err := r.FlattenVolume(testContext(t), &api.FlattenVolumeRequest{Uri: "fake:a"})
	if err != nil {
		t.Fatal(err)
	}
	if line := <-r.audit; !strings.Contains(line, "ok") { // nothing has been read
		t.Error(line)
	}
	if list, err := all(s, nil); err != nil || list[len(list)-1].GetDone() == nil {
		t.Errorf("%v, %v", list, err)
	}
}
