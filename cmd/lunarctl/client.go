package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/admin/grpcd"
)

const (
	defaultTimeout = 2 * time.Minute
	// completionTimeout bounds what a shell waits for when it completes a name.
	completionTimeout = time.Second
	// maxMessage bounds one answer. Lists come in pages; what can be large is one target with very many LUNs.
	maxMessage = 64 << 20
)

// cli is what all commands have in common.
type cli struct {
	server        string
	timeout       time.Duration
	json          bool
	cert, key, ca string
}

func (c *cli) flags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.SortFlags = false
	f.StringVar(&c.server, "server", "", "the daemon: unix:PATH or tcp:HOST:PORT (LUNAR_SERVER; default unix:"+grpcd.DefaultSocket+")")
	f.DurationVar(&c.timeout, "timeout", defaultTimeout, "time that the daemon has for one call")
	f.BoolVar(&c.json, "json", false, "JSON for programs instead of text for people")
	f.StringVar(&c.cert, "tls-cert", "", "our certificate, a PEM `FILE`, for tcp: (LUNAR_TLS_CERT)")
	f.StringVar(&c.key, "tls-key", "", "its key, a PEM `FILE` (LUNAR_TLS_KEY)")
	f.StringVar(&c.ca, "tls-ca", "", "the CA of the daemon's certificate, a PEM `FILE` (LUNAR_TLS_CA)")
	// What completes is a path of the shell's own, or nothing.
	must(root.RegisterFlagCompletionFunc("server", cobra.NoFileCompletions))
	must(root.RegisterFlagCompletionFunc("timeout", cobra.NoFileCompletions))
}

// must is for what can fail only by a mistake in a command's own text.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// set is the value of a flag, or of the environment's variable where it is not given.
func set(flag, env string) string {
	if flag != "" {
		return flag
	}
	return os.Getenv(env)
}

// address is the daemon that is spoken to.
func (c *cli) address() string {
	if a := set(c.server, "LUNAR_SERVER"); a != "" {
		return a
	}
	path := grpcd.DefaultPath()
	if _, err := os.Stat(path); err != nil {
		path = grpcd.DefaultSocket // there is no daemon of this user's own
	}
	return "unix:" + path
}

// dial prepares a connection; it is made with the first call.
func (c *cli) dial() (*grpc.ClientConn, error) {
	kind, rest, ok := strings.Cut(c.address(), ":")
	options := []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)), grpc.WithUserAgent("lunarctl/" + version), grpc.WithNoProxy()}
	switch {
	case ok && kind == "unix" && filepath.IsAbs(rest):
		// gRPC would read the path as part of a URL: some characters mean something there.
		dial := func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", rest)
		}
		return grpc.NewClient("passthrough:///localhost", append(options, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial))...)
	case ok && kind == "tcp":
		host, _, err := net.SplitHostPort(rest)
		if err != nil {
			return nil, fmt.Errorf("--server %s: want tcp:HOST:PORT, IPv6 in brackets", c.address())
		}
		t, err := c.tls(host)
		if err != nil {
			return nil, err
		}
		return grpc.NewClient("passthrough:///"+rest, append(options, grpc.WithTransportCredentials(credentials.NewTLS(t)))...)
	}
	return nil, fmt.Errorf("--server %q: want unix:/PATH or tcp:HOST:PORT", c.address())
}

func (c *cli) tls(host string) (*tls.Config, error) {
	cert, key, ca := set(c.cert, "LUNAR_TLS_CERT"), set(c.key, "LUNAR_TLS_KEY"), set(c.ca, "LUNAR_TLS_CA")
	if cert == "" || key == "" || ca == "" {
		return nil, errors.New("a daemon over TCP is spoken to with mutual TLS: give --tls-cert, --tls-key and --tls-ca")
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert %s with --tls-key %s: %w", cert, key, err)
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, fmt.Errorf("--tls-ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--tls-ca %s: no certificate in it", ca)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, ServerName: host, Certificates: []tls.Certificate{pair}, RootCAs: pool}, nil
}

// call does something with the daemon, within --timeout.
func (c *cli) call(cmd *cobra.Command, do func(ctx context.Context, d *daemon) error) error {
	if c.timeout <= 0 {
		return fmt.Errorf("--timeout %v is not above zero", c.timeout)
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), c.timeout)
	defer cancel()
	return c.stream(cmd, ctx, do)
}

// stream is call for what goes on until ctx ends.
func (c *cli) stream(cmd *cobra.Command, ctx context.Context, do func(ctx context.Context, d *daemon) error) error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	return c.explain(cmd, do(ctx, newDaemon(conn)))
}

// A daemon has the services of one connection.
type daemon struct {
	targets  api.TargetServiceClient
	luns     api.LunServiceClient
	access   api.AccessServiceClient
	accounts api.AccountServiceClient
	portals  api.PortalServiceClient
	sessions api.SessionServiceClient
	stats    api.StatsServiceClient
	system   api.SystemServiceClient
	config   api.ConfigServiceClient
	events   api.EventServiceClient
	volumes  api.VolumeServiceClient
}

