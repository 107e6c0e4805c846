package longhorn

import (
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A pb is a message to be answered with.
type pb []byte

func (m pb) text(n protowire.Number, s string) pb {
	return protowire.AppendString(protowire.AppendTag(m, n, protowire.BytesType), s)
}

func (m pb) number(n protowire.Number, v int64) pb {
	return protowire.AppendVarint(protowire.AppendTag(m, n, protowire.VarintType), uint64(v))
}

func (m pb) sub(n protowire.Number, s pb) pb { return m.text(n, string(s)) }

// rawCodec hands messages over as they are.
type rawCodec struct{}

func (rawCodec) Name() string                       { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = slices.Clone(data); return nil }

// A manager is an engine's gRPC servers: a controller, and replicas with their sync agents. It notes what it is asked to do.
type manager struct {
	t        testing.TB
	addr     string
	replicas []string
	modes    []int64

	mu        sync.Mutex
	name      string
	size      int64
	frontend  string
	state     string
	expanding int    // times that it says so
	grown     int64  // its size after that
	growError string // what it says then
	disks     map[string]pb
	running   int // times that an agent says that it works
	agentSays string
	calls     []string         // of methods that change something
	fails     map[string]error // by method
	onCall    func(method string)
}

func newManager(t testing.TB, volume string, size int64) *manager {
	t.Helper()
	m := &manager{t: t, name: volume, size: size, frontend: "socket", state: "up", disks: map[string]pb{}, fails: map[string]error{}}
	m.addr = m.serve("127.0.0.1:0")
	for range 2 {
		m.replicas = append(m.replicas, m.replica())
		m.modes = append(m.modes, 1)
	}
	return m
}

// replica serves a replica, and two ports above it its agent.
func (m *manager) replica() string {
	m.t.Helper()
	for range 100 {
		addr := m.serve("127.0.0.1:0")
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			m.t.Fatal(err)
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			m.t.Fatal(err)
		}
		if l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(n+2))); err == nil {
			m.serveOn(l)
			return addr
		}
	}
	m.t.Fatal("no two free ports")
	return ""
}

func (m *manager) serve(addr string) string {
	m.t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		m.t.Fatal(err)
	}
	m.serveOn(l)
	return l.Addr().String()
}

func (m *manager) serveOn(l net.Listener) {
	s := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(m.handle))
	end := make(chan struct{})
	go func() {
		defer close(end)
		_ = s.Serve(l) // stopped at the end
	}()
	m.t.Cleanup(func() {
		s.Stop()
		<-end
	})
}

func (m *manager) handle(_ any, st grpc.ServerStream) error {
	path, _ := grpc.MethodFromServerStream(st)
	md, _ := metadata.FromIncomingContext(st.Context())
	var in []byte
	if err := st.RecvMsg(&in); err != nil {
		return err
	}
	out, err := m.answer(path, md, in)
	if err != nil {
		return err
	}
	b := []byte(out)
	return st.SendMsg(&b)
}

func (m *manager) volume() pb {
	size, expanding := m.size, int64(0)
	if m.expanding > 0 {
		if m.expanding--; m.expanding == 0 {
			m.size = m.grown
		}
		expanding = 1
	}
	return pb(nil).text(1, m.name).number(2, size).number(3, 2).text(5, m.frontend).text(6, m.state).number(7, expanding).text(8, m.growError)
}

func (m *manager) answer(path string, md metadata.MD, in []byte) (pb, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v := md.Get("volume-name"); len(v) == 1 && v[0] != m.name {
		return nil, status.Errorf(codes.FailedPrecondition, "incorrect volume name %s; check controller address", v[0])
	}
	method := path[strings.LastIndexByte(path, '/')+1:]
	name := ""
	if n, typ, k := protowire.ConsumeTag(in); k > 0 && n == 1 && typ == protowire.BytesType {
		name, _ = protowire.ConsumeString(in[k:])
	}
	switch method {
	case "VolumeGet", "ReplicaList", "ReplicaGet", "SnapshotPurgeStatus":
	default:
		m.calls = append(m.calls, strings.TrimSpace(method+" "+name))
	}
	if m.onCall != nil {
		m.onCall(method)
	}
	if err := m.fails[method]; err != nil {
		return nil, err
	}
	switch method {
	case "ReplicaList":
		var out pb
		for i, r := range m.replicas {
			out = out.sub(1, pb(nil).sub(1, pb(nil).text(1, "tcp://"+r)).number(2, m.modes[i]))
		}
		return out, nil
	case "ReplicaGet":
		r := pb(nil).text(5, "1048576")
		for file, d := range m.disks {
			r = r.sub(10, pb(nil).text(1, file).sub(2, d))
		}
		return pb(nil).sub(1, r), nil
	case "VolumeFrontendShutdown":
		m.state = "down"
	case "VolumeFrontendStart":
		m.state = "up"
	case "VolumeExpand":
		m.expanding = 3
	case "SnapshotPurgeStatus":
		if m.running > 0 {
			m.running--
			return pb(nil).number(1, 1).number(3, 50), nil
		}
		return pb(nil).text(2, m.agentSays).number(3, 100), nil
	}
	return m.volume(), nil
}

