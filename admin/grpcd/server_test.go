package grpcd_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/lunar-iscsi/lunar/admin"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/admin/grpcd"
	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/target"
)

// TestStatuses: each code of the service is one status with one exact code, whose text does not repeat the hint.
func TestStatuses(t *testing.T) {
	var now error
	_, path := serve(t, &stub{target: func(context.Context, admin.Ref) (admin.TargetState, error) { return admin.TargetState{}, now }}, grpcd.Config{})
	c := api.NewTargetServiceClient(dial(t, path))
	ctx := testContext(t)
	get := func() error {
		_, err := c.GetTarget(ctx, &api.GetTargetRequest{Target: named("iqn.x")})
		return err
	}
	seen := map[api.ErrorCode]bool{}
	for code := admin.Internal; code <= admin.Cancelled; code++ {
		now = fmt.Errorf("around it: %w", &admin.Error{Code: code, Text: "the\ntext \xff", Hint: "the hint", Err: errors.New("cause")})
		err := get()
		d := detail(err)
		if st := status.Convert(err); st.Code() == codes.OK || st.Code() == codes.Unknown || st.Message() != "the text �: cause" || d.GetHint() != "the hint" {
			t.Errorf("code %d: %v, %v", code, st, d)
		}
		if d.GetCode() == 0 || seen[d.GetCode()] || int(d.GetCode()) != int(code)+1 {
			t.Errorf("code %d is %v", code, d.GetCode())
		}
		seen[d.GetCode()] = true
	}
	if len(seen) != len(api.ErrorCode_name)-1 {
		t.Errorf("%d of %d codes are sent", len(seen), len(api.ErrorCode_name)-1)
	}
	for _, x := range []struct {
		err    error
		code   codes.Code
		detail api.ErrorCode
	}{
		{errors.New("anything"), codes.Internal, api.ErrorCode_ERROR_CODE_INTERNAL},
		{&admin.Error{Code: 200}, codes.Internal, api.ErrorCode_ERROR_CODE_INTERNAL},
		{context.DeadlineExceeded, codes.DeadlineExceeded, 0},
	} {
		now = x.err
		wantCode(t, x.err.Error(), get(), x.code, x.detail)
	}
}

// TestPanic: a fault costs its call alone, and gives back what the call had.
func TestPanic(t *testing.T) {
	_, path := serve(t, &stub{target: func(_ context.Context, r admin.Ref) (admin.TargetState, error) {
		if r.TID == 1 {
			panic("secret of the stack")
		}
		return admin.TargetState{Spec: spec.Target{Name: "iqn.x"}}, nil
	}}, grpcd.Config{MaxCalls: 1})
	c := api.NewTargetServiceClient(dial(t, path))
	ctx := testContext(t)
	for range 3 {
		_, err := c.GetTarget(ctx, &api.GetTargetRequest{Target: &api.TargetRef{Target: &api.TargetRef_Tid{Tid: 1}}})
		wantCode(t, "the fault", err, codes.Internal, api.ErrorCode_ERROR_CODE_INTERNAL)
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("the caller is told of the inside: %v", err)
		}
	}
	if r, err := c.GetTarget(ctx, &api.GetTargetRequest{Target: named("iqn.x")}); err != nil || r.GetTarget().GetSpec().GetName() != "iqn.x" {
		t.Errorf("afterwards: %v, %v", r, err)
	}
}

// TestMaxCalls: calls beyond the bound are refused at once, and room comes back.
func TestMaxCalls(t *testing.T) {
	inside, leave := make(chan struct{}), make(chan struct{})
	_, path := serve(t, &stub{edit: func(context.Context) error {
		inside <- struct{}{}
		<-leave
		return nil
	}}, grpcd.Config{MaxCalls: 1})
	c := api.NewTargetServiceClient(dial(t, path))
	ctx := testContext(t)
	first := make(chan error, 1)
	remove := func() error {
		_, err := c.RemoveTarget(ctx, &api.RemoveTargetRequest{Target: named("iqn.x")})
		return err
	}
	go func() { first <- remove() }()
	<-inside
	wantCode(t, "the second call", remove(), codes.ResourceExhausted, api.ErrorCode_ERROR_CODE_TOO_MANY)
	close(leave)
	if err := <-first; err != nil {
		t.Error(err)
	}
	go func() { <-inside }()
	if err := remove(); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestCallTimeout: a call that its caller gives no time has the server's.
func TestCallTimeout(t *testing.T) {
	_, path := serve(t, &stub{edit: func(ctx context.Context) error {
		<-ctx.Done()
		return &admin.Error{Code: admin.Timeout, Text: "it took too long", Err: ctx.Err()}
	}}, grpcd.Config{CallTimeout: 20 * time.Millisecond})
	c := api.NewTargetServiceClient(dial(t, path))
	_, err := c.RemoveTarget(context.Background(), &api.RemoveTargetRequest{Target: named("iqn.x")})
	wantCode(t, "the call", err, codes.DeadlineExceeded, api.ErrorCode_ERROR_CODE_TIMEOUT)
}

// TestTooLarge: a message beyond the bound is refused before the service hears of it.
func TestTooLarge(t *testing.T) {
	_, path := serve(t, &stub{}, grpcd.Config{MaxRecvBytes: 1 << 10})
	c := api.NewTargetServiceClient(dial(t, path))
	_, err := c.AddTarget(testContext(t), &api.AddTargetRequest{Target: &api.Target{Alias: strings.Repeat("x", 2<<10)}})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("%v", err)
	}
}