func newDaemon(c *grpc.ClientConn) *daemon {
	return &daemon{
		api.NewTargetServiceClient(c), api.NewLunServiceClient(c), api.NewAccessServiceClient(c), api.NewAccountServiceClient(c), api.NewPortalServiceClient(c),
		api.NewSessionServiceClient(c), api.NewStatsServiceClient(c), api.NewSystemServiceClient(c), api.NewConfigServiceClient(c), api.NewEventServiceClient(c),
		api.NewVolumeServiceClient(c),
	}
}

// statuses are the exit statuses of what the daemon answers; what is not here is exitFailed.
var statuses = map[codes.Code]int{
	codes.InvalidArgument: exitUsage, codes.NotFound: exitNotFound, codes.AlreadyExists: exitExists, codes.FailedPrecondition: exitRefused,
	codes.Unavailable: exitNoServer, codes.DeadlineExceeded: exitTimeout, codes.Unauthenticated: exitNoServer, codes.PermissionDenied: exitNoServer,
}

// explain makes of a call's error what the user is told.
func (c *cli) explain(cmd *cobra.Command, err error) error {
	st, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	f := &failure{error: errors.New(st.Message()), status: exitFailed}
	if s, ok := statuses[st.Code()]; ok {
		f.status = s
	}
	detailed := false
	for _, d := range st.Details() {
		if d, ok := d.(*api.ErrorDetail); ok {
			detailed = true
			f.hint = d.GetHint()
			if d.GetCode() == api.ErrorCode_ERROR_CODE_OPEN_FAILED {
				f.status = exitFailed // nothing of the daemon's stands against it, and --force does not help
			}
			if d.GetForceHelps() && cmd.Flags().Lookup("force") != nil && !strings.Contains(f.hint, "--force") {
				if f.hint = f.hint + " (--force)"; d.GetHint() == "" {
					f.hint = "--force does it all the same"
				}
			}
		}
	}
	if detailed {
		return f
	}
	// What gRPC itself says is for programmers.
	switch st.Code() {
	case codes.Unavailable:
		f.error = fmt.Errorf("no daemon answers at %s: %s", c.address(), lastCause(st.Message()))
		f.hint = "is lunard running, with --listen-admin? --server or LUNAR_SERVER says where"
		if strings.HasPrefix(c.address(), "tcp:") {
			f.hint = "is lunard listening there (--listen-admin), and is our certificate of the CA that it was given (--admin-ca)?"
		}
		if strings.Contains(st.Message(), syscall.EACCES.Error()) {
			f.error = fmt.Errorf("%s may not be used by this user: %s", c.address(), lastCause(st.Message()))
			f.hint = "root may, with sudo; lunard --listen-admin unix:PATH,mode=0660 lets a group in"
		}
	case codes.DeadlineExceeded:
		f.error = fmt.Errorf("the daemon at %s did not answer within %v", c.address(), c.timeout)
		f.hint = "--timeout allows more time; whether the change was made is not known: look before you try again"
	case codes.Unimplemented:
		f.error = fmt.Errorf("the daemon at %s does not know this call: %s", c.address(), st.Message())
		f.hint = "it is older than this lunarctl"
	case codes.Canceled:
		f.error = errors.New("interrupted")
	}
	return f
}

// lastCause takes off what gRPC puts in front of a cause, and its quotes.
func lastCause(s string) string {
	for _, before := range []string{"rror while dialing: ", "authentication handshake failed: "} {
		if i := strings.LastIndex(s, before); i >= 0 {
			s = s[i+len(before):]
		}
	}
	return strings.Trim(s, `"`)
}

// ref reads how a target is named.
func ref(s string) *api.TargetRef {
	if n, err := strconv.ParseInt(s, 10, 32); err == nil {
		return &api.TargetRef{Target: &api.TargetRef_Tid{Tid: int32(n)}}
	}
	return &api.TargetRef{Target: &api.TargetRef_Name{Name: s}}
}

// number reads a number of an argument.
func number(what, s string, most uint64) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > most {
		return 0, fmt.Errorf("%s %q is not a number within 0-%d", what, s, most)
	}
	return uint32(n), nil
}

// listTargets gets all pages.
func (d *daemon) listTargets(ctx context.Context, live bool) ([]*api.TargetState, error) {
	var all []*api.TargetState
	q := &api.ListTargetsRequest{Live: live}
	for {
		r, err := d.targets.ListTargets(ctx, q)
		if err != nil {
			return nil, err
		}
		all = append(all, r.GetTargets()...)
		if q.PageToken = r.GetNextPageToken(); q.PageToken == "" {
			return all, nil
		}
	}
}

// listSessions gets all pages.
func (d *daemon) listSessions(ctx context.Context, of *api.TargetRef) ([]*api.SessionInfo, error) {
	var all []*api.SessionInfo
	q := &api.ListSessionsRequest{Target: of}
	for {
		r, err := d.sessions.ListSessions(ctx, q)
		if err != nil {
			return nil, err
		}
		all = append(all, r.GetSessions()...)
		if q.PageToken = r.GetNextPageToken(); q.PageToken == "" {
			return all, nil
		}
	}
}

// target gets one.
func (d *daemon) target(ctx context.Context, name string, live bool) (*api.TargetState, error) {
	r, err := d.targets.GetTarget(ctx, &api.GetTargetRequest{Target: ref(name), Live: live})
	return r.GetTarget(), err
}
