package grpcd_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/lunar-iscsi/lunar/admin"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/admin/grpcd"
	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/mem"
	"github.com/lunar-iscsi/lunar/backstore/null"
)

const disk = "iqn.2026-11.io.lunar:disk"

// newManager makes the real service.
func newManager(t testing.TB, change ...func(*admin.Config)) *admin.Manager {
	t.Helper()
	cfg := admin.Config{Registry: backstore.NewRegistry(mem.Driver(), null.Driver()), RetryVolumes: -1}
	for _, f := range change {
		f(&cfg)
	}
	m, err := admin.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// A client has what tests call.
type client struct {
	targets  api.TargetServiceClient
	luns     api.LunServiceClient
	access   api.AccessServiceClient
	accounts api.AccountServiceClient
	config   api.ConfigServiceClient
	system   api.SystemServiceClient
	events   api.EventServiceClient
}

func newClient(c *grpc.ClientConn) *client {
	return &client{api.NewTargetServiceClient(c), api.NewLunServiceClient(c), api.NewAccessServiceClient(c), api.NewAccountServiceClient(c),
		api.NewConfigServiceClient(c), api.NewSystemServiceClient(c), api.NewEventServiceClient(c)}
}

func managed(t testing.TB) (*admin.Manager, *client) {
	m := newManager(t)
	_, path := serve(t, m, grpcd.Config{})
	return m, newClient(dial(t, path))
}

func newDisk() *api.Target {
	return &api.Target{Name: disk, Alias: "first", Params: map[string]string{"FirstBurstLength": "65536"}, Access: []*api.Rule{{Initiator: "iqn.x"}},
		Luns: []*api.Lun{{Number: 1, Volume: "mem:?size=1M"}}}
}

// TestRepeat: a call that is made again because its answer was lost succeeds where it was asked to, and only where what is there is
// what was asked for.
func TestRepeat(t *testing.T) {
	_, c := managed(t)
	ctx := testContext(t)
	add := func(t *api.Target, allow bool) (*api.AddTargetResponse, error) {
		return c.targets.AddTarget(ctx, &api.AddTargetRequest{Target: t, AllowExisting: allow})
	}
	first, err := add(newDisk(), false)
	if err != nil || first.GetExisted() || first.GetTarget().GetTid() != 1 || first.GetTarget().GetLuns()[0].GetIdentity() == "" {
		t.Fatalf("%v, %v", first, err)
	}
	again, err := add(newDisk(), true)
	if err != nil || !again.GetExisted() || !proto.Equal(again.GetTarget(), first.GetTarget()) {
		t.Errorf("again: %v, %v", again, err)
	}
	upper := newDisk()
	upper.Name = strings.ToUpper(disk[:3]) + disk[3:]
	if r, err := add(upper, true); err != nil || !r.GetExisted() {
		t.Errorf("in capitals: %v, %v", r, err)
	}
	_, err = add(newDisk(), false)
	wantCode(t, "again, not allowed", err, codes.AlreadyExists, api.ErrorCode_ERROR_CODE_TARGET_EXISTS)
	for field, change := range map[string]func(*api.Target){
		"alias":          func(x *api.Target) { x.Alias = "second" },
		"params":         func(x *api.Target) { x.Params["FirstBurstLength"] = "1024" },
		"access":         func(x *api.Target) { x.Access = append(x.Access, &api.Rule{Address: "ALL"}) },
		"access[0].":     func(x *api.Target) { x.Access[0].ReadOnly = true },
		"luns[0].volume": func(x *api.Target) { x.Luns[0].Volume = "mem:?size=2M" },
		"tid":            func(x *api.Target) { x.Tid = 9 },
		"auth":           func(x *api.Target) { x.Auth = &api.Auth{Outgoing: "x"} },
	} {
		x := newDisk()
		change(x)
		_, err := add(x, true)
		wantCode(t, field, err, codes.AlreadyExists, api.ErrorCode_ERROR_CODE_TARGET_EXISTS)
		if field != "auth" && !strings.Contains(err.Error(), field) {
			t.Errorf("another %s: %v", field, err)
		}
	}
	ref := &api.TargetRef{Target: &api.TargetRef_Tid{Tid: 1}}
	if r, err := c.luns.AddLun(ctx, &api.AddLunRequest{Target: ref, Lun: &api.Lun{Number: 1, Volume: "mem:?size=1M"}, AllowExisting: true}); err != nil || !r.GetExisted() {
		t.Errorf("the LUN again: %v, %v", r, err)
	}
	_, err = c.luns.AddLun(ctx, &api.AddLunRequest{Target: ref, Lun: &api.Lun{Number: 1, Volume: "mem:?size=1M", Serial: "other"}, AllowExisting: true})
	wantCode(t, "another LUN", err, codes.AlreadyExists, api.ErrorCode_ERROR_CODE_LUN_EXISTS)
	for range 2 {
		if _, err := c.targets.RemoveTarget(ctx, &api.RemoveTargetRequest{Target: ref, MissingOk: true}); err != nil {
			t.Error(err)
		}
	}
	_, err = c.luns.RemoveLun(ctx, &api.RemoveLunRequest{Target: ref, Lun: 1, MissingOk: true})
	wantCode(t, "a LUN of no target", err, codes.NotFound, api.ErrorCode_ERROR_CODE_NO_TARGET)
}

// TestUpdate: what the mask names is set, also to nothing, and the rest is left alone.
func TestUpdate(t *testing.T) {
	m, c := managed(t)
	ctx := testContext(t)
	if _, err := c.targets.AddTarget(ctx, &api.AddTargetRequest{Target: newDisk()}); err != nil {
		t.Fatal(err)
	}
	ref := named(disk)
	on := true
	r, err := c.targets.UpdateTarget(ctx, &api.UpdateTargetRequest{Target: ref, To: &api.Target{NopInterval: 7, Name: "ignored", Offline: true}, UpdateMask: mask("nop_interval", "alias"),
		SetParams: map[string]string{"MaxBurstLength": "131072"}, ClearParams: []string{"FirstBurstLength"}})
	if err != nil {
		t.Fatal(err)
	}
	if x := r.GetTarget(); x.GetAlias() != "" || x.GetNopInterval() != 7 || x.GetOffline() || x.GetName() != disk || len(x.GetParams()) != 1 || x.GetParams()["MaxBurstLength"] != "131072" || len(x.GetAccess()) != 1 {
		t.Errorf("%v", x)
	}
	before := m.Document()
	for _, paths := range [][]string{{"tid"}, {"name"}, {"luns"}, {"nonsense"}, {"Alias"}, {"auth.incoming"}, {""}, {}, {"alias", "params.x"}} {
		_, err := c.targets.UpdateTarget(ctx, &api.UpdateTargetRequest{Target: ref, To: &api.Target{Alias: "x"}, UpdateMask: mask(paths...)})
		wantCode(t, strings.Join(paths, ","), err, codes.InvalidArgument, api.ErrorCode_ERROR_CODE_INVALID)
	}
	for _, paths := range [][]string{{"number"}, {"identity"}, {"block_size"}, {}} {
		_, err := c.luns.UpdateLun(ctx, &api.UpdateLunRequest{Target: ref, Lun: 1, To: &api.Lun{Identity: "x"}, UpdateMask: mask(paths...)})
		wantCode(t, strings.Join(paths, ","), err, codes.InvalidArgument, api.ErrorCode_ERROR_CODE_INVALID)
	}
	unchanged(t, m, before)
	l, err := c.luns.UpdateLun(ctx, &api.UpdateLunRequest{Target: ref, Lun: 1, To: &api.Lun{WriteCache: &on, ReadOnly: true}, UpdateMask: mask("write_cache")})
	if err != nil || l.GetLun().WriteCache == nil || l.GetLun().GetReadOnly() {
		t.Fatalf("%v, %v", l, err)
	}
	if l, err = c.luns.UpdateLun(ctx, &api.UpdateLunRequest{Target: ref, Lun: 1, UpdateMask: mask("write_cache")}); err != nil || l.GetLun().WriteCache != nil {
		t.Errorf("cleared: %v, %v", l, err)
	}
}

func mask(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }

// TestSecretsStay: secrets go in and never come out, and a document without them keeps them.
func TestSecretsStay(t *testing.T) {
	m, c := managed(t)
	ctx := testContext(t)
	const secret = "never to be seen"
	if _, err := c.accounts.AddAccount(ctx, &api.AddAccountRequest{Account: &api.Account{Name: "alice", Secret: secret}}); err != nil {
		t.Fatal(err)
	}
	r, err := c.config.GetDocument(ctx, &api.GetDocumentRequest{})
	if err != nil {
		t.Fatal(err)
	}
	list, err := c.accounts.ListAccounts(ctx, &api.ListAccountsRequest{})
	if err != nil || len(list.GetAccounts()) != 1 {
		t.Fatal(list, err)
	}
	if strings.Contains(r.String()+list.String(), secret) {
		t.Error("the secret comes out")
	}
	d := r.GetDocument()
	d.Targets = append(d.Targets, newDisk())
	d.Targets[0].Auth = &api.Auth{Incoming: []string{"alice"}}
	before := m.Document()
	dry, err := c.config.ApplyDocument(ctx, &api.ApplyDocumentRequest{Document: d, DryRun: true})
	if err != nil || len(dry.GetSteps()) != 1 || dry.GetSteps()[0].GetDone() {
		t.Errorf("dry: %v, %v", dry, err)
	}
	unchanged(t, m, before)
	done, err := c.config.ApplyDocument(ctx, &api.ApplyDocumentRequest{Document: d})
	if err != nil || len(done.GetSteps()) != 1 || !done.GetSteps()[0].GetDone() || done.GetSteps()[0].GetVerb() != api.Verb_VERB_ADD {
		t.Errorf("done: %v, %v", done, err)
	}
	if a := m.Document().Accounts; len(a) != 1 || a[0].Secret != secret {
		t.Errorf("the accounts are %v", a)
	}
	d.Accounts = append(d.Accounts, &api.Account{Name: "bob"})
	_, err = c.config.ApplyDocument(ctx, &api.ApplyDocumentRequest{Document: d})
	wantCode(t, "a new account without a secret", err, codes.InvalidArgument, api.ErrorCode_ERROR_CODE_INVALID)
	_, err = c.config.ApplyDocument(ctx, &api.ApplyDocumentRequest{})
	wantCode(t, "no document", err, codes.InvalidArgument, api.ErrorCode_ERROR_CODE_INVALID)
	// What fails half-way says how far it came.
	d.Accounts = d.Accounts[:1]
	d.Targets = append(d.Targets, &api.Target{Name: "iqn.2026-11.io.lunar:bad", Luns: []*api.Lun{{Number: 1, Volume: "nosuch:x"}}})
	_, err = c.config.ApplyDocument(ctx, &api.ApplyDocumentRequest{Document: d})
	wantCode(t, "a volume that is not there", err, codes.FailedPrecondition, api.ErrorCode_ERROR_CODE_OPEN_FAILED)
	var p *api.ApplyProgress
	for _, x := range status.Convert(err).Details() {
		if y, ok := x.(*api.ApplyProgress); ok {
			p = y
		}
	}
	if n := len(p.GetSteps()); n == 0 || p.GetSteps()[n-1].GetDone() || !strings.Contains(p.GetSteps()[n-1].GetWhat(), "bad") {
		t.Errorf("progress %v", p)
	}
}

// TestEventStream: the stream has begun when its headers are there; a reader who does not read loses events, is told how many, and holds up nobody.
func TestEventStream(t *testing.T) {
	m := newManager(t, func(c *admin.Config) { c.MaxEvents = 16 })
	s, path := serve(t, m, grpcd.Config{MaxWatchers: 1})
	c := newClient(dial(t, path, grpc.WithStaticStreamWindowSize(64<<10))) // or gRPC lets the window grow, and would hold much
	ctx := testContext(t)
	w, err := c.events.WatchEvents(ctx, &api.WatchEventsRequest{Kinds: []api.EventKind{api.EventKind_EVENT_KIND_TARGET_CHANGED}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Header(); err != nil {
		t.Fatal(err)
	}
	over, err := c.events.WatchEvents(ctx, &api.WatchEventsRequest{})
	if err == nil {
		_, err = over.Recv()
	}
	wantCode(t, "one stream more", err, codes.ResourceExhausted, api.ErrorCode_ERROR_CODE_TOO_MANY)
	if _, err := c.targets.AddTarget(ctx, &api.AddTargetRequest{Target: newDisk()}); err != nil {
		t.Fatal(err)
	}
	// As many changes as no buffer on the way holds; none of the calls waits for the reader.
	const changes = 2000
	alias := strings.Repeat("x", 200)
	for i := range changes {
		if _, err := c.targets.UpdateTarget(ctx, &api.UpdateTargetRequest{Target: named(disk), To: &api.Target{Alias: alias[:100+i%100]}, UpdateMask: mask("alias")}); err != nil {
			t.Fatal(err)
		}
	}
	got, lost := 0, 0
	for got+lost < changes {
		r, err := w.Recv()
		if err != nil {
			t.Fatalf("after %d events and %d lost: %v", got, lost, err)
		}
		switch e := r.GetEvent(); e.GetKind() {
		case api.EventKind_EVENT_KIND_TARGET_CHANGED:
			got++
			if e.GetTarget() != disk || !strings.HasPrefix(e.GetCaller(), "grpc uid ") || e.Lun != nil || time.Since(e.GetTime().AsTime()) > time.Hour {
				t.Fatalf("%v", e)
			}
		case api.EventKind_EVENT_KIND_EVENTS_LOST:
			n := 0
			for _, d := range e.GetDetail() {
				if d >= '0' && d <= '9' {
					n = n*10 + int(d-'0')
				}
			}
			lost += n
		default:
			t.Fatalf("not asked for: %v", e)
		}
	}
	if lost == 0 {
		t.Error("a reader who did not read has lost nothing")
	}
	go s.Stop(ctx)
	if _, err := w.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("at the end: %v", err)
	}
}

// TestDrainTime: the time of a drain is checked, and kept.
func TestDrainTime(t *testing.T) {
	m, c := managed(t)
	ctx := testContext(t)
	if _, err := c.targets.AddTarget(ctx, &api.AddTargetRequest{Target: newDisk()}); err != nil {
		t.Fatal(err)
	}
	before := m.Document()
	for _, d := range []*durationpb.Duration{{Seconds: -1}, {}, {Seconds: 601}, {Nanos: -5}, {Seconds: 1, Nanos: -1}} {
		_, err := c.targets.DrainTarget(ctx, &api.DrainTargetRequest{Target: named(disk), Timeout: d})
		wantCode(t, d.String(), err, codes.InvalidArgument, api.ErrorCode_ERROR_CODE_INVALID)
	}
	unchanged(t, m, before)
	if _, err := c.targets.DrainTarget(ctx, &api.DrainTargetRequest{Target: named(disk), Timeout: durationpb.New(time.Minute)}); err != nil {
		t.Fatal(err)
	}
	if s, err := m.Target(admin.Ref{Name: disk}, false); err != nil || !s.Spec.Offline {
		t.Errorf("%+v, %v", s.Spec, err)
	}
}

// A rule whose address says nothing would match nobody, and nobody would be told: it is refused. One that tgt's tools have made can be
// removed all the same.
func TestRuleAddresses(t *testing.T) {
	m, c := managed(t)
	ctx := t.Context()
	for _, bad := range []string{"all", "10.0.0.0/33", "garbage", "foo bar", "fe80::1%eth0"} {
		_, err := c.targets.AddTarget(ctx, &api.AddTargetRequest{Target: &api.Target{Name: disk, Access: []*api.Rule{{Address: bad}}}})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(status.Convert(err).Message(), "target.access: ") {
			t.Errorf("a target with %q: %v", bad, err)
		}
	}
	if _, err := m.AddTarget(ctx, spec.Target{Name: disk, Access: []spec.Rule{{Address: "garbage"}}}); err != nil {
		t.Fatal(err)
	}
	of := &api.TargetRef{Target: &api.TargetRef_Name{Name: disk}}
	_, err := c.access.AddRule(ctx, &api.AddRuleRequest{Target: of, Rule: &api.Rule{Address: "10.0.0.0/33"}})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(status.Convert(err).Message(), "want a length of 0 to 32") {
		t.Errorf("a rule: %v", err)
	}
	if _, err := c.access.RemoveRule(ctx, &api.RemoveRuleRequest{Target: of, Rule: &api.Rule{Address: "garbage"}}); err != nil {
		t.Error(err)
	}
	if _, err := c.access.AddRule(ctx, &api.AddRuleRequest{Target: of, Rule: &api.Rule{Address: "[2001:db8::]/32"}}); err != nil {
		t.Error(err)
	}
}
