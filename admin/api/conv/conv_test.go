package conv_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/api/conv"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/target"
)

// fill sets every field of v to something that is not its zero value, different from place to place.
func fill(v reflect.Value, r *rand.Rand) {
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(1_700_000_000+r.Int64N(1e6), r.Int64N(1e9)).UTC()))
		return
	case netip.AddrPort:
		v.Set(reflect.ValueOf(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + r.IntN(200))}), uint16(1+r.IntN(60000)))))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), r)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), r)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 3 {
			k, x := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(k, r)
			fill(x, r)
			v.SetMapIndex(k, x)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), r)
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d", r.IntN(1e6)))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1 + r.Int64N(16383))
	case reflect.Uint8:
		v.SetUint(1 + r.Uint64N(2))
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1 + r.Uint64N(16383))
	default:
		panic(v.Kind().String())
	}
}

// unset lists the fields of m that have their default, by path; those of except are none of a test's concern.
func unset(path string, m protoreflect.Message, except map[string]bool) (out []string) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name := path + "." + string(f.Name())
		switch {
		case except[string(f.FullName())]:
		case !m.Has(f):
			out = append(out, name)
		case f.IsList() && f.Message() != nil:
			for k := range m.Get(f).List().Len() {
				out = append(out, unset(fmt.Sprintf("%s[%d]", name, k), m.Get(f).List().Get(k).Message(), except)...)
			}
		case f.Message() != nil && !f.IsMap():
			out = append(out, unset(name, m.Get(f).Message(), except)...)
		}
	}
	return out
}

// TestDocumentRoundTrip: every field of a document is carried to its message and back; the secrets are not.
func TestDocumentRoundTrip(t *testing.T) {
	var d spec.Document
	fill(reflect.ValueOf(&d).Elem(), rand.New(rand.NewPCG(1, 2)))
	m := conv.FromDocument(&d)
	if u := unset("document", m.ProtoReflect(), map[string]bool{"lunar.v1.Account.secret": true}); len(u) > 0 {
		t.Errorf("not carried to the message: %v", u)
	}
	if b, err := proto.Marshal(m); err != nil || strings.Contains(string(b), d.Accounts[0].Secret) {
		t.Errorf("a secret is in the message, or it cannot be written: %v", err)
	}
	back, err := conv.ToDocument(m)
	if err != nil {
		t.Fatal(err)
	}
	for i := range d.Accounts {
		d.Accounts[i].Secret = ""
	}
	if !reflect.DeepEqual(back, d) {
		t.Errorf("carried there and back:\n%+v\nwant\n%+v", back, d)
	}
	if a := (spec.Account{Name: "a", Secret: "s"}); conv.FromAccountWithSecret(a).GetSecret() != "s" {
		t.Error("FromAccountWithSecret has no secret")
	}
}

// TestLiveIsComplete: every field of what is live is in the messages.
func TestLiveIsComplete(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var s admin.TargetState
	fill(reflect.ValueOf(&s).Elem(), r)
	s.Live.LUNs[0].Controller = true
	zero := map[string]bool{"lunar.v1.Account.secret": true, "lunar.v1.Histogram.Bucket.le_ns": true, "google.protobuf.Duration.seconds": true}
	if u := unset("state", conv.FromTargetState(&s, true).ProtoReflect(), zero); len(u) > 0 {
		t.Errorf("not carried: %v", u)
	}
	if conv.FromTargetState(&s, false).GetLive() != nil {
		t.Error("live where it was not asked for")
	}
	if u := unset("session", conv.FromSessionInfo(&s, &s.Live.Sessions[0]).ProtoReflect(), nil); len(u) > 0 {
		t.Errorf("not carried: %v", u)
	}
	var st target.Stats
	fill(reflect.ValueOf(&st).Elem(), r)
	if u := unset("stats", conv.FromStats(&st).ProtoReflect(), nil); len(u) > 0 {
		t.Errorf("not carried: %v", u)
	}
	h := conv.FromLUNInfo(&s.Live.LUNs[0]).GetReadLatency()
	if n := len(h.GetBuckets()); n != target.HistogramBuckets || h.GetBuckets()[0].GetLeNs() != uint64(target.HistogramBound(0)) || h.GetBuckets()[n-1].GetLeNs() != 0 {
		t.Errorf("%d buckets: %v", n, h)
	}
	if n := len(conv.FromStats(&st).GetCommands().GetOthers()) + 4; n != reflect.TypeOf(st.Commands).NumField() {
		t.Errorf("%d of the %d counters are carried", n, reflect.TypeOf(st.Commands).NumField())
	}
}

