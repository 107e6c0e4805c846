package grpcd_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/lunar-iscsi/lunar/admin"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/admin/grpcd"
	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/test/volumes"
)

// unchanged fails the test unless the service has set what it had.
func unchanged(t testing.TB, m *admin.Manager, before spec.Document) {
	t.Helper()
	if after := m.Document(); !reflect.DeepEqual(after, before) {
		t.Fatalf("it was changed: %s", spec.Changes(before, after))
	}
}

// calls are the methods of every service of lunar's, but for event streams.
func calls(t testing.TB) (out []protoreflect.MethodDescriptor) {
	protoregistry.GlobalFiles.RangeFilesByPackage("lunar.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			for k := range f.Services().Get(i).Methods().Len() {
				if m := f.Services().Get(i).Methods().Get(k); m.Name() != "WatchEvents" {
					out = append(out, m)
				}
			}
		}
		return true
	})
	if len(out) < 30 {
		t.Fatalf("%d methods", len(out))
	}
	return out
}

// words are texts that mean something somewhere, and some that mean nothing anywhere.
var words = []string{"", disk, "iqn.2026-11.io.lunar:new", "iqn.", "*", "ALL", "192.0.2.0/24", "[::1]:0", "127.0.0.1:0", "x", "a\nb", "\x00", "alias", "volume", "params", "mem:?size=1M", "mem:?size=999E",
	"null:?size=1T", "nosuch:", "file:///etc/passwd", "FirstBurstLength", "65536", "Yes", "alice", strings.Repeat("y", 300), "éè", "1.1", "%", "../../x",
	"fake:", "fake:a", "fake:b", "fake:a?secret=x", "fake:c", "fake:a?x=1", "s", "id1"}

// fill makes a message of numbers that mean little and texts of words.
func fill(m protoreflect.Message, r *rand.Rand, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if r.IntN(3) == 0 || depth > 5 {
			continue
		}
		switch {
		case f.IsMap():
			for range r.IntN(3) {
				v := m.NewField(f).Map().NewValue()
				if f.MapValue().Message() == nil {
					v = value(f.MapValue(), r)
				}
				m.Mutable(f).Map().Set(value(f.MapKey(), r).MapKey(), v)
			}
		case f.IsList():
			for range r.IntN(4) {
				l := m.Mutable(f).List()
				if f.Message() != nil {
					x := l.NewElement()
					fill(x.Message(), r, depth+1)
					l.Append(x)
				} else {
					l.Append(value(f, r))
				}
			}
		case f.Message() != nil:
			fill(m.Mutable(f).Message(), r, depth+1)
		default:
			m.Set(f, value(f, r))
		}
	}
}

var integers = []int64{0, 1, 1, 1, 2, 7, -1, 512, 4096, 16383, 16384, 65535, 65536, 1 << 20, 1<<31 - 1, -1 << 31, 1<<63 - 1, -1 << 63}

func value(f protoreflect.FieldDescriptor, r *rand.Rand) protoreflect.Value {
	n := integers[r.IntN(len(integers))]
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(r.IntN(2) == 0)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(words[r.IntN(len(words))])
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(r.IntN(5)))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(n)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	}
	panic(f.Kind().String())
}

// A prober makes random calls, and knows what has to hold of each.
type prober struct {
	m       *admin.Manager
	conn    *grpc.ClientConn
	methods []protoreflect.MethodDescriptor
	engine  *volumes.Engine
}

func newProber(t testing.TB) *prober {
	e := volumes.New("fake")
	m := newManager(t, func(c *admin.Config) {
		c.MaxTargets, c.MaxPortals, c.CloseTimeout = 50, 8, time.Second
		c.Registry = backstore.NewRegistry(append(c.Registry.Drivers(), e.Driver())...)
	})
	_, path := serve(t, m, grpcd.Config{MaxRecvBytes: 1 << 20})
	return &prober{m, dial(t, path), calls(t), e}
}

