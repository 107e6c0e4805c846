package grpcd_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/lunar-iscsi/lunar/admin"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/admin/grpcd"
)

// testTime bounds one test's calls: whoever hits it has hung.
const testTime = 30 * time.Second

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	t.Cleanup(cancel)
	return ctx
}

// serve serves svc on a socket of the test, and returns its path.
func serve(t testing.TB, svc admin.Service, cfg grpcd.Config) (*grpcd.Server, string) {
	t.Helper()
	s, err := grpcd.New(svc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	serveOn(t, s, "unix:"+path)
	return s, path
}

// serveOn serves on one more address, until the test ends.
func serveOn(t testing.TB, s *grpcd.Server, address string) *grpcd.Listener {
	t.Helper()
	l, err := grpcd.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testTime)
		defer cancel()
		s.Stop(ctx)
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l
}

// dial connects to a socket.
func dial(t testing.TB, path string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("passthrough:///localhost", append(options, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// detail is the ErrorDetail of an error, or nil.
func detail(err error) *api.ErrorDetail {
	for _, d := range status.Convert(err).Details() {
		if d, ok := d.(*api.ErrorDetail); ok {
			return d
		}
	}
	return nil
}

// wantCode checks what an error says.
func wantCode(t testing.TB, what string, err error, code codes.Code, detailed api.ErrorCode) {
	t.Helper()
	if status.Code(err) != code || detail(err).GetCode() != detailed {
		t.Errorf("%s: %v (%v), want %v with %v", what, err, detail(err), code, detailed)
	}
}

// A stub is a service of which a test says what little it does; what it does not say panics.
type stub struct {
	admin.Service
	target func(ctx context.Context, r admin.Ref) (admin.TargetState, error)
	list   []admin.TargetState
	edit   func(ctx context.Context) error
}

func (s *stub) Target(r admin.Ref, _ bool) (admin.TargetState, error) {
	return s.target(context.Background(), r)
}
func (s *stub) Targets(bool) []admin.TargetState { return s.list }
func (s *stub) RemoveTarget(ctx context.Context, _ admin.Ref, _ bool) error {
	return s.edit(ctx)
}

func named(name string) *api.TargetRef {
	return &api.TargetRef{Target: &api.TargetRef_Name{Name: name}}
}