// TestEventsAndSteps: every kind has a number, and goes there and back.
func TestEventsAndSteps(t *testing.T) {
	all := []admin.EventKind{admin.TargetAdded, admin.TargetChanged, admin.TargetRemoved, admin.LUNAdded, admin.LUNChanged, admin.LUNRemoved, admin.LUNResized, admin.AccountAdded,
		admin.AccountChanged, admin.AccountRemoved, admin.PortalAdded, admin.PortalRemoved, admin.SystemChanged, admin.SessionLogin, admin.SessionLogout, admin.LoginFailed, admin.EventsLost,
		admin.VolumeCreated, admin.VolumeResized, admin.VolumeDeleted, admin.VolumeRestored, admin.VolumePurged, admin.VolumeRolledBack, admin.VolumeCloned, admin.VolumeFlattened, admin.SnapshotCreated, admin.SnapshotDeleted}
	seen := map[api.EventKind]bool{}
	for _, k := range all {
		n := conv.FromKind(k)
		if want := "EVENT_KIND_" + strings.ToUpper(string(k)); n.String() != want || conv.ToKind(n) != k || seen[n] {
			t.Errorf("%s is %v, want %s; back %s", k, n, want, conv.ToKind(n))
		}
		seen[n] = true
	}
	if len(seen) != len(api.EventKind_name)-1 {
		t.Errorf("%d of %d kinds", len(seen), len(api.EventKind_name)-1)
	}
	if conv.ToKind(0) != "" || conv.ToKind(999) != "" || conv.FromKind("new") != 0 {
		t.Error("what is no kind is one")
	}
	e := conv.FromEvent(&admin.Event{Kind: admin.TargetAdded, Target: "iqn.x\xff", LUN: -1})
	if e.Lun != nil || !utf8.ValidString(e.GetTarget()) {
		t.Errorf("event %v", e)
	}
	if e := conv.FromEvent(&admin.Event{LUN: 0}); e.Lun == nil {
		t.Error("LUN 0 is not told")
	}
	got := conv.FromSteps([]admin.Step{{Verb: "add"}, {Verb: "change", Done: true}, {Verb: "remove"}})
	if got[0].GetVerb() != api.Verb_VERB_ADD || got[1].GetVerb() != api.Verb_VERB_CHANGE || !got[1].GetDone() || got[2].GetVerb() != api.Verb_VERB_REMOVE {
		t.Errorf("steps %v", got)
	}
}

// TestNoUTF8: text that a message cannot hold is mended, not a reason to fail.
func TestNoUTF8(t *testing.T) {
	d := spec.Document{Targets: []spec.Target{{Name: "iqn.\xff", Alias: "\xc3", Params: map[string]string{"\xfe": "\xfd"}, LUNs: []spec.LUN{{Volume: "file:///\xa0"}}}}}
	if _, err := proto.Marshal(conv.FromDocument(&d)); err != nil {
		t.Error(err)
	}
}

// TestRefused: what does not fit is refused by the name of its field.
func TestRefused(t *testing.T) {
	target := func(m *api.Target) func() error {
		return func() error { _, err := conv.ToTarget(m); return err }
	}
	lun := func(m *api.Lun) func() error {
		return func() error { _, err := conv.ToLUN(m); return err }
	}
	ref := func(m *api.TargetRef) func() error {
		return func() error { _, err := conv.ToRef(m); return err }
	}
	for want, f := range map[string]func() error{
		"target: not given":                     target(nil),
		"target.tid: -1 is negative":            target(&api.Target{Tid: -1}),
		"target.name":                           target(&api.Target{Name: "a\nb"}),
		"target.luns[1].number: 16384":          target(&api.Target{Luns: []*api.Lun{{}, {Number: 16384}}}),
		"target.portal_groups[0]: 65536":        target(&api.Target{PortalGroups: []uint32{65536}}),
		"target.redirect.port: 65536":           target(&api.Target{Redirect: &api.Redirect{Port: 65536}}),
		"target.lun_maps[0].luns[0].as: 16384":  target(&api.Target{LunMaps: []*api.LunMap{{Luns: []*api.MappedLun{{As: 16384}}}}}),
		"target.access[0].address":              target(&api.Target{Access: []*api.Rule{{Address: "\x00"}}}),
		"target.nop_interval: -5 is negative":   target(&api.Target{NopInterval: -5}),
		"lun: not given":                        lun(nil),
		"lun.block_size: -512 is negative":      lun(&api.Lun{BlockSize: -512}),
		"lun.mode_pages[0]":                     lun(&api.Lun{ModePages: []string{"\t"}}),
		"target: not given; name the target by": ref(nil),
		"target: the name is empty":             ref(&api.TargetRef{Target: &api.TargetRef_Name{}}),
		"target: tid 0 is below 1":              ref(&api.TargetRef{Target: &api.TargetRef_Tid{}}),
		"rule: it names neither":                func() error { _, err := conv.ToRule(&api.Rule{ReadOnly: true}); return err },
		"portal: not given":                     func() error { _, err := conv.ToPortal(nil); return err },
		"portal.group: 65536 is not within":     func() error { _, err := conv.ToPortal(&api.Portal{Group: 65536}); return err },
		"account.name: it is empty":             func() error { _, err := conv.ToAccount(&api.Account{}); return err },
		"system.isns.port: -1 is not":           func() error { _, err := conv.ToSystem(&api.System{Isns: &api.Isns{Port: -1}}); return err },
		"lun: 99999 is not within 0-16383":      func() error { _, err := conv.ToLUNNumber("lun", 99999); return err },
		"targets[1].luns[0].physical_block: -1 i": func() error {
			_, err := conv.ToDocument(&api.Document{Targets: []*api.Target{{}, {Luns: []*api.Lun{{PhysicalBlock: -1}}}}})
			return err
		},
	} {
		err := f()
		if err == nil || !strings.HasPrefix(err.Error(), want) || admin.CodeOf(err) != admin.Invalid {
			t.Errorf("%v (code %d), want %s…", err, admin.CodeOf(err), want)
		}
	}
}