// invoke makes a call, and reads all that a stream has.
func invoke(ctx context.Context, c *grpc.ClientConn, method protoreflect.MethodDescriptor, q, r any, options ...grpc.CallOption) error {
	name := "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
	if !method.IsStreamingServer() {
		return c.Invoke(ctx, name, q, r, options...)
	}
	s, err := c.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, name, options...)
	if err == nil {
		err = s.SendMsg(q)
	}
	if err == nil {
		err = s.CloseSend()
	}
	for err == nil {
		err = s.RecvMsg(r)
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// probe makes one call. What is refused has changed nothing, says why, and is no fault of lunar's.
func (p *prober) probe(t testing.TB, seed1, seed2 uint64) codes.Code {
	r := rand.New(rand.NewPCG(seed1, seed2))
	method := p.methods[r.IntN(len(p.methods))]
	types := protoregistry.GlobalTypes
	in, err := types.FindMessageByName(method.Input().FullName())
	if err != nil {
		t.Fatal(err)
	}
	outType, err := types.FindMessageByName(method.Output().FullName())
	if err != nil {
		t.Fatal(err)
	}
	q := in.New()
	fill(q, r, 0)
	if d, ok := q.Interface().(*api.DrainTargetRequest); ok && d.GetTimeout() != nil {
		d.Timeout.Seconds = min(d.GetTimeout().GetSeconds(), 1)
	}
	before, words := p.m.Document(), p.engine.Words()
	name := "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	defer cancel()
	err = invoke(ctx, p.conn, method, q.Interface(), outType.New().Interface())
	code := status.Code(err)
	if err == nil {
		return code
	}
	d := detail(err)
	switch {
	case code == codes.Internal && !strings.Contains(err.Error(), "invalid UTF-8"), code == codes.Unknown, code == codes.DeadlineExceeded && name != api.TargetService_DrainTarget_FullMethodName:
		t.Fatalf("%s %v: %v", name, q, err)
	case d == nil && code != codes.Internal && code != codes.ResourceExhausted || status.Convert(err).Message() == "":
		t.Fatalf("%s %v: %v has no reason", name, q, err)
	case strings.ContainsAny(status.Convert(err).Message(), "\n\r"):
		t.Fatalf("%s %v: %q is not one line", name, q, err)
	case name == api.ConfigService_ApplyDocument_FullMethodName, name == api.TargetService_DrainTarget_FullMethodName:
		// They say how far they came.
	default:
		unchanged(t, p.m, before)
		if now := p.engine.Words(); now != words {
			t.Fatalf("%s %v: %v, and yet:\n%s\nwas\n%s", name, q, err, now, words)
		}
	}
	if w := p.engine.Wrongs(); w != nil {
		t.Fatalf("%s %v: %v", name, q, w)
	}
	return code
}

// TestRandomCalls: some thousand random calls on one daemon; some succeed, most are refused as they ought to be.
func TestRandomCalls(t *testing.T) {
	p := newProber(t)
	counts := map[codes.Code]int{}
	for i := range uint64(6000) {
		counts[p.probe(t, 20261127, i)]++
	}
	for _, c := range []codes.Code{codes.OK, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists} {
		if counts[c] == 0 {
			t.Errorf("%v has never come: %v", c, counts)
		}
	}
	for _, op := range []string{"create", "delete", "snapshot"} {
		if p.engine.Calls(op) == 0 {
			t.Errorf("no %s of a volume has come to its driver", op)
		}
	}
	d := p.m.Document()
	if err := d.Check(); err != nil {
		t.Errorf("what is set then makes no sense: %v", err)
	}
}

// FuzzCalls looks for calls that break something; each input is a chain of them.
func FuzzCalls(f *testing.F) {
	f.Add(uint64(1), uint64(1))
	f.Fuzz(func(t *testing.T, a, b uint64) {
		p := newProber(t)
		for i := range uint64(20) {
			p.probe(t, a, b+i)
		}
	})
}

// FuzzBytes: bytes that are no message, or half of one, are refused and change nothing.
func FuzzBytes(f *testing.F) {
	p := newProber(f)
	good, err := proto.Marshal(&api.AddTargetRequest{Target: newDisk()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(0), good)
	f.Add(uint8(3), []byte{0x0a, 0xff})
	f.Fuzz(func(t *testing.T, n uint8, b []byte) {
		before := p.m.Document()
		method := p.methods[int(n)%len(p.methods)]
		ctx, cancel := context.WithTimeout(context.Background(), testTime)
		defer cancel()
		err := invoke(ctx, p.conn, method, b, &api.ListPortalsResponse{}, grpc.ForceCodec(rawCodec{}))
		if code := status.Code(err); code == codes.Unknown || code == codes.Unavailable {
			t.Fatalf("%s: %v", method.FullName(), err)
		}
		if err != nil && method.FullName() != "lunar.v1.ConfigService.ApplyDocument" {
			unchanged(t, p.m, before)
		}
	})
}

// rawCodec sends bytes as they are, and reads nothing.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) {
	b, _ := v.([]byte)
	return b, nil
}
func (rawCodec) Unmarshal([]byte, any) error { return nil }
func (rawCodec) Name() string                { return "proto" }
