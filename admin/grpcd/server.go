package grpcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/lunar-iscsi/lunar/admin"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

// A Server serves one admin.Service on any number of addresses.
type Server struct {
	svc    admin.Service
	cfg    Config
	grpc   *grpc.Server
	health *health.Server
	tls    *keeper // nil: no TCP

	calls    chan struct{} // a token for each further call
	watchers chan struct{} // a token for each further event stream
	over     sync.Once     // the line that tells of connections beyond

	done chan struct{} // closed by Stop: event streams end
	stop sync.Once
}

// New makes a server. It fails where the TLS files cannot be used.
func New(svc admin.Service, cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	s := &Server{svc: svc, cfg: cfg, health: health.NewServer(), calls: tokens(cfg.MaxCalls), watchers: tokens(cfg.MaxWatchers), done: make(chan struct{})}
	if cfg.TLS != nil {
		var err error
		if s.tls, err = newKeeper(cfg.TLS, cfg.Logger); err != nil {
			return nil, err
		}
	}
	s.grpc = grpc.NewServer(
		grpc.Creds(newCreds(s.tls)),
		grpc.MaxConcurrentStreams(cfg.MaxStreams),
		grpc.MaxRecvMsgSize(cfg.MaxRecvBytes),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.ConnectionTimeout(cfg.Handshake),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: cfg.Ping, Timeout: cfg.PingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: cfg.Ping / 5, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
	)
	api.RegisterTargetServiceServer(s.grpc, &targets{s: s})
	api.RegisterLunServiceServer(s.grpc, &luns{s: s})
	api.RegisterAccessServiceServer(s.grpc, &access{s: s})
	api.RegisterAccountServiceServer(s.grpc, &accounts{s: s})
	api.RegisterPortalServiceServer(s.grpc, &portals{s: s})
	api.RegisterSessionServiceServer(s.grpc, &sessions{s: s})
	api.RegisterStatsServiceServer(s.grpc, &stats{s: s})
	api.RegisterSystemServiceServer(s.grpc, &system{s: s})
	api.RegisterConfigServiceServer(s.grpc, &config{s: s})
	api.RegisterEventServiceServer(s.grpc, &events{s: s})
	api.RegisterVolumeServiceServer(s.grpc, &volumes{s: s})
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	for name := range s.grpc.GetServiceInfo() {
		s.health.SetServingStatus(name, healthpb.HealthCheckResponse_SERVING)
	}
	return s, nil
}

func tokens(n int) chan struct{} {
	c := make(chan struct{}, n)
	for range n {
		c <- struct{}{}
	}
	return c
}

// Serve takes connections of l until Stop, and closes it. It returns nil after Stop. A TCP listener is refused without TLS.
func (s *Server) Serve(l *Listener) error {
	if l.tcp && s.tls == nil {
		l.Close()
		return (*TLSFiles)(nil).Check()
	}
	return s.serve(l)
}

func (s *Server) serve(l net.Listener) error {
	// Each address has tokens of its own: who is not let in over TCP, or not yet, must not keep root from the socket.
	err := s.grpc.Serve(&limited{Listener: l, free: tokens(s.cfg.MaxConns), over: func() {
		s.over.Do(func() {
			s.cfg.Logger.Warn("too many connections to the administration; further ones are closed", "most", s.cfg.MaxConns)
		})
	}})
	if errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// Stop takes no more connections, tells so through the health service, ends event streams, and waits for calls under way until ctx
// ends; then it ends them.
func (s *Server) Stop(ctx context.Context) {
	s.stop.Do(func() {
		s.health.Shutdown()
		close(s.done)
	})
	ended := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		s.grpc.Stop()
		<-ended
	}
}

// long are the calls that may take LongTimeout.
var long = map[string]bool{api.ConfigService_ApplyDocument_FullMethodName: true, api.TargetService_DrainTarget_FullMethodName: true}

// unary stands around every call but event streams.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	if err := s.begin(); err != nil {
		return nil, err
	}
	defer s.end(info.FullMethod, &err)
	most := s.cfg.CallTimeout
	if long[info.FullMethod] {
		most = s.cfg.LongTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	resp, err = handle(admin.WithCaller(ctx, callerOf(ctx)), req)
	return resp, toStatus(err)
}

// stream stands around event streams, and those of the health and reflection services.
func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end(info.FullMethod, &err)
	return toStatus(handle(srv, ss))
}

func (s *Server) begin() error {
	select {
	case <-s.calls:
		return nil
	default:
		return toStatus(&admin.Error{Code: admin.TooMany, Text: fmt.Sprintf("%d calls are under way already", s.cfg.MaxCalls), Hint: "try again"})
	}
}

// end gives the token back, and makes an error of a panic: it costs its call, not the daemon.
func (s *Server) end(method string, err *error) {
	s.calls <- struct{}{}
	if p := recover(); p != nil {
		s.cfg.Logger.Warn("a fault of lunar ended an administrative call", "method", method, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		*err = toStatus(&admin.Error{Code: admin.Internal, Text: "a fault of lunar ended the call", Hint: "the daemon's log has more; please report it"})
	}
}

// within is ctx bounded by d.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d)
}