// TestPages: a list ends where it was asked to, or where it has become large, and goes on there; every target comes once.
func TestPages(t *testing.T) {
	svc := &stub{}
	for i := range 100 {
		svc.list = append(svc.list, admin.TargetState{Spec: spec.Target{TID: 3 * (i + 1), Name: fmt.Sprintf("iqn.%d", i)}})
	}
	_, path := serve(t, svc, grpcd.Config{PageBytes: 400})
	c := api.NewTargetServiceClient(dial(t, path))
	ctx := testContext(t)
	for _, most := range []uint32{0, 1, 7, 1000} {
		var tids []int32
		pages := 0
		for q := (&api.ListTargetsRequest{PageSize: most}); ; pages++ {
			r, err := c.ListTargets(ctx, q)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(r.GetTargets()); n == 0 || most > 0 && n > int(most) || n > 40 {
				t.Fatalf("a page of %d, at most %d were asked for", n, most)
			}
			for _, x := range r.GetTargets() {
				tids = append(tids, x.GetSpec().GetTid())
			}
			if q.PageToken = r.GetNextPageToken(); q.PageToken == "" {
				break
			}
		}
		if len(tids) != 100 || tids[0] != 3 || tids[99] != 300 {
			t.Errorf("pages of %d: %d targets", most, len(tids))
		}
		if most == 1 && pages != 99 || most == 0 && pages < 2 {
			t.Errorf("pages of %d: %d more than one", most, pages)
		}
	}
	for _, token := range []string{"x", "-1", "99999999999"} {
		_, err := c.ListTargets(ctx, &api.ListTargetsRequest{PageToken: token})
		wantCode(t, "token "+token, err, codes.InvalidArgument, api.ErrorCode_ERROR_CODE_INVALID)
	}
}

// TestHealthAndReflection: the standard services are there, and health ends with the server.
func TestHealthAndReflection(t *testing.T) {
	s, path := serve(t, &stub{}, grpcd.Config{})
	conn := dial(t, path)
	ctx := testContext(t)
	w, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{Service: "lunar.v1.TargetService"})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := w.Recv(); err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("%v, %v", r, err)
	}
	x, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	r, err := x.Recv()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, svc := range r.GetListServicesResponse().GetService() {
		if strings.HasPrefix(svc.GetName(), "lunar.v1.") {
			n++
		}
	}
	if n != 11 {
		t.Errorf("%d services of lunar's", n)
	}
	x.CloseSend()
	ended := make(chan struct{})
	go func() { defer close(ended); s.Stop(ctx) }()
	if r, err := w.Recv(); err == nil && r.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("while it ends: %v", r)
	}
	conn.Close()
	<-ended
}

// TestSessionPages: sessions come in pages over all targets, each once, and what is not there in the meantime ends nothing.
func TestSessionPages(t *testing.T) {
	svc := &stub{}
	for tid := 1; tid <= 4; tid++ {
		x := admin.TargetState{Spec: spec.Target{TID: tid, Name: fmt.Sprintf("iqn.%d", tid)}}
		for s := 5; s >= 1; s-- { // oldest first is no order of handles
			x.Live.Sessions = append(x.Live.Sessions, target.SessionInfo{TSIH: uint16(s)})
		}
		svc.list = append(svc.list, x)
	}
	svc.target = func(_ context.Context, r admin.Ref) (admin.TargetState, error) {
		if r.TID == 3 {
			return admin.TargetState{}, &admin.Error{Code: admin.NoTarget, Text: "it has just gone"}
		}
		return svc.list[max(r.TID, 1)-1], nil
	}
	_, path := serve(t, svc, grpcd.Config{})
	c := api.NewSessionServiceClient(dial(t, path))
	ctx := testContext(t)
	for _, most := range []uint32{0, 1, 2, 5, 7} {
		var got []string
		for q := (&api.ListSessionsRequest{PageSize: most}); ; {
			r, err := c.ListSessions(ctx, q)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range r.GetSessions() {
				got = append(got, fmt.Sprintf("%d.%d", s.GetTid(), s.GetTsih()))
			}
			if q.PageToken = r.GetNextPageToken(); q.PageToken == "" {
				break
			}
		}
		if want := "1.1 1.2 1.3 1.4 1.5 2.1 2.2 2.3 2.4 2.5 4.1 4.2 4.3 4.4 4.5"; strings.Join(got, " ") != want {
			t.Errorf("pages of %d: %v", most, got)
		}
	}
	if _, err := c.ListSessions(ctx, &api.ListSessionsRequest{PageToken: "1.x"}); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
}