func disk(parent string, removed, user int64, created string) pb {
	return pb(nil).text(2, parent).number(4, removed).number(5, user).text(6, created).text(7, "4096")
}

// done returns, sorted, what the manager was asked to do, and forgets it.
func (m *manager) done() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	calls := m.calls
	m.calls = nil
	return calls
}

func (m *manager) uri(e *engine) *backstore.URI {
	m.t.Helper()
	u, err := backstore.ParseURI(e.uri("&engine=" + m.addr))
	if err != nil {
		m.t.Fatal(err)
	}
	return u
}

func wantClass(t *testing.T, err error, class backstore.Class, part string) {
	t.Helper()
	if err == nil || backstore.ClassOf(err) != class || !strings.Contains(err.Error(), part) {
		t.Errorf("%v, want %v with %q", err, class, part)
	}
}

func TestSnapshotsOfAManager(t *testing.T) {
	e := newEngine(t, 1<<20)
	m := newManager(t, "vol", 1<<20)
	u := m.uri(e)
	m.disks = map[string]pb{
		"volume-head-003.img":   disk("volume-snap-later.img", 0, 0, ""),
		"volume-snap-old.img":   disk("", 0, 1, "2026-11-27T01:00:00Z"),
		"volume-snap-gone.img":  disk("volume-snap-old.img", 1, 1, "2026-11-27T01:00:01Z"),
		"volume-snap-own.img":   disk("volume-snap-gone.img", 0, 0, "2026-11-27T01:00:02Z"),
		"volume-snap-later.img": disk("volume-snap-own.img", 0, 1, "2026-11-27T01:00:02Z"), // of the same second
	}
	list, err := snapshots(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range list {
		got = append(got, s.Name+": "+s.State)
	}
	if want := []string{"old: ready", "own: ready (made by the engine for itself)", "later: ready"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if v, err := stat(t.Context(), u); err != nil || v.Size != 1<<20 || v.Used != 5*4096 {
		t.Errorf("%+v, %v", v, err)
	}
	if err := snapshot(t.Context(), u, "new", nil); err != nil {
		t.Error(err)
	}
	wantClass(t, snapshot(t.Context(), u, "old", nil), backstore.ClassBusy, "already")
	wantClass(t, snapshot(t.Context(), u, "gone", nil), backstore.ClassBusy, "was deleted")
	wantClass(t, deleteSnapshot(t.Context(), u, "gone", nil), backstore.ClassNotFound, "no snapshot")
	if got := m.done(); !slices.Equal(got, []string{"VolumeSnapshot new"}) {
		t.Errorf("asked for %q", got)
	}
	// Deleted in every replica, and every agent has joined it, before it is done.
	m.running = 4
	if err := deleteSnapshot(t.Context(), u, "old", nil); err != nil {
		t.Error(err)
	}
	got = m.done()
	slices.Sort(got)
	if !slices.Equal(got, []string{"DiskMarkAsRemoved old", "DiskMarkAsRemoved old", "SnapshotPurge", "SnapshotPurge"}) || m.running != 0 {
		t.Errorf("asked for %q, %d", got, m.running)
	}
	m.agentSays = "no space left on device"
	wantClass(t, deleteSnapshot(t.Context(), u, "old", nil), backstore.ClassInternal, "no space left on device")
	m.modes[1] = 2
	m.done()
	wantClass(t, deleteSnapshot(t.Context(), u, "old", nil), backstore.ClassBusy, "is ERR")
	if got := m.done(); len(got) != 0 {
		t.Errorf("asked for %q", got)
	}
	m.modes[0] = 2
	wantClass(t, snapshot(t.Context(), u, "x", nil), backstore.ClassOffline, "no replica")
}

// Long work that is called off says that it goes on.
func TestDeletionCalledOff(t *testing.T) {
	m := newManager(t, "vol", 1<<20)
	m.disks["volume-snap-s.img"] = disk("", 0, 1, "")
	m.running = 1 << 30
	ctx, cancel := context.WithCancel(t.Context())
	err := deleteSnapshot(ctx, m.uri(newEngine(t, 1<<20)), "s", func(done, total int64) { cancel() })
	wantClass(t, err, backstore.ClassCancelled, "go on with it by themselves")
}

// A rollback shuts the frontend down and starts it again, whatever became of it, and only if that can be.
func TestRollback(t *testing.T) {
	e := newEngine(t, 1<<20)
	m := newManager(t, "vol", 1<<20)
	m.disks["volume-snap-s.img"] = disk("", 0, 1, "")
	u := m.uri(e)
	whole := []string{"VolumeFrontendShutdown", "VolumeRevert s", "VolumeFrontendStart socket"}
	if err := rollback(t.Context(), u, "s", nil); err != nil {
		t.Error(err)
	}
	if got := m.done(); !slices.Equal(got, whole) {
		t.Errorf("asked for %q", got)
	}
	m.fails["VolumeRevert"] = status.Error(codes.Unknown, "not valid state to revert, rebuilding in process")
	wantClass(t, rollback(t.Context(), u, "s", nil), backstore.ClassBusy, "rebuilding in process")
	if got := m.done(); !slices.Equal(got, whole) {
		t.Errorf("asked for %q", got)
	}
	m.fails = map[string]error{"VolumeFrontendStart": status.Error(codes.Unknown, "no")}
	wantClass(t, rollback(t.Context(), u, "s", nil), backstore.ClassOffline, "does not start again")
	m.fails = nil
	m.done()
	m.frontend, m.state = "tgt-blockdev", "up"
	wantClass(t, rollback(t.Context(), u, "s", nil), backstore.ClassBusy, "maintenance mode")
	m.frontend = "socket"
	h, _ := openURI(t, e.uri(""), false)
	wantClass(t, rollback(t.Context(), u, "s", nil), backstore.ClassBusy, "in use: 1 connections")
	h.Close()
	wantClass(t, rollback(t.Context(), u, "t", nil), backstore.ClassNotFound, "no snapshot")
	if got := m.done(); len(got) != 0 {
		t.Errorf("asked for %q", got)
	}
	m.frontend = ""
	if err := rollback(t.Context(), u, "s", nil); err != nil {
		t.Error(err)
	}
	if got := m.done(); !slices.Equal(got, []string{"VolumeRevert s"}) {
		t.Errorf("asked for %q", got)
	}
}

func TestResizeByTheManager(t *testing.T) {
	e := newEngine(t, 1<<20)
	m := newManager(t, "vol", 1<<20)
	u := m.uri(e)
	wantClass(t, resize(t.Context(), u, 2<<20, false, nil), backstore.ClassUnsupported, `frontend "socket"`)
	wantClass(t, resize(t.Context(), u, 1<<20+512, false, nil), backstore.ClassRange, "multiple")
	wantClass(t, resize(t.Context(), u, 1<<19, true, nil), backstore.ClassUnsupported, "shrink")
	if got := m.done(); len(got) != 0 {
		t.Errorf("asked for %q", got)
	}
	m.frontend, m.grown = "", 2<<20
	if err := resize(t.Context(), u, 2<<20, false, nil); err != nil {
		t.Error(err)
	}
	m.grown, m.growError = 2<<20, "no space"
	wantClass(t, resize(t.Context(), u, 4<<20, false, nil), backstore.ClassInternal, "still has 2097152 bytes: no space")
}

// An open store asks for nothing: it follows an engine that grows, by its gRPC API or by what it refuses, and no other.
func TestResizeFollows(t *testing.T) {
	bothWays(t, func(t *testing.T, attach bool) {
		e := newEngine(t, 1<<20)
		m := newManager(t, "vol", 1<<20)
		for _, uri := range []string{e.uri("&engine=" + m.addr), e.uri("")} {
			h, _ := openURI(t, uri, attach)
			s := h.Store.(*Store)
			wantClass(t, s.Resize(t.Context(), 2<<20), backstore.ClassUnsupported, "cannot grow while its frontend")
			m.mu.Lock()
			m.frontend = "tgt-iscsi"
			m.mu.Unlock()
			if strings.Contains(uri, "engine=") {
				wantClass(t, s.Resize(t.Context(), 2<<20), backstore.ClassUnsupported, "have Longhorn expand")
			}
			m.mu.Lock()
			m.frontend, m.expanding, m.grown = "socket", 2, 1<<20
			m.mu.Unlock()
			e.answers(func(c *engineConn, h header, _ []byte) bool {
				if h.typ != typeUnmap {
					return false
				}
				if h.size != 0 {
					c.e.t.Errorf("something was unmapped: %+v", h)
				}
				c.fail(h.seq, "cannot unmap 0 bytes at offset 0 "+textGrowing)
				return true
			})
			if err := s.Resize(t.Context(), 2<<20); err != nil || s.Info().Size != 2<<20 {
				t.Errorf("%s: %v, %d bytes", uri, err, s.Info().Size)
			}
			wantClass(t, s.Resize(t.Context(), 1<<20), backstore.ClassUnsupported, "shrink")
			e.answers(nil)
			wantClass(t, s.AdoptSize(t.Context(), 4<<20), backstore.ClassRange, "fewer than 4194304")
			if err := s.AdoptSize(t.Context(), 1<<20); err != nil {
				t.Error(err)
			}
			h.Close()
			wantClass(t, s.Resize(t.Context(), 2<<20), backstore.ClassOffline, "closed")
		}
		if got := m.done(); len(got) != 0 {
			t.Errorf("asked for %q", got)
		}
	})
}

func TestManagerErrors(t *testing.T) {
	m := newManager(t, "vol", 1<<20)
	u := m.uri(newEngine(t, 1<<20))
	for _, tc := range []struct {
		code  codes.Code
		text  string
		class backstore.Class
	}{
		{codes.Unknown, "snapshot count usage 250 is equal or larger than snapshotMaxCount 250", backstore.ClassNoSpace},
		{codes.Unknown, "snapshot free space 1 is not enough for head file 2", backstore.ClassNoSpace},
		{codes.Unknown, "controller expansion is in progress", backstore.ClassBusy},
		{codes.Unknown, "no backend available", backstore.ClassOffline},
		{codes.Unknown, "something else", backstore.ClassInternal},
		{codes.Unavailable, "gone", backstore.ClassOffline},
		{codes.Unimplemented, "what is that", backstore.ClassUnsupported},
		{codes.NotFound, "none", backstore.ClassNotFound},
	} {
		m.fails["VolumeSnapshot"] = status.Error(tc.code, tc.text)
		wantClass(t, snapshot(t.Context(), u, "s", nil), tc.class, tc.text)
	}
	other, err := backstore.ParseURI("longhorn:other?engine=" + m.addr)
	if err != nil {
		t.Fatal(err)
	}
	wantClass(t, snapshot(t.Context(), other, "s", nil), backstore.ClassNotFound, "incorrect volume name other")
	m.mu.Lock()
	m.size = -1
	m.mu.Unlock()
	_, err = stat(t.Context(), u)
	wantClass(t, err, backstore.ClassInternal, "a volume of -1 bytes")
}

func TestConnected(t *testing.T) {
	const path = "/var/run/longhorn-v.sock"
	for line, want := range map[string]int{
		"0000000000000000: 00000003 00000000 00000000 0001 03 8643966 " + path:       1,
		"0000000000000000: 00000002 00000000 00010000 0001 01 8643966 " + path:       0, // listens
		"0000000000000000: 00000003 00000000 00000000 0001 03 8643966 " + path + "2": 0,
		"0000000000000000: 00000003 00000000 00000000 0001 03 8643966":               0,
		"Num       RefCount Protocol Flags    Type St Inode Path":                    0,
		"": 0,
	} {
		if got := connected(line, path, "/other"); got != want {
			t.Errorf("%q: %d", line, got)
		}
	}
}
